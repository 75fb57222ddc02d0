package transport

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"tombolo/xmpp/meter"
)

// A Gate bounds what strangers at one address may cost: connections that have not authenticated, and
// TLS handshakes under way. Whoever has authenticated no longer counts, for ten thousand people may
// sit behind the address of one office. An address is an IPv4 address or an IPv6 /64, which is what
// one household has. The nil Gate lets everybody in.
type Gate struct {
	// Strangers is how many connections from one address may be unauthenticated at a time; more
	// are closed at once. 0: no limit.
	Strangers int
	// Handshakes is how many TLS handshakes with one address are carried out at a time; more wait
	// their turn.
	Handshakes int
	// Exempt are networks to which neither applies.
	Exempt   []netip.Prefix
	Counters *meter.Counters

	mu       sync.Mutex
	visitors map[netip.Prefix]*visitor
}

// visitor is what goes on with one address.
type visitor struct {
	strangers int
	holders   int           // passes that are out
	slots     chan struct{} // of handshakes
}

// A Pass is one connection's; the nil Pass is that of an address without limits.
type Pass struct {
	gate    *Gate
	address netip.Prefix
	visitor *visitor
	known   bool
}

// Enter lets a connection in, or says that its address has too many strangers.
func (g *Gate) Enter(remote net.Addr) (*Pass, bool) {
	if g == nil {
		return nil, true
	}
	address, limited := Site(remote, g.Exempt)
	if !limited {
		return nil, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.visitors[address]
	if v != nil && g.Strangers > 0 && v.strangers >= g.Strangers {
		g.Counters.Hit("limit: strangers_per_address")
		return nil, false
	}
	if v == nil {
		if g.visitors == nil {
			g.visitors = make(map[netip.Prefix]*visitor)
		}
		v = &visitor{slots: make(chan struct{}, g.Handshakes)}
		g.visitors[address] = v
	}
	v.strangers++
	v.holders++
	return &Pass{gate: g, address: address, visitor: v}, true
}

// Known says that the connection has authenticated.
func (p *Pass) Known() {
	if p == nil {
		return
	}
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if !p.known {
		p.known = true
		p.visitor.strangers--
	}
}

// Leave gives the pass back.
func (p *Pass) Leave() {
	if p == nil {
		return
	}
	p.Known()
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	if p.visitor.holders--; p.visitor.holders == 0 {
		delete(p.gate.visitors, p.address)
	}
}

// Handshake waits for the turn of this connection; done ends it.
func (p *Pass) Handshake(ctx context.Context) (done func(), err error) {
	if p == nil {
		return func() {}, nil
	}
	select {
	case p.visitor.slots <- struct{}{}:
	default:
		p.gate.Counters.Hit("limit: handshakes_per_address")
		select {
		case p.visitor.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return func() { <-p.visitor.slots }, nil
}

// Site is the address by which limits count, an IPv4 address or an IPv6 /64, and whether they apply:
// not to the exempt networks, and not to what does not come over IP.
func Site(a net.Addr, exempt []netip.Prefix) (site netip.Prefix, limited bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}, false
	}
	address, bits := tcp.AddrPort().Addr().Unmap().WithZone(""), 32
	if address.Is6() {
		bits = 64
	}
	for _, network := range exempt {
		if network.Contains(address) {
			return netip.Prefix{}, false
		}
	}
	site, err := address.Prefix(bits)
	return site, err == nil
}
