// Package bench is the load generator behind tombolo bench: it plays the clients of any XMPP server
// and says what a stanza cost that server. The command line calls Run with a Config, and prints the
// results as text, as JSON or beside those of another run (report.go).
//
// It does as little as it can beside what is measured. A session is one goroutine that reads; what
// comes is cut into stanzas and not parsed (split.go); every stanza carries its number and the time it
// was sent (sequence.go), so that what is lost, doubled or out of order shows; all that a read sets off
// is written at once. Start with Run, then pairs in messages.go.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what to measure.
type Config struct {
	Scenario string // one of Scenarios
	Target   Target
	Peer     Target // the other server, of federation and a flood of it

	Window   int           // stanzas in flight for each pair, or logins at a time
	Rate     float64       // stanzas a second for each pair at most; 0 for no limit
	Size     int           // bytes of a stanza as it is sent
	Messages int           // for each recipient, of offline and archive
	Idle     int           // of the accounts, the last ones, are logged in and silent all the time
	WarmUp   time.Duration // before anything is measured
	Duration time.Duration // of what is measured
	SM       bool          // stream management (XEP-0198)
	Carbons  bool          // XEP-0280
	Progress io.Writer     // gets a line that is rewritten every second; nil for none

	Fan       bool    // of relay: from the first user to all others
	Flood     string  // of fairness and relay: what goes on beside the first two users; "session", "presence" or, of fairness, "federation"
	FloodRate float64 // stanzas a second of the flood; 0 for no limit
}

// Scenarios are what Run can do, with what one unit of it is.
var Scenarios = []struct{ Name, Unit, Short string }{
	{"login", "login", "users log in, announce themselves and leave, --window of them at a time"},
	{"pairs", "message", "every second user writes to the next one, --window messages in flight"},
	{"idle", "session", "users log in and then are silent; memory is what counts"},
	{"presence", "delivery", "the first user changes presence, all others see it"},
	{"federation", "message", "pairs whose recipients are at --peer-server"},
	{"offline", "message", "messages to users who are away are stored, then delivered"},
	{"archive", "page", "pairs fill their archives, then page through them, newest first"},
	{"fairness", "message", "a quiet pair, alone and then beside a --flood"},
	{"relay", "message", "pairs, --fan or --flood through a program that knows no XMPP: the floor"},
}

// patience is how long a step may take that should take no time: a login, the last messages. A server that syncs
// each message may give out none for many seconds, then a thousand.
// stalled is how long nothing may arrive of a flood, of presence or of what was stored before what is missing is
// taken for lost.
const (
	patience = 30 * time.Second
	stalled  = 5 * time.Second
)

// Run carries out a scenario. The context ends it early, with an error.
func Run(ctx context.Context, c Config) ([]Result, error) {
	r := &run{Config: c, began: time.Now()}
	r.Target.relay = c.Scenario == "relay"
	disperse, err := r.crowd(ctx)
	if err != nil {
		return nil, fmt.Errorf("bench %s: %w", c.Scenario, err)
	}
	defer disperse()
	if r.Target.relay {
		r.regroup()
	}
	var results []Result
	switch {
	case c.Scenario == "login":
		results, err = r.logins(ctx)
	case c.Scenario == "idle":
		results, err = r.idle(ctx)
	case c.Scenario == "fairness" || c.Scenario == "relay" && c.Flood != "":
		results, err = r.fairness(ctx)
	case c.Scenario == "presence" || c.Scenario == "relay" && c.Fan:
		results, err = r.presence(ctx)
	case c.Scenario == "pairs" || c.Scenario == "relay":
		results, err = r.pairs(ctx, &r.Target)
	case c.Scenario == "federation":
		results, err = r.pairs(ctx, &r.Peer)
	case c.Scenario == "offline":
		results, err = r.offline(ctx)
	case c.Scenario == "archive":
		results, err = r.archive(ctx)
	default:
		err = errors.New("there is no such scenario")
	}
	r.progress("")
	if err != nil {
		return nil, fmt.Errorf("bench %s: %w", c.Scenario, err)
	}
	return results, nil
}

// A run is one scenario that is under way.
type run struct {
	Config
	began     time.Time
	measuring atomic.Bool // what arrives now is measured
	stopping  atomic.Bool // nobody sends any more
	failed    atomic.Pointer[error]
	measured  func() // is called when the measured time is over; nil for nothing
}

// now is the time as labels have it.
func (r *run) now() time.Duration { return time.Since(r.began) }

// regroup names the accounts after their group at the relay.
func (r *run) regroup() {
	for i, a := range r.Target.Accounts {
		a.Name = fmt.Sprint(i / 2)
		if r.Fan || r.Flood == "presence" && i >= 2 {
			a.Name = "all"
		}
	}
}

// crowd logs the idle users in, who are then no accounts of the scenario any more.
func (r *run) crowd(ctx context.Context) (disperse func(), err error) {
	n := len(r.Target.Accounts) - r.Idle
	if n < 1 || r.Idle < 0 {
		return nil, errors.New("there are too few accounts for the idle users")
	}
	idlers := r.Target.Accounts[n:]
	r.Target.Accounts = r.Target.Accounts[:n]
	sessions, err := r.enter(ctx, &r.Target, idlers, extras{available: true, sm: r.SM, carbons: r.Carbons})
	if err != nil {
		return nil, err
	}
	var readers sync.WaitGroup
	for _, s := range sessions {
		readers.Go(func() { r.fail(s.serve(func([]byte) {}, func() error { return nil })) })
	}
	return func() {
		leave(sessions)
		readers.Wait()
	}, nil
}

// enter logs users in, a few at a time.
func (r *run) enter(ctx context.Context, t *Target, accounts []*Account, x extras) ([]*session, error) {
	sessions := make([]*session, len(accounts))
	err := atOnce(ctx, len(accounts), 8, func(ctx context.Context, i int) (err error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		sessions[i], err = t.login(ctx, accounts[i], x)
		return err
	})
	if err != nil {
		leave(sessions)
		return nil, err
	}
	return sessions, nil
}

// leave closes sessions, any number of times.
func leave(sessions []*session) {
	part := func(s *session) { _ = s.part() }
	for _, step := range []func(*session){(*session).hurry, part, (*session).close} { // so that one second is enough for all
		for _, s := range sessions {
			if s != nil {
				step(s)
			}
		}
	}
}

// atOnce does something for each of the numbers below n, a few of them at a time, until one fails.
func atOnce(ctx context.Context, n, few int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(n, few) {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// fail notes why a session ended that should not have.
func (r *run) fail(err error) {
	if err != nil {
		r.failed.CompareAndSwap(nil, &err)
	}
}

// measure waits for the warm-up, then measures for the duration. count is how much is done so far.
func (r *run) measure(ctx context.Context, count func() uint64) (span, error) {
	if err := r.wait(ctx, r.WarmUp, "warming up", count); err != nil {
		return span{}, err
	}
	before, err := r.snapshot(count())
	if err != nil {
		return span{}, err
	}
	r.measuring.Store(true)
	err = r.wait(ctx, r.Duration, "measuring", count)
	r.measuring.Store(false)
	if err != nil {
		return span{}, err
	}
	after, err := r.snapshot(count())
	if r.measured != nil {
		r.measured()
	}
	return span{before, after}, err
}

// wait lets time pass, with a progress line every second, until a session fails.
func (r *run) wait(ctx context.Context, d time.Duration, doing string, count func() uint64) error {
	done := time.NewTimer(d)
	defer done.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, until := count(), time.Now().Add(d)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-done.C:
			return r.failure()
		case <-tick.C:
			if err := r.failure(); err != nil {
				return err
			}
			n := count()
			r.progress(fmt.Sprintf("%s %s: %d, %d in the last second, %d s to go", r.Scenario, doing, n, n-last,
				int(time.Until(until).Seconds()+0.5)))
			last = n
		}
	}
}

func (r *run) failure() error {
	if err := r.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// until waits for a condition; false if it does not come about in a time in which nothing moves.
func (r *run) until(ctx context.Context, quiet time.Duration, count func() uint64, ok func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last, moved := count(), time.Now()
	for !ok() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if n := count(); n != last {
			last, moved = n, time.Now()
		}
		if time.Since(moved) > quiet || r.failure() != nil {
			return false
		}
	}
	return true
}

// progress rewrites the progress line; "" removes it.
func (r *run) progress(line string) {
	if r.Progress != nil {
		fmt.Fprintf(r.Progress, "\r\x1b[K%s", line)
	}
}

// A snapshot is what is known at one moment.
type snapshot struct {
	at      time.Time
	count   uint64
	stolen  time.Duration // from this machine by its host
	clients time.Duration
	servers []tree // of pids
}

type span struct{ before, after snapshot }

func (s span) seconds() float64 { return s.after.at.Sub(s.before.at).Seconds() }
func (s span) count() uint64    { return s.after.count - s.before.count }

// pids are the servers to watch.
func (r *run) pids() []int {
	return slices.DeleteFunc([]int{r.Target.PID, r.Peer.PID}, func(pid int) bool { return pid == 0 })
}

func (r *run) snapshot(count uint64) (snapshot, error) {
	s := snapshot{at: time.Now(), count: count, stolen: stolen()}
	for _, pid := range r.pids() {
		t, err := processTree(pid)
		if err != nil {
			return s, err
		}
		s.servers = append(s.servers, t)
	}
	var err error
	s.clients, err = ownTime()
	return s, err
}
