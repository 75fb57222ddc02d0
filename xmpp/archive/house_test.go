package archive

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/storage/storagetest"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/router"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

const patience = 10 * time.Second

var (
	romeo  = jid.MustParse("romeo@a.test")
	juliet = jid.MustParse("juliet@a.test")
)

// A house is a server for a.test that has archives and nothing else.
type house struct {
	testing.TB
	*Archive
	faults *storagetest.Faults
	router *router.Router
	lost   chan stanza.Stanza // what nobody takes
	came   atomic.Int32       // messages for anybody, taken or not

	mu        sync.Mutex
	time      time.Time
	retention time.Duration
	fetched   int
}

type nowhere struct{}

func (nowhere) Send(stanza.Stanza) {}

func newHouse(t testing.TB) *house {
	h := &house{TB: t, faults: new(storagetest.Faults), lost: make(chan stanza.Stanza, 1000),
		time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	store := mem.New(mem.Options{BeforeCommit: h.faults.BeforeCommit})
	t.Cleanup(func() { store.Close() })
	users := session.New(store, h.now)
	entries, err := journal.New(store, h.now)
	if err != nil {
		t.Fatal(err)
	}
	local := func(domain string) bool { return domain == "a.test" }
	h.router = &router.Router{Users: users, Journal: entries, IsLocal: local, Remote: nowhere{}, Log: slog.New(slog.DiscardHandler)}
	h.Archive = New(&module.Host{Store: store, Users: users, Journal: entries, Log: h.router.Log, Now: h.now, IsLocal: local,
		Route: h.router.Route}, Options{
		Enabled:   local,
		Retention: func(string) time.Duration { return h.retention },
		Listed:    func(hook.User, jid.JID) bool { return false },
		MaySee:    func(u hook.User, who jid.JID) bool { return u.JID() == who },
		Fetched:   func(hook.User) { h.fetched++ },
	})
	hooks := []hook.Hooks{router.OwnHooks()}
	for _, f := range h.Features() {
		h.router.Handle(f.IQ)
		hooks = append(hooks, f.Hooks)
	}
	hooks = append(hooks, hook.Hooks{Incoming: func(_ hook.User, st *stanza.Stanza) hook.Verdict {
		if st.Kind == stanza.Message {
			h.came.Add(1)
		}
		return hook.Pass
	}, Undelivered: func(_ hook.User, st *stanza.Stanza) hook.Verdict {
		h.lost <- *st
		return hook.Handled
	}})
	h.router.Hooks = hook.Join(hooks...)
	entries.Start(h.router.NotKept)
	users.Start(h.router.Hooks, h.router, entries)
	h.write(func(tx storage.Tx) error {
		for _, account := range []jid.JID{romeo, juliet} {
			if err := tx.Accounts().Create(storage.Account{JID: account}); err != nil {
				return err
			}
		}
		return nil
	})
	return h
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.time
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.time = h.time.Add(d)
}

func (h *house) write(fn func(storage.Tx) error) {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.host.Store.Submit(fn).Wait(ctx); err != nil {
		h.Fatal(err)
	}
}

// do runs fn as who holds the lock of Juliet.
func (h *house) do(fn func(*session.User)) {
	h.Helper()
	if err := h.host.Users.Do(juliet, fn); err != nil {
		h.Fatal(err)
	}
}

// hear lets Juliet be told something, and say something by a session of hers.
func (h *house) hear(body string) { h.router.Route(message(romeo, juliet, body)) }

func (h *house) say(u *session.User, s hook.Session, body string) {
	st := message(s.JID(), romeo, body)
	if v := h.router.Hooks.Outgoing(u, s, &st); v.Stops() {
		h.Errorf("refused: %v", v.Err())
	}
	u.Route(st)
}

func message(from, to jid.JID, body string) stanza.Stanza {
	return stanza.New(stanza.Message, "chat", "", from, to, element.Leaf("body", ns.Client, body))
}

// A client acknowledges what it is sent when it is told to.
type client struct {
	h   *house
	s   *session.Session
	mu  sync.Mutex
	got []stream.Parcel // and not acknowledged
	all chan element.Element
}

func (h *house) login(resource string) *client {
	h.Helper()
	c := &client{h: h, all: make(chan element.Element, 10000)}
	full, err := juliet.WithResource(resource)
	if err == nil {
		c.s, err = h.host.Users.Bind(session.Binding{Full: full, Sink: c, Announce: func(*session.User, *session.Session) {}})
	}
	if err != nil {
		h.Fatal(err)
	}
	return c
}

func (c *client) Send(e element.Element)    { c.Track(e, nil, nil) }
func (c *client) Close(*stanza.StreamError) {}
func (c *client) Managed() bool             { return true }
func (c *client) Parked() bool              { return false }
func (c *client) Peer() uint64              { return 0 }
func (c *client) Changed()                  {}

func (c *client) Numbers(func(any) bool) []uint64 { return nil }

func (c *client) Forget() {}

var _ session.Keeper = (*client)(nil)

func (c *client) Settle() (_, lost []stream.Parcel) { return nil, c.got }

func (c *client) Track(e element.Element, note any, _ *stream.Gate) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, stream.Parcel{Element: e, Note: note})
	c.all <- e
	return 0
}

// acknowledge says that all has arrived.
func (c *client) acknowledge() {
	c.h.do(func(u *session.User) {
		c.mu.Lock()
		got := c.got
		c.got = nil
		c.mu.Unlock()
		u.Arrived(got)
	})
}

// ask sends a query.
func (c *client) ask(id, inner string) {
	c.h.Helper()
	e, err := element.ParseOne(fmt.Sprintf("<iq type='set' id='%s' from='%s' to='%s'><query xmlns='%s'>%s</query></iq>",
		id, c.s.JID(), juliet, ns.MAM, inner), ns.Client)
	if err != nil {
		c.h.Fatal(err)
	}
	st, err := stanza.Parse(e)
	if err != nil {
		c.h.Fatal(err)
	}
	c.h.do(func(u *session.User) { u.Route(st) })
}

// next is what the client gets next.
func (c *client) next() element.Element {
	c.h.Helper()
	select {
	case e := <-c.all:
		return e
	case <-time.After(patience):
		c.h.Fatal("nothing arrives")
		return element.Element{}
	}
}

// page is the answer to one query: the texts, and the IQ.
func (c *client) page() (bodies []string, iq element.Element) {
	c.h.Helper()
	for {
		e := c.next()
		if e.Name() == "iq" {
			return bodies, e
		}
		kept := e.Child("result", ns.MAM).Child("forwarded", ns.Forward).Child("message", ns.Client)
		if kept.IsZero() {
			continue // live
		}
		bodies = append(bodies, kept.Child("body", ns.Client).Text())
	}
}
