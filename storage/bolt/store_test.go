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
