// Package stanza gives meaning to top-level elements: message, presence and iq (RFC 6120 section 8),
// their addresses, their errors, and the errors of streams. Everything that routes or answers
// stanzas uses it. Start with Parse; to make a stanza, with New and the reply methods of Stanza.
package stanza

import (
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// Kind is one of the three kinds of stanza.
type Kind uint8

// The zero Kind is none of them.
const (
	Message Kind = iota + 1
	Presence
	IQ
)

var kindNames = [...]string{"", "message", "presence", "iq"}

// String is the element's name.
func (k Kind) String() string { return kindNames[k] }

// A Stanza is an element of the content namespace with its addresses parsed. It is a value; the
// methods that change something return a new one in which fields and element agree.
type Stanza struct {
	Kind Kind
	// Type is as the RFC reads it: a message of no or an unknown type is "normal" (RFC 6121 section
	// 5.2.2), an available presence is "".
	Type     string
	ID       string
	To, From jid.JID
	Element  element.Element
}

// Parse reads a stanza. An error that is a *Error can be answered: the Stanza that comes with it has
// what ErrorReply needs. Any other error means that the element is not a stanza at all.
func Parse(e element.Element) (Stanza, error) {
	st := Stanza{Element: e}
	switch {
	case e.NS() != ns.Client:
		return st, errNotStanza
	case e.Name() == "message":
		st.Kind = Message
	case e.Name() == "presence":
		st.Kind = Presence
	case e.Name() == "iq":
		st.Kind = IQ
	default:
		return st, errNotStanza
	}
	var to, from string
	for a := range e.Attrs() {
		if a.NS != "" {
			continue
		}
		switch a.Name {
		case "to":
			to = a.Value
		case "from":
			from = a.Value
		case "id":
			st.ID = a.Value
		case "type":
			st.Type = a.Value
		}
	}
	if from != "" {
		var err error
		if st.From, err = jid.Parse(from); err != nil {
			return st, JIDMalformed("from: " + err.Error())
		}
	}
	if to != "" {
		var err error
		if st.To, err = jid.Parse(to); err != nil {
			return st, JIDMalformed("to: " + err.Error())
		}
	}
	return st, st.check()
}

// check holds the type, and for an IQ the payload, against RFC 6120 section 8.2.3 and RFC 6121
// sections 4.7.1 and 5.2.2.
func (s *Stanza) check() error {
	switch s.Kind {
	case Message:
		switch s.Type {
		case "normal", "chat", "groupchat", "headline", "error":
		default:
			s.Type = "normal"
		}
	case Presence:
		switch s.Type {
		case "", "unavailable", "subscribe", "subscribed", "unsubscribe", "unsubscribed", "probe", "error":
		default:
			return BadRequest("presence of an unknown type")
		}
	case IQ:
		if s.ID == "" {
			return BadRequest("an iq needs an id")
		}
		switch s.Type {
		case "get", "set":
			n := 0
			for range s.Element.Children() {
				n++
			}
			if n != 1 {
				return BadRequest("an iq of type get or set needs exactly one child element")
			}
		case "result", "error":
		default:
			return BadRequest("iq of an unknown type")
		}
	}
	return nil
}

// New makes a stanza. An empty id or address is left out.
func New(kind Kind, typ, id string, from, to jid.JID, children ...element.Element) Stanza {
	w := element.Start(kind.String(), ns.Client)
	for _, a := range [...]struct{ name, value string }{
		{"type", typ}, {"id", id}, {"from", from.String()}, {"to", to.String()},
	} {
		if a.value != "" {
			w.Attr(a.name, a.value)
		}
	}
	for _, c := range children {
		w.Add(c)
	}
	st := Stanza{Kind: kind, Type: typ, ID: id, To: to, From: from, Element: w.Element()}
	if kind == Message && typ == "" {
		st.Type = "normal"
	}
	return st
}

// IsRequest says whether the stanza is an IQ that wants an answer.
func (s Stanza) IsRequest() bool { return s.Kind == IQ && (s.Type == "get" || s.Type == "set") }

// Payload is the first child element, which an IQ request has exactly one of.
func (s Stanza) Payload() element.Element { return s.Element.Payload() }

// WithFrom replaces the sender.
func (s Stanza) WithFrom(from jid.JID) Stanza {
	s.From, s.Element = from, s.Element.WithAttr("from", from.String())
	return s
}

// WithTo replaces the recipient.
func (s Stanza) WithTo(to jid.JID) Stanza {
	s.To, s.Element = to, s.Element.WithAttr("to", to.String())
	return s
}

// WithElement replaces the element by one that differs only in its children.
func (s Stanza) WithElement(e element.Element) Stanza {
	s.Element = e
	return s
}

// Result is the answer of success to an IQ request.
func (s Stanza) Result(payload ...element.Element) Stanza {
	return New(IQ, "result", s.ID, s.To, s.From, payload...)
}

// ErrorReply returns the stanza to its sender with an error. There is none to an error, to an IQ
// result (RFC 6120 sections 8.3.1 and 8.2.3), or to what is not a stanza.
func (s Stanza) ErrorReply(err *Error) (Stanza, bool) {
	if s.Kind == 0 || s.Type == "error" || s.Kind == IQ && s.Type == "result" {
		return Stanza{}, false
	}
	return New(s.Kind, "error", s.ID, s.To, s.From, err.Element()), true
}

// Delay adds when and by whom the element was held up (XEP-0203), in the format of XEP-0082.
func Delay(e element.Element, by jid.JID, at time.Time) element.Element {
	return e.With(element.Start("delay", ns.Delay).
		Attr("from", by.String()).Attr("stamp", at.UTC().Format("2006-01-02T15:04:05.000Z")).Element())
}

// StripClaims removes the children that only the entity named by may add: stanza ids and delays that
// claim to be its own (XEP-0359 section 6, XEP-0203 section 5), however many there are. Those inside
// forwarded stanzas are left alone.
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

// claims compares as addresses, so that another spelling of the same JID is the same claim. The
// entity's server speaks for it, too.
func claims(claimed string, by jid.JID) bool {
	j, err := jid.Parse(claimed)
	return err == nil && (j.Bare() == by.Bare() || j.Bare() == by.Server())
}
