package stream

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/stanza"
)

// counting is a ledger without a stream, whose counts both begin at first.
func counting(first uint32) *Ledger {
	l := NewLedger(nil, 1<<20, time.Now)
	l.counting, l.acked, l.sent, l.received = true, uint64(first), uint64(first), first
	return l
}

func message(n int) element.Element {
	return element.Start("message", "jabber:client").Attr("id", fmt.Sprint(n)).Element()
}

// XEP-0198 section 4: h goes from 2^32-1 to 0.
func TestAcknowledge(t *testing.T) {
	for _, first := range []uint32{0, 7, math.MaxUint32 - 1, math.MaxUint32} {
		for _, test := range []struct {
			name    string
			ahead   int64 // h, from first
			left    int
			refused bool
		}{
			{"nothing", 0, 3, false},
			{"one", 1, 2, false},
			{"all", 3, 0, false},
			{"one before the first", -1, 3, false},
			{"one too many", 4, 3, true},
			{"half the numbers too many", math.MaxInt32, 3, true},
			{"half the numbers before", math.MinInt32, 3, false},
		} {
			t.Run(fmt.Sprintf("from %d/%s", first, test.name), func(t *testing.T) {
				l := counting(first)
				for i := range 3 {
					if _, ok := l.Send(message(i), i, nil); !ok {
						t.Fatal("too much")
					}
				}
				arrived, err := l.Acknowledge(first + uint32(test.ahead))
				var refused *stanza.StreamError
				if errors.As(err, &refused) != test.refused {
					t.Fatalf("got %v", err)
				}
				if test.refused && (refused.Condition != "undefined-condition" || refused.App.Name() != "handled-count-too-high" ||
					refused.App.Attr("send-count") != number(first+3)) {
					t.Errorf("section 6: got %s", refused.Element())
				}
				if len(l.kept) != test.left || len(arrived) != 3-test.left {
					t.Errorf("%d left, %d arrived", len(l.kept), len(arrived))
				}
				for i, p := range arrived {
					if p.Note != i {
						t.Errorf("%v at %d", p.Note, i)
					}
				}
				size := 0
				for _, p := range l.kept {
					size += len(p.Element.String())
				}
				if l.bytes != size {
					t.Errorf("%d bytes counted, %d kept", l.bytes, size)
				}
			})
		}
	}
}

// A stanza counts when all before it count, in whatever order they are handled, also across the wrap.
func TestHandledInOrder(t *testing.T) {
	for _, first := range []uint32{0, math.MaxUint32 - 3} {
		l := counting(first)
		var numbers []uint32
		for range 8 {
			n, ok := l.Receive()
			if !ok {
				t.Fatal("does not count")
			}
			numbers = append(numbers, n)
			l.Hold(n)
			l.Release(n) // once for who handles it; the other hold remains
		}
		done := make(map[uint32]bool)
		for _, i := range rand.Perm(8) {
			_, open := l.Handled()
			l.Release(numbers[i])
			done[numbers[i]] = true
			want := uint32(0)
			for done[first+want+1] {
				want++
			}
			h, _ := l.Handled()
			if h != first+want {
				t.Fatalf("handled %d, want %d", h-first, want)
			}
			select {
			case <-open:
				if want != 8 {
					t.Error("settled too early")
				}
			default:
				if want == 8 {
					t.Error("not settled")
				}
			}
		}
		l.Release(numbers[0]) // once too often does no harm
		l.Hold(first + 100)
		if h, open := l.Handled(); h != first+8 || open != nil {
			t.Errorf("handled %d, open %v", h-first, open)
		}
	}
}

// Who has said that it has more cannot go on with less (section 5).
func TestKnown(t *testing.T) {
	l := counting(math.MaxUint32)
	for i := range 3 {
		l.Send(message(i), nil, nil)
	}
	if _, err := l.Acknowledge(1); err != nil {
		t.Fatal(err)
	}
	for h, want := range map[uint32]bool{0: false, math.MaxUint32: false, 1: true, 2: true} {
		if l.Known(h) != want {
			t.Errorf("%d: got %t", h, !want)
		}
	}
}

// Too much is said once; nothing is dropped before the ledger is settled.
func TestLedgerBounds(t *testing.T) {
	l := counting(0)
	l.limit = 4 * len(message(0).String())
	refused := 0
	for i := range 10 {
		if _, ok := l.Send(message(i), nil, nil); !ok {
			refused++
		}
	}
	if written, lost := l.Settle(); refused != 1 || len(written) != 0 || len(lost) != 10 {
		t.Errorf("refused %d times, %d lost", refused, len(lost))
	}
}

// After a restart the ledger does not know what else its peer was sent: what is sent now is not taken for
// that, whatever the peer has got.
func TestRestoredNumbers(t *testing.T) {
	l := Restore(1<<20, time.Now, 2, []Parcel{{Element: message(3), Number: 3}, {Element: message(5), Number: 5}}, 0)
	l.Send(message(6), nil, nil)
	if _, changed, err := l.Acknowledged(9); err != nil || len(changed) != 1 || changed[0].New != 10 {
		t.Errorf("got %v, %v, want the new one as number 10", changed, err)
	}
	if n, _ := l.Waiting(); n != 1 {
		t.Errorf("%d wait, want the new one", n)
	}
}

// A store may say at once what has become of a count.
func TestCountIsKeptAtOnce(t *testing.T) {
	l := counting(0)
	l.Persist(1, func(_ uint32, done func(bool)) { done(true) })
	number, _ := l.Receive()
	l.Release(number)
	_, open := l.Handled()
	select {
	case <-open:
	case <-time.After(5 * time.Second):
		t.Error("not kept")
	}
}

// What could not be kept has no number: what is behind it has another one, on disk as well.
func TestRenumberedBehindAFailure(t *testing.T) {
	l := counting(0)
	var changed []storage.Renumbered
	l.Renumbering(func(list []storage.Renumbered) { changed = append(changed, list...) })
	fails := new(Gate)
	for i, gate := range []*Gate{nil, fails, nil, nil} {
		l.Send(message(i), i, gate)
	}
	fails.Fail()
	arrived, err := l.Acknowledge(2)
	if err != nil || len(arrived) != 2 || arrived[1].Note != 2 {
		t.Fatalf("arrived %v, %v", arrived, err)
	}
	if want := []storage.Renumbered{{Old: 3, New: 2}, {Old: 4, New: 3}}; !slices.Equal(changed, want) {
		t.Errorf("renumbered %v, want %v", changed, want)
	}
	if number, _ := l.Send(message(5), nil, nil); number != 4 {
		t.Errorf("the next one has number %d", number)
	}
}

// still is a stream that nobody writes.
func still() *Stream {
	s := &Stream{role: &Role{Flusher: NewFlusher(), Limits: Limits{Queue: 1 << 20}, Written: func(*Stream) {}}}
	s.queue.init(s)
	return s
}

func (q *queue) passThrough(end int64) { q.taken, q.passed, q.buf = end, end, q.buf[end-q.taken:] }

func notes(parcels []Parcel) (list []any) {
	for _, p := range parcels {
		list = append(list, p.Note)
	}
	return list
}

// What was on its way when stream management was enabled does not count (section 3): it has arrived when it is
// written, like anything that was sent before, and also when the peer acknowledges what is behind it.
func TestStartWithParcels(t *testing.T) {
	begin := func() (*Stream, *Ledger, *Gate) {
		s, fails := still(), new(Gate)
		l := NewLedger(s, 1<<20, time.Now)
		for i, gate := range []*Gate{nil, fails, nil, nil} {
			l.Send(message(i), i, gate)
		}
		l.Start(nil, func() {})
		l.Send(message(4), 4, nil)
		return s, l, fails
	}
	t.Run("written", func(t *testing.T) {
		s, l, fails := begin()
		s.queue.passThrough(l.kept[0].end)
		if got := notes(l.Written()); !slices.Equal(got, []any{0}) {
			t.Errorf("written: %v", got)
		}
		fails.Fail()
		s.queue.passThrough(l.kept[1].end)
		if got := notes(l.Written()); !slices.Equal(got, []any{2}) {
			t.Errorf("written: %v", got)
		}
		if len(l.kept) != 2 || l.kept[1].Number != 1 || l.sent != 1 {
			t.Errorf("what is sent then has the numbers %v, and %d were sent", l.kept, l.sent)
		}
		s.queue.passThrough(s.queue.added)
		written, lost := l.Settle()
		if !slices.Equal(notes(written), []any{3}) || !slices.Equal(notes(lost), []any{4}) {
			t.Errorf("written: %v, lost: %v", notes(written), notes(lost))
		}
	})
	t.Run("acknowledged", func(t *testing.T) {
		_, l, _ := begin()
		if got, err := l.Acknowledge(1); err != nil || !slices.Equal(notes(got), []any{0, 1, 2, 3, 4}) {
			t.Errorf("arrived: %v, %v", notes(got), err)
		}
	})
	t.Run("lost", func(t *testing.T) {
		s, l, _ := begin()
		s.queue.passThrough(l.kept[0].end)
		written, lost := l.Settle()
		if !slices.Equal(notes(written), []any{0}) || !slices.Equal(notes(lost), []any{1, 2, 3, 4}) {
			t.Errorf("written: %v, lost: %v", notes(written), notes(lost))
		}
	})
}

// What was sent before a restart is known roughly, where something of it waits: a count beyond that is refused as it
// would have been before (section 6).
func TestCountAfterARestart(t *testing.T) {
	for _, test := range []struct {
		name  string
		h     uint32
		known bool
		left  int // -1: refused
	}{
		{"less than before", 1, false, 2},
		{"nothing", 2, true, 2},
		{"one", 3, true, 1},
		{"more than waits", 1000, true, 0},
		{"absurd", 1<<31 - 1, true, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := Restore(1<<20, time.Now, 2, []Parcel{{Element: message(1), Number: 3}, {Element: message(2), Number: 4}}, 0)
			if l.Known(test.h) != test.known {
				t.Errorf("known: %t", !test.known)
			}
			_, _, err := l.Acknowledged(test.h)
			var refused *stanza.StreamError
			if errors.As(err, &refused) != (test.left < 0) {
				t.Errorf("got %v", err)
			}
			if err == nil && len(l.kept) != test.left {
				t.Errorf("%d wait, want %d", len(l.kept), test.left)
			}
		})
	}
	if _, _, err := Restore(1<<20, time.Now, 3, nil, 0).Acknowledged(1 << 30); err != nil {
		t.Errorf("where nothing waits: %v", err)
	}
}

// A session that is not resumed between two restarts has been sent something with numbers that are far from what its
// peer has got. That one can go on all the same.
func TestCountAfterTwoRestarts(t *testing.T) {
	l := Restore(1<<20, time.Now, 203, nil, 0)
	number, _ := l.Send(message(1), nil, nil)
	l = Restore(1<<20, time.Now, 203, []Parcel{{Element: message(1), Number: number}}, 0)
	if !l.Known(203) {
		t.Error("the count is not known")
	}
	if _, changed, err := l.Acknowledged(203); err != nil || len(changed) != 1 || changed[0].New != 204 {
		t.Errorf("got %v, %v", changed, err)
	}
}
