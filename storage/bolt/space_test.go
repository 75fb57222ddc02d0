package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"tombolo/storage"
)

// TestNoSpace lets the operating system refuse to enlarge the file, and to write its pages: the
// writes fail with ErrNoSpace, reads go on, nothing is lost, and when space returns so do writes.
func TestNoSpace(t *testing.T) {
	for _, job := range []string{"no-resize", "no-pages"} {
		t.Run(job, func(t *testing.T) {
			t.Parallel() // it waits more than it works
			path := filepath.Join(t.TempDir(), "tombolo.db")
			if out, err := child(within(t), job, path).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// smallDisk mounts a file system of so many bytes, and skips where it may not.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tombolo", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// occupy fills the file system up but for about leave bytes, and returns how to free it again.
func occupy(t *testing.T, dir string, leave uint64) (free func()) {
	t.Helper()
	have, known := freeSpace(dir)
	if !known || have < leave {
		t.Fatalf("%d bytes free, known %v", have, known)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, have-leave), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
	}
}

// TestDiskFull is TestNoSpace with ENOSPC from a file system that really is full.
func TestDiskFull(t *testing.T) {
	t.Parallel() // it waits more than it works
	dir := smallDisk(t, 8<<20)
	path := filepath.Join(dir, "tombolo.db")
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := appendOne(s, "<message id='first'/>"); err != nil {
		t.Fatal(err)
	}
	free := occupy(t, dir, 2<<20)
	if err := exhaust(s); err != nil {
		t.Error(err)
	}
	free()
	if err := recovered(s); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Verify(path); err != nil {
		t.Error(err)
	}
}

// TestOpenOnFullDisk: there is no room for a new store, which Open says.
func TestOpenOnFullDisk(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	defer occupy(t, dir, 0)()
	s, err := Open(filepath.Join(dir, "tombolo.db"), Options{})
	if err == nil {
		s.Close()
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Open: %v", err)
	}
}

// TestMigrationNeedsSpace: without room for the copy nothing is migrated.
func TestMigrationNeedsSpace(t *testing.T) {
	dir := smallDisk(t, 4<<20)
	path := filepath.Join(dir, "tombolo.db")
	fillStore(t, path)
	free := occupy(t, dir, 16<<10)
	if s, err := open(path, Options{}, next); err == nil || !strings.Contains(err.Error(), "bytes are free") {
		t.Errorf("open: %v", err)
		if err == nil {
			s.Close()
		}
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	free()
	checkFilled(t, path, current)
}

// TestNoSpaceErrors: which errors of bbolt's Commit leave the store in use.
func TestNoSpaceErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want bool
	}{
		{"page not written", &fs.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}, true},
		{"page not written, quota", &fs.PathError{Op: "write", Path: "f", Err: syscall.EDQUOT}, true},
		{"page not written, limit", &fs.PathError{Op: "write", Path: "f", Err: syscall.EFBIG}, true},
		{"file not enlarged", fmt.Errorf("file resize error: %s", &fs.PathError{Op: "truncate", Path: "f", Err: syscall.ENOSPC}), true},
		{"page not written, device", &fs.PathError{Op: "write", Path: "f", Err: syscall.EIO}, false},
		{"file not enlarged, device", fmt.Errorf("file resize error: %s", syscall.EIO), false},
		{"sync of pages", syscall.ENOSPC, false},
		{"sync of the enlarged file", fmt.Errorf("file sync error: %s", &fs.PathError{Op: "sync", Path: "f", Err: syscall.ENOSPC}), false},
		{"map", fmt.Errorf("mmap allocate error: %s", syscall.ENOMEM), false},
		{"transaction", berrors.ErrTxClosed, false},
	} {
		if got := noSpace(tc.err); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// TestReadersWaitForTheSync: bbolt shows a transaction once its meta page is written; a View does
// not before that page is synced.
func TestReadersWaitForTheSync(t *testing.T) {
	s := openTest(t, Options{})
	if err := appendOne(s, "<message id='durable'/>"); err != nil {
		t.Fatal(err)
	}
	commit := new(storage.Ticket) // stands for a commit whose last sync is under way
	s.inFlight.Store(commit)
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(buckets[inSecrets].name)).Put([]byte("key"), encodeBlob("new"))
	})
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		value []byte
		err   error
	}
	got := make(chan seen, 1)
	go func() {
		var r seen
		r.err = s.View(func(tx storage.Tx) (err error) { r.value, err = tx.Secrets().Get("key"); return err })
		got <- r
	}()
	select {
	case r := <-got:
		t.Fatalf("the View did not wait: %+v", r)
	case <-time.After(50 * time.Millisecond): // long enough for many Views
	}
	s.durable.Add(1)
	commit.Finish(nil)
	if r := <-got; !bytes.Equal(r.value, []byte("new")) || r.err != nil {
		t.Errorf("the View saw %q, %v", r.value, r.err)
	}
}
