package c2s

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	home   = netip.MustParsePrefix("192.0.2.1/32")
	office = netip.MustParsePrefix("198.51.100.1/32")
)

const login = 30 * time.Second

// pause is that of a stream which stays, on the clock of the bubble.
func pause(d time.Duration) bool {
	time.Sleep(d)
	return true
}

// after is how long an attempt was held up, and whether it was let through.
func (t *throttle) after(site netip.Prefix, account string) (time.Duration, bool) {
	start := time.Now()
	ok := t.admit(site, account, pause)
	return time.Since(start), ok
}

func (t *throttle) freely(tb *testing.T, what string, site netip.Prefix, account string) {
	tb.Helper()
	if d, ok := t.after(site, account); d != 0 || !ok {
		tb.Errorf("%s: held up for %v, let through: %v", what, d, ok)
	}
}

func TestThrottleDelaysTheGuesser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(login)
		for range th.accountTier().failed {
			th.freely(t, "anybody may mistype", home, "alice@a.test")
			th.failed(home, "alice@a.test")
		}
		for i := range 8 {
			want := min(firstDelay<<i, longestRound)
			if d, ok := th.after(home, "alice@a.test"); d != want || !ok {
				t.Errorf("delay %d is %v, want %v (let through: %v)", i, d, want, ok)
			}
			th.failed(home, "alice@a.test")
		}
		// A stranger elsewhere cannot lock the user out, nor does the guesser's address suffer.
		th.freely(t, "the same account from another address", office, "alice@a.test")
		th.freely(t, "another account from the same address", home, "bob@a.test")
		th.succeeded(home, "alice@a.test")
		th.freely(t, "after a success", home, "alice@a.test")
	})
}

// TestThrottleParallelGuesses has many connections guess at once, again and again: they get no more
// guesses than one.
func TestThrottleParallelGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(login)
		const connections, minutes = 50, 8
		end := time.Now().Add(minutes * time.Minute)
		guesses := make(chan int)
		for range connections {
			go func() {
				n := 0
				for time.Now().Before(end) {
					if th.admit(home, "alice@a.test", pause) {
						n++
						time.Sleep(time.Millisecond) // until it turns out to be wrong
						th.failed(home, "alice@a.test")
					}
					time.Sleep(time.Millisecond)
				}
				guesses <- n
			}()
		}
		all := 0
		for range connections {
			all += <-guesses
		}
		// Those that came before any had failed, the short rounds, then one in each long one.
		if most := th.accountTier().begun + 5 + int(minutes*time.Minute/longestRound); all > most {
			t.Errorf("%d guesses in %d minutes, want not more than %d", all, minutes, most)
		}
		if all < int(minutes*time.Minute/longestRound)/2 {
			t.Errorf("only %d attempts in %d minutes: rounds without a winner", all, minutes)
		}
	})
}

// TestThrottleTooLittleTime: an attempt that was not held up for as long as it should have been is not
// looked at, whatever the reason.
func TestThrottleTooLittleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(login)
		for range 100 {
			th.failed(home, "alice@a.test")
		}
		if th.admit(home, "alice@a.test", func(time.Duration) bool { return false }) {
			t.Error("an attempt was let through whose stream had no time to wait")
		}
		if th.longest > login/6 || th.patience > login/2 {
			t.Errorf("rounds of %v and a patience of %v are too long for a login of %v", th.longest, th.patience, login)
		}
		short := newThrottle(3 * time.Second)
		for range 100 {
			short.failed(home, "alice@a.test")
		}
		if d, ok := short.after(home, "alice@a.test"); !ok || d == 0 || d > time.Second {
			t.Errorf("where a login may take 3 s an attempt is held up for %v (let through: %v)", d, ok)
		}
	})
}

// TestThrottleLocksNobodyOut has a stranger behind bob's own address begin attempts for bob's account, and
// either leave or guess on: bob gets in, in the one case at once, in the other by lot.
func TestThrottleLocksNobodyOut(t *testing.T) {
	const account = "bob@a.test"
	t.Run("abandoned attempts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			th := newThrottle(login)
			for range 100 {
				th.failed(home, account)
			}
			for range 1000 {
				go th.admit(home, account, func(time.Duration) bool {
					time.Sleep(200 * time.Millisecond) // the stream notices that the peer has left
					return false
				})
			}
			if d, ok := th.after(home, account); !ok || d > longestRound {
				t.Errorf("bob is held up for %v, let through: %v", d, ok)
			}
		})
	})
	for _, guessers := range []int{1, 10} {
		t.Run(fmt.Sprintf("%d guessers", guessers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th := newThrottle(login)
				for range 100 {
					th.failed(home, account)
				}
				over, done := make(chan struct{}), sync.WaitGroup{}
				for range guessers {
					done.Go(func() {
						for {
							select {
							case <-over:
								return
							default:
								if th.admit(home, account, pause) {
									th.failed(home, account)
								}
								time.Sleep(time.Millisecond)
							}
						}
					})
				}
				attempts := 1
				for !th.admit(home, account, pause) {
					if attempts++; attempts > 100*guessers {
						t.Fatalf("bob was not let in %d times", attempts)
					}
					time.Sleep(time.Second)
				}
				close(over)
				done.Wait()
			})
		})
	}
}

func TestThrottleOfAWholeAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(login)
		for i := range th.siteTier().failed {
			account := fmt.Sprintf("u%d@a.test", i)
			th.freely(t, "somebody in an office", office, account)
			th.failed(office, account)
		}
		if d, ok := th.after(office, "somebody@a.test"); d != firstDelay || !ok {
			t.Errorf("above the rate that an office makes: %v, want %v", d, firstDelay)
		}
		time.Sleep(window)
		th.freely(t, "when the window is over", office, "somebody@a.test")
		if len(th.tries) != 2 {
			t.Errorf("%d targets are remembered after their time", len(th.tries))
		}
	})
}

// TestThrottleMemory has strangers with many addresses and long names fail: what is kept of them is bounded.
func TestThrottleMemory(t *testing.T) {
	th := newThrottle(login)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, long := heap(), strings.Repeat("a", 1000)
	for i := range 1000 {
		site := netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%x::", i)), 64)
		for j := range 100 {
			account := fmt.Sprintf("%s%d@a.test", long, j)
			if !th.admit(site, account, func(time.Duration) bool { return false }) {
				t.Fatalf("the first attempt of %v at %d is refused", site, j)
			}
			th.failed(site, account)
		}
	}
	if len(th.tries) > maxTargets {
		t.Errorf("%d targets are remembered, want not more than %d", len(th.tries), maxTargets)
	}
	if used := heap() - before; used > 16<<20 {
		t.Errorf("%d MB are used", used>>20)
	}
	runtime.KeepAlive(th)
}
