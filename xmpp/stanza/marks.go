package stanza

import (
	"slices"
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
	for child := range e.Named("delay", ns.Delay) {
		if claims(child.Attr("from"), by) {
			return true
		}
	}
	return false
}

// Identify returns e with the id that by has given it (XEP-0359).
func Identify(e element.Element, by jid.JID, id string) element.Element {
	return e.With(element.Start("stanza-id", ns.StanzaID).Attr("by", by.Bare().String()).Attr("id", id).Element())
}

// Identified is the id that by has given e, "" for none. From outside of this server nobody can have put
// it there, see StripClaims.
func Identified(e element.Element, by jid.JID) string {
	for child := range e.Named("stanza-id", ns.StanzaID) {
		if claims(child.Attr("by"), by) {
			return child.Attr("id")
		}
	}
	return ""
}

// Lasting says whether a message is to reach its recipient however long that takes (XEP-0160 section 3, with
// the hints of XEP-0334 section 4). A chat state, a headline or an error is of the moment.
func (s Stanza) Lasting() bool {
	switch {
	case s.Kind != Message, s.Type != "chat" && s.Type != "normal", Hinted(s.Element, "no-store"):
		return false
	case Hinted(s.Element, "store"):
		return true
	}
	return !onlyChatState(s.Element)
}

// Hinted says whether a message bears a hint (XEP-0334).
func Hinted(message element.Element, hint string) bool {
	return !message.Child(hint, ns.Hints).IsZero()
}

// onlyChatState says whether a message tells that its sender is typing, and nothing else. A thread,
// or what servers add on the way, is nothing else.
func onlyChatState(message element.Element) bool {
	state := false
	for child := range message.Children() {
		switch child.NS() {
		case ns.ChatStates:
			state = true
		case ns.Hints, ns.StanzaID, ns.Delay:
		default:
			if !child.Is("thread", ns.Client) {
				return false
			}
		}
	}
	return state
}

// Carbon is a copy, for one session of an account, of a message that another one has received or sent (XEP-0280 sections 7 and 8).
func Carbon(message element.Element, account, to jid.JID, sent bool) element.Element {
	name := "received"
	if sent {
		name = "sent"
	}
	w := element.Start("message", ns.Client).Attr("from", account.Bare().String()).Attr("to", to.String())
	if kind := message.Attr("type"); kind != "" {
		w.Attr("type", kind)
	}
	forwarded := element.Start("forwarded", ns.Forward).Add(message).Element()
	return w.Add(element.Start(name, ns.Carbons).Add(forwarded).Element()).Element()
}

// StripClaims returns e without the direct children that only one of by, or its server, may put there:
// every stanza-id (XEP-0359 section 6) and delay (XEP-0203) that claims to be theirs is forged where
// it comes from outside, and so is every copy, which servers make for their own users only (XEP-0280
// section 11). Payloads, forwarded ones among them, are not looked into.
func StripClaims(e element.Element, by ...jid.JID) element.Element {
	return e.Without(func(child element.Element) bool {
		switch {
		case child.Is("stanza-id", ns.StanzaID):
			return claims(child.Attr("by"), by...)
		case child.Is("delay", ns.Delay):
			return claims(child.Attr("from"), by...)
		}
		return child.Is("received", ns.Carbons) || child.Is("sent", ns.Carbons)
	})
}

// claims compares addresses and not strings, since a client may take another spelling of an address
// for the address.
func claims(claimed string, by ...jid.JID) bool {
	j, err := jid.Parse(claimed)
	return err == nil && slices.ContainsFunc(by, func(by jid.JID) bool { return j.Bare() == by.Bare() || j == by.Server() })
}
