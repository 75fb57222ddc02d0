package mem_test

import (
	"errors"
	"testing"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/storage/storagetest"
)

func TestStore(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return mem.New(mem.Options{}) })
}

func TestFaults(t *testing.T) {
	storagetest.RunFaults(t, func(_ *testing.T, f *storagetest.Faults, mark int) storage.Store {
		return mem.New(mem.Options{Mark: mark, BeforeCommit: f.BeforeCommit})
	})
}

func TestBackupIsUnsupported(t *testing.T) {
	s := mem.New(mem.Options{})
	defer s.Close()
	if _, err := s.Backup(nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Backup: %v", err)
	}
}
