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
	// Parked says whether there is no client at the moment.
	Parked() bool
	// Peer is the peer for which what the client has not acknowledged waits after a restart, 0 for none.
	Peer() uint64
	// Changed is told when what must be found then has changed.
	Changed()
	// Numbers are those of what the client has not acknowledged whose notes are of a kind.
	Numbers(of func(note any) bool) []uint64
	// Settle, after Close, returns what was written and what was lost, each in order: of a client
	// that acknowledges everything that it did not, of others what has a note and was not written.
	Settle() (written, lost []stream.Parcel)
	// Forget, after Settle, makes that the session is not found after a restart. What it lost is kept
	// elsewhere by then.
	Forget()
}

// A note is on a parcel for which it matters what becomes of it. Its methods run under the lock of
// the user.
type note interface {
	arrived(u *User)
	lost(u *User, p stream.Parcel, peer uint64)
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
	u.share(lost, k.Peer())
	for _, p := range lost {
		if n, ok := p.Note.(note); ok {
			n.lost(u, p, k.Peer())
		} else {
			u.again(p, k.Peer())
		}
	}
	k.Forget()
}

// share notes, before anything is sent on, what a peer has lost of that others may still get: after a restart
// nothing else tells whether it got it.
func (u *User) share(lost []stream.Parcel, peer uint64) {
	shared := make(map[*copies]bool)
	var numbers []uint64
	for _, p := range lost {
		if c, ok := p.Note.(*copies); ok && c.left > 1 && !c.done {
			shared[c] = true
			numbers = append(numbers, p.Number)
		}
	}
	if len(shared) == 0 {
		return
	}
	var others []storage.Waiting
	for _, s := range u.sessions {
		if !s.Resumable() {
			continue
		}
		for _, number := range s.keeper.Numbers(func(n any) bool { c, ok := n.(*copies); return ok && shared[c] }) {
			others = append(others, storage.Waiting{Peer: s.keeper.Peer(), Number: number})
		}
	}
	if len(others) > 0 {
		u.Submit(func(tx storage.Tx) error { return tx.Peers().Lost(peer, numbers, others) })
	}
}

// again sends a message on that its recipient did not get, as if that one had never been there. IQs
// are answered for who did not answer them, and presence was of that session. In one transaction the
// message waits for others and no more for the peer that the recipient was: a crash finds it once.
func (u *User) again(p stream.Parcel, peer uint64) {
	st, err := stanza.Parse(p.Element)
	if err != nil || st.Kind != stanza.Message || st.Type == "error" || st.To.Bare() != u.account {
		return
	}
	if !stanza.Delayed(p.Element, u.account) {
		st = st.WithElement(stanza.Delay(p.Element, u.account.Server(), p.Sent))
	}
	if st.Lasting() {
		var entry *journal.Entry
		st, entry = u.registry.journal.Open(st) // its sender has been told that it is kept
		entry.Lost(peer, p.Number)
		defer u.registry.journal.Close(st)
	}
	u.registry.router.Receive(u, st)
}

// Pass is Send of a message that waits for its entry in the journal, or of a copy of it: that one is not
// sent on if it is lost.
func (s *Session) Pass(st stanza.Stanza, e element.Element, form storage.Form) {
	var n any
	if form != storage.Plain {
		n = spare{}
	}
	s.pass(st, e, form, n, 1)
}

func (s *Session) pass(st stanza.Stanza, e element.Element, form storage.Form, n any, copies int) {
	if s.keeper == nil {
		s.sink.Send(e)
		return
	}
	if !s.keeper.Managed() { // then only what has a note comes back if it was not written
		switch n.(type) {
		case nil:
			n = sole{}
		case spare:
			n = nil
		}
	}
	entry := journal.Of(st)
	entry.Wait(s.keeper.Peer(), s.keeper.Track(e, n, entry.Gate()), form, copies)
}

// spare is the note on what somebody else has as well: nothing is lost with it.
type spare struct{}

func (spare) arrived(*User)                     {}
func (spare) lost(*User, stream.Parcel, uint64) {}

// sole is the note on what nobody else has.
type sole struct{}

func (sole) arrived(*User)                              {}
func (sole) lost(u *User, p stream.Parcel, peer uint64) { u.again(p, peer) }

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

func (done handed) arrived(u *User)                         { done(u, true) }
func (done handed) lost(u *User, _ stream.Parcel, _ uint64) { done(u, false) }

// copies is the note on a message that several sessions got, each as it is or as a copy (XEP-0280): it is
// lost when all of them lost it.
type copies struct {
	left    int  // that may still arrive
	done    bool // one has arrived
	message element.Element
}

func (c *copies) arrived(*User) { c.done = true }

func (c *copies) lost(u *User, p stream.Parcel, peer uint64) {
	if c.left--; c.left == 0 && !c.done {
		p.Element = c.message
		u.again(p, peer)
	}
}

// Lost are the notes on messages that sessions of an account had not acknowledged before a restart. A
// message that several sessions were sent is sent on only when all of them have lost it.
type Lost map[lostMessage]*copies

// lostMessage tells messages apart: by their ids in the account's archive, or those that are not there by
// their times.
type lostMessage struct {
	id     uint64
	at     int64 // in nanoseconds
	stanza string
}

// Note is the note on what one session had not acknowledged. id is that of the message in the account's
// archive, 0 if it is not there.
func (l Lost) Note(m storage.Unacknowledged, id uint64, message element.Element) any {
	switch {
	case m.Form == storage.CarbonSent:
		return spare{}
	case m.Form == storage.Plain && m.Copies < 2:
		return nil
	}
	key := lostMessage{id: id}
	if id == 0 {
		key = lostMessage{at: m.At.UnixNano(), stanza: m.Stanza}
	}
	c := l[key]
	if c == nil {
		c = &copies{message: message}
		l[key] = c
	}
	c.left++
	c.done = c.left < int(m.Copies) // the others have it
	return c
}

// Pass enqueues a message to some of the user's sessions, and a copy of it to others. Kept says that it
// waits for one more of them.
func (u *User) Pass(st stanza.Stanza, to, copied []hook.Session, kept bool) {
	all := len(to) + len(copied)
	if kept {
		all++
	}
	var n any
	switch {
	case kept:
		n = spare{}
	case all > 1:
		n = &copies{left: all, message: st.Element}
	}
	for _, one := range to {
		s := one.(*Session)
		s.pass(st, st.Element, storage.Plain, n, all)
	}
	for _, one := range copied {
		s := one.(*Session)
		s.pass(st, stanza.Carbon(st.Element, u.account, s.full, false), storage.CarbonReceived, n, all)
	}
}

// Resumable says whether what is passed to the session outlives a restart, with the session if that can be resumed.
func (s *Session) Resumable() bool { return s.keeper != nil && s.keeper.Peer() != 0 }
