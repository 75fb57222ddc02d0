package c2s

import (
	"crypto/rand"
	"errors"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// inline announces that a resource can be bound with the login, and what of the session can be
// enabled with it (XEP-0386 section 3.1).
func (s *Server) inline() element.Element {
	w := element.Start("bind", ns.Bind2).Open("inline", ns.Bind2)
	w.Open("feature", ns.Bind2).Attr("var", ns.SM).Close()
	for _, i := range s.Inline {
		w.Open("feature", ns.Bind2).Attr("var", i.NS).Close()
	}
	return w.Close().Element()
}

// bindResource makes the session of a request with <bind/> (XEP-0386 section 3.2), and calls announce
// with its address and <bound/> before anybody can send to it. Offline messages stay for the initial
// presence, unless the client says that it gets them from the archive: not every client that binds
// like this knows archives.
func (r *request) bindResource(announce func(full jid.JID, bound element.Element)) error {
	full, err := resource(r.account, r.bind.Child("tag", ns.Bind2).Text())
	if err != nil {
		return err
	}
	err = r.client.open(full, r.agent, r.exchange.Epoch(), func(u *session.User, s *session.Session) {
		w := element.Start("bound", ns.Bind2)
		for _, i := range r.client.server.Inline {
			if asked := wish(r.bind, i.NS); i.Always || !asked.IsZero() {
				w.Add(i.Enable(u, s, asked))
			}
		}
		enable := r.bind.Child("enable", ns.SM)
		if enable.IsZero() {
			announce(full, w.Element())
			return
		}
		o := r.client.outlet
		bound := w.Add(o.enabled(enable)).Element()
		o.ledger.Start(o.recorded(), func() { announce(full, bound) })
	})
	if errors.Is(err, session.ErrTooMany) {
		return &stanza.StreamError{Condition: stanza.StreamResourceConstraint, Text: "too many sessions"}
	}
	return err
}

// wish is what a client asks for in a namespace while it binds.
func wish(bind element.Element, namespace string) element.Element {
	for child := range bind.Children() {
		if child.NS() == namespace {
			return child
		}
	}
	return element.Element{}
}

// resource is the client's tag and an identifier of ours, a new one each time; one that is no part of
// a resource is left out (section 3.2.1).
func resource(account jid.JID, tag string) (jid.JID, error) {
	id := rand.Text()[:12]
	if tag != "" {
		if full, err := account.WithResource(tag + "/" + id); err == nil {
			return full, nil
		}
	}
	return account.WithResource(id)
}
