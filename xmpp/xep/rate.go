package xep

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"tombolo/xmpp/transport"
)

// A rate bounds what each address may do in any minute. An IPv6 /64 is one address, because whoever
// has one of its addresses usually has them all.
type rate struct {
	perMinute int
	exempt    []netip.Prefix
	now       func() time.Time

	mu    sync.Mutex
	acts  map[netip.Prefix][]time.Time // of the last minute, oldest first
	swept time.Time
}

// newRate allows perMinute acts an address and minute; any number if it is 0.
func newRate(perMinute int, exempt []netip.Prefix, now func() time.Time) *rate {
	return &rate{perMinute: perMinute, exempt: exempt, now: now, acts: make(map[netip.Prefix][]time.Time)}
}

// allows counts one act, unless it is one too many.
func (r *rate) allows(from net.Addr) bool {
	site, limited := transport.Site(from, r.exempt)
	if r.perMinute <= 0 || !limited {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if now.Sub(r.swept) >= time.Minute {
		for other, acts := range r.acts {
			if now.Sub(acts[len(acts)-1]) >= time.Minute {
				delete(r.acts, other)
			}
		}
		r.swept = now
	}
	acts := r.acts[site]
	for len(acts) > 0 && now.Sub(acts[0]) >= time.Minute {
		acts = acts[1:]
	}
	if len(acts) >= r.perMinute {
		return false
	}
	r.acts[site] = append(acts, now)
	return true
}
