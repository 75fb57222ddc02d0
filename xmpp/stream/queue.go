package stream

import (
	"context"
	"sync"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
)

// A queue holds what waits to be written to one stream. Filling it never blocks, and neither does
// flushing, which any goroutine may do: the connection takes everything at once, and while the peer
// does not read the bytes stay here, where they are counted.
type queue struct {
	s       *Stream
	limit   int
	mu      sync.Mutex
	room    sync.Cond // something was written, or the queue is closed
	buf     []byte
	marked  bool // the flusher knows of it, or somebody is flushing
	writing bool // the connection is in use by a flush or a handshake
	ended   bool // </stream:stream> is in it, and nothing comes after that
	closed  bool

	added, taken int64 // bytes ever put in, and ever handed to the connection
}

// flushAt is how much is gathered at most before it is written in the middle of a turn.
const flushAt = 32 << 10

// keepBuffer is the largest buffer that goes back to the pool.
const keepBuffer = 64 << 10

var queueBuffers = sync.Pool{New: func() any { return new([]byte) }}

func (q *queue) init(s *Stream) {
	q.s, q.limit = s, s.role.Limits.Queue
	q.room.L = &q.mu
}

// add appends an element, or text where there is none; last says that nothing comes after it. It
// returns where in all bytes ever added this ends, and whether it was still possible.
func (q *queue) add(e element.Element, text string, last bool) (end int64, ok bool) {
	q.mu.Lock()
	if q.closed || q.ended {
		q.mu.Unlock()
		return 0, false
	}
	q.ended = last
	if q.buf == nil {
		q.buf = (*queueBuffers.Get().(*[]byte))[:0]
	}
	before := len(q.buf)
	if text != "" {
		q.buf = append(q.buf, text...)
	} else {
		q.buf = e.AppendTo(q.buf, ns.Client)
	}
	size := len(q.buf)
	q.added += int64(size - before)
	end = q.added
	mark := !q.marked
	q.marked = true
	q.mu.Unlock()

	if mark {
		q.s.role.Flusher.mark(q)
	}
	if size >= flushAt {
		q.flush()
		if size > q.limit && q.pending() > q.limit {
			q.cut()
		}
	}
	return end, true
}

// flush writes what is there, unless somebody else is writing and will find it, or the peer does not
// read: then the connection calls drained when it does.
func (q *queue) flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing {
		return
	}
	for len(q.buf) > 0 && !q.closed && !q.s.conn.Blocked() {
		out := q.buf
		q.buf, q.writing = nil, true
		q.mu.Unlock()
		err := q.s.conn.Write(out)
		if cap(out) <= keepBuffer {
			queueBuffers.Put(&out)
		}
		q.mu.Lock()
		q.writing = false
		if err != nil {
			q.shut()
		} else {
			q.taken += int64(len(out))
		}
		q.room.Broadcast()
	}
	q.marked = false
}

// drained is called by the connection when the peer has read what it was behind with.
func (q *queue) drained() { q.flush() }

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
	q.flush()
	return err
}

// written is how much was ever handed to the connection.
func (q *queue) written() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.taken
}

func (q *queue) pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.buf)
}

// full says that so much waits that we had better not read more from this peer.
func (q *queue) full() bool { return q.pending() > q.limit/4 }

// waitRoom blocks while the queue is full.
func (q *queue) waitRoom() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.buf) > q.limit/4 && !q.closed {
		q.room.Wait()
	}
}

// cut drops a peer that does not read.
func (q *queue) cut() {
	q.s.Log.Info("the peer does not read; its connection is cut", "bytes", q.pending())
	q.s.role.Counters.Hit("limit: queue")
	q.s.conn.Abort()
	q.close()
}

// close gives up what is left.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shut()
}

// shut is close with the lock held.
func (q *queue) shut() {
	q.closed, q.buf = true, nil
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
	f.dirty = nil
	f.mu.Unlock()
	for _, q := range todo {
		q.flush()
	}
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
