package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/storage"
	"tombolo/storage/bolt"
	"tombolo/xmpp/admin"
	"tombolo/xmpp/audit"
	"tombolo/xmpp/module"
)

func (a *app) backupCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Copy the database, of a running server too",
		Long: `Copy the database into FILE while the server goes on. The copy is consistent; it is opened and checked
from end to end before it gets its name. It holds the accounts' login keys: keep it as you keep the server.
The configuration and the certificates are not in it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, c, err := a.connect(cmd, "server.backup")
			if err != nil {
				return err
			}
			n, err := backup(cmd.Context(), file, c, args[0], force)
			if err := errors.Join(err, c.Close()); err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes, checked\n", args[0], n)
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE if it exists; never a file of the server's own")
	return cmd
}

func backup(ctx context.Context, file *settings.File, c caller, target string, force bool) (size int64, err error) {
	if err := mayBecome(target, file, force); err != nil {
		return 0, err
	}
	return writeVerified(target, func(w io.Writer) error { return c.Call(ctx, "server.backup", nil, w) })
}

// mayBecome says why a copy of what the server keeps must not get a name.
func mayBecome(target string, file *settings.File, force bool) error {
	if own := ownFile(file, target); own != "" {
		return fmt.Errorf("%s has a name that belongs to the server's own file %s; choose another name", target, own)
	}
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) && !force {
		return fmt.Errorf("%s exists; choose another name, or --force to replace it", target)
	}
	return nil
}

// ownFile is the file of the server's that a name stands for, "" if it is none; with a suffix it stands
// for what is kept beside that file, such as older parts of the audit log. A server goes on writing into
// the database that it has open, so a copy that took the name would lose all that it is told after.
func ownFile(file *settings.File, name string) string {
	log := file.AuditLog()
	own := []string{file.Path, file.Database(), file.TokenKey(), file.AdminSocket(), log.File, log.Key}
	for _, d := range file.Domain {
		own = append(own, d.Certificate, d.Key)
	}
	for _, path := range own {
		suffixed := strings.HasPrefix(filepath.Base(name), filepath.Base(path)+".")
		if sameFile(name, path) || suffixed && sameFile(filepath.Dir(name), filepath.Dir(path)) {
			return path
		}
	}
	return ""
}

func sameFile(a, b string) bool {
	one, errOne := os.Stat(a)
	other, errOther := os.Stat(b)
	return errOne == nil && errOther == nil && os.SameFile(one, other)
}

func (a *app) restoreCommand() *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "Put a backup in the place of the database",
		Long: `Put a backup in the place of the database. No server may be running. The backup is checked first; the
database that was there is kept beside the new one under a name with the time, which replaces no other.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, c, err := a.dial(cmd)
			if err == nil {
				return errors.Join(errors.New("restore: a server is running; stop it first"), c.Close())
			}
			if !errors.Is(err, admin.ErrNoServer) {
				return err
			}
			var kept string
			err = recordRestore(cmd.Context(), file.AuditLog(), func() (err error) {
				kept, err = restore(args[0], file.Database(), time.Now())
				return err
			})
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s is now the database %s\n", args[0], file.Database())
			if kept != "" {
				fmt.Fprintf(out, "the one before is %s; remove it when you do not need it any more\n", kept)
			}
			return nil
		},
	}
}

// recordRestore does what no verb does, and no server, and records it as if one did.
func recordRestore(ctx context.Context, o audit.Options, do func() error) error {
	log, err := audit.Open(o)
	if err != nil {
		return err
	}
	restore := admin.Audited(map[string]module.Verb{
		"server.restore": func(context.Context, []byte) (any, error) { return nil, do() },
	}, log)["server.restore"]
	_, err = restore(ctx, nil)
	return errors.Join(err, log.Close())
}

// restore replaces the database at path and returns where the old one is, "" if there was none. At each
// moment there is a database at path, or a server that is started after a crash would make an empty one.
func restore(backup, path string, now time.Time) (kept string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	_, err = os.Stat(path)
	replaces := err == nil
	if replaces {
		// While it is open here no server can start with it. One that is damaged cannot be
		// opened, which may be why it is replaced.
		old, err := bolt.Open(path, bolt.Options{})
		switch {
		case err == nil:
			defer old.Close()
		case errors.Is(err, storage.ErrLocked):
			return "", err
		}
	}
	source, err := os.Open(backup)
	if err != nil {
		return "", err
	}
	defer source.Close()
	fresh := path + ".restored"
	if _, err := writeVerified(fresh, func(w io.Writer) error { _, err := io.Copy(w, source); return err }); err != nil {
		return "", err
	}
	if replaces {
		if kept, err = setAside(path, now); err != nil {
			return "", err
		}
	}
	if err := os.Rename(fresh, path); err != nil {
		return "", err
	}
	return kept, syncDir(filepath.Dir(path))
}

// setAside gives a database a second name that no file has yet, durably.
func setAside(path string, now time.Time) (kept string, err error) {
	name := path + ".before-restore-" + now.UTC().Format("20060102T150405Z")
	kept = name
	for n := 2; ; n++ {
		switch err := os.Link(path, kept); {
		case err == nil:
			return kept, syncDir(filepath.Dir(path))
		case !errors.Is(err, fs.ErrExist):
			return "", fmt.Errorf("keep the database that is there (or move it away first): %w", err)
		}
		kept = fmt.Sprintf("%s.%d", name, n)
	}
}

// writeVerified writes a copy of a store, syncs it, checks it, and only then gives it its name.
func writeVerified(target string, fill func(io.Writer) error) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(target), filepath.Base(target)+".*") // mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		_ = f.Close() // a second time where all went well
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := fill(f); err != nil {
		return 0, err
	}
	if size, err = f.Seek(0, io.SeekEnd); err != nil {
		return 0, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	if err := bolt.Verify(f.Name()); err != nil {
		return 0, err
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return 0, err
	}
	return size, syncDir(filepath.Dir(target))
}

// syncDir makes a new name durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}
