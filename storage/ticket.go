package storage

import (
	"context"
	"sync"
)

// A Ticket stands for one submitted operation until its fate is known: kept on disk, or an error
// and nothing kept. All its methods may be called by several goroutines. The zero Ticket is
// pending; backends make one for each operation and Finish it.
type Ticket struct {
	mu    sync.Mutex
	state ticketState
	err   error
	done  chan struct{} // made when somebody first asks for it; most tickets are never waited for
	then  []func(error)
}

type ticketState uint8

const (
	ticketPending   ticketState = iota
	ticketFinishing             // the outcome is known, the functions of Then are being called
	ticketFinished
)

// closedChan is the Done of every ticket that was finished before anybody asked.
var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Wait blocks until the operation is on disk (nil) or has failed, or until ctx ends. An
// operation whose Wait ended with ctx may still be kept. Never call it under a lock.
func (t *Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.Done():
		return t.Err()
	default:
	}
	select {
	case <-t.Done():
		return t.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done is closed when the fate of the operation is known. Err then tells it.
func (t *Ticket) Done() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done == nil {
		if t.state != ticketPending {
			return closedChan
		}
		t.done = make(chan struct{})
	}
	return t.done
}

// Err is nil while the operation is pending and after it was kept.
func (t *Ticket) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Then calls fn once with the outcome: on the committer's goroutine when the operation ends, or
// at once when it has ended already. Functions of one ticket are called in the order in which
// they were given, those of an earlier operation before those of a later one. fn holds up every
// other write: it must neither block nor panic. It may Submit.
func (t *Ticket) Then(fn func(error)) {
	t.mu.Lock()
	if t.state != ticketFinished {
		t.then = append(t.then, fn)
		t.mu.Unlock()
		return
	}
	err := t.err
	t.mu.Unlock()
	fn(err)
}

// Finish makes the outcome known and calls the functions of Then. It is the backend's to call,
// once, without locks; a second call panics.
func (t *Ticket) Finish(err error) {
	t.mu.Lock()
	if t.state != ticketPending {
		t.mu.Unlock()
		panic("storage: ticket finished twice")
	}
	t.state = ticketFinishing
	t.err = err
	if t.done != nil {
		close(t.done)
	}
	// A function may arrive while earlier ones run. It queues behind them, or it would overtake.
	for len(t.then) > 0 {
		then := t.then
		t.then = nil
		t.mu.Unlock()
		for _, fn := range then {
			fn(err)
		}
		t.mu.Lock()
	}
	t.state = ticketFinished
	t.mu.Unlock()
}
