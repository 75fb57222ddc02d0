package federation

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
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

// keep puts an outbound into the store, once.
func (b *outbound) keep() {
	if b.peer == 0 {
		b.peer = newPeerID()
		record := b.record()
		b.f.submit("session with another server could not be kept", b.Pair,
			func(tx storage.Tx) error { return tx.Peers().Put(record) })
	}
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
	if b.peer == 0 {
		return
	}
	peer := b.peer
	b.peer = 0
	b.f.submit("session with another server could not be removed", b.Pair,
		func(tx storage.Tx) error { return tx.Peers().Delete(peer) })
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
	gate, record, former := new(stream.Gate), b.record(), old.peer
	b.f.submit("session with another server could not be kept", b.Pair, func(tx storage.Tx) error {
		if err := tx.Peers().Put(record); err != nil {
			return err
		}
		for _, m := range messages {
			if err := tx.Messages().Add(m); err != nil {
				return err
			}
		}
		return tx.Peers().Delete(former)
	}).Then(func(error) { gate.Open() }) // rather twice than never
	return gate
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
	b.ledger.Persist(b.peer, func(count uint32, done func(bool)) {
		counted := storage.Counted{Peer: b.peer, Count: count}
		f.Store.Submit(func(tx storage.Tx) error { return tx.Peers().Count(counted) }).
			Then(func(err error) { done(err == nil) })
	})
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
			err = f.restoreInbound(p)
		case storage.OutgoingPeer:
			err = f.restoreOutbound(p, waiting[p.ID])
		}
		if err != nil {
			f.Log.Warn("a session with another server is lost", "err", err)
			f.submit("session with another server could not be removed", Pair{},
				func(tx storage.Tx) error { return tx.Peers().Delete(p.ID) })
		}
	}
	return nil
}

func (f *Federation) restoreInbound(p storage.Peer) error {
	var r inboundRecord
	if err := json.Unmarshal(p.State, &r); err != nil {
		return err
	}
	if len(r.Key) != len(key{}) {
		return fmt.Errorf("the key has %d bytes", len(r.Key))
	}
	b := &inbound{Pair: r.Pair, id: key(r.Key), peer: p.ID, since: f.Now(),
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
	parcels := make([]stream.Parcel, 0, len(waiting))
	for _, m := range waiting {
		e, err := element.ParseOne(m.Stanza, ns.Client)
		if err != nil {
			f.Log.Error("message cannot be read", "local", r.Local, "peer", r.Remote, "err", err)
			continue
		}
		st, err := stanza.Parse(e)
		if err != nil {
			f.Log.Error("message cannot be read", "local", r.Local, "peer", r.Remote, "err", err)
			continue
		}
		parcels = append(parcels, stream.Parcel{Element: e, Sent: m.At, Number: m.Number, Note: letter{st, m.Number, true}})
	}
	b := &outbound{f: f, Pair: way.Pair, acks: r.Previd != "", id: r.Previd, grace: r.Grace, peer: p.ID, lost: f.Now(),
		ledger: stream.Restore(unlimited, f.Now, r.Acked, parcels, 0)}
	if len(parcels) == 0 {
		b.forget() // there is nothing to go on with
		return nil
	}
	b.posted = parcels[len(parcels)-1].Number
	b.last, way.sent = b.posted, b
	return nil
}

// wake sends what has waited since before a restart.
func (f *Federation) wake() {
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
