package federation

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// A pair is the way out from one of our domains to another one. It is quiet, or somebody is setting
// up a stream and what is sent waits, or it has a stream, or it failed lately and what is sent
// returns at once.
type pair struct {
	f *Federation
	Pair

	mu      sync.Mutex
	gone    bool // no longer in the map
	running bool // connect runs
	queue   []stanza.Stanza
	bytes   int // in queue

	stream *outgoing // nil while there is none that may carry stanzas
	most   int       // bytes of a stanza that the peer takes (XEP-0478); 0: it did not say
	posted []posted  // handed to the stream, not yet to its connection
	wrote  bool      // the stream has written a stanza
	used   time.Time // when the last stanza was sent, or the stream was ready

	failures int       // in a row
	until    time.Time // no attempt before
	reason   error     // of the last failure

	pinged time.Time // when a ping was sent; zero: none waits for its answer
}

// posted is a stanza and where in the bytes of the stream it ends.
type posted struct {
	stanza.Stanza
	end int64
}

// Backoff after failures in a row: it doubles from the first to the longest, give or take a quarter.
const (
	firstBackoff   = 2 * time.Second
	longestBackoff = 5 * time.Minute
)

// send sends or queues a stanza, or returns it to its sender. It reports false if the pair was
// forgotten meanwhile.
func (p *pair) send(st stanza.Stanza) bool {
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return false
	}
	reason := p.accept(st)
	p.mu.Unlock()
	if reason != nil {
		p.f.bounce(reason, st)
	}
	return true
}

// accept is send under the lock; it returns why the stanza is refused.
func (p *pair) accept(st stanza.Stanza) *stanza.Error {
	now := p.f.Now()
	size := len(st.Element.String())
	if p.stream != nil && !p.takes(size) {
		return tooLarge()
	}
	if p.stream != nil && p.post(st, now) {
		return nil
	}
	switch {
	case !p.running && now.Before(p.until):
		return publicReason(p.reason)
	case p.bytes+size > p.f.Queue:
		return stanza.ResourceConstraint("too much waits for " + p.Remote)
	case !p.running && !p.f.start(p.connect):
		return publicReason(errClosing)
	}
	p.running = true
	p.queue = append(p.queue, st)
	p.bytes += size
	return nil
}

// post hands a stanza to the stream; false if that is closing. What then waits is sent when it is
// over, by a new one.
func (p *pair) post(st stanza.Stanza, now time.Time) bool {
	end, ok := p.stream.s.Post(st.Element)
	if !ok {
		return false
	}
	p.used = now
	p.forgetWritten()
	p.posted = append(p.posted, posted{st, end})
	return true
}

// forgetWritten drops what has been handed to the connection.
func (p *pair) forgetWritten() {
	written, n := p.stream.s.Written(), 0
	for n < len(p.posted) && p.posted[n].end <= written {
		n++
	}
	p.posted = slices.Delete(p.posted, 0, n)
	p.wrote = p.wrote || n > 0
}

// connect sets up a stream, lives it, and does so again as long as something waits.
func (p *pair) connect() {
	for {
		ctx, cancel := context.WithTimeout(p.f.work, p.f.ConnectTime)
		err := p.f.reach(ctx, p.Pair, &purpose{authenticate: true, ready: p.ready})
		cancel()
		if !p.again(err) {
			return
		}
	}
}

// ready is called when a stream may carry the pair's stanzas.
func (p *pair) ready(o *outgoing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stream, p.most, p.wrote, p.pinged = o, o.s.MaxBytes(), false, time.Time{}
	p.failures, p.until, p.reason = 0, time.Time{}, nil
	waiting := p.queue
	p.queue, p.bytes, p.used = nil, 0, p.f.Now()
	for i, st := range waiting {
		if !p.takes(len(st.Element.String())) {
			p.f.start(func() { p.f.bounce(tooLarge(), st) }) // not under the lock of the pair
			continue
		}
		if !p.post(st, p.used) {
			p.requeue(waiting[i:])
			break
		}
	}
}

// takes says whether the peer accepts a stanza of this size, by what it announced.
func (p *pair) takes(size int) bool { return p.most == 0 || size <= p.most }

// tooLarge is what the sender of a stanza is told that the other server would not accept.
func tooLarge() *stanza.Error {
	return stanza.PolicyViolation("the stanza is larger than the other server accepts")
}

// requeue puts stanzas in front of what waits.
func (p *pair) requeue(stanzas []stanza.Stanza) {
	p.queue = slices.Concat(stanzas, p.queue)
	for _, st := range stanzas {
		p.bytes += len(st.Element.String())
	}
}

// again deals with the end of a stream or of the attempts to make one, and says whether to try now.
// What a stream never wrote goes to the next one; what it wrote is the peer's, or lost with it.
func (p *pair) again(err error) bool {
	p.mu.Lock()
	progress := false
	if p.stream != nil {
		p.forgetWritten()
		unwritten := make([]stanza.Stanza, len(p.posted))
		for i, s := range p.posted {
			unwritten[i] = s.Stanza
		}
		p.requeue(unwritten)
		progress = p.wrote // so this comes to an end, whatever the peer does
		p.stream, p.posted = nil, nil
	}
	p.running = false
	if len(p.queue) == 0 && err == nil {
		p.mu.Unlock()
		return false
	}
	if progress && p.f.work.Err() == nil {
		p.running = len(p.queue) > 0
		defer p.mu.Unlock()
		return p.running
	}
	waiting := p.fail(err)
	p.mu.Unlock()
	p.f.Log.Info("another domain cannot be reached", "local", p.Local, "peer", p.Remote, "err", err,
		"returned", len(waiting))
	p.f.bounce(publicReason(err), waiting...)
	return false
}

// fail begins a time in which nothing is tried, and returns what waited.
func (p *pair) fail(err error) []stanza.Stanza {
	if err == nil {
		err = errLost
	}
	backoff := p.backoff()
	p.failures++
	p.until, p.reason = p.f.Now().Add(backoff*3/4+time.Duration(p.f.Random(int(backoff/2)))), err
	waiting := p.queue
	p.queue, p.bytes = nil, 0
	return waiting
}

func (p *pair) backoff() time.Duration { return min(firstBackoff<<min(p.failures, 20), longestBackoff) }

// shut returns what waits to its senders, for good.
func (p *pair) shut() {
	p.mu.Lock()
	waiting := p.fail(errClosing)
	p.mu.Unlock()
	p.f.bounce(publicReason(errClosing), waiting...)
}

// tend looks after the pair; heard is when a stanza last came the other way. It reports whether the
// pair may be forgotten.
func (p *pair) tend(now, heard time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream == nil {
		// Failures are remembered for a while, to tell a row of them.
		p.gone = !p.running && now.After(p.until.Add(p.backoff()))
		return p.gone
	}
	p.forgetWritten()
	life := p.stream.readyAt
	if heard.After(life) {
		life = heard
	}
	switch {
	case now.Sub(p.used) >= p.f.Idle:
		p.stream.s.Close(nil)
	case p.pinged.IsZero() && now.Sub(life) >= p.f.Timing.Quiet:
		p.pinged = now
		p.stream.s.Send(p.ping())
	case p.pinged.IsZero() || now.Sub(p.pinged) < p.f.Timing.Answer:
	case heard.After(p.pinged):
		p.pinged = time.Time{}
	case heard.After(p.stream.readyAt):
		// It could reach us since this stream is there, and now it does not answer.
		p.stream.s.Close(&stanza.StreamError{Condition: stanza.StreamConnectionTimeout})
	default:
		p.pinged = now // it may be unable to connect to us; the ping kept the connection alive
		p.stream.s.Send(p.ping())
	}
	return false
}

// ping asks the other domain for a sign of life (XEP-0199). The answer comes on a stream of the
// peer's, addressed to our domain, which does nothing with it: what counts is that it came.
func (p *pair) ping() element.Element {
	from, to := jid.MustParse(p.Local), jid.MustParse(p.Remote)
	return stanza.New(stanza.IQ, "get", randomID(), from, to, element.Leaf("ping", ns.Ping, "")).Element
}

func clone(s string) string { return strings.Clone(s) }
