package session

import (
	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// A Keeper is a sink that knows what has arrived: what the client has acknowledged or, of one that
// does not acknowledge, what was written to it.
type Keeper interface {
	Sink
	// Track is Send of something with a note on it, that leaves when the gate, if not nil, is open; it
	// returns the number by which the client will acknowledge it, 0 for none. Of what has arrived, the
	// keeper tells Arrived, under the user's lock.
	Track(e element.Element, note any, gate *stream.Gate) (number uint64)
	// Managed says whether the client acknowledges.
	Managed() bool
	// Peer is the peer as which the client's session is found after a restart, 0 if it is not.
	Peer() uint64
	// Changed is told when what must be found then has changed.
	Changed()
	// Settle, after Close, returns what was written and what was lost, each in order: of a client
	// that acknowledges everything that it did not, of others what has a note.
	Settle() (written, lost []stream.Parcel)
}

// A note is on a parcel for which it matters what becomes of it. Its methods run under the lock of
// the user.
type note interface {
	arrived(u *User)
	lost(u *User, p stream.Parcel)
}

// Arrived is told of what has arrived at a session of the user.
func (u *User) Arrived(parcels []stream.Parcel) {
	for _, p := range parcels {
		if n, ok := p.Note.(note); ok {
			n.arrived(u)
		}
	}
}

// settle deals with what a session that has ended did not get (XEP-0198 section 4).
func (u *User) settle(k Keeper) {
	written, lost := k.Settle()
	u.Arrived(written)
	for _, p := range lost {
		if n, ok := p.Note.(note); ok {
			n.lost(u, p)
		} else {
			u.again(p)
		}
	}
}

// again sends a message on that its recipient did not get, as if that one had never been there. IQs
// are answered for who did not answer them, and presence was of that session.
func (u *User) again(p stream.Parcel) {
	st, err := stanza.Parse(p.Element)
	if err != nil || st.Kind != stanza.Message || st.Type == "error" || st.To.Bare() != u.account {
		return
	}
	if !stanza.Delayed(p.Element, u.account) {
		st = st.WithElement(stanza.Delay(p.Element, u.account.Server(), p.Sent))
	}
	if st.Lasting() {
		st, _ = u.registry.journal.Open(st) // its sender has been told that it is kept
		defer u.registry.journal.Close(st)
	}
	u.registry.router.Receive(u, st)
}

// Pass is Send of a message that waits for its entry in the journal.
func (s *Session) Pass(st stanza.Stanza, e element.Element, form storage.Form) {
	var n any
	if form != storage.Plain {
		n = carbon{}
	}
	s.pass(st, e, form, n, 1)
}

func (s *Session) pass(st stanza.Stanza, e element.Element, form storage.Form, n any, copies int) {
	if s.keeper == nil {
		s.sink.Send(e)
		return
	}
	entry := journal.Of(st)
	entry.Wait(s.keeper.Peer(), s.keeper.Track(e, n, entry.Gate()), form, copies)
}

// carbon is the note on a copy: the message itself is not lost with it.
type carbon struct{}

func (carbon) arrived(*User)             {}
func (carbon) lost(*User, stream.Parcel) {}

// Hand is Send of a message that is kept elsewhere: done is told once, under the user's lock, whether
// it has arrived. If not it is not sent on; who kept it has it back.
func (s *Session) Hand(e element.Element, done func(u hook.User, arrived bool)) {
	if s.keeper != nil {
		s.keeper.Track(e, handed(done), nil)
		return
	}
	s.sink.Send(e)
	done(s.user, true)
}

// handed is the note on what is kept elsewhere.
type handed func(u hook.User, arrived bool)

func (done handed) arrived(u *User)               { done(u, true) }
func (done handed) lost(u *User, _ stream.Parcel) { done(u, false) }

// copies is the note on a message that several sessions got: it is lost when all of them lost it.
type copies struct {
	left int  // that may still arrive
	done bool // one has arrived
}

func (c *copies) arrived(*User) { c.done = true }

func (c *copies) lost(u *User, p stream.Parcel) {
	if c.left--; c.left == 0 && !c.done {
		u.again(p)
	}
}

// Lost are the notes on messages that sessions of an account had not acknowledged before a restart, by
// their ids in its archive. A message that several sessions were sent is sent on only when all of
// them have lost it.
type Lost map[uint64]*copies

// Note is the note on what one session had not acknowledged.
func (l Lost) Note(m storage.Unacknowledged, id uint64) any {
	switch {
	case m.Form != storage.Plain:
		return carbon{}
	case id == 0 || m.Copies < 2:
		return nil
	case l[id] == nil:
		l[id] = new(copies)
	}
	c := l[id]
	c.left++
	c.done = c.left < int(m.Copies) // the others have it
	return c
}

// Pass enqueues a message to some of the user's sessions.
func (u *User) Pass(st stanza.Stanza, to []hook.Session) {
	managed := 0
	if len(to) > 1 {
		for _, s := range to {
			if s.(*Session).managed() {
				managed++
			}
		}
	}
	var c *copies
	if managed > 0 {
		// What a client does not acknowledge counts as arrived.
		c = &copies{left: managed, done: managed < len(to)}
	}
	for _, one := range to {
		s := one.(*Session)
		if c != nil && s.managed() {
			s.pass(st, st.Element, storage.Plain, c, len(to))
		} else {
			s.pass(st, st.Element, storage.Plain, nil, len(to))
		}
	}
}

// Resumable says whether the session, with what is passed to it, outlives a restart.
func (s *Session) Resumable() bool { return s.keeper != nil && s.keeper.Peer() != 0 }

func (s *Session) managed() bool { return s.keeper != nil && s.keeper.Managed() }
