package federation

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/bolt"
	"tombolo/storage/mem"
	"tombolo/storage/storagetest"
	"tombolo/xmpp/stanza"
)

// receipts are those of a client that wants to know what is kept.
type receipts struct{}

func (receipts) Hold(uint32)    {}
func (receipts) Release(uint32) {}
func (receipts) Peer() uint64   { return 0 }
func (receipts) Kept(uint32)    {}

// kept is a message whose sender acknowledges, so that it is kept.
func kept(body string) stanza.Stanza {
	return message("a.test", "b.test", body).WithReceipt(receipts{}, 1)
}

// A crashing server keeps its state in a file.
type crashing struct {
	*server
	store storage.Store
}

func (l *lab) crashing(file string) crashing {
	l.t.Helper()
	store, err := bolt.Open(file, bolt.Options{})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { store.Close() })
	return crashing{l.serve("a.test", options{config: func(c *Config) { c.Store = store }}), store}
}

// crash ends a server, and starts another one from what was on disk at that moment.
func (c crashing) crash(l *lab) crashing {
	l.t.Helper()
	if err := c.store.Submit(func(storage.Tx) error { return nil }).Wait(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	file := filepath.Join(l.t.TempDir(), "copy.db")
	f, err := os.Create(file)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err = c.store.Backup(f); err != nil {
		l.t.Fatal(err)
	}
	f.Close()
	c.listener.Close()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	c.Shutdown(ctx)
	return l.crashing(file)
}

// peers is what the store has of other servers: how many of a kind, and how much waits.
func (c crashing) peers(t *testing.T, kind storage.PeerKind) (peers, waiting int) {
	t.Helper()
	err := c.store.View(func(tx storage.Tx) error {
		all, err := tx.Peers().All()
		for _, p := range all {
			if p.Kind == kind {
				list, err := tx.Peers().Waiting(p.ID)
				if err != nil {
					return err
				}
				peers, waiting = peers+1, waiting+len(list)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return peers, waiting
}

// Nobody sees a message before it is kept, and what comes behind it does not overtake it.
func TestKeptBeforeSent(t *testing.T) {
	l, faults := newLab(t), new(storagetest.Faults)
	store := mem.New(mem.Options{BeforeCommit: faults.BeforeCommit})
	t.Cleanup(func() { store.Close() })
	a := l.serve("a.test", options{config: func(c *Config) { c.Store = store }})
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a.Send(message("a.test", "b.test", "first"))
	p := l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	p.expect("first")
	stalled, release := faults.Stall()
	defer release()
	a.Send(kept("kept"))
	a.Send(message("a.test", "b.test", "behind"))
	<-stalled
	p.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if got := p.rest(); strings.Contains(got, "kept") || strings.Contains(got, "behind") {
		t.Errorf("sent before it was kept: %s", got)
	}
	release()
	p.conn.SetReadDeadline(time.Now().Add(patience))
	if got := p.expect("behind"); !strings.Contains(got, "kept") {
		t.Errorf("got %s", got)
	}
}

// What another server has not acknowledged goes on after a crash of ours, in the same session: once, in
// order, and what is sent meanwhile behind it.
func TestCrashOfTheSender(t *testing.T) {
	l := newLab(t)
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a := l.crashing(filepath.Join(t.TempDir(), "db"))
	a.Send(kept("body0"))
	a.Send(presence("romeo@a.test/r", "")) // has a number, and is not kept
	a.Send(kept("body1"))
	a.Send(kept("body2"))
	p := l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	p.expect("body2")
	p.send("<a xmlns='urn:xmpp:sm:3' h='1'/>")
	eventually(t, "two that wait", func() bool { _, n := a.peers(t, storage.OutgoingPeer); return n == 2 })

	a = a.crash(l)
	p.rest()
	a.Send(kept("body3"))
	p = l.receiveManaged(b, cert)
	p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
	p.send("<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='3'/>")
	got := p.expect("body3")
	if strings.Contains(got, "body1") || !strings.Contains(got, "body2") || strings.Contains(got, "<delay") {
		t.Errorf("sent again: %s", got)
	}
	p.send("<a xmlns='urn:xmpp:sm:3' h='4'/>")
	eventually(t, "one that waits", func() bool { _, n := a.peers(t, storage.OutgoingPeer); return n == 1 })

	a = a.crash(l) // and again
	p.rest()
	p = l.receiveManaged(b, cert)
	p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
	p.send("<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='4'/>")
	if got := p.expect("body3"); strings.Contains(got, "body2") {
		t.Errorf("sent again: %s", got)
	}
	p.send("<a xmlns='urn:xmpp:sm:3' h='5'/>")
	eventually(t, "nothing that waits", func() bool { _, n := a.peers(t, storage.OutgoingPeer); return n == 0 })
	p.send("<a xmlns='urn:xmpp:sm:3' h='6'/>")
	p.expect("<handled-count-too-high xmlns='urn:xmpp:sm:3' h='6' send-count='5'/>")
	eventually(t, "the end of the session", func() bool { n, _ := a.peers(t, storage.OutgoingPeer); return n == 0 })
	a.quiet(t)
}

// Numbers that only presence had are not given to others after a crash: what the peer got of that is
// not what it gets now.
func TestNumbersAreNotUsedTwice(t *testing.T) {
	l := newLab(t)
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a := l.crashing(filepath.Join(t.TempDir(), "db"))
	a.Send(kept("body0"))
	for range 5 {
		a.Send(presence("romeo@a.test/r", ""))
	}
	p := l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	p.expect("<r ")
	a = a.crash(l)
	p.rest()
	a.Send(kept("body1"))
	p = l.receiveManaged(b, cert)
	p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
	p.send("<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='6'/>")
	if got := p.expect("body1"); strings.Contains(got, "body0") {
		t.Errorf("sent again: %s", got)
	}
}

// A peer that has forgotten the session gets it all again, marked.
func TestCrashOfBoth(t *testing.T) {
	l := newLab(t)
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a := l.crashing(filepath.Join(t.TempDir(), "db"))
	for i := range 3 {
		a.Send(kept(fmt.Sprint("body", i)))
	}
	p := l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	p.expect("body2")
	for range 2 {
		a = a.crash(l)
		p.rest()
		p = l.receiveManaged(b, cert)
		p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
		p.send("<failed xmlns='urn:xmpp:sm:3'/>")
		p.expectEnable(enabledTest)
		got := p.expect("<r ")
		for i := range 3 {
			if strings.Count(got, fmt.Sprint("body", i, "</body><delay")) != 1 {
				t.Errorf("sent again: %s", got)
			}
		}
		if n, waiting := a.peers(t, storage.OutgoingPeer); n != 1 || waiting != 3 {
			t.Errorf("%d peers, %d messages wait", n, waiting)
		}
	}
}

// What waits for a server that was never reached waits through a crash.
func TestCrashBeforeTheFirstStream(t *testing.T) {
	l := newLab(t)
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a := l.crashing(filepath.Join(t.TempDir(), "db"))
	a.Send(kept("body0"))
	a.Send(kept("body1"))
	b.accept().conn.Close() // it fails, and everything returns
	a.wantBounce(t, "remote-server-timeout")
	a.wantBounce(t, "remote-server-timeout")
	eventually(t, "nothing that is kept", func() bool { n, _ := a.peers(t, storage.OutgoingPeer); return n == 0 })
	a = a.crash(l)
	a.Send(kept("body2"))
	p := b.accept()
	a = a.crash(l)
	p.conn.Close()
	p = l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	if got := p.expect("body2"); strings.Contains(got, "body1") {
		t.Errorf("sent: %s", got)
	}
}

// A peer without acknowledgements: what was written is its own.
func TestCrashWithoutAcknowledgements(t *testing.T) {
	l := newLab(t)
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a := l.crashing(filepath.Join(t.TempDir(), "db"))
	a.Send(kept("body0"))
	p := b.accept()
	p.receive("id", cert, dialbackFeature)
	p.expect("</db:result>")
	p.send("<db:result from='b.test' to='a.test' type='valid'/>")
	p.expect("body0")
	eventually(t, "nothing that waits", func() bool { _, n := a.peers(t, storage.OutgoingPeer); return n == 0 })
	a = a.crash(l)
	a.Send(kept("body1"))
	p = l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	if got := p.expect("body1"); strings.Contains(got, "body0") {
		t.Errorf("sent: %s", got)
	}
}

// A session that another server has with us is there after a crash, with the count that it was told.
func TestCrashOfTheReceiver(t *testing.T) {
	l := newLab(t)
	a := l.crashing(filepath.Join(t.TempDir(), "db"))
	p := dialPeer(t, a.server)
	p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test"))
	id := p.manage()
	p.message("b.test", "a.test", "one")
	p.send("<presence from='juliet@b.test/j' to='romeo@a.test'/>")
	p.send("<r xmlns='urn:xmpp:sm:3'/>")
	p.expect("<a xmlns='urn:xmpp:sm:3' h='2'/>")
	a = a.crash(l)
	p.rest()
	l.resume(a.server, "c.test", id, "<item-not-found")
	p = l.resume(a.server, "b.test", id, "<resumed xmlns='urn:xmpp:sm:3' previd='"+id+"' h='2'/>")
	p.message("b.test", "a.test", "two")
	p.send("<r xmlns='urn:xmpp:sm:3'/>")
	p.expect("<a xmlns='urn:xmpp:sm:3' h='3'/>")
	p.send("</stream:stream>")
	p.rest()
	eventually(t, "the end of the session", func() bool { n, _ := a.peers(t, storage.IncomingPeer); return n == 0 })
}

// At an orderly end sessions are parked, not closed: the peer may resume, and we do.
func TestShutdownKeepsSessions(t *testing.T) {
	l := newLab(t)
	a, b, cert := l.serve("a.test", options{}), l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	in := dialPeer(t, a)
	in.login("b.test", "a.test", cert)
	in.manage()
	a.Send(kept("body0"))
	out := l.receiveManaged(b, cert)
	out.expectEnable(enabledTest)
	out.expect("body0")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a.Shutdown(ctx)
	for name, p := range map[string]*peer{"in": in, "out": out} {
		if got := p.rest(); strings.Contains(got, "</stream:stream>") {
			t.Errorf("%s ended with %s", name, got)
		}
	}
	a.quiet(t)
}

// XEP-0198 section 5: a stream that is closed takes its session with it. The peer may have resumed the session on one that
// we give up before its answer is here.
func TestGivenUpWhileResuming(t *testing.T) {
	for name, c := range map[string]struct {
		config func(*Config)
		end    func(context.Context, *server)
		again  bool // it tries once more
	}{
		"shutdown":          {func(*Config) {}, func(ctx context.Context, s *server) { s.Shutdown(ctx) }, false},
		"no answer in time": {func(c *Config) { c.ConnectTime = 3 * time.Second }, func(context.Context, *server) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a := l.serve("a.test", options{config: c.config})
			b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
			a.Send(kept("body0"))
			p := l.receiveManaged(b, cert)
			p.expectEnable(enabledTest)
			p.expect("body0")
			p.conn.Close()
			p = l.receiveManaged(b, cert)
			p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c.end(ctx, a)
			if got := p.rest(); strings.Contains(got, "</stream:stream>") {
				t.Errorf("ended with %s", got)
			}
			if c.again {
				l.receiveManaged(b, cert).expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
			}
		})
	}
}

// XEP-0198 section 5: a peer learns what of it is handled, after an orderly end as well, though it has not asked before:
// so it sends nothing twice.
func TestShutdownKeepsCounts(t *testing.T) {
	l, file := newLab(t), filepath.Join(t.TempDir(), "db")
	a, cert := l.crashing(file), l.ca.issue(t, nil, "b.test")
	in := dialPeer(t, a.server)
	in.login("b.test", "a.test", cert)
	id := in.manage()
	for i := range 2 {
		in.send("<presence from='juliet@b.test/x' to='romeo@a.test' id='%d'/>", i)
		a.next(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a.Shutdown(ctx)
	if err := a.store.Close(); err != nil {
		t.Fatal(err)
	}
	a = l.crashing(file)
	l.resume(a.server, "b.test", id, "<resumed xmlns='urn:xmpp:sm:3' previd='"+id+"' h='2'/>")
}

// A record that is damaged costs its session, not the start of the server.
func TestRestoreDamagedInbound(t *testing.T) {
	for _, state := range []string{"null", "{}", `{"Key":"AAAA"}`} {
		f := &Federation{Config: Config{Now: time.Now}, inbound: make(map[key]*inbound)}
		if err := f.restoreInbound(storage.Peer{ID: 7, State: []byte(state)}); err == nil || len(f.inbound) != 0 {
			t.Errorf("%s: %v", state, err)
		}
	}
}
