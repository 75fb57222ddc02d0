package federation

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// What makes the sessions between two servers outlive both: of what we send, the messages that the peer
// has not acknowledged, and what is needed to resume; of what we get, whom the session belongs to, and
// the count, which is written before the peer is told of it.

// An outboundRecord is an outbound as it is kept.
type outboundRecord struct {
	Pair
	Previd string        `json:",omitempty"`
	Grace  time.Duration `json:",omitempty"`
	Acked  uint64        `json:",omitempty"`
}

// An inboundRecord is an inbound as it is kept.
type inboundRecord struct {
	Pair
	Key []byte
}

// newPeerID chooses the number of a peer of the store.
func newPeerID() uint64 { return rand.Uint64() | 1 }

// submit writes what is to wait for the outbound. That itself goes with it as long as the store is not known to
// have it, for what waits for a peer that the store does not have is not kept.
func (b *outbound) submit(write func(storage.Tx) error) *storage.Ticket {
	if b.known.Load() {
		return b.f.Store.Submit(write)
	}
	record := b.record()
	ticket := b.f.Store.Submit(func(tx storage.Tx) error {
		if err := tx.Peers().Put(record); err != nil {
			return err
		}
		return write(tx)
	})
	ticket.Then(func(err error) {
		if err == nil {
			b.known.Store(true)
		}
	})
	return ticket
}

func (b *outbound) record() storage.Peer {
	r := outboundRecord{Pair: b.Pair, Previd: b.id, Grace: b.grace, Acked: b.ledger.Acked()}
	return storage.Peer{ID: b.peer, Kind: storage.OutgoingPeer, State: marshal(r)}
}

func marshal(record any) []byte {
	state, err := json.Marshal(record)
	if err != nil {
		panic(err) // it consists of strings and numbers
	}
	return state
}

// release tells the store what has arrived. That need not be there soon: of what a peer has got it says so
// itself, and of what was only written nobody ever knows.
func (b *outbound) release() {
	b.moveAgain()
	if b.peer == 0 || b.through <= b.stored {
		return
	}
	b.stored = b.through
	peer, through := b.peer, b.through
	b.f.submit("what another server got could not be removed", b.Pair,
		func(tx storage.Tx) error { return tx.Peers().Acknowledged(peer, through) })
}

// forget removes an outbound from the store with all that waits.
func (b *outbound) forget() {
	places := b.places()
	if len(places) == 0 {
		return
	}
	b.peer, b.move = 0, nil
	b.f.submit("session with another server could not be removed", b.Pair,
		func(tx storage.Tx) error { return remove(tx, places) })
}

// places are the peers of the store that have what waits.
func (b *outbound) places() (list []uint64) {
	if b.peer != 0 {
		list = append(list, b.peer)
	}
	if b.move != nil && b.move.state.Load() != moveDone {
		list = append(list, b.move.former...)
	}
	return list
}

func remove(tx storage.Tx, peers []uint64) error {
	for _, peer := range peers {
		if err := tx.Peers().Delete(peer); err != nil {
			return err
		}
	}
	return nil
}

// renumbered brings the numbers of what is sent again after a restart to disk. The gate opens then.
func (b *outbound) renumbered(changed []storage.Renumbered) *stream.Gate {
	if len(changed) == 0 || b.peer == 0 {
		return nil
	}
	gate, peer, through := new(stream.Gate), b.peer, b.through
	b.f.submit("session with another server could not be resumed in the store", b.Pair, func(tx storage.Tx) error {
		if err := tx.Peers().Acknowledged(peer, through); err != nil {
			return err
		}
		return tx.Peers().Renumber(peer, changed)
	}).Then(func(error) { gate.Open() }) // rather twice than never
	return gate
}

// A move is what an outbound takes over from an earlier one in the store.
type move struct {
	former   []uint64
	messages []storage.Message
	state    atomic.Uint32
}

const (
	moveBegun uint32 = iota
	moveDone
	moveFailed
)

// moved puts what waited in an old outbound, and is to be sent in this one, into the store in its place. The
// gate opens then.
func (b *outbound) moved(old *outbound, parcels []stream.Parcel) *stream.Gate {
	var messages []storage.Message
	for i, p := range parcels {
		if !p.Note.(letter).kept {
			continue
		}
		if b.peer == 0 {
			b.peer = newPeerID()
		}
		messages = append(messages, storage.Message{At: p.Sent, Stanza: p.Element.String(),
			Waiting: []storage.Waiting{{Peer: b.peer, Number: uint64(i) + 1, Copies: 1}}})
	}
	if len(messages) == 0 {
		old.forget()
		return nil
	}
	gate := new(stream.Gate)
	b.move = &move{former: old.places(), messages: messages}
	b.submitMove().Then(func(err error) {
		if err != nil {
			b.f.Log.Error("session with another server could not be kept", "local", b.Local, "peer", b.Remote, "err", err)
		}
		gate.Open() // rather twice than never
	})
	return gate
}

func (b *outbound) submitMove() *storage.Ticket {
	m := b.move
	messages := m.messages
	ticket := b.submit(func(tx storage.Tx) error {
		for _, message := range messages {
			if err := tx.Messages().Add(message); err != nil {
				return err
			}
		}
		return remove(tx, m.former)
	})
	ticket.Then(func(err error) {
		if err == nil {
			m.state.Store(moveDone)
		} else {
			m.state.Store(moveFailed)
		}
	})
	return ticket
}

// moveAgain moves what the store had no room for, unless it has arrived meanwhile.
func (b *outbound) moveAgain() {
	if b.move == nil {
		return
	}
	switch m := b.move; m.state.Load() {
	case moveDone:
		b.move = nil
	case moveFailed:
		for len(m.messages) > 0 && m.messages[0].Waiting[0].Number <= b.through {
			m.messages = m.messages[1:]
		}
		m.state.Store(moveBegun)
		b.submitMove()
	}
}

// renumber brings the numbers to disk that are others because something before could not be kept.
func (b *outbound) renumber(changed []storage.Renumbered) {
	if b.peer == 0 {
		return
	}
	peer := b.peer
	b.f.submit("session with another server could not be renumbered in the store", b.Pair,
		func(tx storage.Tx) error { return tx.Peers().Renumber(peer, changed) })
}

// keep puts an inbound into the store: then the peer is told of nothing that is not there.
func (b *inbound) keep(f *Federation) {
	b.peer = newPeerID()
	record := storage.Peer{ID: b.peer, Kind: storage.IncomingPeer, State: marshal(inboundRecord{b.Pair, b.id[:]})}
	f.submit("session of another server could not be kept", b.Pair,
		func(tx storage.Tx) error { return tx.Peers().Put(record) })
	b.persist(f)
}

func (b *inbound) persist(f *Federation) {
	b.ledger.Persist(b.peer, func(count uint32, done func(bool)) { f.keepCount(b.peer, count, done) })
}

func (f *Federation) keepCount(peer uint64, count uint32, done func(bool)) {
	counted := storage.Counted{Peer: peer, Count: count}
	f.Store.Submit(func(tx storage.Tx) error { return tx.Peers().Count(counted) }).
		Then(func(err error) { done(err == nil) })
}

// keepCounts brings the counts of what is handled to disk though no peer has asked for them: what is not in them the
// peers send again after a restart.
func (f *Federation) keepCounts() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.inbound {
		handled, _ := b.ledger.Handled()
		f.keepCount(b.peer, handled, func(bool) {})
	}
}

// erase removes an inbound from the store.
func (f *Federation) erase(b *inbound) {
	if b.peer != 0 {
		f.submit("session of another server could not be removed", b.Pair,
			func(tx storage.Tx) error { return tx.Peers().Delete(b.peer) })
	}
}

// submit writes, and logs a failure.
func (f *Federation) submit(failure string, p Pair, write func(storage.Tx) error) *storage.Ticket {
	ticket := f.Store.Submit(write)
	ticket.Then(func(err error) {
		if err != nil {
			f.Log.Error(failure, "local", p.Local, "peer", p.Remote, "err", err)
		}
	})
	return ticket
}

// restore finds the sessions that there were when the server ended.
func (f *Federation) restore() error {
	var peers []storage.Peer
	waiting := make(map[uint64][]storage.Unacknowledged)
	err := f.Store.View(func(tx storage.Tx) (err error) {
		if peers, err = tx.Peers().All(); err != nil {
			return err
		}
		for _, p := range peers {
			if p.Kind == storage.OutgoingPeer {
				if waiting[p.ID], err = tx.Peers().Waiting(p.ID); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	for _, p := range peers {
		var err error
		switch p.Kind {
		case storage.IncomingPeer:
			if err = f.restoreInbound(p); err != nil {
				f.submit("session of another server could not be removed", Pair{},
					func(tx storage.Tx) error { return tx.Peers().Delete(p.ID) })
			}
		case storage.OutgoingPeer:
			if err = f.restoreOutbound(p, waiting[p.ID]); err != nil {
				f.orphans = append(f.orphans, orphan{p.ID, f.parcels(waiting[p.ID])})
			}
		}
		if err != nil {
			f.Log.Warn("a session with another server is lost", "err", err)
		}
	}
	return nil
}

// An orphan is what waits in an outbound that cannot go on after a restart.
type orphan struct {
	peer    uint64
	parcels []stream.Parcel
}

// disown returns it to those senders who are still of this server, and then forgets it.
func (f *Federation) disown(o orphan) {
	for _, p := range o.parcels {
		if st := p.Note.(letter).Stanza; f.isLocal(st.From.Domain()) {
			f.bounce(publicReason(errLost), st)
		}
	}
	f.submit("session with another server could not be removed", Pair{},
		func(tx storage.Tx) error { return tx.Peers().Delete(o.peer) })
}

func (f *Federation) restoreInbound(p storage.Peer) error {
	var r inboundRecord
	if err := json.Unmarshal(p.State, &r); err != nil {
		return err
	}
	if len(r.Key) != len(key{}) {
		return fmt.Errorf("the key has %d bytes", len(r.Key))
	}
	b := &inbound{Pair: r.Pair, id: key(r.Key), owner: registered(r.Remote), peer: p.ID, since: f.Now(),
		ledger: stream.Restore(unlimited, f.Now, 0, nil, p.Count)}
	_, _, _ = b.ledger.Acknowledged(0) // nothing is sent this way
	b.persist(f)
	f.inbound[b.id] = b
	return nil
}

// restoreOutbound makes what waited for another server wait again, and be sent when Run begins. All of it
// may have been sent before.
func (f *Federation) restoreOutbound(p storage.Peer, waiting []storage.Unacknowledged) error {
	var r outboundRecord
	if err := json.Unmarshal(p.State, &r); err != nil {
		return err
	}
	way := f.pairOf(r.Pair)
	switch {
	case !f.isLocal(r.Local):
		return fmt.Errorf("%s is not served any more", r.Local)
	case way.sent != nil:
		return fmt.Errorf("there are two of %s and %s", r.Local, r.Remote)
	}
	parcels := f.parcels(waiting)
	b := &outbound{f: f, Pair: way.Pair, acks: r.Previd != "", id: r.Previd, grace: r.Grace, peer: p.ID, lost: f.Now(),
		ledger: stream.Restore(unlimited, f.Now, r.Acked, parcels, 0)}
	b.ledger.Renumbering(b.renumber)
	b.known.Store(true)
	if len(parcels) == 0 {
		b.forget() // there is nothing to go on with
		return nil
	}
	b.posted = parcels[len(parcels)-1].Number
	b.last, way.sent = b.posted, b
	return nil
}

// parcels are messages as they were sent to a server.
func (f *Federation) parcels(waiting []storage.Unacknowledged) []stream.Parcel {
	parcels := make([]stream.Parcel, 0, len(waiting))
	for _, m := range waiting {
		e, err := element.ParseOne(m.Stanza, ns.Client)
		if err != nil {
			f.Log.Error("message to another server cannot be read", "err", err)
			continue
		}
		st, err := stanza.Parse(e)
		if err != nil {
			f.Log.Error("message to another server cannot be read", "err", err)
			continue
		}
		parcels = append(parcels, stream.Parcel{Element: e, Sent: m.At, Number: m.Number, Note: letter{st, m.Number, true}})
	}
	return parcels
}

// wake sends what has waited since before a restart.
func (f *Federation) wake() {
	for _, o := range f.orphans {
		f.disown(o)
	}
	f.orphans = nil
	f.mu.Lock()
	pairs := f.pairs
	var waiting []*pair
	for _, p := range pairs {
		waiting = append(waiting, p)
	}
	f.mu.Unlock()
	for _, p := range waiting {
		p.wake()
	}
}

// release tells the store what has arrived.
func (f *Federation) release() {
	f.mu.Lock()
	pairs := make([]*pair, 0, len(f.pairs))
	for _, p := range f.pairs {
		pairs = append(pairs, p)
	}
	f.mu.Unlock()
	for _, p := range pairs {
		p.mu.Lock()
		if p.sent != nil {
			p.sent.release()
		}
		p.mu.Unlock()
	}
}
