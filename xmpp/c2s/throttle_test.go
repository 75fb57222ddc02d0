package c2s

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	home   = netip.MustParsePrefix("192.0.2.1/32")
	office = netip.MustParsePrefix("198.51.100.1/32")
)

func TestThrottleDelaysTheGuesser(t *testing.T) {
	now := time.Unix(0, 0)
	th := &throttle{now: func() time.Time { return now }}
	for i := range freeFailures {
		if d := th.wait(home, "alice@a.test"); d != 0 {
			t.Errorf("attempt %d waits %v; anybody may mistype", i, d)
		}
		th.failed(home, "alice@a.test")
	}
	var delays []time.Duration
	for range 8 {
		d := th.wait(home, "alice@a.test")
		delays = append(delays, d)
		now = now.Add(d)
		th.failed(home, "alice@a.test")
	}
	for i, d := range delays {
		want := min(firstDelay<<i, longestDelay)
		if d != want {
			t.Errorf("delay %d is %v, want %v", i, d, want)
		}
	}
	// A stranger elsewhere cannot lock the user out, nor does the guesser's address suffer.
	if d := th.wait(office, "alice@a.test"); d != 0 {
		t.Errorf("the same account from another address waits %v", d)
	}
	if d := th.wait(home, "bob@a.test"); d != 0 {
		t.Errorf("another account from the same address waits %v", d)
	}
	th.succeeded(home, "alice@a.test")
	if d := th.wait(home, "alice@a.test"); d != 0 {
		t.Errorf("after a success: %v", d)
	}
}

// TestThrottleParallelGuesses has many connections guess at once: each waits for the one before.
func TestThrottleParallelGuesses(t *testing.T) {
	now := time.Unix(0, 0)
	th := &throttle{now: func() time.Time { return now }}
	for range freeFailures {
		th.failed(home, "alice@a.test")
	}
	for i := range 10 {
		if d, want := th.wait(home, "alice@a.test"), firstDelay*time.Duration(i+1); d != want {
			t.Errorf("guess %d waits %v, want %v", i, d, want)
		}
	}
}

func TestThrottleOfAWholeAddress(t *testing.T) {
	now := time.Unix(0, 0)
	th := &throttle{now: func() time.Time { return now }}
	for i := range freeSiteFailures {
		if d := th.wait(office, fmt.Sprintf("u%d@a.test", i)); d != 0 {
			t.Fatalf("failure %d of an office delays others by %v", i, d)
		}
		th.failed(office, fmt.Sprintf("u%d@a.test", i))
	}
	if d := th.wait(office, "somebody@a.test"); d != firstDelay {
		t.Errorf("above the rate that an office makes: %v, want %v", d, firstDelay)
	}
	now = now.Add(window)
	if d := th.wait(office, "somebody@a.test"); d != 0 {
		t.Errorf("when the window is over: %v", d)
	}
	th.failed(office, "somebody@a.test")
	if len(th.tries) != 2 {
		t.Errorf("%d targets are remembered after their time", len(th.tries))
	}
}
