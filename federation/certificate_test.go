package federation

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"testing"
	"time"

	"tombolo/xmpp/jid"
)

// TestCertificateMatrix judges each certificate for a domain in both directions over real streams:
// inbound, whether EXTERNAL is offered; outbound, whether a partner that must prove itself with a
// certificate gets the message.
func TestCertificateMatrix(t *testing.T) {
	ca, strange := newAuthority(t), newAuthority(t)
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	valid := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
	}
	cn := func(name string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: name} }
	}
	constrained := newSubordinate(t, ca, []string{"b.test"})
	below := func(c tls.Certificate) tls.Certificate {
		c.Certificate = append(c.Certificate, ca.cert.Raw)
		return c
	}
	self := newAuthority(t)
	const srv, utf8, ia5 = "_xmpp-server.b.test", asn1.TagUTF8String, asn1.TagIA5String
	for name, c := range map[string]struct {
		domain string
		cert   tls.Certificate
		proves bool
	}{
		"EKU serverAuth":               {"b.test", ca.issue(t, usage(x509.ExtKeyUsageServerAuth), "b.test"), true},
		"EKU clientAuth":               {"b.test", ca.issue(t, usage(x509.ExtKeyUsageClientAuth), "b.test"), true},
		"EKU any":                      {"b.test", ca.issue(t, usage(x509.ExtKeyUsageAny), "b.test"), true},
		"no EKU":                       {"b.test", ca.issue(t, usage(), "b.test"), true},
		"one name of several":          {"b.test", ca.issue(t, nil, "x.test", "b.test"), true},
		"name in other case":           {"b.test", ca.issue(t, nil, "B.Test"), true},
		"expired":                      {"b.test", ca.issue(t, valid(-2*time.Hour, -time.Hour), "b.test"), false},
		"not yet valid":                {"b.test", ca.issue(t, valid(time.Hour, 2*time.Hour), "b.test"), false},
		"another host":                 {"b.test", ca.issue(t, nil, "c.test"), false},
		"the SRV target only":          {"b.test", ca.issue(t, nil, "host127.0.0.3.net"), false},
		"CN only":                      {"b.test", ca.issue(t, cn("b.test")), false},
		"CN beside another name":       {"b.test", ca.issue(t, cn("b.test"), "c.test"), false},
		"untrusted CA":                 {"b.test", strange.issue(t, nil, "b.test"), false},
		"self-signed":                  {"b.test", tls.Certificate{Certificate: [][]byte{self.cert.Raw}, PrivateKey: self.key, Leaf: self.cert}, false},
		"parent domain":                {"x.b.test", ca.issue(t, nil, "b.test"), false},
		"wildcard for one label":       {"x.b.test", ca.issue(t, nil, "*.b.test"), true},
		"wildcard for two labels":      {"y.x.b.test", ca.issue(t, nil, "*.b.test"), false},
		"wildcard for none":            {"b.test", ca.issue(t, nil, "*.b.test"), false},
		"wildcard in a part":           {"xy.b.test", ca.issue(t, nil, "x*.b.test"), false},
		"wildcard further right":       {"x.y.test", ca.issue(t, nil, "x.*.test"), false},
		"IDN as A-label":               {"bücher.test", ca.issue(t, nil, "xn--bcher-kva.test"), true},
		"wildcard for an A-label":      {"bücher.b.test", ca.issue(t, nil, "*.b.test"), true},
		"SRV-ID":                       {"b.test", ca.issue(t, otherNameSAN(t, idOnDNSSRV, ia5, srv, false)), true},
		"SRV-ID, critical":             {"b.test", ca.issue(t, otherNameSAN(t, idOnDNSSRV, ia5, srv, true)), true},
		"SRV-ID, wildcard":             {"x.b.test", ca.issue(t, otherNameSAN(t, idOnDNSSRV, ia5, "_xmpp-server.*.b.test", false)), true},
		"SRV-ID of clients":            {"b.test", ca.issue(t, otherNameSAN(t, idOnDNSSRV, ia5, "_xmpp-client.b.test", false)), false},
		"SRV-ID of another host":       {"b.test", ca.issue(t, otherNameSAN(t, idOnDNSSRV, ia5, "_xmpp-server.c.test", false)), false},
		"SRV-ID without service":       {"b.test", ca.issue(t, otherNameSAN(t, idOnDNSSRV, ia5, "b.test", false)), false},
		"xmppAddr":                     {"b.test", ca.issue(t, otherNameSAN(t, idOnXMPPAddr, utf8, "b.test", false)), true},
		"xmppAddr, IDN":                {"bücher.test", ca.issue(t, otherNameSAN(t, idOnXMPPAddr, utf8, "Bücher.test", false)), true},
		"xmppAddr of a user":           {"b.test", ca.issue(t, otherNameSAN(t, idOnXMPPAddr, utf8, "juliet@b.test", false)), false},
		"xmppAddr with wildcard":       {"x.b.test", ca.issue(t, otherNameSAN(t, idOnXMPPAddr, utf8, "*.b.test", false)), false},
		"xmppAddr in another type":     {"b.test", ca.issue(t, otherNameSAN(t, idOnXMPPAddr, ia5, "b.test", false)), false},
		"an otherName of another kind": {"b.test", ca.issue(t, otherNameSAN(t, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}, utf8, "b.test", false)), false},
		"constrained CA, within":       {"b.test", below(constrained.issue(t, nil, "b.test")), true},
		"constrained CA, outside":      {"c.test", below(constrained.issue(t, nil, "c.test")), false},
		"constrained CA, xmppAddr":     {"c.test", below(constrained.issue(t, otherNameSAN(t, idOnXMPPAddr, utf8, "c.test", false), "b.test")), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.ca = ca
			a := l.serve("a.test", options{})
			in := dialPeer(t, a)
			features := in.open(c.domain, "a.test", &c.cert)
			if got := strings.Contains(features, "<mechanism>EXTERNAL</mechanism>"); got != c.proves {
				t.Errorf("inbound: EXTERNAL offered %v, want %v", got, c.proves)
			}
			if !strings.Contains(features, "urn:xmpp:features:dialback") {
				t.Error("inbound: no dialback")
			}
			out := l.listen(jid.ASCIIDomain(c.domain))
			if err := a.Reload(Policy{Open: true, Partners: []Partner{{Domain: c.domain, Certificate: true}}}, ca.pool()); err != nil {
				t.Fatal(err)
			}
			a.Send(message("a.test", c.domain, "hello"))
			p := out.accept()
			p.receive("id", c.cert, "<dialback xmlns='urn:xmpp:features:dialback'/>")
			if c.proves {
				p.expect("<db:result from='a.test' to='" + c.domain + "'>")
			} else {
				if got := p.rest(); strings.Contains(got, "db:result") {
					t.Errorf("outbound: it gets a key: %s", got)
				}
				a.wantBounce(t, "remote-server-timeout")
			}

			// A partner that must prove itself does not get past its header either.
			strict := dialPeer(t, a)
			strict.header(c.domain, "a.test")
			strict.expect("</stream:features>")
			strict.send(starttls)
			strict.expect("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
			strict.startTLS("a.test", &c.cert)
			strict.header(c.domain, "a.test")
			if c.proves {
				strict.expect("<mechanism>EXTERNAL</mechanism>")
			} else {
				strict.expect("<stream:error><not-authorized ")
			}
		})
	}
}

func TestNoCertificate(t *testing.T) {
	open := new(terms)
	if _, err := open.judge(nil, "b.test", nil, time.Now()); err == nil {
		t.Error("no TLS proves a domain")
	}
	if _, err := open.judge(shown(&tls.ConnectionState{}), "b.test", nil, time.Now()); err == nil {
		t.Error("no certificate proves a domain")
	}
	pinned := &terms{pins: make([][32]byte, 1), certificate: true}
	cert := newAuthority(t).issue(t, nil, "b.test")
	state := shown(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}})
	if _, err := pinned.judge(state, "b.test", nil, time.Now()); err == nil {
		t.Error("another key than the pinned one proves a domain")
	}
}

// A chain can be made such that verifying it takes a good part of a second, and a peer may ask about a
// thousand domains before it has proved one. So it is verified once; but not for as long as the stream
// lives, for certificates expire, nor by trust anchors that were replaced.
func TestChainIsVerifiedOnce(t *testing.T) {
	ca := newAuthority(t)
	cert := ca.issue(t, nil, "b.test")
	c := shown(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}})
	roots, now := x509.NewCertPool(), time.Now()
	proved := func(roots *x509.CertPool, at time.Time) bool { return c.proves("b.test", roots, at) == nil }
	if proved(roots, now) {
		t.Error("proved by a CA that is not trusted")
	}
	roots.AddCert(ca.cert) // which makes a difference as soon as the chain is verified
	if proved(roots, now) || proved(roots, now.Add(recheck-1)) {
		t.Error("verified anew for each question")
	}
	if !proved(ca.pool(), now) {
		t.Error("not verified by new trust anchors")
	}
	if !proved(roots, now) || !proved(roots, now.Add(recheck)) {
		t.Error("not verified by the trust anchors that there are")
	}
	if expired := cert.Leaf.NotAfter.Add(recheck); proved(roots, expired) {
		t.Error("proved by a certificate that has expired")
	}
	if c.proves("c.test", roots, now) == nil {
		t.Error("proved another name")
	}
}

// That a certificate is for others is said, in the log and to its peer, with a few of its names.
func TestCertificateOfManyNames(t *testing.T) {
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("x%d.test", i)
	}
	ca := newAuthority(t)
	c := shown(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{ca.issue(t, nil, names...).Leaf}})
	err := c.proves("b.test", ca.pool(), time.Now())
	if err == nil || len(err.Error()) > 300 || !strings.Contains(err.Error(), "x0.test, x1.test") || !strings.Contains(err.Error(), "990 more") {
		t.Errorf("got %v", err)
	}
}
