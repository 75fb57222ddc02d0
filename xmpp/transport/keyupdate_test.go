package transport

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// A rekeyer writes records of TLS 1.3 with the keys of a client that crypto/tls has connected, because
// that asks for no new keys by itself.
type rekeyer struct {
	t      *testing.T
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// rekeying carries out a handshake over conn as a client.
func rekeying(t *testing.T, conn net.Conn) *rekeyer {
	t.Helper()
	var keys bytes.Buffer
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, KeyLogWriter: &keys})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if suite := client.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("the cipher suite is %s, which this test does not know", tls.CipherSuiteName(suite))
	}
	r := &rekeyer{t: t}
	_, rest, _ := strings.Cut(keys.String(), "CLIENT_TRAFFIC_SECRET_0 ")
	line, _, _ := strings.Cut(rest, "\n")
	_, secret, _ := strings.Cut(line, " ")
	var err error
	if r.secret, err = hex.DecodeString(secret); err != nil || len(r.secret) != sha256.Size {
		t.Fatalf("no secret in %q: %v", keys.String(), err)
	}
	r.rekey()
	return r
}

// expand is HKDF-Expand-Label (RFC 8446 section 7.1).
func (r *rekeyer) expand(label string, size int) []byte {
	r.t.Helper()
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(info, byte(len("tls13 "+label)))
	info = append(info, "tls13 "+label+"\x00"...)
	key, err := hkdf.Expand(sha256.New, r.secret, string(info), size)
	if err != nil {
		r.t.Fatal(err)
	}
	return key
}

func (r *rekeyer) rekey() {
	block, err := aes.NewCipher(r.expand("key", 16))
	if err != nil {
		r.t.Fatal(err)
	}
	if r.aead, err = cipher.NewGCM(block); err != nil {
		r.t.Fatal(err)
	}
	r.iv, r.seq = r.expand("iv", 12), 0
}

// record appends a record (RFC 8446 section 5.2).
func (r *rekeyer) record(to, content []byte, kind byte) []byte {
	inner := append(bytes.Clone(content), kind)
	header := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(inner)+r.aead.Overhead()))
	nonce := bytes.Clone(r.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(r.seq >> (56 - 8*i))
	}
	r.seq++
	return r.aead.Seal(append(to, header...), nonce, inner, header)
}

// update appends a KeyUpdate that asks for one in return (RFC 8446 section 4.6.3).
func (r *rekeyer) update(to []byte) []byte {
	to = r.record(to, []byte{24, 0, 0, 1, 1}, 22)
	r.secret = r.expand("traffic upd", sha256.Size)
	r.rekey()
	return to
}

// TestUnreadAnswersOfTLS has a peer ask for new keys and read none of the answers, which nobody writes
// through Conn.Write: what is kept for it is bounded all the same.
func TestUnreadAnswersOfTLS(t *testing.T) {
	pair, _ := files(t, t.TempDir(), "a.test", 1)
	certs, err := LoadCertificates([]KeyPair{pair}, time.Now, func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	c, peer := connect(t, func() {})
	if err := c.socket.Conn.(*net.TCPConn).SetWriteBuffer(4096); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		done <- c.Handshake(ctx, &tls.Config{GetCertificate: certs.Choose}, true, "")
	}()
	r := rekeying(t, peer)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := c.Write([]byte("what was asked for")); err != nil {
		t.Fatal(err)
	}
	go func() { // until the connection is cut
		for {
			var out []byte
			for range 100 {
				out = r.record(out, []byte(" "), 23) // crypto/tls puts up with 16 in a row without any data
				for range 16 {
					out = r.update(out)
				}
			}
			if _, err := peer.Write(out); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 4096)
	end := time.Now().Add(2 * patience)
	for {
		_, err := c.Read(buf)
		c.socket.mu.Lock()
		held := c.socket.held
		c.socket.mu.Unlock()
		if held > 256<<10 {
			t.Fatalf("%d bytes are kept for a peer that reads nothing", held)
		}
		if errors.Is(err, ErrWouldBlock) {
			err = c.Wait(end)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the peer is still connected; %d bytes are kept for it", held)
		}
		if err != nil {
			if err != ErrUnread && !Gone(err) { // the one who waits learns that it is closed
				t.Errorf("the connection ends with %v", err)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the peer is still connected; %d bytes are kept for it", held)
		}
	}
}
