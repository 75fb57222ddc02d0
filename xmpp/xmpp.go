// Package xmpp assembles the server: it makes each part, gives it what it needs, and starts and stops
// them in order. The command line calls it, and so does every test that wants a whole server; there
// may be several in one process. It holds no logic of its own.
//
// Start with New, then Server.Run.
package xmpp

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"tombolo/federation"
	"tombolo/roster"
	"tombolo/storage"
	"tombolo/storage/bolt"
	"tombolo/xmpp/admin"
	"tombolo/xmpp/archive"
	"tombolo/xmpp/audit"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/meter"
	"tombolo/xmpp/module"
	"tombolo/xmpp/router"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
	"tombolo/xmpp/xep"
)

// Options are what the surroundings give to a server; all may be left zero.
type Options struct {
	Log     *slog.Logger
	Version string
	Now     func() time.Time
	// Store replaces the database in the data directory; the server closes it.
	Store storage.Store
	// LocalAddr is the address from which other servers are dialled.
	LocalAddr net.Addr
	// Reread returns the configuration anew, for the verb server.reload.
	Reread func() (Config, error)
}

// A Server is a whole server. Between New and Run it answers Call, and serves nobody.
type Server struct {
	config  Config
	options Options
	log     *slog.Logger
	started time.Time
	local   []string // domains

	store        storage.Store
	audit        *audit.Log
	journal      *journal.Journal
	users        *session.Registry
	certificates *transport.Certificates
	flusher      *stream.Flusher
	counters     *meter.Counters
	gate         *transport.Gate
	router       *router.Router
	federation   *federation.Federation
	clients      *c2s.Server
	features     []module.Feature
	verbs        map[string]module.Verb

	reloading sync.Mutex
	effective Config // config with what reloads have taken over

	background sync.WaitGroup
	stop       context.CancelFunc
	listeners  []listener
	connected  sync.WaitGroup
}

// A listener is one bound address and what serves its connections.
type listener struct {
	net.Listener
	key   string // of the configuration
	serve func(context.Context, transport.Socket)
}

// New makes a server from a configuration that Validate has accepted. It opens the store, so it
// fails while another process has it.
func New(cfg Config, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{config: cfg, effective: cfg, options: o, log: o.Log, started: o.Now(), store: o.Store, flusher: stream.NewFlusher(), counters: new(meter.Counters)}
	if err := s.assemble(); err != nil {
		err = errors.Join(err, s.audit.Close())
		if s.store != nil {
			err = errors.Join(err, s.store.Close())
		}
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.inBackground(func() { s.flusher.Run(ctx) })
	return s, nil
}

func (s *Server) assemble() error {
	if err := s.openStore(); err != nil {
		return err
	}
	var err error
	if s.audit, err = s.openAudit(); err != nil {
		return err
	}
	for _, d := range s.config.Domain {
		s.local = append(s.local, d.Name)
	}
	s.certificates, err = transport.LoadCertificates(s.config.keyPairs(), s.options.Now, func(domain string, err error) {
		if err != nil {
			s.log.Error("changed certificate cannot be used; the old one stays", "domain", domain, "err", err)
		} else {
			s.log.Info("certificate changed", "domain", domain)
		}
	})
	if err != nil {
		return err
	}
	login := &s.config.Auth
	accounts, err := auth.NewAccounts(s.store, auth.Options{
		Iterations: login.Iterations, Mechanisms: login.keys(), Now: s.options.Now,
		TokenKeyFile: s.config.TokenKey(), TokenLifetime: time.Duration(login.TokenLifetime),
		ClientsKept: time.Duration(login.ClientsKept), ClientAddresses: login.ClientAddresses,
	})
	if err != nil {
		return err
	}
	if s.journal, err = journal.New(s.store, s.options.Now); err != nil {
		return err
	}
	s.users = session.New(s.store, s.options.Now)
	s.users.MaxSessions = int(s.config.Limits.SessionsPerAccount)
	s.router = &router.Router{Users: s.users, Journal: s.journal, IsLocal: s.isLocal, Log: s.log}
	s.journal.Start(s.router.NotKept)
	host := &module.Host{
		Store: s.store, Users: s.users, Accounts: accounts, Journal: s.journal, Log: s.log, Now: s.options.Now, Started: s.started, Audit: s.audit,
		IsLocal: s.isLocal, Domains: s.domains, Route: s.router.Route,
		Features: func() []module.Feature { return s.features },
	}
	limits := s.config.Limits
	s.gate = &transport.Gate{Strangers: int(limits.StrangersPerAddress), Handshakes: limits.HandshakesPerAddress,
		Exempt: limits.Exempt, Counters: s.counters}
	registration := xep.NewRegistration(host, xep.RegistrationOptions{
		Open: s.config.Auth.Registration, PerMinute: int(limits.RegistrationsPerMinute), Exempt: limits.Exempt,
	})
	if err := s.build(host, registration); err != nil {
		return err
	}

	roots, err := roots(s.config.Federation.CAFile)
	if err != nil {
		return err
	}
	s.federation, err = federation.New(s.federationConfig(roots))
	if err != nil {
		return err
	}
	s.router.Remote = s.federation
	s.clients = c2s.New(c2s.Config{
		IsLocal: s.isLocal, Accounts: accounts, Users: s.users, Store: s.store, Journal: s.journal, Hooks: s.router.Hooks,
		Certificates: s.certificates, Plain: login.Plain, Tokens: slices.Contains(login.Mechanisms, fast),
		LoginTries: limits.LoginAttempts, Gate: s.gate, Exempt: limits.Exempt,
		Early: registration.Early(), Announced: s.announced(), Inline: s.inline(), Admit: s.store.Admit,
		Resume: time.Duration(limits.Resume),
		Limits: s.streamLimits(limits.Stanza, int(limits.BytesPerSecond), int(limits.StanzasPerSecond)),
		Timing: s.timing(), Flusher: s.flusher, Counters: s.counters, Audit: s.audit, Log: s.log.With("stream", "client"),
	})
	s.collectVerbs(host)
	return s.clients.Restore()
}

func (s *Server) openStore() error {
	if s.store != nil {
		return nil
	}
	if err := os.MkdirAll(s.config.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	store, err := bolt.Open(s.config.Database(), bolt.Options{})
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	s.store = store
	return nil
}

func (s *Server) openAudit() (*audit.Log, error) {
	o := s.config.AuditLog()
	if s.config.Audit.Syslog {
		o.Copy = audit.Syslog
	}
	o.Log, o.Now = s.log, s.options.Now
	return audit.Open(o)
}

// build constructs the features. Their order is that of their hooks: who is blocked is not asked
// about anything else, what is archived has its id before it is copied, and offline messages, last in
// xep.Table, hold what all others let pass.
func (s *Server) build(host *module.Host, registration *xep.Registration) error {
	limits := s.config.Limits
	contacts := roster.New(host, roster.Options{
		MaxItems: int(limits.RosterItems), MaxDirected: int(limits.DirectedPresences),
		RequestsPerMinute: int(limits.SubscriptionRequestsPerMinute), Counters: s.counters,
	})
	offline := xep.NewOffline(host, xep.OfflineOptions{
		Max: int(limits.OfflineMessages), Consume: s.config.Offline.Consume == "account",
	})
	archives := archive.New(host, archive.Options{
		Enabled: s.config.archived, Retention: s.config.retention,
		Listed: contacts.Listed, MaySee: contacts.Subscribed, Fetched: offline.Fetched,
	})
	s.features = append(c2s.Features(), contacts.Blocking(), contacts.Contacts())
	s.features = append(s.features, archives.Features()...)
	for _, construct := range xep.Table(xep.Options{
		Version: s.options.Version, Offline: offline,
		PrivateBytes: int(limits.PrivateData), Registration: registration, MaySeePresence: contacts.Subscribed,
	}) {
		f, err := construct(host)
		if err != nil {
			return err
		}
		s.features = append(s.features, f)
	}
	hooks := []hook.Hooks{router.OwnHooks()}
	for _, f := range s.features {
		s.router.Handle(f.IQ)
		hooks = append(hooks, f.Hooks)
	}
	s.router.Hooks = hook.Join(hooks...)
	s.users.Start(s.router.Hooks, s.router, s.journal)
	return nil
}

func (s *Server) announced() []element.Element {
	var all []element.Element
	for _, f := range s.features {
		all = append(all, f.Stream...)
	}
	return all
}

func (s *Server) inline() []module.Inline {
	var all []module.Inline
	for _, f := range s.features {
		all = append(all, f.Inline...)
	}
	return all
}

// Listen binds all addresses of the configuration, or none. Run calls it where it was not called.
func (s *Server) Listen() (err error) {
	if s.listeners != nil {
		return nil
	}
	client := func(direct bool) func(context.Context, transport.Socket) {
		return func(ctx context.Context, c transport.Socket) { s.clients.Serve(ctx, c, direct) }
	}
	server := func(direct bool) func(context.Context, transport.Socket) {
		return func(ctx context.Context, c transport.Socket) { s.federation.Serve(ctx, c, direct) }
	}
	for _, l := range []struct {
		key       string
		addresses []string
		serve     func(context.Context, transport.Socket)
	}{
		{"client", s.config.Listen.Client, client(false)},
		{"client_tls", s.config.Listen.ClientTLS, client(true)},
		{"server", s.config.Listen.Server, server(false)},
		{"server_tls", s.config.Listen.ServerTLS, server(true)},
	} {
		for _, address := range l.addresses {
			ln, err := net.Listen("tcp", address)
			if err != nil {
				s.closeListeners()
				return fmt.Errorf("listen.%s: %w", l.key, err)
			}
			s.listeners = append(s.listeners, listener{ln, l.key, l.serve})
		}
	}
	return nil
}

// Run serves until the context ends or the store fails; then it stops accepting, tells the clients,
// waits for what is under way at most as long as limits.shutdown, and closes the store.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return errors.Join(err, s.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.audit.Write(s.startRecord())
	work, end := context.WithCancel(context.Background())
	defer end()
	failed := make(chan error, len(s.listeners)+len(s.features)+3)
	for _, l := range s.listeners {
		s.log.Info("listening", "for", l.key, "address", l.Addr().String())
		s.inBackground(func() {
			failed <- transport.Serve(ctx, l, func(c transport.Socket) {
				s.connected.Add(1)
				defer s.connected.Done()
				l.serve(work, c)
			})
		})
	}
	for _, f := range s.features {
		if f.Run != nil {
			s.inBackground(func() { failed <- f.Run(ctx) })
		}
	}
	s.inBackground(func() { failed <- s.federation.Run(work) })
	s.inBackground(func() { failed <- s.clients.Run(ctx) })
	socket, err := admin.Listen(s.config.AdminSocket())
	if err == nil {
		s.inBackground(func() { failed <- admin.Serve(ctx, socket, s.verbs, s.log) })
		err = s.wait(ctx, failed)
	}

	stop() // the same for everything that serves or works, whatever ended the server
	s.closeListeners()
	s.disconnect(time.Duration(s.config.Limits.Shutdown))
	end()
	s.connected.Wait()
	s.audit.Write(audit.Event{Kind: audit.ServerStopped})
	return errors.Join(err, s.Close())
}

// disconnect ends all streams within the time: half of it is the clients', whose last presence other domains
// are told before their streams end.
func (s *Server) disconnect(within time.Duration) {
	deadline, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	clients, cancel := context.WithTimeout(deadline, within/2)
	defer cancel()
	s.clients.Shutdown(clients)
	s.federation.Shutdown(deadline)
}

// wait returns when the server is to end, and why.
func (s *Server) wait(ctx context.Context, failed <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.store.Failed():
			return fmt.Errorf("database: %w", s.store.Err())
		case err := <-failed:
			if err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// Close ends a server on which Run was not called.
func (s *Server) Close() error {
	s.stop()
	s.background.Wait()
	return errors.Join(s.audit.Close(), s.store.Close())
}

// startRecord says what the server is, and whom the configuration makes an administrator.
func (s *Server) startRecord() audit.Event {
	e := audit.Event{Kind: audit.ServerStarted, By: audit.ActorOf(context.Background()).By,
		Detail: map[string]string{"version": s.options.Version, "domains": strings.Join(s.local, " ")}}
	var admins []string
	for _, d := range s.config.Domain {
		admins = append(admins, d.Admins...)
	}
	if len(admins) > 0 {
		e.Detail["admins"] = strings.Join(admins, " ")
	}
	return e
}

// Call carries out an operator's request; see Verbs in the parts that register them.
func (s *Server) Call(ctx context.Context, verb string, args []byte) (any, error) {
	do, ok := s.verbs[verb]
	if !ok {
		return nil, fmt.Errorf("there is no verb %q", verb)
	}
	return do(ctx, args)
}

// Features are the parts that describe themselves, for the documentation.
func (s *Server) Features() []module.Feature { return s.features }

// Addresses are the bound addresses by key of the configuration, after Listen.
func (s *Server) Addresses() map[string][]string {
	m := make(map[string][]string)
	for _, l := range s.listeners {
		m[l.key] = append(m[l.key], l.Addr().String())
	}
	return m
}

func (s *Server) closeListeners() {
	for _, l := range s.listeners {
		l.Close()
	}
}

func (s *Server) inBackground(f func()) { s.background.Go(f) }

func (s *Server) isLocal(domain string) bool { return slices.Contains(s.local, domain) }

func (s *Server) names() []string { return s.local }

func (s *Server) domains() []module.Domain {
	var list []module.Domain
	for _, d := range s.config.Domain {
		m := module.Domain{Name: d.Name, Contacts: d.Contacts}
		for _, a := range d.Admins {
			if j, err := jid.Parse(a); err == nil { // Validate has refused the others
				m.Admins = append(m.Admins, j)
			}
		}
		list = append(list, m)
	}
	return list
}

func (s *Server) xmlLimits(bytes Size) element.Limits {
	return element.Limits{Bytes: int(bytes), Depth: s.config.Limits.Depth,
		Attrs: s.config.Limits.Attributes, Namespaces: s.config.Limits.Attributes}
}

// streamLimits are those of a role; a rate of 0 is none, as between servers, each of which speaks for
// many users.
func (s *Server) streamLimits(stanza Size, bytes, stanzas int) stream.Limits {
	l := s.config.Limits
	return stream.Limits{
		Before: s.xmlLimits(l.StanzaBeforeAuth), After: s.xmlLimits(stanza), Queue: int(l.Queue),
		EarlyBytes: int(l.LoginBytes), EarlyElements: l.LoginElements, Bytes: bytes, Stanzas: stanzas,
	}
}

func (s *Server) timing() stream.Timing {
	l := s.config.Limits
	return stream.Timing{Login: time.Duration(l.LoginTime), Quiet: time.Duration(l.Idle),
		Answer: time.Duration(l.IdleAnswer), Finish: time.Duration(l.Shutdown)}
}

func (s *Server) federationConfig(roots *x509.CertPool) federation.Config {
	limits, fed := s.config.Limits, s.config.Federation
	return federation.Config{
		Domains: s.names, Policy: policy(fed), Roots: roots, Certificates: s.certificates,
		Resolver: fed.Resolver, LocalAddr: s.options.LocalAddr,
		Route: s.router.Route, Store: s.store, Journal: s.journal, Admit: s.store.Admit, Refused: s.refused,
		Gate: s.gate, Counters: s.counters, Limits: s.streamLimits(limits.ServerStanza, 0, 0),
		Timing: s.timing(), ConnectTime: time.Duration(fed.ConnectTime), Idle: time.Duration(fed.Idle), Queue: int(fed.Queue),
		Resume:  time.Duration(limits.Resume),
		Flusher: s.flusher, Log: s.log.With("stream", "server"), Now: s.options.Now,
	}
}

// refused records that another server may not speak for a domain.
func (s *Server) refused(p federation.Pair, address, reason string) {
	s.audit.Write(audit.Event{Kind: audit.FederationRefused, Remote: address,
		Detail: map[string]string{"local": p.Local, "domain": p.Remote, "reason": reason}})
}

// policy is the configuration in the words of federation.
func policy(c Federation) federation.Policy {
	p := federation.Policy{Open: c.Policy == "open", Deny: c.Deny}
	for _, partner := range c.Partner {
		p.Partners = append(p.Partners, federation.Partner{
			Domain: partner.Domain, Address: partner.Address, DirectTLS: partner.DirectTLS,
			Certificate: partner.Authentication == "certificate", Pins: partner.Pins, Clear: partner.Clear,
		})
	}
	return p
}

// roots are the system's trust anchors and those of a file.
func roots(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // no system store: the file's anchors only
	}
	if file == "" {
		return pool, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("federation.ca_file: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("federation.ca_file: no certificate in %s", file)
	}
	return pool, nil
}
