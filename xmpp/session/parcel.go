package session

import (
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// A Keeper is a sink that knows what has arrived: what the client has acknowledged or, of one that
// does not acknowledge, what was written to it.
type Keeper interface {
	Sink
	// Track is Send of something with a note on it. Of what has arrived, the keeper tells Arrived,
	// under the user's lock.
	Track(e element.Element, note any)
	// Managed says whether the client acknowledges.
	Managed() bool
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
	u.registry.router.Receive(u, st)
}

// Hand is Send of a message that is kept elsewhere: done is told once, under the user's lock, whether
// it has arrived. If not it is not sent on; who kept it has it back.
func (s *Session) Hand(e element.Element, done func(u hook.User, arrived bool)) {
	if s.keeper != nil {
		s.keeper.Track(e, handed(done))
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

// SendAll enqueues a message to all sessions that are to have it.
func (u *User) SendAll(e element.Element, eligible func(*Session) bool) {
	count, managed := 0, 0
	for _, s := range u.sessions {
		if eligible(s) {
			count++
			if s.managed() {
				managed++
			}
		}
	}
	var c *copies
	if count > 1 && managed > 0 {
		// What a client does not acknowledge counts as arrived.
		c = &copies{left: managed, done: managed < count}
	}
	for _, s := range u.sessions {
		switch {
		case !eligible(s):
		case c != nil && s.managed():
			s.keeper.Track(e, c)
		default:
			s.sink.Send(e)
		}
	}
}

func (s *Session) managed() bool { return s.keeper != nil && s.keeper.Managed() }
