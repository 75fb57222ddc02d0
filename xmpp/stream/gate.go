package stream

import (
	"sync"
	"sync/atomic"
)

// A Gate holds back what was enqueued with it, and all that is behind that in the same queue, until it
// is known that what must be kept of it is on disk: nobody sees what its sender might have to send
// again. The zero Gate is closed.
type Gate struct {
	state atomic.Uint32

	mu     sync.Mutex
	queues []*queue // that wait
}

const (
	gateClosed uint32 = iota
	gateOpen
	gateFailed
)

// Open lets everything pass.
func (g *Gate) Open() { g.settle(gateOpen) }

// Fail takes what was enqueued with the gate out of all queues, as if it had never been there.
func (g *Gate) Fail() { g.settle(gateFailed) }

func (g *Gate) settle(state uint32) {
	g.mu.Lock()
	g.state.Store(state)
	queues := g.queues
	g.queues = nil
	g.mu.Unlock()
	for _, q := range queues {
		q.wake()
	}
}

// failed says whether what was enqueued with the gate will never leave; no gate never fails.
func (g *Gate) failed() bool { return g != nil && g.state.Load() == gateFailed }

// closed says whether it is not known yet what becomes of what was enqueued with the gate.
func (g *Gate) closed() bool { return g != nil && g.state.Load() == gateClosed }

// await makes the gate wake a queue when it is settled. It reports false if it is open already.
func (g *Gate) await(q *queue) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.state.Load() {
	case gateOpen:
		return false
	case gateClosed:
		g.queues = append(g.queues, q)
	}
	return true
}

// A gated part of a queue.
type gated struct {
	gate *Gate
	span
}

// A span is a part of a queue, in bytes ever added.
type span struct{ start, end int64 }
