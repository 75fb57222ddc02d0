package bench

import (
	"context"
	"fmt"
	"html"
	"sync"
	"sync/atomic"
	"time"
)

// pageSize is how many messages a query of archive asks for: what clients ask for, and the most that
// Prosody gives.
const pageSize = 50

// archive lets every second user write to the next one, then both page through their archives, newest
// first and one page after the other (XEP-0313 section 4.3.2), and again from the end when they have
// come to the first of these messages. Older ones may be there and are not asked for.
func (r *run) archive(ctx context.Context) ([]Result, error) {
	r.Messages = (max(r.Messages, 1) + pageSize - 1) / pageSize * pageSize
	x := extras{available: true, sm: r.SM}
	from, to := split(r.Target.Accounts)
	senders, err := r.enter(ctx, &r.Target, from, x)
	if err != nil {
		return nil, err
	}
	defer leave(senders)
	receivers, err := r.enter(ctx, &r.Target, to, x)
	if err != nil {
		return nil, err
	}
	defer leave(receivers)
	if err := r.fill(ctx, senders, receivers); err != nil {
		return nil, err
	}

	readers := make([]*reader, 0, 2*len(senders))
	count := func() (n uint64) {
		for _, p := range readers {
			n += p.got.Load()
		}
		return n
	}
	var all sync.WaitGroup
	for _, s := range append(senders, receivers...) {
		p := &reader{run: r, session: s}
		readers = append(readers, p)
		all.Go(func() { r.fail(s.serve(p.see, p.turn)) })
		if err := p.ask(""); err != nil {
			return nil, err
		}
	}
	span, err := r.measure(ctx, count)
	r.stopping.Store(true)
	if err == nil {
		r.until(ctx, patience, count, func() bool {
			for _, p := range readers {
				if p.got.Load() < p.asked.Load() {
					return false
				}
			}
			return true
		})
		err = r.failure()
	}
	leave(senders)
	leave(receivers)
	all.Wait()
	if err != nil {
		return nil, err
	}
	result := r.result(r.Scenario, span, nil, nil)
	var latency Histogram
	for _, p := range readers {
		p.endPass()
		result.Sent += p.due
		result.Received += p.received
		result.Lost += p.lost
		result.Doubled += p.doubled
		result.Reordered += p.reordered
		result.Errors += p.errors + p.asked.Load() - p.got.Load()
		latency.Add(&p.latency)
	}
	result.setLatency(&latency)
	return []Result{result}, nil
}

// fill puts messages into the archives of pairs. A server may give a message to its recipient before
// it has archived it, but nobody asks for a page before all have arrived.
func (r *run) fill(ctx context.Context, senders, receivers []*session) error {
	var stored atomic.Uint64
	return atOnce(ctx, len(senders), len(senders), func(ctx context.Context, i int) error {
		s := receivers[i]
		f := &flow{run: r, out: senders[i].conn, stanza: chat(s.jid, r.Size)}
		a := &arrival{run: r, open: bodyOpen}
		for left := r.Messages; left > 0; {
			n := min(r.Window, left)
			left -= n
			if err := f.fire(n); err != nil {
				return err
			}
			if err := s.expect(ctx, a, n); err != nil {
				return fmt.Errorf("fill the archives of %s and %s: %w", senders[i].jid, s.jid, err)
			}
			r.progress("archive filling: " + itoa(stored.Add(uint64(n))))
		}
		if t := &a.tally; t.doubled+t.reordered > 0 {
			return fmt.Errorf("messages to %s came doubled or out of order; their archive cannot be judged", s.jid)
		}
		return nil
	})
}

// expect waits for so many messages of a flow.
func (s *session) expect(ctx context.Context, a *arrival, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for n > 0 {
		el, err := s.read()
		if err != nil {
			return err
		}
		if a.see(el) {
			n--
		}
	}
	return nil
}

// A reader is a session that pages through its archive.
type reader struct {
	run     *run
	session *session
	asked   atomic.Uint64 // pages
	got     atomic.Uint64

	since   time.Duration // when the page was asked for
	numbers []uint64      // of the page, until its end has come
	next    string        // the id before which the next page ends; "" for the newest
	ended   bool          // the page is complete, and the next may be asked for
	latency Histogram

	pass  tally // what has come since the newest page was asked for, counted back from the newest message
	pages int   // of the pass

	due, received, lost, doubled, reordered, errors uint64
}

// ask asks for the page before an id, which is as the server wrote it.
func (p *reader) ask(before string) error {
	p.asked.Add(1)
	p.since = p.run.now()
	return p.session.send("<iq type='set' id='page'><query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><max>" +
		itoa(pageSize) + "</max><before>" + before + "</before></set></query></iq>")
}

// see looks at a stanza: a message of the page, or its end.
func (p *reader) see(stanza []byte) {
	if named(stanza, "message") {
		if number, _, ok := label(stanza, bodyOpen); ok {
			p.numbers = append(p.numbers, number)
		}
		return
	}
	if !named(stanza, "iq") || attribute(stanza, "id") != "page" {
		return
	}
	if attribute(stanza, "type") != "result" {
		p.run.fail(fmt.Errorf("the server refuses a page to %s: %s", html.UnescapeString(p.session.jid), stanza))
		return
	}
	if p.run.measuring.Load() {
		p.latency.Record(p.run.now() - p.since)
	}
	p.endPage()
	p.next, _ = text(stanza, "first")
	if p.next == "" || p.pages*pageSize >= p.run.Messages {
		p.endPass()
		p.next = ""
	}
	p.ended = true
	p.got.Add(1)
}

// turn asks for the next page when all that had come is read.
func (p *reader) turn() error {
	if !p.ended || p.run.stopping.Load() {
		return nil
	}
	p.ended = false
	return p.ask(p.next)
}

// endPage checks a page. It is in chronological order whichever way one pages (XEP-0313 section 4.3.2), so
// the numbers of a pass fall when each page is read from its end.
func (p *reader) endPage() {
	if len(p.numbers) != pageSize {
		p.errors++
	}
	newest := uint64(p.run.Messages - 1)
	for i := len(p.numbers) - 1; i >= 0; i-- {
		if n := p.numbers[i]; n <= newest {
			p.pass.see(newest - n)
		} else {
			p.errors++ // it was never sent
		}
	}
	p.numbers = p.numbers[:0]
	p.pages++
}

// endPass adds up what was wrong since the newest page.
func (p *reader) endPass() {
	due := uint64(p.pages * pageSize)
	p.due += due
	p.received += p.pass.received
	p.lost += p.pass.lost(due)
	p.doubled += p.pass.doubled
	p.reordered += p.pass.reordered
	p.pass, p.pages = tally{}, 0
}
