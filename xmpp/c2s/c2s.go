// Package c2s is the client's side of the server: login, resource binding, and what a client's
// stanzas go through before the router sees them (RFC 6120 sections 4 to 8). The assembly in package
// xmpp makes a Server and hands it the connections that its listeners accept.
//
// Start with New, which spells out the client role of a stream, then client.handle, the way of each
// stanza.
package c2s

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/audit"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/meter"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
)

// Config is what the client role needs of the server.
type Config struct {
	IsLocal      func(domain string) bool
	Accounts     *auth.Accounts
	Users        *session.Registry
	Store        storage.Store
	Journal      *journal.Journal
	Hooks        *hook.Chain
	Certificates *transport.Certificates
	Plain        bool // offer PLAIN
	Tokens       bool // offer tokens to clients that log in (XEP-0484)
	LoginTries   int
	Gate         *transport.Gate
	Exempt       []netip.Prefix // networks whose failed logins are not held up

	// Early are features that may be used before login, such as registration; Announced are what
	// the server's features say of themselves after it.
	Early     []stream.Feature
	Announced []element.Element
	// Inline is what clients can enable while they bind a resource with SASL2.
	Inline []module.Inline

	// Resume is how long a session waits for its client to come back (XEP-0198); 0: not at all.
	Resume time.Duration

	Admit    func(context.Context) error
	Limits   stream.Limits
	Timing   stream.Timing
	Flusher  *stream.Flusher
	Counters *meter.Counters
	Audit    *audit.Log // nil: none
	Log      *slog.Logger
}

// A Server serves clients.
type Server struct {
	Config
	role     *stream.Role
	direct   *tls.Config // of direct TLS
	stream   *tls.Config // of STARTTLS
	throttle *throttle
	parking  parking

	mu      sync.Mutex
	streams map[*stream.Stream]bool // has a session of its own, not one that it resumed
	closing bool
	ended   sync.Cond
}

// New makes the role that all client streams share.
func New(c Config) *Server {
	c.Timing.Ask = askPause
	s := &Server{Config: c, streams: make(map[*stream.Stream]bool)}
	s.parking.outlets, s.parking.ended = make(map[key]*outlet), make(map[jid.JID][]endedSession)
	s.parking.acked = make(map[*outlet]struct{})
	s.throttle = newThrottle(c.Timing.Login)
	s.ended.L = &s.mu
	// Session tickets are off: a full handshake costs little, and what was proved by a certificate
	// is then proved on every connection.
	s.stream = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.Certificates.Choose,
		SessionTicketsDisabled: true}
	s.direct = s.stream.Clone()
	s.direct.NextProtos = []string{"xmpp-client"}

	login := stream.Login{Mechanisms: s.mechanisms, Attempt: s.attempt, Accepted: s.accepted,
		Failed: s.failed, Tries: c.LoginTries}
	features := []stream.Feature{
		stream.StartTLS(func(*stream.Stream) *tls.Config { return s.stream }, func(*stream.Stream) bool { return true }),
		stream.SASL(login),
		stream.SASL2(login, s.login2()),
	}
	features = append(features, c.Early...)
	features = append(features, s.bind(), s.management(), announce(c.Announced))
	s.role = &stream.Role{
		Content:   ns.Client,
		Features:  features,
		Opened:    s.opened,
		Ready:     func(st *stream.Stream) bool { return st.State()&stream.Bound != 0 },
		Handle:    func(st *stream.Stream, e element.Element) error { return clientOf(st).handle(e) },
		Quiet:     func(st *stream.Stream) { clientOf(st).ping() },
		Ended:     s.over,
		Written:   func(st *stream.Stream) { clientOf(st).written() },
		Admit:     c.Admit,
		Handshake: func(ctx context.Context, st *stream.Stream) (func(), error) { return clientOf(st).pass.Handshake(ctx) },
		Limits:    c.Limits, Timing: c.Timing, Flusher: c.Flusher, Counters: c.Counters, Log: c.Log,
		Attributes: func(st *stream.Stream) []any { return clientOf(st).attributes() },
	}
	return s
}

// Serve lives one connection, with direct TLS or with STARTTLS. It returns when the stream has begun.
func (s *Server) Serve(ctx context.Context, c transport.Socket, direct bool) {
	pass, ok := s.Gate.Enter(c.RemoteAddr())
	if !ok {
		c.Close()
		return
	}
	st, err := stream.New(s.role, c)
	if err != nil {
		s.Log.Error("connection could not be served", "err", err)
		c.Close()
		pass.Leave()
		return
	}
	st.Data = &client{server: s, stream: st, pass: pass}
	if !s.enter(st) {
		c.Close()
		pass.Leave()
		return
	}
	leave := func() {
		s.leave(st)
		pass.Leave()
	}
	if direct {
		handshake, cancel := context.WithTimeout(ctx, s.Timing.Login)
		err := st.Secure(handshake, s.direct)
		cancel()
		if err != nil {
			st.Log().Debug("TLS handshake failed", "err", err)
			c.Close()
			leave()
			return
		}
	}
	st.Live(ctx, func(err error) {
		if err != nil && !transport.Gone(err) {
			st.Log().Info("stream ended", "err", err)
		}
		leave()
	})
}

// Shutdown ends all streams and waits for that; those that are left when ctx ends are aborted. Clients that can resume their sessions, or are
// about to do it, lose their connections; the others are told <system-shutdown/>.
func (s *Server) Shutdown(ctx context.Context) {
	for _, o := range s.parking.all() {
		if st := o.ledger.Carrier(); st != nil {
			st.Drop()
		}
	}
	s.mu.Lock()
	s.closing = true
	for st, bound := range s.streams {
		if bound {
			st.Close(&stanza.StreamError{Condition: stanza.StreamSystemShutdown})
		} else {
			st.Drop()
		}
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for st := range s.streams {
			st.Abort()
		}
	})
	defer stop()
	for len(s.streams) > 0 {
		s.ended.Wait()
	}
	s.mu.Unlock()
	for _, o := range s.parking.all() {
		_ = s.Users.Do(o.session.JID().Bare(), func(*session.User) { // an account that is gone has no sessions
			if s.parking.has(o) {
				o.Changed()
			}
		})
		o.counted()
	}
	s.release()
}

// Connections is the number of client connections, logged in or not.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

func (s *Server) enter(st *stream.Stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.streams[st] = false
	return true
}

func (s *Server) bound(st *stream.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = true
}

func (s *Server) leave(st *stream.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	s.ended.Broadcast()
}

// opened finds the virtual host that the client wants (RFC 6120 section 4.7.2). What it named first
// holds for the stream's whole life: TLS and login were for that domain and that account.
func (s *Server) opened(st *stream.Stream, h stream.Header) error {
	to, err := jid.Parse(h.To)
	if err != nil || !to.IsServer() || !s.IsLocal(to.Domain()) {
		return &stanza.StreamError{Condition: stanza.StreamHostUnknown}
	}
	if st.Local != "" && st.Local != to.Domain() {
		return &stanza.StreamError{Condition: stanza.StreamHostUnknown,
			Text: "the domain changed within one stream"}
	}
	st.Local = to.Domain()
	account := clientOf(st).account
	if h.From == "" {
		st.Peer = account.String() // what was claimed in clear counts no more
		return nil
	}
	from, err := jid.Parse(h.From)
	if err != nil || from.Domain() != st.Local || (!account.IsZero() && from.Bare() != account) {
		return &stanza.StreamError{Condition: stanza.StreamInvalidFrom}
	}
	st.Peer = from.String() // our header's to reflects it as it is (RFC 6120 section 4.7.2)
	return nil
}
