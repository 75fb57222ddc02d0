package xmpp_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/jid"
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

// TestEveryFeatureHasAPlay demands that some play names each specification that the server claims.
func TestEveryFeatureHasAPlay(t *testing.T) {
	h, err := newLab(t).prepare(t, "127.0.0.1", []string{"a.test"}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.run(t)
	files, err := filepath.Glob("../testdata/script/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	for _, f := range h.Features() {
		if !regexp.MustCompile(regexp.QuoteMeta(f.Info.Spec) + `\b`).MatchString(all.String()) {
			t.Errorf("no play in testdata/script is about %s, %s: write one", f.Info.Spec, f.Info.Name)
		}
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
