package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"go.etcd.io/bbolt"
)

// ErrNewer is what Open and Verify answer for a file that a later version of this program wrote.
var ErrNewer = errors.New("written by a newer version of this program, which alone can open it")

var errForeign = errors.New("not a store of this program, or damaged")

// A format is a version of the file and the way to it from every earlier one.
type format struct {
	// migrations[i] brings a file from version i+1 to i+2, in the transaction that writes the
	// new number. The version of the format is one more than there are migrations.
	migrations []func(*bbolt.Tx) error
}

// current is the format that this program writes. Change the file by adding a migration to it.
var current = format{migrations: []func(*bbolt.Tx) error{
	addClients,
	addArchives,
	inlineMessages,
}}

// addClients makes room for the clients of accounts. The rows of accounts, which have a generation
// since then, are rewritten when they change.
func addClients(tx *bbolt.Tx) error {
	_, err := tx.CreateBucketIfNotExists([]byte("clients"))
	return err
}

// addArchives makes room for messages in archives and for what peers have not acknowledged. Offline
// messages stay as they are: a new one refers to its message, and those from before are one.
func addArchives(tx *bbolt.Tx) error {
	for _, name := range []string{"settings", "messages", "held", "archives", "owners", "retired", "heads", "chunks", "peers", "counts", "spool", "marks"} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	return nil
}

// inlineMessages changes nothing that is there: a short message that no archive has and only one row of offline
// or spool needs is in that row since then, which earlier versions of the program do not read in the spool.
func inlineMessages(*bbolt.Tx) error { return nil }

func (f format) version() uint32 { return uint32(len(f.migrations)) + 1 }

var (
	metaBucket = []byte("meta")
	versionKey = []byte("version") // big-endian, 4 bytes
)

// fileVersion reads the version of a file, 0 for one that has nothing in it yet.
func fileVersion(tx *bbolt.Tx) (uint32, error) {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		if name, _ := tx.Cursor().First(); name == nil {
			return 0, nil
		}
		return 0, errForeign
	}
	version := meta.Get(versionKey)
	if len(version) != 4 {
		return 0, errForeign
	}
	return binary.BigEndian.Uint32(version), nil
}

func putFileVersion(tx *bbolt.Tx, version uint32) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	return meta.Put(versionKey, binary.BigEndian.AppendUint32(nil, version))
}

// admit looks at the file before it is opened for writing, which scans all of it: a file that is
// cut short or of a newer version is refused at once and untouched. It returns the file's size, 0
// when there is none.
func (f format) admit(path string) (size int64, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, err
	case info.Size() == 0:
		return 0, nil
	}
	return info.Size(), readOnly(path, f.check)
}

// check is the quick check of a file that has something in it.
func (f format) check(tx *bbolt.Tx) error {
	version, err := fileVersion(tx)
	switch {
	case err != nil:
		return err
	case version > f.version():
		return fmt.Errorf("format %d, known are those up to %d: %w", version, f.version(), ErrNewer)
	case version == f.version():
		for _, b := range buckets {
			if tx.Bucket([]byte(b.name)) == nil {
				return fmt.Errorf("bucket %q is missing: %w", b.name, errForeign)
			}
		}
	}
	return nil
}

// readOnly runs fn on a file that nobody has open for writing. Reading a damaged file panics or
// faults somewhere inside bbolt; here that is an error.
func readOnly(path string, fn func(*bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("file is damaged: %v", r)
		}
	}()
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return translate(err)
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("file is damaged: it has %d bytes of %d", info.Size(), tx.Size())
		}
		return fn(tx)
	})
}

// bring makes the buckets of a new file, or brings one of an earlier version to this one.
func (f format) bring(db *bbolt.DB, path string) error {
	var have uint32
	err := db.View(func(tx *bbolt.Tx) (err error) {
		have, err = fileVersion(tx)
		return err
	})
	if err != nil || have == f.version() {
		return err
	}
	if have > 0 {
		if err := snapshot(db, fmt.Sprintf("%s.v%d", path, have)); err != nil {
			return fmt.Errorf("copy before migration: %w", err)
		}
	}
	return db.Update(func(tx *bbolt.Tx) error {
		if have == 0 {
			for _, b := range buckets {
				if _, err := tx.CreateBucketIfNotExists([]byte(b.name)); err != nil {
					return err
				}
			}
			return putFileVersion(tx, f.version())
		}
		for version := have; version < f.version(); version++ {
			if err := f.migrations[version-1](tx); err != nil {
				return fmt.Errorf("migrate from format %d to %d: %w", version, version+1, err)
			}
		}
		return putFileVersion(tx, f.version())
	})
}

// snapshot writes a copy of the store to path, durably or not at all, provided that the file
// system has room for the copy and as much again for the migration that follows.
func snapshot(db *bbolt.DB, path string) error {
	return db.View(func(tx *bbolt.Tx) error {
		need := 2 * uint64(tx.Size())
		if free, known := freeSpace(filepath.Dir(path)); known && free < need {
			return fmt.Errorf("%d bytes are free where %d are needed", free, need)
		}
		unfinished := path + ".tmp"
		defer os.Remove(unfinished)
		if err := copyTo(tx, unfinished); err != nil {
			return err
		}
		if err := os.Rename(unfinished, path); err != nil {
			return err
		}
		return syncDir(filepath.Dir(path))
	})
}

func copyTo(tx *bbolt.Tx, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = tx.WriteTo(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Verify opens a copy that Backup wrote, read-only, and checks its version, every page and every
// row. It is not for a store in use: that one is storage.ErrLocked.
func Verify(path string) error {
	err := readOnly(path, func(tx *bbolt.Tx) error {
		version, err := fileVersion(tx)
		if err == nil && version == 0 {
			err = errForeign
		}
		if err == nil {
			err = current.check(tx)
		}
		if err != nil {
			return err
		}
		// Rows first: bbolt's own check meets some damage in a goroutine where nobody can
		// recover, while reading everything meets it here.
		if err := checkRows(tx, version == current.version()); err != nil {
			return err
		}
		if version == current.version() {
			if err := (&txn{tx: tx}).checkReferences(); err != nil {
				return err
			}
		}
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("verify store %s: %w", path, err)
	}
	return nil
}

// checkRows reads every row, and decodes it where the file is of the current version.
func checkRows(tx *bbolt.Tx, decode bool) error {
	return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		check := func(_, _ []byte) error { return nil }
		for _, known := range buckets {
			if decode && known.name == string(name) {
				check = known.check
			}
		}
		return b.ForEach(func(key, value []byte) error {
			if err := check(key, value); err != nil {
				return fmt.Errorf("bucket %q, row %q: %w", name, key, err)
			}
			return nil
		})
	})
}
