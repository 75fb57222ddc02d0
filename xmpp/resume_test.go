package xmpp_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/storage/mem"
	"tombolo/storage/storagetest"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// TestResumptionUnderTraffic has devices write to each other while their connections are cut at random,
// or given up without a word, on either listener: each message arrives exactly once and in order
// (XEP-0198 section 5).
func TestResumptionUnderTraffic(t *testing.T) {
	t.Parallel()
	const count = 8
	duration := 4 * time.Second
	if os.Getenv("CI") == "true" {
		duration = 20 * time.Second
	}
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, "auth.plain = true", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.run(t)
	var devices []*device
	for i := range count {
		d := &device{name: fmt.Sprintf("user%d@a.test/x", i), config: l.clientTLS("a.test"), next: make(map[string]int), last: make(map[string]int)}
		d.starttls, d.direct = h.Addresses()["client"][0], h.Addresses()["client_tls"][0]
		if err := h.addAccount(jid.MustParse(d.name).Bare().String(), "secret"); err != nil {
			t.Fatal(err)
		}
		devices = append(devices, d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), duration+30*time.Second)
	defer cancel()
	var lives, writers sync.WaitGroup
	stop := make(chan struct{})
	over, end := context.WithCancel(ctx)
	for _, d := range devices {
		lives.Go(func() { d.live(over) })
	}
	for _, d := range devices {
		until(t, d.name+" is there", func() bool { return d.bound.Load() || d.err() != nil })
	}
	for _, d := range devices {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rand.IntN(8000)) * time.Microsecond):
					d.write(devices[rand.IntN(count)].name)
				}
			}
		})
	}
	cuts := 0
	for begun := time.Now(); time.Since(begun) < duration; cuts++ {
		devices[rand.IntN(count)].lose(rand.IntN(3) > 0)
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	}
	close(stop)
	writers.Wait()
	sent, arrived := 0, 0
	complete := func() bool {
		sent, arrived = 0, 0
		failed := false
		for _, d := range devices {
			s, a := d.sums()
			sent, arrived, failed = sent+s, arrived+a, failed || d.err() != nil
		}
		return sent == arrived || failed
	}
	for !complete() && pause(ctx) == nil {
	}
	end()
	lives.Wait()
	resumed := 0
	for _, d := range devices {
		if err := d.err(); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
		resumed += int(d.resumed.Load())
	}
	t.Logf("%d messages sent, %d arrived; %d cuts, %d resumptions", sent, arrived, cuts, resumed)
	if sent != arrived || resumed == 0 {
		t.Error("not everything arrived")
	}
}

// TestAcknowledgedMeansKept: a message that has to be stored counts when it is; a request is answered
// all the same, and what counts later is told later (XEP-0198 section 4). Who resumes meanwhile waits,
// for what is not counted would be sent again.
func TestAcknowledgedMeansKept(t *testing.T) {
	t.Parallel()
	l, faults := newLab(t), new(storagetest.Faults)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, "auth.plain = true", mem.New(mem.Options{BeforeCommit: faults.BeforeCommit}))
	if err != nil {
		t.Fatal(err)
	}
	p := &play{t: t, lab: l, hosts: map[string]*host{"a.test": h}, servers: []*host{h}, vars: make(map[string]string)}
	h.run(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := firstError(h.addAccount("romeo@a.test", "secret"), h.addAccount("juliet@a.test", "secret")); err != nil {
		t.Fatal(err)
	}
	raw := func() *role {
		return &role{raw: true, domain: "a.test", key: "client", login: login{jid: "romeo@a.test/x",
			password: "secret", roots: l.roots, address: h.Addresses()["client"][0]}}
	}
	first, second := raw(), raw()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(p.getsTo(ctx, first, "binding"))
	defer first.peer.cut()
	must(first.peer.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>"))
	must(p.receives(ctx, first, "<enabled xmlns='urn:xmpp:sm:3' id='{id}' resume='true' max='300'/>"))
	const toStore = "<message to='juliet@a.test' type='chat'><body>keep me</body></message>"
	stalled, release := faults.Stall()
	defer release()
	must(first.peer.send(toStore + "<iq type='get' id='1' to='a.test'><ping xmlns='urn:xmpp:ping'/></iq><r xmlns='urn:xmpp:sm:3'/>"))
	must(p.receives(ctx, first, "<iq type='result' id='1' from='a.test' to='romeo@a.test/x'/><r xmlns='urn:xmpp:sm:3'/><a xmlns='urn:xmpp:sm:3' h='0'/>"))
	<-stalled
	release()
	must(p.receives(ctx, first, "<a xmlns='urn:xmpp:sm:3' h='2'/>"))

	stalled, release = faults.Stall()
	defer release()
	must(first.peer.send(toStore))
	<-stalled
	must(p.getsTo(ctx, second, "login"))
	defer second.peer.cut()
	id, err := expand("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='0'/>", p.vars)
	must(err)
	must(second.peer.send(id))
	until(t, "the first stream is replaced", func() bool {
		return slices.ContainsFunc(first.peer.pending(), func(e event) bool { return e.kind == gotEnd })
	})
	release()
	must(p.receives(ctx, second, "<resumed xmlns='urn:xmpp:sm:3' previd='{id}' h='3'/><iq type='result' id='1' from='a.test' to='romeo@a.test/x'/><r xmlns='urn:xmpp:sm:3'/>"))
}

// A device is a client that acknowledges and resumes.
type device struct {
	name             string
	starttls, direct string
	config           *tls.Config

	bound   atomic.Bool
	resumed atomic.Int32

	mu      sync.Mutex
	conn    net.Conn // nil while there is none
	silent  bool     // the connection is left open when it is given up
	id      string   // of the session
	handled uint32
	acked   uint32
	unacked []string
	next    map[string]int // number of the next message to somebody
	last    map[string]int // number of the last one from somebody
	delayed int            // messages that say that they waited
	failure error
}

func (d *device) err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failure
}

func (d *device) sums() (sent, arrived int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.next {
		sent += n
	}
	for _, n := range d.last {
		arrived += n
	}
	return sent, arrived
}

// write sends the next message, now or when there is a connection.
func (d *device) write(to string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next[to]++
	text := fmt.Sprintf("<message to='%s' type='chat'><body>%d</body></message>", to, d.next[to])
	d.unacked = append(d.unacked, text)
	if d.conn != nil {
		if len(d.unacked)%5 == 0 {
			text += "<r xmlns='" + ns.SM + "'/>"
		}
		_, _ = d.conn.Write([]byte(text)) // what does not arrive is sent again
	}
}

// lose cuts the connection, or only stops to use it.
func (d *device) lose(cut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil {
		return
	}
	if d.silent = !cut; cut {
		tcp := d.conn.(*tls.Conn).NetConn().(*net.TCPConn)
		tcp.SetLinger(0)
		tcp.Close()
	} else {
		d.conn.SetReadDeadline(time.Now())
	}
	d.conn = nil
}

// live connects again and again until ctx ends.
func (d *device) live(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		err := d.stream(ctx, n%2 == 1)
		var wrong *mistake
		if errors.As(err, &wrong) || err != nil && !d.bound.Load() {
			d.mu.Lock()
			d.failure = err
			d.mu.Unlock()
			return
		}
		_ = pause(ctx) // the server may be starting
	}
}

// A mistake is the server's, and no lost connection.
type mistake struct{ text string }

func (m *mistake) Error() string { return m.text }

func wrongly(format string, a ...any) error { return &mistake{fmt.Sprintf(format, a...)} }

// stream lives one connection.
func (d *device) stream(ctx context.Context, direct bool) error {
	address := d.starttls
	if direct {
		address = d.direct
	}
	tcp, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.conn = nil
		if !d.silent {
			tcp.Close()
			return
		}
		d.silent = false
		time.AfterFunc(time.Second, func() { tcp.Close() }) // the server has to find out by itself until then
	}()
	tcp.SetDeadline(time.Now().Add(patience))
	header := fmt.Sprintf("<stream:stream xmlns='%s' xmlns:stream='%s' to='%s' version='1.0'>", ns.Client, ns.Stream, jid.MustParse(d.name).Domain())
	say := func(conn net.Conn, in *xml.Decoder, text, last string) (*tree, error) {
		if _, err := conn.Write([]byte(text)); err != nil {
			return nil, err
		}
		return await(in, last)
	}
	in := xml.NewDecoder(tcp)
	if !direct {
		if _, err := say(tcp, in, header, "features"); err != nil {
			return err
		}
		if _, err := say(tcp, in, "<starttls xmlns='"+ns.StartTLS+"'/>", "proceed"); err != nil {
			return err
		}
	}
	conn := tls.Client(tcp, d.config)
	in = xml.NewDecoder(conn)
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + jid.MustParse(d.name).Local() + "\x00secret"))
	if _, err := say(conn, in, header, "features"); err != nil {
		return err
	}
	if _, err := say(conn, in, "<auth xmlns='"+ns.SASL+"' mechanism='PLAIN'>"+plain+"</auth>", "success"); err != nil {
		return err
	}
	in = xml.NewDecoder(conn)
	if _, err := say(conn, in, header, "features"); err != nil {
		return err
	}
	if d.id == "" {
		if _, err := say(conn, in, "<iq type='set' id='b'><bind xmlns='"+ns.Bind+"'><resource>x</resource></bind></iq>", "iq"); err != nil {
			return err
		}
		enabled, err := say(conn, in, "<enable xmlns='"+ns.SM+"' resume='true'/>", "enabled")
		if err != nil {
			return err
		}
		d.id = enabled.attr("id")
		d.mu.Lock()
		_, err = conn.Write([]byte("<presence/>"))
		d.unacked = append(d.unacked, "<presence/>")
		d.mu.Unlock()
		if err != nil {
			return err
		}
		d.bound.Store(true)
	} else {
		resumed, err := say(conn, in, fmt.Sprintf("<resume xmlns='%s' previd='%s' h='%d'/>", ns.SM, d.id, d.handled), "resumed")
		if err != nil {
			return err
		}
		d.resumed.Add(1)
		if err := d.acknowledged(resumed.attr("h")); err != nil {
			return err
		}
	}
	tcp.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { tcp.Close() })
	defer stop()
	d.mu.Lock()
	d.conn = conn
	if d.resumed.Load() > 0 {
		_, _ = conn.Write([]byte(strings.Join(d.unacked, "") + "<r xmlns='" + ns.SM + "'/>"))
	}
	d.mu.Unlock()
	return d.read(conn, in)
}

// await reads until an element of that name.
func await(in *xml.Decoder, name string) (*tree, error) {
	for {
		token, err := in.Token()
		if err != nil {
			return nil, err
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local == "stream" {
			continue
		}
		e, err := readTree(in.Token, start)
		if err != nil {
			return nil, err
		}
		if e.name.Local != name {
			return nil, wrongly("want <%s/>, got:\n%s", name, e)
		}
		return e, nil
	}
}

func (d *device) acknowledged(text string) error {
	h, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := uint32(h) - d.acked
	if n > uint32(len(d.unacked)) {
		return wrongly("%d stanzas acknowledged after %d of %d", h, d.acked, d.acked+uint32(len(d.unacked)))
	}
	d.acked, d.unacked = uint32(h), d.unacked[n:]
	return nil
}

// read takes what comes on a connection that carries stanzas.
func (d *device) read(conn net.Conn, in *xml.Decoder) error {
	for {
		token, err := in.Token()
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		e, err := readTree(in.Token, start)
		if err != nil {
			return err
		}
		switch e.name.Local {
		case "r":
			d.mu.Lock()
			_, _ = fmt.Fprintf(conn, "<a xmlns='%s' h='%d'/>", ns.SM, d.handled)
			d.mu.Unlock()
		case "a":
			if err := d.acknowledged(e.attr("h")); err != nil {
				return err
			}
		case "message":
			if err := d.message(e); err != nil {
				return err
			}
		case "presence":
			d.handled++
		default:
			return wrongly("nobody expects:\n%s", e)
		}
	}
}

// message demands the next one of its sender.
func (d *device) message(e *tree) error {
	d.handled++
	d.mu.Lock()
	defer d.mu.Unlock()
	from := e.attr("from")
	text := ""
	for _, child := range e.children() {
		switch child.name.Local {
		case "body":
			text, _ = child.content[0].(string)
		case "delay":
			d.delayed++
		}
	}
	n, err := strconv.Atoi(text)
	if want := d.last[from] + 1; err != nil || n != want || e.attr("type") != "chat" {
		return wrongly("want message %d from %s, got:\n%s", want, from, e)
	}
	d.last[from] = n
	return nil
}
