package bench

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// Every message carries a label: its number among those of its sender, and when it was sent. Both are
// of fixed width, so that a message is made by writing over a copy of the one before.
const labelSize = 2 + 16 + 1 + 16 // "tb", number, ".", nanoseconds

var labelMark = []byte("tb")

// putLabel writes a label.
func putLabel(to []byte, number uint64, at time.Duration) {
	var b [8]byte
	copy(to, labelMark)
	hex.Encode(to[2:], binary.BigEndian.AppendUint64(b[:0], number))
	to[18] = '.'
	hex.Encode(to[19:], binary.BigEndian.AppendUint64(b[:0], uint64(at)))
}

// label finds the label in the first child of this name of a stanza.
func label(stanza, open []byte) (number uint64, at time.Duration, ok bool) {
	i := bytes.Index(stanza, open)
	if i < 0 {
		return 0, 0, false
	}
	b := stanza[i+len(open):]
	if len(b) < labelSize || !bytes.HasPrefix(b, labelMark) || b[18] != '.' {
		return 0, 0, false
	}
	var n, t [8]byte
	if _, err := hex.Decode(n[:], b[2:18]); err != nil {
		return 0, 0, false
	}
	if _, err := hex.Decode(t[:], b[19:labelSize]); err != nil {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(n[:]), time.Duration(binary.BigEndian.Uint64(t[:])), true
}

// A tally checks the numbers that arrive from one sender. They begin with 0.
type tally struct {
	next      uint64
	missing   map[uint64]struct{} // below next
	received  uint64
	doubled   uint64
	reordered uint64
}

// strayed bounds what a broken number can make us remember.
const strayed = 1 << 20

// see notes a number.
func (t *tally) see(number uint64) {
	t.received++
	switch {
	case number == t.next:
		t.next++
	case number > t.next:
		if t.missing == nil {
			t.missing = make(map[uint64]struct{})
		}
		for ; t.next < number && len(t.missing) < strayed; t.next++ {
			t.missing[t.next] = struct{}{}
		}
		t.next = number + 1
	default:
		if _, late := t.missing[number]; late {
			delete(t.missing, number)
			t.reordered++
		} else {
			t.doubled++
		}
	}
}

// lost is how many of those sent have not come.
func (t *tally) lost(sent uint64) uint64 {
	n := uint64(len(t.missing))
	if sent > t.next {
		n += sent - t.next
	}
	return n
}

// A template is a stanza with a place for a label.
type template struct {
	bytes []byte
	at    int
}

// newTemplate fills a stanza up to a size: before, label, padding, after.
func newTemplate(before, after string, size int) template {
	padding := bytes.Repeat([]byte("light soft "), max(size, 0)/11+1)
	b := append([]byte(before), make([]byte, labelSize)...)
	b = append(b, ' ')
	if missing := size - len(b) - len(after); missing > 0 {
		b = append(b, padding[:missing]...)
	}
	return template{append(b, after...), len(before)}
}

// append adds a stanza to a batch.
func (t template) append(batch []byte, number uint64, at time.Duration) []byte {
	i := len(batch)
	batch = append(batch, t.bytes...)
	putLabel(batch[i+t.at:], number, at)
	return batch
}
