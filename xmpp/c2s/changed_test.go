package c2s

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/storage/storagetest"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stream"
)

// Each change of a session writes all of its record: while the store is busy a client that makes many of them
// must not fill memory with as many records.
func TestChangesWhileStoreIsBusy(t *testing.T) {
	faults := new(storagetest.Faults)
	s := newRestorer(t, mem.Options{BeforeCommit: faults.BeforeCommit})
	o := &outlet{server: s, peer: 7, id: key{7}, grace: time.Minute, ledger: stream.Restore(1<<20, time.Now, 0, nil, 0)}
	err := s.Users.Restore(session.Remnant{Full: jid.MustParse("a@a.test/r"), Sink: o,
		Found: func(_ *session.User, found *session.Session) { o.session = found }})
	if err != nil {
		t.Fatal(err)
	}
	change := func(from, to int) {
		t.Helper()
		if err := s.Users.Do(jid.MustParse("a@a.test"), func(*session.User) {
			for i := from; i < to; i++ {
				o.session.Enable(fmt.Sprint("urn:test:", i), true)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	stalled, release := faults.Stall()
	change(0, 1)
	<-stalled
	change(1, 500)
	if n := s.Store.Stats().Pending; n > 3 {
		t.Errorf("%d writes wait", n)
	}
	release()
	for i := 500; i < 503; i++ { // what is submitted after a change finds it, as who tells of it relies on
		change(i, i+1)
		write(t, s, nil)
		var r sessionRecord
		if peers := allPeers(t, s); len(peers) != 1 {
			t.Fatalf("there are %d peers", len(peers))
		} else if err := json.Unmarshal(peers[0].State, &r); err != nil || len(r.Enabled) != i+1 {
			t.Fatalf("%d are enabled instead of %d, %v", len(r.Enabled), i+1, err)
		}
	}
	// A write that failed leaves the way open for the next.
	faults.FailNext(storage.ErrNoSpace)
	change(503, 504)
	<-s.Store.Submit(nil).Done()
	change(504, 505)
	write(t, s, nil)
	var r sessionRecord
	if err := json.Unmarshal(allPeers(t, s)[0].State, &r); err != nil || len(r.Enabled) != 505 {
		t.Errorf("%d are enabled instead of 505, %v", len(r.Enabled), err)
	}
}

// A session that the store had no room for is there when something is to wait for it.
func TestSessionIsKeptWithWhatWaitsForIt(t *testing.T) {
	faults := new(storagetest.Faults)
	s := newRestorer(t, mem.Options{BeforeCommit: faults.BeforeCommit})
	o := &outlet{server: s, peer: 7, id: key{7}, grace: time.Minute, ledger: stream.Restore(1<<20, time.Now, 0, nil, 0)}
	account := jid.MustParse("a@a.test")
	err := s.Users.Restore(session.Remnant{Full: jid.MustParse("a@a.test/r"), Sink: o,
		Found: func(_ *session.User, found *session.Session) { o.session = found }})
	if err != nil {
		t.Fatal(err)
	}
	do := func(fn func()) {
		t.Helper()
		if err := s.Users.Do(account, func(*session.User) { fn() }); err != nil {
			t.Fatal(err)
		}
	}
	faults.FailNext(storage.ErrNoSpace)
	do(o.Changed)
	<-s.Store.Submit(nil).Done()
	if left := allPeers(t, s); len(left) != 0 || faults.Pending() != 0 {
		t.Fatalf("the store had room: %v", left)
	}
	do(func() {
		number := o.Track(element.Leaf("message", ns.Client, ""), nil, new(stream.Gate))
		s.Store.Submit(func(tx storage.Tx) error {
			return tx.Messages().Add(storage.Message{At: time.Now(), Stanza: "<message/>",
				Waiting: []storage.Waiting{{Peer: o.peer, Number: number, Copies: 1}}})
		})
	})
	write(t, s, nil)
	if err := s.Store.View(func(tx storage.Tx) error {
		waiting, err := tx.Peers().Waiting(o.peer)
		if len(waiting) != 1 {
			t.Errorf("%d messages wait", len(waiting))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
