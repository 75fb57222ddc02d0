// Package storagetest is the suite that every backend of storage passes: each sentence of the
// contract in package storage has a test here. A backend calls Run and RunFaults from its own
// tests; Faults also serve the tests of packages that use a store.
package storagetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// patience is how long anything here may take.
const patience = 20 * time.Second

var (
	romeo  = jid.MustParse("romeo@montague.example")
	juliet = jid.MustParse("juliet@capulet.example")
	nurse  = jid.MustParse("nurse@capulet.example")

	// Neighbours of juliet's rows, if keys were joined without care.
	julie   = jid.MustParse("julie@capulet.example")
	juliet2 = jid.MustParse("juliet2@capulet.example")
	domain  = jid.MustParse("capulet.example")
	longer  = jid.MustParse("juliet@capulet.example.org")
	// Not ASCII: a localpart and a domainpart in Greek and German.
	odysseus = jid.MustParse("ὀδυσσεύς@bücher.example")

	neighbours = []jid.JID{julie, juliet2, domain, longer, romeo, nurse, odysseus}
)

var errOops = errors.New("oops")

// Run tests a backend. open returns an empty store; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	for _, test := range []struct {
		name string
		fn   func(*testing.T, storage.Store)
	}{
		{"Accounts", testAccounts},
		{"AccountsInOrder", testAccountsInOrder},
		{"AccountsChangedWhileIterating", testAccountsChangedWhileIterating},
		{"DeleteAccountRemovesAll", testDeleteAccountRemovesAll},
		{"CreateAccountInheritsNothing", testCreateAccountInheritsNothing},
		{"Clients", testClients},
		{"Rosters", testRosters},
		{"RosterInOrder", testRosterInOrder},
		{"Offline", testOffline},
		{"OfflineFull", testOfflineFull},
		{"OfflineNumbers", testOfflineNumbers},
		{"ArchivePages", testArchivePages},
		{"ArchiveQueries", testArchiveQueries},
		{"ArchiveOfUnknownIDs", testArchiveUnknownIDs},
		{"ArchiveBoundsAndStats", testArchiveBoundsAndStats},
		{"ArchiveOfADeletedAccount", testArchiveOfDeletedAccount},
		{"LastID", testLastID},
		{"Purge", testPurge},
		{"PurgeWhatIsStillNeeded", testPurgeNeeded},
		{"PurgeSkipsTheNewer", testPurgeUnordered},
		{"OfflineByReference", testOfflineByReference},
		{"OfflineFullAndArchived", testOfflineFullAndArchived},
		{"OfflineTaken", testTaken},
		{"Earlier", testEarlier},
		{"EarlierPurged", testEarlierPurged},
		{"Peers", testPeers},
		{"PeersThatAreGone", testPeersGone},
		{"WaitingForPeers", testWaiting},
		{"LostCopies", testLost},
		{"Renumber", testRenumber},
		{"FailedAddLeavesNothing", testFailedAdd},
		{"LastPresence", testLastPresence},
		{"Blocklists", testBlocklists},
		{"Private", func(t *testing.T, s storage.Store) { testDocuments(t, s, storage.Tx.Private, storage.Tx.VCards) }},
		{"Settings", func(t *testing.T, s storage.Store) { testDocuments(t, s, storage.Tx.Settings, storage.Tx.Private) }},
		{"VCards", func(t *testing.T, s storage.Store) { testDocuments(t, s, storage.Tx.VCards, storage.Tx.Private) }},
		{"Secrets", testSecrets},
		{"ResourceOfOwnerIsIgnored", testResourceOfOwner},
		{"ResultsAreTheCallers", testResultsAreTheCallers},
		{"LargeValues", testLargeValues},
		{"ViewIsReadOnly", testViewIsReadOnly},
		{"ViewIsASnapshot", testViewIsASnapshot},
		{"ViewReturnsItsError", testViewReturnsItsError},
		{"FailedOperationLeavesNothing", testFailedOperation},
		{"FailedOperationsBesideOthers", testFailedBesideOthers},
		{"PanicIsAnError", testPanic},
		{"OperationsSeeTheOnesBefore", testOrder},
		{"DeferredOperations", testDefer},
		{"ConcurrentSubmit", testConcurrentSubmit},
		{"ThenInOrder", testThen},
		{"ThenMaySubmit", testThenMaySubmit},
		{"AdmitWhenIdle", testAdmitWhenIdle},
		{"CloseDrains", testCloseDrains},
		{"Closed", testClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.fn(t, s)
		})
	}
}

// do submits fn and waits until it is durable.
func do(t *testing.T, s storage.Store, fn func(storage.Tx) error) {
	t.Helper()
	if err := try(t, s, fn); err != nil {
		t.Fatal(err)
	}
}

// try is do for what may fail.
func try(t *testing.T, s storage.Store, fn func(storage.Tx) error) error {
	t.Helper()
	return wait(s.Submit(fn))
}

// wait waits for a ticket, but no longer than it may take: an operation that never ends is
// context.DeadlineExceeded, which no test here expects.
func wait(ticket *storage.Ticket) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return ticket.Wait(ctx)
}

// together submits operations while the committer is busy, so that a backend which groups them
// has them in one group, and returns the error of each. The last one is the suite's own: it
// writes and succeeds, so the group is committed whatever happens to the others.
func together(t *testing.T, s storage.Store, fns ...func(storage.Tx) error) []error {
	t.Helper()
	busy := make(chan struct{})
	s.Submit(func(storage.Tx) error { <-busy; return nil })
	var tickets []*storage.Ticket
	for _, fn := range fns {
		tickets = append(tickets, s.Submit(fn))
	}
	last := s.Submit(func(tx storage.Tx) error { return tx.Secrets().Put("of the suite", nil) })
	close(busy)
	if err := wait(last); err != nil {
		t.Errorf("an operation beside others: %v", err)
	}
	var errs []error
	for _, ticket := range tickets {
		errs = append(errs, wait(ticket))
	}
	return errs
}

func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("never: %s", what)
	}
}

func view(t *testing.T, s storage.Store, fn func(storage.Tx) error) {
	t.Helper()
	if err := s.View(fn); err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// waits is a message that waits for owner, who may have max of them.
func waits(owner jid.JID, text string, max int) storage.Message {
	return storage.Message{
		At:         time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC),
		Stanza:     "<message><body>" + text + "</body></message>",
		Offline:    owner,
		OfflineMax: max,
	}
}

// texts are the stanzas that wait for owner.
func texts(t *testing.T, s storage.Store, owner jid.JID) []string {
	t.Helper()
	var list []string
	view(t, s, func(tx storage.Tx) error {
		messages, err := tx.Offline().List(owner, 0, 0)
		for _, m := range messages {
			list = append(list, m.Stanza)
		}
		return err
	})
	return list
}

// testFailedOperation lets an operation write to every noun, replacing and removing what was
// there, and fail: everything is as before.
func testFailedOperation(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return fill(tx, juliet) })
	do(t, s, func(tx storage.Tx) error { return spool(tx, 1) })
	before := dump(t, s)
	errs := together(t, s, func(tx storage.Tx) error {
		if err := tx.Accounts().Delete(juliet); err != nil {
			return err
		}
		if err := fill(tx, romeo); err != nil {
			return err
		}
		if err := fill(tx, juliet); err != nil {
			return err
		}
		if err := tx.Clients().Put(juliet, client("tablet")); err != nil {
			return err
		}
		if err := tx.Clients().Delete(juliet, "phone"); err != nil {
			return err
		}
		if err := tx.Rosters().Delete(juliet, nurse, 99); err != nil {
			return err
		}
		if err := tx.Blocklists().Remove(juliet); err != nil {
			return err
		}
		if _, err := tx.Archive().Purge(juliet, time.Now(), 1); err != nil {
			return err
		}
		if err := tx.Offline().DeleteArchived(juliet); err != nil {
			return err
		}
		if err := tx.Peers().Delete(1); err != nil {
			return err
		}
		if err := tx.Peers().Put(storage.Peer{ID: 2}); err != nil {
			return err
		}
		// Twice, and removed between: taking back in another order would not do.
		for _, value := range []string{"first", "second"} {
			if err := tx.Secrets().Put("key", []byte(value)); err != nil {
				return err
			}
			if err := tx.Private().Put(juliet, "key", "", 0); err != nil {
				return err
			}
			if err := tx.Private().Put(juliet, "key", value, 0); err != nil {
				return err
			}
		}
		return fmt.Errorf("after all that: %w", errOops)
	})
	wantErr(t, "failing operation", errs[0], errOops)
	equal(t, "state after a failed operation", dump(t, s), before)
}

// testFailedBesideOthers submits operations of which every third fails after it has written.
func testFailedBesideOthers(t *testing.T, s storage.Store) {
	const n = 300
	var fns []func(storage.Tx) error
	var want []string
	for i := range n {
		m := waits(juliet, fmt.Sprint(i), 0)
		if i%3 != 1 {
			want = append(want, m.Stanza)
		}
		fns = append(fns, func(tx storage.Tx) error {
			if err := tx.Messages().Add(m); err != nil {
				return err
			}
			if i%3 == 1 {
				return errOops
			}
			return nil
		})
	}
	for i, err := range together(t, s, fns...) {
		if (i%3 == 1) != errors.Is(err, errOops) {
			t.Fatalf("operation %d: %v", i, err)
		}
	}
	equal(t, "messages", texts(t, s, juliet), want)
	view(t, s, func(tx storage.Tx) error {
		count, err := tx.Offline().Count(juliet)
		equal(t, "count", count, len(want))
		return err
	})
}

func testPanic(t *testing.T, s storage.Store) {
	before := dump(t, s)
	errs := together(t, s, func(tx storage.Tx) error {
		if err := fill(tx, juliet); err != nil {
			return err
		}
		panic("the friar was late")
	})
	if errs[0] == nil {
		t.Fatal("a panic was no error")
	}
	equal(t, "state after a panic", dump(t, s), before)
	do(t, s, func(tx storage.Tx) error { return fill(tx, juliet) })
}

func testOrder(t *testing.T, s storage.Store) {
	const n = 200
	var last *storage.Ticket
	for i := range uint64(n) {
		last = s.Submit(func(tx storage.Tx) error {
			roster, err := tx.Rosters().Get(juliet)
			if err != nil {
				return err
			}
			if roster.Version != i {
				return fmt.Errorf("operation %d sees version %d", i, roster.Version)
			}
			return tx.Rosters().Put(juliet, storage.RosterItem{Contact: nurse}, i+1)
		})
	}
	if err := wait(last); err != nil {
		t.Fatal(err)
	}
}

// testDefer: what nobody waits for keeps its place, goes with what somebody waits for, and does not wait long
// by itself.
func testDefer(t *testing.T, s storage.Store) {
	began := time.Now()
	put := func(version uint64) func(storage.Tx) error {
		return func(tx storage.Tx) error {
			return tx.Rosters().Put(juliet, storage.RosterItem{Contact: nurse}, version)
		}
	}
	first := s.Defer(put(1))
	if err := wait(s.Submit(func(tx storage.Tx) error {
		roster, err := tx.Rosters().Get(juliet)
		if err == nil && roster.Version != 1 {
			err = fmt.Errorf("sees version %d", roster.Version)
		}
		return err
	})); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took >= storage.Deferral {
		t.Errorf("Submit took %v behind Defer", took)
	}
	select {
	case <-first.Done():
	default:
		t.Error("what was deferred is not done, but what was submitted behind it is")
	}
	if err := wait(s.Defer(put(2))); err != nil {
		t.Error(err)
	}
}

func testConcurrentSubmit(t *testing.T, s storage.Store) {
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			owner := jid.MustParse(fmt.Sprintf("writer%d@capulet.example", w))
			for i := range each {
				if err := s.Admit(t.Context()); err != nil {
					t.Error(err)
					return
				}
				ticket := s.Submit(func(tx storage.Tx) error {
					return tx.Messages().Add(waits(owner, fmt.Sprint(i), 0))
				})
				if err := wait(ticket); err != nil {
					t.Error(err)
					return
				}
				// What is durable is visible.
				err := s.View(func(tx storage.Tx) error {
					count, err := tx.Offline().Count(owner)
					if err == nil && count != i+1 {
						err = fmt.Errorf("%d messages after %d", count, i+1)
					}
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func testThen(t *testing.T, s storage.Store) {
	var mu sync.Mutex
	var got, want []int
	note := func(i int) func(error) {
		want = append(want, i)
		return func(error) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, i)
		}
	}
	var last *storage.Ticket
	for i := range 100 {
		last = s.Submit(func(tx storage.Tx) error {
			if i%7 == 3 {
				return errOops
			}
			return tx.Secrets().Put("key", []byte{byte(i)})
		})
		last.Then(note(2 * i))
		last.Then(note(2*i + 1))
	}
	done := make(chan struct{})
	last.Then(func(error) { close(done) })
	await(t, "Then of the last ticket", done)
	mu.Lock()
	equal(t, "order of Then", got, want)
	mu.Unlock()

	// Done already, once its functions have been called: fn runs at once.
	called := false
	finished := s.Submit(func(storage.Tx) error { return errOops })
	_ = wait(finished)
	do(t, s, func(tx storage.Tx) error { return tx.Secrets().Put("key", nil) })
	finished.Then(func(err error) {
		wantErr(t, "Then", err, errOops)
		called = true
	})
	if !called {
		t.Error("Then of a finished ticket was not called at once")
	}
}

func testThenMaySubmit(t *testing.T, s storage.Store) {
	done := make(chan struct{})
	s.Submit(func(tx storage.Tx) error { return tx.Secrets().Put("a", nil) }).Then(func(error) {
		s.Submit(func(tx storage.Tx) error {
			_, err := tx.Secrets().Get("a")
			return err
		}).Then(func(err error) {
			if err != nil {
				t.Error(err)
			}
			close(done)
		})
	})
	await(t, "the operation submitted by Then", done)
}

func testAdmitWhenIdle(t *testing.T, s storage.Store) {
	if err := s.Admit(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	select {
	case <-s.Failed():
		t.Error("the store has failed")
	default:
	}
}

func testCloseDrains(t *testing.T, s storage.Store) {
	var tickets []*storage.Ticket
	for range 2500 {
		tickets = append(tickets, s.Submit(func(tx storage.Tx) error {
			return tx.Messages().Add(waits(juliet, "late", 0))
		}))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for i, ticket := range tickets {
		select {
		case <-ticket.Done():
		default:
			t.Fatalf("operation %d is pending after Close", i)
		}
		if err := ticket.Err(); err != nil {
			t.Fatalf("operation %d: %v", i, err)
		}
	}
}

func testClosed(t *testing.T, s storage.Store) {
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	ran := false
	ticket := s.Submit(func(storage.Tx) error { ran = true; return nil })
	wantErr(t, "Submit", wait(ticket), storage.ErrClosed)
	wantErr(t, "Admit", s.Admit(t.Context()), storage.ErrClosed)
	wantErr(t, "View", s.View(func(storage.Tx) error { ran = true; return nil }), storage.ErrClosed)
	if ran {
		t.Error("an operation ran on a closed store")
	}
}
