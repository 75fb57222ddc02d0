// Package bolt is the default storage.Store: one bbolt file, one committer.
//
// The program opens it (Open), hands it to the server as a storage.Store, and uses Verify on
// copies that Backup wrote. Start with Store here, then commit.go for how writes become durable,
// txn.go for how a failed operation leaves nothing behind, rows.go for keys and values, and
// format.go for versions of the file. No type of bbolt leaves this package.
package bolt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"tombolo/storage"
	"tombolo/storage/internal/commit"
	"tombolo/xmpp/jid"
)

// lockTimeout is how long Open waits for another process to let go of the file.
const lockTimeout = time.Second

// Options adjust a store. The zero Options are right for a server.
type Options struct {
	// Mark is how many operations may be unfinished before Admit blocks; 0: the default of
	// every backend.
	Mark int
	// BeforeCommit, when set, runs after the operations of a transaction and before its commit.
	// One that blocks is a stalled disk; one that returns an error is a commit that failed with
	// it. For tests: see storagetest.Faults.
	BeforeCommit func() error

	sizes sizes // zero: usualSizes
}

// A Store is a storage.Store in a bbolt file.
type Store struct {
	*commit.Queue
	db           *bbolt.DB
	beforeCommit func() error

	// durable is the number of the last bbolt transaction that is on disk, and inFlight stands
	// for the commit at work. bbolt shows a transaction to readers as soon as its meta page is
	// written, before that page is synced; read keeps those readers waiting.
	durable  atomic.Uint64
	inFlight atomic.Pointer[storage.Ticket]

	mover mover
	tail  tail

	// archives remembers the numbers of owners' archives. The committer's goroutine owns it.
	archives map[jid.JID]uint64

	retryAt time.Time // no commit is tried before; the committer's goroutine owns it
}

var _ storage.Store = (*Store)(nil)

// Open opens the store in the file at path and makes the file where there is none, readable by
// its owner only. It fails with storage.ErrLocked while another process has it open for more
// than a second, and with ErrNewer for a file of a later version of this program. A file of an
// earlier version is migrated, after a copy of it was left beside it (path.vN).
func Open(path string, o Options) (*Store, error) {
	return open(path, o, current)
}

func open(path string, o Options, f format) (_ *Store, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open store %s: %w", path, err)
		}
	}()
	size, err := f.admit(path)
	if err != nil {
		return nil, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         lockTimeout,
		NoFreelistSync:  true, // but see keepFreelist
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mapSize(size),
		NoStatistics:    true,
	})
	if err != nil {
		return nil, translate(err)
	}
	defer func() {
		if err != nil {
			_ = db.Close()
		}
	}()
	if size == 0 {
		// The name of a new file is durable only when its directory is.
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
	}
	if err := f.bring(db, path); err != nil {
		return nil, err
	}
	s := &Store{db: db, beforeCommit: o.BeforeCommit, archives: make(map[jid.JID]uint64)}
	if s.mover.sizes = o.sizes; o.sizes == (sizes{}) {
		s.mover.sizes = usualSizes
	}
	var added int
	var retired bool
	err = db.View(func(tx *bbolt.Tx) error {
		s.durable.Store(uint64(tx.ID()))
		added, retired, err = (&txn{tx: tx}).unfinished()
		return err
	})
	if err != nil {
		return nil, translate(err)
	}
	s.Queue = commit.New(o.Mark, s.commit)
	s.mover.start(s.Submit)
	s.mover.committed(added, retired)
	return s, nil
}

// mapSize is how much address space bbolt reserves for a file. A file that outgrows it is mapped
// anew, which waits for all readers, a backup among them, and holds up new ones: so there is
// always room to double. Address space costs nothing, except where it is scarce (32 bits) or
// where the file would grow with it (Windows).
func mapSize(size int64) int {
	want := max(4<<30, 2*size)
	if int64(int(want)) != want || runtime.GOOS == "windows" {
		return 0
	}
	return int(want)
}

// View is View of storage.Store.
func (s *Store) View(fn func(storage.Tx) error) error {
	return s.read(func(tx *bbolt.Tx) error {
		t := &txn{tx: tx, tail: &s.tail}
		if err := t.begin(); err != nil {
			return err
		}
		return fn(t)
	})
}

// Backup is Backup of storage.Store. The copy is an ordinary store; Verify judges it.
func (s *Store) Backup(w io.Writer) (n int64, err error) {
	err = s.read(func(tx *bbolt.Tx) error {
		n, err = tx.WriteTo(w)
		return err
	})
	if err != nil {
		return n, fmt.Errorf("back up store: %w", err)
	}
	return n, nil
}

// read runs fn on a snapshot that is durable.
func (s *Store) read(fn func(*bbolt.Tx) error) error {
	if err := s.Err(); err != nil {
		return err
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		return translate(err)
	}
	defer func() { _ = tx.Rollback() }() // fails only where there is nothing to roll back
	if id := uint64(tx.ID()); id > s.durable.Load() {
		commit := s.inFlight.Load()
		if id > s.durable.Load() {
			<-commit.Done()
			if err := commit.Err(); err != nil {
				return err
			}
		}
	}
	return fn(tx)
}

// Close is Close of storage.Store.
func (s *Store) Close() error {
	if !s.Queue.Close() {
		return nil
	}
	s.mover.quiet.Stop()
	if s.Err() == nil {
		s.keepFreelist()
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// keepFreelist commits once more, with the list of free pages, so that the next Open need not look at every
// page of the file to find them. With each commit it would cost more than the commit. Nothing depends on it.
func (s *Store) keepFreelist() {
	s.db.NoFreelistSync = false
	tx, err := s.db.Begin(true)
	if err == nil {
		defer func() { _ = tx.Rollback() }() // fails after Commit
		_ = tx.Commit()
	}
}

// translate turns bbolt's errors into the contract's where there is one for it.
func translate(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return storage.ErrLocked
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return storage.ErrClosed
	}
	return err
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it has no such call
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
