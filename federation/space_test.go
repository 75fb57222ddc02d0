package federation

import (
	"encoding/json"
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

// cramped is a server whose store has no room now and then; unkept gets what could not be kept then.
func (l *lab) cramped() (a *server, faults *storagetest.Faults, unkept chan stanza.Stanza) {
	faults, unkept = new(storagetest.Faults), make(chan stanza.Stanza, 10)
	store := mem.New(mem.Options{BeforeCommit: faults.BeforeCommit})
	l.t.Cleanup(func() { store.Close() })
	return l.serve("a.test", options{config: func(c *Config) { c.Store = store }, unkept: unkept}), faults, unkept
}

// settle returns when everything that was submitted has its outcome.
func (f *Federation) settle() { <-f.Store.Submit(func(storage.Tx) error { return nil }).Done() }

// want waits for something of a channel.
func want[T any](t *testing.T, c <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-c:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return got
}

// spools are the outbounds in the store, by the identifier that they resume with, and the numbers of what
// waits for each.
func spools(t *testing.T, store storage.Store) map[string][]uint64 {
	t.Helper()
	found := make(map[string][]uint64)
	err := store.View(func(tx storage.Tx) error {
		all, err := tx.Peers().All()
		for _, p := range all {
			var r outboundRecord
			if p.Kind != storage.OutgoingPeer || json.Unmarshal(p.State, &r) != nil {
				continue
			}
			waiting, err := tx.Peers().Waiting(p.ID)
			if err != nil {
				return err
			}
			for _, m := range waiting {
				found[r.Previd] = append(found[r.Previd], m.Number)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// When the store had no room for the first message to a domain, the next one is kept all the same.
func TestNoSpaceForTheSession(t *testing.T) {
	l := newLab(t)
	a, faults, unkept := l.cramped()
	l.listen("b.test") // says nothing
	stalled, release := faults.Stall()
	a.Store.Submit(func(tx storage.Tx) error { return tx.Secrets().Put("x", nil) })
	want(t, stalled)
	a.Send(kept("body0"))
	faults.FailNext(nil) // that of the secret
	faults.FailNext(storage.ErrNoSpace)
	release()
	if st := want(t, unkept); st.ID != "body0" {
		t.Errorf("not kept: %s", st.Element)
	}
	a.Send(kept("body1"))
	a.settle()
	if got := spools(t, a.Store); len(got[""]) != 1 {
		t.Errorf("waiting: %v", got)
	}
}

// What waited for a stream is moved to the session of that stream as soon as there is room for it.
func TestNoSpaceForTheMove(t *testing.T) {
	l := newLab(t)
	a, faults, _ := l.cramped()
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a.Send(kept("body0"))
	a.Send(kept("body1"))
	a.settle()
	p := l.receiveManaged(b, cert)
	faults.FailNext(storage.ErrNoSpace)
	p.expectEnable(enabledTest)
	p.expect("body1")
	a.Send(kept("body2"))
	p.expect("body2")
	eventually(t, "all three in the session", func() bool {
		got := spools(t, a.Store)
		return len(got) == 1 && len(got["sm"]) == 3
	})
	p.send("<a xmlns='urn:xmpp:sm:3' h='2'/>")
	eventually(t, "one that waits", func() bool { got := spools(t, a.Store); return len(got["sm"]) == 1 })
	if faults.Pending() != 0 {
		t.Error("no commit has failed")
	}
}

// The peer does not count what could not be kept, so what is behind has other numbers, in the store as well.
func TestNoSpaceChangesNumbers(t *testing.T) {
	l := newLab(t)
	a, faults, unkept := l.cramped()
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a.Send(kept("body0"))
	p := l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	p.expect("body0")
	a.settle()
	faults.FailNext(storage.ErrNoSpace)
	a.Send(kept("body1"))
	want(t, unkept)
	a.Send(kept("body2"))
	a.Send(kept("body3"))
	if got := p.expect("body3"); strings.Contains(got, "body1") {
		t.Errorf("sent: %s", got)
	}
	p.send("<a xmlns='urn:xmpp:sm:3' h='2'/>") // body0 and body2
	eventually(t, "one that waits, with its number", func() bool {
		got := spools(t, a.Store)["sm"]
		return len(got) == 1 && got[0] == 3
	})
}

// A message of which its sender was told that it is on its way is forgotten only when it is returned.
func TestReturnedBeforeForgotten(t *testing.T) {
	l := newLab(t)
	returned := make(chan int, 1)
	var a *server
	a = l.serve("a.test", options{config: func(c *Config) {
		c.Route = func(stanza.Stanza) {
			a.settle()
			returned <- len(spools(t, a.Store)[""])
		}
	}})
	b := l.listen("b.test")
	a.Send(kept("body0"))
	a.settle()
	p := b.accept()
	b.Close()
	p.conn.Close()
	if n := want(t, returned); n != 1 {
		t.Errorf("%d were in the store when it was returned", n)
	}
	eventually(t, "nothing in the store", func() bool { return len(spools(t, a.Store)) == 0 })
}

// What cannot go on after a restart returns to its senders, where there are any.
func TestOrphansReturn(t *testing.T) {
	l := newLab(t)
	l.listen("b.test") // says nothing
	file := filepath.Join(t.TempDir(), "db")
	store, err := bolt.Open(file, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(id uint64, state string, st stanza.Stanza) {
		t.Helper()
		ticket := store.Submit(func(tx storage.Tx) error {
			p := storage.Peer{ID: id, Kind: storage.OutgoingPeer, State: []byte(state)}
			if err := tx.Peers().Put(p); err != nil {
				return err
			}
			return tx.Messages().Add(storage.Message{At: time.Now(), Stanza: st.Element.String(),
				Waiting: []storage.Waiting{{Peer: id, Number: 1, Copies: 1}}})
		})
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	put(1, `{"Local":"a.test","Remote":"b.test"}`, message("a.test", "b.test", "goes on"))
	put(2, `{"Local":"a.test","Remote":"b.test"}`, message("a.test", "b.test", "second"))
	put(3, `{`, message("a.test", "b.test", "damaged"))
	put(4, `{"Local":"gone.test","Remote":"b.test"}`, message("gone.test", "b.test", "nobody is there"))
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	a := l.crashing(file)
	for _, body := range []string{"second", "damaged"} {
		if st := a.wantBounce(t, "remote-server-timeout"); st.ID != body {
			t.Errorf("returned: %s", st.Element)
		}
	}
	eventually(t, "one that waits", func() bool {
		peers, waiting := a.peers(t, storage.OutgoingPeer)
		return peers == 1 && waiting == 1
	})
	a.quiet(t)
}
