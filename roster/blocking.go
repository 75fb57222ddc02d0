package roster

import (
	"fmt"
	"maps"
	"slices"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// blocks is the blocklist of one user. Sessions for which ns.Blocking is enabled have asked for it and get pushes.
type blocks struct{ jids mirror[struct{}] }

func loadBlocks(tx storage.Tx, owner jid.JID) (*blocks, error) {
	jids, err := tx.Blocklists().Get(owner)
	if err != nil {
		return nil, fmt.Errorf("load blocklist: %w", err)
	}
	b := new(blocks)
	b.jids.kept = setOf(jids)
	return b, nil
}

// blocked says whether a user wants to have nothing to do with an entity. The user's own resources
// are never blocked (XEP-0191 section 5), nor is the user's server, which could not even confirm
// that the block is gone.
func (r *Roster) blocked(u hook.User, entity jid.JID) bool {
	list := r.blocks.Get(u).jids.kept
	return len(list) > 0 && entity.Bare() != u.JID() && entity != u.JID().Server() && matches(list, entity)
}

// matches looks for an entity in a blocklist: itself, its bare JID, its domain (XEP-0191 section 6).
// An entry with a resource is for that resource only.
func matches(list map[jid.JID]struct{}, entity jid.JID) bool {
	for _, j := range [...]jid.JID{entity, entity.Bare(), entity.Server()} {
		if _, ok := list[j]; ok {
			return true
		}
	}
	return false
}

// outgoingBlocked refuses what the user's client sends to a blocked JID (XEP-0191 section 3.3).
func (r *Roster) outgoingBlocked(u hook.User, _ hook.Session, st *stanza.Stanza) hook.Verdict {
	if !r.blocked(u, st.To) {
		return hook.Pass
	}
	e := stanza.NotAcceptable("you have blocked this address").WithApp(element.Leaf("blocked", ns.BlockingErr, ""))
	e.Type = stanza.Cancel
	return hook.Refuse(e)
}

// incomingBlocked makes the user seem offline to a blocked JID (XEP-0191 section 3.3). Messages that
// nobody wrote to the user in person are dropped without an error, for a chat room takes an error as
// a sign that the user has left.
func (r *Roster) incomingBlocked(u hook.User, st *stanza.Stanza) hook.Verdict {
	switch {
	case !r.blocked(u, st.From):
		return hook.Pass
	case st.IsRequest(), st.Kind == stanza.Message && (st.Type == "chat" || st.Type == "normal"):
		return hook.Refuse(stanza.ServiceUnavailable(""))
	}
	return hook.Handled
}

// blocklist answers with the list and notes that this session wants to hear of changes (XEP-0191
// section 3.2).
func (r *Roster) blocklist(q *module.Query) {
	r.on(q, func(u hook.User) {
		b := r.blocks.Get(u)
		if s := u.Session(q.From); s != nil {
			s.Enable(ns.Blocking, true)
		}
		jids := slices.SortedFunc(maps.Keys(b.jids.kept), jid.Compare)
		answer(u, q, nil, blockItems("blocklist", jids))
	})
}

// block adds to the list (XEP-0191 section 3.3).
func (r *Roster) block(q *module.Query) {
	jids, err := parseBlockItems(q.Payload())
	if err == nil && len(jids) == 0 {
		err = stanza.BadRequest("nothing to block")
	}
	if err != nil {
		q.Fail(err)
		return
	}
	r.on(q, func(u hook.User) {
		b := r.blocks.Get(u)
		added := slices.DeleteFunc(slices.Clone(jids), func(j jid.JID) bool {
			_, known := b.jids.latest(j)
			return known
		})
		if limit := r.options.MaxItems; limit > 0 && b.jids.size()+len(added) > limit {
			answer(u, q, stanza.ResourceConstraint("the blocklist is full"))
			return
		}
		r.reblock(u, q, jids, added, true)
	})
}

// unblock removes from the list, everything where it names nothing (XEP-0191 sections 3.4 and 3.5).
func (r *Roster) unblock(q *module.Query) {
	jids, err := parseBlockItems(q.Payload())
	if err != nil {
		q.Fail(err)
		return
	}
	r.on(q, func(u hook.User) {
		var removed []jid.JID
		named := setOf(jids)
		for j := range r.blocks.Get(u).jids.all() {
			if _, ok := named[j]; ok || len(jids) == 0 {
				removed = append(removed, j)
			}
		}
		r.reblock(u, q, jids, removed, false)
	})
}

// reblock blocks or unblocks changed. When that is kept those who may see the user's presence stop or
// begin to see it, the sessions that asked for the list get what was asked for as a push, and the
// client its answer.
func (r *Roster) reblock(u hook.User, q *module.Query, asked, changed []jid.JID, block bool) {
	b := r.blocks.Get(u)
	var settle []func(error)
	for _, j := range changed {
		settle = append(settle, b.jids.put(j, struct{}{}, block))
	}
	pushed := r.owe(u, wantsBlocklist, ns.Blocking, changed...)
	var ticket *storage.Ticket
	if len(changed) > 0 {
		ticket = u.Submit(func(tx storage.Tx) error {
			if block {
				return tx.Blocklists().Add(u.JID(), changed...)
			}
			return tx.Blocklists().Remove(u.JID(), changed...)
		})
	}
	r.ledger.after(u, ticket, func(u hook.User, err error) {
		defer pushed()
		was := r.touched(u, changed)
		for _, done := range settle {
			done(err)
		}
		if err != nil {
			answer(u, q, err)
			return
		}
		for entity, blocked := range was {
			switch now := r.blocked(u, entity); {
			case now && !blocked:
				r.vanish(u, entity)
			case blocked && !now:
				r.reappear(u, entity)
			}
		}
		r.push(u, wantsBlocklist, blockItems(q.Payload().Name(), asked), changed...)
		answer(u, q, nil)
	})
}

// touched are the entities for whom presence may change when these entries come or go, and whether
// they are blocked before: contacts, single resources of contacts that have an entry of their own,
// and those who got directed presence.
func (r *Roster) touched(u hook.User, entries []jid.JID) map[jid.JID]bool {
	list := setOf(entries)
	was := make(map[jid.JID]bool)
	for entry := range list {
		if !entry.IsBare() {
			was[entry] = r.blocked(u, entry)
		}
	}
	touch := func(entity jid.JID) {
		if matches(list, entity) {
			was[entity] = r.blocked(u, entity)
		}
	}
	for contact := range r.contacts.Get(u).items.kept {
		touch(contact)
	}
	for _, s := range u.Sessions() {
		for entity := range *s.Directed() {
			touch(entity)
		}
	}
	return was
}

// vanish makes the user's resources unavailable to somebody who was blocked and who saw them, by a
// subscription or by directed presence.
func (r *Roster) vanish(u hook.User, entity jid.JID) {
	for _, s := range u.Sessions() {
		_, directed := (*s.Directed())[entity]
		if directed || s.Available() && r.Subscribed(u, entity) {
			u.Route(stanza.New(stanza.Presence, "unavailable", "", s.JID(), entity))
		}
		delete(*s.Directed(), entity)
	}
}

// reappear undoes what a block did between the user and a contact. What the contact's presence was
// meanwhile the user does not know, so the server asks.
func (r *Roster) reappear(u hook.User, entity jid.JID) {
	item := r.contacts.Get(u).items.kept[entity.Bare()]
	if item.From {
		r.show(u, entity)
	}
	if item.To {
		u.Route(stanza.New(stanza.Presence, "probe", "", u.JID(), item.Contact))
	}
}

// parseBlockItems reads the JIDs of a request, each once.
func parseBlockItems(request element.Element) ([]jid.JID, error) {
	set := make(map[jid.JID]struct{})
	for child := range request.Children() {
		if !child.Is("item", ns.Blocking) {
			continue
		}
		j, err := jid.Parse(child.Attr("jid"))
		if err != nil {
			return nil, stanza.JIDMalformed(err.Error())
		}
		set[j.Clone()] = struct{}{}
	}
	return slices.SortedFunc(maps.Keys(set), jid.Compare), nil
}

func setOf(jids []jid.JID) map[jid.JID]struct{} {
	set := make(map[jid.JID]struct{}, len(jids))
	for _, j := range jids {
		set[j] = struct{}{}
	}
	return set
}

// blockItems is the payload of an answer or a push: blocklist, block or unblock.
func blockItems(name string, jids []jid.JID) element.Element {
	w := element.Start(name, ns.Blocking)
	for _, j := range jids {
		w.Open("item", ns.Blocking).Attr("jid", j.String()).Close()
	}
	return w.Element()
}
