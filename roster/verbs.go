package roster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"tombolo/storage"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/session"
)

// Request is the argument of the verbs roster.list (Account), roster.add (Account, Contact, Name,
// Groups) and roster.remove (Account, Contact).
type Request struct {
	Account jid.JID  `json:"account"`
	Contact jid.JID  `json:"contact"`
	Name    string   `json:"name,omitempty"`
	Groups  []string `json:"groups,omitempty"`
}

// Contact is what roster.list tells of each contact, in the order of their JIDs.
type Contact struct {
	JID          jid.JID  `json:"jid"`
	Name         string   `json:"name,omitempty"`
	Groups       []string `json:"groups,omitempty"`
	Subscription string   `json:"subscription"`       // "none", "to", "from" or "both"
	Listed       bool     `json:"listed"`             // the user's clients see it
	Ask          bool     `json:"ask,omitempty"`      // the user's request waits for an answer
	Requests     bool     `json:"requests,omitempty"` // the contact's request does
	Approved     bool     `json:"approved,omitempty"` // it will be granted when it comes
}

// verbs are what operators can do to a roster. They go the way that the user's own client goes, so
// that clients get pushes and contacts are told. What is added has no subscription: that takes a
// request from one side and a yes from the other.
func (r *Roster) verbs() map[string]module.Verb {
	return map[string]module.Verb{
		"roster.list": r.list,
		"roster.add": r.edit(func(u hook.User, q Request, done func(hook.User, error)) {
			item := storage.RosterItem{Contact: q.Contact, Name: q.Name, Groups: q.Groups}
			if err := checkItem(item); err != nil {
				done(u, err)
				return
			}
			r.set(u, item, done)
		}),
		"roster.remove": r.edit(func(u hook.User, q Request, done func(hook.User, error)) {
			r.remove(u, q.Contact, done)
		}),
	}
}

func (r *Roster) list(_ context.Context, args []byte) (any, error) {
	var q Request
	if err := json.Unmarshal(args, &q); err != nil {
		return nil, fmt.Errorf("roster list: %w", err)
	}
	list := []Contact{}
	err := r.host.Users.Do(q.Account.Bare(), func(u *session.User) {
		for _, item := range r.contacts.Get(u).items.kept {
			list = append(list, Contact{
				JID: item.Contact, Name: item.Name, Groups: item.Groups, Subscription: subscription(item),
				Listed: item.Listed, Ask: item.Ask, Requests: item.PendingIn != "", Approved: item.Approved,
			})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("roster list: %w", err)
	}
	slices.SortFunc(list, func(a, b Contact) int { return jid.Compare(a.JID, b.JID) })
	return list, nil
}

// edit makes a verb of a change; it answers when the change is kept.
func (r *Roster) edit(change func(hook.User, Request, func(hook.User, error))) module.Verb {
	return func(ctx context.Context, args []byte) (any, error) {
		var q Request
		if err := json.Unmarshal(args, &q); err != nil {
			return nil, fmt.Errorf("roster: %w", err)
		}
		if q.Contact = q.Contact.Bare(); q.Contact.IsZero() {
			return nil, fmt.Errorf("roster of %s: no contact given", q.Account)
		}
		done := make(chan error, 1)
		err := r.host.Users.Do(q.Account.Bare(), func(u *session.User) {
			change(u, q, func(_ hook.User, err error) { done <- err })
		})
		if err != nil {
			return nil, fmt.Errorf("roster of %s: %w", q.Account, err)
		}
		select {
		case err = <-done:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("roster of %s: %s: %w", q.Account, q.Contact, err)
		}
		return nil, nil
	}
}
