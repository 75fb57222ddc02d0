package bolt

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// BenchmarkCommit is a durable write of one small row, each waited for by its writer.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := openTest(b, Options{})
			work := make(chan int, writers)
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for w := range writers {
				owner := jid.MustParse(fmt.Sprintf("user%d@capulet.example", w))
				wg.Go(func() {
					for range work {
						err := s.Submit(func(tx storage.Tx) error {
							return tx.LastPresence().Put(owner, "<presence type='unavailable'/>", time.Time{})
						}).Wait(context.Background())
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := range b.N {
				work <- i
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}

// BenchmarkOfflineAppend stores messages of 300 bytes for a thousand accounts, as a busy server
// does: many are on their way at once.
func BenchmarkOfflineAppend(b *testing.B) {
	s := openTest(b, Options{})
	owners := make([]jid.JID, 1000)
	for i := range owners {
		owners[i] = jid.MustParse(fmt.Sprintf("user%d@capulet.example", i))
	}
	m := storage.Message{At: time.Now(), Stanza: strings.Repeat("m", 300)}
	b.ReportAllocs()
	b.ResetTimer()
	var last *storage.Ticket
	for i := range b.N {
		if err := s.Admit(b.Context()); err != nil {
			b.Fatal(err)
		}
		m := m
		m.Offline = owners[i*7919%len(owners)]
		last = s.Submit(func(tx storage.Tx) error { return tx.Messages().Add(m) })
	}
	if err := last.Wait(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}

// BenchmarkRosterGet reads a roster of 100 contacts.
func BenchmarkRosterGet(b *testing.B) {
	s := openTest(b, Options{})
	owner := jid.MustParse("juliet@capulet.example")
	err := s.Submit(func(tx storage.Tx) error {
		for i := range 100 {
			err := tx.Rosters().Put(owner, storage.RosterItem{
				Contact: jid.MustParse(fmt.Sprintf("contact%d@montague.example", i)),
				Name:    "A Contact", Groups: []string{"Friends"}, Listed: true, To: true, From: true,
			}, uint64(i+1))
			if err != nil {
				return err
			}
		}
		return nil
	}).Wait(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		err := s.View(func(tx storage.Tx) error {
			roster, err := tx.Rosters().Get(owner)
			if len(roster.Items) != 100 {
				b.Fatalf("%d items", len(roster.Items))
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
