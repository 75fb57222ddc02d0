package roster

import (
	"tombolo/storage"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/stanza"
)

// presence spreads a session's own presence (RFC 6121 sections 4.2.2, 4.4.2 and 4.5.2).
func (r *Roster) presence(u hook.User, s hook.Session, st, was stanza.Stanza) {
	wasAvailable := !was.Element.IsZero()
	switch {
	case st.Type == "":
		r.broadcast(u, s, st)
		if !wasAvailable {
			r.arrive(u, s)
		}
	case wasAvailable:
		r.broadcast(u, s, st)
		r.departDirected(u, s, st, true)
		r.remember(u, st)
	default:
		r.departDirected(u, s, st, false)
	}
}

// broadcast sends presence to those who are subscribed to it, and to the user's own available
// resources, which are so by nature; the one that it is from counts among them while it is bound.
func (r *Roster) broadcast(u hook.User, s hook.Session, st stanza.Stanza) {
	for contact, item := range r.contacts.Get(u).items.kept {
		if item.From && !r.blocked(u, contact) {
			u.Route(st.WithTo(contact))
		}
	}
	own := st.WithTo(u.JID()).Element
	for _, other := range u.Sessions() {
		if other.Available() || other == s {
			other.Send(own)
		}
	}
}

// arrive shows a session that became available what it has missed: the user's other resources, the
// contacts' presence (RFC 6121 section 4.3.1), and the requests that wait for an answer (3.1.3).
// A contact who never answered a request of the user may not have got it, and gets it again (3.1.2).
func (r *Roster) arrive(u hook.User, s hook.Session) {
	for _, other := range u.Sessions() {
		if other != s && other.Available() {
			s.Send(other.Presence().WithTo(u.JID()).Element)
		}
	}
	c := r.contacts.Get(u)
	for contact, item := range c.items.kept {
		if r.blocked(u, contact) {
			continue
		}
		if item.PendingIn != "" && c.item(contact).PendingIn != "" {
			if request, ok := r.read(u, item.PendingIn); ok {
				s.Send(request.Element)
			}
		}
		if item.To {
			u.Route(stanza.New(stanza.Presence, "probe", "", u.JID(), contact))
		}
		if item.Ask {
			u.Route(stanza.New(stanza.Presence, "subscribe", "", u.JID(), contact))
		}
	}
}

// direct remembers who gets presence by direct address from a session and must learn that it ended
// (RFC 6121 section 4.6.3). Subscribers of an available session learn it by broadcast.
func (r *Roster) direct(u hook.User, s hook.Session, st stanza.Stanza) hook.Verdict {
	directed := s.Directed()
	_, known := (*directed)[st.To]
	switch {
	case st.Type == "unavailable":
		delete(*directed, st.To)
	case known, s.Available() && r.Subscribed(u, st.To):
	case r.options.MaxDirected > 0 && len(*directed) >= r.options.MaxDirected:
		r.options.Counters.Hit("limit: directed_presences")
		return hook.Refuse(stanza.ResourceConstraint("directed presence to too many entities"))
	default:
		if *directed == nil {
			*directed = make(hook.Directed)
		}
		(*directed)[st.To.Clone()] = struct{}{}
	}
	return hook.Pass
}

// departDirected sends unavailable presence to those who got directed presence, save those who have
// it by broadcast (RFC 6121 sections 4.5.2 and 4.6.3).
func (r *Roster) departDirected(u hook.User, s hook.Session, st stanza.Stanza, broadcast bool) {
	directed := s.Directed()
	for entity := range *directed {
		if !broadcast || !r.Subscribed(u, entity) {
			u.Route(st.WithTo(entity))
		}
	}
	*directed = nil
}

// remember keeps the last unavailable presence for probes that find nobody (RFC 6121 section 4.3.2)
// and for XEP-0012. Nothing waits for it: if it is lost, so is only the moment of leaving.
func (r *Roster) remember(u hook.User, st stanza.Stanza) {
	c := r.contacts.Get(u)
	last, at := bounded(st).Element.String(), r.host.Now()
	c.last, c.lastTime = last, at
	u.Defer(func(tx storage.Tx) error { return tx.LastPresence().Put(u.JID(), last, at) })
}

// probe answers who asks for the user's presence (RFC 6121 section 4.3.2), or for that of one
// resource.
func (r *Roster) probe(u hook.User, st stanza.Stanza) {
	if !r.Subscribed(u, st.From) {
		r.turnAway(u, st)
		return
	}
	available := false
	for _, s := range u.Sessions() {
		if s.Available() && (st.To.IsBare() || st.To == s.JID()) {
			u.Route(s.Presence().WithTo(st.From))
			available = true
		}
	}
	if !available {
		u.Route(r.absence(u, st).WithTo(st.From))
	}
}

// absence is what a probe gets that finds nobody: the last word of the user and when it was said, if
// there was one and the probe is not for another resource.
func (r *Roster) absence(u hook.User, probe stanza.Stanza) stanza.Stanza {
	c := r.contacts.Get(u)
	if c.last != "" && probe.To.IsBare() {
		if last, ok := r.read(u, c.last); ok {
			return last.WithElement(stanza.Delay(last.Element, u.JID(), c.lastTime))
		}
	}
	return stanza.New(stanza.Presence, "unavailable", "", probe.To, probe.From)
}

// turnAway answers a probe from somebody without a subscription: whose server should not believe
// that there is one, unless it is about a resource that has shown itself by directed presence
// (RFC 6121 section 4.6.6). Of that one it is said that it is there, and no more.
func (r *Roster) turnAway(u hook.User, st stanza.Stanza) {
	if s := u.Session(st.To); s != nil {
		if _, ok := (*s.Directed())[st.From]; ok {
			u.Route(stanza.New(stanza.Presence, "", "", s.JID(), st.From))
			return
		}
	}
	u.Route(stanza.New(stanza.Presence, "unsubscribed", "", u.JID(), st.From.Bare()))
}

// show sends the presence of the user's available resources to somebody who may now see it.
func (r *Roster) show(u hook.User, entity jid.JID) {
	for _, s := range u.Sessions() {
		if s.Available() && !r.blocked(u, entity) {
			u.Route(s.Presence().WithTo(entity))
		}
	}
}

// hide makes the user's resources unavailable to a contact who may no longer see them, also where
// the contact saw them by directed presence.
func (r *Roster) hide(u hook.User, contact jid.JID) {
	for _, s := range u.Sessions() {
		directed := s.Directed()
		if s.Available() && !r.blocked(u, contact) {
			u.Route(stanza.New(stanza.Presence, "unavailable", "", s.JID(), contact))
			delete(*directed, contact)
		}
		for entity := range *directed {
			if entity.Bare() == contact {
				u.Route(stanza.New(stanza.Presence, "unavailable", "", s.JID(), entity))
				delete(*directed, entity)
			}
		}
	}
}
