package stream

import (
	"context"
	"slices"
	"sync"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
)

// A queue holds what waits to be written to one stream. Filling it never blocks, and neither does
// flushing, which any goroutine may do: the connection takes everything at once, and while the peer
// does not read the bytes stay here, where they are counted.
type queue struct {
	s       *Stream
	limit   int
	spared  int64 // what comes before this, of all bytes ever put in, does not count towards the limit
	mu      sync.Mutex
	room    sync.Cond // something was written, or the queue is closed
	buf     []byte
	lent    *[]byte // what buf came from the pool in
	marked  bool    // the flusher knows of it, or somebody is flushing
	writing bool    // the connection is in use by a flush or a handshake
	ended   bool    // </stream:stream> is in it, and nothing comes after that
	closed  bool

	added, taken int64 // bytes ever put in, and ever handed to the connection or taken out for good
	passed       int64 // of those taken, what the kernel has
	gates        []gated
	awaited      int64 // when so many have passed, the role is told; 0: nobody waits
	news         bool  // they have passed, and the role is not told yet

	asking  bool        // a request for acknowledgement is on its way or unanswered
	ask     bool        // stanzas that count were added since
	askedAt time.Time   // the last request
	askedOf int64       // what was added before it
	asker   *time.Timer // makes the next one if nothing else is written; nil: none is due
}

// A kind is what is put into a queue.
type kind uint8

const (
	plain   kind = iota
	counted      // a stanza that the peer acknowledges
	last         // nothing comes after it
)

// request asks the peer to say what it has got (XEP-0198 section 4).
const request = "<r xmlns='" + ns.SM + "'/>"

// askBytes is how much a peer is sent at most before it is asked, Timing.Ask or not.
const askBytes = 16 << 10

// flushAt is how much is gathered at most before it is written in the middle of a turn.
const flushAt = 32 << 10

// keepBuffer is the largest buffer that goes back to the pool.
const keepBuffer = 64 << 10

var queueBuffers = sync.Pool{New: func() any { return new([]byte) }}

func (q *queue) init(s *Stream) {
	q.s, q.limit = s, s.role.Limits.Queue
	q.room.L = &q.mu
}

// add appends an element, or text where there is none, that waits for a gate if that is not nil. It
// returns where in all bytes ever added this is, and whether it was still possible.
func (q *queue) add(e element.Element, text string, what kind, gate *Gate) (place span, ok bool) {
	q.mu.Lock()
	if q.closed || q.ended {
		q.mu.Unlock()
		return span{}, false
	}
	q.ended = what == last
	q.ask = q.ask || what == counted
	if q.buf == nil {
		q.borrow()
	}
	before := len(q.buf)
	if text != "" {
		q.buf = append(q.buf, text...)
	} else {
		q.buf = e.AppendTo(q.buf, ns.Client)
	}
	size := len(q.buf)
	place.start = q.added
	q.added += int64(size - before)
	place.end = q.added
	if gate != nil && gate.await(q) {
		q.gates = append(q.gates, gated{gate, place})
	}
	mark := !q.marked
	q.marked = true
	q.mu.Unlock()

	if mark {
		q.s.role.Flusher.mark(q)
	}
	if size >= flushAt {
		q.flush()
		q.wake() // we may hold locks, and the role is not told here
		if size > q.limit && q.exceeds() {
			q.cut()
		}
	}
	return place, true
}

// spare keeps the next bytes from counting as what waits for a peer that does not read.
func (q *queue) spare(bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spared = q.added + int64(bytes)
}

// hold keeps back what is added from now on until a gate is open, or has failed.
func (q *queue) hold(gate *Gate) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed && !q.ended && gate.await(q) {
		q.gates = append(q.gates, gated{gate, span{q.added, q.added}})
	}
}

// flush writes what is there, unless somebody else is writing and will find it, or the peer does not
// read: then the connection calls drained when it does. What is written at once ends with a request
// for acknowledgement, if one is due.
func (q *queue) flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing {
		return
	}
	for len(q.buf) > 0 && !q.closed && !q.s.conn.Blocked() {
		n := q.passable()
		if n == 0 {
			break
		}
		if n == len(q.buf) && q.asks(false) {
			q.buf = append(q.buf, request...)
			q.added += int64(len(request))
			n = len(q.buf)
		}
		out, rest, lent := q.buf[:n], q.buf[n:], q.lent
		q.buf, q.lent, q.writing = nil, nil, true
		if len(rest) > 0 {
			q.borrow()
			q.buf = append(q.buf, rest...)
		}
		q.mu.Unlock()
		err := q.s.conn.Write(out)
		if cap(out) <= keepBuffer {
			*lent = out
			queueBuffers.Put(lent)
		}
		q.mu.Lock()
		q.writing = false
		if err != nil {
			q.shut()
		} else {
			q.taken += int64(len(out))
			q.pass() // now: the next write may fail
		}
		q.room.Broadcast()
	}
	q.marked = false
	q.pass()
	q.room.Broadcast()
}

// pass notes what the kernel has. What the connection keeps may never leave it.
func (q *queue) pass() {
	if q.passed == q.taken || q.writing || !q.s.conn.Idle() {
		return
	}
	q.passed = q.taken
	if q.awaited > 0 && q.passed >= q.awaited {
		q.awaited, q.news = 0, true
	}
}

// tell tells the role of what has passed. Who calls it holds no locks.
func (q *queue) tell() {
	q.mu.Lock()
	news := q.news
	q.news = false
	q.mu.Unlock()
	if news {
		q.s.role.Written(q.s)
	}
}

// passable is how many of the bytes that wait may leave now: all, or those up to a closed gate. What
// waited for a gate that failed is taken out.
func (q *queue) passable() int {
	for len(q.gates) > 0 {
		first := q.gates[0]
		before := int(first.start - q.taken)
		switch {
		case first.gate.failed() && before == 0:
			size := int(first.end - first.start)
			q.buf = q.buf[size:]
			q.taken += int64(size)
		case first.gate.state.Load() != gateOpen:
			return before
		}
		q.gates = q.gates[1:]
	}
	q.gates = nil
	return len(q.buf)
}

// borrow takes an empty buffer from the pool.
func (q *queue) borrow() {
	q.lent = queueBuffers.Get().(*[]byte)
	q.buf = (*q.lent)[:0]
}

// wake makes the queue be flushed, after a gate has been settled, and the role be told what has passed.
func (q *queue) wake() {
	q.mu.Lock()
	mark := !q.marked && (len(q.buf) > 0 || q.news)
	q.marked = q.marked || mark
	q.mu.Unlock()
	if mark {
		q.s.role.Flusher.mark(q)
	}
}

// await makes the role be told when so many bytes have passed.
func (q *queue) await(end int64) {
	q.mu.Lock()
	if q.passed >= end {
		q.news = true
	} else if q.awaited == 0 || end < q.awaited {
		q.awaited = end
	}
	news := q.news
	q.mu.Unlock()
	if news {
		q.wake() // our caller holds locks
	}
}

// asks says whether to ask the peer what it has got with what is about to be written, if that is anything, and notes
// that it is asked. If it is too early for that, askAlone will do it.
func (q *queue) asks(alone bool) bool {
	if !q.ask || q.asking || q.ended || q.closed {
		return false
	}
	now, pause := time.Now(), q.s.role.Timing.Ask
	due, last := q.askedAt.Add(pause), q.askedAt.Add(pause*3/2) // what goes alone waits for something to go with
	if alone {
		due = last
	}
	if now.Before(due) && q.added-q.askedOf < askBytes {
		if q.asker == nil {
			q.asker = time.AfterFunc(last.Sub(now), func() {
				q.mu.Lock()
				q.asker = nil
				q.mu.Unlock()
				q.askAlone()
			})
		}
		return false
	}
	q.ask, q.asking, q.askedAt, q.askedOf = false, true, now, q.added
	return true
}

// askAlone asks although nothing else is written. What waits to be written will ask.
func (q *queue) askAlone() {
	q.mu.Lock()
	asks := len(q.buf) == 0 && q.asks(true)
	q.mu.Unlock()
	if asks {
		q.add(element.Element{}, request, plain, nil)
	}
}

// answered notes that the peer has acknowledged something, and asks again, in time, if there is more that it
// was sent.
func (q *queue) answered(more bool) {
	q.mu.Lock()
	q.asking = false
	q.ask = q.ask && more
	q.mu.Unlock()
	q.askAlone()
}

// drained is called by the connection when the peer has read what it was behind with.
func (q *queue) drained() {
	q.flush()
	q.tell()
}

// exclusively runs fn, a handshake, while nobody writes to the connection.
func (q *queue) exclusively(fn func() error) error {
	q.mu.Lock()
	for q.writing {
		q.room.Wait()
	}
	q.writing = true
	q.mu.Unlock()
	err := fn()
	q.mu.Lock()
	q.writing = false
	q.room.Broadcast()
	q.mu.Unlock()
	q.drained()
	return err
}

// written is how much the kernel ever got.
func (q *queue) written() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.passed
}

// retract takes out what the connection does not have yet of what is lost here, and so sent on elsewhere. The
// parcels are in order.
func (q *queue) retract(lost []Parcel) {
	never := new(Gate)
	never.Fail()
	q.mu.Lock()
	handed := q.added - int64(len(q.buf))
	i := 0
	for _, p := range lost {
		if q.closed || p.start < handed || p.end > q.added {
			continue
		}
		for i < len(q.gates) && q.gates[i].end <= p.start {
			i++
		}
		if i < len(q.gates) && q.gates[i].start == p.start {
			q.gates[i].gate = never
		} else {
			q.gates = slices.Insert(q.gates, i, gated{never, p.span})
		}
	}
	q.mu.Unlock()
	q.wake()
}

func (q *queue) pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.buf)
}

// load is how many bytes wait, but for those that are spared. q.mu is held.
func (q *queue) load() int {
	first := q.added - int64(len(q.buf))
	return len(q.buf) - int(max(0, q.spared-first))
}

// exceeds says that more waits than the limit.
func (q *queue) exceeds() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.load() > q.limit
}

// full says that so much waits that we had better not read more from this peer.
func (q *queue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.load() > q.limit/4
}

// waitRoom blocks while the queue is full.
func (q *queue) waitRoom() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.load() > q.limit/4 && !q.closed {
		q.room.Wait()
	}
}

// cut drops a peer that does not read.
func (q *queue) cut() {
	q.s.Log().Info("the peer does not read; its connection is cut", "bytes", q.pending())
	q.s.role.Counters.Hit("limit: queue")
	q.s.conn.Abort()
	q.close()
}

// waitGates waits until what is there has left, if all that it waits for is the gates: that is soon,
// and not longer than most.
func (q *queue) waitGates(most time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.gates) == 0 {
		return
	}
	over := false
	timer := time.AfterFunc(most, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		over = true
		q.room.Broadcast()
	})
	defer timer.Stop()
	for len(q.gates) > 0 && !q.closed && !over && !q.s.conn.Blocked() {
		q.room.Wait()
	}
}

// close gives up what is left.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shut()
}

// shut is close with the lock held.
func (q *queue) shut() {
	q.closed, q.buf, q.lent, q.gates = true, nil, nil, nil
	if q.asker != nil {
		q.asker.Stop()
	}
	q.room.Broadcast()
	q.s.conn.Close()
}

// A Flusher knows which queues have something to write. While a stream takes its turn, queues that it
// fills are only noted, and written when the turn ends: a hundred stanzas to one peer are one write.
// What is filled outside of any turn is written by Run. One Flusher serves a whole server.
type Flusher struct {
	mu    sync.Mutex
	turns int
	dirty []*queue
	spare []*queue // memory for the next dirty
	wake  chan struct{}
}

// NewFlusher makes a Flusher; Run must be running for it to be of use.
func NewFlusher() *Flusher { return &Flusher{wake: make(chan struct{}, 1)} }

// Run writes what is filled outside of turns, until the context ends.
func (f *Flusher) Run(ctx context.Context) {
	for {
		select {
		case <-f.wake:
			f.flush()
		case <-ctx.Done():
			f.flush()
			return
		}
	}
}

// Begin and End frame a turn.
func (f *Flusher) Begin() {
	f.mu.Lock()
	f.turns++
	f.mu.Unlock()
}

// End writes everything that was filled since, by this turn or another.
func (f *Flusher) End() {
	f.mu.Lock()
	f.turns--
	f.mu.Unlock()
	f.flush()
}

func (f *Flusher) flush() {
	f.mu.Lock()
	todo := f.dirty
	if len(todo) > 0 {
		f.dirty, f.spare = f.spare, nil
	}
	f.mu.Unlock()
	if len(todo) == 0 {
		return
	}
	for _, q := range todo {
		q.flush()
	}
	for _, q := range todo {
		q.tell()
	}
	clear(todo)
	f.mu.Lock()
	f.spare = todo[:0]
	f.mu.Unlock()
}

func (f *Flusher) mark(q *queue) {
	f.mu.Lock()
	f.dirty = append(f.dirty, q)
	alone := f.turns == 0
	f.mu.Unlock()
	if alone {
		select {
		case f.wake <- struct{}{}:
		default: // a wake-up is on its way
		}
	}
}
