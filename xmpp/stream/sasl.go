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

// A Login says who may authenticate on a receiving stream, and how, in either profile: SASL, which
// is RFC 6120's, and SASL2.
type Login struct {
	// Mechanisms are what this stream can offer, in order of preference; none: no SASL.
	Mechanisms func(s *Stream) []string
	// Attempt is what one exchange may know; the driver fills in what was offered.
	Attempt func(s *Stream) *sasl.Attempt
	// Accepted learns the identity that was proved. It may still refuse with a *sasl.Failure.
	Accepted func(s *Stream, x *sasl.Exchange) error
	// Failed, if set, learns of each attempt that failed; mechanism is "" where none was begun.
	Failed func(s *Stream, mechanism string, err error)
	// Tries is how many attempts a stream may fail (RFC 6120 section 6.4.5).
	Tries int
}

// login is what a stream remembers of authentication.
type login struct {
	attempt
	offered    []string // mechanisms, in both profiles
	tokens     []string // those of SASL2 that use a token
	bindings   []string // types of channel binding (XEP-0440)
	version    string   // of what SASL2 offers (XEP-0509)
	unbindable string   // see sasl.Exchange
	unbound    int      // attempts that told so
	failed     int
}

// An attempt is what is running, if something is.
type attempt struct {
	profile  string // the namespace of the profile
	exchange *sasl.Exchange
	request  Request // SASL2: what came with it
	data     string  // SASL2: for the peer, with the next element that can carry it
	tasks    []Task  // SASL2: what the peer has still to do, once its proof was good
	begun    bool    // SASL2: the peer does the first one
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
			s.login.offered, s.login.bindings = l.Mechanisms(s), nil
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
				offer = append(offer, s.announceBindings())
			}
			return offer
		},
		Handle: func(s *Stream, e element.Element) (Outcome, error) {
			out, err := l.step(s, e)
			if err != nil {
				return Outcome{}, l.refuse(s, err, func(condition string) element.Element {
					return element.Start("failure", ns.SASL).Leaf(condition, ns.SASL, "").Element()
				})
			}
			return out, nil
		},
	}
}

// step takes <auth/>, <response/> or <abort/>.
func (l *Login) step(s *Stream, e element.Element) (Outcome, error) {
	var response []byte // nil: there is none
	var err error
	switch e.Name() {
	case "auth":
		if err := s.login.unfinished(); err != nil {
			return Outcome{}, err
		}
		if err := l.begin(s, ns.SASL, e.Attr("mechanism"), l.Attempt(s)); err != nil {
			return Outcome{}, err
		}
		switch text := e.Text(); text {
		case "":
		case "=": // an empty one (RFC 6120 section 6.4.2)
			response = []byte{}
		default:
			response, err = decodeSASL(text)
		}
	case "response":
		if response = []byte{}; e.Text() != "=" {
			response, err = decodeSASL(e.Text())
		}
	case "abort":
		err = &sasl.Failure{Condition: sasl.Aborted}
	default:
		err = &sasl.Failure{Condition: sasl.MalformedRequest}
	}
	if err != nil {
		return Outcome{}, err
	}
	data, done, err := l.proceed(s, ns.SASL, response)
	switch {
	case err != nil:
		return Outcome{}, err
	case !done:
		s.Send(element.Leaf("challenge", ns.SASL, data))
		return Outcome{}, nil
	}
	if err := l.Accepted(s, s.login.exchange); err != nil {
		return Outcome{}, err
	}
	s.Log().Info("authenticated", "mechanism", s.login.exchange.Mechanism())
	s.Send(element.Leaf("success", ns.SASL, data))
	return Outcome{Gains: Authenticated, Restart: true}, nil
}

// unfinished is the failure of the exchange that is running when the peer begins another one: it has to
// end the first, by <abort/> (RFC 6120 section 6.4.4), and one that is not finished is an attempt like any
// other that fails.
func (g *login) unfinished() error {
	if g.exchange == nil {
		return nil
	}
	return &sasl.Failure{Condition: sasl.Aborted, Cause: errors.New("another exchange was begun")}
}

// begin starts an exchange by the mechanism that the peer chose.
func (l *Login) begin(s *Stream, profile, mechanism string, a *sasl.Attempt) error {
	s.login.attempt = attempt{profile: profile}
	a.Offered, a.OfferedBindings, a.Unbindable = s.login.offered, s.login.bindings, s.login.unbindable
	if state := s.conn.TLS(); state != nil {
		a.TLSVersion = state.Version
	}
	x, err := sasl.Server(mechanism, a)
	s.login.exchange = x
	return err
}

// proceed hands the peer's response, nil for none, to the running exchange. It returns the challenge,
// or when it is done what goes with the success, as text.
func (l *Login) proceed(s *Stream, profile string, response []byte) (data string, done bool, err error) {
	if s.login.exchange == nil || s.login.profile != profile {
		return "", false, &sasl.Failure{Condition: sasl.MalformedRequest}
	}
	challenge, done, err := s.login.exchange.Step(response)
	return base64.StdEncoding.EncodeToString(challenge), done, err
}

// refuse ends an attempt that failed with err; failure makes the element that says so in the words of
// the profile. The stream goes on, unless that was one attempt too many.
func (l *Login) refuse(s *Stream, err error, failure func(condition string) element.Element) error {
	var fatal *stanza.StreamError
	if errors.As(err, &fatal) {
		return err
	}
	mechanism := ""
	if s.login.exchange != nil {
		mechanism = s.login.exchange.Mechanism()
	}
	// A client whose kind of channel binding this connection does not have is no guesser: its proof
	// was good. It may find that out once with each mechanism.
	unbindable := s.login.exchange != nil && s.login.exchange.Unbindable() != "" &&
		s.login.unbound < len(s.login.offered)
	if unbindable {
		s.login.unbindable = s.login.exchange.Unbindable()
		s.login.unbound++
	}
	var f *sasl.Failure
	if !errors.As(err, &f) {
		s.Log().Error("authentication could not be carried out", "err", err)
		f = &sasl.Failure{Condition: sasl.TemporaryAuthFailure}
	}
	s.login.attempt = attempt{}
	s.Send(failure(f.Condition))
	if unbindable {
		s.Log().Debug("authentication failed", "condition", f.Condition, "err", err)
		return nil
	}
	if l.Failed != nil {
		l.Failed(s, mechanism, err)
	}
	s.Log().Info("authentication failed", "condition", f.Condition, "err", err)
	if s.login.failed++; s.login.failed >= l.Tries {
		return &stanza.StreamError{Condition: stanza.StreamPolicyViolation,
			Text: "too many failed attempts to authenticate"}
	}
	return nil
}

// decodeSASL reads base64.
func decodeSASL(text string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, &sasl.Failure{Condition: sasl.IncorrectEncoding}
	}
	return b, nil
}

// announceBindings tells which types of channel binding work on this stream (XEP-0440).
func (s *Stream) announceBindings() element.Element {
	w := element.Start("sasl-channel-binding", ns.ChannelBind)
	for _, typ := range []string{sasl.TLSExporter, sasl.TLSUnique, sasl.TLSServerEndPoint} {
		if _, ok := s.Binding(typ); ok {
			s.login.bindings = append(s.login.bindings, typ)
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
