package bolt

import (
	"path/filepath"
	"testing"

	"tombolo/storage"
	"tombolo/storage/storagetest"
)

// openTest opens a new store in a directory of the test's own.
func openTest(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "tombolo.db"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store { return openTest(t, Options{}) })
}

// TestStoreMoving is TestStore with a store that enters messages in the lists of their archives at once, in
// small chunks.
func TestStoreMoving(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store {
		return openTest(t, Options{sizes: sizes{move: 1, quiet: 1, chunk: 5, slack: 2, clean: 3}})
	})
}

func TestFaults(t *testing.T) {
	storagetest.RunFaults(t, func(t *testing.T, f *storagetest.Faults, mark int) storage.Store {
		return openTest(t, Options{Mark: mark, BeforeCommit: f.BeforeCommit})
	})
}

// TestSnapshotAcrossAMove: a View sees an archive as it was, whatever is moved and read meanwhile.
func TestSnapshotAcrossAMove(t *testing.T) {
	s := openTest(t, Options{})
	a := newArchiver()
	owner := a.users[0]
	write := func() {
		must(t, s.Submit(func(tx storage.Tx) error {
			for range 10 {
				m := a.message()
				m.Archived = m.Archived[:1]
				m.Archived[0].Owner = owner
				if err := tx.Messages().Add(m); err != nil {
					return err
				}
			}
			return nil
		}).Wait(within(t)))
	}
	move := func() {
		must(t, s.Submit(func(tx storage.Tx) error { _, err := tx.(*txn).move(15); return err }).Wait(within(t)))
	}
	count := func(tx storage.Tx) int {
		page, err := tx.Archive().Page(owner, storage.ArchiveQuery{})
		must(t, err)
		return len(page.Messages)
	}
	want := 0
	for range 4 {
		write()
		want += 10
		must(t, s.View(func(before storage.Tx) error {
			for _, step := range []func(){func() {}, write, move, move} {
				step()
				must(t, s.View(func(now storage.Tx) error {
					if got := count(now); got < want || got%10 != 0 {
						t.Errorf("%d messages now, at least %d before", got, want)
					}
					return nil
				}))
				if got := count(before); got != want {
					t.Errorf("%d messages in the snapshot, want %d", got, want)
				}
			}
			return nil
		}))
		want += 10
	}
}
