package xmpp_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"tombolo/roster"
	"tombolo/storage"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/router"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/xep"
)

// An engine is a server without its network: registry, router and all features, over a store. What
// sessions are sent goes to sinks in memory.
type engine struct {
	users  *session.Registry
	router *router.Router
	store  storage.Store
	log    *logs
}

func newEngine(t testing.TB, store storage.Store, accounts ...string) *engine {
	t.Helper()
	e := &engine{users: session.New(store, time.Now), store: store, log: new(logs)}
	log := slog.New(slog.NewTextHandler(e.log, nil))
	t.Cleanup(func() {
		store.Close()
		e.log.judge(t, "engine")
	})
	local := func(domain string) bool { return domain == "a.test" }
	messages, err := journal.New(store, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	e.router = &router.Router{Users: e.users, Journal: messages, IsLocal: local, Remote: nowhere{}, Log: log}
	passwords, err := auth.NewAccounts(store, auth.Options{Iterations: 4096})
	if err != nil {
		t.Fatal(err)
	}
	host := &module.Host{Store: store, Users: e.users, Accounts: passwords, Journal: messages, Log: log, Now: time.Now, Started: time.Now(),
		IsLocal: local, Domains: func() []module.Domain { return []module.Domain{{Name: "a.test"}} }, Route: e.router.Route,
		Features: func() []module.Feature { return nil }}
	contacts := roster.New(host, roster.Options{})
	features := []module.Feature{contacts.Blocking(), contacts.Contacts()}
	for _, construct := range xep.Table(xep.Options{MaySeePresence: contacts.Subscribed,
		Offline:      xep.NewOffline(host, xep.OfflineOptions{}),
		Registration: xep.NewRegistration(host, xep.RegistrationOptions{})}) {
		f, err := construct(host)
		if err != nil {
			t.Fatal(err)
		}
		features = append(features, f)
	}
	hooks := []hook.Hooks{router.OwnHooks()}
	for _, f := range features {
		e.router.Handle(f.IQ)
		hooks = append(hooks, f.Hooks)
	}
	e.router.Hooks = hook.Join(hooks...)
	messages.Start(e.router.NotKept)
	e.users.Start(e.router.Hooks, e.router, messages)
	for _, account := range accounts {
		e.write(t, func(tx storage.Tx) error {
			return tx.Accounts().Create(storage.Account{JID: jid.MustParse(account), Created: time.Now()})
		})
	}
	return e
}

// nowhere is all other domains.
type nowhere struct{}

func (nowhere) Send(stanza.Stanza) {}

func (e *engine) write(t testing.TB, fn func(storage.Tx) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := e.store.Submit(fn).Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// befriend gives two accounts a subscription to each other.
func (e *engine) befriend(t testing.TB, a, b jid.JID) {
	t.Helper()
	e.write(t, func(tx storage.Tx) error {
		if err := tx.Rosters().Put(a, storage.RosterItem{Contact: b, Listed: true, To: true, From: true}, 1); err != nil {
			return err
		}
		return tx.Rosters().Put(b, storage.RosterItem{Contact: a, Listed: true, To: true, From: true}, 1)
	})
}

// A sink is what a client would get; calls come under its user's lock, so one at a time.
type sink struct {
	send  func(element.Element)
	close func(*stanza.StreamError)
}

func (s sink) Send(e element.Element) {
	if s.send != nil {
		s.send(e)
	}
}

func (s sink) Close(err *stanza.StreamError) {
	if s.close != nil {
		s.close(err)
	}
}

// bind makes a session.
func (e *engine) bind(full jid.JID, s sink) (*session.Session, error) {
	return e.users.Bind(session.Binding{Full: full, Sink: s, Announce: func(*session.User, *session.Session) {}})
}

// show makes a session available, as its client would.
func (e *engine) show(s *session.Session, status string) error {
	return e.users.Do(s.JID().Bare(), func(u *session.User) {
		if u.Find(s.JID()) == s {
			u.SetPresence(s, stanza.New(stanza.Presence, "", "", s.JID(), jid.JID{}, element.Leaf("status", ns.Client, status)))
		}
	})
}

// say sends a stanza, as the client of a session would.
func (e *engine) say(s *session.Session, st stanza.Stanza) error {
	return e.users.Do(s.JID().Bare(), func(u *session.User) {
		if v := e.router.Hooks.Outgoing(u, s, &st); !v.Stops() {
			u.Route(st)
		}
	})
}
