package bolt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// A message is a row of messages: what was written, once, in order of the commits. Archives, the offline
// queue and the spool refer to it by its number. A short one that no archive has and only one row of the latter
// two needs is not there: it is in that row.
type message struct {
	at     time.Time
	places []place // the archives that it entered; some may have lost it since
	stanza string
}

// A place is a message's in an archive.
type place struct {
	archive uint64 // its number, in owners
	id      uint64
	with    string // a JID
}

func (m message) encode() []byte {
	e := newRow(48 + len(m.stanza) + 64*len(m.places))
	e.time(m.at)
	e.uint(uint64(len(m.places)))
	for _, p := range m.places {
		e.uint(p.archive)
		e.uint(p.id)
		e.string(p.with)
	}
	return append(e, m.stanza...)
}

// peekMessage reads a row without copying it: the strings end with the transaction.
func peekMessage(value []byte) (message, error) { return peekInto(value, nil) }

// peekInto is peekMessage with memory for the places.
func peekInto(value []byte, places []place) (m message, err error) {
	d := peekRow(value)
	m.at = d.time()
	n := d.count()
	m.places = slices.Grow(places[:0], n)[:n]
	for i := range m.places {
		p := &m.places[i]
		p.archive = d.uint()
		p.id = d.uint()
		p.with = d.string()
	}
	m.stanza = d.rest
	return m, d.err
}

func decodeMessage(value []byte) (message, error) {
	m, err := peekMessage(value)
	m.stanza = strings.Clone(m.stanza)
	for i := range m.places {
		m.places[i].with = strings.Clone(m.places[i].with)
	}
	return m, err
}

// message reads a row of messages.
func (t *txn) message(number uint64) (message, error) {
	k := key(number)
	value := t.get(inMessages, k)
	if value == nil {
		return message{}, damaged(inMessages, k, errDamaged)
	}
	m, err := decodeMessage(value)
	if err != nil {
		return m, damaged(inMessages, k, err)
	}
	return m, nil
}

type messages struct{ *txn }

func (m messages) Add(message storage.Message) error {
	if err := m.add(message); err != nil {
		return fmt.Errorf("add message: %w", err)
	}
	return nil
}

var errNoParty = errors.New("the message has no other party")

func (m messages) add(new storage.Message) error {
	if !m.writable {
		return storage.ErrReadOnly
	}
	var number uint64
	row := message{at: new.At, stanza: new.Stanza}
	earlier := new.Earlier.ID != 0
	if earlier {
		var found message
		var err error
		number, found, err = m.earlier(new.Earlier)
		switch {
		case err == nil:
			row = found
		case errors.Is(err, storage.ErrNotFound) && new.Stanza != "":
			earlier = false // it was purged meanwhile
		default:
			return fmt.Errorf("message %d of the archive of %s: %w", new.Earlier.ID, new.Earlier.Owner, err)
		}
	}
	if !earlier {
		row.places = make([]place, 0, len(new.Archived))
		for _, a := range new.Archived {
			if a.With.IsZero() {
				return fmt.Errorf("archive of %s: %w", a.Owner, errNoParty)
			}
			number, err := m.archiveFor(a.Owner)
			if err != nil {
				return err
			}
			row.places = append(row.places, place{number, a.ID, a.With.String()})
		}
	}
	archived := earlier || len(row.places) > 0

	if taken := new.Taken; taken.Number != 0 {
		if err := offline(m).deleteOne(ownerKey(taken.Owner), taken.Number); err != nil {
			return err
		}
	}
	waiting := make([]storage.Waiting, 0, 4)
	for _, w := range new.Waiting {
		if peers(m).kept(w.Peer) {
			waiting = append(waiting, w)
		}
	}
	holders := len(waiting)
	if !new.Offline.IsZero() {
		holders++
	}
	if holders == 0 && !archived {
		return peers(m).count(new.Counted)
	}

	h := holding{number, row.at, row.stanza}
	if !earlier && (archived || holders > 1 || len(row.stanza) > short) {
		// One taken by an operation that then fails is skipped.
		var err error
		if h.number, err = m.bucket(inMessages).NextSequence(); err != nil {
			return err
		}
	}
	if !new.Offline.IsZero() {
		if err := offline(m).add(ownerKey(new.Offline), h, new.OfflineMax); err != nil {
			return err
		}
	}
	// Most messages are acknowledged before they are moved. Until then an archive holds what it has.
	counted := earlier || !archived
	for _, w := range waiting {
		if err := peers(m).add(w, h, counted); err != nil {
			return err
		}
	}
	if !counted {
		holders -= len(waiting)
	}
	if !earlier && h.number != 0 {
		if err := m.txn.append(inMessages, key(h.number), row.encode()); err != nil {
			return err
		}
		m.added++
	}
	if err := m.hold(h.number, holders); err != nil {
		return err
	}
	return peers(m).count(new.Counted)
}

// A holding is what a row of offline or spool has of a message: its number in messages, or itself.
type holding struct {
	number uint64 // 0: itself
	at     time.Time
	stanza string
}

// short is the length of a stanza that can be in a row of offline or spool, in bytes. Longer ones would be
// written again with each change of the rows beside them.
const short = 1024

// earlier finds a message in an archive.
func (m messages) earlier(r storage.Reference) (number uint64, row message, err error) {
	archive, err := m.view(r.Owner)
	if err != nil {
		return 0, row, err
	}
	number, found, err := archive.find(r.ID)
	if err == nil && !found {
		err = storage.ErrNotFound
	}
	if err == nil {
		row, err = m.message(number)
	}
	return number, row, err
}

// hold changes by how many rows of offline and spool a message is referred to. The last takes the message
// with it, if no archive has it.
func (t *txn) hold(number uint64, by int) error {
	if number == 0 || by == 0 {
		return nil
	}
	k := key(number)
	holders := uint64(0)
	if value := t.get(inHeld, k); value != nil {
		var err error
		if holders, err = decodeNumber(value); err != nil {
			return damaged(inHeld, k, err)
		}
	}
	if by < 0 && holders < uint64(-by) {
		return damaged(inHeld, k, errDamaged)
	}
	if holders += uint64(by); holders > 0 {
		return t.put(inHeld, k, encodeNumber(holders))
	}
	if err := t.delete(inHeld, k); err != nil {
		return err
	}
	return t.release(number)
}

// release removes a message that nobody needs.
func (t *txn) release(number uint64) error {
	k := key(number)
	if t.get(inHeld, k) != nil {
		return nil
	}
	value := t.get(inMessages, k)
	if value == nil {
		return nil // it went with another archive that is nobody's
	}
	m, err := peekMessage(value)
	if err != nil {
		return damaged(inMessages, k, err)
	}
	if moved, err := t.mark(movedMark); err != nil || len(m.places) > 0 && number > moved {
		return err // move will look at it
	}
	for _, p := range m.places {
		if has, err := t.has(p, number); has || err != nil {
			return err
		}
	}
	return t.delete(inMessages, k)
}

// archiveOf is the number of an owner's archive, 0 if there is none.
func (t *txn) archiveOf(owner []byte) (uint64, error) {
	value := t.get(inArchives, owner)
	if value == nil {
		return 0, nil
	}
	number, err := decodeNumber(value)
	if err != nil {
		return 0, damaged(inArchives, owner, err)
	}
	return number, nil
}

// remembered bounds Store.archives.
const remembered = 1 << 14

// archiveFor is archiveOf for one that is about to have a message.
func (t *txn) archiveFor(owner jid.JID) (uint64, error) {
	owner = owner.Bare()
	if number, ok := t.archives[owner]; ok {
		return number, nil
	}
	k := ownerKey(owner)
	number, err := t.archiveOf(k)
	if err != nil {
		return 0, err
	}
	if number == 0 {
		// Never used again: what is left of a deleted account's archive is nobody else's.
		if number, err = t.bucket(inArchives).NextSequence(); err != nil {
			return 0, err
		}
		if err := t.put(inArchives, k, encodeNumber(number)); err != nil {
			return 0, err
		}
		if err := t.put(inOwners, key(number), encodeBlob(string(k))); err != nil {
			return 0, err
		}
	}
	if len(t.archives) >= remembered {
		clear(t.archives)
	}
	t.archives[owner.Clone()] = number
	return number, nil
}

// owner is whose archive that is; ok is false if the account was deleted.
func (t *txn) owner(archive uint64) (owner jid.JID, ok bool, err error) {
	k := key(archive)
	value := t.get(inOwners, k)
	if value == nil {
		return jid.JID{}, false, nil
	}
	blob, err := decodeBlob(value)
	if err == nil {
		owner, err = parseJID([]byte(blob))
	}
	if err != nil {
		return jid.JID{}, false, damaged(inOwners, k, err)
	}
	return owner, true, nil
}

func checkMessage(key, value []byte) error {
	if len(key) != 8 {
		return errDamaged
	}
	m, err := peekMessage(value)
	if err != nil {
		return err
	}
	for _, p := range m.places {
		if _, err := jid.Parse(p.with); err != nil {
			return err
		}
	}
	return nil
}

// checkNumbered checks a number that belongs to a number.
func checkNumbered(key, value []byte) error {
	if len(key) != 8 {
		return errDamaged
	}
	_, err := decodeNumber(value)
	return err
}

func checkArchive(key, value []byte) error {
	if _, err := parseJID(key); err != nil {
		return err
	}
	_, err := decodeNumber(value)
	return err
}

func checkOwner(key, value []byte) error {
	if len(key) != 8 {
		return errDamaged
	}
	owner, err := decodeBlob(value)
	if err == nil {
		_, err = parseJID([]byte(owner))
	}
	return err
}

func checkMark(_, value []byte) error {
	_, err := decodeNumber(value)
	return err
}
