package bench

import (
	"bytes"
	"context"
	"html"
	"sync"
	"sync/atomic"
	"time"
)

var statusOpen = []byte("<status>")

// presence lets the first user change presence before the eyes of all others. The next change is sent
// when all have seen one.
func (r *run) presence(ctx context.Context) ([]Result, error) {
	f, err := r.newFan(ctx, r.Target.Accounts)
	if err != nil {
		return nil, err
	}
	defer f.close()
	if err := f.start(ctx); err != nil {
		return nil, err
	}
	span, err := r.measure(ctx, f.count)
	r.stopping.Store(true)
	if err == nil {
		err = f.settle(ctx)
	}
	f.close()
	if err != nil {
		return nil, err
	}
	return []Result{r.result(r.Scenario, span, f.arrivals, f.sent)}, nil
}

// A fan is a user whose presence others see.
type fan struct {
	run      *run
	sessions []*session // the first is the one whom the others see
	flow     *flow
	arrivals []*arrival
	readers  sync.WaitGroup
	seen     atomic.Uint64 // by anybody
}

// newFan logs users in and subscribes all to the first. Nobody changes presence before start.
func (r *run) newFan(ctx context.Context, accounts []*Account) (*fan, error) {
	sessions, err := r.enter(ctx, &r.Target, accounts, extras{available: true, sm: r.SM, carbons: r.Carbons})
	if err != nil {
		return nil, err
	}
	star, audience := sessions[0], sessions[1:]
	if !r.Target.relay {
		r.progress(r.Scenario + ": contacts subscribe")
		if err := r.subscribe(ctx, star, audience); err != nil {
			leave(sessions)
			return nil, err
		}
	}
	f := &fan{run: r, sessions: sessions, arrivals: make([]*arrival, len(audience)),
		flow: &flow{run: r, out: star.conn, stanza: newTemplate("<presence><status>", "</status></presence>", r.Size)}}
	f.readers.Go(func() { r.fail(star.serve(func([]byte) {}, func() error { return nil })) })
	for i, s := range audience {
		a, news := &arrival{run: r, open: statusOpen}, 0
		f.arrivals[i] = a
		f.readers.Go(func() {
			r.fail(s.serve(func(stanza []byte) {
				if a.see(stanza) {
					news++
				}
			}, func() error {
				n := uint64(len(audience))
				now := f.seen.Add(uint64(news))
				complete := now/n - (now-uint64(news))/n
				news = 0
				if r.FloodRate > 0 {
					return nil
				}
				return f.flow.fire(int(complete))
			}))
		})
	}
	return f, nil
}

// start begins with the first changes; from then on one is sent when another has been seen by all, or
// FloodRate a second.
func (f *fan) start(ctx context.Context) error {
	if f.run.FloodRate == 0 {
		return f.flow.fire(f.run.Window)
	}
	f.readers.Go(func() {
		if err := f.flow.pour(ctx, 1); err != nil {
			f.run.fail(f.sessions[0].ended(err))
		}
	})
	return nil
}

func (f *fan) count() uint64   { return f.seen.Load() }
func (f *fan) sent(int) uint64 { return f.flow.sent.Load() }

// settle waits until all have seen what was sent.
func (f *fan) settle(ctx context.Context) error {
	f.run.until(ctx, stalled, f.count, func() bool {
		return f.flow.arrived(f.count() / uint64(len(f.arrivals)))
	})
	return f.run.failure()
}

func (f *fan) close() {
	leave(f.sessions)
	f.readers.Wait()
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
