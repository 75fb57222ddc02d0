package bench

import (
	"context"
	"html"
	"sync"
	"sync/atomic"
	"time"
)

var bodyOpen = []byte("<body>")

// chat is a chat message to somebody.
func chat(to string, size int) template {
	return newTemplate("<message to='"+to+"' type='chat'><body>", "</body></message>", size)
}

// pairs lets every second user write to the next one, who belongs to the recipients' server.
func (r *run) pairs(ctx context.Context, recipients *Target) ([]Result, error) {
	x := extras{available: true, sm: r.SM, carbons: r.Carbons}
	from, to := split(r.Target.Accounts)
	if recipients != &r.Target {
		from, to = r.Target.Accounts, recipients.Accounts
		n := min(len(from), len(to))
		from, to = from[:n], to[:n]
	}
	senders, err := r.enter(ctx, &r.Target, from, x)
	if err != nil {
		return nil, err
	}
	defer leave(senders)
	receivers, err := r.enter(ctx, recipients, to, x)
	if err != nil {
		return nil, err
	}
	defer leave(receivers)

	flows, arrivals := make([]*flow, len(senders)), make([]*arrival, len(senders))
	var readers sync.WaitGroup
	var bounced atomic.Uint64
	for i, s := range receivers {
		flows[i] = &flow{run: r, out: senders[i].conn, stanza: chat(s.jid, r.Size)}
		arrivals[i] = &arrival{run: r, open: bodyOpen}
	}
	for i := range flows {
		f, a, news := flows[i], arrivals[i], 0
		readers.Go(func() {
			r.fail(receivers[i].serve(func(stanza []byte) {
				if a.see(stanza) {
					news++
				}
			}, func() error {
				n := news
				news = 0
				if r.Rate > 0 {
					return nil
				}
				return f.fire(n)
			}))
		})
		readers.Go(func() {
			r.fail(senders[i].serve(func(stanza []byte) {
				if attribute(stanza, "type") == "error" {
					bounced.Add(1)
				}
			}, func() error { return nil }))
		})
	}
	count := func() (n uint64) {
		for _, a := range arrivals {
			n += a.count.Load()
		}
		return n
	}
	for i, f := range flows {
		if r.Rate > 0 {
			readers.Go(func() { r.fail(f.pace(ctx, &arrivals[i].count)) })
		} else if err := f.fire(r.Window); err != nil {
			return nil, err
		}
	}
	span, err := r.measure(ctx, count)
	r.stopping.Store(true)
	if err == nil {
		r.until(ctx, patience, count, func() bool {
			for i, f := range flows {
				if !f.arrived(arrivals[i].count.Load()) {
					return false
				}
			}
			return true
		})
		err = r.failure()
	}
	leave(senders)
	leave(receivers)
	readers.Wait()
	if err != nil {
		return nil, err
	}
	result := r.result(r.Scenario, span, arrivals, func(i int) uint64 { return flows[i].sent.Load() })
	result.Errors += bounced.Load()
	return []Result{result}, nil
}

// split takes the accounts apart: senders and recipients.
func split(accounts []*Account) (from, to []*Account) {
	for i := 0; i+1 < len(accounts); i += 2 {
		from, to = append(from, accounts[i]), append(to, accounts[i+1])
	}
	return from, to
}

// offline stores messages for users who are away, then lets them come. They are logged in already but
// have not announced themselves, which is the same to their messages (XEP-0160 section 3), so that no
// login is measured.
func (r *run) offline(ctx context.Context) ([]Result, error) {
	from, to := split(r.Target.Accounts)
	senders, err := r.enter(ctx, &r.Target, from, extras{available: true})
	if err != nil {
		return nil, err
	}
	defer leave(senders)
	receivers, err := r.enter(ctx, &r.Target, to, extras{})
	if err != nil {
		return nil, err
	}
	defer leave(receivers)
	if r.Messages < 1 {
		r.Messages = 1
	}

	flows, arrivals := make([]*flow, len(senders)), make([]*arrival, len(senders))
	var stored, unstored atomic.Uint64
	for i := range senders {
		bare := html.EscapeString(to[i].Name) + "@" + html.EscapeString(r.Target.Domain)
		flows[i] = &flow{run: r, out: senders[i].conn, stanza: chat(bare, r.Size)}
		arrivals[i] = &arrival{run: r, open: bodyOpen}
	}
	first, err := r.snapshot(0)
	if err != nil {
		return nil, err
	}
	// A window of messages, then a question whose answer comes after they were taken: nobody says when
	// a message to somebody else is stored.
	err = atOnce(ctx, len(senders), len(senders), func(ctx context.Context, i int) error {
		stop := context.AfterFunc(ctx, func() { _ = senders[i].conn.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		for left := r.Messages; left > 0; {
			n := min(r.Window, left)
			left -= n
			if err := flows[i].fire(n); err != nil {
				return err
			}
			bounces, err := senders[i].barrier(html.EscapeString(r.Target.Domain))
			if err != nil {
				return err
			}
			unstored.Add(uint64(bounces))
			r.progress("offline storing: " + itoa(stored.Add(uint64(n))))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	second, err := r.snapshot(stored.Load())
	if err != nil {
		return nil, err
	}
	storing := r.result("offline store", span{first, second}, nil, nil)
	storing.Sent, storing.Errors = stored.Load(), unstored.Load()

	count := func() (n uint64) {
		for _, a := range arrivals {
			n += a.count.Load()
		}
		return n
	}
	if first, err = r.snapshot(0); err != nil {
		return nil, err
	}
	var readers sync.WaitGroup
	for i, s := range receivers {
		readers.Go(func() {
			r.fail(s.serve(func(stanza []byte) { arrivals[i].see(stanza) }, func() error { return nil }))
		})
		if err := s.send("<presence/>"); err != nil {
			return nil, err
		}
	}
	r.until(ctx, stalled, count, func() bool { return count() >= stored.Load() })
	last, err := r.snapshot(count())
	if err != nil {
		return nil, err
	}
	leave(receivers)
	readers.Wait()
	if err := r.failure(); err != nil {
		return nil, err
	}
	delivering := r.result("offline deliver", span{first, last}, arrivals, func(i int) uint64 { return flows[i].sent.Load() })
	return []Result{storing, delivering}, nil
}

// barrier asks the server something and waits for the answer. It returns how many errors came before.
func (s *session) barrier(domain string) (bounces int, err error) {
	if err := s.send("<iq type='get' id='barrier' to='" + domain + "'><ping xmlns='urn:xmpp:ping'/></iq>"); err != nil {
		return 0, err
	}
	for {
		el, err := s.read()
		switch {
		case err != nil:
			return bounces, err
		case named(el, "iq") && attribute(el, "id") == "barrier":
			return bounces, nil
		case attribute(el, "type") == "error":
			bounces++
		}
	}
}
