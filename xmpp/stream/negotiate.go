package stream

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// A Feature is one thing that is negotiated (RFC 6120 section 4.3). The same type serves both
// sides: the receiving one offers, the initiating one uses.
type Feature struct {
	// Name is for logs.
	Name string
	// Needs and Refuses are the states in which the feature can be offered, used, and reached.
	Needs, Refuses State
	// Claims says whether a top-level element belongs to this feature.
	Claims func(e element.Element) bool
	// Offer returns what <features/> says about it; nothing: not offered on this stream.
	Offer func(s *Stream) []element.Element
	// Quietly lets the feature be reached in its states also where it had nothing to offer, as after
	// its negotiation with another feature.
	Quietly bool
	// Use is asked by the initiating side when the peer's features have arrived; it starts the
	// negotiation and returns true, or leaves the feature alone.
	Use func(s *Stream, offered element.Element) (bool, error)
	// Handle takes an element that the feature claims.
	Handle func(s *Stream, e element.Element) (Outcome, error)
}

// An Outcome is what a step of a feature changed.
type Outcome struct {
	Gains   State
	Restart bool // the stream starts anew (RFC 6120 section 4.3.3)
	Done    bool // initiator: the feature is negotiated, go on to the next
}

func (f *Feature) available(s *Stream) bool {
	return s.state&f.Needs == f.Needs && s.state&f.Refuses == 0
}

// opened judges the peer's header and, on the receiving side, answers it.
func (s *Stream) opened(e element.Element) error {
	h := Header{To: e.Attr("to"), From: e.Attr("from"), ID: e.Attr("id"), Lang: language(e.Lang()),
		Version: e.Attr("version")}
	s.Lang = h.Lang
	if !s.role.Initiates {
		s.ID = rand.Text()
	} else {
		s.ID = h.ID
	}
	err := s.judge(e, h)
	if s.role.Initiates {
		return err
	}
	s.sendHeader()
	if err != nil {
		return err
	}
	s.sendFeatures()
	return nil
}

// language is tag if it has the form of a language tag (RFC 5646 section 2.1, without the order of subtags),
// and "" otherwise: it is written on each stanza of the peer that has none of its own (RFC 6120 section 8.1.5).
func language(tag string) string {
	const enough = 35 // bytes, by RFC 5646 section 4.4.1
	if len(tag) > enough {
		return ""
	}
	for i, subtag := range strings.Split(tag, "-") {
		if len(subtag) == 0 || len(subtag) > 8 {
			return ""
		}
		for _, c := range []byte(subtag) {
			letter, digit := 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9'
			if !letter && (!digit || i == 0) {
				return ""
			}
		}
	}
	return tag
}

func (s *Stream) judge(e element.Element, h Header) error {
	if !e.Is("stream", ns.Stream) || s.parser.Content() != s.role.Content {
		return &stanza.StreamError{Condition: stanza.StreamInvalidNamespace}
	}
	if err := s.role.Opened(s, h); err != nil {
		return err
	}
	if major, _, _ := strings.Cut(h.Version, "."); major == "" || strings.Trim(major, "0") == "" {
		return &stanza.StreamError{Condition: stanza.StreamUnsupportedVersion}
	}
	return nil
}

func (s *Stream) sendHeader() {
	var b strings.Builder
	fmt.Fprintf(&b, "<?xml version='1.0'?><stream:stream xmlns='%s' xmlns:stream='%s'", s.role.Content, ns.Stream)
	for _, p := range s.role.Prefixes {
		fmt.Fprintf(&b, " xmlns:%s='%s'", p.Name, p.NS)
	}
	for _, a := range []struct{ name, value string }{{"from", s.Local}, {"to", s.Peer}, {"id", s.headerID()}} {
		if a.value != "" {
			fmt.Fprintf(&b, " %s='%s'", a.name, element.AppendEscaped(nil, a.value))
		}
	}
	b.WriteString(" version='1.0' xml:lang='en'>")
	s.headers = true
	s.SendRaw(b.String())
}

// headerID is the id attribute, which only the receiving entity sets (RFC 6120 section 4.7.3).
func (s *Stream) headerID() string {
	if s.role.Initiates {
		return ""
	}
	if s.ID == "" { // an error before the peer's header was read
		s.ID = rand.Text()
	}
	return s.ID
}

func (s *Stream) sendFeatures() { s.SendRaw(s.offer()) }

// offer decides what the peer may use from now on, and returns it as <features/>.
func (s *Stream) offer() string {
	b := []byte("<stream:features>")
	s.offered = make([]bool, len(s.role.Features))
	for i := range s.role.Features {
		f := &s.role.Features[i]
		if f.Offer == nil || !f.available(s) {
			continue
		}
		for _, e := range f.Offer(s) {
			s.offered[i] = true
			b = e.AppendTo(b, ns.Client)
		}
	}
	b = s.limits().AppendTo(b, ns.Client)
	return string(append(b, "</stream:features>"...))
}

// limits announces what may be sent to us (XEP-0478). Another server may become authorised without
// any features coming after these, so it is told at once what will hold for its stanzas.
func (s *Stream) limits() element.Element {
	bytes := s.role.Limits.Before.Bytes
	if s.state&Authenticated != 0 || s.role.Content == ns.Server {
		bytes = s.role.Limits.After.Bytes
	}
	w := element.Start("limits", ns.StreamLimits).Leaf("max-bytes", ns.StreamLimits, strconv.Itoa(bytes))
	if s.role.Quiet != nil {
		w.Leaf("idle-seconds", ns.StreamLimits, strconv.Itoa(int(s.role.Timing.Quiet/time.Second)))
	}
	return w.Element()
}

// MaxBytes is how large a stanza the peer accepts, on the initiating side; 0 if it did not say
// (XEP-0478).
func (s *Stream) MaxBytes() int {
	text := s.features.Child("limits", ns.StreamLimits).Child("max-bytes", ns.StreamLimits).Text()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// dispatch takes a top-level element to where it belongs.
func (s *Stream) dispatch(e element.Element) error {
	if e.NS() == ns.Stream {
		return s.streamElement(e)
	}
	if s.login.exclusive() && e.NS() != ns.SASL2 {
		return errUnderWay
	}
	stanzas := s.Ready() && e.NS() == ns.Client
	for i := range s.role.Features {
		f := &s.role.Features[i]
		if stanzas && !f.available(s) || !f.Claims(e) {
			continue // e.g. a second <bind/>, which is an ordinary request by then
		}
		if !f.available(s) || (s.role.Initiates && s.trying != i) || (!s.role.Initiates && !s.offered[i] && !f.Quietly) {
			return &stanza.StreamError{Condition: stanza.StreamPolicyViolation,
				Text: f.Name + " is not offered here"}
		}
		out, err := f.Handle(s, e)
		if err != nil {
			return err
		}
		return s.apply(out)
	}
	if !s.Ready() {
		return &stanza.StreamError{Condition: stanza.StreamNotAuthorized}
	}
	return s.role.Handle(s, e)
}

func (s *Stream) streamElement(e element.Element) error {
	switch {
	case e.Name() == "error":
		err := stanza.ParseStreamError(e)
		s.Log().Info("the peer closed the stream with an error", "condition", err.Condition, "text", err.Text)
		s.remote = err
		s.finished = true // the peer closes its side with it (RFC 6120 section 4.9.1.1)
		s.Close(nil)
		return nil
	case e.Name() == "features" && s.role.Initiates:
		s.features = e
		return s.useFeatures()
	}
	return &stanza.StreamError{Condition: stanza.StreamUnsupportedStanzaType}
}

// useFeatures starts the first feature of ours that wants to be negotiated now.
func (s *Stream) useFeatures() error {
	s.trying = -1
	for i := range s.role.Features {
		f := &s.role.Features[i]
		if f.Use == nil || !f.available(s) {
			continue
		}
		started, err := f.Use(s, s.features)
		if err != nil {
			return err
		}
		if started {
			s.trying = i
			return nil
		}
	}
	return s.role.Negotiated(s)
}

func (s *Stream) apply(out Outcome) error {
	wasReady := s.Ready()
	s.state |= out.Gains
	if out.Gains&Authenticated != 0 {
		s.parser.SetLimits(s.role.Limits.After)
	}
	if !wasReady && s.Ready() {
		s.deadline = time.Now().Add(s.role.Timing.Quiet)
	}
	switch {
	case out.Restart:
		s.restart()
	case out.Done && s.role.Initiates:
		return s.useFeatures()
	}
	return nil
}

// restart forgets the old stream: nothing that was said or offered on it holds for the new one.
func (s *Stream) restart() {
	s.parser.Reset()
	s.offered, s.trying, s.features, s.headers = nil, -1, element.Element{}, false
	s.login.attempt, s.login.offered, s.login.tokens = attempt{}, nil, nil
	if s.role.Initiates {
		s.sendHeader()
	}
}

// Features are the peer's current <features/>, on the initiating side.
func (s *Stream) Features() element.Element { return s.features }

// RemoteError is the stream error with which the peer ended the stream, or nil.
func (s *Stream) RemoteError() *stanza.StreamError { return s.remote }

// streamError writes the error as it stands in the stream, "" for nil.
func streamError(err *stanza.StreamError) string {
	if err == nil {
		return ""
	}
	b := []byte("<stream:error>")
	for child := range err.Element().Children() {
		b = child.AppendTo(b, ns.Client)
	}
	return string(append(b, "</stream:error>"...))
}
