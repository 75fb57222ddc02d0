package bench

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// A flow is stanzas from one session to others: so many in flight, the next sent when one has arrived.
type flow struct {
	run    *run
	out    io.Writer
	stanza template

	mu    sync.Mutex
	sent  atomic.Uint64
	batch []byte
}

// fire sends so many stanzas in one write.
func (f *flow) fire(n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n == 0 || f.run.stopping.Load() {
		return nil
	}
	now, number := f.run.now(), f.sent.Load()
	f.batch = f.batch[:0]
	for range n {
		f.batch = f.stanza.append(f.batch, number, now)
		number++
	}
	f.sent.Store(number)
	_, err := f.out.Write(f.batch)
	return err
}

// arrived says whether so many stanzas are all of the flow: not while one is being sent, which may
// take as long as the server pleases.
func (f *flow) arrived(n uint64) bool {
	if !f.mu.TryLock() {
		return false
	}
	defer f.mu.Unlock()
	return n >= f.sent.Load()
}

// pace sends one stanza at a time, so many a second, while fewer than the window are in flight.
func (f *flow) pace(ctx context.Context, arrived *atomic.Uint64) error {
	tick := time.NewTicker(time.Duration(float64(time.Second) / f.run.Rate))
	defer tick.Stop()
	for !f.run.stopping.Load() {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if int(f.sent.Load()-arrived.Load()) < f.run.Window {
			if err := f.fire(1); err != nil {
				return err
			}
		}
	}
	return nil
}

// pour sends as fast as it goes, or at FloodRate, so many stanzas at a time at most, whether they arrive or not.
func (f *flow) pour(ctx context.Context, most int) error {
	rate := f.run.FloodRate
	for began := time.Now(); !f.run.stopping.Load() && ctx.Err() == nil; {
		n := max(most, 1)
		if rate > 0 {
			if n = min(n, int(time.Since(began).Seconds()*rate)-int(f.sent.Load())); n <= 0 {
				time.Sleep(time.Millisecond)
				continue
			}
		}
		if err := f.fire(n); err != nil {
			return err
		}
	}
	return nil
}

// An arrival is one recipient of a flow.
type arrival struct {
	run     *run
	open    []byte // what stands before a label
	tally   tally
	latency Histogram
	errors  uint64 // stanzas of type error
	count   atomic.Uint64
}

// see looks at a stanza, and says whether it is one of the flow.
func (a *arrival) see(stanza []byte) bool {
	number, at, ok := label(stanza, a.open)
	if !ok {
		return false
	}
	if attribute(stanza, "type") == "error" {
		a.errors++
		return false
	}
	a.tally.see(number)
	a.count.Add(1)
	if a.run.measuring.Load() {
		a.latency.Record(a.run.now() - at)
	}
	return true
}
