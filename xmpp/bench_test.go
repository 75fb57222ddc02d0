package xmpp_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"strconv"
	"testing"
	"time"

	"tombolo/storage/mem"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// chat is a message as a common client sends it, 300 bytes.
const chat = `<message to='%s' type='chat' id='b4e1c8a2-9a7d-4d0e-8f53-2f1a3c5d7e9b'>` +
	`<body>But soft, what light through yonder window breaks? It is the east.</body>` +
	`<active xmlns='http://jabber.org/protocol/chatstates'/>` +
	`<request xmlns='urn:xmpp:receipts'/><markable xmlns='urn:xmpp:chat-markers:0'/></message>`

// BenchmarkLocalDelivery is the way of a message from one local session to another, from the sender's
// lock to the recipient's sink: hooks of all features, rules, no parsing and no socket.
func BenchmarkLocalDelivery(b *testing.B) {
	for _, to := range []string{"juliet@a.test", "juliet@a.test/balcony"} {
		b.Run(to, func(b *testing.B) { deliverLocally(b, to) })
	}
}

func deliverLocally(b *testing.B, to string) {
	e := newEngine(b, mem.New(mem.Options{}), "romeo@a.test", "juliet@a.test")
	delivered := 0
	romeo, err := e.bind(jid.MustParse("romeo@a.test/orchard"), sink{})
	if err != nil {
		b.Fatal(err)
	}
	juliet, err := e.bind(jid.MustParse("juliet@a.test/balcony"), sink{send: func(element.Element) { delivered++ }})
	if err == nil {
		err = e.show(juliet, "here")
	}
	if err != nil {
		b.Fatal(err)
	}
	parsed, err := element.ParseOne(fmt.Sprintf(chat, to), ns.Client)
	if err != nil {
		b.Fatal(err)
	}
	st, err := stanza.Parse(parsed)
	if err != nil {
		b.Fatal(err)
	}
	st = st.WithFrom(romeo.JID())
	delivered = 0
	b.ReportAllocs()
	for b.Loop() {
		if err := e.say(romeo, st); err != nil {
			b.Fatal(err)
		}
	}
	if delivered != b.N {
		b.Fatalf("%d messages delivered of %d", delivered, b.N)
	}
}

// TestAllocationsOfADelivery: the way of a message through the server allocates next to nothing. The number may go
// down.
func TestAllocationsOfADelivery(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	r := testing.Benchmark(func(b *testing.B) { deliverLocally(b, "juliet@a.test") })
	if n := r.AllocsPerOp(); r.N == 0 || n > 1 {
		t.Errorf("%d allocations a message in %d", n, r.N)
	}
}

// unlimited lets a client send as fast as it can.
const unlimited = "[limits]\nbytes_per_second = 'off'\nstanzas_per_second = 'off'\n"

// pair is two clients of one server, over TCP and TLS.
func pair(b *testing.B) (romeo, juliet *peer) {
	l := newLab(b)
	h, err := l.prepare(b, "127.0.0.1", []string{"a.test"}, unlimited, nil)
	if err != nil {
		b.Fatal(err)
	}
	h.run(b)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for name, p := range map[string]**peer{"romeo@a.test": &romeo, "juliet@a.test": &juliet} {
		if err := h.addAccount(name, "secret"); err != nil {
			b.Fatal(err)
		}
		*p, _, err = negotiate(ctx, login{address: h.Addresses()["client"][0], jid: name + "/x", password: "secret", roots: l.roots})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup((*p).cut)
	}
	return romeo, juliet
}

// messages reads so many messages and drops them; nothing else may come.
func messages(r *bufio.Reader, count int) error {
	for count > 0 {
		tag, err := r.ReadSlice('>')
		if err != nil {
			return err
		}
		if bytes.HasSuffix(tag, []byte("</message>")) {
			count--
		}
	}
	return nil
}

// BenchmarkRoundTrip is a message and its answer between two clients of one server, through the whole
// of it: TLS, parser, rules, queue, four times through the kernel.
func BenchmarkRoundTrip(b *testing.B) {
	romeo, juliet := pair(b)
	ask, answer := fmt.Sprintf(chat, "juliet@a.test/x"), fmt.Sprintf(chat, "romeo@a.test/x")
	failed := make(chan error, 1)
	go func() {
		r := bufio.NewReader(juliet.conn)
		for {
			err := messages(r, 1)
			if err == nil {
				err = juliet.send(answer)
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	r := bufio.NewReader(romeo.conn)
	for b.Loop() {
		if err := romeo.send(ask); err != nil {
			b.Fatal(err)
		}
		if err := messages(r, 1); err != nil {
			b.Fatal(errors.Join(err, <-failed))
		}
	}
}

// BenchmarkStream is one client that writes to another as fast as it can.
func BenchmarkStream(b *testing.B) {
	romeo, juliet := pair(b)
	const batch = 50
	ask := bytes.Repeat(fmt.Appendf(nil, chat, "juliet@a.test/x"), batch)
	b.SetBytes(int64(len(ask) / batch))
	read := make(chan error, 1)
	go func() {
		r := bufio.NewReaderSize(juliet.conn, 64<<10)
		read <- messages(r, (b.N+batch-1)/batch*batch)
	}()
	b.ResetTimer()
	for sent := 0; sent < b.N; sent += batch {
		romeo.conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := romeo.conn.Write(ask); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-read; err != nil {
		b.Fatal(err)
	}
}

// Memory of idle sessions is measured on demand: TOMBOLO_IDLE=1000 go test -run TestIdleMemory -v.
const (
	idleCount   = "TOMBOLO_IDLE"
	idleAddress = "TOMBOLO_IDLE_ADDRESS" // for the process that plays the clients
	idleRoots   = "TOMBOLO_IDLE_ROOTS"
)

// TestIdleMemory says what a session costs that is logged in over TLS, available, and silent. The
// clients live in another process.
func TestIdleMemory(t *testing.T) {
	count, err := strconv.Atoi(os.Getenv(idleCount))
	if err != nil {
		t.Skipf("a measurement: set %s to the number of sessions", idleCount)
	}
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, "[limits]\nexempt = ['127.0.0.0/8']", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if err := h.addAccount(fmt.Sprintf("user%d@a.test", i), "secret"); err != nil {
			t.Fatal(err)
		}
	}
	h.run(t)

	before := measure()
	clients := exec.Command(os.Args[0], "-test.run", "^TestIdleClients$", "-test.v")
	clients.Env = append(os.Environ(), idleAddress+"="+h.Addresses()["client"][0], idleRoots+"="+l.caFile())
	clients.Stderr = os.Stderr
	in, err := clients.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := clients.StdoutPipe()
	if err == nil {
		err = clients.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := clients.Wait(); err != nil {
			t.Error(err)
		}
	}()
	for lines := bufio.NewScanner(out); ; {
		if !lines.Scan() {
			t.Fatal("the clients did not log in")
		}
		if lines.Text() == idleReady {
			break
		}
	}
	go io.Copy(io.Discard, out)
	after := measure()
	for _, m := range measured {
		t.Logf("%-40s %8.1f KiB per session", m, float64(int64(after[m])-int64(before[m]))/1024/float64(count))
	}
	t.Logf("goroutines: %.2f per session", float64(runtime.NumGoroutine())/float64(count))
}

const idleReady = "all are logged in"

// TestIdleClients is the other process.
func TestIdleClients(t *testing.T) {
	address := os.Getenv(idleAddress)
	if address == "" {
		t.Skip("only for TestIdleMemory")
	}
	count, err := strconv.Atoi(os.Getenv(idleCount))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := readRoots(os.Getenv(idleRoots))
	if err != nil {
		t.Fatal(err)
	}
	var all []*peer
	for i := range count {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		p, _, err := negotiate(ctx, login{address: address, jid: fmt.Sprintf("user%d@a.test/x", i), password: "secret", roots: roots})
		cancel()
		if err == nil {
			err = p.send("<presence/>")
		}
		if err == nil {
			_, err = bufio.NewReader(p.conn).ReadSlice('>') // its own presence
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	fmt.Println(idleReady)
	io.Copy(io.Discard, os.Stdin)
	for _, p := range all {
		p.cut()
	}
}

var measured = []string{"/memory/classes/heap/objects:bytes", "/memory/classes/heap/stacks:bytes", "/memory/classes/total:bytes"}

func measure() map[string]uint64 {
	runtime.GC()
	runtime.GC() // what pools let go of in the first
	var samples []metrics.Sample
	for _, name := range measured {
		samples = append(samples, metrics.Sample{Name: name})
	}
	metrics.Read(samples)
	values := make(map[string]uint64)
	for _, s := range samples {
		values[s.Name] = s.Value.Uint64()
	}
	return values
}
