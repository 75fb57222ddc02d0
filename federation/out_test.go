package federation

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"
	"time"
)

const dialbackFeature = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"

// receiveKey plays the receiving server up to our dialback key.
func (p *peer) receiveKey(cert tls.Certificate) {
	p.t.Helper()
	p.receive("id", cert, dialbackFeature)
	p.expect("<db:result from='a.test' to='b.test'>")
	p.expect("</db:result>")
}

// believe takes the key for good, so that stanzas may come.
func (p *peer) believe(cert tls.Certificate) {
	p.t.Helper()
	p.receiveKey(cert)
	p.send("<db:result from='b.test' to='a.test' type='valid'/>")
}

// A stream never goes on in clear because somebody took STARTTLS out, and what came in clear behind
// <proceed/> is not taken for what came under TLS (RFC 6120 sections 5.3.1 and 13.9.2).
func TestTLSIsNotNegotiable(t *testing.T) {
	valid := "<db:result from='b.test' to='a.test' type='valid'/>"
	for name, play := range map[string]func(*peer){
		"no STARTTLS": func(p *peer) { p.answer("id", dialbackFeature) },
		"no STARTTLS, and EXTERNAL": func(p *peer) {
			p.answer("id", "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>")
		},
		"STARTTLS refused": func(p *peer) {
			p.answer("id", starttls)
			p.expect(starttls)
			p.send("<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
		},
		"bytes behind <proceed/>": func(p *peer) {
			p.answer("id", starttls)
			p.expect(starttls)
			p.send("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>%s", valid)
		},
		"dialback in clear": func(p *peer) {
			p.answer("id", "")
			p.send("%s", valid)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a := l.serve("a.test", options{})
			b := l.listen("b.test")
			a.Send(message("a.test", "b.test", "secret"))
			p := b.accept()
			play(p)
			if got := p.rest(); strings.Contains(got, "secret") || strings.Contains(got, "db:result") || strings.Contains(got, "<auth") {
				t.Errorf("went on with %s", got)
			}
			a.wantBounce(t, "remote-server-timeout")
		})
	}
}

func TestClearPartner(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Policy.Partners = []Partner{{Domain: "b.test", Clear: true}} }})
	b := l.listen("b.test")
	a.Send(message("a.test", "b.test", "hello"))
	p := b.accept()
	p.answer("id", dialbackFeature)
	p.expect("<db:result from='a.test' to='b.test'>" + a.secret.key("b.test", "a.test", "id") + "</db:result>")
	p.send("<db:result from='b.test' to='a.test' type='valid'/>")
	p.expect("hello")
	if i := a.stream(t, "out", "b.test"); i.TLS != "" || i.Authenticated != "dialback" {
		t.Errorf("%+v, want dialback in clear", i)
	}
}

// What senders are told (XEP-0220 sections 2.1.1 and 2.5, RFC 6120 section 8.3.3).
func TestBounces(t *testing.T) {
	cert := newAuthority(t).issue(t, nil, "b.test")
	for name, c := range map[string]struct {
		play func(*peer)
		want string
	}{
		"an invalid key": {func(p *peer) {
			p.receiveKey(cert)
			p.send("<db:result from='b.test' to='a.test' type='invalid'/>")
		}, "internal-server-error"},
		"a domain that it does not serve": {func(p *peer) {
			p.receiveKey(cert)
			p.send("<db:result from='b.test' to='a.test' type='error'><error type='cancel'>" +
				"<item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>")
		}, "remote-server-not-found"},
		"another dialback error": {func(p *peer) {
			p.receiveKey(cert)
			p.send("<db:result from='b.test' to='a.test' type='error'><error type='cancel'>" +
				"<remote-connection-failed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>")
		}, "remote-server-timeout"},
		"host-unknown": {func(p *peer) {
			p.answerHeader("id")
			p.send("<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
		}, "remote-server-not-found"},
		"policy-violation": {func(p *peer) {
			p.answerHeader("id")
			p.send("<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
		}, "remote-server-timeout"},
		"a closed connection": {func(p *peer) { p.receiveKey(cert); p.conn.Close() }, "remote-server-timeout"},
		"silence":             {func(p *peer) { p.receiveKey(cert) }, "remote-server-timeout"},
		"a result for another pair": {func(p *peer) {
			p.receiveKey(cert)
			p.send("<db:result from='c.test' to='a.test' type='valid'/><db:result from='b.test' to='c.test' type='valid'/>" +
				"<db:verify from='b.test' to='a.test' id='id' type='valid'/>")
		}, "remote-server-timeout"},
		"a request in the wrong direction": {func(p *peer) {
			p.receiveKey(cert)
			p.send("<db:result from='b.test' to='a.test'>key</db:result>")
		}, "remote-server-timeout"},
		"a stanza in the wrong direction": {func(p *peer) {
			p.receiveKey(cert)
			p.send("<message from='juliet@b.test' to='romeo@a.test'><body>x</body></message>")
		}, "remote-server-timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a := l.serve("a.test", options{config: func(conf *Config) { conf.ConnectTime = 500 * time.Millisecond }})
			b := l.listen("b.test")
			a.Send(message("a.test", "b.test", "secret"))
			p := b.accept()
			c.play(p)
			a.wantBounce(t, c.want)
			a.quiet(t)
			if got := p.rest(); strings.Contains(got, "secret") {
				t.Errorf("the message went out: %s", got)
			}
		})
	}
}

// A key is made of the id that the peer gave the stream; without one it would be good for every stream.
func TestNoKeyWithoutID_RFC6120_4_7_3(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	b := l.listen("b.test")
	a.Send(message("a.test", "b.test", "secret"))
	p := b.accept()
	p.receive("", l.ca.issue(t, nil, "b.test"), dialbackFeature)
	if got := p.rest(); strings.Contains(got, "db:result") || strings.Contains(got, "secret") {
		t.Errorf("got %s, want no key", got)
	}
	a.wantBounce(t, "remote-server-timeout")
}

// A peer that offers EXTERNAL and then refuses it is proved to by dialback, on the same stream or,
// when it closes that, on a new one.
func TestExternalRefused_RFC6120_6_4_5(t *testing.T) {
	for name, closes := range map[string]bool{"on the same stream": false, "on a new stream": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a := l.serve("a.test", options{})
			b := l.listen("b.test")
			cert := l.ca.issue(t, nil, "b.test")
			a.Send(message("a.test", "b.test", "hello"))
			offer := "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>" + dialbackFeature
			p := b.accept()
			p.receive("id", cert, offer)
			p.expect("<auth ")
			p.send("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")
			if closes {
				p.send("</stream:stream>")
				p.rest()
				p = b.accept()
				p.receive("id", cert, offer)
			}
			p.expect("<db:result from='a.test' to='b.test'>")
			p.send("<db:result from='b.test' to='a.test' type='valid'/>")
			p.expect("hello")
		})
	}
}

// What a stream that died never wrote goes to the next one, in order; nothing goes twice.
func TestUnwrittenIsSentAgain(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	b := l.listen("b.test")
	cert := newAuthority(t).issue(t, nil, "b.test")
	a.Send(message("a.test", "b.test", "first"))
	p := b.accept()
	p.believe(cert)
	p.expect("first</body></message>")
	a.stream(t, "out", "b.test")

	a.Flusher.Begin() // as if in the middle of somebody's turn: nothing is written
	a.Send(message("a.test", "b.test", "second"))
	a.Send(message("a.test", "b.test", "third"))
	p.reset()
	q := b.accept()
	a.Flusher.End()
	q.believe(cert)
	got := q.expect("third</body></message>")
	if strings.Contains(got, "first") || strings.Count(got, "<body>second") != 1 {
		t.Errorf("the second stream got %s", got)
	}
	a.quiet(t)
}

// A server that was reached a moment ago is tried for a while although attempts fail: it may be restarting, or the
// network bad. What it says of itself is taken at its word.
func TestFailuresAfterAStream(t *testing.T) {
	for name, c := range map[string]struct {
		attempt func(*peer)
		want    string // the condition of the bounce; "": the message arrives
	}{
		"no answer":    {func(p *peer) { p.reset() }, ""},
		"half a login": {func(p *peer) { p.answer("clear", starttls); p.expect("<starttls "); p.reset() }, ""},
		"host-unknown": {func(p *peer) {
			p.answerHeader("id")
			p.send("<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
		}, "remote-server-not-found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a, b := l.serve("a.test", options{}), l.listen("b.test")
			cert := newAuthority(t).issue(t, nil, "b.test")
			a.Send(message("a.test", "b.test", "first"))
			p := b.accept()
			p.believe(cert)
			p.expect("first</body></message>")
			a.stream(t, "out", "b.test")
			p.reset()
			eventually(t, "the end of the stream", func() bool {
				return !slices.ContainsFunc(a.List(), func(i StreamInfo) bool { return i.State == "open" })
			})

			a.Send(message("a.test", "b.test", "second"))
			c.attempt(b.accept())
			if c.want != "" {
				a.wantBounce(t, c.want)
				return
			}
			a.Send(message("a.test", "b.test", "third"))
			c.attempt(b.accept())
			q := b.accept()
			q.believe(cert)
			if got := q.expect("third</body></message>"); strings.Count(got, "<body>second") != 1 {
				t.Errorf("the next stream got %s", got)
			}
			a.quiet(t)
		})
	}
}

// A peer that answered before and then no longer does is given up; one that never could reach us is
// not (XEP-0199 section 4.3).
func TestPing(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) {
		c.Timing.Quiet, c.Timing.Answer = 20*time.Millisecond, 50*time.Millisecond
	}})
	b := l.listen("b.test")
	cert := l.ca.issue(t, nil, "b.test")
	a.Send(message("a.test", "b.test", "hello"))
	p := b.accept()
	p.believe(cert)
	p.expect("hello")
	for range 3 {
		p.expect("<ping xmlns='urn:xmpp:ping'/></iq>") // unanswered, and the stream lives
	}
	in := dialPeer(t, a)
	in.login("b.test", "a.test", cert)
	in.send("<message from='juliet@b.test' to='romeo@a.test'><body>I am here</body></message>")
	a.wantMessage(t, "I am here")
	p.expect("<connection-timeout ")
}

func TestCheck(t *testing.T) {
	l := newLab(t)
	strange := newAuthority(t).issue(t, nil, "c.test")
	a := l.serve("a.test", options{config: func(c *Config) {
		c.Policy.Deny = []string{"denied.test"}
		c.Policy.Partners = []Partner{{Domain: "strict.test", Certificate: true}}
	}})
	l.serve("b.test", options{})
	l.serve("c.test", options{cert: &strange})
	weak := newAuthority(t).issue(t, nil, "strict.test")
	l.serve("strict.test", options{cert: &weak})
	for domain, c := range map[string]struct {
		ok           bool
		step, advice string // the last step, and what is advised at the first that failed
	}{
		"b.test":       {true, "authentication", ""},
		"c.test":       {true, "authentication", "federation.ca_file"},
		"denied.test":  {false, "policy", "federation.deny"},
		"nowhere.test": {false, "connect", "name is right"},
		"strict.test":  {false, "stream", "federation.ca_file"},
	} {
		r, err := a.Check(t.Context(), "", domain)
		if err != nil {
			t.Errorf("%s: %v", domain, err)
			continue
		}
		if r.OK != c.ok || r.Local != "a.test" || r.Steps[len(r.Steps)-1].Name != c.step {
			t.Errorf("%s: %+v, want ok %v, last step %s", domain, r, c.ok, c.step)
		}
		advice := ""
		for _, s := range r.Steps {
			if !s.OK && advice == "" {
				advice = s.Advice
			}
		}
		if !strings.Contains(advice, c.advice) || (advice == "") != (c.advice == "") {
			t.Errorf("%s: advice %q, want %q, in %+v", domain, advice, c.advice, r.Steps)
		}
	}
	if _, err := a.Check(t.Context(), "x.test", "b.test"); err == nil {
		t.Error("asked as a domain that is not ours")
	}
}
