package c2s

import (
	"fmt"
	"testing"
	"time"

	"tombolo/xmpp/jid"
	"tombolo/xmpp/stream"
)

// XEP-0198 section 5 lets a client know how much was handled of a session that has ended. What is remembered for
// that is bounded, and however many sessions an account ends, it is not at the expense of the others.
func TestEndedSessionsAreRemembered(t *testing.T) {
	p := &parking{ended: make(map[jid.JID][]endedSession)}
	start := time.Now()
	ended := func(account jid.JID, i int) key {
		id := keyOf(fmt.Sprint(account, i))
		p.remember(account, endedSession{id, stream.Restore(0, time.Now, 0, nil, uint32(i)), start.Add(time.Duration(i) * time.Millisecond)})
		return id
	}
	juliet, mallory := jid.MustParse("juliet@a.test"), jid.MustParse("mallory@a.test")
	first := ended(juliet, 7)
	var last key
	for i := range 2 * remembered {
		last = ended(mallory, i)
	}
	second := ended(juliet, 8)
	for id, want := range map[key]uint32{first: 7, second: 8} {
		if got, ok := p.handled(id, juliet); !ok || got != want {
			t.Errorf("juliet's: %d, %v", got, ok)
		}
		if _, ok := p.handled(id, mallory); ok {
			t.Error("juliet's is known to mallory")
		}
	}
	if got, ok := p.handled(last, mallory); !ok || got != 2*remembered-1 {
		t.Errorf("mallory's last: %d, %v", got, ok)
	}
	if p.count != 2+rememberedOfOne {
		t.Errorf("%d are remembered", p.count)
	}

	for i := range 2 * remembered { // of as many accounts
		account := jid.MustParse(fmt.Sprintf("user%d@a.test", i))
		if got, ok := p.handled(ended(account, i), account); !ok || got != uint32(i) {
			t.Fatalf("the newest: %d, %v", got, ok)
		}
	}
	all := 0
	for _, list := range p.ended {
		all += len(list)
	}
	if p.count != remembered || all != remembered {
		t.Errorf("%d are counted, %d remembered", p.count, all)
	}
	p.late(start.Add(rememberedTime + 2*remembered*time.Millisecond))
	if p.count != 0 || len(p.ended) != 0 {
		t.Errorf("after an hour %d of %d accounts", p.count, len(p.ended))
	}
}
