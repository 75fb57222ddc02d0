package xmpp_test

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var connects = flag.Int("connects", 50_000, "how many connections come and go in TestConnectAndClose")

// descriptors are those that the process has open.
func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	return len(list)
}

// ready waits until the server has started all that it will.
func (g *target) ready(t testing.TB) {
	t.Helper()
	for _, key := range []string{"client", "server"} {
		w := g.dial(t, key)
		w.send("x")
		w.rest()
		w.tcp.Close()
	}
	for same, before := 0, 0; same < 50; time.Sleep(2 * time.Millisecond) {
		now := runtime.NumGoroutine() + descriptors(t)
		if same++; now != before {
			same, before = 0, now
		}
	}
}

// Who connects and leaves before login leaves nothing behind: neither at once nor after some words,
// politely or with a reset, from one address or from many.
func TestConnectAndClose(t *testing.T) {
	g := newTarget(t, "limits.shutdown = '100ms'")
	record := "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
	header := "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='a.test' version='1.0'>"
	words := []struct{ key, text string }{
		{"client", ""}, {"server", ""}, {"client_tls", ""}, {"server_tls", ""},
		{"client", header[:40]}, {"client", header}, {"client", header + streamTLS}, {"client", header + "<a><b c='"},
		{"client", header + strings.Repeat(" ", 3000)}, {"client", "GET / HTTP/1.1\r\n\r\n"}, {"client", header + closing},
		{"server", strings.Replace(header, "jabber:client", "jabber:server", 1)}, {"server", header}, {"client_tls", record}, {"server_tls", record},
		{"client", header + streamTLS + record},
	}
	address := make(map[string]*net.TCPAddr)
	for key, list := range g.Addresses() {
		a, err := net.ResolveTCPAddr("tcp", list[0])
		if err != nil {
			t.Fatal(err)
		}
		address[key] = a
	}
	visit := func(i int) error {
		from := &net.TCPAddr{IP: net.IPv4(127, byte(i>>16), byte(i>>8), byte(1+i%250))}
		if i%3 == 0 {
			from = nil
		}
		w := words[i%len(words)]
		conn, err := net.DialTCP("tcp", from, address[w.key])
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(w.text)); err != nil {
			return nil // it has been closed by the other side, which is its right
		}
		if i%5 == 0 && w.text != "" {
			conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = conn.Read(make([]byte, 100)) // whatever comes first
		}
		return conn.SetLinger(0)
	}
	come := func(n int) {
		const together = 32
		var all sync.WaitGroup
		for first := range together {
			all.Go(func() {
				for i := first; i < n; i += together {
					if err := visit(i); err != nil {
						t.Errorf("visitor %d: %v", i, err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	// rest waits until they are gone, and forgets what was logged of them.
	rest := func(goroutines, files int) {
		t.Helper()
		for end := time.Now().Add(2 * patience); ; time.Sleep(5 * time.Millisecond) {
			if runtime.NumGoroutine() <= goroutines && descriptors(t) <= files {
				break
			}
			if time.Now().After(end) {
				t.Errorf("%d goroutines, before %d; %d descriptors, before %d", runtime.NumGoroutine(), goroutines, descriptors(t), files)
				break
			}
		}
		g.host.log.mu.Lock()
		defer g.host.log.mu.Unlock()
		if bytes.Contains(g.host.log.text.Bytes(), []byte("level=ERROR")) {
			t.Errorf("the server reports an error:\n%.2000s", g.host.log.text.String())
		}
		g.host.log.text = bytes.Buffer{}
	}
	g.ready(t)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	come(2000) // what is made once is made now
	rest(goroutines, files)
	before := heapAfter()
	start := time.Now()
	for left := *connects; left > 0; left -= 50_000 {
		come(min(left, 50_000))
		rest(goroutines, files)
	}
	took := time.Since(start)
	more := heapAfter() - before
	t.Logf("%d connections in %v; %d bytes more in use", *connects, took, more)
	if more > 2<<20 && !underRace {
		t.Errorf("%d bytes more are in use after %d connections", more, *connects)
	}
	status, err := g.Call(t.Context(), "server.status", nil)
	if err != nil || !strings.Contains(fmt.Sprintf("%+v", status), "Connections:0") {
		t.Errorf("status %+v, %v", status, err)
	}
	g.dial(t, "client").header() // and it serves on
}
