package xep

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/storage/storagetest"
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
)

const patience = 10 * time.Second

// A house is a server without streams: the store in memory, the real registry and router, and the
// extensions of Table. Clients are sessions that record what they get.
type house struct {
	t            testing.TB
	host         *module.Host
	store        storage.Store
	faults       *storagetest.Faults
	registration *Registration
	remote       *mailroom
	hooks        *hook.Chain

	mu      sync.Mutex
	now     time.Time
	offline *Offline
	// friends are the pairs (account, other) of which other may see account's presence.
	friends map[[2]string]bool
}

// mailroom records what leaves for other domains.
type mailroom struct{ got chan stanza.Stanza }

func (m *mailroom) Send(st stanza.Stanza) { m.got <- st }

type houseOptions struct {
	Options
	registration RegistrationOptions
	offline      OfflineOptions
	domains      []module.Domain
}

// newHouse makes a server for a.test and b.test.
func newHouse(t testing.TB, o houseOptions) *house {
	t.Helper()
	h := &house{t: t, faults: new(storagetest.Faults), remote: &mailroom{make(chan stanza.Stanza, 1000)},
		now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), friends: make(map[[2]string]bool)}
	h.store = mem.New(mem.Options{BeforeCommit: h.faults.BeforeCommit})
	t.Cleanup(func() { h.store.Close() })
	accounts, err := auth.NewAccounts(h.store, auth.Options{Iterations: 1, Mechanisms: []string{"SCRAM-SHA-256"}, Now: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	if o.domains == nil {
		o.domains = []module.Domain{{Name: "a.test"}, {Name: "b.test"}}
	}
	isLocal := func(domain string) bool { return domain == "a.test" || domain == "b.test" }
	users := session.New(h.store, h.clock)
	journal, err := journal.New(h.store, h.clock)
	if err != nil {
		t.Fatal(err)
	}
	r := &router.Router{Users: users, Journal: journal, IsLocal: isLocal, Remote: h.remote, Log: slog.New(slog.DiscardHandler)}
	var features []module.Feature
	h.host = &module.Host{Store: h.store, Users: users, Accounts: accounts, Journal: journal, Log: r.Log, Now: h.clock, Started: h.clock(),
		IsLocal: isLocal, Domains: func() []module.Domain { return o.domains }, Route: r.Route,
		Features: func() []module.Feature { return features }}
	h.registration = NewRegistration(h.host, o.registration)
	o.Registration = h.registration
	h.offline = NewOffline(h.host, o.offline)
	o.Offline = h.offline
	o.MaySeePresence = func(u hook.User, who jid.JID) bool { return h.friends[[2]string{u.JID().String(), who.String()}] }
	hooks := []hook.Hooks{router.OwnHooks()}
	for _, construct := range Table(o.Options) {
		f, err := construct(h.host)
		if err != nil {
			t.Fatal(err)
		}
		features = append(features, f)
		r.Handle(f.IQ)
		hooks = append(hooks, f.Hooks)
	}
	h.hooks = hook.Join(hooks...)
	r.Hooks = h.hooks
	journal.Start(r.NotKept)
	users.Start(r.Hooks, r, journal)
	return h
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// stall makes commits wait until release is called; stalled is closed when one does.
func (h *house) stall() (stalled <-chan struct{}, release func()) {
	stalled, release = h.faults.Stall()
	h.t.Cleanup(release) // else a test that fails could not close its store
	return stalled, release
}

// accounts makes accounts without a password.
func (h *house) accounts(names ...string) {
	h.t.Helper()
	h.write(func(tx storage.Tx) error {
		for _, name := range names {
			if err := tx.Accounts().Create(storage.Account{JID: jid.MustParse(name)}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *house) write(fn func(storage.Tx) error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.store.Submit(fn).Wait(ctx); err != nil {
		h.t.Fatal(err)
	}
}

// stored are the messages kept for an account.
func (h *house) stored(owner string) (list []string) {
	h.t.Helper()
	h.write(func(storage.Tx) error { return nil }) // behind what was submitted before
	err := h.store.View(func(tx storage.Tx) error {
		rows, err := tx.Offline().List(jid.MustParse(owner), 0, 0)
		for _, m := range rows {
			list = append(list, m.Stanza)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

// route hands the router a stanza as if it had come from elsewhere.
func (h *house) route(xml string) {
	h.t.Helper()
	h.host.Route(parse(h.t, xml))
}

// ask routes a request and returns the answer, from outside of this server.
func (h *house) ask(xml string) stanza.Stanza {
	h.t.Helper()
	h.route(xml)
	return h.answer()
}

// answer is what comes next for somebody outside of this server.
func (h *house) answer() stanza.Stanza {
	h.t.Helper()
	select {
	case st := <-h.remote.got:
		return st
	case <-time.After(patience):
		h.t.Fatal("no answer")
		return stanza.Stanza{}
	}
}

// A client is the sink of a session.
type client struct {
	h       *house
	s       *session.Session
	got     chan stanza.Stanza
	closed  chan *stanza.StreamError
	visited func(stanza.Stanza) // instead of got
}

func (c *client) Send(e element.Element) {
	st, err := stanza.Parse(e)
	if err != nil {
		c.h.t.Errorf("a client got %s: %v", e, err)
	}
	if c.visited != nil {
		c.visited(st)
		return
	}
	c.got <- st
}

func (c *client) Close(err *stanza.StreamError) { c.closed <- err }

// bind binds a resource.
func (h *house) bind(full string) *client {
	h.t.Helper()
	return h.bindWith(full, nil)
}

func (h *house) bindWith(full string, visited func(stanza.Stanza)) *client {
	h.t.Helper()
	c := &client{h: h, got: make(chan stanza.Stanza, 10000), closed: make(chan *stanza.StreamError, 1), visited: visited}
	var err error
	if c.s, err = h.host.Users.Bind(session.Binding{Full: jid.MustParse(full), Sink: c,
		Announce: func(*session.User, *session.Session) {}}); err != nil {
		h.t.Fatal(err)
	}
	return c
}

// presence sends a presence, such as <presence><priority>1</priority></presence>.
func (c *client) presence(xml string) {
	c.h.t.Helper()
	st := parse(c.h.t, xml).WithFrom(c.s.JID())
	if err := c.h.host.Users.Do(c.s.JID().Bare(), func(u *session.User) { u.SetPresence(c.s, st) }); err != nil {
		c.h.t.Fatal(err)
	}
}

// send sends any other stanza.
func (c *client) send(xml string) {
	c.h.t.Helper()
	st := parse(c.h.t, xml).WithFrom(c.s.JID())
	if st.To.IsZero() {
		st = st.WithTo(c.s.JID().Bare())
	}
	if err := c.h.host.Users.Do(c.s.JID().Bare(), func(u *session.User) { u.Route(st) }); err != nil {
		c.h.t.Fatal(err)
	}
}

func (c *client) ask(xml string) stanza.Stanza {
	c.h.t.Helper()
	c.send(xml)
	return c.next()
}

func (c *client) next() stanza.Stanza {
	c.h.t.Helper()
	select {
	case st := <-c.got:
		return st
	case <-time.After(patience):
		c.h.t.Fatalf("%s got nothing", c.s.JID())
		return stanza.Stanza{}
	}
}

// nothing asserts that the client has got nothing by the time that an answer to a ping arrives.
func (c *client) nothing() {
	c.h.t.Helper()
	reply := c.ask("<iq type='get' id='nothing'><ping xmlns='urn:xmpp:ping'/></iq>")
	if reply.ID != "nothing" {
		c.h.t.Fatalf("%s got %s, want nothing", c.s.JID(), reply.Element)
	}
}

func (c *client) end() { c.h.host.Users.End(c.s, nil) }

// isClosed waits for the end of the client's stream.
func (c *client) isClosed() *stanza.StreamError {
	c.h.t.Helper()
	select {
	case err := <-c.closed:
		return err
	case <-time.After(patience):
		c.h.t.Fatalf("the stream of %s goes on", c.s.JID())
		return nil
	}
}

func parse(t testing.TB, xml string) stanza.Stanza {
	t.Helper()
	e, err := element.ParseOne(xml, ns.Client)
	if err != nil {
		t.Fatalf("%s: %v", xml, err)
	}
	st, err := stanza.Parse(e)
	if err != nil {
		t.Fatalf("%s: %v", xml, err)
	}
	return st
}

// wantPayload asserts a result with this payload; "" for none.
func wantPayload(t *testing.T, reply stanza.Stanza, want string) {
	t.Helper()
	if got := reply.Payload().String(); reply.Type != "result" || got != want {
		t.Errorf("got %s\nwant a result with %s", reply.Element, want)
	}
}

// wantError asserts an error such as "auth forbidden".
func wantError(t *testing.T, reply stanza.Stanza, want string) {
	t.Helper()
	err := stanza.ParseError(reply.Element.Child("error", ns.Client))
	if got := fmt.Sprint(err.Type, " ", err.Condition); reply.Type != "error" || got != want {
		t.Errorf("got %s\nwant the error %s", reply.Element, want)
	}
}

// eventually waits for a condition that others bring about.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
