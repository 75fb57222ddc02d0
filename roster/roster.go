// Package roster keeps who knows whom and who is there: contacts and their groups, presence
// subscriptions, presence itself, and blocking (RFC 6121 sections 2 to 4 and appendix A, XEP-0191).
// The assembly makes one Roster and lists its two features, Blocking before Contacts.
//
// Start with table.go, which is appendix A. subscription.go applies it to a stanza, contacts.go
// answers a client's questions about its roster, presence.go spreads presence along the
// subscriptions.
//
// What a user's clients and contacts are shown is what the store holds: every change is submitted
// first, and what announces it (push, result, presence) waits in the ledger until it is kept. The
// next change is decided on what has been submitted, so nobody waits; a mirror knows both.
package roster

import (
	"errors"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/meter"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// Options bound what one account may keep.
type Options struct {
	// MaxItems is how many contacts a user may list, how many strangers' requests may wait for the
	// user, and how many JIDs the user may block; 0 for no limit.
	MaxItems int
	// MaxDirected is to how many entities without a subscription a session may direct its presence
	// at a time; 0 for no limit.
	MaxDirected int
	// RequestsPerMinute is how many requests for a subscription a user may send; 0 for no limit.
	RequestsPerMinute int
	Counters          *meter.Counters
}

// Roster is the contacts and blocklists of all users of one server.
type Roster struct {
	host     *module.Host
	options  Options
	ledger   *ledger
	contacts session.Slot[*contacts]
	blocks   session.Slot[*blocks]
}

// New makes the roster of a server; it is called before anybody can connect.
func New(h *module.Host, o Options) *Roster {
	return &Roster{
		host:     h,
		options:  o,
		ledger:   &ledger{users: h.Users, log: h.Log},
		contacts: session.NewSlot(h.Users, loadContacts),
		blocks:   session.NewSlot(h.Users, loadBlocks),
	}
}

// Contacts is the feature of RFC 6121: roster, subscriptions and presence.
func (r *Roster) Contacts() module.Feature {
	return module.Feature{
		Info: module.Info{
			Spec:   "RFC 6121",
			Name:   "Instant Messaging and Presence: roster, subscriptions, presence",
			Status: "complete",
			Note:   "with roster versioning (XEP-0237) and subscription pre-approval",
		},
		Server: []string{ns.Roster},
		IQ: []module.IQ{{Name: "query", NS: ns.Roster, Get: true, Set: true,
			Scope: module.ToSelf | module.ToAccount, Handle: r.query}},
		Stream: []element.Element{
			element.Leaf("ver", ns.RosterVer, ""),
			element.Leaf("sub", ns.PreApprove, ""),
		},
		Hooks: hook.Hooks{
			Outgoing:        r.outgoing,
			Incoming:        r.incoming,
			Presence:        r.presence,
			SessionRestored: r.restored,
			AccountRemoved:  r.accountRemoved,
		},
		Verbs: r.verbs(),
	}
}

// Blocking is the feature of XEP-0191. It is listed before Contacts and before everything else that
// looks at stanzas: what comes from a blocked JID must not reach them.
func (r *Roster) Blocking() module.Feature {
	return module.Feature{
		Info:   module.Info{Spec: "XEP-0191", Name: "Blocking Command", Version: "1.3", Status: "complete"},
		Server: []string{ns.Blocking},
		IQ: []module.IQ{
			{Name: "blocklist", NS: ns.Blocking, Get: true, Scope: module.ToSelf, Handle: r.blocklist},
			{Name: "block", NS: ns.Blocking, Set: true, Scope: module.ToSelf, Handle: r.block},
			{Name: "unblock", NS: ns.Blocking, Set: true, Scope: module.ToSelf, Handle: r.unblock},
		},
		Hooks: hook.Hooks{
			Outgoing: r.outgoingBlocked,
			Incoming: r.incomingBlocked,
		},
	}
}

// Subscribed says whether an entity may see a user's presence: because it has a subscription, or
// because it is the user. It is called under the user's lock.
func (r *Roster) Subscribed(u hook.User, entity jid.JID) bool {
	entity = entity.Bare()
	return entity == u.JID() || r.contacts.Get(u).items.kept[entity].From
}

// Listed says whether an entity is a contact that the user's clients see. It is called under the
// user's lock.
func (r *Roster) Listed(u hook.User, entity jid.JID) bool {
	return r.contacts.Get(u).items.kept[entity.Bare()].Listed
}

// on runs fn under the lock of the account that q is for.
func (r *Roster) on(q *module.Query, fn func(hook.User)) {
	if err := r.host.Users.Do(q.Target, func(u *session.User) { fn(u) }); err != nil {
		q.Fail(cause(err))
	}
}

// answer sends a session the answer to its request, under its user's lock and so in order with what
// is pushed to it. A session that has ended meanwhile needs none.
func answer(u hook.User, q *module.Query, err error, payload ...element.Element) {
	s := u.Session(q.From)
	if s == nil {
		return
	}
	reply := q.Stanza.Result(payload...)
	if err != nil {
		reply, _ = q.ErrorReply(cause(err))
	}
	s.Send(reply.Element)
}

// cause is the public face of an error.
func cause(err error) *stanza.Error {
	if errors.Is(err, storage.ErrNoSpace) {
		return stanza.ResourceConstraint("the server's disk is full")
	}
	return stanza.AsError(err)
}

// refuse tells the sender of a stanza that it was not carried out.
func refuse(u hook.User, st stanza.Stanza, err error) {
	if reply, ok := st.ErrorReply(cause(err)); ok {
		u.Route(reply)
	}
}
