package c2s_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mellium.im/sasl"
	"mellium.im/xmlstream"
	mellium "mellium.im/xmpp"
	mjid "mellium.im/xmpp/jid"
	mstanza "mellium.im/xmpp/stanza"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/router"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
)

const domain = "a.test"

// nowhere is a Remote without other domains.
type nowhere struct{}

func (nowhere) Send(stanza.Stanza) {}

// server is the client role with registry and router, without any feature.
type server struct {
	*c2s.Server
	address string
	roots   *x509.CertPool
	users   *session.Registry
}

func serve(t *testing.T, change func(*c2s.Config)) *server {
	t.Helper()
	return serveOn(t, mem.New(mem.Options{}), change)
}

// serveOn serves the accounts of a store, romeo and juliet among them, and closes it.
func serveOn(t *testing.T, store storage.Store, change func(*c2s.Config)) *server {
	t.Helper()
	accounts, err := auth.NewAccounts(store, auth.Options{Iterations: 4096})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"romeo", "juliet"} {
		if err := accounts.Create(t.Context(), jid.MustParse(name+"@"+domain), "secret of "+name); err != nil {
			t.Fatal(err)
		}
	}
	pair, roots := certificate(t)
	certs, err := transport.LoadCertificates([]transport.KeyPair{pair}, time.Now, func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	users := session.New(store, time.Now)
	hooks := hook.Join(router.OwnHooks())
	messages, err := journal.New(store, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	r := &router.Router{Users: users, Journal: messages, Hooks: hooks, IsLocal: func(d string) bool { return d == domain },
		Remote: nowhere{}, Log: slog.Default()}
	messages.Start(r.NotKept)
	users.Start(hooks, r, messages)
	flusher := stream.NewFlusher()
	ctx, cancel := context.WithCancel(context.Background())
	go flusher.Run(ctx)
	limits := element.Limits{Bytes: 10_000, Depth: 64, Attrs: 64, Namespaces: 64}
	cfg := c2s.Config{
		IsLocal: r.IsLocal, Accounts: accounts, Users: users, Store: store, Journal: messages, Hooks: hooks, Certificates: certs, LoginTries: 3,
		Admit:   store.Admit,
		Limits:  stream.Limits{Before: limits, After: limits, Queue: 1 << 20},
		Timing:  stream.Timing{Login: 5 * time.Second, Quiet: time.Minute, Answer: time.Minute, Finish: time.Second},
		Flusher: flusher, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&cfg)
	}
	s := &server{Server: c2s.New(cfg), roots: roots, users: users}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	go transport.Serve(ctx, l, func(c transport.Socket) { s.Serve(ctx, c, false) })
	t.Cleanup(func() {
		wait, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		s.Shutdown(wait)
		cancel()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// lines hands on what is written to a log.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// TestLogSaysWhoseStreamItIs: an operator finds all that befell an account by its name.
func TestLogSaysWhoseStreamItIs(t *testing.T) {
	log := make(lines, 100)
	s := serve(t, func(c *c2s.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	romeo, err := s.login(t, "romeo", "secret of romeo")
	if err != nil {
		t.Fatal(err)
	}
	address := romeo.Conn().LocalAddr().String()
	romeo.Conn().Write([]byte("<message></presence>"))
	defer romeo.Conn().Close()
	for {
		select {
		case line := <-log:
			if !strings.Contains(line, "stream ended") {
				continue
			}
			for _, part := range []string{"remote=" + address, "account=romeo@" + domain, "resource=" + romeo.LocalAddr().Resourcepart()} {
				if !strings.Contains(line, part) {
					t.Errorf("%q is missing in: %s", part, line)
				}
			}
			return
		case <-time.After(5 * time.Second):
			t.Fatal("nothing in the log")
		}
	}
}

// certificate makes a self-signed certificate for the domain.
func certificate(t *testing.T) (transport.KeyPair, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		DNSNames: []string{domain}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pair := transport.KeyPair{Domain: domain, Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for name, block := range map[string]*pem.Block{
		pair.Certificate: {Type: "CERTIFICATE", Bytes: der}, pair.Key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return pair, pool
}

// login logs in with mellium's client.
func (s *server) login(t *testing.T, name, password string, mechanisms ...sasl.Mechanism) (*mellium.Session, error) {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	if len(mechanisms) == 0 {
		mechanisms = []sasl.Mechanism{sasl.ScramSha256Plus, sasl.ScramSha256}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	me := mjid.MustParse(name + "@" + domain + "/here")
	return mellium.NewClientSession(ctx, me, conn,
		mellium.StartTLS(&tls.Config{ServerName: domain, RootCAs: s.roots}),
		mellium.SASL("", password, mechanisms...),
		mellium.BindResource())
}

func TestTwoClientsTalk(t *testing.T) {
	s := serve(t, nil)
	romeo, err := s.login(t, "romeo", "secret of romeo")
	if err != nil {
		t.Fatal(err)
	}
	defer romeo.Conn().Close()
	juliet, err := s.login(t, "juliet", "secret of juliet")
	if err != nil {
		t.Fatal(err)
	}
	defer juliet.Conn().Close()
	got := make(chan string, 1)
	go juliet.Serve(mellium.HandlerFunc(func(r xmlstream.TokenReadEncoder, start *xml.StartElement) error {
		message := struct {
			mstanza.Message
			Body string `xml:"body"`
		}{}
		if err := xml.NewTokenDecoder(xmlstream.Wrap(r, *start)).Decode(&message); err != nil {
			return err
		}
		got <- message.From.String() + ": " + message.Body
		return nil
	}))
	err = romeo.Send(t.Context(), mstanza.Message{To: juliet.LocalAddr(), Type: mstanza.ChatMessage}.
		Wrap(xmlstream.Wrap(xmlstream.Token(xml.CharData("hello")), xml.StartElement{Name: xml.Name{Local: "body"}})))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case line := <-got:
		if want := romeo.LocalAddr().String() + ": hello"; line != want {
			t.Errorf("juliet got %q, want %q", line, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("juliet got nothing")
	}
}

func TestWrongPasswordIsRefused(t *testing.T) {
	s := serve(t, nil)
	for _, name := range []string{"romeo", "nobody"} {
		if session, err := s.login(t, name, "wrong"); err == nil {
			session.Conn().Close()
			t.Errorf("%s logged in with a wrong password", name)
		}
	}
}

// TestResumptionPromisedAtTheEnd: a client that is told, while the server ends, that it can resume its session finds
// it after the restart. There are so many other sessions that the end takes a while.
func TestResumptionPromisedAtTheEnd(t *testing.T) {
	const others, tries = 5000, 15
	promised := 0
	for range tries {
		store := mem.New(mem.Options{})
		s := serveOn(t, store, func(c *c2s.Config) { c.Resume, c.Timing.Finish = time.Minute, 50*time.Millisecond })
		for n := range uint64(others) {
			record := fmt.Sprintf(`{"Key":"%s","Full":"juliet@%s/%d"}`, base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(make([]byte, 24), n)), domain, n)
			store.Submit(func(tx storage.Tx) error {
				return tx.Peers().Put(storage.Peer{ID: n + 1, Kind: storage.ClientPeer, State: []byte(record)})
			})
		}
		<-store.Submit(nil).Done()
		if err := s.Restore(); err != nil {
			t.Fatal(err)
		}
		client, err := s.login(t, "romeo", "secret of romeo")
		if err != nil {
			t.Fatal(err)
		}
		conn := client.Conn()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			time.Sleep(time.Duration(mrand.IntN(500)) * time.Microsecond)
			s.Shutdown(t.Context())
			close(ended)
		}()
		time.Sleep(time.Duration(mrand.IntN(500)) * time.Microsecond)
		_, _ = io.WriteString(conn, "<enable xmlns='urn:xmpp:sm:3' resume='true'/>") // the connection may be cut
		told, _ := io.ReadAll(conn)
		<-ended
		if !bytes.Contains(told, []byte("<enabled")) {
			continue
		}
		promised++
		<-store.Submit(nil).Done()
		var peers []storage.Peer
		if err := store.View(func(tx storage.Tx) (err error) {
			peers, err = tx.Peers().All()
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if len(peers) != others+1 {
			t.Fatalf("told %s, and there are %d sessions", told, len(peers))
		}
	}
	t.Logf("%d of %d were promised resumption", promised, tries)
}
