package federation

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// A question is what makes an answer to <db:verify/> ours (XEP-0220 section 2.1.2).
type question struct {
	Pair
	id string
}

// verify asks the authoritative server of p.Remote whether it made the key for our stream id. It
// returns at once; done is called exactly once, from another goroutine, with nil if it did.
func (f *Federation) verify(p Pair, id, key string, done func(error)) {
	done = once(done)
	ask := func(o *outgoing, answer func(error)) {
		o.ask(question{p, id}, key, answer)
	}
	if o := f.proven(p); o != nil {
		ask(o, func(err error) {
			if errors.Is(err, errLost) && f.start(func() { f.verifyAnew(p, ask, done) }) {
				return
			}
			done(err)
		})
		return
	}
	if !f.start(func() { f.verifyAnew(p, ask, done) }) {
		done(errClosing)
	}
}

// verifyAnew opens a stream for one question.
func (f *Federation) verifyAnew(p Pair, ask func(*outgoing, func(error)), done func(error)) {
	ctx, cancel := context.WithTimeout(f.work, f.ConnectTime)
	defer cancel()
	late := context.AfterFunc(ctx, func() { done(fmt.Errorf("verification of a dialback key: %w", context.Cause(ctx))) })
	defer late()
	err := f.reach(ctx, p, &purpose{ready: func(o *outgoing) {
		ask(o, func(err error) {
			done(err)
			o.s.Close(nil)
		})
		context.AfterFunc(ctx, func() { o.s.Close(nil) })
	}})
	if err == nil {
		err = errLost
	}
	done(err)
}

// proven finds a stream of ours whose other end has proved to be p.Remote, which is more than an
// answer on a fresh stream would show. One that merely DNS led to is not used again: what answered
// there may have been taken over since.
func (f *Federation) proven(p Pair) *outgoing {
	f.mu.Lock()
	way := f.pairs[p]
	f.mu.Unlock()
	if way == nil {
		return nil
	}
	way.mu.Lock()
	o := way.stream
	way.mu.Unlock()
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over || o.security.proof == byDialback {
		return nil
	}
	return o
}

// ask sends a question; answer is called once, with errLost if the stream ends before an answer.
func (o *outgoing) ask(q question, key string, answer func(error)) {
	o.mu.Lock()
	_, taken := o.asked[q]
	if o.over || taken {
		o.mu.Unlock()
		answer(errLost)
		return
	}
	if o.asked == nil {
		o.asked = make(map[question]func(error))
	}
	o.asked[q] = answer
	o.mu.Unlock()
	o.s.SendRaw(dialback{name: "verify", from: q.Local, to: q.Remote, id: q.id, key: key}.String())
}

// verified takes an answer. Only one that was asked for on this very stream counts, and once (XEP-0220
// section 3.1).
func (o *outgoing) verified(d dialback) {
	q := question{Pair{d.to, d.from}, d.id}
	o.mu.Lock()
	answer := o.asked[q]
	delete(o.asked, q)
	o.mu.Unlock()
	switch {
	case answer == nil:
		o.s.Log.Warn("unsolicited dialback verification ignored", "from", d.from, "to", d.to, "type", d.typ)
	case d.typ == "valid":
		answer(nil)
	default:
		answer(&dialbackError{d.typ, d.err})
	}
}

// once makes every call but the first do nothing.
func once(fn func(error)) func(error) {
	var o sync.Once
	return func(err error) { o.Do(func() { fn(err) }) }
}
