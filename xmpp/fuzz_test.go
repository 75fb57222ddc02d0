package xmpp_test

import (
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// FuzzServer talks to a whole server as its clients and as other servers do, and as they never would:
// the input is a list of choices of what to do next, and on which connection. Afterwards it holds
// what everybody received against what must be true whatever was said:
//
//   - A stanza that arrives was sent on a connection that had proved the identity which it bears.
//   - Nothing for another domain goes out in clear, or to one that did not prove what it must.
//   - Who sent a get or set and is still there got one answer to it, no more and no less.
//   - What arrives is well-formed.
//   - There is no panic, and no other error that the server has to report.
//   - When all connections are gone there is no goroutine, session or stream left, and no memory.
//
// An input that fails shows all that was said. It is kept in testdata/fuzz, and runs with every test.
func FuzzServer(f *testing.F) {
	p := newPlayground(f)
	for seed := range *games {
		random := rand.New(rand.NewPCG(*first+seed, 3))
		choices := make([]byte, 100+random.IntN(600))
		for i := range choices {
			choices[i] = byte(random.Uint32())
		}
		f.Add(choices)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		if len(choices) > 800 {
			return
		}
		p.play(t, choices)
	})
	// Without these the games would show nothing.
	c := p.counts
	f.Logf("%d games: %+v", p.games, c)
	if !fuzzing() && p.games >= 100 && (c.delivered < p.games || min(c.abroad, c.fromAbroad, c.questions, c.twice) < 10) {
		f.Errorf("a poor selection of games: %+v", c)
	}
}

var (
	games = flag.Uint64("games", 150, "how many games of chance FuzzServer plays, beside those that are kept")
	first = flag.Uint64("game", 0, "the seed of the first of them; a failure names the game that it was, counted from there")
)

// fuzzing says that inputs are being made, where otherwise those that are there are run.
func fuzzing() bool { return flag.Lookup("test.fuzz").Value.String() != "" }

// A playground is the server that all games are played with, one after the other.
type playground struct {
	*target
	b, s     *frontier // other domains: dialback is enough for below b.test, below s.test nothing but a certificate
	accounts []storage.Account
	games    int
	routines int // when nobody is connected
	heap     int
	counts   counts
}

// counts are of what happened in all games.
type counts struct {
	stanzas, delivered, abroad, fromAbroad int
	questions, twice, answers              int
}

func newPlayground(f *testing.F) *playground {
	l := newLab(f)
	p := &playground{}
	p.b, p.s = newFrontier(f, l, "b.test"), newFrontier(f, l, "s.test")
	settings := fmt.Sprintf(`
		auth.plain = true
		[limits]
		exempt = ['127.0.0.0/8']
		login_attempts = 10
		resume = '20ms' # a session that waits to be resumed is over soon
		[federation]
		resolver = '127.0.0.1:9'
		connect_time = '2s'
		[[federation.partner]]
		domain = 'b.test'
		address = '%s'
		[[federation.partner]]
		domain = 's.test'
		address = '%s'
		authentication = 'certificate'`, p.b.listener.Addr(), p.s.listener.Addr())
	store := mem.New(mem.Options{})
	for _, name := range users {
		p.accounts = append(p.accounts, cheapAccount(f, jid.MustParse(name+"@a.test")))
	}
	h, err := l.prepare(f, "127.0.0.1", []string{"a.test"}, settings, store)
	if err != nil {
		f.Fatal(err)
	}
	h.run(f)
	p.target = &target{h, l}
	return p
}

var users = []string{"romeo", "juliet", "mallory"}

// cheapAccount is an account whose password is proved faster than is good.
func cheapAccount(t testing.TB, account jid.JID) (kept storage.Account) {
	t.Helper()
	store := mem.New(mem.Options{})
	defer store.Close()
	accounts, err := auth.NewAccounts(store, auth.Options{Iterations: 8})
	if err == nil {
		err = accounts.Create(t.Context(), account, "secret of "+account.Local())
	}
	if err == nil {
		err = store.View(func(tx storage.Tx) (err error) { kept, err = tx.Accounts().Get(account); return err })
	}
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// begin gives every game the same accounts, with nothing in them.
func (p *playground) begin(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := p.store.Submit(func(tx storage.Tx) error {
		for _, a := range p.accounts {
			if err := tx.Accounts().Delete(a.JID); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			if err := tx.Accounts().Create(a); err != nil {
				return err
			}
		}
		return nil
	}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
}

// A game is what is made of one input.
type game struct {
	*playground
	t       *testing.T
	choices []byte
	far     string // the subdomain of b.test and s.test that this game has to itself
	players []*player
	marks   int
	said    []saying // by mark
	trace   strings.Builder
	mu      sync.Mutex
	blocked bool // somebody has blocked mallory
	vouched bool // our authoritative server has confirmed a dialback key
	pilots  []*pilot
}

// A saying is a stanza that a game sent.
type saying struct {
	by    *player
	as    []string // the bare JIDs, or the domain, that its connection had proved
	to    string
	times int  // that it was sent
	asks  bool // it is a request that must be answered
}

func (p *playground) play(t *testing.T, choices []byte) {
	p.games++
	g := &game{playground: p, t: t, choices: choices, far: fmt.Sprintf("n%d", p.games)}
	p.begin(t)
	h := fnv.New64a()
	h.Write(choices)
	for i, f := range []*frontier{p.b, p.s} {
		f.admit(g, h.Sum64()+uint64(i))
	}
	// The engine takes what lasts ten seconds for a deadlock; a busy machine is none.
	for start := time.Now(); len(g.choices) > 0 && !(fuzzing() && time.Since(start) > 3*time.Second); {
		g.step()
	}
	g.settle()
	g.leave()
	g.judge()
	if t.Failed() {
		t.Logf("what was said:\n%s", g.trace.String())
	}
}

// pick makes a choice of n.
func (g *game) pick(n int) int {
	if len(g.choices) == 0 {
		return 0
	}
	c := int(g.choices[0])
	g.choices = g.choices[1:]
	return c % n
}

func oneOf[T any](g *game, list ...T) T { return list[g.pick(len(list))] }

func (g *game) note(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fmt.Fprintf(&g.trace, format+"\n", args...)
}

// mark makes an id that tells later what a stanza was.
func (g *game) mark(w *player, to string, asks bool) string {
	g.said = append(g.said, saying{by: w, as: slices.Clone(w.proved), to: to, times: 1, asks: asks && w.isBound() && !w.tainted})
	g.marks++
	return g.id(g.marks - 1)
}

// id is that of a stanza of this game.
func (g *game) id(mark int) string { return fmt.Sprintf("%s-%d.", g.far, mark) }

// most connections at a time.
const maxPlayers = 6

// settle lets everything come to rest: some leave without an answer to what they were asked, the
// others answer it, and then all wait until everything has arrived.
func (g *game) settle() {
	g.barrier("a")
	for _, w := range g.players {
		if w.server || w.gone {
			continue
		}
		if w.tainted || w.over() || g.pick(2) == 1 || w.n%2 == 1 { // who said nonsense may not be heard any more
			w.split = 0
			w.leave()
		}
	}
	g.checkout()
	g.barrier("b")
	for _, w := range g.players {
		if !w.gone && !w.tainted && w.isBound() {
			w.split = 0
			for _, request := range w.requests() {
				from, id, _ := strings.Cut(request, " ")
				w.say(fmt.Sprintf("<iq type='result' id='%s' to='%s'/>", id, from))
			}
		}
	}
	g.barrier("c")
	g.barrier("d")
}

// checkout waits until the server has noticed who left.
func (g *game) checkout() {
	here := func() bool {
		list, err := g.Call(context.Background(), "session.list", []byte("{}"))
		if err != nil {
			g.t.Fatal(err)
		}
		bound, ok := list.([]c2s.SessionInfo)
		if !ok {
			g.t.Fatalf("session.list is a %T", list)
		}
		return !slices.ContainsFunc(bound, func(s c2s.SessionInfo) bool {
			return !slices.ContainsFunc(g.players, func(p *player) bool { return !p.over() && p.boundTo() == s.JID.String() })
		})
	}
	for end := time.Now().Add(patience); !here(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			g.t.Error("a session outlives its connection")
			return
		}
	}
}

// barrier waits until all that the clients said has been dealt with.
func (g *game) barrier(name string) {
	for _, w := range g.players {
		if w.isBound() && !w.gone && !w.tainted {
			w.split = 0
			w.send(fmt.Sprintf("<iq type='get' id='z%s' to='a.test'><ping xmlns='%s'/></iq>", name, ns.Ping))
		}
	}
	for _, w := range g.players {
		if w.isBound() && !w.gone && !w.tainted {
			for end := time.Now().Add(patience); !w.await(0, "id='z"+name+"'"); {
				w.mu.Lock()
				ended := w.ended
				w.mu.Unlock()
				if ended || strings.Contains(w.text(), closing) {
					break
				}
				if time.Now().After(end) {
					g.t.Errorf("%d is bound and gets no answer to a ping", w.n)
					break
				}
			}
		}
	}
}

// alive says that a connection was served to the last.
func (p *player) alive() bool {
	return p.isBound() && !p.gone && !p.tainted && strings.Contains(p.text(), "id='zd'") && !strings.Contains(p.text(), closing)
}

// leave ends all connections and waits until nothing is left of them.
func (g *game) leave() {
	alive := make(map[*player]bool)
	for _, w := range g.players {
		alive[w] = w.alive()
	}
	g.counts.stanzas += len(g.said)
	g.checkAnswers(alive)
	g.b.close()
	g.s.close()
	for i, w := range g.players {
		if i%2 == 0 && !w.gone {
			w.send(closing)
		}
		w.leave()
	}
	for _, p := range g.pilots {
		<-p.done
	}
	g.checkout()
	settled := func() bool {
		now := runtime.NumGoroutine()
		if g.routines == 0 {
			return g.quiet()
		}
		return now <= g.routines
	}
	for end := time.Now().Add(patience); !settled(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			g.t.Errorf("%d goroutines are left, %d should be:\n%s", runtime.NumGoroutine(), g.routines, buf[:runtime.Stack(buf, true)])
			break
		}
	}
	if g.routines == 0 {
		g.routines = runtime.NumGoroutine()
	}
	switch {
	case g.games == 20:
		g.heap = heapAfter()
	case g.games%50 == 0 && g.heap > 0:
		allowed := 8 << 20
		if fuzzing() {
			allowed += 100 << 20 // of the engine's own
		}
		if more := heapAfter() - g.heap; more > allowed {
			g.t.Errorf("%d bytes more are in use after %d games", more, g.games)
		}
	}
}

// quiet waits until the number of goroutines stays the same; the first game needs that.
func (g *game) quiet() bool {
	n := runtime.NumGoroutine()
	for range 50 {
		time.Sleep(2 * time.Millisecond)
		if runtime.NumGoroutine() != n {
			return false
		}
	}
	return true
}

// judge holds what everybody received against what was said.
func (g *game) judge() {
	for _, w := range g.players {
		for layer, part := range w.parts {
			for _, e := range g.read(fmt.Sprintf("%d", w.n), part) {
				g.check(w, layer, e)
			}
		}
	}
	for _, p := range g.pilots {
		for layer, part := range p.parts {
			for _, e := range g.read(p.domain, part) {
				g.checkPilot(p, layer, e)
			}
		}
	}
	g.host.log.mu.Lock()
	defer g.host.log.mu.Unlock()
	if text := g.host.log.text.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "panic") {
		g.t.Errorf("the server reports an error:\n%s", text)
	}
	g.host.log.text.Reset()
}

// read are the top-level elements of all streams in what came.
func (g *game) read(who string, text []byte) []*tree {
	var list []*tree
	for i, stream := range strings.Split(string(text), "<?xml version='1.0'?>") {
		if i == 0 {
			if stream != "" {
				g.t.Errorf("%s: %q before a stream", who, stream)
			}
			continue
		}
		d := xml.NewDecoder(strings.NewReader(stream))
		for depth := 0; ; {
			token, err := d.Token()
			if err == io.EOF || err != nil && strings.Contains(err.Error(), "unexpected EOF") {
				break // a restart, or the end of the connection
			}
			if err != nil {
				g.t.Errorf("%s: %v in %q", who, err, stream)
				break
			}
			switch token := token.(type) {
			case xml.StartElement:
				if depth == 0 {
					depth = 1
					continue
				}
				e, err := readTree(d.Token, token)
				if err != nil && strings.Contains(err.Error(), "unexpected EOF") {
					continue
				}
				if err != nil {
					g.t.Errorf("%s: %v in %q", who, err, stream)
					return list
				}
				list = append(list, e)
			}
		}
	}
	return list
}

// origin finds the saying that a stanza is, nil if it is the server's own.
func (g *game) origin(e *tree) *saying {
	var n int
	if _, err := fmt.Sscanf(e.attr("id"), g.far+"-%d.", &n); err != nil || n >= len(g.said) {
		return nil
	}
	return &g.said[n]
}

// check judges one element that a client or a server got on its connection.
func (g *game) check(w *player, layer int, e *tree) {
	if e.name.Space != ns.Client && e.name.Space != ns.Server || !slices.Contains([]string{"message", "presence", "iq"}, e.name.Local) {
		return
	}
	if len(w.proved) == 0 {
		if e.name.Local != "iq" || e.attr("type") != "error" {
			g.t.Errorf("%d proved nothing and got %s", w.n, e)
		}
		return
	}
	if w.server {
		g.t.Errorf("%d, a server that connected, got %s", w.n, e)
	}
	if layer == 0 && !w.secure {
		g.t.Errorf("%d got in clear %s", w.n, e)
	}
	g.checkSender(fmt.Sprintf("%d", w.n), e)
}

// checkSender holds that a stanza comes from where it says.
func (g *game) checkSender(who string, e *tree) {
	from, err := jid.Parse(e.attr("from"))
	if err != nil && e.attr("from") != "" {
		g.t.Errorf("%s got a stanza from %q: %v", who, e.attr("from"), err)
		return
	}
	if from.Domain() != "" && from.Domain() != "a.test" && from.Domain() != g.far+".b.test" && from.Domain() != g.far+".s.test" && e.attr("type") != "error" && e.attr("type") != "unsubscribed" {
		g.t.Errorf("%s got a stanza of a domain that proved nothing: %s", who, e)
	}
	s := g.origin(e)
	if s != nil {
		g.counts.delivered++
		if s.by.server {
			g.counts.fromAbroad++
		}
	}
	answer := e.attr("type") == "error" || e.name.Local == "iq" && e.attr("type") == "result"
	if s == nil || answer {
		return // made by the server, or about what its recipient said
	}
	identity := from.Bare().String()
	if s.by.server {
		identity = from.Domain()
		if identity == g.far+".b.test" && g.vouched {
			return
		}
	}
	if !slices.Contains(s.as, identity) {
		g.t.Errorf("%s got %s, sent by %d, which had proved %q", who, e, s.by.n, s.as)
	}
	if !s.by.server {
		if bound := s.by.boundTo(); e.attr("from") != bound && !(e.name.Local == "presence" && from.IsBare()) {
			g.t.Errorf("%s got %s, sent by %d, which is %q", who, e, s.by.n, bound)
		}
	}
}

// checkAnswers counts the answers of everybody who is still there.
func (g *game) checkAnswers(alive map[*player]bool) {
	counts := make(map[*player]map[string]int)
	for _, w := range g.players {
		counts[w] = make(map[string]int)
		for _, e := range g.read(fmt.Sprintf("%d", w.n), []byte(strings.Join(w.layers(), ""))) {
			if e.name.Local == "iq" && (e.attr("type") == "result" || e.attr("type") == "error") {
				counts[w][e.attr("id")]++
			}
		}
	}
	for i, s := range g.said {
		got := counts[s.by][g.id(i)]
		if !s.asks {
			continue
		}
		if got > s.times {
			g.t.Errorf("%d got %d answers to %s, sent %d times", s.by.n, got, g.id(i), s.times)
		}
		g.counts.questions++
		g.counts.answers += got
		if s.times > 1 && alive[s.by] {
			g.counts.twice++
		}
		local := strings.HasSuffix(s.to, "@a.test") || strings.Contains(s.to, "@a.test/") || s.to == "a.test"
		if g.blocked && strings.HasPrefix(s.to, "mallory@") {
			continue // XEP-0191 section 3.2: replies of somebody blocked are dropped
		}
		if local && alive[s.by] && got < s.times {
			g.t.Errorf("%d got %d answers to %s to %s, sent %d times", s.by.n, got, g.id(i), s.to, s.times)
		}
	}
}

func (p *player) layers() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for _, part := range p.parts {
		list = append(list, string(part))
	}
	return list
}

// checkPilot judges one element that a server got to which ours had connected.
func (g *game) checkPilot(p *pilot, layer int, e *tree) {
	if !slices.Contains([]string{"message", "presence", "iq"}, e.name.Local) {
		return
	}
	switch {
	case layer == 0:
		g.t.Errorf("%s got in clear %s", p.domain, e)
	case p.domain == "s.test" && !p.right.Load():
		g.t.Errorf("%s got without the certificate that it needs %s", p.domain, e)
	case !strings.HasSuffix(e.attr("to"), g.far+"."+p.domain):
		g.t.Errorf("%s got what is for %s", p.domain, e.attr("to"))
	}
	g.counts.abroad++
	g.checkSender(p.domain, e)
}
