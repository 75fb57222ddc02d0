package c2s

import (
	"net/netip"
	"sync"
	"time"
)

// A throttle slows down those who guess passwords. What counts first is the address together with
// the account that it tries: a stranger elsewhere cannot lock a user out, and behind the address of
// an office one who forgot a password delays nobody else. The address alone counts only above a rate
// of failures that no office makes.
type throttle struct {
	now func() time.Time

	mu    sync.Mutex
	tries map[target]*record
	swept time.Time
}

// target is who tries, and what; "" for the account is the address as a whole.
type target struct {
	site    netip.Prefix
	account string
}

// record is what is known of a target's failures.
type record struct {
	failed int
	since  time.Time // the first of these failures; after window they are forgotten
	next   time.Time // no attempt before
}

const (
	window           = 10 * time.Minute
	freeFailures     = 3 // in a window, of one address at one account
	freeSiteFailures = 300
	firstDelay       = 500 * time.Millisecond // it doubles with each further failure
	longestDelay     = 10 * time.Second
)

// wait is how long an attempt has to be held up. Attempts at the same time get their turns one after
// the other, so that many connections guess no faster than one.
func (t *throttle) wait(site netip.Prefix, account string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	return max(t.tries[target{site, account}].turn(now, freeFailures, longestDelay),
		t.tries[target{site: site}].turn(now, freeSiteFailures, firstDelay))
}

func (r *record) turn(now time.Time, free int, longest time.Duration) time.Duration {
	if r == nil || r.failed < free || now.Sub(r.since) >= window {
		return 0
	}
	delay := min(firstDelay<<min(r.failed-free, 10), longest)
	if r.next.Before(now) {
		r.next = now
	}
	r.next = r.next.Add(delay)
	return r.next.Sub(now)
}

// failed notes a failure.
func (t *throttle) failed(site netip.Prefix, account string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.tries == nil {
		t.tries = make(map[target]*record)
	}
	if now.Sub(t.swept) >= window {
		for key, r := range t.tries {
			if now.Sub(r.since) >= window {
				delete(t.tries, key)
			}
		}
		t.swept = now
	}
	for _, key := range []target{{site, account}, {site: site}} {
		r := t.tries[key]
		if r == nil || now.Sub(r.since) >= window {
			r = &record{since: now}
			t.tries[key] = r
		}
		r.failed++
	}
}

// succeeded forgets the failures of an address at an account.
func (t *throttle) succeeded(site netip.Prefix, account string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tries, target{site, account})
}
