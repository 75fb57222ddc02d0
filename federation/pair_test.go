package federation

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

func TestExternalBothWays(t *testing.T) {
	for name, direct := range map[string]bool{"STARTTLS": false, "direct TLS, XEP-0368": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			a, b := l.serve("a.test", options{direct: direct}), l.serve("b.test", options{direct: direct})
			a.Send(message("a.test", "b.test", "hello"))
			b.wantMessage(t, "hello")
			b.Send(message("b.test", "a.test", "and hello"))
			a.wantMessage(t, "and hello")
			for _, way := range []struct {
				at     *server
				dir    string
				remote string
			}{{a, "out", "b.test"}, {b, "in", "a.test"}, {b, "out", "a.test"}, {a, "in", "b.test"}} {
				i := way.at.stream(t, way.dir, way.remote)
				if i.Authenticated != "EXTERNAL" || i.TLS == "" || way.dir == "out" && i.Peer != "certificate" {
					t.Errorf("%s %s: %+v, want EXTERNAL and certificate under TLS", way.at.domain, way.dir, i)
				}
			}
		})
	}
}

// Certificates from another CA prove nothing, so both sides fall back to dialback over TLS.
func TestDialbackBothWays(t *testing.T) {
	l := newLab(t)
	strange := newAuthority(t)
	certA, certB := strange.issue(t, nil, "a.test"), strange.issue(t, nil, "b.test")
	a, b := l.serve("a.test", options{cert: &certA}), l.serve("b.test", options{cert: &certB})
	a.Send(message("a.test", "b.test", "hello"))
	b.wantMessage(t, "hello")
	b.Send(message("b.test", "a.test", "and hello"))
	a.wantMessage(t, "and hello")
	out, in := a.stream(t, "out", "b.test"), b.stream(t, "in", "a.test")
	if out.Authenticated != "dialback" || out.Peer != "dialback" || in.Authenticated != "dialback" || in.TLS == "" {
		t.Errorf("out %+v, in %+v, want dialback under TLS", out, in)
	}
}

// One proves itself with a certificate, the other one cannot: each direction does what it can.
func TestMixedProofs(t *testing.T) {
	l := newLab(t)
	strange := newAuthority(t).issue(t, nil, "b.test")
	a, b := l.serve("a.test", options{}), l.serve("b.test", options{cert: &strange})
	a.Send(message("a.test", "b.test", "hello"))
	b.wantMessage(t, "hello")
	b.Send(message("b.test", "a.test", "and hello"))
	a.wantMessage(t, "and hello")
	if i := b.stream(t, "in", "a.test"); i.Authenticated != "EXTERNAL" {
		t.Errorf("from a: %+v, want EXTERNAL", i)
	}
	if i := a.stream(t, "in", "b.test"); i.Authenticated != "dialback" {
		t.Errorf("from b: %+v, want dialback", i)
	}
	if i := a.stream(t, "out", "b.test"); i.Peer != "dialback" {
		t.Errorf("to b: %+v, want dialback for the peer", i)
	}
}

func TestPartnerTerms(t *testing.T) {
	l := newLab(t)
	strange := newAuthority(t).issue(t, nil, "b.test")
	pin := func(cert *x509.Certificate) string {
		sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		return base64.StdEncoding.EncodeToString(sum[:])
	}
	for name, c := range map[string]struct {
		partner Partner
		want    string // how the peer proved itself, or the condition of the bounce
		bounced bool
	}{
		"a certificate is demanded":       {Partner{Domain: "b.test", Certificate: true}, "remote-server-timeout", true},
		"dialback will do":                {Partner{Domain: "b.test"}, "dialback", false},
		"its key is pinned":               {Partner{Domain: "b.test", Pins: []string{pin(strange.Leaf)}}, "pin", false},
		"another key is pinned":           {Partner{Domain: "b.test", Pins: []string{pin(l.ca.cert)}}, "remote-server-timeout", true},
		"the entry is for a parent":       {Partner{Domain: "test", Certificate: true}, "remote-server-timeout", true},
		"the entry is for somebody else ": {Partner{Domain: "c.test", Certificate: true}, "dialback", false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			a := l.serve("a.test", options{config: func(c2 *Config) { c2.Policy.Partners = []Partner{c.partner} }})
			b := l.serve("b.test", options{cert: &strange})
			a.Send(message("a.test", "b.test", "hello"))
			if c.bounced {
				a.wantBounce(t, c.want)
				b.quiet(t)
			} else {
				b.wantMessage(t, "hello")
				if i := a.stream(t, "out", "b.test"); i.Peer != c.want {
					t.Errorf("%+v, want %s", i, c.want)
				}
			}
			// The other way the same terms hold.
			b.Send(message("b.test", "a.test", "hello"))
			if c.bounced {
				b.wantBounce(t, "remote-server-timeout")
				a.quiet(t)
			} else {
				a.wantMessage(t, "hello")
			}
		})
	}
}

func TestRefusedByPolicy(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Policy.Deny = []string{"b.test"} }})
	b := l.serve("b.test", options{})
	a.Send(message("a.test", "b.test", "hello"))
	a.wantBounce(t, "not-allowed")
	b.Send(message("b.test", "a.test", "hello"))
	b.wantBounce(t, "remote-server-timeout")
	a.quiet(t)
}

func TestOrderAndBounceOfWhatWaits(t *testing.T) {
	l := newLab(t)
	a, b := l.serve("a.test", options{}), l.serve("b.test", options{})
	const n = 500
	for i := range n {
		a.Send(message("a.test", "b.test", fmt.Sprint(i)))
	}
	for i := range n {
		b.wantMessage(t, fmt.Sprint(i))
	}

	a.Send(message("a.test", "nowhere.test", "one"))
	presence := message("a.test", "nowhere.test", "")
	a.Send(stanza.New(stanza.Presence, "", "", presence.From, presence.To))
	a.Send(stanza.New(stanza.IQ, "result", "r", presence.From, presence.To))
	a.Send(stanza.New(stanza.IQ, "get", "q", presence.From, presence.To, element.Leaf("ping", ns.Ping, "")))
	if st := a.wantBounce(t, "remote-server-not-found"); st.ID != "one" || st.From.String() != "juliet@nowhere.test" {
		t.Errorf("first bounce: %s", st.Element)
	}
	if st := a.wantBounce(t, "remote-server-not-found"); st.ID != "q" || st.Kind != stanza.IQ {
		t.Errorf("second bounce: %s", st.Element)
	}
	// While it is known to fail nothing is tried, and senders need not wait.
	a.Send(message("a.test", "nowhere.test", "two"))
	if st := a.wantBounce(t, "remote-server-not-found"); st.ID != "two" {
		t.Errorf("third bounce: %s", st.Element)
	}
	a.quiet(t)
}

func TestQueueIsBounded(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Queue = 2000 }})
	l.listen("b.test") // says nothing
	big := fmt.Sprintf("%0600d", 0)
	a.Send(message("a.test", "b.test", big))
	a.Send(message("a.test", "b.test", big))
	a.wantBounce(t, "resource-constraint")
	a.quiet(t)
}

func TestIdleStreamsClose(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Idle = 20 * time.Millisecond }})
	b := l.serve("b.test", options{})
	a.Send(message("a.test", "b.test", "hello"))
	b.wantMessage(t, "hello")
	eventually(t, "the end of the stream at both ends", func() bool { return len(b.List()) == 0 })
	a.Send(message("a.test", "b.test", "again"))
	b.wantMessage(t, "again")
	a.quiet(t)
}

func TestReloadEndsWhatIsNoLongerAllowed(t *testing.T) {
	l := newLab(t)
	a, b := l.serve("a.test", options{}), l.serve("b.test", options{})
	a.Send(message("a.test", "b.test", "hello"))
	b.wantMessage(t, "hello")
	b.Send(message("b.test", "a.test", "hello"))
	a.wantMessage(t, "hello")
	if err := a.Reload(Policy{Open: true}, l.ca.pool()); err != nil {
		t.Fatal(err)
	}
	a.stream(t, "in", "b.test")
	if err := a.Reload(Policy{Open: true, Deny: []string{"b.test"}}, l.ca.pool()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of all streams", func() bool { return len(b.incomingNow()) == 0 && len(a.incomingNow()) == 0 })
	a.Send(message("a.test", "b.test", "hello"))
	a.wantBounce(t, "not-allowed")
}

// A sender whom the other server's policy keeps out is not told to try again (RFC 6120 section
// 8.3.3.17: the type is wait unless the error is of a more permanent nature).
func TestPolicyOfThePeer(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	l.serve("b.test", options{config: func(c *Config) { c.Policy.Deny = []string{"a.test"} }})
	a.Send(message("a.test", "b.test", "hello"))
	st := a.wantBounce(t, "remote-server-timeout")
	if e := stanza.ParseError(st.Element.Child("error", ns.Client)); e.Type != stanza.Cancel || e.Text != "the other server refuses to talk to this one" {
		t.Errorf("%s", st.Element)
	}
}

func (f *Federation) incomingNow() []*incoming {
	f.mu.Lock()
	defer f.mu.Unlock()
	return keys(f.incoming)
}
