package bench

import (
	"context"
	"errors"
	"sync"
)

// quietRate is how many messages a second the quiet pair of fairness sends, unless Rate says otherwise.
const quietRate = 50

// A flood is what one user does to a server beside the quiet pair of fairness.
type flood interface {
	start(ctx context.Context) error  // it goes on until run.stopping
	count() uint64                    // what has arrived so far
	settle(ctx context.Context) error // waits for the rest
	close()                           // ends the sessions, any number of times
	result(span) Result
}

// fairness measures a pair that writes now and then: alone, and beside a flood. The pair keeps its
// rate however long its messages take, so that a stall is not measured as one late message.
func (r *run) fairness(ctx context.Context) ([]Result, error) {
	quiet, others := r.Config, r.Target.Accounts[2:]
	quiet.Target.Accounts = r.Target.Accounts[:2]
	if quiet.Rate == 0 {
		quiet.Rate = quietRate
	}
	quiet.Window = max(1, int(quiet.Rate)) // of one second
	pair := func(measured func()) (Result, error) {
		r := &run{Config: quiet, began: r.began, measured: measured}
		results, err := r.pairs(ctx, &r.Target)
		if err != nil {
			return Result{}, err
		}
		for i := range results[0].Servers {
			results[0].Servers[i].PerItemUs = 0 // it is the flood that costs
		}
		return results[0], nil
	}

	f, err := r.newFlood(ctx, others)
	if err != nil {
		return nil, err
	}
	defer f.close()
	alone, err := pair(nil)
	if err != nil {
		return nil, err
	}
	if err := f.start(ctx); err != nil {
		return nil, err
	}
	first, err := r.snapshot(f.count())
	if err != nil {
		return nil, err
	}
	var last snapshot
	var unread error             // the figures of processes
	beside, err := pair(func() { // the last messages of the pair may be behind what a server has not yet dealt with
		last, unread = r.snapshot(f.count())
		r.stopping.Store(true)
	})
	if err = errors.Join(err, unread); err == nil {
		err = f.settle(ctx)
	}
	f.close()
	if err != nil {
		return nil, err
	}
	flooding := f.result(span{first, last})
	alone.Scenario, beside.Scenario, flooding.Scenario = r.Scenario+" alone", r.Scenario+" beside "+r.Flood, r.Scenario+" flood of "+r.Flood
	if a, b := alone.Latency, beside.Latency; a != nil && b != nil && a.P50 > 0 && a.P99 > 0 {
		beside.Slower = &Slower{b.P50 / a.P50, b.P99 / a.P99}
	}
	return []Result{alone, beside, flooding}, nil
}

// newFlood logs in the users of a flood.
func (r *run) newFlood(ctx context.Context, accounts []*Account) (flood, error) {
	if r.Flood == "presence" {
		f, err := r.newFan(ctx, accounts)
		if err != nil {
			return nil, err
		}
		return fanFlood{f}, nil
	}
	x := extras{available: true, sm: r.SM, carbons: r.Carbons}
	to, recipients := &r.Target, accounts[1:2]
	if r.Flood == "federation" {
		to, recipients = &r.Peer, r.Peer.Accounts[:1]
	}
	sessions, err := r.enter(ctx, &r.Target, accounts[:1], x)
	if err != nil {
		return nil, err
	}
	receivers, err := r.enter(ctx, to, recipients, x)
	if err != nil {
		leave(sessions)
		return nil, err
	}
	sessions = append(sessions, receivers...)
	f := &sessionFlood{run: r, sessions: sessions, arrival: &arrival{run: r, open: bodyOpen},
		flow: &flow{run: r, out: sessions[0].conn, stanza: chat(sessions[1].jid, r.Size)}}
	for _, s := range sessions {
		f.workers.Go(func() {
			r.fail(s.serve(func(stanza []byte) { f.arrival.see(stanza) }, func() error { return nil }))
		})
	}
	return f, nil
}

// A fanFlood is changes of presence, Window of them at a time, or FloodRate a second.
type fanFlood struct{ *fan }

func (f fanFlood) result(s span) Result {
	result := f.run.result("", s, f.arrivals, f.sent)
	result.Unit = "delivery"
	return result
}

// A sessionFlood is a session that sends to another, here or at the peer, as fast as the server takes it, or at FloodRate.
type sessionFlood struct {
	run      *run
	sessions []*session // the sender and the recipient
	flow     *flow
	arrival  *arrival
	workers  sync.WaitGroup
	behind   bool // the server was still taking it when we lost patience
}

func (f *sessionFlood) start(ctx context.Context) error {
	f.workers.Go(func() {
		if err := f.flow.pour(ctx, 16<<10/max(f.run.Size, 1)); err != nil { // about a TLS record
			f.run.fail(f.sessions[0].ended(err))
		}
	})
	return nil
}

func (f *sessionFlood) count() uint64 { return f.arrival.count.Load() }

// settle waits until all has arrived. Where the server limits what a session may send, that takes
// longer than anybody waits, and what is on its way is not lost.
func (f *sessionFlood) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*stalled)
	defer cancel()
	f.run.until(ctx, stalled, f.count, func() bool { return f.flow.arrived(f.count()) })
	f.behind = ctx.Err() != nil
	return f.run.failure()
}

func (f *sessionFlood) close() {
	leave(f.sessions)
	f.workers.Wait()
}

func (f *sessionFlood) result(s span) Result {
	return f.run.result("", s, []*arrival{f.arrival}, func(int) uint64 {
		if f.behind {
			return f.arrival.tally.next
		}
		return f.flow.sent.Load()
	})
}
