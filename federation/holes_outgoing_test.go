package federation

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

// What a server that ours connects to sends is read like what comes from one that connects to us: no
// document type, entity, instruction or comment, wherever in the negotiation it stands.
func TestEntitiesFromAServerThatWeConnectTo(t *testing.T) {
	cert := newAuthority(t).issue(t, nil, "b.test")
	dtd := "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>"
	for what, text := range map[string]string{
		"a document type": dtd, "a comment": "<!-- -->", "an instruction": "<?x y?>", "an entity": "<a>&b;</a>", "an entity in an attribute": "<a b='&b;'/>",
	} {
		for where, play := range map[string]func(*peer){
			"before its header": func(p *peer) {
				p.expect("version='1.0'")
				p.send("%s", text)
			},
			"instead of features": func(p *peer) {
				p.answerHeader("id")
				p.send("%s", text)
			},
			"in features": func(p *peer) {
				p.answerHeader("id")
				p.send("<stream:features>%s", text)
			},
			"under TLS": func(p *peer) {
				p.receive("id", cert, "")
				p.send("%s", text)
			},
			"when it is asked for a verdict": func(p *peer) {
				p.receiveKey(cert)
				p.send("%s", text)
			},
			"in a verdict": func(p *peer) {
				p.receiveKey(cert)
				p.send("<db:result from='b.test' to='a.test' type='valid'>%s", text)
			},
		} {
			if where == "before its header" && strings.HasPrefix(text, "<a") {
				continue // which would be a header, and a bad one
			}
			t.Run(what+", "+where, func(t *testing.T) {
				l := newLab(t)
				a := l.serve("a.test", options{})
				b := l.listen("b.test")
				a.Send(message("a.test", "b.test", "secret"))
				p := b.accept()
				play(p)
				if got := p.rest(); !strings.Contains(got, "<restricted-xml ") || strings.Contains(got, "secret") {
					t.Errorf("got %s, want restricted-xml", got)
				}
				a.wantBounce(t, "remote-server-timeout")
			})
		}
	}
}

// A key is for one stream: what was valid on one is asked about anew on another, with the id of that.
func TestReplayedKey(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	authority := l.listen("b.test")
	seen := make(map[string]bool)
	for i := range 3 {
		p := dialPeer(t, a)
		p.open("b.test", "a.test", nil)
		p.send("<db:result from='b.test' to='a.test'>the same key</db:result>")
		v := authority.accept()
		v.receive("id", newAuthority(t).issue(t, nil, "x"), "")
		got := v.expect("</db:verify>")
		id := between(got[strings.Index(got, "<db:verify"):], "id='", "'")
		if len(id) < 16 || seen[id] {
			t.Errorf("stream %d: asked about the id %q", i, id)
		}
		seen[id] = true
		verdict := "invalid" // the key was made for the first stream
		if i == 0 {
			verdict = "valid"
		}
		v.send("<db:verify from='b.test' to='a.test' id='%s' type='%s'/>", id, verdict)
		p.expect("type='" + verdict + "'")
		p.send("<message from='juliet@b.test' to='romeo@a.test'><body>x</body></message>")
		if i == 0 {
			a.wantMessage(t, "x")
			continue
		}
		p.rest()
		a.quiet(t)
	}
}

// An outgoing stream's TLS session is never resumed: the certificate of each is judged.
func TestOutgoingTLSIsNotResumed(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Idle = 50 * time.Millisecond }})
	b := l.listen("b.test")
	config := &tls.Config{Certificates: []tls.Certificate{l.ca.issue(t, nil, "b.test")}, ClientAuth: tls.RequestClientCert}
	for range 3 {
		a.Send(message("a.test", "b.test", "hello"))
		p := b.accept()
		p.answer("clear", starttls)
		p.expect(starttls)
		p.send("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
		secured := tls.Server(p.conn, config) // offers tickets
		if err := secured.Handshake(); err != nil {
			t.Fatal(err)
		}
		if secured.ConnectionState().DidResume {
			t.Error("a TLS session was resumed")
		}
		p.conn = secured
		p.r.Reset(secured)
		p.answer("id", dialbackFeature)
		p.expect("</db:result>")
		p.send("<db:result from='b.test' to='a.test' type='valid'/>")
		p.expect("hello")
		p.send("</stream:stream>")
		p.rest()
	}
}
