package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"tombolo/xmpp/meter"
)

func from(address string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 1234))
}

func TestGateCountsStrangersOnly(t *testing.T) {
	g := &Gate{Strangers: 2, Handshakes: 1, Counters: new(meter.Counters)}
	first, ok1 := g.Enter(from("192.0.2.1"))
	second, ok2 := g.Enter(from("192.0.2.1"))
	if !ok1 || !ok2 {
		t.Fatal("the first two are not let in")
	}
	if _, ok := g.Enter(from("192.0.2.1")); ok {
		t.Error("a third stranger was let in")
	}
	if n := g.Counters.All()["limit: strangers_per_address"]; n != 1 {
		t.Errorf("counted %d", n)
	}
	if _, ok := g.Enter(from("192.0.2.2")); !ok {
		t.Error("another address pays for the first one")
	}
	first.Known()
	first.Known() // once is enough
	third, ok := g.Enter(from("192.0.2.1"))
	if !ok {
		t.Error("one who has logged in still counts")
	}
	if _, ok := g.Enter(from("192.0.2.1")); ok {
		t.Error("one who has logged in makes room for more than one")
	}
	first.Leave()
	second.Leave()
	third.Leave()
	if len(g.visitors) != 1 { // 192.0.2.2
		t.Errorf("%d addresses are remembered", len(g.visitors))
	}
}

func TestGateTakesAnIPv6SiteForOneAddress(t *testing.T) {
	g := &Gate{Strangers: 1, Handshakes: 1, Exempt: []netip.Prefix{netip.MustParsePrefix("2001:db8:9::7/128")}}
	if _, ok := g.Enter(from("2001:db8::1")); !ok {
		t.Fatal("refused")
	}
	if _, ok := g.Enter(from("2001:db8::ffff:2")); ok {
		t.Error("another address of the same /64 was let in")
	}
	if _, ok := g.Enter(from("2001:db8:0:1::1")); !ok {
		t.Error("another /64 was refused")
	}
	if _, ok := g.Enter(from("::ffff:192.0.2.1")); !ok {
		t.Error("an IPv4 address in IPv6 clothes was refused")
	}
	if _, ok := g.Enter(from("192.0.2.1")); ok {
		t.Error("the same IPv4 address was let in twice")
	}
	for range 3 {
		if _, ok := g.Enter(from("2001:db8:9::7")); !ok {
			t.Error("an exempt address was refused")
		}
	}
}

func TestGateMakesHandshakesWait(t *testing.T) {
	g := &Gate{Strangers: 9, Handshakes: 1}
	one, _ := g.Enter(from("192.0.2.1"))
	two, _ := g.Enter(from("192.0.2.1"))
	done, err := one.Handshake(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hurry, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := two.Handshake(hurry); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second handshake at the same time: %v", err)
	}
	done()
	if _, err := two.Handshake(t.Context()); err != nil {
		t.Error(err)
	}
}
