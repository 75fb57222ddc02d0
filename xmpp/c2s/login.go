package c2s

import (
	"crypto/rand"
	"errors"
	"slices"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/sasl"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// Mechanisms in order of preference; those with channel binding first, because they alone notice a
// TLS peer in the middle (RFC 5802 section 6).
var (
	bound   = []string{"SCRAM-SHA-512-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"}
	unbound = []string{"SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1"}
)

func (s *Server) mechanisms(st *stream.Stream) []string {
	var list []string
	_, exporter := st.Binding("tls-exporter")
	_, endPoint := st.Binding("tls-server-end-point")
	if exporter || endPoint {
		list = append(list, bound...)
	}
	list = append(list, unbound...)
	if s.Plain {
		list = append(list, "PLAIN")
	}
	return slices.Clip(list)
}

func (s *Server) attempt(st *stream.Stream) *sasl.Attempt {
	a := s.Accounts.Attempt(st.Local)
	a.Binding = st.Binding
	return a
}

func (s *Server) accepted(st *stream.Stream, identity string) error {
	account, err := jid.New(identity, st.Local, "")
	if err != nil {
		return &sasl.Failure{Condition: "not-authorized"}
	}
	st.Peer = account.String()
	clientOf(st).account = account
	st.Log = st.Log.With("account", st.Peer)
	return nil
}

// bind is resource binding (RFC 6120 section 7).
func (s *Server) bind() stream.Feature {
	return stream.Feature{
		Name:    "resource binding",
		Needs:   stream.Secure | stream.Authenticated,
		Refuses: stream.Bound,
		Claims: func(e element.Element) bool {
			return e.Is("iq", ns.Client) && e.Payload().Is("bind", ns.Bind)
		},
		Offer: func(*stream.Stream) []element.Element {
			return []element.Element{element.Leaf("bind", ns.Bind, "")}
		},
		Handle: func(st *stream.Stream, e element.Element) (stream.Outcome, error) {
			return clientOf(st).bind(e)
		},
	}
}

// bind makes the session. A resource that the client asks for is taken if it can be one; else it is
// told so and may try again (RFC 6120 section 7.7.2).
func (c *client) bind(e element.Element) (stream.Outcome, error) {
	request, err := stanza.Parse(e)
	if err == nil && request.Type != "set" {
		err = stanza.BadRequest("a resource is bound by a set")
	}
	wanted := e.Payload().Child("resource", ns.Bind).Text()
	if wanted == "" {
		wanted = rand.Text()[:16]
	}
	full, jidErr := c.account.WithResource(wanted)
	if err == nil && jidErr != nil {
		err = stanza.BadRequest("the resource is not valid")
	}
	if err != nil {
		if answer, ok := request.ErrorReply(stanza.AsError(err)); ok {
			c.stream.Send(answer.Element)
		}
		return stream.Outcome{}, nil
	}
	s, err := c.server.Users.Bind(full, c, func() {
		payload := element.Start("bind", ns.Bind).Leaf("jid", ns.Bind, full.String()).Element()
		c.stream.Send(request.Result(payload).Element)
	})
	if errors.Is(err, storage.ErrNotFound) { // deleted since it logged in
		return stream.Outcome{}, &stanza.StreamError{Condition: stanza.StreamNotAuthorized}
	}
	if err != nil {
		return stream.Outcome{}, err
	}
	c.session = s
	c.stream.Log = c.stream.Log.With("resource", full.Resource())
	c.stream.Log.Debug("resource bound")
	return stream.Outcome{Gains: stream.Bound}, nil
}

// announce offers elements that are information only.
func announce(elements []element.Element) stream.Feature {
	return stream.Feature{
		Name:    "announcements",
		Needs:   stream.Secure | stream.Authenticated,
		Refuses: stream.Bound,
		Claims:  func(element.Element) bool { return false },
		Offer:   func(*stream.Stream) []element.Element { return elements },
	}
}
