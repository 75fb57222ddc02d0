package c2s

import (
	"hash/maphash"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A throttle slows down those who guess passwords. What counts first is the address together with
// the account that it tries: a stranger elsewhere cannot lock a user out, and behind the address of
// an office one who forgot a password delays nobody else. The address alone counts only above a rate
// of failures that no office makes.
//
// Where there was too much, attempts that come at the same time wait for the end of a round, which
// one of them wins by lot: so many connections guess no faster than one, and whoever shares the
// address of a guesser needs luck and patience, but cannot be pushed out of a queue. The others try
// the next round, until they have waited for as long as an attempt may. Tokens are not guessed, and
// nothing here concerns who has one.
type throttle struct {
	now      func() time.Time
	longest  time.Duration // that a round takes
	patience time.Duration // of an attempt, in all

	mu    sync.Mutex
	seed  maphash.Seed
	tries map[target]*record
	swept time.Time
}

// newThrottle makes one for streams that have the time to log in.
func newThrottle(login time.Duration) *throttle {
	return &throttle{now: time.Now, longest: min(longestRound, login/6), patience: login / 2,
		seed: maphash.MakeSeed(), tries: make(map[target]*record)}
}

// target is who tries, and what: a hash, because names are as long as a stranger likes. That of ""
// stands for the address as a whole.
type target struct {
	site    netip.Prefix
	account uint64
}

// record is what is known of a target.
type record struct {
	begun, failed int
	since         time.Time // the first of these; after window they are forgotten
	round         *round    // the latest
}

// A round is a time at whose end one of those who wait may go on.
type round struct {
	ends    time.Time
	waiting []*ticket
	winner  *ticket
}

// A ticket is an attempt that waits.
type ticket struct{ round *round }

const (
	window       = 10 * time.Minute
	firstDelay   = 500 * time.Millisecond // the length of a round; it doubles with each further failure
	longestRound = 5 * time.Second        // a small part of the time that a stream has to log in

	// maxTargets bounds the memory that strangers with many addresses can fill, at about 10 MB. One more
	// makes another be forgotten, which is worth three guesses to whoever has spent so many.
	maxTargets = 1 << 16
)

// A tier is what a target may do in a window before it is slowed down. Attempts of which nobody knows
// yet how they end count too: else all those that begin at once would be free.
type tier struct {
	begun, failed int
	longest       time.Duration
}

func (t *throttle) accountTier() tier { return tier{begun: 20, failed: 3, longest: t.longest} }
func (t *throttle) siteTier() tier {
	return tier{begun: math.MaxInt, failed: 300, longest: min(firstDelay, t.longest)}
}

// admit lets an attempt wait until it may go on, by pause, which says whether that could be done in
// full. False: the attempt has to fail, and nobody may look at what it proves.
func (t *throttle) admit(site netip.Prefix, account string, pause func(time.Duration) bool) bool {
	until := t.now().Add(t.patience)
	return t.enter(t.target(site, account), t.accountTier(), until, pause) &&
		t.enter(t.target(site, ""), t.siteTier(), until, pause)
}

func (t *throttle) enter(key target, of tier, until time.Time, pause func(time.Duration) bool) bool {
	k := new(ticket)
	for {
		d := t.ask(key, of, k)
		if d == 0 {
			return true
		}
		if t.now().Add(d).After(until) || !pause(d) {
			t.leave(k)
			return false
		}
	}
}

// ask says how long an attempt has to wait before it asks again; 0: it may go on.
func (t *throttle) ask(key target, of tier, k *ticket) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	r := t.record(key, now)
	delay := of.delay(r)
	if delay == 0 || k.won(now) {
		r.begun++
		return 0
	}
	if r.round == nil || !now.Before(r.round.ends) {
		r.round = &round{ends: now.Add(delay)}
	}
	if k.round != r.round {
		k.round = r.round
		k.round.waiting = append(k.round.waiting, k)
	}
	return r.round.ends.Sub(now)
}

// delay is how long a round takes for a target.
func (of tier) delay(r *record) time.Duration {
	if r.failed < of.failed && r.begun < of.begun {
		return 0
	}
	return min(firstDelay<<min(max(r.failed-of.failed, r.begun-of.begun, 0), 10), of.longest)
}

// won draws the winner of a round that is over.
func (k *ticket) won(now time.Time) bool {
	if k.round == nil || now.Before(k.round.ends) {
		return false
	}
	if k.round.winner == nil {
		k.round.winner = k.round.waiting[rand.IntN(len(k.round.waiting))]
	}
	return k.round.winner == k
}

// leave takes an attempt out that waits no more, so that it wins nothing.
func (t *throttle) leave(k *ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k.round != nil {
		k.round.waiting = slices.DeleteFunc(k.round.waiting, func(other *ticket) bool { return other == k })
	}
}

// failed notes a failure.
func (t *throttle) failed(site netip.Prefix, account string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.record(t.target(site, account), now).failed++
	t.record(t.target(site, ""), now).failed++
}

// succeeded forgets the failures of an address at an account.
func (t *throttle) succeeded(site netip.Prefix, account string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tries, t.target(site, account))
}

func (t *throttle) target(site netip.Prefix, account string) target {
	return target{site, maphash.String(t.seed, account)}
}

// record finds what is known of a target in this window, or begins to know it.
func (t *throttle) record(key target, now time.Time) *record {
	r := t.tries[key]
	if r != nil && now.Sub(r.since) < window {
		return r
	}
	if now.Sub(t.swept) >= window {
		for key, r := range t.tries {
			if now.Sub(r.since) >= window {
				delete(t.tries, key)
			}
		}
		t.swept = now
	}
	for other := range t.tries { // any
		if len(t.tries) < maxTargets {
			break
		}
		delete(t.tries, other)
	}
	r = &record{since: now}
	t.tries[key] = r
	return r
}
