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
	"tombolo/xmpp/stream"
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

	stream *outgoing // nil while there is none that may carry stanzas
	most   int       // bytes of a stanza that the peer takes (XEP-0478); 0: it did not say
	sent   *outbound // what is to be sent, or was and may not have arrived; nil: nothing
	used   time.Time // when the last stanza was sent, or the stream was ready
	left   time.Time // when the last stream ended

	failures int       // in a row
	until    time.Time // no attempt before
	reason   error     // of the last failure

	pinged time.Time // when a ping was sent; zero: none waits for its answer
}

// Backoff after failures in a row: it doubles from the first to the longest, give or take a quarter.
const (
	firstBackoff   = 2 * time.Second
	longestBackoff = 5 * time.Minute
)

// Retries, while a peer owes us acknowledgements, in the same way.
const (
	firstRetry   = 100 * time.Millisecond
	longestRetry = 5 * time.Second
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
		p.f.refuse(st, reason)
	}
	return true
}

// accept is send under the lock; it returns why the stanza is refused.
func (p *pair) accept(st stanza.Stanza) *stanza.Error {
	now := p.f.Now()
	size := len(st.Element.String())
	limit := p.f.Queue
	if p.stream != nil {
		// What a peer does not read is bounded by its stream; this is for one that does not acknowledge.
		limit += p.f.Limits.Queue
	}
	switch {
	case p.stream != nil && !p.takes(size):
		return tooLarge()
	case p.stream == nil && !p.running && now.Before(p.until):
		return publicReason(p.reason)
	case p.held()+size > limit:
		return stanza.ResourceConstraint("too much waits for " + p.Remote)
	case p.stream == nil && !p.running && !p.f.start(p.connect):
		return publicReason(errClosing)
	}
	p.running = true
	if p.sent == nil {
		p.sent = p.f.draft(p.Pair)
		if now.Sub(p.left) < p.f.ConnectTime {
			p.sent.lost = p.left
		}
	}
	p.used = now
	p.sent.send(st, now)
	return nil
}

// held is the bytes of all that is not known to have left.
func (p *pair) held() int {
	_, bytes := p.sent.waiting()
	return bytes
}

// wake sets up a stream for what waits.
func (p *pair) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent != nil && !p.running {
		p.running = p.f.start(p.connect)
	}
}

// connect sets up a stream, lives it, and does so again as long as something waits.
func (p *pair) connect() {
	for attempt := 0; ; attempt++ {
		ctx, cancel := context.WithTimeout(p.f.work, p.f.ConnectTime)
		lived := false
		err := p.f.reach(ctx, p.Pair, &purpose{authenticate: true, way: p, former: p.former(),
			ready: func(o *outgoing) { lived = true; p.ready(o) }})
		cancel()
		if lived {
			attempt = 0
		}
		wait, more := p.again(err, attempt)
		if !more {
			return
		}
		select {
		case <-time.After(wait):
		case <-p.f.work.Done():
		}
	}
}

// former is the session that a new stream may go on with.
func (p *pair) former() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent == nil {
		return ""
	}
	return p.sent.id
}

// ready is called when a stream may carry the pair's stanzas.
func (p *pair) ready(o *outgoing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer o.setResuming(false)
	if o.agreed.resumed && (p.sent == nil || p.sent.id != o.former) {
		o.s.Drop() // given up meanwhile, by shut
		return
	}
	now := p.f.Now()
	p.stream, p.most, p.used, p.pinged = o, o.s.MaxBytes(), now, time.Time{}
	p.failures, p.until, p.reason = 0, time.Time{}, nil
	if !o.agreed.resumed {
		p.renew(o, now)
	} else if err := p.sent.resume(o.s, o.agreed.handled, now); err != nil {
		o.s.Close(stanza.AsStreamError(err))
		return
	}
}

// renew begins to send on a stream, and sends what waited for it or was lost with the last one.
func (p *pair) renew(o *outgoing, now time.Time) {
	old := p.sent
	p.sent = begin(o, now)
	if old == nil {
		return
	}
	if o.agreed.known {
		_ = old.acknowledge(o.agreed.handled, now) // else it is of no use
	}
	p.sent.lost = old.lost
	parcels, returned := again(old.end(), old.posted)
	parcels = slices.DeleteFunc(parcels, func(parcel stream.Parcel) bool {
		if p.takes(len(parcel.Element.String())) {
			return false
		}
		p.returnLater(tooLarge(), parcel.Note.(letter).Stanza)
		return true
	})
	if old.posted > 0 {
		p.f.Log.Info("what another server may have got is sent again", "local", p.Local, "peer", p.Remote,
			"again", len(parcels), "returned", len(returned))
	}
	bytes := 0
	for _, parcel := range parcels {
		bytes += len(parcel.Element.String())
	}
	o.s.Spare(bytes)
	gate := p.sent.moved(old, parcels)
	for _, parcel := range parcels {
		if l := parcel.Note.(letter); l.kept {
			p.sent.post(l, gate, now)
		} else {
			p.sent.post(l, parcel.Gate, now)
		}
	}
	p.returnLater(publicReason(errLost), returned...)
}

// returnLater is bounce for who holds the lock of the pair.
func (p *pair) returnLater(reason *stanza.Error, stanzas ...stanza.Stanza) {
	if len(stanzas) > 0 {
		p.f.start(func() { p.f.bounce(reason, stanzas...) })
	}
}

// acknowledged takes the word of a stream's peer for what it has got.
func (p *pair) acknowledged(o *outgoing, h uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream != o {
		return nil
	}
	return p.sent.acknowledge(h, p.f.Now())
}

// written forgets what was handed to the connection to a peer that does not acknowledge.
func (p *pair) written(o *outgoing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream == o {
		p.sent.arrived(p.sent.ledger.Written())
	}
}

// takes says whether the peer accepts a stanza of this size, by what it announced.
func (p *pair) takes(size int) bool { return p.most == 0 || size <= p.most }

// tooLarge is what the sender of a stanza is told that the other server would not accept.
func tooLarge() *stanza.Error {
	return stanza.PolicyViolation("the stanza is larger than the other server accepts")
}

// again deals with the end of a stream or of the attempts to make one, and says whether, and after how
// long, to try once more. What a stream never wrote goes to the next one, and so does what a peer that
// acknowledges has not acknowledged; what else was written is the peer's, or lost with it. A peer with which
// there was a stream a moment ago is tried for a while: a connection that fails tells little of it.
func (p *pair) again(err error, attempt int) (wait time.Duration, more bool) {
	p.mu.Lock()
	now, lived, progress := p.f.Now(), p.stream != nil, false
	if lived {
		p.stream = nil
		progress = p.leave(now) // so this comes to an end, whatever the peer does
	}
	p.running = false
	switch {
	case p.sent == nil && (err == nil || lived):
		p.mu.Unlock()
		return 0, false
	case p.f.work.Err() != nil:
	case progress:
		p.running = true
		p.mu.Unlock()
		return 0, true
	case p.sent != nil && now.Sub(p.sent.lost) < max(p.sent.grace, p.f.ConnectTime) && !isRejection(err):
		p.running = true
		p.mu.Unlock()
		wait = min(firstRetry<<min(attempt, 20), longestRetry)
		return wait*3/4 + time.Duration(p.f.Random(int(wait/2))), true
	}
	waiting, over := p.fail(err)
	p.mu.Unlock()
	p.f.Log.Info("another domain cannot be reached", "local", p.Local, "peer", p.Remote, "err", err,
		"returned", len(waiting))
	p.f.giveUp(publicReason(err), waiting, over)
	return 0, false
}

// leave takes what was sent off a stream that is over, and says whether anything arrived on it.
func (p *pair) leave(now time.Time) (progress bool) {
	b := p.sent
	if b.acks {
		b.ledger.Park()
	} else {
		b.arrived(b.ledger.Written())
	}
	if b.progress || b.lost.IsZero() {
		b.lost = now
	}
	p.left = now
	if count, _ := b.waiting(); count == 0 {
		b.forget() // there is nothing to go on with
		p.sent = nil
	}
	return b.progress
}

// fail begins a time in which nothing is tried, and returns what waited, and what the store is to forget of
// that when its senders have it back (giveUp).
func (p *pair) fail(err error) (waiting []stanza.Stanza, over *outbound) {
	if err == nil {
		err = errLost
	}
	backoff := p.backoff()
	p.failures++
	p.until, p.reason = p.f.Now().Add(backoff*3/4+time.Duration(p.f.Random(int(backoff/2)))), err
	if p.sent == nil || p.stream != nil {
		return nil, nil
	}
	closing := p.f.work.Err() != nil
	for _, parcel := range p.sent.end() {
		if l := parcel.Note.(letter); !closing || !l.kept {
			waiting = append(waiting, l.Stanza)
		}
	}
	if closing {
		p.sent.release() // the rest is sent after the restart
	} else {
		over = p.sent
	}
	p.sent = nil
	return waiting, over
}

// giveUp returns what waited to its senders, and then forgets it: a crash in between returns it once more,
// or sends it after all, but does not lose it without a word.
func (f *Federation) giveUp(reason *stanza.Error, waiting []stanza.Stanza, over *outbound) {
	f.bounce(reason, waiting...)
	if over != nil {
		over.forget()
	}
}

func (p *pair) backoff() time.Duration { return min(firstBackoff<<min(p.failures, 20), longestBackoff) }

// shut returns what waits to its senders, for good, but for what is sent after a restart.
func (p *pair) shut() {
	p.mu.Lock()
	waiting, over := p.fail(errClosing)
	if p.stream != nil {
		p.quit(nil)
	}
	p.mu.Unlock()
	p.f.giveUp(publicReason(errClosing), waiting, over)
}

// quit ends the stream, with an error or in order. Where the peer owes acknowledgements in a session that can be
// resumed the stream is dropped, for one that is closed takes its session with it (XEP-0198 section 5).
func (p *pair) quit(err *stanza.StreamError) {
	if count, _ := p.sent.waiting(); p.sent.id != "" && count > 0 {
		p.stream.s.Drop()
	}
	p.stream.s.Close(err)
}

// tend looks after the pair; heard is when a stanza last came the other way. It reports whether the
// pair may be forgotten.
func (p *pair) tend(now, heard time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream == nil {
		// Failures are remembered for a while, to tell a row of them.
		p.gone = !p.running && p.sent == nil && now.After(p.until.Add(p.backoff()))
		return p.gone
	}
	life := p.stream.readyAt
	if heard.After(life) {
		life = heard
	}
	count, _ := p.sent.waiting()
	switch {
	case now.Sub(p.used) >= p.f.Idle && (count == 0 || !p.sent.acks):
		p.stream.s.Close(nil)
	case p.sent.acks:
		if p.sent.tend(p.stream.s, now, p.f.Timing.Quiet, p.f.Timing.Answer) {
			p.quit(&stanza.StreamError{Condition: stanza.StreamConnectionTimeout})
		}
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
