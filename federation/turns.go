package federation

import (
	"context"
	"sync"
)

// Turns let so many do something at a time, and of one party only a share of them: whoever wants much
// waits for himself, and leaves room for others.
type turns struct {
	all  chan struct{}
	most int // of one party

	mu      sync.Mutex
	parties map[string]*share
}

// A share is what one party has of the turns, as long as it has or wants any.
type share struct {
	slots   chan struct{}
	holders int // who have a slot or wait for one
}

func newTurns(all, most int) *turns {
	return &turns{all: make(chan struct{}, all), most: most, parties: make(map[string]*share)}
}

// take waits for a turn of the party, which done ends, or for the end of ctx.
func (t *turns) take(ctx context.Context, party string) (done func(), err error) {
	own := t.enter(party)
	select { // first this, lest who waits for himself keep a turn from others
	case own.slots <- struct{}{}:
	case <-ctx.Done():
		t.leave(party)
		return nil, context.Cause(ctx)
	}
	select {
	case t.all <- struct{}{}:
	case <-ctx.Done():
		<-own.slots
		t.leave(party)
		return nil, context.Cause(ctx)
	}
	return func() {
		<-t.all
		<-own.slots
		t.leave(party)
	}, nil
}

func (t *turns) enter(party string) *share {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.parties[party]
	if own == nil {
		own = &share{slots: make(chan struct{}, t.most)}
		t.parties[party] = own
	}
	own.holders++
	return own
}

func (t *turns) leave(party string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.parties[party]
	if own.holders--; own.holders == 0 {
		delete(t.parties, party)
	}
}
