// Package federation is the server's side towards other domains: it finds and dials their servers,
// accepts theirs, proves identities in both directions, holds every stanza to the pair of domains that
// was authorised, and keeps what waits for a stream. The router hands it what leaves (Send), the
// listeners what arrives (Serve); the assembly in package xmpp makes it and ends it.
//
// Authorisation is per pair (local domain, remote domain) and per direction. A Pair has at most one
// outgoing stream, see pair.go for its life and out.go for the stream; an incoming stream may serve
// several pairs, see in.go. Who a peer is was decided by its certificate (certificate.go) or by
// dialback (dialback.go, verify.go), on the terms of the Policy (policy.go).
//
// What is queued for a pair ends delivered or bounced: when its server cannot be reached, requests
// and messages return to their senders. For a while after that, longer with each failure, stanzas for
// the pair are returned at once for the same reason instead of causing another attempt.
package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/meter"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
)

// Config is what federation needs of the server.
type Config struct {
	// Domains are the server's own domains, in canonical form; the first one asks where no other
	// is named. It is called for each stanza.
	Domains func() []string
	Policy  Policy
	// Roots are the trust anchors; nil: the system's.
	Roots        *x509.CertPool
	Certificates *transport.Certificates

	// Resolver is the host and port of the DNS server to ask; "": the system's.
	Resolver string
	// Dial connects to a host and port; nil: with Resolver, from LocalAddr.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// LocalAddr is the address from which other servers are dialled; nil: the system chooses.
	LocalAddr net.Addr

	// Route takes what other servers send and what is returned to senders. It is called without
	// any lock, also from within Send.
	Route func(stanza.Stanza)
	// Store keeps the secret behind dialback keys, and what makes streams outlive the server; the
	// Journal writes what is to be kept of messages.
	Store   storage.Store
	Journal *journal.Journal
	// Refused, if set, learns of each server, at an address, that may not speak for the remote domain
	// of a pair. It must not block.
	Refused func(p Pair, address, reason string)
	// Admit, if set, may hold up reading from other servers.
	Admit func(context.Context) error

	// Gate bounds what strangers at one address may cost.
	Gate     *transport.Gate
	Counters *meter.Counters
	Limits   stream.Limits
	// Timing is that of the streams. After Quiet without a sign of life from a peer it is pinged
	// (XEP-0199) and has Answer to react.
	Timing stream.Timing
	// ConnectTime bounds how long stanzas wait for a stream, DialTime one attempt to connect (0: a
	// third of ConnectTime). Idle is how long a stream stays open without stanzas from us.
	ConnectTime, DialTime, Idle time.Duration
	// Queue is how many bytes may wait for one pair while it has no stream: what was not sent, and
	// what was and is not acknowledged.
	Queue int
	// Resume is how long another server is told that it may go on with a stream that was lost (XEP-0198),
	// and how long we try to with one of ours; 0: not at all.
	Resume time.Duration

	Flusher *stream.Flusher
	Log     *slog.Logger
	// Now is the clock; nil: time.Now. Random is uniform in [0, n) and chooses among SRV records
	// and delays; nil: math/rand/v2.
	Now    func() time.Time
	Random func(n int) int
}

// A Pair is one of our domains and another one, both canonical.
type Pair struct{ Local, Remote string }

// Federation is the streams to and from other servers.
type Federation struct {
	Config
	secret   secret
	resolver *net.Resolver
	trust    atomic.Pointer[trust]
	in, out  *stream.Role
	// dials are for our own streams, by the owner of the other domain; verifications for keys that others
	// have us ask about, by the address from which they do.
	dials, verifications *turns

	work   context.Context // ends with Shutdown
	cancel context.CancelFunc

	mu       sync.Mutex
	closing  bool
	pairs    map[Pair]*pair
	outgoing map[*outgoing]struct{}
	incoming map[*incoming]struct{}
	inbound  map[key]*inbound
	orphans  []orphan  // until Run
	idle     sync.Cond // a task ended
	tasks    int       // goroutines of ours and streams
}

// trust is what Reload replaces.
type trust struct {
	*rules
	roots *x509.CertPool
}

// Bounds of what goes on at once: many domains that do not answer must not take all descriptors, nor keep
// us from reaching others. Whoever owns a domain has as many below it as they like, so these count as one.
// To have a key verified takes no more than to connect, so that is apart from the connections that we want
// ourselves, and bounded by the address, of which an IPv6 /64 is one. Who waits does so within ConnectTime.
const (
	maxDials, ownerDials                = 64, 16
	maxVerifications, siteVerifications = 256, 16
)

// New checks the policy and loads, or makes, the dialback secret.
func New(c Config) (*Federation, error) {
	f := &Federation{Config: c, dials: newTurns(maxDials, ownerDials),
		verifications: newTurns(maxVerifications, siteVerifications), pairs: make(map[Pair]*pair),
		outgoing: make(map[*outgoing]struct{}), incoming: make(map[*incoming]struct{}),
		inbound: make(map[key]*inbound)}
	f.idle.L = &f.mu
	if f.Now == nil {
		f.Now = time.Now
	}
	if f.Random == nil {
		f.Random = rand.IntN
	}
	if f.DialTime == 0 {
		f.DialTime = f.ConnectTime / 3
	}
	f.resolver = newResolver(c.Resolver)
	if f.Dial == nil {
		f.Dial = (&net.Dialer{Resolver: f.resolver, LocalAddr: c.LocalAddr}).DialContext
	}
	rules, err := c.Policy.compile()
	if err != nil {
		return nil, fmt.Errorf("federation: %w", err)
	}
	f.trust.Store(&trust{rules, c.Roots})
	if f.secret, err = loadSecret(c.Store); err != nil {
		return nil, fmt.Errorf("federation: %w", err)
	}
	f.in, f.out = f.incomingRole(), f.outgoingRole()
	f.work, f.cancel = context.WithCancel(context.Background())
	if err := f.restore(); err != nil {
		return nil, fmt.Errorf("federation: %w", err)
	}
	return f, nil
}

// Send takes a stanza from one of our domains to another domain. It never blocks on the network or
// a lock that somebody holds for long; a stanza that cannot be sent is returned through Route, at
// once or later.
func (f *Federation) Send(st stanza.Stanza) {
	key := Pair{st.From.Domain(), st.To.Domain()}
	if _, allowed := f.trust.Load().of(key.Remote); !allowed {
		f.refuse(st, stanza.NotAllowed("this server does not talk to "+key.Remote))
		return
	}
	if _, _, ok := st.Counted(); ok && st.Lasting() {
		st, _ = f.Journal.Open(st) // its sender must not be told that it is on its way before it is kept
	}
	for !f.pairOf(key).send(st) {
		// It was just forgotten; the next one is new.
	}
}

// refuse returns a stanza that is on its way.
func (f *Federation) refuse(st stanza.Stanza, reason *stanza.Error) {
	f.Journal.Close(st)
	f.bounce(reason, st)
}

// pairOf finds or makes the state of a pair.
func (f *Federation) pairOf(key Pair) *pair {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pairs[key]
	if p == nil {
		p = &pair{f: f, Pair: Pair{clone(key.Local), clone(key.Remote)}}
		f.pairs[p.Pair] = p
	}
	return p
}

// Serve lives one connection that another server made, with direct TLS or with STARTTLS, and
// returns when it is over.
func (f *Federation) Serve(ctx context.Context, c transport.Socket, direct bool) {
	pass, ok := f.Gate.Enter(c.RemoteAddr())
	if !ok {
		c.Close()
		return
	}
	defer pass.Leave()
	s, err := stream.New(f.in, c)
	if err != nil {
		f.Log.Error("connection could not be served", "err", err)
		c.Close()
		return
	}
	in := &incoming{f: f, s: s, pass: pass, pairs: make(map[Pair]*authorisation)}
	in.life, in.end = context.WithCancel(f.work)
	defer in.end()
	s.Data = in
	if !enter(f, f.incoming, in) {
		c.Close()
		return
	}
	defer leave(f, f.incoming, in)
	if direct {
		handshake, cancel := context.WithTimeout(ctx, f.Timing.Login)
		err := s.Secure(handshake, f.serverTLS("xmpp-server"))
		cancel()
		if err != nil {
			s.Log().Debug("TLS handshake failed", "err", err)
			c.Close()
			return
		}
	}
	if err := s.Run(ctx); err != nil && !transport.Gone(err) {
		s.Log().Info("stream from another server ended", "peer", s.Peer, "err", err)
	}
}

// serverTLS only asks for a certificate: what it proves is decided per stream, and a peer without a
// good one may still come by dialback. Session tickets are off, so that every connection shows one.
func (f *Federation) serverTLS(protocols ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: f.Certificates.Choose,
		ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true, NextProtos: protocols}
}

// Reload replaces policy and trust anchors. Streams of domains that are no longer allowed, or whose
// certificate no longer proves them, end with <policy-violation/>. On an error the old policy stays.
func (f *Federation) Reload(p Policy, roots *x509.CertPool) error {
	rules, err := p.compile()
	if err != nil {
		return fmt.Errorf("federation: %w", err)
	}
	f.trust.Store(&trust{rules, roots})
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "the policy changed"}
	for in := range f.incoming {
		if !in.stillAllowed() {
			in.s.Close(changed)
		}
	}
	for o := range f.outgoing {
		if !o.stillAllowed() {
			o.s.Close(changed)
		}
	}
	return nil
}

// releaseTime is how long what another server has got may stay in the store.
const releaseTime = 250 * time.Millisecond

// Run looks after the streams until the context ends: it sends what a restart has left, closes idle
// streams, keeps others alive, and forgets domains that nobody talks to any more.
func (f *Federation) Run(ctx context.Context) error {
	f.wake()
	release := time.NewTicker(releaseTime)
	defer release.Stop()
	every := max(min(f.Config.Idle, f.Timing.Answer, 30*time.Second)/2, time.Millisecond)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			f.tend(f.Now())
		case <-release.C:
			f.release()
		}
	}
}

// Shutdown returns what waits for a stream to its senders, unless it is kept, ends all streams, after
// what is in their queues, and waits for their ends; those that are left when ctx ends are aborted. Nothing
// is accepted any more.
func (f *Federation) Shutdown(ctx context.Context) {
	f.mu.Lock()
	f.closing = true
	pairs := make([]*pair, 0, len(f.pairs))
	for _, p := range f.pairs {
		pairs = append(pairs, p)
	}
	for in := range f.incoming {
		if in.managed.Load().kind() == "resumable" || !in.open.Load() {
			in.s.Drop() // it will be resumed, or is nobody yet
		}
		in.s.Close(&stanza.StreamError{Condition: stanza.StreamSystemShutdown})
	}
	f.mu.Unlock()
	f.cancel() // of what is being set up
	for _, p := range pairs {
		p.shut()
	}
	f.mu.Lock()
	for o := range f.outgoing {
		o.end()
	}
	f.mu.Unlock()

	stop := context.AfterFunc(ctx, f.abort)
	defer stop()
	f.mu.Lock()
	for f.tasks > 0 {
		f.idle.Wait()
	}
	f.mu.Unlock()
	f.keepCounts()
}

// abort ends all streams without waiting for their peers.
func (f *Federation) abort() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for in := range f.incoming {
		in.s.Abort()
	}
	for o := range f.outgoing {
		o.s.Abort()
	}
}

// enter notes a stream, unless the server is closing.
func enter[S comparable](f *Federation, streams map[S]struct{}, s S) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return false
	}
	streams[s] = struct{}{}
	f.tasks++
	return true
}

func leave[S comparable](f *Federation, streams map[S]struct{}, s S) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(streams, s)
	f.tasks--
	f.idle.Broadcast()
}

// start runs fn on a goroutine that Shutdown waits for; false if the server is closing.
func (f *Federation) start(fn func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return false
	}
	f.tasks++
	go func() {
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.tasks--
			f.idle.Broadcast()
		}()
		fn()
	}()
	return true
}

// bounce returns stanzas to their senders: messages and requests, also those for a subscription (RFC
// 6121 section 3.1.2). Other presence has nobody who waits for an answer, and errors and results are
// never answered (RFC 6120 section 8.3.1).
func (f *Federation) bounce(reason *stanza.Error, stanzas ...stanza.Stanza) {
	for _, st := range stanzas {
		if st.Kind == stanza.Presence && st.Type != "subscribe" {
			continue
		}
		if reply, ok := st.ErrorReply(reason); ok {
			f.Route(reply)
		}
	}
}

func (f *Federation) isLocal(domain string) bool { return slices.Contains(f.Domains(), domain) }

var errClosing = errors.New("the server is shutting down")
