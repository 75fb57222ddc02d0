package federation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/sasl"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
)

// An incoming is a stream that another server opened to us.
type incoming struct {
	f    *Federation
	s    *stream.Stream
	pass *transport.Pass
	life context.Context // of what is done for this stream; ends with it
	end  context.CancelFunc

	open    atomic.Bool             // a pair is authorised: stanzas may flow
	managed atomic.Pointer[inbound] // the session of stream management; nil: none

	mu       sync.Mutex
	security security // of the domain in the header
	pairs    map[Pair]*authorisation
	pending  int       // of pairs: their dialback keys are being verified
	touched  time.Time // when tend last wrote to it
}

// An authorisation is what a peer was allowed on one stream, or has asked for.
type authorisation struct {
	by    string // "EXTERNAL", "certificate" or "dialback"; "" while it is being verified
	since time.Time
	heard atomic.Int64 // Unix nanoseconds of the last stanza
}

// One stream may be authorised for so many pairs, and have so many keys verified at a time: each one
// makes us connect to somebody.
const (
	maxPairs   = 500
	maxPending = 10
)

// incomingRole is the receiving side of a server stream.
func (f *Federation) incomingRole() *stream.Role {
	return &stream.Role{
		Content:  ns.Server,
		Prefixes: []stream.Prefix{{Name: "db", NS: ns.Dialback}},
		Features: []stream.Feature{
			stream.StartTLS(
				func(*stream.Stream) *tls.Config { return f.serverTLS() },
				func(s *stream.Stream) bool { return !f.termsOf(s.Peer).clear }),
			stream.SASL(stream.Login{
				Mechanisms: func(s *stream.Stream) []string { return incomingOf(s).mechanisms() },
				Attempt: func(s *stream.Stream) *sasl.Attempt {
					return &sasl.Attempt{External: incomingOf(s).external}
				},
				Accepted: func(s *stream.Stream, x *sasl.Exchange) error {
					if !incomingOf(s).authorise(Pair{s.Local, x.Identity()}, "EXTERNAL") {
						return &sasl.Failure{Condition: sasl.NotAuthorized, Cause: errChanged}
					}
					return nil
				},
				Tries: 3,
			}),
			{
				Name:   "dialback",
				Claims: func(e element.Element) bool { return e.NS() == ns.Dialback },
				Offer:  func(s *stream.Stream) []element.Element { return incomingOf(s).offerDialback() },
				Handle: func(s *stream.Stream, e element.Element) (stream.Outcome, error) {
					return stream.Outcome{}, incomingOf(s).dialback(e)
				},
			},
			{
				Name:    "stream management",
				Quietly: true,
				Claims:  func(e element.Element) bool { return e.NS() == ns.SM },
				Offer:   func(s *stream.Stream) []element.Element { return incomingOf(s).offerManagement() },
				Handle: func(s *stream.Stream, e element.Element) (stream.Outcome, error) {
					return stream.Outcome{}, incomingOf(s).manage(e)
				},
			},
		},
		Opened:    func(s *stream.Stream, h stream.Header) error { return incomingOf(s).opened(h) },
		Ready:     func(s *stream.Stream) bool { return incomingOf(s).open.Load() },
		Handle:    func(s *stream.Stream, e element.Element) error { return incomingOf(s).handle(e) },
		Ended:     func(s *stream.Stream, _ error) { incomingOf(s).ended() },
		Admit:     f.Admit,
		Handshake: func(ctx context.Context, s *stream.Stream) (func(), error) { return incomingOf(s).pass.Handshake(ctx) },
		Limits:    f.Limits, Timing: f.Timing, Flusher: f.Flusher, Counters: f.Counters, Log: f.Log,
	}
}

func incomingOf(s *stream.Stream) *incoming { return s.Data.(*incoming) }

func (f *Federation) termsOf(domain string) *terms {
	t, _ := f.trust.Load().of(domain)
	return t
}

// opened judges a header. What the first one named holds for the stream's whole life (RFC 6120
// section 4.7): TLS and login were for that domain. A peer may only name itself late, because
// before TLS everybody reads it.
func (in *incoming) opened(h stream.Header) error {
	s := in.s
	to, err := parseDomain(h.To)
	switch {
	case h.To == "":
		return &stanza.StreamError{Condition: stanza.StreamImproperAddressing, Text: "the header has no to"}
	case err != nil || !in.f.isLocal(to):
		return &stanza.StreamError{Condition: stanza.StreamHostUnknown}
	case s.Local != "" && s.Local != to:
		return &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "the to changed within one stream"}
	}
	s.Local = to
	if h.From == "" && s.Peer == "" {
		in.judge() // proves nobody, but other domains may ask by dialback
		return nil
	}
	from, err := parseDomain(h.From)
	switch {
	case err != nil, in.f.isLocal(from):
		return &stanza.StreamError{Condition: stanza.StreamInvalidFrom}
	case s.Peer != "" && s.Peer != from:
		return &stanza.StreamError{Condition: stanza.StreamInvalidFrom, Text: "the from changed within one stream"}
	}
	s.Peer = from
	t, allowed := in.f.trust.Load().of(from)
	if !allowed {
		in.refused(Pair{to, from}, "policy")
		return &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "this server does not talk to " + from}
	}
	if in.judge(); s.State()&stream.Secure != 0 && t.certificate && in.security.proof == "" {
		in.refused(Pair{to, from}, in.security.why.Error())
		return &stanza.StreamError{Condition: stanza.StreamNotAuthorized, Text: in.security.why.Error()}
	}
	return nil
}

// refused notes that the peer may not speak for the remote domain of a pair.
func (in *incoming) refused(p Pair, reason string) {
	in.s.Log().Info("another domain was refused", "local", p.Local, "peer", p.Remote, "reason", reason)
	if in.f.Refused != nil {
		in.f.Refused(p, in.s.Conn().RemoteAddr().String(), reason)
	}
}

// judge finds out what the certificate proves of the domain in the header. The lock keeps Reload from
// going by between the question and the answer.
func (in *incoming) judge() {
	in.mu.Lock()
	defer in.mu.Unlock()
	trust := in.f.trust.Load()
	t, _ := trust.of(in.s.Peer)
	if in.security.tls == nil {
		in.security.tls = shown(in.s.Conn().TLS())
	}
	in.security.proof, in.security.why = t.judge(in.security.tls, in.s.Peer, trust.roots, in.f.Now())
}

// mechanisms offers EXTERNAL where it would succeed, and nothing elsewhere (RFC 6120 section 6.3.4,
// XEP-0178 section 3).
func (in *incoming) mechanisms() []string {
	if in.security.proof == "" || in.s.Peer == "" {
		return nil
	}
	return []string{"EXTERNAL"}
}

// external authenticates the domain in the header; a peer may repeat it but not name another one.
func (in *incoming) external(authzid string) (string, error) {
	if authzid != "" {
		if domain, err := parseDomain(authzid); err != nil || domain != in.s.Peer {
			return "", &sasl.Failure{Condition: sasl.InvalidAuthzid, Cause: errors.New("not the from of the header")}
		}
	}
	if in.security.proof == "" {
		return "", &sasl.Failure{Condition: sasl.NotAuthorized, Cause: in.security.why}
	}
	return in.s.Peer, nil
}

// offerDialback announces dialback with errors (XEP-0220 section 2.4.2) once the connection is as
// secure as it has to be.
func (in *incoming) offerDialback() []element.Element {
	if in.s.State()&stream.Secure == 0 && !in.f.termsOf(in.s.Peer).clear {
		return nil
	}
	return []element.Element{element.Start("dialback", ns.DialbackFeat).Leaf("errors", ns.DialbackFeat, "").Element()}
}

// dialback takes <db:result/>, which asks us to authorise a pair, and <db:verify/>, which asks us
// whether a key is ours. Answers have no business here, for we ask nothing on this stream (XEP-0220
// section 3.1).
func (in *incoming) dialback(e element.Element) error {
	d, err := readDialback(e)
	switch {
	case err != nil:
		return err
	case d.typ != "":
		return &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "an answer to nothing that was asked here"}
	case d.name == "verify":
		in.s.SendRaw(in.f.authoritative(d).String())
	default:
		in.request(d)
	}
	return nil
}

// authoritative answers for the keys of our domains (XEP-0220 section 2.2.2).
func (f *Federation) authoritative(d dialback) dialback {
	_, allowed := f.trust.Load().of(d.from)
	switch {
	case !f.isLocal(d.to):
		return d.answer("error", stanza.ItemNotFound(""))
	case !allowed:
		return d.answer("error", stanza.NotAllowed(""))
	case f.secret.made(d.key, d.from, d.to, d.id):
		return d.answer("valid", nil)
	}
	return d.answer("invalid", nil)
}

// request authorises a pair, refuses it, or begins to verify its key (XEP-0220 section 2.2.1). The
// stream lives on whatever becomes of it.
func (in *incoming) request(d dialback) {
	p := Pair{d.to, d.from}
	by, refused := in.consider(p)
	switch {
	case refused != nil:
		in.refused(p, refused.Error())
		in.s.SendRaw(d.answer("error", refused).String())
	case by != "" && in.authorise(p, by):
		in.s.SendRaw(d.answer("valid", nil).String())
	case in.reserve(p):
		in.f.verify(in.life, in.party(), p, in.s.ID, d.key, func(err error) { in.conclude(p, d, err) })
	default:
		in.s.SendRaw(d.answer("error", stanza.ResourceConstraint("too many domains on this stream")).String())
	}
}

// party is whose turns it takes to verify what is asked here: those of the peer's address, or of this
// stream alone where addresses have no limits.
func (in *incoming) party() string {
	var exempt []netip.Prefix
	if in.f.Gate != nil {
		exempt = in.f.Gate.Exempt
	}
	if site, limited := transport.Site(in.s.Conn().RemoteAddr(), exempt); limited {
		return site.String()
	}
	return in.s.ID
}

// consider says whether a pair can be authorised at once, and by what, or never; or, with neither,
// that its key has to be verified.
func (in *incoming) consider(p Pair) (by string, refused *stanza.Error) {
	trust := in.f.trust.Load()
	t, allowed := trust.of(p.Remote)
	switch {
	case !in.f.isLocal(p.Local):
		return "", stanza.ItemNotFound("")
	case !allowed, in.f.isLocal(p.Remote):
		return "", stanza.NotAllowed("this server does not talk to " + p.Remote)
	case in.s.State()&stream.Secure == 0 && !t.clear:
		return "", stanza.PolicyViolation("TLS is required")
	}
	// A certificate says more than a key does, whoever asks with which protocol.
	_, why := t.judge(in.security.tls, p.Remote, trust.roots, in.f.Now())
	switch {
	case why == nil:
		return "certificate", nil
	case t.certificate:
		return "", stanza.NotAuthorized(why.Error())
	}
	return "", nil
}

// reserve makes room for a pair whose key is to be verified; a second key for it while the first one
// is under way is refused as well.
func (in *incoming) reserve(p Pair) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if a := in.pairs[p]; in.pending >= maxPending || len(in.pairs) >= maxPairs || a != nil && a.by == "" {
		return false
	}
	if in.pairs[p] == nil { // else it is authorised, and stays so whatever this key is worth
		in.pairs[p] = new(authorisation)
	}
	in.pending++
	return true
}

// conclude tells the peer what became of its key.
func (in *incoming) conclude(p Pair, d dialback, err error) {
	in.mu.Lock()
	in.pending--
	if a := in.pairs[p]; err != nil && a != nil && a.by == "" {
		delete(in.pairs, p)
	}
	others := false // that are valid
	for _, a := range in.pairs {
		others = others || a.by != ""
	}
	in.mu.Unlock()
	if in.life.Err() != nil {
		return // nobody is there to be told, and nothing was found out
	}
	if err == nil && in.authorise(p, "dialback") {
		in.s.SendRaw(d.answer("valid", nil).String())
		return
	} else if err == nil {
		err = &refusal{stanza.NotAllowed("this server does not talk to " + p.Remote), errChanged}
	}
	in.refused(p, err.Error())
	var verdict *dialbackError
	switch {
	case errors.As(err, &verdict) && verdict.typ == "invalid" && others:
		in.s.SendRaw(d.answer("error", stanza.Forbidden("the key is not valid")).String())
	case errors.As(err, &verdict) && verdict.typ == "invalid":
		in.s.SendRaw(d.answer("invalid", nil).String())
		in.s.Close(nil)
	case errors.As(err, &verdict): // XEP-0220 section 2.5: an error in step 3
		in.s.SendRaw(d.answer("error", stanza.RemoteServerNotFound("the authoritative server does not serve the domain")).String())
	default:
		in.s.SendRaw(d.answer("error", publicReason(err)).String())
	}
}

// authorise lets a peer send stanzas for a pair on this stream, unless that has too many already, or the
// policy has changed since the pair's proof was begun.
func (in *incoming) authorise(p Pair, by string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if t, allowed := in.f.trust.Load().of(p.Remote); !allowed || t.certificate && by == "dialback" {
		delete(in.pairs, p)
		return false
	}
	if in.pairs[p] == nil && len(in.pairs) >= maxPairs { // proved without a key that was verified
		return false
	}
	in.pairs[p] = &authorisation{by: by, since: in.f.Now()}
	in.open.Store(true)
	in.pass.Known()
	in.s.Log().Info("stream from another domain", "local", p.Local, "peer", p.Remote, "by", by)
	return true
}

var errChanged = errors.New("the policy changed meanwhile")

// handle takes a stanza, if its domains are a pair that this stream is authorised for (RFC 6120
// section 8.1.2.2), and routes it by our normal form of its addresses.
func (in *incoming) handle(e element.Element) error {
	st, err := stanza.Parse(e)
	switch {
	case st.Kind == 0:
		return &stanza.StreamError{Condition: stanza.StreamUnsupportedStanzaType}
	case st.To.IsZero() || st.From.IsZero():
		return badAddress(e, st)
	case !in.f.isLocal(st.To.Domain()):
		return &stanza.StreamError{Condition: stanza.StreamHostUnknown,
			Text: fmt.Sprintf("%s is not served here", st.To.Domain())}
	case !in.admits(Pair{st.To.Domain(), st.From.Domain()}):
		in.refused(Pair{st.To.Domain(), st.From.Domain()}, "a stanza of a domain that was not proved")
		return &stanza.StreamError{Condition: stanza.StreamInvalidFrom}
	}
	if b := in.managed.Load(); b != nil {
		var current bool
		if st, current = b.receive(in.s, st); !current {
			return nil // resumed on another stream: this one is closing
		}
		defer st.Release()
	}
	if err != nil { // addressed well, but not a stanza that can be delivered
		in.f.bounce(stanza.AsError(err), st)
		return nil
	}
	// The recipient's client is to read the addresses that we judged, in no spelling that it could
	// take for others.
	in.f.Route(st.WithElement(in.clean(st)).WithFrom(st.From).WithTo(st.To))
	return nil
}

// badAddress says which address is missing or malformed.
func badAddress(e element.Element, st stanza.Stanza) error {
	if from := e.Attr("from"); from != "" && st.From.IsZero() {
		if _, err := jid.Parse(from); err != nil {
			return &stanza.StreamError{Condition: stanza.StreamInvalidFrom, Text: "the from is malformed"}
		}
	}
	return &stanza.StreamError{Condition: stanza.StreamImproperAddressing,
		Text: "a stanza between servers needs a valid to and from"}
}

// admits says whether the pair is authorised here.
func (in *incoming) admits(p Pair) bool {
	in.mu.Lock()
	a := in.pairs[p]
	in.mu.Unlock()
	if a == nil || a.by == "" {
		return false
	}
	a.heard.Store(in.f.Now().UnixNano())
	return true
}

// clean removes what only we may claim, and adds the language that the peer gave for all its
// stanzas (RFC 6120 section 8.1.5) where it is not the one that we give for all ours.
func (in *incoming) clean(st stanza.Stanza) element.Element {
	e := stanza.StripClaims(st.Element, st.To)
	if in.s.Lang != "" && in.s.Lang != "en" && e.Lang() == "" {
		e = e.WithAttr("xml:lang", in.s.Lang)
	}
	return e
}

// stillAllowed judges the peers of this stream anew, by a new policy.
func (in *incoming) stillAllowed() bool {
	trust := in.f.trust.Load()
	in.mu.Lock()
	defer in.mu.Unlock()
	for p, a := range in.pairs {
		t, allowed := trust.of(p.Remote)
		s := security{tls: in.security.tls, proof: byCertificate}
		if a.by == "dialback" {
			s.proof = byDialback
		}
		if !allowed || a.by != "" && !t.stillAccepts(s, p.Remote, trust.roots, in.f.Now()) {
			return false
		}
	}
	return true
}
