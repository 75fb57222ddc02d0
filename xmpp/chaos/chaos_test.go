// Package chaos has one test: it kills the server again and again while people talk, and looks whether
// anything is lost, doubled or out of order. The server is a process of its own (server_test.go), the
// people have devices (device_test.go), what they say is written down (world_test.go) and compared with
// what was kept and seen (check_test.go). Start with TestChaos.
package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	carbons = "urn:xmpp:carbons:2"
	mam     = "urn:xmpp:mam:2"
)

const (
	pace     = 4 * time.Millisecond // between two messages, on average
	patience = 30 * time.Second     // for what takes no time
	settling = 2 * time.Minute      // for everything to be over
	tooLong  = window + window/4    // away, to resume a session
)

// A plan is how a run goes. The variable TOMBOLO_CHAOS has words for it: a duration, "seed=N",
// "accounts=N", "stall" for commits that hang for 5 seconds now and then, "deaf" for a recipient that
// never acknowledges.
type plan struct {
	duration    time.Duration
	seed        uint64
	accounts    int
	stall, deaf bool
}

func newPlan(t *testing.T) plan {
	p := plan{duration: 10 * time.Second, seed: rand.Uint64N(1e6), accounts: 50}
	if os.Getenv("CI") == "true" {
		p.duration = time.Minute
	}
	for word := range strings.FieldsSeq(os.Getenv("TOMBOLO_CHAOS")) {
		var err error
		if seed, ok := strings.CutPrefix(word, "seed="); ok {
			p.seed, err = strconv.ParseUint(seed, 10, 64)
		} else if n, ok := strings.CutPrefix(word, "accounts="); ok {
			p.accounts, err = strconv.Atoi(n)
		} else if word == "stall" {
			p.stall = true
		} else if word == "deaf" {
			p.deaf = true
		} else {
			p.duration, err = time.ParseDuration(word)
		}
		if err != nil {
			t.Fatalf("TOMBOLO_CHAOS: %q: %v", word, err)
		}
	}
	return p
}

// TestChaos: no message that anyone was told is delivered is lost, doubled or out of order, whatever dies.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	p := newPlan(t)
	t.Logf("%v, seed=%d", p.duration, p.seed)
	w := newWorld(p.accounts, p.seed)
	w.server = newServer(t, w.accounts)
	defer w.server.log.judge(t)
	if p.stall {
		w.server.Stall = 5 * time.Second
	}
	w.devices[len(w.devices)-1].deaf = p.deaf

	ctx, cancel := context.WithTimeout(t.Context(), 2*p.duration+settling+3*patience)
	defer cancel()
	if err := w.server.start(ctx); err != nil {
		t.Fatal(err)
	}
	var lives, work sync.WaitGroup
	over, leave := context.WithCancel(ctx)
	defer func() { leave(); lives.Wait(); w.report(t) }()
	for _, d := range w.devices {
		lives.Go(func() { d.live(over) })
	}
	w.until(t, ctx, patience, "everybody is there", func(d *device) bool { return d.session > 0 && len(d.unacked) == 0 })

	talking, silence := context.WithCancel(ctx)
	defer silence()
	end := time.Now().Add(p.duration)
	for _, d := range w.devices {
		work.Go(func() { w.write(talking, d, pace*time.Duration(len(w.devices)), p.seed) })
	}
	var cuts cuts
	work.Go(func() { cuts = w.cut(talking, end, rand.New(rand.NewPCG(p.seed, 1))) })
	kills, terms := w.kill(t, ctx, end, rand.New(rand.NewPCG(p.seed, 2)))
	silence()
	work.Wait()
	t.Logf("%d messages; %d connections reset, %d left silently, %d closed, %d sessions forgotten, %d left for too long; %d kills, %d terminations",
		len(w.messages), cuts.resets, cuts.silent, cuts.closed, cuts.forgotten, cuts.left, kills, terms)
	if t.Failed() {
		return
	}
	w.until(t, ctx, settling, "everything is acknowledged", func(d *device) bool {
		if len(d.unacked) > 0 {
			d.ask()
		}
		return d.conn != nil && len(d.unacked) == 0 && !d.active
	})
	archives, err := w.readArchives(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !w.complete(archives) && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	for _, d := range w.devices {
		d.ping()
	}
	w.until(t, ctx, patience, "everything has arrived", func(d *device) bool { return d.pings > 0 })
	leave()
	lives.Wait()
	w.conclude(t, w.judge(archives))
	if err := w.server.end(ctx, syscall.SIGTERM); err != nil {
		t.Errorf("the server ends with %v", err)
	}
}

// until waits for a condition of all devices.
func (w *world) until(t *testing.T, ctx context.Context, limit time.Duration, what string, condition func(*device) bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		var not []string
		for _, d := range w.devices {
			d.mu.Lock()
			if !condition(d) {
				not = append(not, d.name())
			}
			d.mu.Unlock()
		}
		if len(not) == 0 {
			return
		}
		select {
		case <-w.failed:
			t.Fatalf("not yet: %s; missing: %s", what, not)
		default:
		}
		if time.Now().After(deadline) || !pause(ctx, 100*time.Millisecond) {
			t.Fatalf("not after %v: %s; missing: %s", limit, what, not)
		}
	}
}

// cuts are what was done to connections.
type cuts struct{ resets, silent, closed, forgotten, left int }

// cut cuts connections until the context ends.
func (w *world) cut(ctx context.Context, end time.Time, chance *rand.Rand) (n cuts) {
	for pause(ctx, time.Duration(chance.ExpFloat64()*float64(50*time.Millisecond))) {
		d := w.devices[chance.IntN(len(w.devices))]
		l := loss{silent: chance.IntN(3) == 0, away: time.Duration(chance.IntN(500)) * time.Millisecond}
		switch kind := chance.IntN(100); {
		case kind < 6:
			l.forgets = true
		case kind < 9 && time.Until(end) > tooLong:
			l.away = tooLong
		case kind < 12:
			l = loss{closes: true, away: time.Duration(chance.IntN(3000)) * time.Millisecond}
			if chance.IntN(2) == 0 && w.lose(d.account.devices[1-int(d.label[0]-'a')], l) { // nobody is there
				n.closed++
			}
		}
		if !w.lose(d, l) {
			continue
		}
		if l.closes {
			n.closed++
			continue
		}
		if l.silent {
			n.silent++
		} else {
			n.resets++
		}
		if l.forgets {
			n.forgotten++
		} else if l.away == tooLong {
			n.left++
		}
	}
	return n
}

// lose makes a device lose its connection, unless it is the deaf one.
func (w *world) lose(d *device, l loss) bool { return !d.deaf && d.lose(l) }

// kill kills the server and starts it again, sometimes before everybody is back, for some time and at
// least ten times a minute.
func (w *world) kill(t *testing.T, ctx context.Context, end time.Time, chance *rand.Rand) (kills, terms int) {
	life := 4 * time.Second
	if w.server.Stall > 0 {
		life *= 4
	}
	least := int(time.Until(end) / (life + 2*time.Second))
	next := func() time.Duration {
		if chance.IntN(4) == 0 {
			return time.Duration(chance.Int64N(int64(600 * time.Millisecond))) // nobody is back, or not everybody
		}
		return time.Second + time.Duration(chance.Int64N(int64(life)))
	}
	for pause(ctx, next()) && (time.Now().Before(end) || kills < least) {
		sig := syscall.SIGKILL
		if (kills+terms)%7 == 1 {
			sig = syscall.SIGTERM
		}
		w.note("gets the signal: " + sig.String())
		if err := w.server.end(ctx, sig); err != nil {
			t.Errorf("%v: the server ends with %v", sig, err)
		}
		w.note("starts")
		if err := w.server.start(ctx); err != nil {
			t.Error(err)
			return kills, terms
		}
		w.note("listens")
		if sig == syscall.SIGKILL {
			kills++
		} else {
			terms++
		}
		select {
		case <-w.failed:
			return kills, terms
		default:
		}
	}
	return kills, terms
}

// note keeps what happened to the server, for stories.
func (w *world) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lives = append(w.lives, event{at: time.Now(), how: what})
}

// conclude prints what was found.
func (w *world) conclude(t *testing.T, v *verdict) {
	sightings, outOfOrder := [4]int{}, 0
	for _, d := range w.devices {
		for _, s := range d.seen() {
			sightings[s.how]++
		}
		outOfOrder += v.outOfOrder(d)
	}
	t.Logf("seen %d live, %d as copies of what was received, %d of what was sent, %d in pages, %d of them there only",
		sightings[direct], sightings[received], sightings[sentElsewhere], sightings[paged], v.missed)
	t.Logf("%d doubled because they were sent again after a session was lost; %d came again in another session; %d of different senders in another order than in the archive",
		v.doubles, v.late, outOfOrder)
	const most = 10
	for i, m := range v.wrong {
		if i == most {
			t.Errorf("and %d more", len(v.wrong)-most)
			break
		}
		t.Errorf("%s %s\n%s", m.about.origin, m.text, m.about.story(w))
	}
}

// report prints what was counted, and what went wrong on the way.
func (w *world) report(t *testing.T) {
	w.mu.Lock()
	figures, failures := w.figures, w.failures
	w.mu.Unlock()
	t.Logf("%d sessions, %d resumed, %d refused; from start to resumed: %s",
		figures.bound, figures.resumed, figures.refused, spread(figures.back))
	all, deaf := w.waits()
	t.Logf("from sent to acknowledged, on one connection: %s", spread(all))
	if len(deaf) > 0 {
		t.Logf("the same to somebody who never acknowledges: %s", spread(deaf))
	}
	for _, f := range failures {
		text := f.who.name() + ": " + f.text + "\n" + f.who.story()
		if f.about != nil {
			text += f.about.story(w)
		}
		t.Error(text)
	}
}

// spread describes times.
func spread(times []time.Duration) string {
	if len(times) == 0 {
		return "never"
	}
	slices.Sort(times)
	at := func(percent int) time.Duration { return times[(len(times)-1)*percent/100].Round(time.Millisecond) }
	return fmt.Sprintf("%d times, median %v, 99%% %v, at most %v", len(times), at(50), at(99), at(100))
}
