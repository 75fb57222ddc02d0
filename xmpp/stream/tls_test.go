package stream_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/meter"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/sasl"
	"tombolo/xmpp/stream"
)

// secured is run with TLS, after STARTTLS; it returns the client's side of that.
func secured(t *testing.T, r *stream.Role) (*peer, *tls.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	r.Features = append([]stream.Feature{stream.StartTLS(
		func(*stream.Stream) *tls.Config { return config }, func(*stream.Stream) bool { return true })}, r.Features...)
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	p.send(t, "<starttls xmlns='"+ns.StartTLS+"'/>")
	p.readTo(t, "<proceed")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
	if err := client.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	return p, client
}

// TestTLSCountsBeforeLogin sends few bytes in many records: what TLS adds costs time and memory too.
func TestTLSCountsBeforeLogin(t *testing.T) {
	r := role(t)
	r.Ready = func(*stream.Stream) bool { return false }
	r.Counters = new(meter.Counters)
	const allowed = 4000
	r.Limits.EarlyBytes, r.Limits.EarlyElements = allowed, 20
	p, client := secured(t, r)
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(client, header); err != nil {
		t.Fatal(err)
	}
	go func() {
		for range allowed / 2 {
			if _, err := client.Write([]byte(" ")); err != nil {
				return // the stream has ended
			}
		}
	}()
	got, err := io.ReadAll(client)
	if !strings.Contains(string(got), "<policy-violation") {
		t.Errorf("%d bytes in as many records: got %q, %v", allowed/2, got, err)
	}
	if r.Counters.All()["limit: before login"] == 0 {
		t.Error("the limit was hit and not counted")
	}
	p.Close()
}

// TestTLSCountsForThePace: the rate of a session is that of its connection.
func TestTLSCountsForThePace(t *testing.T) {
	r := role(t)
	r.Counters = new(meter.Counters)
	const perSecond = 2000 // bytes; the burst is five seconds' worth
	r.Limits.Bytes = perSecond
	p, client := secured(t, r)
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(client, header); err != nil {
		t.Fatal(err)
	}
	defer p.stream.Drop() // else it waits until all that is paid for
	held := func() bool { return r.Counters.All()["limit: rate of a session"] > 0 }
	const records = perSecond / 2 // a tenth of the burst; with what TLS adds it is more than twice as much
	for n := 0; n < records && !held(); n++ {
		if _, err := client.Write([]byte(" ")); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(patience); !held(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes in as many records are as nothing", records)
		}
	}
}

// TestBeginningIsAnAttempt_RFC6120_6_4_5: an exchange that another one replaces has failed, in whichever
// profile, and failures are counted.
func TestBeginningIsAnAttempt_RFC6120_6_4_5(t *testing.T) {
	const (
		auth         = "<auth xmlns='" + ns.SASL + "' mechanism='PLAIN'/>"
		authenticate = "<authenticate xmlns='" + ns.SASL2 + "' mechanism='PLAIN'/>"
	)
	for name, second := range map[string]string{"SASL": auth, "SASL2": authenticate} {
		t.Run(name, func(t *testing.T) {
			const tries = 2
			failed := make(chan string, tries)
			login := stream.Login{
				Mechanisms: func(*stream.Stream) []string { return []string{"PLAIN"} },
				Attempt:    func(*stream.Stream) *sasl.Attempt { return new(sasl.Attempt) },
				Failed:     func(_ *stream.Stream, mechanism string, _ error) { failed <- mechanism },
				Tries:      tries,
			}
			r := role(t)
			r.Ready = func(*stream.Stream) bool { return false }
			r.Features = []stream.Feature{stream.SASL(login), stream.SASL2(login, stream.Login2{
				Tokens: func(*stream.Stream) []string { return nil },
				Request: func(*stream.Stream, element.Element) (stream.Request, error) {
					panic("nobody may come this far")
				},
			})}
			_, client := secured(t, r)
			if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(client, header+strings.Repeat(auth+second, tries)); err != nil {
				t.Fatal(err)
			}
			said, err := io.ReadAll(client)
			got := string(said)
			if n := strings.Count(got, "<challenge"); n != tries {
				t.Errorf("%d challenges", n)
			}
			if n := strings.Count(got, "<aborted"); n != tries || !strings.Contains(got, "<policy-violation") {
				t.Errorf("%d failures, then %v: %s", n, err, got)
			}
			for range tries {
				select {
				case mechanism := <-failed:
					if mechanism != "PLAIN" {
						t.Errorf("an attempt by %q has failed", mechanism)
					}
				default:
					t.Error("an attempt has failed, and nobody was told")
				}
			}
		})
	}
}
