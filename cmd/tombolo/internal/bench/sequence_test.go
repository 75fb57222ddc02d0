package bench

import (
	"testing"
	"time"
)

func TestTally(t *testing.T) {
	for _, c := range []struct {
		name                     string
		arrive                   []uint64
		sent                     uint64
		lost, doubled, reordered uint64
	}{
		{"all in order", []uint64{0, 1, 2}, 3, 0, 0, 0},
		{"the last is lost", []uint64{0, 1}, 3, 1, 0, 0},
		{"the first and one in the middle are lost", []uint64{1, 3}, 4, 2, 0, 0},
		{"one twice", []uint64{0, 1, 1, 2}, 3, 0, 1, 0},
		{"two change places", []uint64{0, 2, 1, 3}, 4, 0, 0, 1},
		{"late and twice", []uint64{0, 2, 1, 1}, 3, 0, 1, 1},
		{"nothing comes", nil, 5, 5, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var y tally
			for _, n := range c.arrive {
				y.see(n)
			}
			if y.lost(c.sent) != c.lost || y.doubled != c.doubled || y.reordered != c.reordered {
				t.Errorf("lost %d, doubled %d, reordered %d; want %d, %d, %d", y.lost(c.sent), y.doubled, y.reordered, c.lost, c.doubled, c.reordered)
			}
		})
	}
}

func TestTemplate(t *testing.T) {
	m := chat("juliet@a.test/x", 242)
	batch := m.append(m.append(nil, 7, 0), 1<<40, time.Hour)
	if len(batch) != 2*242 {
		t.Errorf("two stanzas of 242 bytes have %d", len(batch))
	}
	for i, want := range []struct {
		number uint64
		at     time.Duration
	}{{7, 0}, {1 << 40, time.Hour}} {
		number, at, ok := label(batch[i*242:(i+1)*242], bodyOpen)
		if !ok || number != want.number || at != want.at {
			t.Errorf("label %d is %d, %v, %v; want %v", i, number, at, ok, want)
		}
	}
	for _, other := range []string{"<message/>", "<message><body>hello</body></message>", "<message><body>tb</body></message>"} {
		if _, _, ok := label([]byte(other), bodyOpen); ok {
			t.Errorf("%s has a label", other)
		}
	}
}
