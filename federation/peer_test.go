package federation

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"tombolo/xmpp/jid"
)

// A peer is the other end of a stream, played by a test word for word.
type peer struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	seen strings.Builder
}

func newPeer(t testing.TB, conn net.Conn) *peer {
	conn.SetDeadline(time.Now().Add(patience))
	return &peer{t: t, conn: conn, r: bufio.NewReader(conn)}
}

// dialPeer connects to a server's listener.
func dialPeer(t testing.TB, s *server) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return newPeer(t, conn)
}

func (p *peer) send(format string, args ...any) {
	if _, err := fmt.Fprintf(p.conn, format, args...); err != nil {
		p.t.Logf("peer: write: %v", err) // what it then reads, or does not, decides
	}
}

// expect reads until the text comes.
func (p *peer) expect(text string) string {
	p.t.Helper()
	from := p.seen.Len()
	for !strings.Contains(p.seen.String()[from:], text) {
		c, err := p.r.ReadByte()
		if err != nil {
			p.t.Fatalf("peer: waiting for %q: %v, after %s", text, err, p.seen.String()[from:])
		}
		p.seen.WriteByte(c)
	}
	return p.seen.String()[from:]
}

// rest reads until the stream ends.
func (p *peer) rest() string {
	p.t.Helper()
	from := p.seen.Len()
	for {
		c, err := p.r.ReadByte()
		if err != nil {
			return p.seen.String()[from:]
		}
		p.seen.WriteByte(c)
	}
}

// reset breaks the connection.
func (p *peer) reset() {
	p.t.Helper()
	conn := p.conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		p.t.Fatal(err)
	}
	conn.Close()
}

func (p *peer) header(from, to string) {
	p.send("<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' "+
		"xmlns:db='jabber:server:dialback' from='%s' to='%s' version='1.0'>", from, to)
}

// open opens a stream with STARTTLS as from, showing a certificate, and returns the features after
// TLS.
func (p *peer) open(from, to string, cert *tls.Certificate) string {
	p.t.Helper()
	p.header(from, to)
	p.expect("</stream:features>")
	p.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	p.expect("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	p.startTLS(to, cert)
	p.header(from, to)
	return p.expect("</stream:features>")
}

func (p *peer) startTLS(to string, cert *tls.Certificate) {
	p.t.Helper()
	c := &tls.Config{InsecureSkipVerify: true, ServerName: jid.ASCIIDomain(to)}
	if cert != nil {
		c.Certificates = []tls.Certificate{*cert}
	}
	secure := tls.Client(p.conn, c)
	if err := secure.Handshake(); err != nil {
		p.t.Fatalf("peer: %v", err)
	}
	p.conn, p.r = secure, bufio.NewReader(secure)
}

// login opens a stream as from and authenticates with EXTERNAL.
func (p *peer) login(from, to string, cert tls.Certificate) {
	p.t.Helper()
	if got := p.open(from, to, &cert); !strings.Contains(got, "<mechanism>EXTERNAL</mechanism>") {
		p.t.Fatalf("features without EXTERNAL: %s", got)
	}
	p.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>")
	p.expect("<success")
	p.header(from, to)
	p.expect("</stream:features>")
}

// A stage is where a domain is served by a test's own words.
type stage struct {
	net.Listener
	t testing.TB
}

// listen serves a domain; what comes is for accept.
func (l *lab) listen(domain string) *stage {
	l.t.Helper()
	l.ips++
	ip := fmt.Sprintf("127.0.0.%d", l.ips)
	listener, err := net.Listen("tcp", ip+":0")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	l.zone.srv("_xmpp-server._tcp."+domain, 10, 1, "host"+ip+".net.", listener.Addr().(*net.TCPAddr).Port)
	l.zone.a("host"+ip+".net", ip)
	return &stage{listener, l.t}
}

// accept takes the next connection.
func (s *stage) accept() *peer {
	s.t.Helper()
	if err := s.Listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	conn, err := s.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return newPeer(s.t, conn)
}

// answer answers a header as the receiving server.
func (p *peer) answer(id, features string) {
	p.t.Helper()
	p.answerHeader(id)
	p.send("<stream:features>%s</stream:features>", features)
}

func (p *peer) answerHeader(id string) {
	p.t.Helper()
	p.expect("version='1.0'")
	p.expect(">")
	p.send("<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' "+
		"xmlns:db='jabber:server:dialback' id='%s' version='1.0'>", id)
}

// receive plays the receiving server up to the features after TLS.
func (p *peer) receive(id string, cert tls.Certificate, features string) {
	p.t.Helper()
	p.answer("clear", starttls)
	p.expect("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	p.send("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
	secure := tls.Server(p.conn, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert})
	if err := secure.Handshake(); err != nil {
		p.t.Fatalf("peer: %v", err)
	}
	p.conn, p.r = secure, bufio.NewReader(secure)
	p.answer(id, features)
}

const starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
