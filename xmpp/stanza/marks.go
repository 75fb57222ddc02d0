package stanza

import (
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// Marks that a server puts on the stanzas of others, and those that it takes off because only it may
// put them there.

// Delay returns e marked as held by from since the time at (XEP-0203), in UTC to the millisecond
// (XEP-0082).
func Delay(e element.Element, from jid.JID, at time.Time) element.Element {
	w := element.Start("delay", ns.Delay)
	if !from.IsZero() {
		w.Attr("from", from.String())
	}
	return e.With(w.Attr("stamp", at.UTC().Format("2006-01-02T15:04:05.000Z")).Element())
}

// Delayed reports whether by, or the server of by, has marked e as held.
func Delayed(e element.Element, by jid.JID) bool {
	for child := range e.Children() {
		if child.Is("delay", ns.Delay) && claims(child.Attr("from"), by) {
			return true
		}
	}
	return false
}

// StripClaims returns e without the direct children that only by, or the server of by, may put there:
// every stanza-id (XEP-0359 section 6) and delay (XEP-0203) that claims to be theirs is forged where
// it comes from outside. Payloads, forwarded ones among them, are not looked into.
func StripClaims(e element.Element, by jid.JID) element.Element {
	return e.Without(func(child element.Element) bool {
		switch {
		case child.Is("stanza-id", ns.StanzaID):
			return claims(child.Attr("by"), by)
		case child.Is("delay", ns.Delay):
			return claims(child.Attr("from"), by)
		}
		return false
	})
}

// claims compares addresses and not strings, since a client may take another spelling of an address
// for the address.
func claims(claimed string, by jid.JID) bool {
	j, err := jid.Parse(claimed)
	return err == nil && (j.Bare() == by.Bare() || j == by.Server())
}
