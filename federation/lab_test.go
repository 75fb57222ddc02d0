package federation

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"tombolo/storage/mem"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
)

// patience bounds every wait of these tests.
const patience = 10 * time.Second

// An authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority { return newSubordinate(t, nil, nil) }

// newSubordinate makes a CA below another one, or a root for nil.
func newSubordinate(t testing.TB, above *authority, permitted []string) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "a CA of tests " + rand.Text()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomains: permitted, PermittedDNSDomainsCritical: permitted != nil,
	}
	parent, signer := template, key
	if above != nil {
		parent, signer = above.cert, above.key
	}
	return &authority{parse(t, template, parent, key, signer), key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parse(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue signs a certificate for the DNS names, after change has changed it.
func (a *authority) issue(t testing.TB, change func(*x509.Certificate), names ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	key := newKey(t)
	leaf := parse(t, template, a.cert, key, a.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: key, Leaf: leaf}
}

// otherNameSAN is a subjectAltName of one otherName, which crypto/x509 cannot make.
func otherNameSAN(t testing.TB, kind asn1.ObjectIdentifier, tag int, value string, critical bool) func(*x509.Certificate) {
	t.Helper()
	marshal := func(v any, params string) []byte {
		der, err := asn1.MarshalWithParams(v, params)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	text := marshal(asn1.RawValue{Tag: tag, Bytes: []byte(value)}, "")
	explicit := marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: text}, "")
	name := marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: append(marshal(kind, ""), explicit...)}, "")
	san := marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: name}, "")
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: subjectAltName, Value: san, Critical: critical})
	}
}

// certificates writes a certificate to files and loads it as the one of a domain.
func certificates(t testing.TB, domain string, cert tls.Certificate) *transport.Certificates {
	t.Helper()
	var chain []byte
	for _, der := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := transport.KeyPair{Domain: domain, Certificate: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
	for name, content := range map[string][]byte{
		files.Certificate: chain, files.Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	loaded, err := transport.LoadCertificates([]transport.KeyPair{files}, time.Now, func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// A zone is a DNS server on loopback.
type zone struct {
	address string
	mu      sync.Mutex
	records map[string][]dnsmessage.ResourceBody // by lower-case name without the final dot
}

func newZone(t testing.TB) *zone {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{address: conn.LocalAddr().String(), records: make(map[string][]dnsmessage.ResourceBody)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var query dnsmessage.Message
			if query.Unpack(buf[:n]) == nil {
				if reply, err := z.answer(query); err == nil {
					_, _ = conn.WriteTo(reply, from)
				}
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return z
}

func (z *zone) answer(query dnsmessage.Message) ([]byte, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	q := query.Questions[0]
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: query.ID, Response: true, Authoritative: true,
		RecursionAvailable: true}, Questions: query.Questions[:1]}
	name := strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")
	bodies, known := z.records[name]
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, body := range bodies {
		var typ dnsmessage.Type
		switch body.(type) {
		case *dnsmessage.SRVResource:
			typ = dnsmessage.TypeSRV
		case *dnsmessage.AResource:
			typ = dnsmessage.TypeA
		}
		if typ == q.Type {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: typ, Class: q.Class}, Body: body})
		}
	}
	return reply.Pack()
}

func (z *zone) srv(name string, priority, weight uint16, target string, port int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[name] = append(z.records[name], &dnsmessage.SRVResource{Priority: priority, Weight: weight,
		Port: uint16(port), Target: dnsmessage.MustNewName(target)})
}

func (z *zone) a(name string, ip string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[name] = append(z.records[name], &dnsmessage.AResource{A: [4]byte(net.ParseIP(ip).To4())})
}

// A server is a Federation for one domain with its listener, and what it routed.
type server struct {
	*Federation
	domain   string
	listener net.Listener
	routed   chan stanza.Stanza
}

// options say how a server differs from the usual one: certificate from the lab's CA, open policy.
type options struct {
	cert   *tls.Certificate
	direct bool
	config func(*Config)
	unkept chan<- stanza.Stanza // gets what could not be kept, which is an error otherwise
}

// A lab is some servers with a DNS and a CA in common.
type lab struct {
	t    testing.TB
	zone *zone
	ca   *authority
	ips  int
}

func newLab(t testing.TB) *lab {
	return &lab{t: t, zone: newZone(t), ca: newAuthority(t), ips: 1}
}

func (l *lab) serve(domain string, o options) *server {
	t := l.t
	t.Helper()
	l.ips++
	ip := net.IPv4(127, 0, 0, byte(l.ips))
	listener, err := net.Listen("tcp", net.JoinHostPort(ip.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	service := "_xmpp-server"
	if o.direct {
		service = "_xmpps-server"
	}
	l.zone.srv(service+"._tcp."+jid.ASCIIDomain(domain), 10, 1, "host"+ip.String()+".net.", port)
	l.zone.a("host"+ip.String()+".net", ip.String())
	if o.cert == nil {
		issued := l.ca.issue(t, nil, jid.ASCIIDomain(domain))
		o.cert = &issued
	}
	store := mem.New(mem.Options{})
	t.Cleanup(func() { store.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	flusher := stream.NewFlusher()
	s := &server{domain: domain, listener: listener, routed: make(chan stanza.Stanza, 1000)}
	limits := element.Limits{Bytes: 10_000, Depth: 64, Attrs: 64, Namespaces: 16}
	after := limits
	after.Bytes = 512_000
	c := Config{
		Domains: func() []string { return []string{domain} },
		Policy:  Policy{Open: true}, Roots: l.ca.pool(), Certificates: certificates(t, domain, *o.cert),
		Resolver: l.zone.address, LocalAddr: &net.TCPAddr{IP: ip},
		Route: func(st stanza.Stanza) { s.routed <- st }, Store: store,
		Limits:      stream.Limits{Before: limits, After: after, Queue: 4 << 20},
		Timing:      stream.Timing{Login: patience, Quiet: time.Minute, Answer: time.Minute, Finish: 200 * time.Millisecond},
		ConnectTime: patience, Idle: time.Minute, Queue: 1 << 20, Resume: time.Minute,
		Flusher: flusher, Log: slog.New(slog.NewTextHandler(t.Output(), nil)).With("server", domain),
	}
	if o.config != nil {
		o.config(&c)
	}
	if c.Journal, err = journal.New(c.Store, time.Now); err != nil {
		t.Fatal(err)
	}
	c.Journal.Start(func(st stanza.Stanza, err error) {
		if o.unkept != nil {
			o.unkept <- st
		} else {
			t.Errorf("not kept: %s: %v", st.Element, err)
		}
	})
	if s.Federation, err = New(c); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { flusher.Run(ctx) })
	running.Go(func() { s.Run(ctx) })
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { s.Serve(ctx, conn.(*net.TCPConn), o.direct) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		deadline, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		s.Shutdown(deadline)
		cancel()
		running.Wait()
	})
	return s
}

// message is a chat message from romeo of one domain to juliet of another.
func message(from, to, body string) stanza.Stanza {
	return stanza.New(stanza.Message, "chat", body, jid.MustParse("romeo@"+from+"/r"), jid.MustParse("juliet@"+to),
		element.Leaf("body", ns.Client, body))
}

// next is what the server routes next.
func (s *server) next(t testing.TB) stanza.Stanza {
	t.Helper()
	select {
	case st := <-s.routed:
		return st
	case <-time.After(patience):
		t.Fatalf("%s routed nothing", s.domain)
		return stanza.Stanza{}
	}
}

// wantMessage waits for a message with this body.
func (s *server) wantMessage(t testing.TB, body string) stanza.Stanza {
	t.Helper()
	st := s.next(t)
	if st.Kind != stanza.Message || st.Type == "error" || st.Element.Child("body", ns.Client).Text() != body {
		t.Fatalf("%s routed %s, want a message %q", s.domain, st.Element, body)
	}
	return st
}

// wantBounce waits for an error reply of this condition.
func (s *server) wantBounce(t testing.TB, condition string) stanza.Stanza {
	t.Helper()
	st := s.next(t)
	if st.Type != "error" {
		t.Fatalf("%s routed %s, want an error", s.domain, st.Element)
	}
	if got := stanza.ParseError(st.Element.Child("error", ns.Client)); got.Condition != condition {
		t.Fatalf("%s routed %s, want the condition %s", s.domain, st.Element, condition)
	}
	return st
}

// quiet checks that nothing was routed.
func (s *server) quiet(t testing.TB) {
	t.Helper()
	select {
	case st := <-s.routed:
		t.Errorf("%s routed %s", s.domain, st.Element)
	default:
	}
}

// stream finds the open stream of a direction.
func (s *server) stream(t testing.TB, direction, remote string) StreamInfo {
	t.Helper()
	var found StreamInfo
	eventually(t, "a stream "+direction+" "+remote, func() bool {
		list := s.List()
		i := slices.IndexFunc(list, func(i StreamInfo) bool {
			return i.Direction == direction && i.Remote == remote && i.State == "open"
		})
		if i >= 0 {
			found = list[i]
		}
		return i >= 0
	})
	return found
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}
