// Package stanza gives names to what RFC 6120 section 8 says of an element: message, presence and iq
// with their addresses, types and ids, how each is answered, and the errors of stanzas and streams.
// Streams parse what arrives with Parse; router, session and every feature pass on a Stanza and make
// new ones with New, Result and ErrorReply. Nothing here does I/O.
package stanza

import (
	"errors"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// Kind is one of the three stanzas.
type Kind uint8

// The kinds of RFC 6120 section 8.2. The zero Kind is none.
const (
	Message Kind = iota + 1
	Presence
	IQ
)

// String returns the name of the stanza's element.
func (k Kind) String() string {
	switch k {
	case Message:
		return "message"
	case Presence:
		return "presence"
	case IQ:
		return "iq"
	}
	return "none"
}

// Stanza is a message, presence or iq with its addresses read. The fields are what Element's
// attributes mean, for reading; change them with the With methods, which change Element too. A copy
// costs little and shares nothing that changes.
type Stanza struct {
	Kind Kind
	// Type is never empty for messages, where it is "normal" when it is absent or unknown (RFC 6121
	// section 5.2.2). It is empty for available presence.
	Type     string
	ID       string
	To, From jid.JID // zero when absent
	Element  element.Element

	receipts Receipts
	number   uint32
	course   any
}

// ErrNotStanza is what Parse says of an element that is none of the three.
var ErrNotStanza = errors.New("stanza: neither message nor presence nor iq")

// Parse reads an element that came from a stream. The error is ErrNotStanza or an *Error fit for
// Stanza.ErrorReply: jid-malformed for an address (RFC 6120 section 8.3.3.8), bad-request for an iq
// that breaks the rules of section 8.2.3 or presence of a type that does not exist (RFC 6121 section
// 4.7.1). With an *Error the Stanza has all that could be read.
func Parse(e element.Element) (Stanza, error) {
	s := Stanza{Element: e}
	switch {
	case e.Is("message", ns.Client):
		s.Kind = Message
	case e.Is("presence", ns.Client):
		s.Kind = Presence
	case e.Is("iq", ns.Client):
		s.Kind = IQ
	default:
		return Stanza{}, ErrNotStanza
	}
	var toErr, fromErr error
	for a := range e.Attrs() {
		if a.NS != "" {
			continue
		}
		switch a.Name {
		case "to":
			s.To, toErr = jid.Parse(a.Value)
		case "from":
			s.From, fromErr = jid.Parse(a.Value)
		case "id":
			s.ID = a.Value
		case "type":
			s.Type = a.Value
		}
	}
	err := s.checkType()
	switch {
	case toErr != nil:
		err = JIDMalformed("to: " + toErr.Error())
	case fromErr != nil:
		err = JIDMalformed("from: " + fromErr.Error())
	}
	if err != nil {
		return s, err
	}
	return s, nil
}

// checkType brings Type into its normal form and holds an iq to its rules.
func (s *Stanza) checkType() *Error {
	switch s.Kind {
	case Message:
		s.Type = messageType(s.Type)
	case Presence:
		switch s.Type {
		case "", "unavailable", "subscribe", "subscribed", "unsubscribe", "unsubscribed", "probe", "error":
		default:
			return BadRequest("presence of an unknown type")
		}
	case IQ:
		if s.ID == "" {
			return BadRequest("iq without id")
		}
		switch s.Type {
		case "get", "set":
			payloads := 0
			for range s.Element.Children() {
				payloads++
			}
			if payloads != 1 {
				return BadRequest("a request has exactly one payload")
			}
		case "result", "error":
		default:
			return BadRequest("iq of an unknown type")
		}
	}
	return nil
}

func messageType(t string) string {
	switch t {
	case "chat", "groupchat", "headline", "error":
		return t
	}
	return "normal"
}

// New makes a stanza. An empty id, a zero address and the default type (normal for a message,
// available for presence) are not written.
func New(kind Kind, typ, id string, from, to jid.JID, children ...element.Element) Stanza {
	s := Stanza{Kind: kind, Type: typ, ID: id, To: to, From: from}
	if kind == Message {
		if s.Type = messageType(typ); s.Type == "normal" {
			typ = ""
		}
	}
	w := element.Start(kind.String(), ns.Client)
	for _, a := range [...]struct{ name, value string }{
		{"type", typ}, {"id", id}, {"from", from.String()}, {"to", to.String()},
	} {
		if a.value != "" {
			w.Attr(a.name, a.value)
		}
	}
	for _, child := range children {
		w.Add(child)
	}
	s.Element = w.Element()
	return s
}

// WithTo returns s addressed to j, or without address when j is zero.
func (s Stanza) WithTo(j jid.JID) Stanza {
	s.To, s.Element = j, set(s.Element, "to", j.String())
	return s
}

// WithFrom returns s sent by j, or without sender when j is zero.
func (s Stanza) WithFrom(j jid.JID) Stanza {
	s.From, s.Element = j, set(s.Element, "from", j.String())
	return s
}

// WithID returns s with another id, or without one.
func (s Stanza) WithID(id string) Stanza {
	s.ID, s.Element = id, set(s.Element, "id", id)
	return s
}

// WithElement returns s with an element that differs from the old one only in its children.
func (s Stanza) WithElement(e element.Element) Stanza {
	s.Element = e
	return s
}

// set costs nothing where the attribute has the value already.
func set(e element.Element, name, value string) element.Element {
	if old, ok := e.LookupAttr(name); ok && old == value && value != "" {
		return e
	}
	return e.WithAttr(name, value)
}

// Payload returns the first child, which in an iq is what it is about.
func (s Stanza) Payload() element.Element { return s.Element.Payload() }

// IsRequest reports whether s is an iq that must be answered: a get or a set.
func (s Stanza) IsRequest() bool { return s.Kind == IQ && (s.Type == "get" || s.Type == "set") }

// Result answers a request.
func (s Stanza) Result(payload ...element.Element) Stanza {
	return New(IQ, "result", s.ID, s.To, s.From, payload...)
}

// ErrorReply answers s with an error of the same kind and id. It is not ok to answer an error or the
// result of a request (RFC 6120 sections 8.2.3 and 8.3.1), nor what is no stanza.
func (s Stanza) ErrorReply(err *Error) (reply Stanza, ok bool) {
	if s.Kind == 0 || s.Type == "error" || s.Kind == IQ && s.Type == "result" {
		return Stanza{}, false
	}
	return New(s.Kind, "error", s.ID, s.To, s.From, err.Element()), true
}
