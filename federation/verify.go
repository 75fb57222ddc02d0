package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"tombolo/xmpp/stanza"
)

// A question is what makes an answer to <db:verify/> ours (XEP-0220 section 2.1.2).
type question struct {
	Pair
	id string
}

// verify asks the authoritative server of p.Remote whether it made the key for our stream id, in a turn
// of whoever wants to know, as long as life lasts. It returns at once; done is called exactly once, from
// another goroutine, with nil if it did.
func (f *Federation) verify(life context.Context, party string, p Pair, id, key string, done func(error)) {
	q, once := question{p, id}, sync.Once{}
	conclude := func(err error) { once.Do(func() { done(err) }) }
	ask := func() {
		ctx, cancel := context.WithTimeout(life, f.ConnectTime)
		defer cancel()
		leave, err := f.verifications.take(ctx, party)
		if err != nil {
			conclude(&refusal{stanza.ResourceConstraint("too many keys are being verified"), err})
			return
		}
		defer leave()
		if o := f.proven(p); o != nil {
			if err := o.ask(ctx, q, key); !errors.Is(err, errLost) {
				conclude(err)
				return
			}
		}
		var asking sync.WaitGroup
		err = f.reach(ctx, p, &purpose{ready: func(o *outgoing) {
			asking.Go(func() {
				conclude(o.ask(ctx, q, key)) // before the peer has closed its side, which may take long
				o.s.Close(nil)
			})
		}})
		asking.Wait()
		conclude(cmp.Or(err, errLost))
	}
	if !f.start(ask) {
		conclude(errClosing)
	}
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

// ask sends a question and waits for the answer: nil for "valid", errLost if the stream ended before.
func (o *outgoing) ask(ctx context.Context, q question, key string) error {
	answer := make(chan error, 1)
	o.mu.Lock()
	_, taken := o.asked[q]
	if o.over || taken {
		o.mu.Unlock()
		return errLost
	}
	if o.asked == nil {
		o.asked = make(map[question]func(error))
	}
	o.asked[q] = func(err error) { answer <- err }
	o.mu.Unlock()
	o.s.SendRaw(dialback{name: "verify", from: q.Local, to: q.Remote, id: q.id, key: key}.String())
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.asked, q)
		return fmt.Errorf("the authoritative server does not answer: %w", context.Cause(ctx))
	}
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
		o.s.Log().Warn("unsolicited dialback verification ignored", "from", d.from, "to", d.to, "type", d.typ)
	case d.typ == "valid":
		answer(nil)
	default:
		answer(&dialbackError{d.typ, d.err})
	}
}
