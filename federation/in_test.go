package federation

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"tombolo/xmpp/ns"
)

func TestHeaders_RFC6120_4_9_3(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Policy.Deny = []string{"denied.test"} }})
	for name, c := range map[string]struct{ from, to, want string }{
		"a domain that is not served":  {"b.test", "x.test", "host-unknown"},
		"no to":                        {"b.test", "", "improper-addressing"},
		"a to that is no domain":       {"b.test", "romeo@a.test", "host-unknown"},
		"a from that is no domain":     {"juliet@b.test", "a.test", "invalid-from"},
		"a from that is one of ours":   {"a.test", "a.test", "invalid-from"},
		"a domain that is refused":     {"denied.test", "a.test", "policy-violation"},
		"a subdomain of one refused":   {"x.denied.test", "a.test", "policy-violation"},
		"a refused one, in other case": {"DENIED.Test.", "a.test", "policy-violation"},
	} {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, a)
			p.header(c.from, c.to)
			if got := p.rest(); !strings.Contains(got, "<stream:error><"+c.want+" ") {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestHeaderChangesAfterTLS(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Domains = func() []string { return []string{"a.test", "a2.test"} } }})
	for name, c := range map[string]struct{ from, to, want string }{
		"another from": {"c.test", "a.test", "invalid-from"},
		"another to":   {"b.test", "a2.test", "policy-violation"},
		"the same":     {"B.test", "A.test", "</stream:features>"},
	} {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, a)
			p.header("b.test", "a.test")
			p.expect("</stream:features>")
			p.send(starttls)
			p.expect("<proceed")
			p.expect("/>")
			p.startTLS("a.test", nil)
			p.header(c.from, c.to)
			p.expect(c.want)
		})
	}
}

func TestFeatures_RFC6120_5_3_1(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	cert := l.ca.issue(t, nil, "b.test")

	p := dialPeer(t, a)
	p.header("b.test", "a.test")
	if got := p.expect("</stream:features>"); !strings.Contains(got, "<required/>") || strings.Contains(got, "dialback xmlns") || strings.Contains(got, "EXTERNAL") {
		t.Errorf("before TLS: %s, want STARTTLS, required, alone", got)
	}
	p = dialPeer(t, a)
	if got := p.open("b.test", "a.test", &cert); strings.Contains(got, "starttls") ||
		!strings.Contains(got, "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>") ||
		!strings.Contains(got, "<mechanism>EXTERNAL</mechanism>") {
		t.Errorf("under TLS: %s, want EXTERNAL and dialback with errors", got)
	}
	p = dialPeer(t, a)
	if got := p.open("c.test", "a.test", &cert); strings.Contains(got, "EXTERNAL") {
		t.Errorf("with a certificate for another domain: %s, want no EXTERNAL", got)
	}
}

func TestOrderOfNegotiation(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	message := "<message from='juliet@b.test' to='romeo@a.test'><body>x</body></message>"
	external := "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"
	result := "<db:result from='b.test' to='a.test'>key</db:result>"
	for name, c := range map[string]struct{ words, want string }{
		"a stanza before TLS":     {message, "not-authorized"},
		"EXTERNAL before TLS":     {external, "policy-violation"},
		"dialback before TLS":     {result, "policy-violation"},
		"bytes behind <starttls>": {starttls + message, "policy-violation"},
	} {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, a)
			p.header("b.test", "a.test")
			p.expect("</stream:features>")
			p.send("%s", c.words)
			if got := p.rest(); !strings.Contains(got, "<stream:error><"+c.want+" ") {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	for name, words := range map[string]string{
		"a stanza under TLS": message, "EXTERNAL that is not offered": external,
		"an answer to no request": "<db:result from='b.test' to='a.test' type='valid'/>" + message,
		"an answer to no verify":  "<db:verify from='b.test' to='a.test' id='1' type='valid'/>" + message,
	} {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, a)
			p.open("b.test", "a.test", nil)
			p.send("%s", words)
			if got := p.rest(); !strings.Contains(got, "<stream:error>") || strings.Contains(got, "success") {
				t.Errorf("got %s, want a stream error", got)
			}
		})
	}
	a.quiet(t)
}

func TestExternalIdentity_XEP0178_3(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	cert := l.ca.issue(t, nil, "b.test", "c.test")
	for authzid, want := range map[string]string{
		"b.test": "<success", "B.TEST": "<success", "": "<success",
		"c.test": "<invalid-authzid", "a.test": "<invalid-authzid", "juliet@b.test": "<invalid-authzid",
	} {
		t.Run("as "+authzid, func(t *testing.T) {
			p := dialPeer(t, a)
			p.open("b.test", "a.test", &cert)
			p.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>%s</auth>",
				cmpOr(base64.StdEncoding.EncodeToString([]byte(authzid)), "="))
			p.expect(want)
		})
	}
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func TestStanzaAddresses_RFC6120_8_1_2_2(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) {
		c.Domains = func() []string { return []string{"a.test", "a2.test"} }
	}})
	cert := l.ca.issue(t, nil, "b.test", "c.test")
	for name, c := range map[string]struct{ addresses, want string }{
		"another from":                       {"from='juliet@c.test' to='romeo@a.test'", "invalid-from"},
		"a from of ours":                     {"from='admin@a.test' to='romeo@a.test'", "invalid-from"},
		"a subdomain":                        {"from='juliet@x.b.test' to='romeo@a.test'", "invalid-from"},
		"a pair that was not authorised":     {"from='juliet@b.test' to='romeo@a2.test'", "invalid-from"},
		"a to that is not ours":              {"from='juliet@b.test' to='romeo@x.test'", "host-unknown"},
		"no from":                            {"to='romeo@a.test'", "improper-addressing"},
		"no to":                              {"from='juliet@b.test'", "improper-addressing"},
		"a malformed from":                   {"from='jul iet@b.test' to='romeo@a.test'", "invalid-from"},
		"a malformed to":                     {"from='juliet@b.test' to='@a.test'", "improper-addressing"},
		"a from that a look-alike would fit": {"from='juliet@b.test' to='romeo@a.test' x:from='c.test' xmlns:x='x'", ""},
		"a from in another spelling":         {"from='JULIET@B.Test./R' to='Romeo@A.test'", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, a)
			p.login("b.test", "a.test", cert)
			p.send("<message %s><body>x</body></message>", c.addresses)
			if c.want != "" {
				if got := p.rest(); !strings.Contains(got, "<stream:error><"+c.want+" ") {
					t.Errorf("got %s, want %s", got, c.want)
				}
				a.quiet(t)
				return
			}
			st := a.wantMessage(t, "x")
			if st.From.Bare().String() != "juliet@b.test" || st.To.String() != "romeo@a.test" {
				t.Errorf("routed from %s to %s", st.From, st.To)
			}
		})
	}
	t.Run("not a stanza", func(t *testing.T) {
		p := dialPeer(t, a)
		p.login("b.test", "a.test", cert)
		p.send("<note from='juliet@b.test' to='romeo@a.test'/>")
		p.expect("<unsupported-stanza-type ")
	})
	t.Run("an IQ that is none is answered", func(t *testing.T) {
		p := dialPeer(t, a)
		p.login("b.test", "a.test", cert)
		p.send("<iq type='get' id='7' from='juliet@b.test' to='romeo@a.test'/>")
		if st := a.wantBounce(t, "bad-request"); st.To.String() != "juliet@b.test" || st.ID != "7" {
			t.Errorf("answered %s", st.Element)
		}
	})
}

// What only our own entities may say of themselves does not come in from elsewhere; what others say,
// and what is forwarded, does.
func TestClaimsAreStripped(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	p := dialPeer(t, a)
	p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test"))
	p.send("<message from='juliet@b.test' to='romeo@a.test/r'><body>x</body>" +
		"<stanza-id xmlns='urn:xmpp:sid:0' by='romeo@a.test' id='1'/><stanza-id xmlns='urn:xmpp:sid:0' by='ROMEO@a.test' id='2'/>" +
		"<delay xmlns='urn:xmpp:delay' from='a.test' stamp='2002-09-10T23:08:25Z'/>" +
		"<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'/></received><sent xmlns='urn:xmpp:carbons:2'/>" +
		"<stanza-id xmlns='urn:xmpp:sid:0' by='juliet@b.test' id='3'/></message>")
	st := a.wantMessage(t, "x")
	if text := st.Element.String(); strings.Count(text, "stanza-id") != 1 || !strings.Contains(text, "id='3'") || strings.Contains(text, "delay") ||
		strings.Contains(text, "carbons") {
		t.Errorf("routed %s", text)
	}
}

// A peer's default language holds for its stanzas (RFC 6120 section 8.1.5), but would be lost on the
// way to the recipient's stream, whose header has ours.
func TestLanguageOfTheStream(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	cert := l.ca.issue(t, nil, "b.test")
	p := dialPeer(t, a)
	p.open("b.test", "a.test", &cert)
	p.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>")
	p.expect("<success")
	p.send("<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' from='b.test' to='a.test' version='1.0' xml:lang='de'>")
	p.expect("</stream:features>")
	for set, want := range map[string]string{"": "de", " xml:lang='fr'": "fr"} {
		p.send("<message from='juliet@b.test' to='romeo@a.test'%s><body>x</body></message>", set)
		if st := a.wantMessage(t, "x"); st.Element.Lang() != want {
			t.Errorf("with %q: language %q, want %q", set, st.Element.Lang(), want)
		}
	}
}

// Refusals concern a pair; the stream and its other pairs live (XEP-0220 sections 2.2.1 and 2.5).
func TestDialbackRefusals_XEP0220_2_5(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) {
		c.Policy.Deny = []string{"denied.test"}
		c.Policy.Partners = []Partner{{Domain: "strict.test", Certificate: true}}
	}})
	p := dialPeer(t, a)
	p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test", "c.test"))
	for _, c := range []struct{ from, to, want string }{
		{"b.test", "x.test", "<item-not-found "},
		{"denied.test", "a.test", "<not-allowed "},
		{"a.test", "a.test", "<not-allowed "},
		{"strict.test", "a.test", "<not-authorized "},
		{"unreachable.test", "a.test", "<remote-server-not-found "},
	} {
		p.send("<db:result from='%s' to='%s'>key</db:result>", c.from, c.to)
		if got := p.expect("</db:result>"); !strings.Contains(got, c.want) || !strings.Contains(got, "type='error'") ||
			!strings.Contains(got, fmt.Sprintf("from='%s' to='%s'", c.to, c.from)) {
			t.Errorf("%s to %s: %s, want an error %s", c.from, c.to, got, c.want)
		}
	}
	// The certificate proves c.test, too, so the key need not be verified (section 2.1.1).
	p.send("<db:result from='c.test' to='a.test'>any</db:result>")
	p.expect("<db:result from='a.test' to='c.test' type='valid'>")
	for _, from := range []string{"c.test", "b.test"} {
		p.send("<message from='juliet@%s' to='romeo@a.test'><body>%s</body></message>", from, from)
		a.wantMessage(t, from)
	}
	a.quiet(t)
}

func TestDialbackAddresses(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	for name, words := range map[string]string{
		"no from": "<db:result to='a.test'>key</db:result>", "no to": "<db:result from='b.test'>key</db:result>",
		"a from that is no domain": "<db:result from='x@b.test' to='a.test'>key</db:result>",
		"a space in the from":      "<db:verify id='1' from='b.test a.test' to='a.test'>key</db:verify>",
	} {
		t.Run(name, func(t *testing.T) {
			p := dialPeer(t, a)
			p.open("b.test", "a.test", nil)
			p.send("%s", words)
			p.expect("<improper-addressing ")
		})
	}
}

// An authoritative server that says "invalid" ends the stream, unless it has served another pair; no
// stanza gets in (XEP-0220 section 2.2.1).
func TestInvalidKey(t *testing.T) {
	for name, first := range map[string]bool{"as the first pair": true, "beside another pair": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a := l.serve("a.test", options{})
			authority := l.listen("victim.test")
			p := dialPeer(t, a)
			if first {
				p.open("victim.test", "a.test", nil)
			} else {
				p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test"))
			}
			p.send("<db:result from='victim.test' to='a.test'>forged</db:result>")
			v := authority.accept()
			v.receive("id", newAuthority(t).issue(t, nil, "x"), "")
			got := v.expect("</db:verify>")
			id := between(got, "id='", "'")
			if !strings.Contains(got, "from='a.test' to='victim.test'") || !strings.Contains(got, ">forged<") || id == "" {
				t.Fatalf("asked %s", got)
			}
			// Answers to what was not asked count for nothing.
			v.send("<db:verify from='victim.test' to='a.test' id='other' type='valid'/>")
			v.send("<db:verify from='b.test' to='a.test' id='%s' type='valid'/>", id)
			v.send("<db:result from='victim.test' to='a.test' type='valid'/>")
			v.send("<db:verify from='victim.test' to='a.test' id='%s' type='invalid'/>", id)
			// And no answer counts twice.
			v.send("<db:verify from='victim.test' to='a.test' id='%s' type='valid'/>", id)
			if first {
				p.expect("<db:result from='a.test' to='victim.test' type='invalid'>")
				p.send("<message from='juliet@victim.test' to='romeo@a.test'><body>x</body></message>")
				p.rest()
			} else {
				p.expect("<forbidden ")
				p.send("<message from='juliet@b.test' to='romeo@a.test'><body>mine</body></message>")
				a.wantMessage(t, "mine")
				p.send("<message from='juliet@victim.test' to='romeo@a.test'><body>x</body></message>")
				p.expect("<invalid-from ")
			}
			a.quiet(t)
		})
	}
}

// The key of a valid answer lets exactly its pair in, and then the stream has the limits of one that
// is authenticated.
func TestValidKey(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	authority := l.listen("b.test")
	p := dialPeer(t, a)
	p.open("b.test", "a.test", nil)
	p.send("<db:result from='b.test' to='a.test'>key</db:result>")
	v := authority.accept()
	v.receive("id", newAuthority(t).issue(t, nil, "x"), "")
	id := between(v.expect("</db:verify>"), "id='", "'")
	v.send("<db:verify from='b.test' to='a.test' id='%s' type='valid'/>", id)
	v.expect("</stream:stream>") // XEP-0220 section 2.1.2: it was for this only
	p.expect("<db:result from='a.test' to='b.test' type='valid'>")
	big := strings.Repeat("x", 100_000)
	p.send("<message from='juliet@b.test' to='romeo@a.test'><body>%s</body></message>", big)
	a.wantMessage(t, big)
	p.send("<message from='juliet@c.test' to='romeo@a.test'><body>x</body></message>")
	p.expect("<invalid-from ")
	a.quiet(t)
}

// A stream of ours whose other end has proved to be the authoritative server is asked; there is no
// second one. That it does not answer has an end.
func TestKeyIsVerifiedOnAProvenStream(t *testing.T) {
	for name, answers := range map[string]bool{"it answers": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a := l.serve("a.test", options{config: func(c *Config) {
				if !answers {
					c.ConnectTime = 500 * time.Millisecond
				}
			}})
			b := l.listen("b.test")
			a.Send(message("a.test", "b.test", "hello"))
			out := b.accept()
			out.receiveKey(l.ca.issue(t, nil, "b.test"))
			out.send("<db:result from='b.test' to='a.test' type='valid'/>")
			out.expect("hello")

			in := dialPeer(t, a)
			in.open("b.test", "a.test", nil)
			in.send("<db:result from='b.test' to='a.test'>key</db:result>")
			id := between(out.expect("</db:verify>"), "id='", "'")
			if !answers {
				in.expect("type='error'><error type='wait'><remote-server-timeout ")
				return
			}
			out.send("<db:verify from='b.test' to='a.test' id='%s' type='valid'/>", id)
			in.expect("<db:result from='a.test' to='b.test' type='valid'>")
			in.send("<message from='juliet@b.test' to='romeo@a.test'><body>x</body></message>")
			a.wantMessage(t, "x")
		})
	}
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

// While its key is being verified a pair has no rights yet, also on a stream that has some for
// another one.
func TestPendingPairHasNoRights(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	authority := l.listen("c.test")
	p := dialPeer(t, a)
	p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test"))
	p.send("<db:result from='c.test' to='a.test'>key</db:result>")
	authority.accept() // we are verifying
	p.send("<message from='juliet@c.test' to='romeo@a.test'><body>x</body></message>")
	p.expect("<invalid-from ")
	a.quiet(t)
}

// A policy that changes while a key is being verified holds for its pair.
func TestPolicyChangesWhileVerifying(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	authority := l.listen("b.test")
	p := dialPeer(t, a)
	p.open("b.test", "a.test", nil)
	p.send("<db:result from='b.test' to='a.test'>key</db:result>")
	v := authority.accept()
	v.receive("id", l.ca.issue(t, nil, "b.test"), "")
	id := between(v.expect("</db:verify>"), "id='", "'")
	if err := a.Reload(Policy{Open: true, Partners: []Partner{{Domain: "b.test", Certificate: true}}}, l.ca.pool()); err != nil {
		t.Fatal(err)
	}
	v.send("<db:verify from='b.test' to='a.test' id='%s' type='valid'/>", id)
	p.expect("<db:result from='a.test' to='b.test' type='error'>")
	p.send("<message from='juliet@b.test' to='romeo@a.test'><body>x</body></message>")
	p.expect("<not-authorized ")
	a.quiet(t)
}

// That one partner may come in clear does not let anybody else come with it.
func TestClearIsForItsPartner(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Policy.Partners = []Partner{{Domain: "clear.test", Clear: true}} }})
	authority := l.listen("clear.test")
	p := dialPeer(t, a)
	p.header("clear.test", "a.test")
	if got := p.expect("</stream:features>"); strings.Contains(got, "<required/>") || !strings.Contains(got, "dialback xmlns") {
		t.Errorf("offered %s, want dialback and STARTTLS that is not required", got)
	}
	p.send("<db:result from='b.test' to='a.test'>key</db:result>")
	p.expect("to='b.test' type='error'><error type='modify'><policy-violation ")
	p.send("<db:result from='clear.test' to='a.test'>key</db:result>")
	v := authority.accept()
	v.answer("id", "")
	id := between(v.expect("</db:verify>"), "id='", "'")
	v.send("<db:verify from='clear.test' to='a.test' id='%s' type='valid'/>", id)
	p.expect("<db:result from='a.test' to='clear.test' type='valid'>")
	p.send("<message from='juliet@clear.test' to='romeo@a.test'><body>hello</body></message>")
	a.wantMessage(t, "hello")
	p.send("<message from='juliet@b.test' to='romeo@a.test'><body>x</body></message>")
	p.expect("<invalid-from ")
	a.quiet(t)
}

// We are the authoritative server for our domains' keys (XEP-0220 section 2.2.2).
func TestAuthoritative(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Policy.Deny = []string{"denied.test"} }})
	key := a.secret.key("b.test", "a.test", "id1")
	p := dialPeer(t, a)
	p.open("b.test", "a.test", nil)
	for _, c := range []struct{ from, to, id, key, want string }{
		{"b.test", "a.test", "id1", key, "type='valid'"},
		{"b.test", "a.test", "id1", " " + key + "\n", "type='valid'"},
		{"b.test", "a.test", "id2", key, "type='invalid'"},
		{"c.test", "a.test", "id1", key, "type='invalid'"},
		{"b.test", "a.test", "id1", "", "type='invalid'"},
		{"b.test", "x.test", "id1", key, "<item-not-found "},
		{"denied.test", "a.test", "id1", key, "<not-allowed "},
	} {
		p.send("<db:verify from='%s' to='%s' id='%s'>%s</db:verify>", c.from, c.to, c.id, c.key)
		if got := p.expect("</db:verify>"); !strings.Contains(got, c.want) ||
			!strings.Contains(got, fmt.Sprintf("from='%s' to='%s' id='%s'", c.to, c.from, c.id)) {
			t.Errorf("%v: %s", c, got)
		}
	}
}

func TestTooManyPairs(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	p := dialPeer(t, a)
	p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test"))
	for i := range maxPending + 1 {
		l.listen(fmt.Sprintf("d%d.test", i)) // accepts and says nothing
		p.send("<db:result from='d%d.test' to='a.test'>key</db:result>", i)
	}
	p.expect(fmt.Sprintf("to='d%d.test' type='error'", maxPending))
	p.expect("<resource-constraint ")
	p.send("<message from='juliet@b.test' to='romeo@a.test'><body>x</body></message>")
	if st := a.wantMessage(t, "x"); st.Element.NS() != ns.Client {
		t.Errorf("routed %s", st.Element)
	}
}
