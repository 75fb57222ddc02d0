// Package journal sees to it that messages are on disk before anybody sees them and before their senders
// are told that they have arrived. The router, federation and the features that keep messages (archive,
// offline messages) put together what is to be kept of one message in an Entry; it is written in one
// transaction, and whatever was enqueued of the message meanwhile leaves when that is done. So a crash
// never shows a recipient what its sender must send again, and never loses what a sender need not.
//
// Start with Journal.Open and Entry.
package journal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"sync/atomic"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// A Journal writes entries and numbers what is archived.
type Journal struct {
	store  storage.Store
	now    func() time.Time
	last   atomic.Uint64 // id given to an archived message
	names  cipher.Block  // makes stanza-ids of ids
	failed func(stanza.Stanza, error)

	// moved are changes of numbers of which entries on their way do not know, by peer. It belongs to the
	// goroutine that commits.
	moved map[uint64][]storage.Renumbered
}

// secret is the name under which the key of stanza-ids is kept.
const secret = "stanza-id"

// New makes the journal of a store. It goes on with the numbers that the archives have.
func New(store storage.Store, now func() time.Time) (*Journal, error) {
	j := &Journal{store: store, now: now, moved: make(map[uint64][]storage.Renumbered)}
	var key []byte
	err := store.View(func(tx storage.Tx) error {
		last, err := tx.Archive().LastID()
		if err != nil {
			return err
		}
		j.last.Store(last)
		key, err = tx.Secrets().Get(secret)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		key = make([]byte, 16)
		rand.Read(key)
		ticket := store.Submit(func(tx storage.Tx) error { return tx.Secrets().Put(secret, key) })
		<-ticket.Done()
		err = ticket.Err()
	}
	if err == nil {
		j.names, err = aes.NewCipher(key)
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return j, nil
}

// Start says who tells the sender of a message that it could not be kept. failed must not wait.
func (j *Journal) Start(failed func(stanza.Stanza, error)) { j.failed = failed }

// Open begins the entry of a message, or finds the one that it has, and returns the message with it; what
// is added to the message later is not kept.
// Until the entry is written the message is not acknowledged to its sender. Who opens an entry of a
// message that is not on its way through Route must Submit it.
func (j *Journal) Open(st stanza.Stanza) (stanza.Stanza, *Entry) {
	if e := Of(st); e != nil {
		return st, e
	}
	e := &Entry{journal: j, at: j.now(), gate: new(stream.Gate), body: st.Element.String()}
	st.Hold()
	return st.WithCourse(e), e
}

// Last is the newest id that was given to an archived message.
func (j *Journal) Last() uint64 { return j.last.Load() }

// Of returns the entry of a message, nil if nothing of it is to be kept.
func Of(st stanza.Stanza) *Entry {
	e, _ := st.Course().(*Entry)
	return e
}

// Close writes the entry of a message that has gone all its way, if nobody who delivered it has.
func (j *Journal) Close(st stanza.Stanza) {
	if e := Of(st); e != nil {
		e.Submit(st, j.store.Submit)
	}
}

// Barrier returns when everything that was submitted before is on disk, or is known not to be. The error
// is that of a store that has failed.
func (j *Journal) Barrier() error {
	t := j.store.Submit(nil)
	<-t.Done()
	if err := t.Err(); !errors.Is(err, storage.ErrNoSpace) {
		return err
	}
	return nil
}

// An Entry is what is to be kept of one message that is on its way. It belongs to whoever has the
// message; nothing is added to it after Submit. Of a nil *Entry, Gate and Wait are allowed.
type Entry struct {
	journal   *Journal
	at        time.Time
	body      string
	message   storage.Message
	otherwise func(error)
	again     bool
	lost      storage.Waiting
	gate      *stream.Gate
	submitted bool
}

// At is when the message was accepted.
func (e *Entry) At() time.Time { return e.at }

// Gate is what holds the message back until the entry is on disk.
func (e *Entry) Gate() *stream.Gate {
	if e == nil {
		return nil
	}
	return e.gate
}

// Archive puts the message into an account's archive and returns its id there. It must be called under
// the lock of the account.
func (e *Entry) Archive(owner, with jid.JID) (id uint64) {
	id = e.journal.last.Add(1)
	e.message.Archived = append(e.message.Archived, storage.Archived{Owner: owner.Bare(), ID: id, With: with})
	return id
}

// Archived says whether the message enters an account's archive, or is there already.
func (e *Entry) Archived(owner jid.JID) (id uint64, ok bool) {
	for _, a := range e.message.Archived {
		if a.Owner == owner.Bare() {
			return a.ID, true
		}
	}
	if r := e.message.Earlier; r.ID != 0 && r.Owner == owner.Bare() {
		return r.ID, true
	}
	return 0, false
}

// Earlier says that the message is in an archive already, if it was not purged meanwhile.
func (e *Entry) Earlier(owner jid.JID, id uint64) {
	e.message.Earlier = storage.Reference{Owner: owner.Bare(), ID: id}
}

// Wait notes that a peer was sent the message, in a form, as its stanza of that number; 0 for either: it
// does not matter. Copies is how many sessions of an account are sent it at once.
func (e *Entry) Wait(peer, number uint64, form storage.Form, copies int) {
	if e != nil && peer != 0 && number != 0 {
		e.message.Waiting = append(e.message.Waiting,
			storage.Waiting{Peer: peer, Number: number, Form: form, Copies: uint8(min(copies, 255))})
	}
}

// Offline lets the message wait for an account, of which at most max do (0: no limit), unless it is there Again. It was
// accepted now: it must be called under the lock of the account, so that the time tells who was ready for it.
func (e *Entry) Offline(owner jid.JID, max int) {
	if e.again {
		max = 0 // its sender was told that it is kept
	}
	e.at = e.journal.now()
	e.message.Offline, e.message.OfflineMax = owner.Bare(), max
}

// Taken says that the message has waited for an account, as offline message of that number, and does so no more.
func (e *Entry) Taken(owner jid.JID, number uint64) {
	e.message.Taken = storage.Taken{Owner: owner.Bare(), Number: number}
}

// Lost says that the message was sent to a peer that is about to be forgotten, as its stanza of that number:
// it waits for that one no more, nor does anything before it.
func (e *Entry) Lost(peer, number uint64) {
	e.again, e.lost = true, storage.Waiting{Peer: peer, Number: number}
}

// Again says whether the message was accepted before, and is sent on because it was Lost.
func (e *Entry) Again() bool { return e.again }

// Otherwise says what to do if the entry cannot be written, in place of telling the sender: he knows that the message is
// kept, and so it is. do must not wait.
func (e *Entry) Otherwise(do func(error)) { e.otherwise = do }

// Submit writes the entry of st, once; a second call does nothing. submit queues a write: that of the
// store, or of a user who is to stay in memory until then. What waits for the gate leaves after it.
func (e *Entry) Submit(st stanza.Stanza, submit func(func(storage.Tx) error) *storage.Ticket) {
	if e.submitted {
		return
	}
	e.submitted = true
	m := &e.message
	m.At, m.Stanza = e.at, e.body
	if len(m.Archived) == 0 && len(m.Waiting) == 0 && m.Offline.IsZero() && m.Taken.Number == 0 {
		e.gate.Open()
		st.Release()
		return
	}
	if peer, number, ok := st.Counted(); ok {
		m.Counted = storage.Counted{Peer: peer, Count: number}
	}
	submit(e.write).Then(func(err error) {
		switch {
		case err == nil:
			st.Kept()
			e.gate.Open()
		case e.otherwise != nil:
			e.gate.Fail()
			e.otherwise(err)
		default:
			e.gate.Fail()
			e.journal.failed(st, err)
		}
		st.Release()
	})
}

func (e *Entry) write(tx storage.Tx) error {
	e.journal.renumber(e.message.Waiting)
	if err := tx.Messages().Add(e.message); err != nil || e.lost.Peer == 0 {
		return err
	}
	return tx.Peers().Acknowledged(e.lost.Peer, e.lost.Number)
}

// Renumbered says that a peer's stanzas have other numbers, so that entries that are not written yet are
// written with these; nil: there is nothing more of the peer. It is called in the transaction that
// renumbers what is written.
func (j *Journal) Renumbered(peer uint64, unwritten []storage.Renumbered) {
	if len(unwritten) == 0 {
		delete(j.moved, peer)
	} else {
		j.moved[peer] = unwritten
	}
}

func (j *Journal) renumber(waiting []storage.Waiting) {
	if len(j.moved) == 0 {
		return
	}
	for i := range waiting {
		w := &waiting[i]
		for _, c := range j.moved[w.Peer] {
			if c.Old == w.Number {
				w.Number = c.New
				break
			}
		}
	}
}

// StanzaID is the form of an id in which an account and its contacts see it (XEP-0359): it tells nothing,
// not even how much others write, and cannot be guessed.
func (j *Journal) StanzaID(owner jid.JID, id uint64) string {
	var block [aes.BlockSize]byte
	binary.BigEndian.PutUint64(block[:], id)
	binary.BigEndian.PutUint64(block[8:], sumOf(owner))
	j.names.Encrypt(block[:], block[:])
	return base64.RawURLEncoding.EncodeToString(block[:])
}

// ID reads a StanzaID of an account; it is not ok for what none can be.
func (j *Journal) ID(owner jid.JID, text string) (id uint64, ok bool) {
	var block [aes.BlockSize]byte
	if len(text) != base64.RawURLEncoding.EncodedLen(len(block)) {
		return 0, false // or none at all
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(block[:], []byte(text)); err != nil || n != len(block) { // line feeds are skipped
		return 0, false
	}
	j.names.Decrypt(block[:], block[:])
	id = binary.BigEndian.Uint64(block[:])
	return id, id != 0 && binary.BigEndian.Uint64(block[8:]) == sumOf(owner)
}

func sumOf(owner jid.JID) uint64 {
	h := fnv.New64a()
	h.Write([]byte(owner.Bare().String()))
	return h.Sum64()
}
