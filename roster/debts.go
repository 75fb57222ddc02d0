package roster

import (
	"crypto/rand"
	"maps"
	"slices"
	"strings"

	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// A client that resumes its session does not ask for roster and blocklist again: it has been told of all changes, or
// is told then (XEP-0198 section 5). Pushes are not kept as messages are. So what a session has not been told is noted
// on it before the change is written, until its client has acknowledged the push, and if the server ends meanwhile
// it is told what is so then.

// A debt is what a session is to be told: the namespace of a list, a space, and the JID of which it is to learn whether
// it is on that list, and how; nothing, of all that are.
type debt struct {
	to   hook.Session
	what string
}

// maxDebts bounds what is noted on a session. One that is owed more is told everything that is on the list.
const maxDebts = 100

// Who is told of changes: those who asked for a list.
func wantsRoster(s hook.Session) bool    { return s.Interested() }
func wantsBlocklist(s hook.Session) bool { return s.Enabled(ns.Blocking) }

// owe notes that sessions are to learn of a change that is about to be written. What it returns is called when they
// have been pushed it, or it is not to be.
func (r *Roster) owe(u hook.User, wants func(hook.Session) bool, list string, about ...jid.JID) (settled func()) {
	var paid []func(bool)
	for _, s := range u.Sessions() {
		if wants(s) && s.Resumable() {
			paid = append(paid, r.borrow(u, s, list, about...))
		}
	}
	return func() {
		for _, pay := range paid {
			pay(true)
		}
	}
}

// borrow is owe of one session. What it returns is told that this is so no more, and whether the session is there still.
func (r *Roster) borrow(u hook.User, s hook.Session, list string, about ...jid.JID) (paid func(there bool)) {
	debts := r.contacts.Get(u).debts
	noted := make([]debt, 0, len(about))
	for _, j := range about {
		d := debt{s, list + " " + j.String()}
		if !s.Enabled(d.what) && len(owed(s)) >= maxDebts {
			d.what = list + " "
		}
		debts[d]++
		s.Enable(d.what, true)
		noted = append(noted, d)
	}
	return func(there bool) {
		for _, d := range noted {
			if debts[d]--; debts[d] > 0 {
				continue
			}
			delete(debts, d)
			if there {
				s.Enable(d.what, false)
			}
		}
	}
}

// push tells those sessions of a change that want to know.
func (r *Roster) push(u hook.User, wants func(hook.Session) bool, payload element.Element, about ...jid.JID) {
	for _, s := range u.Sessions() {
		if wants(s) {
			r.tell(u, s, payload, about...)
		}
	}
}

// tell sends a session a push.
func (r *Roster) tell(u hook.User, s hook.Session, payload element.Element, about ...jid.JID) {
	request := stanza.New(stanza.IQ, "set", rand.Text(), jid.JID{}, s.JID(), payload).Element
	if !s.Resumable() {
		s.Send(request)
		return
	}
	paid := r.borrow(u, s, payload.NS(), about...)
	s.Hand(request, func(_ hook.User, arrived bool) { paid(arrived) })
}

// restored tells a session that has outlived a restart what it had not been told before. It is owed that until it
// has got it.
func (r *Roster) restored(u hook.User, s hook.Session) {
	c, blocked := r.contacts.Get(u), r.blocks.Get(u).jids.kept
	for _, what := range owed(s) {
		list, name, _ := strings.Cut(what, " ")
		var who jid.JID
		if name != "" {
			var err error
			if who, err = jid.Parse(name); err != nil {
				continue
			}
		}
		switch {
		case list == ns.Roster && name != "":
			item := c.items.kept[who]
			item.Contact = who
			r.tell(u, s, rosterQuery(c.kept, item), who)
		case list == ns.Roster:
			s.Enable(what, false) // unless there is somebody
			for contact, item := range c.items.kept {
				if item.Listed && !s.Enabled(list+" "+contact.String()) {
					r.tell(u, s, rosterQuery(c.kept, item), who)
				}
			}
		case name != "":
			verb := "unblock"
			if _, ok := blocked[who]; ok {
				verb = "block"
			}
			r.tell(u, s, blockItems(verb, []jid.JID{who}), who)
		default:
			r.tell(u, s, blockItems("block", slices.SortedFunc(maps.Keys(blocked), jid.Compare)), who)
		}
	}
	r.arrive(u, s)
}

// owed is what a session is owed, as in debt.
func owed(s hook.Session) (list []string) {
	for _, what := range s.(*session.Session).AllEnabled() {
		if strings.HasPrefix(what, ns.Roster+" ") || strings.HasPrefix(what, ns.Blocking+" ") {
			list = append(list, what)
		}
	}
	return list
}
