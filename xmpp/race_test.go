package xmpp_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/storage/mem"
	"tombolo/storage/storagetest"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// eventually waits for a condition.
func eventually(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for !holds() {
		if pause(ctx) != nil {
			t.Fatalf("%s: not after %v", what, limit)
		}
	}
}

// TestSessionsComeAndGo binds, makes available, replaces and ends sessions of one user from several
// sides at once, a hundred thousand times. What a contact sees is at every moment a history that can
// have happened, and in the end the truth (RFC 6121 sections 4.2 to 4.5).
func TestSessionsComeAndGo(t *testing.T) {
	t.Parallel()
	total := 100_000
	if testing.Short() {
		total /= 10
	}
	const resources = 4
	juliet, romeo := jid.MustParse("juliet@a.test"), jid.MustParse("romeo@a.test")
	e := newEngine(t, mem.New(mem.Options{}), juliet.String(), romeo.String())
	e.befriend(t, juliet, romeo)

	w := watcher{now: make(map[string]int), last: make(map[string]int)}
	contact, err := e.bind(jid.MustParse("romeo@a.test/orchard"), sink{send: func(got element.Element) { w.see(t, got) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.show(contact, "watching"); err != nil {
		t.Fatal(err)
	}

	var serial atomic.Int64
	var open sync.Map // number -> *session.Session
	var done sync.WaitGroup
	for actor := range 4 {
		done.Go(func() {
			random := rand.New(rand.NewPCG(uint64(actor), 0))
			for range total / 4 {
				full, err := juliet.WithResource("r" + strconv.Itoa(random.IntN(resources)))
				if err != nil {
					t.Error(err)
					return
				}
				switch random.IntN(8) {
				case 0: // an operator ends them all
					_ = e.users.EndAll(juliet, nil, nil)
				case 1, 2: // one is cut
					open.Range(func(_, s any) bool {
						e.users.End(s.(*session.Session), nil)
						return false
					})
				default: // one comes, in the place of another
					// Numbers are given under the user's lock: they rise in the order of binding.
					var mine int64
					var s *session.Session
					s, err = e.users.Bind(session.Binding{Full: full, Sink: sink{close: func(*stanza.StreamError) { open.Delete(mine) }},
						Announce: func(*session.User, *session.Session) { mine = serial.Add(1) }})
					if err == nil {
						err = e.users.Do(juliet, func(u *session.User) {
							if u.Find(full) == s {
								open.Store(mine, s)
							}
						})
					}
					if err == nil {
						err = e.show(s, strconv.FormatInt(mine, 10))
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	done.Wait()

	truth := make(map[string]int)
	_ = e.users.Do(juliet, func(u *session.User) {
		for _, s := range u.Bound() {
			n, err := strconv.Atoi(s.Presence().Element.Child("status", ns.Client).Text())
			if err != nil {
				t.Errorf("%s: %v", s.JID(), err)
			}
			truth[s.JID().String()] = n
		}
	})
	eventually(t, patience, "the contact sees the truth", func() bool { return maps.Equal(w.view(), truth) })
	t.Logf("%d sessions, %d notifications seen", serial.Load(), w.count)
}

// A watcher is what one contact believes of somebody's resources.
type watcher struct {
	mu    sync.Mutex
	now   map[string]int // the number that an available resource shows
	last  map[string]int
	count int
}

// see takes a presence, and refuses histories that cannot be: an older session after a newer one, a
// new one before the old one has left, a departure of who is not there.
func (w *watcher) see(t *testing.T, got element.Element) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from, typ := got.Attr("from"), got.Attr("type")
	if !got.Is("presence", ns.Client) || !strings.HasPrefix(from, "juliet@a.test/") {
		return
	}
	w.count++
	shown, here := w.now[from]
	switch typ {
	case "":
		n, err := strconv.Atoi(got.Child("status", ns.Client).Text())
		switch {
		case err != nil:
			t.Errorf("from %s: %v", from, err)
		case here && n != shown:
			t.Errorf("%s shows session %d while session %d has not left", from, n, shown)
		case n < w.last[from]:
			t.Errorf("%s shows session %d after session %d", from, n, w.last[from])
		}
		w.now[from], w.last[from] = n, n
	case "unavailable":
		if !here {
			t.Errorf("%s leaves and is not there", from)
		}
		delete(w.now, from)
	default:
		t.Errorf("presence of type %q from %s", typ, from)
	}
}

func (w *watcher) view() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.now)
}

// TestLoginAgainstMessages has several senders write to somebody who comes and goes: each message is
// delivered once, live or from the offline store, or returned; those of one sender in their order
// (XEP-0160, RFC 6120 section 10.1).
func TestLoginAgainstMessages(t *testing.T) {
	t.Parallel()
	const senders = 4
	each := 4000
	if testing.Short() {
		each /= 10
	}
	juliet := jid.MustParse("juliet@a.test")
	accounts := []string{juliet.String()}
	for i := range senders {
		accounts = append(accounts, fmt.Sprintf("sender%d@a.test", i))
	}
	e := newEngine(t, mem.New(mem.Options{}), accounts...)

	// A sender is at most so many messages ahead of her, so that most of them meet a login.
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	var window [senders]chan struct{}
	for i := range window {
		window[i] = make(chan struct{}, 50)
	}
	var mu sync.Mutex
	var got [senders][]int      // delivered, in order
	var returned [senders][]int // with an error
	kept := 0                   // how many of those delivered had been stored
	deliver := func(st element.Element) {
		if !st.Is("message", ns.Client) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		var sender, n int
		if _, err := fmt.Sscanf(st.Attr("id"), "%d.%d", &sender, &n); err != nil {
			t.Errorf("id %q: %v", st.Attr("id"), err)
			return
		}
		if st.Attr("type") == "error" {
			returned[sender] = append(returned[sender], n)
		} else {
			got[sender] = append(got[sender], n)
			if !st.Child("delay", ns.Delay).IsZero() {
				kept++
			}
		}
		select {
		case <-window[sender]:
		default: // one that was doubled
		}
	}

	var sending sync.WaitGroup
	for i := range senders {
		full := jid.MustParse(fmt.Sprintf("sender%d@a.test/x", i))
		s, err := e.bind(full, sink{send: deliver})
		if err != nil {
			t.Fatal(err)
		}
		sending.Go(func() {
			for n := range each {
				select {
				case window[i] <- struct{}{}:
				case <-ctx.Done():
					t.Errorf("sender %d waits for the fate of messages before %d", i, n)
					return
				}
				st := stanza.New(stanza.Message, "chat", fmt.Sprintf("%d.%d", i, n), full, juliet, element.Leaf("body", ns.Client, "hello"))
				if err := e.say(s, st); err != nil {
					t.Error(err)
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { sending.Wait(); close(over) }()

	// She comes, is available or not, has this or that priority, and goes, until all is said.
	logins := 0
	idle := func(turns int) {
		for range turns {
			_ = e.users.Do(juliet, func(*session.User) {})
		}
	}
	random := rand.New(rand.NewPCG(7, 7))
	for sent := false; !sent; {
		select {
		case <-over:
			sent = true
		default:
		}
		s, err := e.bind(jid.MustParse("juliet@a.test/balcony"), sink{send: deliver})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.show(s, "here"); err != nil {
			t.Fatal(err)
		}
		logins++
		idle(random.IntN(200)) // with her there, more or less
		e.users.End(s, nil)
		idle(random.IntN(200)) // and without her
	}
	last, err := e.bind(jid.MustParse("juliet@a.test/last"), sink{send: deliver})
	if err == nil {
		err = e.show(last, "to stay")
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 4*patience, "every message is accounted for", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for i := range senders {
			if len(got[i])+len(returned[i]) < each {
				return false
			}
		}
		return true
	})
	mu.Lock()
	defer mu.Unlock()
	back := 0
	for i := range senders {
		back += len(returned[i])
		if !slices.IsSorted(got[i]) {
			t.Errorf("messages of sender %d are not in order", i)
		}
		all := slices.Sorted(slices.Values(slices.Concat(got[i], returned[i])))
		for n := range each {
			if n >= len(all) || all[n] != n {
				t.Errorf("sender %d: of %d messages %d arrived or came back; number %d is lost or doubled", i, each, len(all), n)
				break
			}
		}
	}
	t.Logf("%d messages, %d of them stored, %d returned; %d logins", senders*each, kept, back, logins)
	if kept == 0 || kept == senders*each {
		t.Errorf("%d messages of %d were stored: there was no race", kept, senders*each)
	}
}

// TestStalledCommit stops the disk for five seconds: what needs no write goes on as if nothing were,
// what announces a write waits for it (no lock is held while the store works).
func TestStalledCommit(t *testing.T) {
	t.Parallel()
	stall := 5 * time.Second
	if testing.Short() {
		stall = time.Second
	}
	var faults storagetest.Faults
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, unlimited, mem.New(mem.Options{BeforeCommit: faults.BeforeCommit}))
	if err != nil {
		t.Fatal(err)
	}
	p := &play{t: t, lab: l, servers: []*host{h}, hosts: map[string]*host{"a.test": h}, roles: make(map[string]*role), vars: make(map[string]string)}
	scene := func(script string) {
		t.Helper()
		list, err := lines(script)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range list {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			declared, err := p.declare(line)
			if err == nil && !declared {
				err = p.step(ctx, line)
			}
			cancel()
			if err != nil {
				t.Fatalf("%s: %v", line.text, err)
			}
		}
	}
	scene(`
client romeo  romeo@a.test/orchard
client juliet juliet@a.test/balcony
client phone  juliet@a.test/phone
client nurse  nurse@a.test/kitchen
friends romeo@a.test juliet@a.test
`)
	if err := p.raise(); err != nil {
		t.Fatal(err)
	}
	scene(`
romeo logs in
romeo receives <presence from='juliet@a.test' to='romeo@a.test' type='unavailable'/>
juliet logs in
juliet receives <presence from='romeo@a.test/orchard' to='juliet@a.test'/>
romeo receives <presence from='juliet@a.test/balcony' to='romeo@a.test'/>
nurse connects
`)
	stalled, release := faults.Stall()
	defer release()
	begin := time.Now()
	// Two writes that somebody waits for: a contact, and a message for somebody who is not available.
	scene(`
juliet sends <iq type='set' id='add'><query xmlns='jabber:iq:roster'><item jid='nurse@a.test'/></query></iq>
romeo sends <message to='nurse@a.test' type='chat' id='kept'><body>later</body></message>
`)
	select {
	case <-stalled:
	case <-time.After(patience):
		t.Fatal("no commit stalls")
	}
	// What is to be stored waits, for it is stored before it is seen; the rest goes on.
	rounds, slowest := 0, time.Duration(0)
	for time.Since(begin) < stall {
		round := time.Now()
		scene(`
romeo sends <message to='juliet@a.test' type='chat' id='m'><body>still there?</body><no-store xmlns='urn:xmpp:hints'/></message>
juliet receives <message from='romeo@a.test/orchard' to='juliet@a.test' type='chat' id='m'><body>still there?</body><no-store xmlns='urn:xmpp:hints'/></message>
juliet sends <presence><show>away</show></presence>
juliet receives <presence from='juliet@a.test/balcony' to='?'><show>away</show></presence>
romeo receives <presence from='juliet@a.test/balcony' to='romeo@a.test'><show>away</show></presence>
juliet sends <iq type='get' id='p' to='a.test'><ping xmlns='urn:xmpp:ping'/></iq>
juliet receives <iq type='result' id='p' from='a.test' to='juliet@a.test/balcony'/>
romeo sends <iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>
romeo receives <iq type='result' id='r' to='romeo@a.test/orchard' from='?'><query xmlns='jabber:iq:roster' ver='?'><item jid='juliet@a.test' subscription='both'/></query></iq>
`)
		if rounds == 0 {
			// Somebody else logs in and leaves; the contact that is not kept yet is not shown.
			scene(`
phone connects
phone sends <iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>
phone receives <iq type='result' id='r' to='juliet@a.test/phone' from='?'><query xmlns='jabber:iq:roster' ver='?'><item jid='romeo@a.test' subscription='both'/></query></iq>
phone disconnects
`)
		} else {
			slowest = max(slowest, time.Since(round))
		}
		rounds++
	}
	if slowest > time.Second {
		t.Errorf("a round of messages took %v while a commit stalled", slowest)
	}
	for _, name := range []string{"romeo", "juliet", "nurse"} {
		if events := p.roles[name].peer.pending(); len(events) > 0 {
			t.Errorf("%s was told before anything was kept:\n%s", name, list(events))
		}
	}
	release()
	scene(`
juliet receives in any order
    <iq type='set' id='*' to='juliet@a.test/balcony' from='?'><query xmlns='jabber:iq:roster' ver='?'><item jid='nurse@a.test' subscription='none'/></query></iq>
    <iq type='result' id='add' to='juliet@a.test/balcony' from='?'/>
nurse sends <presence/>
nurse receives
    <presence from='nurse@a.test/kitchen' to='?'/>
    <message from='romeo@a.test/orchard' to='nurse@a.test' type='chat' id='kept'><body>later</body><delay xmlns='urn:xmpp:delay' from='a.test' stamp='*'/></message>
romeo receives nothing
`)
	t.Logf("%d rounds in %v, the slowest in %v", rounds, time.Since(begin).Round(time.Millisecond), slowest.Round(time.Millisecond))
}

// TestFailingStoreEndsTheServer has a commit fail for good: nobody is told that anything was kept, and
// the server ends with the error.
func TestFailingStoreEndsTheServer(t *testing.T) {
	t.Parallel()
	var faults storagetest.Faults
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, "", mem.New(mem.Options{BeforeCommit: faults.BeforeCommit}))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.addAccount("juliet@a.test", "secret"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	juliet, err := connect(ctx, login{address: h.Addresses()["client"][0], jid: "juliet@a.test/balcony", password: "secret", roots: l.roots})
	if err != nil {
		t.Fatal(err)
	}
	defer juliet.cut()
	broken := errors.New("the disk is broken")
	faults.FailNext(broken)
	if err := juliet.send("<iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='nurse@a.test'/></query></iq>"); err != nil {
		t.Fatal(err)
	}
	for {
		got, err := juliet.take(ctx)
		if err != nil {
			t.Fatal("the client is not told that the server ends")
		}
		if got.kind == gotElement && got.tree.attr("type") == "result" {
			t.Errorf("told that it was kept:\n%s", got)
		}
		if got.kind == gotEnd {
			juliet.cut()
			break
		}
	}
	select {
	case err := <-ended:
		if !errors.Is(err, broken) {
			t.Errorf("Run ended with %v, want %v", err, broken)
		}
	case <-ctx.Done():
		h.log.judge(t, "x")
		t.Error("the server goes on without a store")
	}
}
