package xmpp_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// What the tests of known holes have in common: a server, and connections that say to it whatever an
// attacker would, byte for byte, and keep every byte that comes back.

// A target is a server that is attacked. All its accounts have the password "secret of NAME".
type target struct {
	*host
	lab *lab
}

// newTarget runs a server for a.test. PLAIN is on, because an attacker's login need not be pretty.
func newTarget(t testing.TB, settings string, accounts ...string) *target {
	t.Helper()
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, "auth.plain = true\nauth.iterations = 4096\n"+settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range accounts {
		if err := h.addAccount(name+"@a.test", "secret of "+name); err != nil {
			t.Fatal(err)
		}
	}
	h.run(t)
	return &target{h, l}
}

// A wire is a connection to a server.
type wire struct {
	t    testing.TB
	tcp  *net.TCPConn
	conn net.Conn      // tcp, or TLS on it
	to   string        // the domain
	wait time.Duration // for what is expected
	seen []byte        // everything that came
	read int           // how much of it the test has dealt with
}

const (
	streamTLS = "<starttls xmlns='" + ns.StartTLS + "'/>"
	closing   = "</stream:stream>"
)

// dial connects to a listener: "client", "client_tls", "server" or "server_tls".
func (g *target) dial(t testing.TB, key string) *wire {
	t.Helper()
	w := g.dialRaw(t, key)
	if strings.HasSuffix(key, "_tls") {
		w.secure(g.lab, nil)
	}
	return w
}

// dialRaw leaves the TLS of a listener for direct TLS to the test.
func (g *target) dialRaw(t testing.TB, key string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", g.Addresses()[key][0])
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, tcp: conn.(*net.TCPConn), conn: conn, to: g.domains[0]}
	t.Cleanup(func() { conn.Close() })
	w.limit(patience)
	return w
}

// limit bounds each wait from now on.
func (w *wire) limit(d time.Duration) {
	w.wait = d
	w.tcp.SetDeadline(time.Now().Add(d))
}

// secure puts TLS on the connection, with a certificate to show or none.
func (w *wire) secure(l *lab, cert *tls.Certificate) {
	w.t.Helper()
	config := l.clientTLS(w.to)
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	secured := tls.Client(w.tcp, config)
	if err := secured.Handshake(); err != nil {
		w.t.Fatalf("TLS: %v", err)
	}
	w.conn = secured
}

// send writes; what became of that shows in what can be read.
func (w *wire) send(text string) {
	w.tcp.SetWriteDeadline(time.Now().Add(w.wait))
	_, _ = io.WriteString(w.conn, text)
}

func (w *wire) sendf(format string, args ...any) { w.send(fmt.Sprintf(format, args...)) }

// more reads once.
func (w *wire) more() error {
	var buf [8 << 10]byte
	n, err := w.conn.Read(buf[:])
	w.seen = append(w.seen, buf[:n]...)
	return err
}

// expect reads until the text comes, and returns what came up to its end.
func (w *wire) expect(text string) string {
	w.t.Helper()
	w.tcp.SetDeadline(time.Now().Add(w.wait))
	for {
		if i := bytes.Index(w.seen[w.read:], []byte(text)); i >= 0 {
			got := string(w.seen[w.read : w.read+i+len(text)])
			w.read += len(got)
			return got
		}
		if err := w.more(); err != nil {
			w.t.Fatalf("waiting for %q: %v, after %q", text, err, w.seen[w.read:])
		}
	}
}

// rest reads until the server has closed the connection, and returns what came. When the server has
// closed its stream, so does the wire, whose server need not wait then.
func (w *wire) rest() string {
	w.t.Helper()
	w.tcp.SetDeadline(time.Now().Add(w.wait))
	for half := false; ; {
		if !half && bytes.Contains(w.seen[w.read:], []byte(closing)) {
			half = w.tcp.CloseWrite() == nil
		}
		if err := w.more(); err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				w.t.Errorf("the connection is still open; got %q", w.seen[w.read:])
			}
			got := string(w.seen[w.read:])
			w.read = len(w.seen)
			return got
		}
	}
}

// header opens a stream of clients.
func (w *wire) header() {
	w.sendf("<stream:stream xmlns='jabber:client' xmlns:stream='%s' to='%s' version='1.0'>", ns.Stream, w.to)
}

// serverHeader opens a stream of servers, as from.
func (w *wire) serverHeader(from string) {
	w.sendf("<stream:stream xmlns='jabber:server' xmlns:stream='%s' xmlns:db='%s' from='%s' to='%s' version='1.0'>",
		ns.Stream, ns.Dialback, from, w.to)
}

const endOfFeatures = "</stream:features>"

// underTLS is a client's stream under TLS, its features read.
func (g *target) underTLS(t testing.TB) *wire {
	t.Helper()
	w := g.dial(t, "client")
	w.header()
	w.expect(endOfFeatures)
	w.send(streamTLS)
	w.expect("<proceed xmlns='" + ns.StartTLS + "'/>")
	w.secure(g.lab, nil)
	w.header()
	w.expect(endOfFeatures)
	return w
}

// plain is what PLAIN sends.
func plain(authzid, name, password string) string {
	return "<auth xmlns='" + ns.SASL + "' mechanism='PLAIN'>" +
		base64.StdEncoding.EncodeToString([]byte(authzid+"\x00"+name+"\x00"+password)) + "</auth>"
}

// authenticated is a client's stream after login, before binding.
func (g *target) authenticated(t testing.TB, name string) *wire {
	t.Helper()
	w := g.underTLS(t)
	w.send(plain("", name, "secret of "+name))
	w.expect("<success xmlns='" + ns.SASL + "'")
	w.expect(">")
	w.header()
	w.expect(endOfFeatures)
	return w
}

// bound is a client's stream with the resource "x".
func (g *target) bound(t testing.TB, name string) *wire {
	t.Helper()
	w := g.authenticated(t, name)
	w.bind("x")
	return w
}

func (w *wire) bind(resource string) {
	w.t.Helper()
	w.sendf("<iq type='set' id='bind'><bind xmlns='%s'><resource>%s</resource></bind></iq>", ns.Bind, resource)
	w.expect("</iq>")
}

// online is bound and available; its own presence has come back.
func (g *target) online(t testing.TB, name string) *wire {
	t.Helper()
	w := g.bound(t, name)
	w.send("<presence/>")
	w.expect("from='" + name + "@" + w.to + "/x'/>")
	return w
}

// server is another server's stream that EXTERNAL has authenticated as domain.
func (g *target) server(t testing.TB, domain string) *wire {
	t.Helper()
	w := g.dial(t, "server")
	w.serverHeader(domain)
	w.expect(endOfFeatures)
	w.send(streamTLS)
	w.expect("<proceed xmlns='" + ns.StartTLS + "'/>")
	cert := g.lab.keyPair(t, domain)
	w.secure(g.lab, &cert)
	w.serverHeader(domain)
	w.expect("<mechanism>EXTERNAL</mechanism>")
	w.expect(endOfFeatures)
	w.sendf("<auth xmlns='%s' mechanism='EXTERNAL'>=</auth>", ns.SASL)
	w.expect("<success xmlns='" + ns.SASL + "'")
	w.expect(">")
	w.serverHeader(domain)
	w.expect(endOfFeatures)
	return w
}

func (l *lab) keyPair(t testing.TB, domain string) tls.Certificate {
	t.Helper()
	cert, key, err := l.certificate(domain)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// settled returns what came until everything that was said to the server before has had its effect on
// this client: it asks the server, and the answer comes behind all that.
func (w *wire) settled() string {
	w.t.Helper()
	w.limit(2 * patience) // for this answer; a long test asks often
	id := fmt.Sprintf("settled-%d", len(w.seen))
	w.sendf("<iq type='get' id='%s' to='%s'><ping xmlns='%s'/></iq>", id, w.to, ns.Ping)
	got := w.expect(id)
	before := got[:strings.LastIndex(got, "<iq")]
	w.expect(">")
	return before
}

// refused says that the server ended the stream with this error and sent nothing else that matters.
func (w *wire) refused(conditions ...string) {
	w.t.Helper()
	got := w.rest()
	if !slices.ContainsFunc(conditions, func(c string) bool { return strings.Contains(got, "<stream:error><"+c+" ") }) {
		w.t.Errorf("got %q, want the stream error %q", got, conditions)
	}
	for _, granted := range []string{"<success", "<jid>", "<message"} {
		if strings.Contains(got, granted) {
			w.t.Errorf("got %q", got)
		}
	}
}

// elements are the top-level elements in what a client got, as encoding/xml reads them.
func elements(t testing.TB, text string) []*tree {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader("<stream xmlns='jabber:client' xmlns:stream='" + ns.Stream + "'>" + text + "</stream>"))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	var list []*tree
	for {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e, err := readTree(d.Token, token)
			if err != nil {
				t.Fatalf("%v in %q", err, text)
			}
			list = append(list, e)
		case xml.EndElement:
			return list
		case xml.CharData:
			if s := strings.TrimSpace(string(token)); s != "" {
				t.Errorf("text %q between elements", s)
			}
		}
	}
}

// hasAccount says whether there is an account.
func (g *target) hasAccount(t testing.TB, name string) bool {
	t.Helper()
	err := g.store.View(func(tx storage.Tx) error {
		_, err := tx.Accounts().Get(jid.MustParse(name + "@a.test"))
		return err
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}
