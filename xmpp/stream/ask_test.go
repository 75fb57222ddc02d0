package stream_test

import (
	"strings"
	"testing"
	"time"
)

// r is a request for acknowledgement.
const r = "<r xmlns='urn:xmpp:sm:3'/>"

// TestAsk: a peer is asked at once for the first stanza, once for all that follow within Timing.Ask, and at the end
// of it though nothing more is sent; what is much is asked for earlier.
func TestAsk(t *testing.T) {
	t.Parallel()
	const ask = time.Second
	role := role(t)
	role.Timing.Ask = ask
	p := run(t, role)
	l := managed(t, p)
	answer := func(h int) {
		t.Helper()
		if _, err := l.Acknowledge(uint32(h)); err != nil {
			t.Fatal(err)
		}
	}

	l.Send(numbered(1), nil, nil)
	began := time.Now()
	p.readTo(t, r)
	answer(1)
	if took := time.Since(began); took > ask/2 {
		t.Errorf("the first request took %v", took)
	}
	for n := 2; n <= 5; n++ {
		l.Send(numbered(n), nil, nil)
		time.Sleep(ask / 20)
	}
	got := p.readTo(t, r)
	if took := time.Since(began); took < ask || took > 3*ask {
		t.Errorf("the second request came after %v; Ask is %v", took, ask)
	}
	if !strings.Contains(got, "id='5'") {
		t.Errorf("before the second request came only %s", got)
	}

	// While that is unanswered there is no other one; its answer is followed by one for what came since.
	for n := 6; n <= 1005; n++ { // more than askBytes, after which it would be asked at once
		l.Send(numbered(n), nil, nil)
	}
	if got := p.readTo(t, "id='1005'"); strings.Contains(got, r) {
		t.Errorf("asked twice: %s", got)
	}
	answer(5)
	if got := p.readTo(t, r); strings.Count(got, r) != 1 {
		t.Errorf("got %s", got)
	}
	answer(1005)

	asked := time.Now()
	for n := 1006; n <= 2005; n++ { // as much again
		l.Send(numbered(n), nil, nil)
	}
	p.readTo(t, r)
	if took := time.Since(asked); took > ask/2 {
		t.Errorf("after much the request took %v", took)
	}
}
