package stream

import (
	"encoding/base64"
	"errors"
	"strings"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/sasl"
	"tombolo/xmpp/stanza"
)

// A Login says who may authenticate on a receiving stream, and how.
type Login struct {
	// Mechanisms are what this stream can offer, in order of preference; none: no SASL.
	Mechanisms func(s *Stream) []string
	// Attempt is what one exchange may know; the feature fills in what was offered.
	Attempt func(s *Stream) *sasl.Attempt
	// Accepted learns the identity that was proved. It may still refuse with a *sasl.Failure.
	Accepted func(s *Stream, identity string) error
	// Tries is how many attempts a stream may fail (RFC 6120 section 6.4.5).
	Tries int
}

// login is what a stream remembers of SASL.
type login struct {
	offered    []string
	exchange   *sasl.Exchange
	unbindable string // see sasl.Exchange
	failed     int
}

// SASL is the receiving side of RFC 6120 section 6. It exists only under TLS and only until somebody
// is authenticated.
func SASL(l Login) Feature {
	return Feature{
		Name:    "SASL",
		Needs:   Secure,
		Refuses: Authenticated,
		Claims:  func(e element.Element) bool { return e.NS() == ns.SASL },
		Offer: func(s *Stream) []element.Element {
			s.login.offered = l.Mechanisms(s)
			if len(s.login.offered) == 0 {
				return nil
			}
			w := element.Start("mechanisms", ns.SASL)
			plus := false
			for _, name := range s.login.offered {
				w.Leaf("mechanism", ns.SASL, name)
				plus = plus || strings.HasSuffix(name, "-PLUS")
			}
			offer := []element.Element{w.Element()}
			if plus {
				offer = append(offer, channelBindings(s))
			}
			return offer
		},
		Handle: func(s *Stream, e element.Element) (Outcome, error) {
			out, err := l.step(s, e)
			if err == nil {
				return out, nil
			}
			if x := s.login.exchange; x != nil && x.Unbindable() != "" {
				s.login.unbindable = x.Unbindable()
			}
			s.login.exchange = nil
			var f *sasl.Failure
			if !errors.As(err, &f) {
				s.Log.Error("authentication could not be carried out", "err", err)
				f = &sasl.Failure{Condition: "temporary-auth-failure"}
			}
			s.Log.Info("authentication failed", "condition", f.Condition, "err", err)
			s.Send(element.Start("failure", ns.SASL).Leaf(f.Condition, ns.SASL, "").Element())
			if s.login.failed++; s.login.failed >= l.Tries {
				return Outcome{}, &stanza.StreamError{Condition: stanza.StreamPolicyViolation,
					Text: "too many failed attempts to authenticate"}
			}
			return Outcome{}, nil
		},
	}
}

// step takes <auth/>, <response/> or <abort/>.
func (l Login) step(s *Stream, e element.Element) (Outcome, error) {
	var response []byte
	switch e.Name() {
	case "auth":
		a := l.Attempt(s)
		a.Offered, a.Unbindable = s.login.offered, s.login.unbindable
		x, err := sasl.Server(e.Attr("mechanism"), a)
		if err != nil {
			return Outcome{}, err
		}
		s.login.exchange = x
		if e.Text() == "" {
			// All our mechanisms let the client speak first: ask it to (RFC 6120 section 6.4.2).
			s.Send(element.Leaf("challenge", ns.SASL, ""))
			return Outcome{}, nil
		}
	case "response":
	case "abort":
		return Outcome{}, &sasl.Failure{Condition: "aborted"}
	default:
		return Outcome{}, &sasl.Failure{Condition: "malformed-request"}
	}
	if s.login.exchange == nil {
		return Outcome{}, &sasl.Failure{Condition: "malformed-request"}
	}
	response, err := decodeSASL(e.Text())
	if err != nil {
		return Outcome{}, err
	}
	challenge, done, err := s.login.exchange.Step(response)
	if err != nil {
		return Outcome{}, err
	}
	if !done {
		s.Send(element.Leaf("challenge", ns.SASL, base64.StdEncoding.EncodeToString(challenge)))
		return Outcome{}, nil
	}
	if err := l.Accepted(s, s.login.exchange.Identity()); err != nil {
		return Outcome{}, err
	}
	s.Log.Info("authenticated", "mechanism", s.login.exchange.Mechanism())
	s.Send(element.Leaf("success", ns.SASL, base64.StdEncoding.EncodeToString(challenge)))
	return Outcome{Gains: Authenticated, Restart: true}, nil
}

// decodeSASL reads base64; a single = is an empty response (RFC 6120 section 6.4.2).
func decodeSASL(text string) ([]byte, error) {
	if text == "=" {
		return []byte{}, nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, &sasl.Failure{Condition: "incorrect-encoding"}
	}
	return b, nil
}

// channelBindings tells which types of channel binding work on this stream (XEP-0440).
func channelBindings(s *Stream) element.Element {
	w := element.Start("sasl-channel-binding", ns.ChannelBind)
	for _, typ := range []string{sasl.TLSExporter, sasl.TLSServerEndPoint} {
		if _, ok := s.Binding(typ); ok {
			w.Open("channel-binding", ns.ChannelBind).Attr("type", typ).Close()
		}
	}
	return w.Element()
}

// Binding is the channel-binding data of this connection for a type, where it has one.
func (s *Stream) Binding(typ string) ([]byte, bool) {
	return sasl.TLSBinding(s.conn.TLS(), s.conn.Served(), typ)
}

// External is SASL EXTERNAL on the initiating side of a server stream (XEP-0178): used where the
// peer offers it and want allows it. failed is told of a refusal; the stream goes on.
func External(want func(*Stream) bool, failed func(s *Stream, condition string) error) Feature {
	return Feature{
		Name:    "SASL EXTERNAL",
		Needs:   Secure,
		Refuses: Authenticated,
		Claims:  func(e element.Element) bool { return e.NS() == ns.SASL },
		Use: func(s *Stream, offered element.Element) (bool, error) {
			for m := range offered.Child("mechanisms", ns.SASL).Children() {
				if m.Text() == "EXTERNAL" && want(s) {
					// "=": the identity is the from of our header (XEP-0178 section 3).
					s.Send(element.Start("auth", ns.SASL).Attr("mechanism", "EXTERNAL").Text("=").Element())
					return true, nil
				}
			}
			return false, nil
		},
		Handle: func(s *Stream, e element.Element) (Outcome, error) {
			switch e.Name() {
			case "success":
				return Outcome{Gains: Authenticated, Restart: true}, nil
			case "challenge": // some peers ask although the initial response was there
				s.Send(element.Leaf("response", ns.SASL, "="))
				return Outcome{}, nil
			}
			return Outcome{}, failed(s, e.Payload().Name())
		},
	}
}
