package storagetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

func testViewIsReadOnly(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return fill(tx, juliet) })
	before := dump(t, s)
	for name, write := range map[string]func(tx storage.Tx) error{
		"create account":  func(tx storage.Tx) error { return tx.Accounts().Create(account(romeo)) },
		"update account":  func(tx storage.Tx) error { return tx.Accounts().Update(account(juliet)) },
		"delete account":  func(tx storage.Tx) error { return tx.Accounts().Delete(juliet) },
		"put client":      func(tx storage.Tx) error { return tx.Clients().Put(juliet, client("phone")) },
		"delete client":   func(tx storage.Tx) error { return tx.Clients().Delete(juliet, "phone") },
		"put item":        func(tx storage.Tx) error { return tx.Rosters().Put(juliet, storage.RosterItem{Contact: romeo}, 9) },
		"delete item":     func(tx storage.Tx) error { return tx.Rosters().Delete(juliet, romeo, 9) },
		"add message":     func(tx storage.Tx) error { return tx.Messages().Add(waits(juliet, "m", 0)) },
		"delete messages": func(tx storage.Tx) error { return tx.Offline().Delete(juliet, 1<<63) },
		"purge archive":   func(tx storage.Tx) error { _, err := tx.Archive().Purge(juliet, time.Now(), 1); return err },
		"delete archived": func(tx storage.Tx) error { return tx.Offline().DeleteArchived(juliet) },
		"put peer":        func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: 1}) },
		"delete peer":     func(tx storage.Tx) error { return tx.Peers().Delete(1) },
		"count":           func(tx storage.Tx) error { return tx.Peers().Count(storage.Counted{Peer: 1}) },
		"acknowledge":     func(tx storage.Tx) error { return tx.Peers().Acknowledged(1, 1) },
		"lose":            func(tx storage.Tx) error { return tx.Peers().Lost(1, []uint64{1}, nil) },
		"renumber":        func(tx storage.Tx) error { return tx.Peers().Renumber(1, nil) },
		"put settings":    func(tx storage.Tx) error { return tx.Settings().Put(juliet, "key", "<changed/>", 0) },
		"put presence":    func(tx storage.Tx) error { return tx.LastPresence().Put(juliet, "", time.Now()) },
		"block":           func(tx storage.Tx) error { return tx.Blocklists().Add(juliet, odysseus) },
		"unblock":         func(tx storage.Tx) error { return tx.Blocklists().Remove(juliet, romeo) },
		"unblock all":     func(tx storage.Tx) error { return tx.Blocklists().Remove(juliet) },
		"put document":    func(tx storage.Tx) error { return tx.Private().Put(juliet, "key", "<changed/>", 0) },
		"remove vcard":    func(tx storage.Tx) error { return tx.VCards().Put(juliet, "key", "", 0) },
		"put secret":      func(tx storage.Tx) error { return tx.Secrets().Put("key", nil) },
	} {
		wantErr(t, name, s.View(write), storage.ErrReadOnly)
	}
	equal(t, "state", dump(t, s), before)
}

// testViewIsASnapshot: what is committed while a View runs is not seen by it. A backend may hold
// the commit back until the View has ended.
func testViewIsASnapshot(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return tx.Secrets().Put("key", []byte("before")) })
	var ticket *storage.Ticket
	view(t, s, func(tx storage.Tx) error {
		before, err := tx.Secrets().Get("key")
		if err != nil {
			return err
		}
		ticket = s.Submit(func(tx storage.Tx) error { return tx.Secrets().Put("key", []byte("after")) })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := ticket.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		after, err := tx.Secrets().Get("key")
		equal(t, "secret in the snapshot", string(after), string(before))
		return err
	})
	if err := wait(ticket); err != nil {
		t.Fatal(err)
	}
	view(t, s, func(tx storage.Tx) error {
		value, err := tx.Secrets().Get("key")
		equal(t, "secret", string(value), "after")
		return err
	})
}

func testViewReturnsItsError(t *testing.T, s storage.Store) {
	wantErr(t, "View", s.View(func(storage.Tx) error { return errOops }), errOops)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic in View was swallowed")
			}
		}()
		_ = s.View(func(storage.Tx) error { panic("in a view") })
	}()
	// The panic left no lock behind.
	do(t, s, func(tx storage.Tx) error { return tx.Secrets().Put("key", nil) })
}

// RunFaults tests what a backend does when its commits stall or fail. open returns an empty store
// that uses f and whose Mark is mark (0: the default).
func RunFaults(t *testing.T, open func(t *testing.T, f *Faults, mark int) storage.Store) {
	t.Run("StallHoldsNobodyElse", func(t *testing.T) {
		var f Faults
		s := open(t, &f, 0)
		defer s.Close()
		do(t, s, func(tx storage.Tx) error { return fill(tx, juliet) })
		before := dump(t, s)
		stalled, release := f.Stall()
		defer release()
		first := s.Submit(func(tx storage.Tx) error { return fill(tx, romeo) })
		await(t, "the stall", stalled)
		second := s.Submit(func(tx storage.Tx) error { return fill(tx, nurse) })
		// dump is many Views; they return, and they see what is durable.
		equal(t, "state during the stall", dump(t, s), before)
		for _, ticket := range []*storage.Ticket{first, second} {
			select {
			case <-ticket.Done():
				t.Error("done before its commit")
			default:
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantErr(t, "Wait with an ended context", first.Wait(ctx), context.Canceled)
		release()
		for _, ticket := range []*storage.Ticket{first, second} {
			if err := wait(ticket); err != nil {
				t.Error(err)
			}
		}
		for _, j := range []jid.JID{romeo, nurse} {
			equal(t, "rows", len(rows(t, s, j)), everything)
		}
	})

	t.Run("AdmitBlocksOverTheMark", func(t *testing.T) {
		var f Faults
		s := open(t, &f, 3)
		defer s.Close()
		stalled, release := f.Stall()
		defer release()
		submit := func() *storage.Ticket {
			return s.Submit(func(tx storage.Tx) error { return tx.Secrets().Put("key", nil) })
		}
		submit()
		await(t, "the stall", stalled)
		submit()
		if err := s.Admit(t.Context()); err != nil {
			t.Errorf("Admit below the mark: %v", err)
		}
		submit()
		last := submit() // Submit never blocks
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		wantErr(t, "Admit over the mark", s.Admit(ctx), context.DeadlineExceeded)
		admitted := make(chan error, 1)
		go func() { admitted <- s.Admit(t.Context()) }()
		release()
		select {
		case err := <-admitted:
			if err != nil {
				t.Errorf("Admit: %v", err)
			}
		case <-time.After(patience):
			t.Error("Admit still blocks")
		}
		if err := wait(last); err != nil {
			t.Error(err)
		}
	})

	t.Run("StatsOfAStall", func(t *testing.T) {
		const long = 20 * time.Millisecond
		var f Faults
		s := open(t, &f, 0)
		defer s.Close()
		equal(t, "stats of a new store", s.Stats(), storage.Stats{})
		equal(t, "average of nothing", s.Stats().Average(), time.Duration(0))
		put := func(tx storage.Tx) error { return tx.Secrets().Put("key", nil) }
		stalled, release := f.Stall()
		defer release()
		first := s.Submit(put)
		await(t, "the stall", stalled)
		second := s.Submit(put)
		equal(t, "pending", s.Stats().Pending, 2)
		<-time.After(long) // the commit is to be slow
		release()
		if err := errors.Join(wait(first), wait(second)); err != nil {
			t.Error(err)
		}
		// What is counted when its ticket is done is so at the latest when the next operation is.
		do(t, s, put)
		for deadline := time.Now().Add(patience); s.Stats().Pending > 0; {
			if time.Now().After(deadline) {
				t.Fatal("still pending")
			}
		}
		stats := s.Stats()
		if stats.Longest < long || stats.Total < stats.Longest || stats.Last > stats.Total || stats.Average() > stats.Longest {
			t.Errorf("%+v", stats)
		}
		equal(t, "operations", stats.Operations, uint64(3))
		equal(t, "commits", stats.Commits, uint64(3))
	})

	t.Run("NoSpacePasses", func(t *testing.T) {
		var f Faults
		s := open(t, &f, 0)
		defer s.Close()
		do(t, s, func(tx storage.Tx) error { return fill(tx, juliet) })
		before := dump(t, s)
		for range 2 {
			f.FailNext(storage.ErrNoSpace)
			wantErr(t, "write", try(t, s, func(tx storage.Tx) error { return fill(tx, romeo) }), storage.ErrNoSpace)
			equal(t, "state", dump(t, s), before)
		}
		if err := s.Err(); err != nil {
			t.Fatalf("the store failed: %v", err)
		}
		do(t, s, func(tx storage.Tx) error { return fill(tx, romeo) })
		equal(t, "rows", len(rows(t, s, romeo)), everything)
	})

	t.Run("OtherErrorsEndTheStore", func(t *testing.T) {
		var f Faults
		s := open(t, &f, 0)
		defer s.Close()
		do(t, s, func(tx storage.Tx) error { return fill(tx, juliet) })
		f.FailNext(errOops)
		stalled, release := f.Stall()
		defer release()
		put := func(tx storage.Tx) error { return fill(tx, romeo) }
		first := s.Submit(put)
		await(t, "the stall", stalled)
		second := s.Submit(put)
		release()
		wantErr(t, "the commit", wait(first), errOops)
		wantErr(t, "what was queued", wait(second), errOops)
		await(t, "Failed", s.Failed())
		wantErr(t, "Err", s.Err(), errOops)
		wantErr(t, "Submit", try(t, s, put), errOops)
		wantErr(t, "Admit", s.Admit(t.Context()), errOops)
		wantErr(t, "View", s.View(func(storage.Tx) error { return nil }), errOops)
	})

	t.Run("CloseDuringAStall", func(t *testing.T) {
		var f Faults
		s := open(t, &f, 0)
		stalled, release := f.Stall()
		defer release()
		ticket := s.Submit(func(tx storage.Tx) error { return fill(tx, romeo) })
		await(t, "the stall", stalled)
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		release()
		if err := wait(ticket); err != nil {
			t.Error(err)
		}
		select {
		case err := <-closed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("Close never returned")
		}
	})
}
