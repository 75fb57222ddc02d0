package bench

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// logins lets users come and go. The time of a login is from the first packet until its own presence
// comes back.
func (r *run) logins(ctx context.Context) ([]Result, error) {
	loops := min(r.Window, len(r.Target.Accounts))
	latency := make([]Histogram, loops)
	var done atomic.Uint64
	var all sync.WaitGroup
	for i := range loops {
		all.Go(func() {
			// Each loop has accounts of its own, so that nobody takes another's resource.
			for n := i; !r.stopping.Load() && ctx.Err() == nil; n += loops {
				if n >= len(r.Target.Accounts) {
					n = i
				}
				began := time.Now()
				if err := r.comeAndGo(ctx, r.Target.Accounts[n], func() {
					if r.measuring.Load() {
						latency[i].Record(time.Since(began))
					}
					done.Add(1)
				}); err != nil {
					r.fail(err)
					return
				}
			}
		})
	}
	span, err := r.measure(ctx, done.Load)
	r.stopping.Store(true)
	all.Wait()
	if err != nil {
		return nil, err
	}
	result := r.result("login", span, nil, nil)
	var total Histogram
	for i := range latency {
		total.Add(&latency[i])
	}
	result.setLatency(&total)
	return []Result{result}, nil
}

func (r *run) comeAndGo(ctx context.Context, a *Account, here func()) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := r.Target.login(ctx, a, extras{available: true, sm: r.SM, carbons: r.Carbons})
	if err != nil {
		return err
	}
	here()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return s.leave()
}

// idle logs everybody in and lets time pass.
func (r *run) idle(ctx context.Context) ([]Result, error) {
	// What the first login costs a server once is not what a session costs.
	if err := r.comeAndGo(ctx, r.Target.Accounts[0], func() {}); err != nil {
		return nil, err
	}
	none := func() uint64 { return 0 }
	if err := r.wait(ctx, r.WarmUp, "waiting for the server to settle", none); err != nil {
		return nil, err
	}
	before, err := r.snapshot(0)
	if err != nil {
		return nil, err
	}
	sessions, err := r.enter(ctx, &r.Target, r.Target.Accounts, extras{available: true, sm: r.SM, carbons: r.Carbons})
	if err != nil {
		return nil, err
	}
	defer leave(sessions)
	var readers sync.WaitGroup
	for _, s := range sessions {
		readers.Go(func() { r.fail(s.serve(func([]byte) {}, func() error { return nil })) })
	}
	here := func() uint64 { return uint64(len(sessions)) }
	idle, err := r.measure(ctx, here)
	leave(sessions)
	readers.Wait()
	if err != nil {
		return nil, err
	}
	idle.before.count = 0
	result := r.result("idle", idle, nil, nil)
	for i := range result.Servers {
		p := &result.Servers[i]
		p.PerItemUs = 0 // nothing was done
		p.PerSessionKiB = float64(idle.after.servers[i].rss-before.servers[i].rss) / 1024 / float64(len(sessions))
	}
	return []Result{result}, nil
}
