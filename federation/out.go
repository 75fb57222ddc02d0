package federation

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
)

// An outgoing is a stream that we open to another domain's server.
type outgoing struct {
	f *Federation
	Pair
	*purpose
	target target
	s      *stream.Stream

	mu       sync.Mutex
	settled  bool // ready, or given up
	isReady  bool
	readyAt  time.Time
	security security
	self     string // how we proved Local: "EXTERNAL" or "dialback"
	failure  error  // why we gave up
	asked    map[question]func(error)
	over     bool // Ended was called
	resuming bool // the former session was asked for, and the pair does not know yet whether it goes on

	// Of the stream's goroutine.
	negotiated bool // the features are dealt with; the rest is dialback
	requested  bool // a dialback key was sent, and no answer has come
	refused    bool // the peer refused EXTERNAL although it had offered it
	agreed     agreement
}

// A purpose is what an outgoing stream is for.
type purpose struct {
	// authenticate proves Local to the peer, which a stream that only asks need not do.
	authenticate bool
	// ready is called once, on the stream's goroutine, when all that is done.
	ready func(*outgoing)
	// note, if set, learns of each step.
	note func(step, detail string, err error)
	// way, if set, is whose stanzas the stream will carry, and former the session of stream management
	// that it may go on with.
	way    *pair
	former string
	// dialbackOnly leaves EXTERNAL alone, after the peer has refused it.
	dialbackOnly bool
}

// security is what is known of a connection and the domain at its other end.
type security struct {
	tls   *credential
	proof proof
	why   error // there is no better proof
}

// reach opens a stream to a domain: it goes through the domain's targets until a stream has become
// ready for its purpose, and then returns when that is over. ctx bounds the time until then.
func (f *Federation) reach(ctx context.Context, p Pair, why *purpose) error {
	t, allowed := f.trust.Load().of(p.Remote)
	if !allowed {
		return &refusal{stanza.NotAllowed("this server does not talk to " + p.Remote), errors.New("denied by policy")}
	}
	targets, err := f.resolve(ctx, p.Remote, t)
	if err != nil {
		return err
	}
	for _, target := range targets {
		o := &outgoing{f: f, Pair: p, purpose: why, target: target}
		err = o.run(ctx)
		if o.refused && !o.wasReady() && !why.dialbackOnly {
			// RFC 6120 section 6.4.5 lets the peer close after a failure, so it takes a new stream.
			again := *why
			again.dialbackOnly = true
			o = &outgoing{f: f, Pair: p, purpose: &again, target: target}
			err = o.run(ctx)
		}
		if o.wasReady() || ctx.Err() != nil || isVerdict(err) {
			break
		}
	}
	return err
}

// run connects to the target and lives the stream. It returns nil if it was ready and ended in
// order.
func (o *outgoing) run(ctx context.Context) error {
	conn, err := o.dial(ctx)
	o.tell("connect", o.target.String(), err)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", o.target, err)
	}
	socket, ok := conn.(transport.Socket)
	if !ok {
		conn.Close()
		return fmt.Errorf("connect to %s: not a socket", o.target)
	}
	if o.s, err = stream.New(o.f.out, socket); err != nil {
		conn.Close()
		return err
	}
	o.s.Local, o.s.Peer, o.s.Data = o.Local, o.Remote, o
	if !enter(o.f, o.f.outgoing, o) {
		conn.Close()
		return errClosing
	}
	defer leave(o.f, o.f.outgoing, o)
	stop := context.AfterFunc(ctx, func() { o.giveUp(context.Cause(ctx)) })
	defer stop()
	if o.target.direct {
		if err := o.s.Secure(ctx, o.clientTLS("xmpp-server")); err != nil {
			conn.Close()
			o.tell("TLS", "", err)
			return err
		}
	}
	err = o.outcome(o.s.Run(o.f.work))
	if !o.wasReady() {
		o.tell("stream", "", err)
	}
	return err
}

// dial connects to the target. A stream that only asks is part of what has had its turn already.
func (o *outgoing) dial(ctx context.Context) (net.Conn, error) {
	if o.authenticate {
		done, err := o.f.dials.take(ctx, registered(o.Remote))
		if err != nil {
			return nil, err
		}
		defer done()
	}
	return o.f.dial(ctx, o.target)
}

// outcome says why the stream ended, by who knows best: we if we gave up, the peer if it said so, or
// the connection.
func (o *outgoing) outcome(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	remote := o.s.RemoteError()
	switch {
	case o.failure != nil:
		err = o.failure
	case remote != nil:
		err = &peerError{remote}
	case err == nil && !o.isReady:
		err = errLost
	}
	return err
}

func (o *outgoing) tell(step, detail string, err error) {
	if o.note != nil {
		o.note(step, detail, err)
	}
}

func (o *outgoing) wasReady() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.isReady
}

// giveUp ends a stream that is not ready.
func (o *outgoing) giveUp(why error) {
	o.mu.Lock()
	if o.settled {
		o.mu.Unlock()
		return
	}
	o.settled, o.failure = true, why
	o.mu.Unlock()
	o.end()
}

// end closes the stream, after what is in its queue. While the peer may have resumed a session on it that we
// do not know of it is dropped, for a stream that is closed takes its session with it (XEP-0198 section 5).
func (o *outgoing) end() {
	o.mu.Lock()
	defer o.mu.Unlock() // resumption is not asked for in between
	if o.resuming {
		o.s.Drop()
	}
	o.s.Close(nil)
}

func (o *outgoing) setResuming(resuming bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.resuming = resuming
}

// proved goes on when the peer knows us.
func (o *outgoing) proved(self string) {
	o.mu.Lock()
	o.self = self
	o.mu.Unlock()
	o.manage()
}

// succeed makes the stream ready, unless it was given up meanwhile.
func (o *outgoing) succeed() {
	o.mu.Lock()
	if o.settled {
		o.mu.Unlock()
		return
	}
	if _, allowed := o.f.trust.Load().of(o.Remote); !allowed { // Reload went by before the stream was known
		o.mu.Unlock()
		o.setResuming(false)
		o.giveUp(&refusal{stanza.NotAllowed("this server does not talk to " + o.Remote), errChanged})
		return
	}
	o.settled, o.isReady, o.readyAt = true, true, o.f.Now()
	security, self := o.security, o.self
	o.mu.Unlock()
	o.s.Log().Info("stream to another domain", "local", o.Local, "peer", o.Remote,
		"tls", security.tls != nil, "peer proved by", string(security.proof), "we proved by", self)
	o.tell("authentication", self, nil)
	o.ready(o)
}

// outgoingRole is the initiating side of a server stream.
func (f *Federation) outgoingRole() *stream.Role {
	return &stream.Role{
		Content:   ns.Server,
		Initiates: true,
		Prefixes:  []stream.Prefix{{Name: "db", NS: ns.Dialback}},
		Features: []stream.Feature{
			stream.StartTLS(
				func(s *stream.Stream) *tls.Config { return outgoingOf(s).clientTLS() },
				func(s *stream.Stream) bool { return !outgoingOf(s).terms().clear }),
			stream.External(
				func(s *stream.Stream) bool { return outgoingOf(s).mayExternal() },
				func(s *stream.Stream, condition string) error { return outgoingOf(s).externalFailed(condition) }),
		},
		Opened:     func(s *stream.Stream, h stream.Header) error { return outgoingOf(s).opened() },
		Negotiated: func(s *stream.Stream) error { return outgoingOf(s).prove() },
		Ready:      func(s *stream.Stream) bool { return outgoingOf(s).negotiated },
		Handle:     func(s *stream.Stream, e element.Element) error { return outgoingOf(s).handle(e) },
		Ended:      func(s *stream.Stream, err error) { outgoingOf(s).ended() },
		Written:    func(s *stream.Stream) { outgoingOf(s).way.written(outgoingOf(s)) },
		Limits:     f.Limits, Timing: f.Timing, Flusher: f.Flusher, Log: f.Log,
	}
}

func outgoingOf(s *stream.Stream) *outgoing { return s.Data.(*outgoing) }

func (o *outgoing) terms() *terms {
	t, _ := o.f.trust.Load().of(o.Remote)
	return t
}

// clientTLS leaves the judgement of the certificate to opened: it depends on the terms, and the name
// in it must be the XMPP domain, whatever host DNS led to.
func (o *outgoing) clientTLS(protocols ...string) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: protocols,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if own := o.f.Certificates.Of(o.Local); own != nil {
				return own, nil
			}
			return new(tls.Certificate), nil
		},
	}
	if host := jid.ASCIIDomain(o.Remote); net.ParseIP(host) == nil {
		c.ServerName = host
	}
	return c
}

// opened judges the peer once TLS is there; a peer that has to prove its domain with a certificate
// and cannot gets nothing from us but this refusal.
func (o *outgoing) opened() error {
	if o.s.State()&stream.Secure == 0 || o.security.tls != nil {
		return nil
	}
	found, why := o.judge()
	o.tell("TLS", describeTLS(o.security.tls), nil)
	o.tell("certificate", string(found), why)
	if o.security.proof == "" {
		if o.f.Refused != nil {
			o.f.Refused(o.Pair, o.s.Conn().RemoteAddr().String(), why.Error())
		}
		o.giveUp(&refusal{stanza.RemoteServerTimeout(o.Remote + " could not prove its identity"), why})
	}
	return nil
}

// judge finds out what the certificate proves, under the lock for the same reason as incoming.judge.
func (o *outgoing) judge() (proof, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	trust := o.f.trust.Load()
	t, _ := trust.of(o.Remote)
	peer := shown(o.s.Conn().TLS())
	found, why := t.judge(peer, o.Remote, trust.roots, o.f.Now())
	o.security = security{peer, found, why}
	if found == "" && !t.certificate {
		o.security.proof = byDialback // DNS led us here, which is all that dialback ever shows
	}
	return found, why
}

func (o *outgoing) mayExternal() bool {
	return o.authenticate && !o.dialbackOnly && !o.refused && o.f.Certificates.Of(o.Local) != nil
}

// externalFailed goes on with dialback where the peer keeps the stream open.
func (o *outgoing) externalFailed(condition string) error {
	o.refused = true
	o.tell("EXTERNAL", "", errors.New("refused with "+condition))
	return o.prove()
}

// prove is called when no feature is left to negotiate: it proves our domain if that is the purpose.
func (o *outgoing) prove() error {
	if o.negotiated {
		return nil // features again, which we did not ask for
	}
	o.negotiated = true
	o.tell("features", describeFeatures(o.s.Features()), nil)
	if o.s.State()&stream.Secure == 0 {
		o.tell("TLS", "none: the partner's entry allows it", nil)
		o.mu.Lock()
		o.security.proof = byDialback
		o.mu.Unlock()
	}
	switch {
	case !o.authenticate:
		o.proved("")
	case o.s.State()&stream.Authenticated != 0:
		o.proved("EXTERNAL")
	case o.s.ID == "": // RFC 6120 section 4.7.3 wants one, and the key must be good for this stream only
		o.giveUp(&refusal{stanza.RemoteServerTimeout(o.Remote + " could not be told who asks"), errors.New("its header has no id")})
	default:
		o.requested = true
		o.s.SendRaw(dialback{name: "result", from: o.Local, to: o.Remote,
			key: o.f.secret.key(o.Remote, o.Local, o.s.ID)}.String())
	}
	return nil
}

// handle takes what the peer may say on a stream that we opened: acknowledgements, and answers to
// dialback requests of ours. Everything else comes in a direction in which nothing was authorised
// (XEP-0220 section 3.1).
func (o *outgoing) handle(e element.Element) error {
	switch e.NS() {
	case ns.SM:
		return o.managed(e)
	case ns.Dialback:
	default:
		return &stanza.StreamError{Condition: stanza.StreamNotAuthorized,
			Text: "stanzas to this server go over a stream to it"}
	}
	d, err := readDialback(e)
	switch {
	case err != nil:
		return err
	case d.typ == "":
		return &stanza.StreamError{Condition: stanza.StreamPolicyViolation,
			Text: "dialback requests to this server go over a stream to it"}
	case d.name == "verify":
		o.verified(d)
	case !o.requested || d.from != o.Remote || d.to != o.Local:
		o.s.Log().Warn("unsolicited dialback result ignored", "from", d.from, "to", d.to, "type", d.typ)
	case d.typ == "valid":
		o.requested = false
		o.proved("dialback")
	default:
		o.requested = false
		o.giveUp(&dialbackError{d.typ, d.err})
	}
	return nil
}

// ended fails the questions that were not answered.
func (o *outgoing) ended() {
	o.mu.Lock()
	o.over = true
	asked := o.asked
	o.asked = nil
	o.mu.Unlock()
	for _, answer := range asked {
		answer(errLost)
	}
}

// stillAllowed judges the peer anew, by a new policy.
func (o *outgoing) stillAllowed() bool {
	trust := o.f.trust.Load()
	t, allowed := trust.of(o.Remote)
	o.mu.Lock()
	security := o.security
	o.mu.Unlock()
	return allowed && t.stillAccepts(security, o.Remote, trust.roots, o.f.Now())
}

// stillAccepts says whether a peer that was accepted before would be accepted now.
func (t *terms) stillAccepts(s security, domain string, roots *x509.CertPool, now time.Time) bool {
	if s.tls == nil {
		return t.clear || s.proof == "" // nothing is settled yet: the new terms will be applied
	}
	_, err := t.judge(s.tls, domain, roots, now)
	return err == nil || s.proof == byDialback && !t.certificate
}

// The reasons for which a domain was not reached.
var errLost = errors.New("the stream ended")

// A refusal is our own decision, with what the senders are told.
type refusal struct {
	public *stanza.Error
	cause  error
}

func (e *refusal) Error() string { return e.public.Text + ": " + e.cause.Error() }
func (e *refusal) Unwrap() error { return e.cause }

// A peerError is the stream error with which a peer ended the stream.
type peerError struct{ *stanza.StreamError }

func (e *peerError) Error() string { return "the peer sent " + e.StreamError.Error() }

// A dialbackError is an answer to our key that is not "valid".
type dialbackError struct {
	typ string
	err *stanza.Error
}

func (e *dialbackError) Error() string {
	if e.err == nil {
		return "dialback: " + e.typ
	}
	return "dialback: " + e.err.Error()
}

// isVerdict says that the peer has spoken about the pair, so that its other hosts need not be asked.
func isVerdict(err error) bool {
	var peer *peerError
	var verdict *dialbackError
	return errors.As(err, &peer) || errors.As(err, &verdict)
}

// isRejection says that the peer will not have the pair, or what we sent, whenever we try again.
func isRejection(err error) bool {
	var (
		own     *refusal
		peer    *peerError
		verdict *dialbackError
	)
	switch {
	case errors.As(err, &own):
		return true
	case errors.As(err, &verdict):
		return verdict.err == nil
	case errors.As(err, &peer):
		switch peer.Condition {
		case stanza.StreamSystemShutdown, stanza.StreamReset, stanza.StreamConflict, stanza.StreamConnectionTimeout,
			stanza.StreamInternalServerError, stanza.StreamResourceConstraint, stanza.StreamRemoteConnectionFailed,
			stanza.StreamUndefinedCondition:
			return false
		}
		return true
	}
	return false
}

// publicReason is what senders are told (RFC 6120 sections 8.3.3.16 and 8.3.3.17, XEP-0220 sections
// 2.1.1 and 2.5); the details are for the log.
func publicReason(err error) *stanza.Error {
	var (
		own      *refusal
		verdict  *dialbackError
		peer     *peerError
		dnsError *net.DNSError
	)
	switch {
	case errors.As(err, &own):
		return own.public
	case errors.As(err, &verdict) && verdict.err == nil:
		return stanza.InternalServerError("the other server does not believe that this one serves its domain")
	case errors.As(err, &verdict) && verdict.err.Condition == "item-not-found",
		errors.As(err, &peer) && (peer.Condition == stanza.StreamHostUnknown || peer.Condition == stanza.StreamHostGone):
		return stanza.RemoteServerNotFound("the other server does not serve this domain")
	case errors.As(err, &peer) && peer.Condition == stanza.StreamPolicyViolation:
		e := stanza.RemoteServerTimeout("the other server refuses to talk to this one")
		e.Type = stanza.Cancel // section 8.3.3.17: what violates a policy is of a more permanent nature
		return e
	case errors.As(err, &dnsError) && dnsError.IsNotFound, errors.Is(err, errNotOffered):
		return stanza.RemoteServerNotFound("DNS knows no server for this domain")
	case errors.Is(err, errClosing):
		return stanza.RemoteServerTimeout("this server is shutting down")
	}
	return stanza.RemoteServerTimeout("the domain's server could not be reached")
}

func randomID() string { return rand.Text() }
