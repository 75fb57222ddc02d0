package xmpp_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// TestPlays performs the conversations in testdata/script, each against servers of its own that speak
// through real sockets. README.md beside them explains how they are written.
func TestPlays(t *testing.T) {
	files, err := filepath.Glob("../testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no plays found (%v)", err)
	}
	l := newLab(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			script, err := lines(string(text))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			p := &play{t: t, lab: l, hosts: make(map[string]*host), roles: make(map[string]*role), vars: make(map[string]string)}
			p.perform(file, script)
		})
	}
}

// A play is the performance of one script.
type play struct {
	t       *testing.T
	lab     *lab
	servers []*host
	hosts   map[string]*host // by domain
	names   []string         // of the roles, in their order
	roles   map[string]*role
	vars    map[string]string
	pings   int
}

// A role is somebody named in a script, on the stage while peer is not nil.
type role struct {
	name string
	login
	domain string
	raw    bool
	key    string // of the listener that a raw role connects to
	peer   *peer
}

func (p *play) perform(file string, script []line) {
	running := false
	for _, l := range script {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		declared, err := p.declare(l)
		if err == nil && !declared {
			if !running {
				running = true
				err = p.raise()
			}
			if err == nil {
				err = p.step(ctx, l)
			}
		}
		cancel()
		if err != nil {
			p.t.Fatalf("%s:%d: %s\n%v", file, l.number, l.text, err)
		}
	}
	// What nobody expected must not have arrived either.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, name := range p.names {
		if r := p.roles[name]; r.peer != nil && !r.raw {
			if err := p.nothing(ctx, r); err != nil {
				p.t.Fatalf("%s: at the end, %s: %v", file, name, err)
			}
		}
	}
}

// declare takes the lines that set the scene.
func (p *play) declare(l line) (bool, error) {
	words := strings.Fields(l.text)
	switch words[0] {
	case "server":
		return true, p.server(words[1:], strings.Join(l.block, "\n"))
	case "account":
		_, err := p.account(words[1])
		return true, err
	case "client", "raw":
		if len(words) < 3 {
			return true, fmt.Errorf("want: %s NAME ADDRESS [direct] [server] [password P]", words[0])
		}
		return true, p.cast(words)
	case "roster":
		if len(words) < 4 {
			return true, fmt.Errorf("want: roster OWNER CONTACT STATE...")
		}
		return true, p.roster(words[1], words[2], words[3:])
	case "friends":
		return true, firstError(p.roster(words[1], words[2], []string{"both"}), p.roster(words[2], words[1], []string{"both"}))
	}
	return false, nil
}

func (p *play) server(domains []string, settings string) error {
	h, err := p.lab.prepare(p.t, fmt.Sprintf("127.0.0.%d", len(p.servers)+1), domains, settings, nil)
	if err != nil {
		return err
	}
	p.servers = append(p.servers, h)
	for _, d := range domains {
		p.hosts[d] = h
	}
	return nil
}

func (p *play) cast(words []string) error {
	r := &role{name: words[1], raw: words[0] == "raw", key: "client"}
	r.jid, r.password, r.roots = words[2], "secret", p.lab.roots
	for i, option := range words[3:] {
		switch option {
		case "direct":
			r.direct = true
		case "server":
			r.key = "server"
		case "password":
			r.password = words[3+i+1]
		}
	}
	if r.direct {
		r.key += "_tls"
	}
	j, err := jid.Parse(r.jid)
	if err != nil {
		return err
	}
	r.domain = j.Domain()
	h := p.hosts[r.domain]
	if h == nil {
		return fmt.Errorf("no server for %s", r.domain)
	}
	r.address = h.Addresses()[r.key][0]
	if !r.raw {
		if _, err := p.account(r.jid); err != nil {
			return err
		}
	}
	p.names = append(p.names, r.name)
	p.roles[r.name] = r
	return nil
}

// account makes an account with the password "secret", unless there is one.
func (p *play) account(address string) (jid.JID, error) {
	j, err := jid.Parse(address)
	if err != nil {
		return j, err
	}
	h := p.hosts[j.Domain()]
	if h == nil {
		return j, fmt.Errorf("no server for %s", j.Domain())
	}
	err = h.store.View(func(tx storage.Tx) error { _, err := tx.Accounts().Get(j.Bare()); return err })
	if err == nil {
		return j, nil
	}
	return j, h.addAccount(j.Bare().String(), "secret")
}

// roster puts a contact on a roster, as words say: none, to, from or both; ask, approved, or in
// (a request of the contact waits).
func (p *play) roster(owner, contact string, words []string) error {
	o, err := jid.Parse(owner)
	if err != nil {
		return err
	}
	c, err := jid.Parse(contact)
	if err != nil {
		return err
	}
	item := storage.RosterItem{Contact: c, Listed: true}
	for _, w := range words {
		switch w {
		case "none":
		case "to":
			item.To = true
		case "from":
			item.From = true
		case "both":
			item.To, item.From = true, true
		case "ask":
			item.Ask = true
		case "approved":
			item.Approved = true
		case "in":
			item.PendingIn = fmt.Sprintf("<presence type='subscribe' from='%s' to='%s'/>", c, o)
		default:
			return fmt.Errorf("%q is not a state of a contact", w)
		}
	}
	if p.hosts[o.Domain()] == nil {
		return fmt.Errorf("no server for %s", o.Domain())
	}
	if _, err := p.account(owner); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.hosts[o.Domain()].store.Submit(func(tx storage.Tx) error {
		now, err := tx.Rosters().Get(o)
		if err != nil {
			return err
		}
		return tx.Rosters().Put(o, item, now.Version+1)
	}).Wait(ctx)
}

// raise starts the servers.
func (p *play) raise() error {
	if err := federate(p.servers); err != nil {
		return err
	}
	// The clients leave first, so that no server waits for them to close their streams.
	for _, h := range p.servers {
		h.run(p.t)
	}
	p.t.Cleanup(func() {
		for _, r := range p.roles {
			if r.peer != nil {
				r.peer.cut()
			}
		}
	})
	return nil
}

// steps are what a role can do, the longer phrases first.
var steps = []struct {
	phrase string
	do     func(p *play, ctx context.Context, r *role, argument string) error
}{
	{"connects", (*play).connects},
	{"logs in", (*play).logsIn},
	{"cannot connect", (*play).cannotConnect},
	{"sends", (*play).sends},
	{"receives nothing", func(p *play, ctx context.Context, r *role, _ string) error { return p.nothing(ctx, r) }},
	{"receives in any order", (*play).receivesMixed},
	{"receives", (*play).receives},
	{"is closed with", (*play).isClosed},
	{"is closed", (*play).isClosed},
	{"disconnects", (*play).disconnects},
	{"cuts", (*play).cuts},
	{"opens", (*play).opens},
	{"starts TLS", (*play).startsTLS},
}

func (p *play) step(ctx context.Context, l line) error {
	first, rest, _ := strings.Cut(l.text, " ")
	if first == "admin" {
		return p.admin(ctx, rest)
	}
	rest = strings.TrimSpace(rest)
	r := p.roles[first]
	if r == nil {
		return fmt.Errorf("nobody is called %q", first)
	}
	for _, s := range steps {
		after, ok := strings.CutPrefix(rest, s.phrase)
		if !ok || (after != "" && after[0] != ' ') {
			continue
		}
		argument, err := expand(l.argument(after), p.vars)
		if err != nil {
			return err
		}
		on := s.phrase != "connects" && s.phrase != "logs in" && s.phrase != "cannot connect" && s.phrase != "opens"
		if on != (r.peer != nil) {
			return fmt.Errorf("%s is connected already, or not yet", r.name)
		}
		return s.do(p, ctx, r, argument)
	}
	return fmt.Errorf("%q is not something to do", rest)
}

func (p *play) connects(ctx context.Context, r *role, _ string) (err error) {
	r.peer, err = connect(ctx, r.login)
	return err
}

// logsIn is what clients do first: ask for the roster, and become available. Nothing but the
// answers to that is taken.
func (p *play) logsIn(ctx context.Context, r *role, _ string) error {
	if err := p.connects(ctx, r, ""); err != nil {
		return err
	}
	if err := r.peer.send("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq><presence/>"); err != nil {
		return err
	}
	if _, err := r.peer.takeIf(ctx, func(e event) bool {
		return e.kind == gotElement && e.tree.name.Local == "iq" && e.tree.attr("id") == "roster" && e.tree.attr("type") == "result"
	}); err != nil {
		return fmt.Errorf("no roster: %w", err)
	}
	if _, err := r.peer.takeIf(ctx, func(e event) bool {
		return e.kind == gotElement && e.tree.name.Local == "presence" && e.tree.attr("from") == r.jid && e.tree.attr("type") == ""
	}); err != nil {
		return fmt.Errorf("its own presence does not come back: %w", err)
	}
	return nil
}

func (p *play) cannotConnect(ctx context.Context, r *role, why string) error {
	peer, err := connect(ctx, r.login)
	if err == nil {
		peer.cut()
		return fmt.Errorf("it can")
	}
	if !strings.Contains(err.Error(), why) {
		return fmt.Errorf("refused with %q, want %q", err, why)
	}
	return nil
}

func (p *play) sends(_ context.Context, r *role, text string) error { return r.peer.send(text) }

func (p *play) receives(ctx context.Context, r *role, text string) error {
	expected, err := parseTrees(text)
	if err != nil {
		return err
	}
	for _, want := range expected {
		got, err := r.peer.take(ctx)
		if err != nil {
			return fmt.Errorf("nothing arrived; expected:\n%s", want)
		}
		if err := p.compare(want, got); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) compare(want *tree, got event) error {
	header := want.name.Space == ns.Stream && want.name.Local == "stream"
	if header && got.kind != gotHeader || !header && got.kind != gotElement {
		return fmt.Errorf("expected:\n%s\ngot:\n%s", want, got)
	}
	trial := maps.Clone(p.vars)
	if err := want.match(got.tree, trial); err != nil {
		return fmt.Errorf("%w\nexpected:\n%s\ngot:\n%s", err, want, got)
	}
	p.vars = trial
	return nil
}

func (p *play) receivesMixed(ctx context.Context, r *role, text string) error {
	expected, err := parseTrees(text)
	if err != nil {
		return err
	}
	for len(expected) > 0 {
		got, err := r.peer.take(ctx)
		if err != nil {
			return fmt.Errorf("nothing more arrived; still expected:\n%s", list(expected))
		}
		i := slices.IndexFunc(expected, func(want *tree) bool { return p.compare(want, got) == nil })
		if i < 0 {
			return fmt.Errorf("expected one of:\n%s\ngot:\n%s", list(expected), got)
		}
		expected = slices.Delete(expected, i, i+1)
	}
	return nil
}

// nothing proves that nothing is on its way to the role.
func (p *play) nothing(ctx context.Context, r *role) error {
	if err := p.settle(ctx, r); err != nil {
		return err
	}
	if events := r.peer.pending(); len(events) > 0 {
		return fmt.Errorf("got:\n%s", list(events))
	}
	return nil
}

// settle waits until everything that was said has had its effects: each client on the stage asks each
// server for an answer, and everything that was to be stored is stored; then once more, for what
// that caused; the role itself comes last.
func (p *play) settle(ctx context.Context, last *role) error {
	for range 2 {
		for _, name := range p.names {
			r := p.roles[name]
			if r.peer == nil || r.raw {
				continue
			}
			for _, h := range p.servers {
				if err := p.ask(ctx, r, h.domains[0]); err != nil {
					return err
				}
			}
		}
		for _, h := range p.servers {
			if err := h.store.Submit(func(storage.Tx) error { return nil }).Wait(ctx); err != nil {
				return err
			}
		}
	}
	return p.ask(ctx, last, last.domain)
}

func (p *play) ask(ctx context.Context, r *role, domain string) error {
	p.pings++
	if err := r.peer.ask(ctx, domain, p.pings); err != nil {
		return fmt.Errorf("%s gets no answer from %s: %w; pending:\n%s", r.name, domain, err, list(r.peer.pending()))
	}
	return nil
}

// isClosed expects the end of the stream, with an error or without.
func (p *play) isClosed(ctx context.Context, r *role, condition string) error {
	if condition != "" {
		if err := p.receives(ctx, r, "<stream:error>"+condition+"<any/></stream:error>"); err != nil {
			return err
		}
	}
	if err := p.ends(ctx, r); err != nil {
		return err
	}
	if err := r.peer.send("</stream:stream>"); err != nil && !r.raw {
		r.peer.cut() // the server may have gone first
	}
	return p.leaves(ctx, r)
}

func (p *play) ends(ctx context.Context, r *role) error {
	got, err := r.peer.take(ctx)
	if err != nil {
		return fmt.Errorf("the stream is still open")
	}
	if got.kind != gotEnd {
		return fmt.Errorf("expected the end of the stream, got:\n%s", got)
	}
	return nil
}

// leaves expects the server to close the connection.
func (p *play) leaves(ctx context.Context, r *role) error {
	got, err := r.peer.take(ctx)
	if err != nil {
		return fmt.Errorf("the connection is still open")
	}
	if got.kind != gotGone {
		return fmt.Errorf("expected the end of the connection, got:\n%s", got)
	}
	return p.gone(ctx, r)
}

func (p *play) disconnects(ctx context.Context, r *role, _ string) error {
	if err := r.peer.send("</stream:stream>"); err != nil {
		return err
	}
	if err := p.ends(ctx, r); err != nil {
		return err
	}
	return p.leaves(ctx, r)
}

func (p *play) cuts(ctx context.Context, r *role, _ string) error { return p.gone(ctx, r) }

// gone takes a role off the stage, and waits until its server knows.
func (p *play) gone(ctx context.Context, r *role) error {
	r.peer.cut()
	r.peer = nil
	if r.raw {
		return nil
	}
	return p.hosts[r.domain].awaitSessions(ctx, r.jid, p.others(r))
}

// others is how many other roles are on the stage with the same address.
func (p *play) others(r *role) int {
	n := 0
	for _, other := range p.roles {
		if other != r && other.peer != nil && !other.raw && other.jid == r.jid {
			n++
		}
	}
	return n
}

func (p *play) opens(ctx context.Context, r *role, _ string) (err error) {
	var config *tls.Config
	if r.direct {
		config = p.lab.clientTLS(r.domain)
	}
	r.peer, err = open(ctx, r.address, config)
	return err
}

func (p *play) startsTLS(ctx context.Context, r *role, _ string) error {
	return r.peer.secure(ctx, p.lab.clientTLS(r.domain))
}

// admin calls a verb: admin [DOMAIN] VERB [JSON] [fails TEXT]
func (p *play) admin(ctx context.Context, text string) error {
	text, failure, fails := strings.Cut(text, " fails")
	h := p.servers[0]
	first, rest, _ := strings.Cut(text, " ")
	if other := p.hosts[first]; other != nil {
		h = other
		first, rest, _ = strings.Cut(rest, " ")
	}
	_, err := h.Call(ctx, first, []byte(rest))
	switch {
	case !fails:
		return err
	case err == nil:
		return fmt.Errorf("it does not fail")
	case !strings.Contains(err.Error(), strings.TrimSpace(failure)):
		return fmt.Errorf("it fails with %q", err)
	}
	return nil
}

// awaitSessions waits until so many sessions are bound to a full JID.
func (h *host) awaitSessions(ctx context.Context, full string, count int) error {
	for {
		result, err := h.Call(ctx, "session.list", []byte("{}"))
		if err != nil {
			return err
		}
		text, err := json.Marshal(result)
		if err != nil {
			return err
		}
		quoted, _ := json.Marshal(full)
		if strings.Count(string(text), string(quoted)) == count {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("want %d sessions of %s, have: %s", count, full, text)
		}
	}
}

func list[T fmt.Stringer](all []T) string {
	var s []string
	for _, one := range all {
		s = append(s, one.String())
	}
	return strings.Join(s, "\n")
}

func firstError(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}
