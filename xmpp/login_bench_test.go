package xmpp_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tombolo/storage/bolt"
	"tombolo/xmpp/ns"
)

// A door is a server as BenchmarkLogin knocks at it: through a new connection with direct TLS each time.
type door struct {
	b       *testing.B
	address string
	tls     *tls.Config
	clients map[string][]byte // SaltedPassword by salt, as clients keep it
	conn    *tls.Conn
	buf     [8192]byte
}

func (d *door) knock() {
	conn, err := tls.Dial("tcp", d.address, d.tls)
	if err != nil {
		d.b.Fatal(err)
	}
	d.conn = conn
}

// ask says something and returns what comes, up to a text.
func (d *door) ask(say, text string) string {
	if _, err := io.WriteString(d.conn, say); err != nil {
		d.b.Fatal(err)
	}
	n := 0
	for !bytes.Contains(d.buf[:n], []byte(text)) {
		m, err := d.conn.Read(d.buf[n:])
		if n += m; err != nil {
			d.b.Fatalf("%v, wanted %s after %s", err, text, d.buf[:n])
		}
	}
	return string(d.buf[:n])
}

const (
	doorHeader = "<stream:stream to='a.test' version='1.0' xmlns='" + ns.Client + "' xmlns:stream='" + ns.Stream + "'>"
	doorBind   = "<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'/><bind xmlns='" + ns.Bind2 + "'/>"
)

func doorAuthenticate(mechanism, response, inline string) string {
	return fmt.Sprintf("<authenticate xmlns='%s' mechanism='%s'><initial-response>%s</initial-response>%s%s</authenticate>",
		ns.SASL2, mechanism, response, doorBind, inline)
}

// scram is SCRAM-SHA-256-PLUS with tls-exporter; the last step ends with the given element.
func (d *door) scram(user, password, end string) (got string, proving time.Duration) {
	d.ask(doorHeader, "</stream:features>")
	state := d.conn.ConnectionState()
	binding, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
	if err != nil {
		d.b.Fatal(err)
	}
	const gs2 = "p=tls-exporter,,"
	bare := "n=" + user + ",r=fyko+d2lbbFgONRv9qkxdawL"
	challenge := d.ask(doorAuthenticate("SCRAM-SHA-256-PLUS", base64.StdEncoding.EncodeToString([]byte(gs2+bare)), ""), "</challenge>")
	_, challenge, _ = strings.Cut(challenge, ">")
	challenge, _, _ = strings.Cut(challenge, "<")
	first, err := base64.StdEncoding.DecodeString(challenge)
	if err != nil {
		d.b.Fatal(err)
	}
	attributes := strings.Split(string(first), ",")
	iterations, err := strconv.Atoi(attributes[2][2:])
	if err != nil {
		d.b.Fatal(err)
	}
	salted := d.clients[password+attributes[1]]
	if salted == nil {
		salt, err := base64.StdEncoding.DecodeString(attributes[1][2:])
		if err == nil {
			salted, err = pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
		}
		if err != nil {
			d.b.Fatal(err)
		}
		d.clients[password+attributes[1]] = salted
	}
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	final := "c=" + base64.StdEncoding.EncodeToString(append([]byte(gs2), binding...)) + "," + attributes[0]
	clientKey := mac(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	proof := mac(stored[:], bare+","+string(first)+","+final)
	subtle.XORBytes(proof, proof, clientKey)
	final += ",p=" + base64.StdEncoding.EncodeToString(proof)
	began := time.Now()
	got = d.ask(fmt.Sprintf("<response xmlns='%s'>%s</response>", ns.SASL2, base64.StdEncoding.EncodeToString([]byte(final))), end)
	return got, time.Since(began)
}

// BenchmarkLogin is a new connection, TLS, and a login that ends with a bound resource, on a database
// that is synced; cpu-ms is that of client and server together. TLS is what each contains of the
// handshake. For a wrong password known-us and unknown-us are the times from the last message of the
// client to the answer, for an account that exists and for one that does not.
func BenchmarkLogin(b *testing.B) {
	l := newLab(b)
	store, err := bolt.Open(filepath.Join(b.TempDir(), "tombolo.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	h, err := l.prepare(b, "127.0.0.1", []string{"a.test"}, "auth.plain = true\nlimits.exempt = ['127.0.0.0/8']\nlimits.login_time = '5s'", store)
	if err != nil {
		b.Fatal(err)
	}
	h.run(b)
	if err := h.addAccount("juliet@a.test", "secret"); err != nil {
		b.Fatal(err)
	}
	config := l.clientTLS("a.test")
	config.NextProtos = []string{"xmpp-client"}
	knocker := func(b *testing.B) *door {
		return &door{b: b, address: h.Addresses()["client_tls"][0], tls: config, clients: make(map[string][]byte)}
	}
	run := func(name string, login func(*door)) {
		b.Run(name, func(b *testing.B) {
			d := knocker(b)
			before := processorTime(b)
			for b.Loop() {
				d.knock()
				login(d)
				d.conn.Close()
			}
			b.ReportMetric((processorTime(b)-before).Seconds()*1000/float64(b.N), "cpu-ms/op")
		})
	}
	run("TLS", func(*door) {})
	run("SCRAM-SHA-256-PLUS", func(d *door) { d.scram("juliet", "secret", "</success>") })

	d := knocker(b)
	d.knock()
	d.ask(doorHeader, "</stream:features>")
	got := d.ask(doorAuthenticate("PLAIN", base64.StdEncoding.EncodeToString([]byte("\x00juliet\x00secret")),
		"<request-token xmlns='"+ns.FAST+"' mechanism='HT-SHA-256-NONE'/>"), "</success>")
	_, token, _ := strings.Cut(got, " token='")
	token, _, _ = strings.Cut(token, "'")
	d.conn.Close()
	fast := doorHeader + doorAuthenticate("HT-SHA-256-NONE", hashedToken("juliet", token), "<fast xmlns='"+ns.FAST+"'/>")
	run("FAST", func(d *door) { d.ask(fast, "</success>") })

	// Somebody who guesses learns nothing from the time either. They take turns, so that what else the
	// machine does falls on both.
	var took [2]time.Duration
	logins := 0
	run("wrong password", func(d *door) {
		_, proving := d.scram([]string{"juliet", "nobody"}[logins%2], "guess", "</failure>")
		took[logins%2] += proving
		logins++
		d.b.ReportMetric(2*float64(took[0].Microseconds())/float64(logins), "known-us")
		d.b.ReportMetric(2*float64(took[1].Microseconds())/float64(logins), "unknown-us")
	})
}

// processorTime is what this process has taken of the processors.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
