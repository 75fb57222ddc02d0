package transport

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const patience = 5 * time.Second

// connect returns the two ends of a loopback connection, ours wrapped.
func connect(t *testing.T, drained func()) (*Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewConn(ours.(Socket), drained)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return c, peer.(*net.TCPConn)
}

// files writes a self-signed certificate for the domain and returns it.
func files(t *testing.T, dir, domain string, serial int64) (KeyPair, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: []string{domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair := KeyPair{domain, filepath.Join(dir, domain+".crt"), filepath.Join(dir, domain+".key")}
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
	return pair, leaf
}

func TestReadSaysWhenThereIsNothing(t *testing.T) {
	c, peer := connect(t, func() {})
	if _, err := c.Read(make([]byte, 10)); !errors.Is(err, ErrWouldBlock) {
		t.Fatalf("Read of an idle connection: %v, want ErrWouldBlock", err)
	}
	if err := c.Wait(time.Now().Add(10 * time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Wait of an idle connection: %v, want a deadline", err)
	}
	if _, err := peer.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hi" {
		t.Fatalf("Read: %q, %v", buf[:n], err)
	}
	peer.Close()
	if err := c.Wait(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(buf); err != io.EOF {
		t.Fatalf("Read after the peer left: %v, want EOF", err)
	}
}

// TestDeadlineIsOfTheWait: whoever reads, or begins TLS, after the deadline of a wait that was successful is not
// late.
func TestDeadlineIsOfTheWait(t *testing.T) {
	waited := func() (*Conn, *net.TCPConn) {
		c, peer := connect(t, func() {})
		if _, err := peer.Write([]byte("hi")); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(50 * time.Millisecond)
		if err := c.Wait(deadline); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(deadline))
		return c, peer
	}
	c, _ := waited()
	buf := make([]byte, 10)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hi" {
		t.Errorf("Read: %q, %v", buf[:n], err)
	}

	c, peer := waited()
	if _, err := c.Read(buf[:2]); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(time.Now()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	pair, _ := files(t, t.TempDir(), "a.test", 1)
	certs, err := LoadCertificates([]KeyPair{pair}, time.Now, func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	client := tls.Client(peer, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
	go func() { _ = client.Handshake() }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Handshake(ctx, &tls.Config{GetCertificate: certs.Choose}, true, ""); err != nil {
		t.Errorf("Handshake: %v", err)
	}
}

func TestHurryEndsAWaitUnderWay(t *testing.T) {
	c, _ := connect(t, func() {})
	done := make(chan error, 1)
	go func() { done <- c.Wait(time.Now().Add(time.Hour)) }()
	c.Hurry(time.Now())
	select {
	case err := <-done:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Wait: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Wait goes on")
	}
	if err := c.Wait(time.Now().Add(time.Hour)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a later Wait: %v", err)
	}
}

// TestWriteNeverBlocks fills a connection whose peer does not read, then lets it read: everything
// arrives in order, and drained is called.
func TestWriteNeverBlocks(t *testing.T) {
	drained := make(chan struct{}, 1)
	c, peer := connect(t, func() { drained <- struct{}{} })
	var sent bytes.Buffer
	for i := 0; !c.Blocked(); i++ {
		chunk := bytes.Repeat([]byte{byte(i)}, 64<<10)
		sent.Write(chunk)
		if err := c.Write(chunk); err != nil {
			t.Fatal(err)
		}
		if i > 10_000 {
			t.Fatal("the peer does not read, and the connection never says so")
		}
	}
	if err := c.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	sent.WriteString("the end")
	got := make([]byte, sent.Len())
	if err := peer.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(peer, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent.Bytes()) {
		t.Error("the bytes changed or changed places")
	}
	select {
	case <-drained:
	case <-time.After(patience):
		t.Error("nobody was told that the connection takes bytes again")
	}
}

// TestFinishLetsThePeerReadTheEnd closes with unread input, which must not cost the peer our last
// words.
func TestFinishLetsThePeerReadTheEnd(t *testing.T) {
	c, peer := connect(t, func() {})
	if _, err := peer.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := c.Write([]byte("goodbye")); err != nil {
		t.Fatal(err)
	}
	go c.Finish(patience)
	if err := peer.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(peer)
	if err != nil || string(got) != "goodbye" {
		t.Errorf("the peer read %q, %v", got, err)
	}
}

func TestTLSServesTheCertificateOfTheDomain(t *testing.T) {
	dir := t.TempDir()
	a, leafA := files(t, dir, "a.test", 1)
	b, leafB := files(t, dir, "b.test", 2)
	certs, err := LoadCertificates([]KeyPair{a, b}, time.Now, func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{GetCertificate: certs.Choose, MinVersion: tls.VersionTLS12}
	for _, test := range []struct {
		name, sni, expected string
		want                *x509.Certificate
	}{
		{"by SNI", "b.test", "a.test", leafB},
		{"by SNI in capitals", "B.TEST", "", leafB},
		{"by the header when there is no SNI", "", "b.test", leafB},
		{"by the header when the SNI is not ours", "other.test", "b.test", leafB},
		{"the first domain's otherwise", "", "", leafA},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, peer := connect(t, func() {})
			client := tls.Client(peer, &tls.Config{ServerName: test.sni, InsecureSkipVerify: true})
			done := make(chan error, 1)
			go func() { done <- client.Handshake() }()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := c.Handshake(ctx, config, true, test.expected); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := client.ConnectionState().PeerCertificates[0]; !got.Equal(test.want) {
				t.Errorf("served a certificate for %v", got.DNSNames)
			}
			if got := c.Served(); !got.Equal(test.want) {
				t.Errorf("Served is not what was served")
			}
			// Both directions work under TLS, and Read still never blocks.
			if err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 5)
			if _, err := io.ReadFull(client, buf); err != nil || string(buf) != "hello" {
				t.Fatalf("%q %v", buf, err)
			}
			if _, err := c.Read(buf); !errors.Is(err, ErrWouldBlock) {
				t.Fatalf("Read: %v, want ErrWouldBlock", err)
			}
			if _, err := client.Write([]byte("again")); err != nil {
				t.Fatal(err)
			}
			var got []byte
			for len(got) < 5 {
				if err := c.Wait(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				n, err := c.Read(buf)
				if err != nil && !errors.Is(err, ErrWouldBlock) {
					t.Fatal(err)
				}
				got = append(got, buf[:n]...)
			}
			if string(got) != "again" {
				t.Errorf("read %q", got)
			}
		})
	}
}

func TestCertificatesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	pair, old := files(t, dir, "a.test", 1)
	now := time.Now()
	var notes []error
	certs, err := LoadCertificates([]KeyPair{pair}, func() time.Time { return now }, func(_ string, err error) { notes = append(notes, err) })
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pair.Certificate, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := certs.Reload(); err == nil {
		t.Error("Reload accepted a broken file")
	}
	now = now.Add(time.Hour)
	if got := certs.Of("a.test"); !got.Leaf.Equal(old) || len(notes) != 1 || notes[0] == nil {
		t.Errorf("a broken file took the old certificate away (notes %v)", notes)
	}
	_, fresh := files(t, dir, "a.test", 2)
	now = now.Add(time.Hour)
	if got := certs.Of("a.test"); !got.Leaf.Equal(fresh) || len(notes) != 2 || notes[1] != nil {
		t.Errorf("the new certificate is not in use (notes %v)", notes)
	}

	// Files with other names, once somebody gives them; those of a domain that is not ours never.
	renamed, other := files(t, t.TempDir(), "a.test", 3)
	strange, _ := files(t, t.TempDir(), "b.test", 4)
	if err := certs.Reload(renamed, strange); err != nil || !certs.Of("a.test").Leaf.Equal(other) || certs.Of("b.test") != nil {
		t.Errorf("other files are not in use (%v)", err)
	}
	if err := certs.Reload(KeyPair{"a.test", renamed.Certificate, strange.Key}); err == nil || !certs.Of("a.test").Leaf.Equal(other) {
		t.Errorf("a key of another certificate: %v", err)
	}
	if err := certs.Reload(); err != nil || !certs.Of("a.test").Leaf.Equal(other) {
		t.Errorf("the new names were forgotten (%v)", err)
	}
}
