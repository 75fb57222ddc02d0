package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// Some tests need a process of their own: to kill it, to trace it or to limit it. They run this
// test binary again with jobVar naming one of the jobs, on the store at pathVar.
const (
	jobVar  = "TOMBOLO_BOLT_JOB"
	pathVar = "TOMBOLO_BOLT_PATH"
)

var jobs = map[string]func(path string) error{
	"append":    appendUntilKilled,
	"archive":   archiveUntilKilled,
	"report":    appendAndReport,
	"sync":      appendWithFailingSync,
	"slow":      readDuringSlowSync,
	"no-resize": func(path string) error { return fillUp(path, func(size, _ int64) int64 { return size }) },
	"no-pages":  func(path string) error { return fillUp(path, func(_, used int64) int64 { return used + 1<<16 }) },
}

func TestMain(m *testing.M) {
	if job, ok := jobs[os.Getenv(jobVar)]; ok {
		if err := job(os.Getenv(pathVar)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is a command that runs a job, with args before it. It ends with ctx.
func child(ctx context.Context, job, path string, args ...string) *exec.Cmd {
	args = append(args, os.Args[0])
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), jobVar+"="+job, pathVar+"="+path)
	return cmd
}

// within is a context for a test that ends with a minute at the latest.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

const crashWriters = 8

func crashOwner(writer int) jid.JID {
	return jid.MustParse(fmt.Sprintf("writer%d@capulet.example", writer))
}

func crashStanza(pid, writer, i int) string {
	return fmt.Sprintf("<message id='%d-%d-%d'>%s</message>", pid, writer, i, strings.Repeat("x", i%700))
}

// appendUntilKilled stores offline messages from several goroutines and reports each one when it
// is durable, in a line "writer pid i 0".
func appendUntilKilled(path string) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	pid := os.Getpid()
	errs := make(chan error)
	for w := range crashWriters {
		go func() {
			for i := 0; ; i++ {
				m := storage.Message{At: time.Now(), Stanza: crashStanza(pid, w, i), Offline: crashOwner(w)}
				err := s.Submit(func(tx storage.Tx) error { return tx.Messages().Add(m) }).Wait(context.Background())
				if err == nil {
					_, err = fmt.Fprintln(os.Stdout, w, pid, i, 0) // one write(2)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// crashSizes make a store move messages and clean up all the time.
var crashSizes = sizes{move: 20, quiet: 1, chunk: 8, slack: 2, clean: 5}

// What archiveUntilKilled does to archives that nobody looks at afterwards: one is purged all the time, and
// one is of an account that is deleted again and again.
var (
	crashPurged  = jid.MustParse("purged@capulet.example")
	crashDeleted = jid.MustParse("deleted@capulet.example")
)

// crashMessage is a writer's message, in the archives of the writer and of the next one.
func crashMessage(pid, w, i int, id uint64) storage.Message {
	next := crashOwner((w + 1) % crashWriters)
	return storage.Message{
		At: time.Unix(int64(id), 0), Stanza: crashStanza(pid, w, i),
		Archived: []storage.Archived{
			{Owner: crashOwner(w), ID: id, With: next}, {Owner: next, ID: id + 1, With: crashOwner(w)},
			{Owner: crashPurged, ID: id + 2, With: next}, {Owner: crashDeleted, ID: id + 3, With: next},
		},
		Waiting: []storage.Waiting{{Peer: uint64(w + 1), Number: id}},
		Counted: storage.Counted{Peer: uint64(w + 1), Count: uint32(id)},
	}
}

// archiveUntilKilled is appendUntilKilled for messages in archives, in lines "writer pid i id". Ids come a
// little out of order.
func archiveUntilKilled(path string) error {
	s, err := Open(path, Options{sizes: crashSizes})
	if err != nil {
		return err
	}
	var last atomic.Uint64
	err = s.View(func(tx storage.Tx) error {
		id, err := tx.Archive().LastID()
		last.Store(id)
		return err
	})
	if err != nil {
		return err
	}
	pid := os.Getpid()
	errs := make(chan error)
	for w := range crashWriters {
		peer := uint64(w + 1)
		s.Submit(func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: peer}) })
		go func() {
			for i := 0; ; i++ {
				id := last.Add(4) - 3
				m := crashMessage(pid, w, i, id)
				ticket := s.Submit(func(tx storage.Tx) error { return tx.Messages().Add(m) })
				switch i % 8 {
				case 0:
					s.Submit(func(tx storage.Tx) error { return tx.Peers().Acknowledged(peer, id-1) })
				case w:
					s.Submit(func(tx storage.Tx) error { return tx.Accounts().Create(storage.Account{JID: crashDeleted}) })
					s.Submit(func(tx storage.Tx) error { return tx.Accounts().Delete(crashDeleted) })
				case 5:
					s.Submit(func(tx storage.Tx) error { _, err := tx.Archive().Purge(crashPurged, m.At, 20); return err })
				}
				err := ticket.Wait(context.Background())
				if err == nil {
					_, err = fmt.Fprintln(os.Stdout, w, pid, i, id) // one write(2)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// appendAndReport stores three messages, one after the other, and reports each.
func appendAndReport(path string) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	for i := range 3 {
		err := appendOne(s, fmt.Sprintf("<message id='row-%d'/>", i))
		if err != nil {
			return err
		}
		fmt.Printf("report-%d\n", i)
	}
	return s.Close()
}

// appendWithFailingSync runs under strace, which makes a sync of the second commit fail, and that
// one only.
func appendWithFailingSync(path string) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	// strace counts the syncs of each thread for itself, so the committer stays on one.
	s.Submit(func(storage.Tx) error { runtime.LockOSThread(); return nil })
	if err := appendOne(s, "<message id='kept'/>"); err != nil {
		return fmt.Errorf("first commit: %w", err)
	}
	for i := range 3 {
		if err := appendOne(s, "<message id='lost'/>"); err == nil || errors.Is(err, storage.ErrNoSpace) {
			return fmt.Errorf("commit %d after the failed sync: %v", i, err)
		}
		if err := s.View(func(storage.Tx) error { return nil }); err == nil {
			return fmt.Errorf("View after the failed sync")
		}
	}
	select {
	case <-s.Failed():
	default:
		return errors.New("Failed is not closed")
	}
	if s.Err() == nil {
		return errors.New("Err is nil")
	}
	return s.Close()
}

// slowSync is by how much strace delays the sync of the second commit's meta page.
const slowSync = 500 * time.Millisecond

// readDuringSlowSync runs under strace, which delays that sync. It reads until it sees what the
// second commit wrote, which must not be before the sync.
func readDuringSlowSync(path string) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	s.Submit(func(storage.Tx) error { runtime.LockOSThread(); return nil })
	if err := appendOne(s, "<message id='first'/>"); err != nil {
		return err
	}
	start := time.Now()
	second := s.Submit(func(tx storage.Tx) error {
		return tx.Messages().Add(storage.Message{Stanza: "<message id='second'/>", Offline: crowded})
	})
	for count := 0; count < 2; {
		err := s.View(func(tx storage.Tx) (err error) { count, err = tx.Offline().Count(crowded); return err })
		if err != nil {
			return err
		}
	}
	if took := time.Since(start); took < slowSync {
		return fmt.Errorf("a View saw the write after %v, while its sync took %v", took, slowSync)
	}
	if err := second.Wait(context.Background()); err != nil {
		return err
	}
	return s.Close()
}

// fillUp limits how long files may grow, writes until the store says that it is full, reads,
// lifts the limit and writes again. limit gets the file's size and how much of it is used.
func fillUp(path string, limit func(size, used int64) int64) error {
	signal.Ignore(syscall.SIGXFSZ)
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	small := "<message id='small'/>"
	if err := appendOne(s, small); err != nil {
		return err
	}
	used, err := s.Backup(io.Discard)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	tight := unix.Rlimit{Cur: uint64(limit(info.Size(), used)), Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &tight); err != nil {
		return err
	}
	if err := exhaust(s); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := recovered(s); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	return Verify(path)
}

var crowded = jid.MustParse("crowded@capulet.example")

func appendOne(s *Store, stanza string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return s.Submit(func(tx storage.Tx) error {
		return tx.Messages().Add(storage.Message{Stanza: stanza, Offline: crowded})
	}).Wait(ctx)
}

// exhaust writes until there is no space, and then looks at what the store can still do.
func exhaust(s *Store) error {
	large := "<message>" + strings.Repeat("large ", 1<<16) + "</message>"
	kept := 1
	var err error
	for kept < 500 && err == nil {
		if err = appendOne(s, large); err == nil {
			kept++
		}
	}
	if !errors.Is(err, storage.ErrNoSpace) {
		return fmt.Errorf("after %d messages: %v, want ErrNoSpace", kept, err)
	}
	if err := appendOne(s, large); !errors.Is(err, storage.ErrNoSpace) {
		return fmt.Errorf("once more: %v, want ErrNoSpace", err)
	}
	if s.Err() != nil {
		return fmt.Errorf("the store has failed: %w", s.Err())
	}
	return holds(s, kept)
}

// recovered waits until the store can write again.
func recovered(s *Store) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := appendOne(s, "<message id='after'/>")
		if err == nil {
			return nil
		}
		if !errors.Is(err, storage.ErrNoSpace) || time.Now().After(deadline) {
			return fmt.Errorf("after space returned: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// holds checks how many messages are waiting, by their count and by reading them.
func holds(s *Store, want int) error {
	return s.View(func(tx storage.Tx) error {
		list, err := tx.Offline().List(crowded, 0, 0)
		if err != nil {
			return err
		}
		count, err := tx.Offline().Count(crowded)
		if err != nil {
			return err
		}
		if len(list) != want || count != want {
			return fmt.Errorf("%d messages, counted %d, want %d", len(list), count, want)
		}
		return nil
	})
}
