package c2s

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// What makes a session outlive the server: a record of it, the count of what its client has sent and is
// handled, and the messages that the client has not acknowledged. Of these the first is written before the
// client is told of it and when it changes, the second before the client is told of it and the third before the
// client gets them. A session that cannot be resumed has a record, too, that says no more than whose the messages
// are: at the next start it ends, and they are sent on.

// A sessionRecord is a session as it is kept.
type sessionRecord struct {
	Key        []byte // of the secret that the client resumes with; zeros: it cannot
	Full       jid.JID
	Client     string        `json:",omitempty"`
	Since      time.Time     // bound
	Grace      time.Duration // how long it lives without a stream
	Acked      uint64        // by the client
	Presence   string        `json:",omitempty"`
	Ready      time.Time     `json:",omitzero"`
	Interested bool          `json:",omitempty"`
	Enabled    []string      `json:",omitempty"`
	Directed   []jid.JID     `json:",omitempty"`
}

// found makes a session whose client is about to acknowledge one that is found again after a restart.
func (o *outlet) found() {
	o.peer = rand.Uint64() | 1
	o.persist()
}

// recorded is Changed of a session that its client has not been told of yet. The gate opens when the record is on
// disk, so that the client is promised nothing that a crash breaks, or when there is no space for it: what the client
// is sent later waits for another try. It stays closed if the store has failed or was closed.
func (o *outlet) recorded() *stream.Gate {
	o.record()
	if o.id == (key{}) {
		return nil // its client is promised nothing
	}
	gate := new(stream.Gate)
	o.server.Store.Submit(nil).Then(func(err error) {
		if err == nil || errors.Is(err, storage.ErrNoSpace) {
			gate.Open()
		}
	})
	return gate
}

func (o *outlet) persist() {
	peer := o.peer
	if o.id != (key{}) {
		o.ledger.Persist(peer, o.keepCount)
	}
	o.ledger.Renumbering(func(changed []storage.Renumbered) {
		o.submit("renumbered", func(tx storage.Tx) error { return tx.Peers().Renumber(peer, changed) })
	})
}

func (o *outlet) keepCount(count uint32, done func(bool)) {
	counted := storage.Counted{Peer: o.peer, Count: count}
	o.server.Store.Submit(func(tx storage.Tx) error { return tx.Peers().Count(counted) }).
		Then(func(err error) { done(err == nil) })
}

// counted brings the count of what is handled to disk though the client has not asked for it: what is not in it the
// client sends again after a restart.
func (o *outlet) counted() {
	handled, _ := o.ledger.Handled()
	o.keepCount(handled, func(bool) {})
}

// Changed implements session.Keeper.
func (o *outlet) Changed() {
	if o.id != (key{}) {
		o.record()
	}
}

// record writes the session's record. That may be large, and a client changes it with every presence that
// it sends to somebody: so one write at most waits for the store, and takes what is newest when it runs.
func (o *outlet) record() {
	s := o.session
	if o.peer == 0 || s == nil || o.gone {
		return
	}
	r := sessionRecord{Key: o.id[:], Full: s.JID(), Since: s.Since(), Acked: o.ledger.Acked()}
	if o.id != (key{}) {
		r.Client, r.Grace = s.Client(), o.grace
		r.Presence, r.Ready, r.Interested, r.Enabled = s.Presence().Element.String(), s.Ready(), s.Interested(), s.AllEnabled()
		for entity := range *s.Directed() {
			r.Directed = append(r.Directed, entity)
		}
	}
	state, err := json.Marshal(r)
	if err != nil {
		o.server.Log.Error("session cannot be kept", "session", s.JID(), "err", err)
		return
	}
	if o.unkept.Swap(&state) != nil {
		return // a write that waits for its turn takes this one
	}
	peer := storage.Peer{ID: o.peer, Kind: storage.ClientPeer}
	began := false
	o.submit("kept", func(tx storage.Tx) error {
		began = true
		if newest := o.unkept.Swap(nil); newest != nil {
			peer.State = *newest
		}
		if peer.State == nil {
			return nil // an earlier write, which ran again, has it
		}
		peer.Count = o.ledger.Durable() // of a session that there was no space for before
		return tx.Peers().Put(peer)
	}).Then(func(err error) {
		if !began {
			o.unkept.Store(nil) // the store had no room, and the next change is to try again
		}
		if err != nil {
			o.stale.Store(true)
		} else if o.stale.Swap(false) {
			o.counted() // what was handled in the same commit
		}
	})
}

// Forget implements session.Keeper.
func (o *outlet) Forget() {
	if o.peer == 0 {
		return
	}
	o.gone = true
	peer := o.peer
	o.submit("forgotten", func(tx storage.Tx) error {
		o.server.Journal.Renumbered(peer, nil)
		return tx.Peers().Delete(peer)
	})
}

func (o *outlet) submit(what string, write func(storage.Tx) error) *storage.Ticket {
	ticket := o.server.Store.Submit(write)
	ticket.Then(func(err error) {
		if err != nil {
			o.server.Log.Error("session could not be "+what, "session", o.session.JID(), "err", err)
		}
	})
	return ticket
}

// Restore finds the sessions that there were when the server ended. Their clients have as much time to
// come back as if they had lost their connections now. It is called before anybody can connect.
func (s *Server) Restore() error {
	var remnants []remnant
	err := s.Store.View(func(tx storage.Tx) error {
		peers, err := tx.Peers().All()
		for _, p := range peers {
			if p.Kind == storage.ClientPeer {
				waiting, damage := tx.Peers().Waiting(p.ID)
				remnants = append(remnants, remnant{p, waiting, damage})
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	lost := make(map[jid.JID]session.Lost)
	for _, p := range remnants {
		r, presence, err := p.read()
		if err != nil { // what cannot be read costs one session, and neither the server nor what waits for that session
			s.Log.Warn("session is lost", "session", r.Full, "err", err)
			r, presence = sessionRecord{Key: make([]byte, len(key{})), Full: p.whose()}, stanza.Stanza{}
		}
		if !r.Full.IsZero() {
			account := r.Full.Bare()
			if lost[account] == nil {
				lost[account] = make(session.Lost)
			}
			err = s.restore(p, r, presence, lost[account])
		}
		switch {
		case errors.Is(err, storage.ErrNotFound) || r.Full.IsZero():
			s.Store.Submit(func(tx storage.Tx) error { return tx.Peers().Delete(p.ID) })
		case err != nil:
			s.Log.Error("session is not restored", "session", r.Full, "err", err)
		}
	}
	return nil
}

// A remnant is what the store has of a session.
type remnant struct {
	storage.Peer
	waiting []storage.Unacknowledged
	damage  error
}

func (p remnant) read() (r sessionRecord, presence stanza.Stanza, err error) {
	if err = p.damage; err == nil {
		err = json.Unmarshal(p.State, &r)
	}
	switch {
	case err != nil:
	case len(r.Key) != len(key{}):
		err = fmt.Errorf("the key has %d bytes", len(r.Key))
	case r.Presence != "":
		var e element.Element
		if e, err = element.ParseOne(r.Presence, ns.Client); err == nil {
			presence, err = stanza.Parse(e)
		}
		if err != nil {
			err = fmt.Errorf("presence: %w", err)
		}
	}
	return r, presence, err
}

// whose is a name for the session by the account for which messages wait, zero if none do.
func (p remnant) whose() (full jid.JID) {
	for _, m := range p.waiting {
		e, err := element.ParseOne(m.Stanza, ns.Client)
		if err != nil || m.Form == storage.CarbonSent {
			continue // what was sent, others have
		}
		if st, err := stanza.Parse(e); err == nil {
			full, _ = st.To.Bare().WithResource(fmt.Sprintf("lost-%x", p.ID))
			break
		}
	}
	return full
}

func (s *Server) restore(p remnant, r sessionRecord, presence stanza.Stanza, lost session.Lost) error {
	o := &outlet{server: s, peer: p.ID, id: key(r.Key), grace: min(r.Grace, s.Resume), asked: true, old: true}
	if o.id == (key{}) {
		binary.BigEndian.PutUint64(o.id[:], p.ID) // which is the hash of no secret; its grace is over
	}
	parcels := make([]stream.Parcel, 0, len(p.waiting))
	for _, m := range p.waiting {
		if parcel, err := s.parcel(r.Full, m, lost); err == nil {
			parcels = append(parcels, parcel)
		} else {
			s.Log.Error("message cannot be read", "account", r.Full.Bare(), "err", err)
		}
	}
	o.ledger = stream.Restore(s.Limits.Queue*3/4, time.Now, r.Acked, parcels, p.Count)
	o.persist()
	remnant := session.Remnant{Full: r.Full, Client: r.Client, Since: r.Since, Sink: o, Presence: presence, Ready: r.Ready,
		Interested: r.Interested, Enabled: r.Enabled, Directed: r.Directed}
	remnant.Found = func(_ *session.User, found *session.Session) {
		o.session = found
		s.parking.enter(o)
		s.parking.wait(o, time.Now())
	}
	return s.Users.Restore(remnant)
}

// parcel is a message as it was sent to a session, but with the time at which it was accepted (XEP-0203): it may have
// had that, and it is late now.
func (s *Server) parcel(to jid.JID, m storage.Unacknowledged, lost session.Lost) (stream.Parcel, error) {
	e, err := element.ParseOne(m.Stanza, ns.Client)
	if err != nil {
		return stream.Parcel{}, err
	}
	var id uint64
	for _, a := range m.Archived {
		if a.Owner == to.Bare() {
			id = a.ID
			e = stanza.Identify(e, to.Bare(), s.Journal.StanzaID(to, id))
		}
	}
	note := lost.Note(m, id, e)
	switch {
	case m.Form == storage.Plain && !stanza.Delayed(e, to):
		e = stanza.Delay(e, to.Server(), m.At)
	case m.Form != storage.Plain:
		e = stanza.Carbon(e, to.Bare(), to, m.Form == storage.CarbonSent)
	}
	return stream.Parcel{Element: e, Sent: m.At, Number: m.Number, Note: note}, nil
}

// renumbered brings the numbers of what is sent again after a restart to disk. The gate opens then.
func (o *outlet) renumbered(acked uint64, changed []storage.Renumbered) *stream.Gate {
	if len(changed) == 0 {
		return nil
	}
	gate, peer, unwritten := new(stream.Gate), o.peer, o.ledger.Unwritten(changed)
	o.server.Store.Submit(func(tx storage.Tx) error {
		if err := tx.Peers().Acknowledged(peer, acked); err != nil {
			return err
		}
		o.server.Journal.Renumbered(peer, unwritten)
		return tx.Peers().Renumber(peer, changed)
	}).Then(func(err error) {
		if err == nil {
			gate.Open()
			return
		}
		o.server.Log.Error("session could not be resumed", "session", o.session.JID(), "err", err)
		go o.server.Users.End(o.session, &stanza.StreamError{Condition: stanza.StreamInternalServerError})
	})
	return gate
}

// release lets go what clients have acknowledged since it was last called. That need not be on disk soon:
// what a client has acknowledged is not sent to it again.
func (s *Server) release() {
	var acked []storage.Waiting
	for _, o := range s.parking.takeAcked() {
		acked = append(acked, storage.Waiting{Peer: o.peer, Number: o.ledger.Acked()})
	}
	if len(acked) == 0 {
		return
	}
	s.Store.Submit(func(tx storage.Tx) error {
		for _, a := range acked {
			if err := tx.Peers().Acknowledged(a.Peer, a.Number); err != nil {
				return err
			}
		}
		return nil
	}).Then(func(err error) {
		if err != nil {
			s.Log.Error("acknowledged messages could not be removed", "err", err)
		}
	})
}
