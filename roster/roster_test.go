package roster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/router"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// A server is the real registry and router over a store in memory; what goes to other domains
// stays in remote. The domain is a.test.
type server struct {
	*Roster
	t     *testing.T
	store *mem.Store
	users *session.Registry
	hooks *hook.Chain
	now   time.Time

	fail  atomic.Bool   // commits fail for lack of space
	stall chan struct{} // when set, commits wait for it

	mu       sync.Mutex
	accounts []jid.JID
	sent     []stanza.Stanza
}

func newServer(t *testing.T, o Options, accounts ...string) *server {
	t.Helper()
	s := &server{t: t, now: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)}
	s.store = mem.New(mem.Options{BeforeCommit: func() error {
		s.mu.Lock()
		stall := s.stall
		s.mu.Unlock()
		if stall != nil {
			<-stall
		}
		if s.fail.Load() {
			return fmt.Errorf("test: %w", storage.ErrNoSpace)
		}
		return nil
	}})
	t.Cleanup(func() { s.store.Close() })
	s.start(o)
	for _, a := range accounts {
		account := jid.MustParse(a)
		s.accounts = append(s.accounts, account)
		s.write(func(tx storage.Tx) error { return tx.Accounts().Create(storage.Account{JID: account}) })
	}
	return s
}

// start builds the server on its store, the second time as after a restart.
func (s *server) start(o Options) {
	clock := func() time.Time { return s.now }
	s.users = session.New(s.store, clock)
	r := &router.Router{
		Users:   s.users,
		IsLocal: func(domain string) bool { return domain == "a.test" },
		Remote:  s,
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	s.Roster = New(&module.Host{Store: s.store, Users: s.users, Log: r.Log, Now: clock, IsLocal: r.IsLocal,
		Route: r.Route}, o)
	blocking, contacts := s.Blocking(), s.Contacts()
	r.Handle(blocking.IQ)
	r.Handle(contacts.IQ)
	s.hooks = hook.Join(router.OwnHooks(), blocking.Hooks, contacts.Hooks)
	r.Hooks = s.hooks
	s.users.Start(r.Hooks, r, nil)
}

// Send is router.Remote.
func (s *server) Send(st stanza.Stanza) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, st)
}

func (s *server) write(fn func(storage.Tx) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	if err := s.store.Submit(fn).Wait(ctx); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) under(account string, fn func(hook.User)) {
	s.t.Helper()
	if err := s.users.Do(jid.MustParse(account), func(u *session.User) { fn(u) }); err != nil {
		s.t.Fatal(err)
	}
}

// quiet returns when all that was caused so far has happened, along four steps from user to user.
func (s *server) quiet() {
	s.t.Helper()
	deadline := time.After(10 * time.Second)
	for range 4 {
		for _, account := range s.accounts {
			done := make(chan struct{})
			err := s.users.Do(account, func(u *session.User) {
				s.ledger.after(u, nil, func(u hook.User, _ error) { u.After(func() { close(done) }) })
			})
			if errors.Is(err, storage.ErrNotFound) {
				continue
			}
			if err != nil {
				s.t.Fatal(err)
			}
			select {
			case <-done:
			case <-deadline:
				s.t.Fatal("the server does not come to rest")
			}
		}
	}
}

// arrives hands the server a stanza from another domain.
func (s *server) arrives(xml string) {
	s.t.Helper()
	s.Roster.host.Route(parse(s.t, xml))
}

// routed checks what has left for other domains since it was last asked, in any order.
func (s *server) routed(want ...string) {
	s.t.Helper()
	s.quiet()
	s.mu.Lock()
	sent := s.sent
	s.sent = nil
	s.mu.Unlock()
	compare(s.t, "other domains get", sent, want, false)
}

// A client is a bound session.
type client struct {
	*server
	s    *session.Session
	mu   sync.Mutex
	got  []stanza.Stanza
	gone bool
}

func (s *server) login(full string) *client {
	s.t.Helper()
	c := &client{server: s}
	bound, err := s.users.Bind(session.Binding{Full: jid.MustParse(full), Sink: (*sink)(c),
		Announce: func(*session.User, *session.Session) {}})
	if err != nil {
		s.t.Fatal(err)
	}
	c.s = bound
	return c
}

// online is a client that has its roster and is available, with nothing unread.
func (s *server) online(full string) *client {
	s.t.Helper()
	c := s.login(full)
	c.sends("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>")
	c.sends("<presence/>")
	s.quiet()
	c.take()
	return c
}

type sink client

func (k *sink) Send(e element.Element) {
	st, err := stanza.Parse(e)
	if err != nil {
		panic(fmt.Sprintf("the server sends %s: %v", e, err))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return
	}
	k.got = append(k.got, st)
}

func (k *sink) Close(*stanza.StreamError) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
}

// sends does what c2s does with a stanza.
func (c *client) sends(xml string) {
	c.t.Helper()
	st := parse(c.t, xml).WithFrom(c.s.JID())
	err := c.users.Do(c.s.JID().Bare(), func(u *session.User) {
		if st.To.IsZero() && st.Kind == stanza.Presence {
			u.SetPresence(c.s, st)
			return
		}
		if st.To.IsZero() {
			st = st.WithTo(u.JID())
		}
		if v := c.hooks.Outgoing(u, c.s, &st); !v.Stops() {
			u.Route(st)
		} else if v.Err() != nil {
			reply, _ := st.ErrorReply(v.Err())
			c.s.Send(reply.Element)
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) take() []stanza.Stanza {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got
	c.got = nil
	return got
}

// gets checks what the client has received since it was last asked, in this order.
func (c *client) gets(want ...string) {
	c.t.Helper()
	c.quiet()
	compare(c.t, c.s.JID().String()+" gets", c.take(), want, true)
}

// getsInAnyOrder is for what has no order among itself.
func (c *client) getsInAnyOrder(want ...string) {
	c.t.Helper()
	c.quiet()
	compare(c.t, c.s.JID().String()+" gets", c.take(), want, false)
}

func (c *client) ends() { c.users.End(c.s, nil) }

func compare(t *testing.T, what string, got []stanza.Stanza, want []string, ordered bool) {
	t.Helper()
	short := make([]string, len(got))
	for i, st := range got {
		short[i] = brief(st)
	}
	if !ordered {
		slices.Sort(short)
		want = slices.Sorted(slices.Values(want))
	}
	if !slices.Equal(short, want) {
		t.Errorf("%s:\n\t%s\nwant:\n\t%s", what, strings.Join(short, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// brief is a stanza in a form that is easy to write down: "presence probe romeo@a.test > x@b.test",
// then what is in it. Roster pushes and results lose their versions and pushes their ids.
func brief(st stanza.Stanza) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", st.Kind)
	if st.Kind == stanza.IQ && st.Type == "set" {
		b.WriteString(" push")
	} else {
		fmt.Fprintf(&b, " %s", or(st.Type, "available"))
		if st.Kind == stanza.IQ {
			fmt.Fprintf(&b, " %s", st.ID)
		} else {
			fmt.Fprintf(&b, " %s > %s", st.From, st.To)
		}
	}
	for child := range st.Element.Children() {
		switch {
		case child.Is("query", ns.Roster) || child.NS() == ns.Blocking:
			fmt.Fprintf(&b, " %s:", child.Name())
			for item := range child.Children() {
				fmt.Fprintf(&b, " %s", item.WithAttr("name", item.Attr("name")))
			}
		case child.Is("error", ns.Client):
			e := stanza.ParseError(child)
			fmt.Fprintf(&b, " %s %s", e.Type, e.Condition)
		default:
			fmt.Fprintf(&b, " %s", child)
		}
	}
	return strings.ReplaceAll(b.String(), " xmlns='jabber:iq:roster'", "")
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func parse(t *testing.T, xml string) stanza.Stanza {
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

// kept is a contact as the store has it.
func (s *server) kept(owner, contact string) (item storage.RosterItem, version uint64) {
	s.t.Helper()
	s.write(func(storage.Tx) error { return nil })
	err := s.store.View(func(tx storage.Tx) error {
		roster, err := tx.Rosters().Get(jid.MustParse(owner))
		for _, i := range roster.Items {
			if i.Contact == jid.MustParse(contact) {
				item = i
			}
		}
		version = roster.Version
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return item, version
}

// befriends stores a subscription of the owner to and from a contact ("to", "from", "both").
func (s *server) befriends(owner, contact, subscription string) {
	s.t.Helper()
	s.write(func(tx storage.Tx) error {
		return tx.Rosters().Put(jid.MustParse(owner), storage.RosterItem{
			Contact: jid.MustParse(contact), Listed: true,
			To: subscription != "from", From: subscription != "to",
		}, 1)
	})
}
