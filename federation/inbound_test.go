package federation

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"tombolo/xmpp/stream"
)

// Who has many domains takes resumption from nobody else: of what is too much the oldest of whoever has
// most is forgotten.
func TestManySessionsOfOneOwner(t *testing.T) {
	now := time.Unix(0, 0)
	clock := func() time.Time { return now }
	f := &Federation{Config: Config{Now: clock}, inbound: make(map[key]*inbound)}
	n := uint64(0)
	parked := func(remote string) *inbound {
		n++
		now = now.Add(time.Second)
		b := &inbound{Pair: Pair{"a.test", remote}, owner: registered(remote), since: now,
			ledger: stream.Restore(unlimited, clock, 0, nil, 0)}
		binary.BigEndian.PutUint64(b.id[:], n)
		return b
	}
	enter := func(remote string) *inbound {
		b := parked(remote)
		f.remember(b)
		return b
	}
	first := enter("b.co.uk")
	for i := range maxInbound - 2 {
		b := parked(fmt.Sprintf("x%d.evil.co.uk", i))
		f.inbound[b.id] = b
	}
	second := enter("c.co.uk")
	oldest := f.inbound[key{7: 2}]
	for i := range 3 {
		if last := enter(fmt.Sprintf("y%d.evil.co.uk", i)); f.recall(last.id) != last {
			t.Error("a new session is not found")
		}
	}
	third := enter("d.test")
	if len(f.inbound) != maxInbound {
		t.Errorf("there are %d sessions", len(f.inbound))
	}
	for _, b := range []*inbound{first, second, third} {
		if f.recall(b.id) != b {
			t.Errorf("that of %s is not found", b.Remote)
		}
	}
	if oldest.Remote != "x0.evil.co.uk" || f.recall(oldest.id) != nil {
		t.Errorf("the oldest, of %s, is found", oldest.Remote)
	}
}

func TestRegistered(t *testing.T) {
	for domain, want := range map[string]string{
		"example.org": "example.org", "a.b.example.org": "example.org", "a.example.co.uk": "example.co.uk",
		"localhost": "localhost", "chat.b\u00fccher.de": "xn--bcher-kva.de", "b.test": "b.test", "c.b.test": "b.test",
	} {
		if got := registered(domain); got != want {
			t.Errorf("%s: %s, want %s", domain, got, want)
		}
	}
}
