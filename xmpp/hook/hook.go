// Package hook names every point at which a feature can join the way of a stanza or the life of a
// session. Features fill in a Hooks value and hand it to the server as data (see module.Feature);
// router, c2s and the account commands call the points. Start with Hooks: it is the whole list.
//
// Every function here that is given a User runs under that user's lock. There it may look at the
// sessions, enqueue to them, submit writes and add effects; it must not wait for anything, take
// another lock or call the router. What has to be routed goes through User.Route.
package hook

import (
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/stanza"
)

// Hooks are the points one feature wants to be called at; nil fields are not called. Where several
// features fill in the same point they are called in the order in which the server lists them.
type Hooks struct {
	// Outgoing sees each stanza that a local session sends to somebody, with its from already
	// stamped, before it is routed. The first verdict other than Pass decides.
	Outgoing func(u User, from Session, st *stanza.Stanza) Verdict

	// Incoming sees each stanza addressed to a local account (bare or full JID) before the rules of
	// RFC 6121 section 8 pick its recipients. The first verdict other than Pass decides.
	Incoming func(u User, st *stanza.Stanza) Verdict

	// Presence follows a change of a session's own presence: initial, changed or unavailable, sent
	// by the client without a to or by the server when the session ended (RFC 6121 section 4).
	// The session's state is already the new one; was is the presence before, zero if none.
	Presence func(u User, s Session, st stanza.Stanza, was stanza.Stanza)

	// Accepted sees each message that a user is about to get, or that is about to be kept for him, and
	// may add to it.
	Accepted func(u User, st *stanza.Stanza)

	// Postponed says whether a session has to wait for a message, because it does not have yet what was
	// kept for the user before. Who says so takes the message as Undelivered.
	Postponed func(u User, st stanza.Stanza, to Session) bool

	// Copied names the sessions that get a copy of a message (XEP-0280 section 7) which those in to are
	// about to get themselves; they are none of these.
	Copied func(u User, st stanza.Stanza, to []Session) []Session

	// Undelivered is asked what to do with a message that the rules want to be kept because no
	// session can take it now (RFC 6121 section 8.5.2.2). Handled means that somebody took it.
	Undelivered func(u User, st *stanza.Stanza) Verdict

	// SessionRestored follows when a client has resumed a session that is from before a restart of the
	// server: it has not got what was on its way then and is not kept, such as presence.
	SessionRestored func(u User, s Session)

	// SessionBound and SessionEnded frame the life of a session. At SessionEnded the session is no
	// longer among the user's, and its unavailable presence has been announced.
	SessionBound func(u User, s Session)
	SessionEnded func(u User, s Session)

	// AccountRemoved runs when an account is about to be deleted, its sessions already ended; what
	// it routes leaves before the account's rows go.
	AccountRemoved func(u User)
}

// A Verdict is a hook's answer about a stanza.
type Verdict struct {
	stop bool
	err  *stanza.Error
}

// Pass lets the stanza go on; Handled ends its way without an answer.
var (
	Pass    = Verdict{}
	Handled = Verdict{stop: true}
)

// Refuse ends the stanza's way; its sender gets the error where the stanza may be answered.
func Refuse(err *stanza.Error) Verdict { return Verdict{stop: true, err: err} }

// Stops says whether the stanza goes no further.
func (v Verdict) Stops() bool { return v.stop }

// Err is the error for the sender, or nil.
func (v Verdict) Err() *stanza.Error { return v.err }

// A User is a local account as seen by who holds its lock.
type User interface {
	JID() jid.JID

	// Sessions are the account's bound sessions, available or not, oldest first. The slice is
	// only valid under the lock.
	Sessions() []Session

	// Session finds a session by its full JID, nil if there is none.
	Session(full jid.JID) Session

	// Route adds the routing of a stanza to the user's FIFO of effects; it leaves in order, after
	// the lock is released. Its from is this account, one of its sessions, or its server.
	Route(st stanza.Stanza)

	// Deliver hands a stanza to the user's sessions by the rules of RFC 6121 section 8, now, as if
	// it had just arrived and every Incoming hook had let it pass.
	Deliver(st stanza.Stanza)

	// After adds any other effect to the same FIFO. Effects run outside the lock and may do what
	// a function under the lock may not.
	After(effect func())

	// Submit queues a write. The user stays in memory until the write is done, so that nobody
	// reads older state from the store.
	Submit(write func(storage.Tx) error) *storage.Ticket

	// Defer is Submit of what nobody waits for, and what may be lost if the server is killed.
	Defer(write func(storage.Tx) error)

	// Value is what a feature keeps in memory for the user; features use session.Slot.
	Value(slot int) any
	SetValue(slot int, value any)
}

// A Session is one bound resource of a local account. Its methods that change state are called
// under the lock of its user only.
type Session interface {
	JID() jid.JID // full

	// Send enqueues a stanza as it is; it never blocks.
	Send(e element.Element)

	// Pass is Send of the message st, or of a copy of it, in the form e: it leaves when what is to be
	// kept of st is on disk, and is kept itself until the client has acknowledged it, where that
	// matters (package journal).
	Pass(st stanza.Stanza, e element.Element, form storage.Form)

	// Resumable says whether what is passed to the session outlives a restart.
	Resumable() bool

	// Hand is Send for a message that is kept until it has arrived: acknowledged by the client
	// (XEP-0198) or, of one that does not acknowledge, written. done is told once, under the lock of
	// the user: if it has not arrived, the session has ended, and who kept the message has it back.
	Hand(e element.Element, done func(u User, arrived bool))

	// Presence is the last presence that the client broadcast; the zero Stanza while it is not
	// available. Priority is that of RFC 6121 section 4.7.2.3, 0 if not available.
	Presence() stanza.Stanza
	Available() bool
	Priority() int

	// Ready is since when the session gets messages for the bare JID (RFC 6121 section 8.5.2.1.1), zero
	// while it does not.
	Ready() time.Time

	// Interested says whether the client asked for the roster (RFC 6121 section 2.2).
	Interested() bool
	SetInterested()

	// Directed are the entities that got this session's presence by directed presence and
	// must learn that it ended (RFC 6121 section 4.6).
	Directed() *Directed

	// Enable turns something on that the session's client has asked for, by its namespace, or that a feature
	// notes of it, by its namespace with a space and more behind it; it stays on if the session is resumed.
	Enable(ns string, on bool)
	Enabled(ns string) bool

	// Since is when the session was bound.
	Since() time.Time
}

// Directed is a set of JIDs in which a session's directed presences are kept.
type Directed map[jid.JID]struct{}

// A Chain is the hooks of all features, one list a point, in order.
type Chain struct {
	outgoing     []func(User, Session, *stanza.Stanza) Verdict
	incoming     []func(User, *stanza.Stanza) Verdict
	presence     []func(User, Session, stanza.Stanza, stanza.Stanza)
	accepted     []func(User, *stanza.Stanza)
	postponed    []func(User, stanza.Stanza, Session) bool
	copied       []func(User, stanza.Stanza, []Session) []Session
	undelivered  []func(User, *stanza.Stanza) Verdict
	restored     []func(User, Session)
	bound, ended []func(User, Session)
	removed      []func(User)
}

// Join makes the chain of several features' hooks.
func Join(all ...Hooks) *Chain {
	c := new(Chain)
	for _, h := range all {
		add(&c.outgoing, h.Outgoing, h.Outgoing != nil)
		add(&c.incoming, h.Incoming, h.Incoming != nil)
		add(&c.presence, h.Presence, h.Presence != nil)
		add(&c.accepted, h.Accepted, h.Accepted != nil)
		add(&c.postponed, h.Postponed, h.Postponed != nil)
		add(&c.copied, h.Copied, h.Copied != nil)
		add(&c.undelivered, h.Undelivered, h.Undelivered != nil)
		add(&c.restored, h.SessionRestored, h.SessionRestored != nil)
		add(&c.bound, h.SessionBound, h.SessionBound != nil)
		add(&c.ended, h.SessionEnded, h.SessionEnded != nil)
		add(&c.removed, h.AccountRemoved, h.AccountRemoved != nil)
	}
	return c
}

func add[F any](list *[]F, f F, set bool) {
	if set {
		*list = append(*list, f)
	}
}

// Outgoing asks the features about a stanza that a local session sends.
func (c *Chain) Outgoing(u User, from Session, st *stanza.Stanza) Verdict {
	for _, f := range c.outgoing {
		if v := f(u, from, st); v.stop {
			return v
		}
	}
	return Pass
}

// Incoming asks the features about a stanza for a local account.
func (c *Chain) Incoming(u User, st *stanza.Stanza) Verdict {
	for _, f := range c.incoming {
		if v := f(u, st); v.stop {
			return v
		}
	}
	return Pass
}

// Presence tells the features that a session's presence changed.
func (c *Chain) Presence(u User, s Session, st, was stanza.Stanza) {
	for _, f := range c.presence {
		f(u, s, st, was)
	}
}

// Accepted tells the features that a message is about to be delivered or kept.
func (c *Chain) Accepted(u User, st *stanza.Stanza) {
	for _, f := range c.accepted {
		f(u, st)
	}
}

// Postponed asks the features whether a session has to wait for a message.
func (c *Chain) Postponed(u User, st stanza.Stanza, to Session) bool {
	for _, f := range c.postponed {
		if f(u, st, to) {
			return true
		}
	}
	return false
}

// Copied asks the features who gets a copy of a message.
func (c *Chain) Copied(u User, st stanza.Stanza, to []Session) (copied []Session) {
	for _, f := range c.copied {
		copied = append(copied, f(u, st, to)...)
	}
	return copied
}

// Undelivered asks the features to keep a message.
func (c *Chain) Undelivered(u User, st *stanza.Stanza) Verdict {
	for _, f := range c.undelivered {
		if v := f(u, st); v.stop {
			return v
		}
	}
	return Pass
}

// SessionRestored tells the features of a session that has outlived a restart.
func (c *Chain) SessionRestored(u User, s Session) {
	for _, f := range c.restored {
		f(u, s)
	}
}

// SessionBound tells the features of a new session.
func (c *Chain) SessionBound(u User, s Session) {
	for _, f := range c.bound {
		f(u, s)
	}
}

// SessionEnded tells the features that a session is gone.
func (c *Chain) SessionEnded(u User, s Session) {
	for _, f := range c.ended {
		f(u, s)
	}
}

// AccountRemoved tells the features that an account goes.
func (c *Chain) AccountRemoved(u User) {
	for _, f := range c.removed {
		f(u)
	}
}
