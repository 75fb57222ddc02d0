package bench

import (
	"bytes"
	"context"
	"html"
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

var statusOpen = []byte("<status>")

// presence lets the first user change presence before the eyes of all others. The next change is sent
// when all have seen one.
func (r *run) presence(ctx context.Context) ([]Result, error) {
	sessions, err := r.enter(ctx, &r.Target, r.Target.Accounts, extras{available: true, sm: r.SM, carbons: r.Carbons})
	if err != nil {
		return nil, err
	}
	defer leave(sessions)
	star, audience := sessions[0], sessions[1:]
	if !r.Target.relay {
		r.progress("presence: contacts subscribe")
		if err := r.subscribe(ctx, star, audience); err != nil {
			return nil, err
		}
	}

	f := &flow{run: r, out: star.conn, stanza: newTemplate("<presence><status>", "</status></presence>", r.Size)}
	arrivals := make([]*arrival, len(audience))
	var readers sync.WaitGroup
	var seen atomic.Uint64 // by anybody
	readers.Go(func() { r.fail(star.serve(func([]byte) {}, func() error { return nil })) })
	for i, s := range audience {
		a, news := &arrival{run: r, open: statusOpen}, 0
		arrivals[i] = a
		readers.Go(func() {
			r.fail(s.serve(func(stanza []byte) {
				if a.see(stanza) {
					news++
				}
			}, func() error {
				n := uint64(len(audience))
				now := seen.Add(uint64(news))
				complete := now/n - (now-uint64(news))/n
				news = 0
				return f.fire(int(complete))
			}))
		})
	}
	if err := f.fire(r.Window); err != nil {
		return nil, err
	}
	span, err := r.measure(ctx, seen.Load)
	r.stopping.Store(true)
	if err == nil {
		r.until(ctx, 5*time.Second, seen.Load, func() bool { return seen.Load() >= f.sent.Load()*uint64(len(audience)) })
		err = r.failure()
	}
	leave(sessions)
	readers.Wait()
	if err != nil {
		return nil, err
	}
	return []Result{r.result(r.Scenario, span, arrivals, func(int) uint64 { return f.sent.Load() })}, nil
}

// subscribe makes sure that the audience sees the presence of the star (RFC 6121 section 3.1).
func (r *run) subscribe(ctx context.Context, star *session, audience []*session) error {
	ctx, cancel := context.WithTimeout(ctx, patience+time.Duration(len(audience))*100*time.Millisecond)
	defer cancel()
	bare := bareOf(star.jid)
	stop := context.AfterFunc(ctx, func() {
		for _, s := range append([]*session{star}, audience...) {
			_ = s.conn.SetDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	var missing []*session
	for _, s := range audience {
		roster, err := s.ask("", "get", "<query xmlns='jabber:iq:roster'/>")
		if err != nil {
			return err
		}
		if !subscribed(roster, bare) {
			missing = append(missing, s)
		}
	}
	for _, s := range missing {
		if err := s.send("<presence to='" + bare + "' type='subscribe'/>"); err != nil {
			return err
		}
		for {
			el, err := star.read()
			if err != nil {
				return err
			}
			if named(el, "presence") && attribute(el, "type") == "subscribe" {
				if err := star.send("<presence to='" + attribute(el, "from") + "' type='subscribed'/>"); err != nil {
					return err
				}
				break
			}
		}
	}
	for _, s := range missing {
		for {
			el, err := s.read()
			if err != nil {
				return err
			}
			if named(el, "presence") && attribute(el, "type") == "subscribed" {
				break
			}
		}
	}
	return nil
}

// subscribed says whether a roster has a subscription to somebody.
func subscribed(roster []byte, bare string) bool {
	for rest := roster; ; {
		i := bytes.Index(rest, []byte("<item"))
		if i < 0 {
			return false
		}
		rest = rest[i:]
		if attribute(rest, "jid") == bare {
			s := attribute(rest, "subscription")
			return s == "to" || s == "both"
		}
		rest = rest[1:]
	}
}

func bareOf(full string) string {
	bare, _, _ := bytes.Cut([]byte(full), []byte{'/'})
	return html.EscapeString(html.UnescapeString(string(bare)))
}
