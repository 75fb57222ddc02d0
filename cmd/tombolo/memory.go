package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// headroom is how much is allocated at least between two collections of garbage. Go's rule, to collect
// when the heap has doubled, makes a busy server of few sessions collect several times a second.
const headroom = 32 << 20

// A server has calmed down when it has allocated less than calm a second for so many seconds. What it
// does not need any more is then given back to the system, if that is worth the work.
const (
	calm      = 1 << 20
	calmFor   = 3
	worthBack = headroom / 2
)

// tendMemory tunes the garbage collector until the context ends, unless the environment has done so.
func tendMemory(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	m := memory{percent: 100}
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(samples)
		live := samples[1].Value.Uint64() + samples[2].Value.Uint64() + samples[3].Value.Uint64()
		before := m.percent
		release := m.observe(samples[0].Value.Uint64(), live)
		if m.percent != before {
			debug.SetGCPercent(m.percent)
		}
		if release {
			debug.FreeOSMemory()
		}
	}
}

// memory is what tendMemory knows.
type memory struct {
	percent   int    // as GOGC
	allocated uint64 // ever, a second ago
	released  uint64 // allocated when memory was last given back
	quiet     int    // seconds of calm
}

// observe takes what was ever allocated and what a collection leaves alone, once a second, and says
// whether memory is to be given back.
func (m *memory) observe(allocated, live uint64) (release bool) {
	percent := max(100, int(100*headroom/max(live, 4<<20)))
	if percent > m.percent+m.percent/8 || percent < m.percent-m.percent/8 {
		m.percent = percent // which stops the world for a moment
	}
	if allocated-m.allocated < calm {
		m.quiet++
	} else {
		m.quiet = 0
	}
	m.allocated = allocated
	if m.quiet < calmFor || allocated-m.released < worthBack {
		return false
	}
	m.released = allocated
	return true
}
