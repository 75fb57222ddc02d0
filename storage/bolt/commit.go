package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"tombolo/storage"
	"tombolo/storage/internal/commit"
)

// fullPause is how long writes are refused unseen after one found no space. bbolt scans the whole
// file to recover from such a commit, and a full disk seldom empties within the second.
const fullPause = time.Second

// commit runs a group of operations in one bbolt transaction: what commit.New asks for.
//
// What may go on after a failure rests on where bbolt was. A page that could not be written was
// not yet part of the store: bbolt forgets the transaction, and the next one may try. After a
// failed sync nobody knows what the disk holds, and a second sync may report success for pages
// that the first one lost, so nothing is tried again.
func (s *Store) commit(group []commit.Op) (err error) {
	if time.Now().Before(s.retryAt) {
		return fmt.Errorf("storage: commit: %w", storage.ErrNoSpace)
	}
	btx, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("storage: begin: %w", translate(err))
	}
	defer func() {
		if r := recover(); r != nil { // bbolt panics where the file is damaged
			err = fmt.Errorf("storage: commit panicked: %v", r)
		}
		_ = btx.Rollback() // fails after Commit, which has ended the transaction
		if err != nil {
			clear(s.archives)
		}
	}()
	tx := &txn{tx: btx, writable: true, sizes: s.mover.sizes, archives: s.archives, tail: &s.tail}
	if err := tx.begin(); err != nil {
		return fmt.Errorf("storage: begin: %w", err)
	}
	wrote := false
	for i := range group {
		tx.undo = tx.undo[:0]
		if group[i].Attempt(tx) {
			wrote = wrote || len(tx.undo) > 0
		} else if err := tx.rollback(); err != nil {
			return fmt.Errorf("storage: undo: %w", err)
		}
	}
	if !wrote {
		return nil // nothing to make durable
	}
	if s.beforeCommit != nil {
		if err := s.beforeCommit(); err != nil {
			return fmt.Errorf("storage: commit: %w", err)
		}
	}

	id := uint64(btx.ID())
	done := new(storage.Ticket)
	s.inFlight.Store(done)
	err = btx.Commit()
	switch {
	case err == nil:
		s.durable.Store(id)
	case noSpace(err):
		s.retryAt = time.Now().Add(fullPause)
		err = fmt.Errorf("storage: commit: %w (%w)", storage.ErrNoSpace, err)
	default:
		err = fmt.Errorf("storage: commit: %w", err)
	}
	done.Finish(err)
	if err == nil {
		s.mover.committed(tx.added, tx.retired)
	}
	return err
}

// noSpace reports that bbolt's Commit found no room to write a page or to enlarge the file. The
// same number from a sync, where bbolt returns it bare, means pages lost after they were
// accepted: that is a failure.
func noSpace(err error) bool {
	var write *fs.PathError
	pages := errors.As(err, &write) && write.Op == "write"
	// bbolt keeps only the text of this one.
	resize := strings.HasPrefix(err.Error(), "file resize error: ")
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if pages && errors.Is(write, errno) || resize && strings.HasSuffix(err.Error(), errno.Error()) {
			return true
		}
	}
	return false
}
