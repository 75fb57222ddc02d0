package federation

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/xmpp/transport"
)

// A swamp is the part of the network that swallows what is sent to it: connecting to the addresses of
// 127.9.0.0/16, and to the domains below swamp.test, takes until whoever wants to gives up.
type swamp struct{ stuck atomic.Int32 }

func (w *swamp) serve(l *lab, change func(*Config)) *server {
	return l.serve("a.test", options{config: func(c *Config) {
		direct := net.Dialer{Resolver: newResolver(c.Resolver)}
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if !strings.HasPrefix(address, "127.9.") && !strings.Contains(address, "swamp.test") {
				return direct.DialContext(ctx, network, address)
			}
			w.stuck.Add(1)
			defer w.stuck.Add(-1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		c.DialTime = time.Hour // no end but one that is made
		if change != nil {
			change(c)
		}
	}})
}

// stranger opens a stream to a server from an address, proves nothing, and has it verify as many keys
// of domains in the swamp as one stream may.
func (w *swamp) stranger(t testing.TB, s *server, address string, number int) *peer {
	t.Helper()
	p := dialPeerFrom(t, s, address)
	p.open("evil.test", "a.test", nil)
	for i := range maxPending {
		p.send("<db:result from='127.9.%d.%d' to='a.test'>key</db:result>", number, i+1)
	}
	p.heard()
	return p
}

func dialPeerFrom(t testing.TB, s *server, address string) *peer {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := d.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return newPeer(t, conn)
}

// heard waits until everything that was sent has been handled.
func (p *peer) heard() {
	p.t.Helper()
	p.send("<db:verify from='evil.test' to='a.test' id='1'>key</db:verify>")
	p.expect("</db:verify>")
}

// A key is verified for the stream that asked, and when that is over nobody waits for the answer: whoever
// comes, asks and goes leaves nothing behind.
func TestVerificationEndsWithItsStream(t *testing.T) {
	for name, leave := range map[string]func(*peer){
		"lost":   func(p *peer) { p.reset() },
		"closed": func(p *peer) { p.send("</stream:stream>") }, // and the connection stays
	} {
		t.Run(name, func(t *testing.T) {
			l, w := newLab(t), new(swamp)
			refused := new(atomic.Int32)
			a := w.serve(l, func(c *Config) {
				c.ConnectTime = time.Hour
				c.Timing.Finish = time.Hour
				c.Refused = func(Pair, string, string) { refused.Add(1) }
			})
			p := w.stranger(t, a, "127.0.0.1", 0)
			eventually(t, "the keys are being verified", func() bool { return w.stuck.Load() == maxPending })
			leave(p)
			eventually(t, "nothing is verified any more", func() bool { return w.stuck.Load() == 0 })
			p.conn.Close()
			eventually(t, "nothing is left", func() bool {
				a.mu.Lock()
				defer a.mu.Unlock()
				return a.tasks == 0
			})
			if n := refused.Load(); n != 0 {
				t.Errorf("%d refusals were reported of domains that nobody has judged", n)
			}
		})
	}
}

// What strangers have us verify takes nothing from our own streams to others, and what those at one address
// ask for takes nothing from those at another.
func TestStrangersDoNotUseUpTheDials(t *testing.T) {
	l, w := newLab(t), new(swamp)
	a := w.serve(l, nil)
	b := l.serve("b.test", options{})
	c := l.listen("c.test")
	for i := range maxDials/maxPending + 1 {
		w.stranger(t, a, "127.0.0.1", i)
	}
	eventually(t, "keys are being verified", func() bool { return w.stuck.Load() == siteVerifications })

	a.Send(message("a.test", "b.test", "hello"))
	b.wantMessage(t, "hello")

	other := dialPeerFrom(t, a, "127.0.0.250")
	other.open("c.test", "a.test", nil)
	other.send("<db:result from='c.test' to='a.test'>key</db:result>")
	c.accept()

	if n := w.stuck.Load(); n != siteVerifications {
		t.Errorf("%d connections are made for one address, want %d", n, siteVerifications)
	}
}

// A key that finds no turn in the time that a stanza would wait for a stream is refused, for a reason that
// says to try again, and nothing is left of it.
func TestVerificationThatFindsNoTurn(t *testing.T) {
	l, w := newLab(t), new(swamp)
	a := w.serve(l, func(c *Config) { c.ConnectTime = 100 * time.Millisecond })
	for range siteVerifications {
		done, err := a.verifications.take(t.Context(), "127.0.0.1/32")
		if err != nil {
			t.Fatal(err)
		}
		defer done()
	}
	p := w.stranger(t, a, "127.0.0.1", 0)
	for range maxPending {
		p.expect("type='error'><error type='wait'><resource-constraint ")
	}
	if n := w.stuck.Load(); n != 0 {
		t.Errorf("%d connections are made", n)
	}
	eventually(t, "what waited is forgotten", func() bool {
		a.verifications.mu.Lock()
		defer a.verifications.mu.Unlock()
		return a.verifications.parties["127.0.0.1/32"].holders == siteVerifications
	})
}

// Addresses without limits have none here.
func TestVerificationsForExemptAddresses(t *testing.T) {
	l, w := newLab(t), new(swamp)
	a := w.serve(l, func(c *Config) {
		c.Gate = &transport.Gate{Handshakes: 1, Exempt: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	})
	const streams = siteVerifications/maxPending + 1
	for i := range streams {
		w.stranger(t, a, "127.0.0.1", i)
	}
	eventually(t, "all keys are being verified", func() bool { return w.stuck.Load() == streams*maxPending })
}

// Whoever owns a domain owns as many as they like below it, and may make us send to each; if none of
// their servers answers, those of others are reached all the same.
func TestOneOwnersDomainsDoNotUseUpTheDials(t *testing.T) {
	l, w := newLab(t), new(swamp)
	a := w.serve(l, nil)
	b := l.serve("b.test", options{})
	for i := range maxDials {
		a.Send(message("a.test", fmt.Sprintf("x%d.swamp.test", i), "x"))
	}
	eventually(t, "they are being dialled", func() bool { return w.stuck.Load() == ownerDials })
	a.Send(message("a.test", "b.test", "hello"))
	b.wantMessage(t, "hello")
	if n := w.stuck.Load(); n != ownerDials {
		t.Errorf("%d of one owner's domains are dialled, want %d", n, ownerDials)
	}
}

// A certificate for all names below a domain proves as many pairs as a stream may have, and no more. Those
// that it has go on.
func TestPairsOfAWildcardAreBounded(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	p := dialPeer(t, a)
	p.login("evil.test", "a.test", l.ca.issue(t, nil, "evil.test", "*.evil.test"))
	ask := func(i int) string {
		p.send("<db:result from='x%d.evil.test' to='a.test'>key</db:result>", i)
		return p.expect("</db:result>")
	}
	for i := range maxPairs - 1 { // EXTERNAL was the first
		if got := ask(i); !strings.Contains(got, "type='valid'") {
			t.Fatalf("pair %d: %s", i, got)
		}
	}
	if got := ask(maxPairs); !strings.Contains(got, "type='error'") || !strings.Contains(got, "<resource-constraint ") {
		t.Errorf("one too many: %s", got)
	}
	if got := ask(0); !strings.Contains(got, "type='valid'") {
		t.Errorf("one that it has: %s", got)
	}
	p.send("<message from='juliet@x0.evil.test' to='romeo@a.test'><body>x</body></message>")
	a.wantMessage(t, "x")
	p.send("<message from='juliet@x%d.evil.test' to='romeo@a.test'><body>x</body></message>", maxPairs)
	p.expect("<invalid-from ")
	a.quiet(t)
}

// A key that is not valid ends the stream while nothing else is authorised on it (XEP-0220 section 2.2.1),
// also while another key is being verified: keys are not to be tried one after the other.
func TestInvalidKeyBesideOneThatIsBeingVerified(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	slow := l.listen("slow.test")
	l.serve("victim.test", options{})
	p := dialPeer(t, a)
	p.open("victim.test", "a.test", nil)
	p.send("<db:result from='slow.test' to='a.test'>key</db:result>")
	slow.accept() // and says nothing
	p.send("<db:result from='victim.test' to='a.test'>forged</db:result>")
	p.expect("<db:result from='a.test' to='victim.test' type='invalid'>")
	p.expect("</stream:stream>")
	p.rest()
	a.quiet(t)
}
