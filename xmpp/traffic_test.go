package xmpp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/xmpp/ns"
)

// stage is one server and some clients, for tests that need more than a script.
func stage(t *testing.T, settings string, accounts ...string) (h *host, enter func(full string) login) {
	t.Helper()
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range accounts {
		if err := h.addAccount(account, "secret"); err != nil {
			t.Fatal(err)
		}
	}
	h.run(t)
	return h, func(full string) login {
		return login{address: h.Addresses()["client"][0], jid: full, password: "secret", roots: l.roots}
	}
}

// within is a deadline for one part of a test.
func within(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// TestPeerThatDoesNotRead floods a client that reads nothing. It is cut off when its queue is full, and
// nobody else notices but those who see it leave.
func TestPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	h, enter := stage(t, unlimited+"stanza = '20kB'\nqueue = '200kB'\nserver_stanza = '20kB'", "romeo@a.test", "juliet@a.test", "nurse@a.test")
	ctx := within(t, 4*patience)
	romeo, err := connect(ctx, enter("romeo@a.test/orchard"))
	if err != nil {
		t.Fatal(err)
	}
	defer romeo.cut()
	nurse, err := connect(ctx, enter("nurse@a.test/kitchen"))
	if err != nil {
		t.Fatal(err)
	}
	defer nurse.cut()
	juliet, _, err := negotiate(ctx, enter("juliet@a.test/balcony"))
	if err != nil {
		t.Fatal(err)
	}
	defer juliet.cut()
	if err := juliet.send("<presence to='nurse@a.test/kitchen'/>"); err != nil {
		t.Fatal(err)
	}
	fromJuliet := func(typ string) func(event) bool {
		return func(e event) bool {
			return e.kind == gotElement && e.tree.attr("from") == "juliet@a.test/balcony" && e.tree.attr("type") == typ
		}
	}
	if _, err := nurse.takeIf(ctx, fromJuliet("")); err != nil {
		t.Fatal(err)
	}

	gone := make(chan error, 1)
	go func() {
		_, err := nurse.takeIf(ctx, fromJuliet("unavailable"))
		gone <- err
	}()
	flood := "<message to='juliet@a.test/balcony' type='headline'><body>" + strings.Repeat("x", 10_000) + "</body></message>"
	sent, slowest := 0, time.Duration(0)
	for cut := false; !cut; sent++ {
		begin := time.Now()
		if err := romeo.send(flood); err != nil {
			t.Fatal(err)
		}
		if err := romeo.ask(ctx, "a.test", sent); err != nil {
			t.Fatalf("after %d messages the sender gets no answer: %v", sent, err)
		}
		slowest = max(slowest, time.Since(begin))
		select {
		case err := <-gone:
			if err != nil {
				t.Fatalf("after %d messages: %v", sent, err)
			}
			cut = true
		default:
		}
	}
	if err := h.awaitSessions(ctx, "juliet@a.test/balcony", 0); err != nil {
		t.Error(err)
	}
	if slowest > patience/2 {
		t.Errorf("the sender waited %v for an answer", slowest)
	}
	t.Logf("cut after %d messages of 10 kB, the most of them in the kernel's buffers; the sender waited %v at most", sent, slowest)
}

// TestClientThatAsksAndDoesNotRead sends requests without reading the answers. The server stops to
// read from it before the answers fill its queue, so no answer is lost and nobody is cut off.
func TestClientThatAsksAndDoesNotRead(t *testing.T) {
	t.Parallel()
	_, enter := stage(t, unlimited+"stanza = '20kB'\nqueue = '100kB'\nserver_stanza = '20kB'", "juliet@a.test")
	ctx := within(t, 6*patience)
	juliet, _, err := negotiate(ctx, enter("juliet@a.test/balcony"))
	if err != nil {
		t.Fatal(err)
	}
	defer juliet.cut()
	// Requests and answers of a kilobyte each: more than the kernel keeps, in either direction.
	const count = 15_000
	padding := strings.Repeat("x", 900)
	var written atomic.Int64
	writing := make(chan error, 1)
	go func() {
		juliet.conn.SetWriteDeadline(time.Now().Add(5 * patience))
		var b bytes.Buffer
		for i := 0; i < count; {
			b.Reset()
			for range 100 {
				fmt.Fprintf(&b, "<iq type='get' id='%d-%s' to='a.test'><ping xmlns='%s'/></iq>", i, padding, ns.Ping)
				i++
			}
			if _, err := juliet.conn.Write(b.Bytes()); err != nil {
				writing <- err
				return
			}
			written.Store(int64(i))
		}
		writing <- nil
	}()
	// Until nothing moves any more, or all is sent.
	for before := int64(-1); before != written.Load() && written.Load() < count; {
		before = written.Load()
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("still writing")
		}
	}
	stopped := written.Load()

	juliet.conn.SetReadDeadline(time.Now().Add(5 * patience))
	r := bufio.NewReaderSize(juliet.conn, 64<<10)
	for i := range count {
		tag, err := r.ReadSlice('>')
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if want := fmt.Sprintf("id='%d-", i); !bytes.Contains(tag, []byte(want)) || !bytes.Contains(tag, []byte("type='result'")) {
			t.Fatalf("got %s, want the answer with %s", tag, want)
		}
	}
	if err := <-writing; err != nil {
		t.Error(err)
	}
	if stopped == count {
		t.Error("all requests were taken before an answer was read: nothing was held up")
	}
	t.Logf("%d requests of %d were taken, by the kernel or the server, before an answer was read", stopped, count)
}

// TestLoginAgainstMessagesOverTCP is TestLoginAgainstMessages with real clients: somebody who leaves by
// unavailable presence and reads to the end gets every message once and in order.
func TestLoginAgainstMessagesOverTCP(t *testing.T) {
	t.Parallel()
	count := 600
	if testing.Short() {
		count /= 5
	}
	_, enter := stage(t, unlimited, "romeo@a.test", "juliet@a.test")
	ctx := within(t, 6*patience)
	romeo, err := connect(ctx, enter("romeo@a.test/orchard"))
	if err != nil {
		t.Fatal(err)
	}
	defer romeo.cut()
	var received atomic.Int64
	sending := make(chan error, 1)
	go func() {
		for n := range count {
			// A little ahead of her, so that there is something to keep and something live.
			for int64(n)-received.Load() > 20 {
				if err := pause(ctx); err != nil {
					sending <- err
					return
				}
			}
			if err := romeo.send(fmt.Sprintf("<message to='juliet@a.test' type='chat' id='%d'><body>hello</body></message>", n)); err != nil {
				sending <- err
				return
			}
		}
		sending <- nil
	}()

	kept, logins, next := 0, 0, 0
	for next < count {
		juliet, err := connect(ctx, enter("juliet@a.test/balcony"))
		if err != nil {
			t.Fatal(err)
		}
		logins++
		if err := juliet.send("<presence/>"); err != nil {
			t.Fatal(err)
		}
		leaving := false
		for stay := 10 + logins%40; ; {
			got, err := juliet.take(ctx)
			if err != nil || got.kind != gotElement {
				t.Fatalf("after %d messages: %v", next, err)
			}
			if got.tree.name.Local == "presence" {
				if got.tree.attr("type") == "unavailable" {
					break // what was sent to her while she was here has been read
				}
				continue
			}
			if id := got.tree.attr("id"); id != fmt.Sprint(next) {
				t.Fatalf("message %s came, want %d", id, next)
			}
			if len(got.tree.children()) > 1 {
				kept++ // with a delay
			}
			next++
			received.Store(int64(next))
			if stay--; !leaving && (stay <= 0 || next == count) {
				leaving = true
				if err := juliet.send("<presence type='unavailable'/>"); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := juliet.send("</stream:stream>"); err != nil {
			t.Fatal(err)
		}
		for { // nothing but the end may follow
			got, err := juliet.take(ctx)
			if err != nil || got.kind == gotElement {
				t.Fatalf("after unavailable presence: %v (%v)", got, err)
			}
			if got.kind == gotGone {
				break
			}
		}
		juliet.cut()
	}
	if err := <-sending; err != nil {
		t.Error(err)
	}
	t.Logf("%d messages, %d of them stored, %d logins", count, kept, logins)
}
