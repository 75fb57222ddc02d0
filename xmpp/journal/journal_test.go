package journal_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

var romeo, juliet = jid.MustParse("romeo@a.test"), jid.MustParse("juliet@a.test/balcony")

func open(t *testing.T, store storage.Store) *journal.Journal {
	t.Helper()
	j, err := journal.New(store, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func letter() stanza.Stanza {
	return stanza.New(stanza.Message, "chat", "1", romeo, juliet, element.Leaf("body", ns.Client, "x"))
}

// receipts are those of one stanza.
type receipts struct {
	held  atomic.Int32
	kept  atomic.Bool
	ended chan struct{}
}

func (r *receipts) Hold(uint32) { r.held.Add(1) }
func (r *receipts) Release(uint32) {
	if r.held.Add(-1) == 0 {
		close(r.ended)
	}
}
func (*receipts) Peer() uint64  { return 7 }
func (r *receipts) Kept(uint32) { r.kept.Store(true) }
func (r *receipts) wait(t *testing.T) {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the message is never acknowledged")
	}
}

// XEP-0359 section 6: ids are of one archive, and nobody makes them up.
func TestStanzaID(t *testing.T) {
	store := mem.New(mem.Options{})
	defer store.Close()
	j := open(t, store)
	seen := make(map[string]bool)
	short := uint64(4) // without its last byte it ends in a zero byte, or so a decoder might find
	for !strings.HasSuffix(j.StanzaID(juliet, short), "AA") {
		short++
	}
	for _, id := range []uint64{1, 2, 3, short, 1 << 40, 1<<64 - 1} {
		text := j.StanzaID(juliet, id)
		if got, ok := j.ID(juliet.Bare(), text); !ok || got != id {
			t.Errorf("%d is %q, and that is %d, %t", id, text, got, ok)
		}
		if again := open(t, store).StanzaID(juliet.Bare(), id); again != text {
			t.Errorf("%d is %q and, after a restart, %q", id, text, again)
		}
		if _, ok := j.ID(romeo, text); ok {
			t.Errorf("%q is an id in an archive of somebody else", text)
		}
		if seen[text] || seen[j.StanzaID(romeo, id)] {
			t.Errorf("%q twice", text)
		}
		seen[text] = true
		for _, forged := range []string{"", "1", text + "A", text[1:], "A" + text[1:], text[:len(text)-1] + "=", text + "==", text + "\n",
			text[:len(text)-2] + "\n\n", strings.Repeat("\n", len(text))} {
			if got, ok := j.ID(juliet, forged); ok && forged != text {
				t.Errorf("%q is taken for %d", forged, got)
			}
		}
	}
	if _, ok := j.ID(juliet, j.StanzaID(juliet, 0)); ok {
		t.Error("0 is no id")
	}
}

// Numbers go on where the archives have ended.
func TestIDsAfterARestart(t *testing.T) {
	store := mem.New(mem.Options{})
	defer store.Close()
	j := open(t, store)
	j.Start(func(_ stanza.Stanza, err error) { t.Error(err) })
	st, entry := j.Open(letter())
	id := entry.Archive(juliet, romeo)
	j.Close(st)
	if err := j.Barrier(); err != nil {
		t.Fatal(err)
	}
	_, entry = open(t, store).Open(letter())
	if next := entry.Archive(juliet, romeo); next <= id {
		t.Errorf("%d after %d", next, id)
	}
}

// A message of which nothing is to be kept costs no write; its sender is answered.
func TestNothingToKeep(t *testing.T) {
	store := mem.New(mem.Options{})
	defer store.Close()
	j := open(t, store)
	r := &receipts{ended: make(chan struct{})}
	r.Hold(1)
	st, entry := j.Open(letter().WithReceipt(r, 1))
	if again, same := j.Open(st); same != entry || journal.Of(again) != entry {
		t.Error("a second entry")
	}
	entry.Wait(0, 5, storage.Plain, 1)
	entry.Wait(5, 0, storage.Plain, 1)
	entry.Submit(st, func(func(storage.Tx) error) *storage.Ticket {
		t.Error("something was written")
		return store.Submit(nil)
	})
	j.Close(st)
	st.Release()
	r.wait(t)
	var none *journal.Entry
	none.Wait(1, 1, storage.Plain, 1)
	if none.Gate() != nil || journal.Of(letter()) != nil {
		t.Error("a message has an entry that nobody opened")
	}
}

// What could not be kept is told once, and then the sender need not send it again.
func TestNotKept(t *testing.T) {
	refusal := errors.New("no")
	for _, fails := range []error{nil, refusal, storage.ErrNoSpace} {
		store := mem.New(mem.Options{})
		j := open(t, store)
		told := 0
		r := &receipts{ended: make(chan struct{})}
		j.Start(func(st stanza.Stanza, err error) {
			if told++; !errors.Is(err, fails) || st.ID != "1" || r.held.Load() == 0 {
				t.Errorf("told %v of %s, held %d times", err, st.Element, r.held.Load())
			}
		})
		st, entry := j.Open(letter().WithReceipt(r, 1))
		entry.Archive(juliet, romeo)
		submit := func(write func(storage.Tx) error) *storage.Ticket {
			return store.Submit(func(tx storage.Tx) error {
				if fails != nil {
					return fails
				}
				return write(tx)
			})
		}
		entry.Submit(st, submit)
		entry.Submit(st, submit)
		j.Close(st)
		r.wait(t)
		if err := j.Barrier(); err != nil {
			t.Error(err)
		}
		if want := map[bool]int{true: 1}[fails != nil]; told != want || r.kept.Load() != (fails == nil) {
			t.Errorf("%v: told %d times, kept %t", fails, told, r.kept.Load())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := store.Submit(func(tx storage.Tx) error {
			stats, err := tx.Archive().Stats(juliet)
			if (stats.Messages == 1) != (fails == nil) {
				t.Errorf("%v: %d messages in the archive", fails, stats.Messages)
			}
			return err
		}).Wait(ctx); err != nil {
			t.Error(err)
		}
		store.Close()
	}
}

// A row that is written after its peer's stanzas got other numbers has the other one, as those that were
// written before.
func TestRenumbered(t *testing.T) {
	const peer, old = 9, 1<<31 + 1
	for _, late := range []bool{false, true} {
		store := mem.New(mem.Options{})
		j := open(t, store)
		store.Submit(func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: peer, Kind: storage.ClientPeer}) })
		st, entry := j.Open(letter())
		entry.Wait(peer, old, storage.CarbonSent, 1)
		changed := []storage.Renumbered{{Old: old, New: 4}}
		renumber := func() {
			store.Submit(func(tx storage.Tx) error {
				j.Renumbered(peer, changed)
				return tx.Peers().Renumber(peer, changed)
			})
		}
		if late {
			renumber()
		}
		entry.Submit(st, store.Submit)
		if !late {
			renumber()
		}
		if err := j.Barrier(); err != nil {
			t.Fatal(err)
		}
		if err := store.View(func(tx storage.Tx) error {
			waiting, err := tx.Peers().Waiting(peer)
			if len(waiting) != 1 || waiting[0].Number != 4 {
				t.Errorf("late %t: waiting are %+v, want number 4", late, waiting)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		store.Close()
	}
}
