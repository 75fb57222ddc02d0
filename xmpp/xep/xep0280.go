package xep

import (
	"hash/maphash"
	"slices"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// carbons copies conversations to all devices of a user that want it.
//
// Each device sees a message once, whatever way it takes: what a user writes to himself is copied as
// something that he receives only (outgoing), and a session that gets the message itself, now or out of
// what waits for it, gets no copy (copied).
type carbons struct {
	host   *module.Host
	talked session.Slot[*talk]
	seed   maphash.Seed
}

// A talk is what a user's sessions wrote and got last that was copied, by which errors are known that
// are answers to such a message (section 6.1). Those of long ago are forgotten.
type talk struct {
	last [64]uint64 // hashes of spoken
	next int
}

// spoken identifies a message as far as an error does that answers it.
type spoken struct {
	with jid.JID // the other party, bare
	id   string
	sent bool
}

func messageCarbons(h *module.Host) (module.Feature, error) {
	c := &carbons{host: h, seed: maphash.MakeSeed(), talked: session.NewSlot(h.Users,
		func(storage.Tx, jid.JID) (*talk, error) { return nil, nil })}
	return module.Feature{
		Info:   module.Info{Spec: "XEP-0280", Name: "Message Carbons", Version: "1.0.1", Status: "complete"},
		Server: []string{ns.Carbons, ns.CarbonRules},
		IQ: []module.IQ{
			{Name: "enable", NS: ns.Carbons, Set: true, Scope: module.ToSelf, Handle: func(q *module.Query) { c.enable(q, true) }},
			{Name: "disable", NS: ns.Carbons, Set: true, Scope: module.ToSelf, Handle: func(q *module.Query) { c.enable(q, false) }},
		},
		Inline: []module.Inline{{NS: ns.Carbons, Enable: func(_ hook.User, s hook.Session, request element.Element) element.Element {
			if request.Name() == "enable" {
				s.Enable(ns.Carbons, true)
			}
			return element.Element{}
		}}},
		Hooks: hook.Hooks{Outgoing: c.outgoing, Copied: c.copied},
	}, nil
}

// enable turns copies on or off for the session that asks, any number of times (section 10.1). It is
// answered when the session would have them after a restart.
func (c *carbons) enable(q *module.Query, on bool) {
	err := c.host.Users.Do(q.Target, func(u *session.User) {
		if s := u.Find(q.From); s != nil {
			s.Enable(ns.Carbons, on)
		}
	})
	if err != nil {
		q.Fail(storeError(err))
		return
	}
	c.host.Store.Submit(nil).Then(func(error) { q.Result() })
}

// outgoing copies what a session sends to the others (section 8). The copies wait for the journal as the
// message itself does.
func (c *carbons) outgoing(u hook.User, from hook.Session, st *stanza.Stanza) hook.Verdict {
	if st.Kind != stanza.Message || st.To.Bare() == u.JID() || !c.wanted(u, from.JID()) || !c.eligible(u, *st, true) {
		return hook.Pass
	}
	if _, _, ok := st.Counted(); ok && st.Lasting() {
		*st, _ = c.host.Journal.Open(*st)
	}
	e := st.Element
	if entry := journal.Of(*st); entry != nil {
		if id, ok := entry.Archived(u.JID()); ok {
			e = stanza.Identify(e, u.JID(), c.host.Journal.StanzaID(u.JID(), id))
		}
	}
	private := privateInRoom(*st, st.To)
	for _, s := range bound(u) {
		if s.JID() != from.JID() && s.Enabled(ns.Carbons) && (!private || shareNick(from, s, st.To.Bare())) {
			s.Pass(*st, stanza.Carbon(e, u.JID(), s.JID(), true), storage.CarbonSent)
		}
	}
	return hook.Pass
}

// copied are the sessions that get a copy of what others of the user receive (section 7).
func (c *carbons) copied(u hook.User, st stanza.Stanza, to []hook.Session) (copied []hook.Session) {
	if !c.wanted(u, st.From) || !c.eligible(u, st, false) {
		return nil
	}
	addressed := u.Session(st.To) != nil
	present, postponed := false, false
	for _, s := range bound(u) {
		if ready(u, s) {
			present = true
			postponed = postponed || !addressed && !slices.Contains(to, hook.Session(s))
		}
	}
	for _, s := range bound(u) {
		switch {
		case !s.Enabled(ns.Carbons), s.JID() == st.From, s.JID() == st.To, slices.Contains(to, hook.Session(s)):
		case !addressed && ready(u, s): // it gets the message itself, after those that wait
		case !addressed && (!present || postponed) && !s.Available(): // when it becomes available
		default:
			copied = append(copied, s)
		}
	}
	return copied
}

// wanted says whether a session wants copies, other than the one where the message comes from.
func (c *carbons) wanted(u hook.User, from jid.JID) bool {
	return slices.ContainsFunc(bound(u), func(s *session.Session) bool { return s.Enabled(ns.Carbons) && s.JID() != from })
}

// eligible says whether a message is copied (section 6.1), and remembers those that are.
func (c *carbons) eligible(u hook.User, st stanza.Stanza, sent bool) bool {
	with := st.From
	if sent {
		with = st.To
	}
	if st.Type == "error" {
		return !withheld(st.Element) && c.talked.Get(u).has(c.hash(with, st.ID, !sent))
	}
	if withheld(st.Element) || !instant(st, with, sent) {
		return false
	}
	t := c.talked.Get(u)
	if t == nil {
		t = new(talk)
		c.talked.Set(u, t)
	}
	t.last[t.next] = c.hash(with, st.ID, sent)
	t.next = (t.next + 1) % len(t.last)
	return true
}

// withheld says that the sender does not want copies of a message (section 9).
func withheld(message element.Element) bool {
	return !message.Child("private", ns.Carbons).IsZero() || stanza.Hinted(message, "no-copy")
}

// instant says whether a message belongs to a conversation with somebody: not one in a room, nor one that
// an occupant of a room wrote, which the room sends to all of its user's sessions that are in it.
func instant(st stanza.Stanza, with jid.JID, sent bool) bool {
	switch {
	case st.Type == "groupchat":
		return false
	case privateInRoom(st, with):
		return sent
	case st.Type == "chat", st.Type == "normal" && !st.Element.Child("body", ns.Client).IsZero(), invites(st):
		return true
	}
	for child := range st.Element.Children() {
		switch child.NS() {
		case ns.Receipts, ns.ChatStates, ns.ChatMarkers, ns.Invitation:
			return true
		}
	}
	return false
}

// privateInRoom says whether the other party is an occupant of a room (XEP-0045 section 7.5).
func privateInRoom(st stanza.Stanza, with jid.JID) bool {
	return !with.IsBare() && !st.Element.Child("x", ns.MUCUser).IsZero() && !invites(st)
}

// invites says whether a room invites somebody, or is asked to (XEP-0045 section 7.8.2).
func invites(st stanza.Stanza) bool {
	return !st.Element.Child("x", ns.MUCUser).Child("invite", ns.MUCUser).IsZero()
}

// shareNick says whether two sessions are in a room under the same name, where the other one could
// answer. Who is in a room has sent its presence there (XEP-0045 section 7.2).
func shareNick(one, other hook.Session, room jid.JID) bool {
	for occupant := range *one.Directed() {
		if occupant.Bare() == room {
			if _, in := (*other.Directed())[occupant]; in {
				return true
			}
		}
	}
	return false
}

func (c *carbons) hash(with jid.JID, id string, sent bool) uint64 {
	return maphash.Comparable(c.seed, spoken{with.Bare(), id, sent})
}

func (t *talk) has(hash uint64) bool { return t != nil && slices.Contains(t.last[:], hash) }

// bound are a user's sessions without a list made for the purpose: every message comes by here.
func bound(u hook.User) []*session.Session { return u.(*session.User).Bound() }
