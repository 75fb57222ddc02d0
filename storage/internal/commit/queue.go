// Package commit is the committer that the backends of storage share: a queue of operations and
// the one goroutine that hands them, in order and in groups, to a backend's transaction.
//
// Whatever was submitted while one group was being committed is the next group, so a quiet server
// answers in one sync and a busy one shares a sync between hundreds of operations. Only what nobody
// waits for waits itself, for company. Start with Queue.
package commit

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"tombolo/storage"
)

// DefaultMark is how many operations may be unfinished before Admit blocks: two groups, of which one is
// gathered while the other is written. More would only make everybody wait longer behind one who floods.
const DefaultMark = 2048

// maxGroup bounds a group, and with it the memory of a transaction and the time until its first
// operation is answered. Groups of this size have long stopped gaining from growing.
const maxGroup = 1024

// Who has been answered often comes back at once. After a group of some size the next one waits a little for them,
// so that a sync serves more; who is alone does not wait, and a large group gains nothing.
const (
	few, many = 8, 256
	maxLinger = time.Millisecond
)

// An Op is one submitted operation.
type Op struct {
	Run func(storage.Tx) error
	// Err is set by the backend's transaction when Run failed and left nothing behind.
	Err    error
	ticket *storage.Ticket
}

// Attempt runs the operation in tx and sets Err; a panic is an error like any other. When it
// reports false, the backend removes from tx what the operation wrote.
func (op *Op) Attempt(tx storage.Tx) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			op.Err = fmt.Errorf("storage: operation panicked: %v\n%s", r, debug.Stack())
			ok = false
		}
	}()
	if op.Run != nil {
		op.Err = op.Run(tx)
	}
	return op.Err == nil
}

// A Queue is the committer of one store.
type Queue struct {
	commit func([]Op) error
	mark   int

	mu      sync.Mutex
	ops     []Op          // waiting for the next group
	urgent  bool          // somebody waits for one of them
	delayed *time.Timer   // until they are urgent; nil: they are, or there are none
	pending int           // ops, and those in the group at work
	room    chan struct{} // closed when pending falls below mark; nil when nobody waits for that
	stats   storage.Stats
	closed  bool
	err     error // why the store failed

	wake   chan struct{} // holds a token while there may be something to do
	failed chan struct{}
	ended  chan struct{} // closed when the goroutine has returned
}

// New starts a committer. commit runs a group in one transaction and returns once that is
// durable. It sets Err of the operations that failed by themselves, and returns an error when it
// kept nothing: one that wraps storage.ErrNoSpace when the next group may try again, anything
// else when the store has failed for good. Admit blocks above mark operations; 0 means
// DefaultMark.
func New(mark int, commit func([]Op) error) *Queue {
	if mark <= 0 {
		mark = DefaultMark
	}
	q := &Queue{
		commit: commit,
		mark:   mark,
		wake:   make(chan struct{}, 1),
		failed: make(chan struct{}),
		ended:  make(chan struct{}),
	}
	go q.run()
	return q
}

// Submit is Submit of storage.Store.
func (q *Queue) Submit(fn func(storage.Tx) error) *storage.Ticket { return q.add(fn, true) }

// Defer is Defer of storage.Store.
func (q *Queue) Defer(fn func(storage.Tx) error) *storage.Ticket { return q.add(fn, false) }

func (q *Queue) add(fn func(storage.Tx) error, urgent bool) *storage.Ticket {
	t := new(storage.Ticket)
	q.mu.Lock()
	err := q.refusal()
	if err == nil {
		q.ops = append(q.ops, Op{Run: fn, ticket: t})
		q.pending++
		switch {
		case urgent || q.pending >= q.mark/2:
			q.hurry()
		case !q.urgent && q.delayed == nil:
			q.delayed = time.AfterFunc(storage.Deferral, func() {
				q.mu.Lock()
				defer q.mu.Unlock()
				q.hurry()
			})
		}
	}
	q.mu.Unlock()
	if err != nil {
		t.Finish(err)
	}
	return t
}

// hurry makes what waits the next group. q.mu is held.
func (q *Queue) hurry() {
	q.urgent = true
	q.signal()
}

// Admit is Admit of storage.Store.
func (q *Queue) Admit(ctx context.Context) error {
	for {
		q.mu.Lock()
		err := q.refusal()
		if err != nil || q.pending < q.mark {
			q.mu.Unlock()
			return err
		}
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stats is Stats of storage.Store.
func (q *Queue) Stats() storage.Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	stats := q.stats
	stats.Pending = q.pending
	return stats
}

// Failed is Failed of storage.Store.
func (q *Queue) Failed() <-chan struct{} { return q.failed }

// Err is why the store failed, or nil.
func (q *Queue) Err() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// Close refuses further operations, commits those that were submitted and returns when the
// goroutine has ended. Only the first call reports true: that caller releases the store.
func (q *Queue) Close() (first bool) {
	q.mu.Lock()
	first = !q.closed
	q.closed = true
	q.mu.Unlock()
	q.signal()
	<-q.ended
	return first
}

// refusal is why no operation is taken any more. q.mu is held.
func (q *Queue) refusal() error {
	if q.err != nil {
		return q.err
	}
	if q.closed {
		return storage.ErrClosed
	}
	return nil
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *Queue) run() {
	defer close(q.ended)
	var spare []Op // the group before, emptied: two slices take turns
	for {
		group, closed := q.take(spare)
		if len(group) == 0 {
			if closed {
				return
			}
			<-q.wake
			continue
		}
		var took time.Duration
		for rest := group; len(rest) > 0; {
			n := min(len(rest), maxGroup)
			took = q.carryOut(rest[:n])
			rest = rest[n:]
		}
		if len(group) > few && len(group) < many {
			time.Sleep(min(took/4, maxLinger))
		}
		clear(group)
		spare = group
	}
}

// take takes the next group, for which spare is left; none if it is not due.
func (q *Queue) take(spare []Op) (group []Op, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ops) == 0 {
		q.urgent = false // the timer of what was taken meanwhile
		return nil, q.closed
	}
	if !q.urgent && !q.closed {
		return nil, false
	}
	if q.delayed != nil {
		q.delayed.Stop()
		q.delayed = nil
	}
	group, q.ops, q.urgent = q.ops, spare[:0], false
	return group, q.closed
}

// carryOut commits one group and tells everybody who waits for it.
func (q *Queue) carryOut(group []Op) (took time.Duration) {
	start := time.Now()
	err := q.Err()
	if err == nil && slices.ContainsFunc(group, func(op Op) bool { return op.Run != nil }) {
		err = q.commit(group)
		if err != nil && !errors.Is(err, storage.ErrNoSpace) {
			q.fail(err)
		}
	}
	took = time.Since(start)
	for i := range group {
		op := &group[i]
		if op.Err == nil {
			op.Err = err
		}
		op.ticket.Finish(op.Err)
	}
	q.mu.Lock()
	q.pending -= len(group)
	q.stats.Operations += uint64(len(group))
	q.stats.Commits++
	q.stats.Last = took
	q.stats.Longest = max(q.stats.Longest, took)
	q.stats.Total += took
	if q.pending < q.mark {
		q.release()
	}
	q.mu.Unlock()
	return took
}

func (q *Queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
	close(q.failed)
	q.release()
}

// release lets the callers of Admit look again. q.mu is held.
func (q *Queue) release() {
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}
