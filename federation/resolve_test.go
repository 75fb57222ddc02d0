package federation

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"
)

// RFC 2782: by priority, and within one by weight, where random says which. Both services are one
// list (XEP-0368 section 3).
func TestOrder_RFC2782(t *testing.T) {
	records := func() []record {
		return []record{
			{&net.SRV{Target: "d.", Priority: 20, Weight: 1}, false},
			{&net.SRV{Target: "a.", Priority: 10, Weight: 60}, false},
			{&net.SRV{Target: "b.", Priority: 10, Weight: 30}, true},
			{&net.SRV{Target: "c.", Priority: 10, Weight: 0}, true},
		}
	}
	// In the drawing of priority 10 c comes first with its weight of 0, then a up to 60, b up to 90.
	for draw, want := range map[int]string{0: "c", 1: "a", 60: "a", 61: "b", 90: "b"} {
		list, first := records(), true
		order(list, func(n int) int {
			if first {
				if first = false; n != 91 {
					t.Errorf("drawn from %d, want 91", n)
				}
				return draw
			}
			return 0
		})
		if got := list[0].Target; got != want+"." {
			t.Errorf("drawn %d: %s first, want %s", draw, got, want)
		}
		if list[3].Target != "d." {
			t.Errorf("drawn %d: %s last, want the higher priority value", draw, list[3].Target)
		}
		if slices.ContainsFunc(list, func(r record) bool { return r.direct != (r.Target == "b." || r.Target == "c.") }) {
			t.Error("a record changed its service")
		}
	}
}

// Over many draws each record comes first about as often as its weight says.
func TestOrderIsFair_RFC2782(t *testing.T) {
	seed := uint32(1)
	random := func(n int) int { seed = seed*1664525 + 1013904223; return int(seed>>8) % n }
	count := make(map[string]int)
	const draws = 10_000
	for range draws {
		list := []record{{&net.SRV{Target: "a.", Weight: 75}, false}, {&net.SRV{Target: "b.", Weight: 25}, false}}
		order(list, random)
		count[list[0].Target]++
	}
	if n := count["a."]; n < draws*70/100 || n > draws*80/100 {
		t.Errorf("weight 75 of 100 came first %d times of %d", n, draws)
	}
}

func TestResolve_RFC6120_3_2(t *testing.T) {
	z := newZone(t)
	z.srv("_xmpp-server._tcp.both.test", 20, 0, "two.both.test.", 5269)
	z.srv("_xmpps-server._tcp.both.test", 10, 0, "one.both.test.", 443)
	z.srv("_xmpp-server._tcp.none.test", 0, 0, ".", 0)
	z.srv("_xmpps-server._tcp.notls.test", 0, 0, ".", 0)
	z.srv("_xmpp-server._tcp.notls.test", 5, 5, "x.notls.test.", 5300)
	z.srv("_xmpps-server._tcp.onlynotls.test", 0, 0, ".", 0)
	z.srv("_xmpp-server._tcp.xn--bcher-kva.test", 0, 0, "x.test.", 1)
	z.a("plain.test", "127.0.0.1")
	f := &Federation{Config: Config{Random: func(int) int { return 0 }}, resolver: newResolver(z.address)}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for domain, want := range map[string]string{
		"both.test":        "[one.both.test:443 (direct TLS) two.both.test:5269]",
		"none.test":        "error",
		"notls.test":       "[x.notls.test:5300]",
		"onlynotls.test":   "error", // XEP-0368 section 5: no fallback to the address
		"plain.test":       "[plain.test:5269]",
		"unknown.test":     "[unknown.test:5269]", // whose address then is not found
		"bücher.test":      "[x.test:1]",
		"bücher-zwei.test": "[xn--bcher-zwei-9db.test:5269]",
		"127.0.0.9":        "[127.0.0.9:5269]",
		"[::1]":            "[[::1]:5269]",
	} {
		targets, err := f.resolve(ctx, domain, new(terms))
		got := fmt.Sprint(targets)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s (%v), want %s", domain, got, err, want)
		}
	}
	fixed := &terms{address: &target{host: "127.0.0.3", port: "1"}}
	if got, err := f.resolve(ctx, "both.test", fixed); err != nil || fmt.Sprint(got) != "[127.0.0.3:1]" {
		t.Errorf("with an address in the entry: %v, %v", got, err)
	}
}

// A host that does not answer costs one attempt; the next record is tried (RFC 6120 section 3.2.1).
func TestNextTargetIsTried(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.DialTime = time.Second }})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close() // nobody listens there
	l.zone.a("dead.test", "127.0.0.1")
	l.zone.srv("_xmpp-server._tcp.b.test", 1, 0, "dead.test.", closed.Addr().(*net.TCPAddr).Port)
	l.zone.srv("_xmpp-server._tcp.b.test", 2, 0, "missing.test.", 5269)
	b := l.serve("b.test", options{}) // at priority 10
	a.Send(message("a.test", "b.test", "hello"))
	b.wantMessage(t, "hello")
}
