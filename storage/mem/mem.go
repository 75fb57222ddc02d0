// Package mem is a storage.Store in memory: the fake that tests of the server's other packages
// use. It passes the same suite as storage/bolt and shares its committer, so order, tickets and
// errors are those of the real store; only nothing outlives the process. Start with New.
package mem

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"tombolo/storage"
	"tombolo/storage/internal/commit"
)

// Options adjust a store. The zero Options are right for most tests.
type Options struct {
	// Mark is how many operations may be unfinished before Admit blocks; 0: the default of
	// every backend.
	Mark int
	// BeforeCommit, when set, runs before each transaction. One that blocks is a stalled disk;
	// one that returns an error is a commit that failed with it. See storagetest.Faults.
	BeforeCommit func() error
}

// A Store is a storage.Store in memory.
type Store struct {
	*commit.Queue
	beforeCommit func() error

	mu     sync.RWMutex // a View reads, a transaction writes
	state  *state
	closed bool
}

var _ storage.Store = (*Store)(nil)

// New returns an empty store. Close it: it has a goroutine.
func New(o Options) *Store {
	s := &Store{beforeCommit: o.BeforeCommit, state: newState()}
	s.Queue = commit.New(o.Mark, s.commit)
	return s
}

// commit runs a group of operations. No lock is held while beforeCommit stalls.
func (s *Store) commit(group []commit.Op) error {
	if s.beforeCommit != nil {
		if err := s.beforeCommit(); err != nil {
			return fmt.Errorf("storage: commit: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range group {
		tx := &txn{state: s.state, writable: true}
		if !group[i].Attempt(tx) {
			tx.rollback()
		}
	}
	return nil
}

// View is View of storage.Store.
func (s *Store) View(fn func(storage.Tx) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return storage.ErrClosed
	}
	if err := s.Err(); err != nil {
		return err
	}
	return fn(&txn{state: s.state})
}

// Backup is errors.ErrUnsupported: there is nothing to copy.
func (s *Store) Backup(io.Writer) (int64, error) {
	return 0, fmt.Errorf("storage: backup: %w", errors.ErrUnsupported)
}

// Close is Close of storage.Store.
func (s *Store) Close() error {
	s.Queue.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
