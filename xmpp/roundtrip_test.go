package xmpp_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mellium.im/sasl"
	"mellium.im/xmpp"
	melliumjid "mellium.im/xmpp/jid"

	"tombolo/xmpp/ns"
)

// A counted connection counts the round trips of a client: how often it says something, be it much or
// little, that it has to hear an answer to before it can go on. Below TLS it counts what is on the wire.
type counted struct {
	net.Conn
	trips   int
	waiting bool // it has spoken and not listened yet
}

func (c *counted) Write(p []byte) (int, error) {
	if !c.waiting {
		c.trips++
		c.waiting = true
	}
	return c.Conn.Write(p)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.waiting = false
	return n, err
}

// A traveller is a client under TLS, counted since its handshake.
type traveller struct {
	*tls.Conn
	below *counted
}

// hear reads until what came contains the text, and returns it.
func (c *traveller) hear(t *testing.T, text string) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), text) {
		n, err := c.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("wanted %s, got %s and then %v", text, got.String(), err)
		}
	}
	return got.String()
}

func (c *traveller) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// TestRoundTripsOfReconnecting: after TLS, a client that has a token (XEP-0484) and binds with its login
// (XEP-0386) is there after one round trip if it knows what the server offers (XEP-0509), and after two
// if it looks first.
func TestRoundTripsOfReconnecting(t *testing.T) {
	const (
		agent  = "<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'/>"
		header = "<stream:stream from='juliet@a.test' to='a.test' version='1.0' xmlns='" + ns.Client + "' xmlns:stream='" + ns.Stream + "'>"
	)
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, "auth.plain = true", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.run(t)
	if err := h.addAccount("juliet@a.test", "secret"); err != nil {
		t.Fatal(err)
	}
	connect := func(t *testing.T) *traveller {
		t.Helper()
		config := l.clientTLS("a.test")
		config.NextProtos = []string{"xmpp-client"}
		conn, err := net.Dial("tcp", h.Addresses()["client_tls"][0])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		c := &traveller{below: &counted{Conn: conn}}
		c.Conn = tls.Client(c.below, config)
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		*c.below = counted{Conn: conn}
		return c
	}
	authenticate := func(mechanism, response, inline string) string {
		return fmt.Sprintf("<authenticate xmlns='%s' mechanism='%s'><initial-response>%s</initial-response>%s"+
			"<bind xmlns='%s'><tag>test</tag></bind>%s</authenticate>", ns.SASL2, mechanism, response, agent, ns.Bind2, inline)
	}

	first := connect(t)
	first.say(t, header)
	features := first.hear(t, "</stream:features>")
	_, version, _ := strings.Cut(features, "<config-version ")
	version, _, _ = strings.Cut(version, "/>")
	first.say(t, authenticate("PLAIN", base64.StdEncoding.EncodeToString([]byte("\x00juliet\x00secret")),
		"<request-token xmlns='"+ns.FAST+"' mechanism='HT-SHA-256-NONE'/>"))
	got := first.hear(t, "</stream:features>")
	_, token, _ := strings.Cut(got, " token='")
	token, _, _ = strings.Cut(token, "'")
	reconnect := authenticate("HT-SHA-256-NONE", hashedToken("juliet", token), "<fast xmlns='"+ns.FAST+"'/>")

	there := func(t *testing.T, c *traveller, got string, trips int) {
		t.Helper()
		if !strings.Contains(got, "<success ") || !strings.Contains(got, ">juliet@a.test/test/") {
			t.Fatalf("not there: %s", got)
		}
		if c.below.trips != trips {
			t.Errorf("it took %d round trips, want %d", c.below.trips, trips)
		}
		c.say(t, "<iq type='get' id='proof' to='a.test'><ping xmlns='"+ns.Ping+"'/></iq>")
		if got := c.hear(t, "id='proof'"); !strings.Contains(got, "type='result'") {
			t.Errorf("the session is not usable: %s", got)
		}
	}
	t.Run("pipelined", func(t *testing.T) {
		c := connect(t)
		c.say(t, header+strings.Replace(reconnect, "</authenticate>", "<config-version "+version+"/></authenticate>", 1))
		got := c.hear(t, "</success><stream:features>")
		there(t, c, got, 1)
	})
	t.Run("waiting for features", func(t *testing.T) {
		c := connect(t)
		c.say(t, header)
		c.hear(t, "</stream:features>")
		c.say(t, reconnect)
		got := c.hear(t, "</success><stream:features>")
		there(t, c, got, 2)
	})
	// What it costs without all that, by mellium's client: header, two of SCRAM, header, bind.
	t.Run("SASL and RFC 6120 binding", func(t *testing.T) {
		c := connect(t)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := xmpp.NewClientSession(ctx, melliumjid.MustParse("juliet@a.test/old"), c.Conn,
			xmpp.SASL("", "secret", sasl.ScramSha256), xmpp.BindResource()); err != nil {
			t.Fatal(err)
		}
		if c.below.trips != 5 {
			t.Errorf("it took %d round trips, want 5", c.below.trips)
		}
	})
}
