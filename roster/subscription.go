package roster

import (
	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// maxKept bounds, in bytes, a presence stanza that is kept for others to be shown later: a request
// for a subscription, or the last unavailable presence.
const maxKept = 8 << 10

// outgoing takes presence with an address: subscription stanzas are the server's to carry out
// (RFC 6121 section 3), directed presence it must remember (section 4.6).
func (r *Roster) outgoing(u hook.User, s hook.Session, st *stanza.Stanza) hook.Verdict {
	if st.Kind != stanza.Presence {
		return hook.Pass
	}
	switch st.Type {
	case "subscribe", "subscribed", "unsubscribe", "unsubscribed":
		return r.send(u, *st)
	case "", "unavailable":
		return r.direct(u, s, *st)
	}
	return hook.Pass
}

// incoming takes subscription stanzas and probes for a local user. Presence itself, and errors, are
// delivered by the rules of RFC 6121 section 8.5; but where a change that concerns the sender is on
// its way to the store they wait for it, lest a contact's first presence come before the news of the
// subscription (section 3.1.6).
func (r *Roster) incoming(u hook.User, st *stanza.Stanza) hook.Verdict {
	if st.Kind != stanza.Presence {
		return hook.Pass
	}
	arrived := *st
	switch st.Type {
	case "subscribe", "subscribed", "unsubscribe", "unsubscribed":
		return r.receive(u, arrived)
	case "probe":
		r.ledger.after(u, nil, func(u hook.User, _ error) { r.probe(u, arrived) })
		return hook.Handled
	}
	if r.contacts.Get(u).items.ahead[st.From.Bare()] == nil {
		return hook.Pass
	}
	r.ledger.after(u, nil, func(u hook.User, _ error) { u.Deliver(arrived) })
	return hook.Handled
}

// send carries out a subscription stanza that the user's client sends (RFC 6121 sections 3.1.2,
// 3.1.5, 3.2.2, 3.3.2 and 3.4.2). Subscriptions are between bare JIDs, and nobody subscribes to
// their own presence: it is shared among their resources anyway.
func (r *Roster) send(u hook.User, sent stanza.Stanza) hook.Verdict {
	contact := sent.To.Bare()
	if contact == u.JID() {
		return hook.Handled
	}
	c := r.contacts.Get(u)
	if sent.Type == "subscribe" && c.ask(r.host.Now(), r.options.RequestsPerMinute) {
		r.options.Counters.Hit("limit: subscription_requests_per_minute")
		return hook.Refuse(stanza.ResourceConstraint("too many requests for subscriptions in a minute"))
	}
	was := c.item(contact)
	item, does := afterSending(was, sent.Type)
	if item.Listed && !was.Listed && c.full(r.options.MaxItems, item) {
		return hook.Refuse(stanza.ResourceConstraint("the roster is full"))
	}
	r.change(u, item, func(u hook.User, err error) {
		switch {
		case err != nil:
			refuse(u, sent, err)
			return
		case was.From && !item.From:
			r.hide(u, contact) // while the contact may still see it
		}
		if does.pass {
			u.Route(sent.WithFrom(u.JID()).WithTo(contact))
		}
		if item.From && !was.From {
			r.show(u, contact)
		}
	})
	return hook.Handled
}

// receive carries out a subscription stanza for the user (RFC 6121 sections 3.1.3, 3.1.6, 3.2.3,
// 3.3.3 and 3.4.2).
func (r *Roster) receive(u hook.User, st stanza.Stanza) hook.Verdict {
	contact := st.From.Bare()
	st = st.WithFrom(contact).WithTo(u.JID())
	c := r.contacts.Get(u)
	was := c.item(contact)
	item, does := afterReceiving(was, st)
	if unlisted := !was.Listed && was.PendingIn == "" && item.PendingIn != ""; unlisted &&
		c.full(r.options.MaxItems, item) {
		return hook.Refuse(stanza.ResourceConstraint("too many requests wait for an answer"))
	}
	r.change(u, item, func(u hook.User, err error) {
		switch {
		case err != nil:
			refuse(u, st, err)
			return
		case was.From && !item.From:
			r.hide(u, contact)
		}
		if does.pass {
			for _, s := range u.Sessions() {
				if s.Available() && st.Type == "subscribe" || s.Interested() && st.Type != "subscribe" {
					s.Send(st.Element)
				}
			}
		}
		if does.reply != "" {
			u.Route(stanza.New(stanza.Presence, does.reply, "", u.JID(), contact))
			r.show(u, contact)
		}
	})
	return hook.Handled
}

// afterSending is the relation to a contact after the user has sent a subscription stanza of this
// type, and the row of appendix A.2 that made it so.
func afterSending(item storage.RosterItem, typ string) (storage.RosterItem, rule) {
	does := outbound[typ][stateOf(item)]
	next := does.next.in(item, item.PendingIn)
	switch typ {
	case "subscribe":
		next.Listed = true // section 3.1.2
	case "subscribed":
		// What does not answer a request approves the next one (section 3.4.2).
		next.Approved = item.Approved || !does.pass && !item.From
		next.Listed = true
	case "unsubscribed":
		next.Approved = false // sections 3.2.2 and 3.4.2
	}
	return next, does
}

// afterReceiving is the same for a stanza that the contact has sent, by appendix A.3.
func afterReceiving(item storage.RosterItem, st stanza.Stanza) (storage.RosterItem, rule) {
	s := stateOf(item)
	does := inbound[st.Type][s]
	if st.Type == "subscribe" && does.pass && item.Approved {
		does = preapproved[s]
	}
	request := item.PendingIn
	if request == "" {
		request = bounded(st).Element.String()
	}
	return does.next.in(item, request), does
}

// bounded is a stanza that is small enough to be kept: itself, or what it says without words.
func bounded(st stanza.Stanza) stanza.Stanza {
	if len(st.Element.String()) <= maxKept {
		return st
	}
	return stanza.New(st.Kind, st.Type, "", st.From, st.To)
}

// read brings back a stanza that was kept. Should it not be readable, only that stanza is lost.
func (r *Roster) read(u hook.User, kept string) (st stanza.Stanza, ok bool) {
	e, err := element.ParseOne(kept, ns.Client)
	if err == nil {
		st, err = stanza.Parse(e)
	}
	if err != nil {
		r.host.Log.Error("kept presence cannot be read", "account", u.JID(), "err", err)
	}
	return st, err == nil
}
