package bolt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// An archiver writes messages between users, each of whom talks to ten others.
type archiver struct {
	users  []jid.JID
	stanza string
	id     uint64
	random *rand.Rand
}

func newArchiver() *archiver {
	a := &archiver{random: rand.New(rand.NewPCG(1, 1)), stanza: strings.Repeat("m", 250)}
	for i := range 200 {
		a.users = append(a.users, jid.MustParse(fmt.Sprintf("user%d@capulet.example/phone", i)))
	}
	return a
}

func (a *archiver) message() storage.Message {
	from := a.random.IntN(len(a.users))
	to := (from + 1 + a.random.IntN(5)) % len(a.users)
	a.id += 2
	return storage.Message{At: time.Unix(1.7e9, int64(a.id)*1e8), Stanza: a.stanza, Archived: []storage.Archived{
		{Owner: a.users[from], ID: a.id, With: a.users[to]},
		{Owner: a.users[to], ID: a.id + 1, With: a.users[from].Bare()},
	}}
}

// group submits operations so that one commit has them all, and waits for it.
func group(b testing.TB, s *Store, n int, write func() func(storage.Tx) error) {
	busy := make(chan struct{})
	s.Submit(func(storage.Tx) error { <-busy; return nil })
	var last *storage.Ticket
	for range n {
		last = s.Submit(write())
	}
	close(busy)
	if err := last.Wait(context.Background()); err != nil {
		b.Fatal(err)
	}
}

func cpuTime(b testing.TB) time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// committerTime is what the committer has used, which stays on one thread for that.
func committerTime(b testing.TB, s *Store) (used time.Duration) {
	err := s.Submit(func(storage.Tx) error {
		runtime.LockOSThread()
		var use unix.Rusage
		err := unix.Getrusage(unix.RUSAGE_THREAD, &use)
		used = time.Duration(use.Utime.Nano() + use.Stime.Nano())
		return err
	}).Wait(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	return used
}

// BenchmarkArchiveUnmoved reads pages while messages wait to be moved.
func BenchmarkArchiveUnmoved(b *testing.B) {
	s := openTest(b, Options{})
	a := newArchiver()
	group(b, s, 1000, func() func(storage.Tx) error {
		return func(tx storage.Tx) error {
			return errors.Join(tx.Messages().Add(a.message()), tx.Messages().Add(a.message()), tx.Messages().Add(a.message()), tx.Messages().Add(a.message()))
		}
	})
	for b.Loop() {
		err := s.View(func(tx storage.Tx) error {
			_, err := tx.Archive().Page(a.users[0], storage.ArchiveQuery{Max: 1})
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkArchiveAdd stores messages of 250 bytes between users of this server, a hundred in each commit,
// and enters them in the lists of their archives.
func BenchmarkArchiveAdd(b *testing.B) {
	for _, peers := range []bool{false, true} {
		b.Run(fmt.Sprintf("waiting=%v", peers), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "tombolo.db")
			s, err := Open(path, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			a := newArchiver()
			for i := range a.users {
				s.Submit(func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: uint64(i + 1)}) })
			}
			group(b, s, 1, func() func(storage.Tx) error { return func(storage.Tx) error { return nil } })
			b.ReportAllocs()
			b.ResetTimer()
			before, committer := cpuTime(b), committerTime(b, s)
			for n := 0; n < b.N; n += 100 {
				group(b, s, min(100, b.N-n), func() func(storage.Tx) error {
					m := a.message()
					if !peers {
						return func(tx storage.Tx) error { return tx.Messages().Add(m) }
					}
					from, to := 1+m.Archived[0].ID%200, 1+m.Archived[0].ID/7%200
					m.Waiting = []storage.Waiting{{Peer: to, Number: a.id}}
					m.Counted = storage.Counted{Peer: from, Count: uint32(a.id)}
					earlier := a.id - min(a.id, 1000)
					return func(tx storage.Tx) error {
						if err := tx.Peers().Acknowledged(to, earlier); err != nil {
							return err
						}
						return tx.Messages().Add(m)
					}
				})
			}
			err = s.Submit(func(tx storage.Tx) error { _, err := tx.(*txn).move(1 << 30); return err }).Wait(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			cpu, committer := cpuTime(b)-before, committerTime(b, s)-committer
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(cpu.Nanoseconds())/1e3/float64(b.N), "process-us/msg")
			b.ReportMetric(float64(committer.Nanoseconds())/1e3/float64(b.N), "committer-us/msg")
			b.ReportMetric(float64(info.Size())/float64(b.N), "bytes/msg")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkArchiveMillion opens a store of 1,000,000 archived messages, all of them of one account, and reads
// pages of 50.
func BenchmarkArchiveMillion(b *testing.B) {
	const million = 1_000_000
	path := filepath.Join(b.TempDir(), "tombolo.db")
	s, err := Open(path, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { s.Close() }()
	a := newArchiver()
	for range million / 1000 {
		group(b, s, 1000, func() func(storage.Tx) error {
			m := a.message()
			m.Archived[0].Owner = a.users[0]
			if m.Archived[1].Owner == a.users[0] {
				m.Archived = m.Archived[:1]
			}
			return func(tx storage.Tx) error { return tx.Messages().Add(m) }
		})
	}
	killed := filepath.Join(b.TempDir(), "killed.db") // a store that nobody closed
	f, err := os.Create(killed)
	if err == nil {
		_, err = s.Backup(f)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	for _, open := range []struct{ name, path string }{{"killed", killed}, {"closed", path}} {
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if s, err = Open(open.path, Options{}); err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		b.Run("open/"+open.name, func(b *testing.B) { b.ReportMetric(float64(took.Microseconds())/1000, "ms/open") })
	}
	middle := time.Unix(1.7e9, int64(a.id/2)*1e8)
	for _, q := range []struct {
		name  string
		query storage.ArchiveQuery
	}{
		{"first", storage.ArchiveQuery{Max: 50}},
		{"last", storage.ArchiveQuery{Max: 50, Backwards: true}},
		{"middle", storage.ArchiveQuery{Max: 50, After: a.id / 2 &^ 1}},
		{"since", storage.ArchiveQuery{Max: 50, Start: middle}},
		{"contact/first", storage.ArchiveQuery{Max: 50, With: a.users[7].Bare()}},
		{"contact/last", storage.ArchiveQuery{Max: 50, With: a.users[7].Bare(), Backwards: true}},
		{"contact/since", storage.ArchiveQuery{Max: 50, With: a.users[7].Bare(), Start: middle}},
	} {
		b.Run(q.name, func(b *testing.B) {
			for b.Loop() {
				err := s.View(func(tx storage.Tx) error {
					page, err := tx.Archive().Page(a.users[0], q.query)
					if len(page.Messages) != 50 || page.Count <= 50 {
						b.Fatalf("%d messages of %d", len(page.Messages), page.Count)
					}
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/page")
		})
	}
}
