// Package meter counts things that operators want to know of but nobody wants a log line for: which
// limits were hit, how often. Every part that has a limit calls Hit; the verb server.status shows
// all counters. There is one Counters a server.
package meter

import (
	"maps"
	"sync"
)

// Counters are numbers by name, such as "limit: stanzas_per_second". The nil Counters counts
// nothing.
type Counters struct {
	mu     sync.Mutex
	counts map[string]uint64
}

// Hit counts one more. It is meant for what is rare: a limit that was reached.
func (c *Counters) Hit(name string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[string]uint64)
	}
	c.counts[name]++
}

// All is a copy of the counters as they are now.
func (c *Counters) All() map[string]uint64 {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}
