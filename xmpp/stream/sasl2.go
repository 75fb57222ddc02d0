package stream

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/sasl"
	"tombolo/xmpp/stanza"
)

// A Login2 is what SASL2 (XEP-0388) needs beside the Login that it shares with SASL.
type Login2 struct {
	// Tokens are the mechanisms that this stream can offer to who has a token (XEP-0484).
	Tokens func(s *Stream) []string
	// Inline is what can be asked for together with authentication (section 2.1); Further are other
	// children of <authentication/>. Both are the same for everybody.
	Inline, Further []element.Element
	// Request reads what an <authenticate/> asks for. It may refuse with a *sasl.Failure.
	Request func(s *Stream, authenticate element.Element) (Request, error)
}

// A Request is one <authenticate/> in the hands of the role. Its errors are a *sasl.Failure, or a
// *stanza.StreamError that ends the stream.
type Request interface {
	// Attempt is what the exchange may know; the driver fills in what was offered, and leaves out
	// the mechanisms for tokens where the request brings none.
	Attempt() *sasl.Attempt
	// Token says whether the client means to use a token.
	Token() bool
	// Proved judges the identity that was proved, and says what the client has to do before it is
	// let in (section 2.6.3).
	Proved(x *sasl.Exchange) ([]Task, error)
	// Grant lets the client in: it does what was asked for, and calls success exactly once, unless it
	// fails.
	Grant(success Success) error
}

// Success tells the client that it is authenticated as identifier, with further elements, and then
// what features there are now (section 2.6.1). gains is what is established beside Authenticated.
type Success func(identifier string, gains State, further ...element.Element)

// A Task is something that a client does after its proof and before it is let in.
type Task struct {
	Name string
	// Step takes <next/>, then each <task-data/>, and returns what goes into the <task-data/> that
	// answers it; nothing: the task is done.
	Step func(e element.Element) (answer element.Element, err error)
}

// SASL2 is the receiving side of the Extensible SASL Profile (XEP-0388). In the role's features it
// stands behind SASL, whose list of mechanisms it offers too and whose announcement of channel
// bindings holds for both. No stream restart follows.
//
// Authentication may be sent right behind the stream header: what <authenticate/> can say is judged
// against what is offered, and a client that knows of <config-version/> (XEP-0509) learns when that is
// not what it thinks.
func SASL2(l Login, x Login2) Feature {
	p := profile2{l, x}
	return Feature{
		Name:    "SASL2",
		Needs:   Secure,
		Refuses: Authenticated,
		Claims:  func(e element.Element) bool { return e.NS() == ns.SASL2 },
		Offer:   p.offer,
		Handle: func(s *Stream, e element.Element) (Outcome, error) {
			if err := p.step(s, e); err != nil {
				return Outcome{}, p.refuse(s, err, failure2)
			}
			return Outcome{}, nil
		},
	}
}

// profile2 is SASL2 with what its role gave it.
type profile2 struct {
	Login
	Login2
}

func failure2(condition string) element.Element {
	return element.Start("failure", ns.SASL2).Leaf(condition, ns.SASL, "").Element()
}

func (p *profile2) offer(s *Stream) []element.Element {
	if len(s.login.offered) == 0 {
		return nil // MUST NOT be offered without a mechanism (section 2.1)
	}
	w := element.Start("authentication", ns.SASL2)
	for _, name := range s.login.offered {
		w.Leaf("mechanism", ns.SASL2, name)
	}
	inline := slices.Clone(p.Inline)
	if s.login.tokens = p.Tokens(s); len(s.login.tokens) > 0 {
		fast := element.Start("fast", ns.FAST)
		for _, name := range s.login.tokens {
			fast.Leaf("mechanism", ns.FAST, name)
		}
		inline = append(inline, fast.Element())
	}
	if len(inline) > 0 {
		w.Open("inline", ns.SASL2)
		for _, e := range inline {
			w.Add(e)
		}
		w.Close()
	}
	for _, e := range p.Further {
		w.Add(e)
	}
	offer := w.Element()
	sum := sha256.Sum256([]byte(offer.String() + strings.Join(s.login.bindings, " ")))
	s.login.version = base64.StdEncoding.EncodeToString(sum[:])
	version := element.Start("config-version", ns.IAP).Attr("scheme", "opaque").Attr("value", s.login.version)
	return []element.Element{offer, version.Element()}
}

// exclusive says that nothing but elements of SASL2 may come now (section 2.4).
func (g *login) exclusive() bool { return g.profile == ns.SASL2 }

// errUnderWay ends a stream on which anything else comes then, be it white space.
var errUnderWay error = &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "authentication is under way"}

// step takes one element of the client. Its error ends the attempt.
func (p *profile2) step(s *Stream, e element.Element) error {
	g := &s.login
	switch name := e.Name(); {
	case name == "authenticate" && !g.exclusive():
		return p.authenticate(s, e)
	case name == "abort":
		return &sasl.Failure{Condition: sasl.Aborted}
	case name == "response":
		response, err := decodeSASL(strings.TrimSpace(e.Text()))
		if err != nil {
			return err
		}
		return p.exchange(s, response)
	case name == "next" && len(g.tasks) > 0 && !g.begun:
		if e.Attr("task") != g.tasks[0].Name {
			return &sasl.Failure{Condition: sasl.MalformedRequest}
		}
		g.begun = true
		return p.task(s, e)
	case name == "task-data" && g.begun:
		return p.task(s, e)
	case name == "authenticate": // a second one (section 4.8)
		return errUnderWay
	}
	return &sasl.Failure{Condition: sasl.MalformedRequest}
}

func (p *profile2) authenticate(s *Stream, e element.Element) error {
	if v := e.Child("config-version", ns.IAP); !v.IsZero() && v.Attr("value") != s.login.version {
		// Without prejudice: it does not count as a failure (XEP-0509 section 2.2).
		s.Send(failure2(sasl.Aborted).With(element.Leaf("config-version-mismatch", ns.IAP, "")))
		return nil
	}
	if err := s.login.unfinished(); err != nil { // of the other profile
		return err
	}
	r, err := p.Request(s, e)
	if err != nil {
		return err
	}
	a := r.Attempt()
	if r.Token() {
		a.OfferedTokens = s.login.tokens
	}
	if err := p.begin(s, ns.SASL2, e.Attr("mechanism"), a); err != nil {
		return err
	}
	s.login.request = r
	initial := e.Child("initial-response", ns.SASL2)
	if initial.IsZero() {
		return p.exchange(s, nil)
	}
	response, err := decodeSASL(strings.TrimSpace(initial.Text()))
	if err != nil {
		return err
	}
	return p.exchange(s, response)
}

// exchange takes the exchange one step further.
func (p *profile2) exchange(s *Stream, response []byte) error {
	data, done, err := p.proceed(s, ns.SASL2, response)
	switch {
	case err != nil:
		return err
	case !done:
		s.Send(element.Leaf("challenge", ns.SASL2, data))
		return nil
	}
	g := &s.login
	g.data = data
	if g.tasks, err = g.request.Proved(g.exchange); err != nil {
		return err
	}
	return p.next(s)
}

// next asks for the next task, or lets the client in when there is none.
func (p *profile2) next(s *Stream) error {
	g := &s.login
	if len(g.tasks) == 0 {
		return p.grant(s)
	}
	w := p.answer(s, "continue")
	w.Open("tasks", ns.SASL2).Leaf("task", ns.SASL2, g.tasks[0].Name).Close()
	s.Send(w.Element())
	return nil
}

// task takes the task that is begun one step further.
func (p *profile2) task(s *Stream, e element.Element) error {
	g := &s.login
	answer, err := g.tasks[0].Step(e)
	switch {
	case err != nil:
		return err
	case !answer.IsZero():
		s.Send(element.Start("task-data", ns.SASL2).Add(answer).Element())
		return nil
	}
	g.tasks, g.begun = g.tasks[1:], false
	return p.next(s)
}

func (p *profile2) grant(s *Stream) error {
	var after error
	err := s.login.request.Grant(func(identifier string, gains State, further ...element.Element) {
		w := p.answer(s, "success")
		w.Leaf("authorization-identifier", ns.SASL2, identifier)
		for _, e := range further {
			w.Add(e)
		}
		s.Log().Info("authenticated", "mechanism", s.login.exchange.Mechanism())
		s.login.attempt = attempt{}
		s.Send(w.Element())
		after = s.apply(Outcome{Gains: Authenticated | gains})
		if features := s.offer(); gains&Resumed == 0 {
			s.SendRaw(features) // a resumed stream has negotiated everything (XEP-0198 section 9.2)
		}
	})
	if err == nil {
		err = after
	}
	return err
}

// answer begins an element that carries what the mechanism has to say with its success, which is
// said once.
func (p *profile2) answer(s *Stream, name string) *element.Writer {
	w := element.Start(name, ns.SASL2)
	if s.login.data != "" {
		w.Leaf("additional-data", ns.SASL2, s.login.data)
		s.login.data = ""
	}
	return w
}
