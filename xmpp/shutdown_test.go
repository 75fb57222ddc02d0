package xmpp_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"tombolo/xmpp"
)

// TestShutdownIsBounded: whoever is connected, silent strangers and clients that do not close their side too, the
// server ends without an error within limits.shutdown.
func TestShutdownIsBounded(t *testing.T) {
	const bound = 2 * time.Second
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, fmt.Sprintf("[limits]\nshutdown = %q\n", bound), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.addAccount("juliet@a.test", "secret"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- h.Run(ctx) }()
	roots := l.clientTLS("a.test").RootCAs
	enter(t, "juliet", login{address: h.Addresses()["client"][0], jid: "juliet@a.test/balcony", password: "secret", roots: roots})
	for _, says := range []string{
		"",
		"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' from='b.test' to='a.test' version='1.0'>",
		"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='a.test' version='1.0'>",
	} {
		for _, kind := range []string{"client", "client_tls", "server", "server_tls"} {
			conn, err := net.Dial("tcp", h.Addresses()[kind][0])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(says)); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "the clients are known", func() bool {
		status, err := h.Call(ctx, "server.status", nil)
		return err != nil || status.(xmpp.Status).Connections >= 4
	})
	began := time.Now()
	cancel()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * patience):
		t.Fatal("the server does not end")
	}
	if took := time.Since(began); took > bound+bound/4 {
		t.Errorf("the server took %v to end", took)
	}
}
