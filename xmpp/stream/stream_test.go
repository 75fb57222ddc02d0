package stream_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/meter"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/sasl"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
)

const (
	patience = 5 * time.Second
	header   = "<?xml version='1.0'?><stream:stream to='a.test' version='1.0' xmlns='jabber:client' " +
		"xmlns:stream='http://etherx.jabber.org/streams'>"
)

// role is a client's role that greets everybody at once unless a test changes it.
func role(t *testing.T) *stream.Role {
	t.Helper()
	flusher := stream.NewFlusher()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go flusher.Run(ctx)
	limits := element.Limits{Bytes: 10_000, Depth: 10, Attrs: 10, Namespaces: 10}
	return &stream.Role{
		Content: ns.Client,
		Opened:  func(s *stream.Stream, h stream.Header) error { s.Local = h.To; return nil },
		Ready:   func(*stream.Stream) bool { return true },
		Handle:  func(*stream.Stream, element.Element) error { return nil },
		Ended:   func(*stream.Stream, error) {},
		Limits:  stream.Limits{Before: limits, After: limits, Queue: 256 << 10},
		Timing:  stream.Timing{Login: patience, Quiet: patience, Answer: patience, Finish: time.Second},
		Flusher: flusher,
		Log:     slog.New(slog.DiscardHandler),
	}
}

// A peer is the other end of a running stream.
type peer struct {
	net.Conn
	stream *stream.Stream
	result chan error
}

func run(t *testing.T, r *stream.Role) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s, err := stream.New(r, ours.(transport.Socket))
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{conn, s, make(chan error, 1)}
	go func() { p.result <- s.Run(context.Background()) }()
	t.Cleanup(func() {
		conn.Close()
		select {
		case <-p.result:
		case <-time.After(patience):
			t.Error("the stream goes on after its peer has left")
		}
	})
	return p
}

func (p *peer) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(p, text); err != nil {
		t.Fatal(err)
	}
}

// readTo reads until what came contains the text.
func (p *peer) readTo(t *testing.T, text string) string {
	t.Helper()
	if err := p.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), text) {
		n, err := p.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("wanted %q, got %q and then %v", text, got.String(), err)
		}
	}
	return got.String()
}

func TestHeadersAndTheirErrors(t *testing.T) {
	for _, test := range []struct{ name, send, want string }{
		{"RFC 6120 4.9.3.10 invalid-namespace: stream", "<stream xmlns='jabber:client' to='a.test' version='1.0'>", "invalid-namespace"},
		{"RFC 6120 4.9.3.10 invalid-namespace: content", strings.Replace(header, "jabber:client", "jabber:other", 1), "invalid-namespace"},
		{"RFC 6120 4.9.3.25 unsupported-version", strings.Replace(header, " version='1.0' xmlns", " xmlns", 1), "unsupported-version"},
		{"RFC 6120 4.9.3.13 not-well-formed", header + "<a></b>", "not-well-formed"},
		{"RFC 6120 4.9.3.18 restricted-xml: comment", header + "<!-- -->", "restricted-xml"},
		{"RFC 6120 4.9.3.18 restricted-xml: DTD", "<!DOCTYPE a>", "restricted-xml"},
		{"RFC 6120 4.9.3.22 unsupported-encoding", "<?xml version='1.0' encoding='ISO-8859-1'?>", "unsupported-encoding"},
		{"RFC 6120 4.9.3.14 policy-violation: size", header + "<message><body>" + strings.Repeat("x", 20_000), "policy-violation"},
		{"RFC 6120 4.9.3.14 policy-violation: depth", header + strings.Repeat("<a>", 20), "policy-violation"},
		{"RFC 6120 4.9.3.24 unsupported-stanza-type: a stream in a stream", header + "<stream:stream/>", "unsupported-stanza-type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := run(t, role(t))
			p.send(t, test.send)
			got := p.readTo(t, "</stream:stream>")
			// RFC 6120 section 4.9.1.2: the error stands in an open stream.
			if !strings.HasPrefix(got, "<?xml version='1.0'?><stream:stream ") || strings.Count(got, "<stream:stream ") != 1 {
				t.Errorf("no header, or more than one: %s", got)
			}
			if !strings.Contains(got, "<stream:error><"+test.want+" xmlns=") {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestDataBehindStartTLSIsRefused(t *testing.T) {
	r := role(t)
	r.Ready = func(s *stream.Stream) bool { return false }
	r.Features = []stream.Feature{stream.StartTLS(
		func(*stream.Stream) *tls.Config { return &tls.Config{} }, func(*stream.Stream) bool { return true })}
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	p.send(t, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><iq type='get' id='1'><a xmlns='b'/></iq>")
	if got := p.readTo(t, "</stream:stream>"); !strings.Contains(got, "policy-violation") {
		t.Errorf("got %s", got)
	}
}

// TestNothingBeforeItsTurn asks for what is not offered in the state that the stream is in.
func TestNothingBeforeItsTurn(t *testing.T) {
	login := stream.SASL(stream.Login{
		Mechanisms: func(*stream.Stream) []string { return []string{"PLAIN"} },
		Attempt:    func(*stream.Stream) *sasl.Attempt { panic("nobody may come this far") },
	})
	handled := atomic.Int32{}
	for _, test := range []struct{ name, send, want string }{
		{"SASL without TLS", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>", "policy-violation"},
		{"a stanza before login", "<message to='juliet@a.test'><body>hi</body></message>", "not-authorized"},
		{"an unknown element before login", "<a xmlns='b'/>", "not-authorized"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := role(t)
			r.Ready = func(s *stream.Stream) bool { return s.State()&stream.Authenticated != 0 }
			r.Handle = func(*stream.Stream, element.Element) error { handled.Add(1); return nil }
			r.Features = []stream.Feature{login}
			p := run(t, r)
			p.send(t, header)
			if features := p.readTo(t, "</stream:features>"); strings.Contains(features, "PLAIN") {
				t.Errorf("SASL is offered in clear: %s", features)
			}
			p.send(t, test.send)
			if got := p.readTo(t, "</stream:stream>"); !strings.Contains(got, "<"+test.want) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
	if handled.Load() != 0 {
		t.Error("something was handled before login")
	}
}

func TestASilentPeerIsAskedThenLeft(t *testing.T) {
	r := role(t)
	r.Timing.Quiet, r.Timing.Answer = 50*time.Millisecond, 50*time.Millisecond
	r.Quiet = func(s *stream.Stream) { s.SendRaw("<probe/>") }
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "<probe/>")
	p.send(t, " ") // any byte is an answer
	got := p.readTo(t, "</stream:stream>")
	if strings.Count(got, "<probe/>") != 1 || !strings.Contains(got, "<connection-timeout") {
		t.Errorf("got %s", got)
	}
}

// TestLoginTakesTooLong: also who has not said anything gets a whole stream (RFC 6120 section 4.9.1.2).
func TestLoginTakesTooLong(t *testing.T) {
	for _, says := range []string{header, ""} {
		r := role(t)
		r.Ready = func(*stream.Stream) bool { return false }
		r.Timing.Login = 50 * time.Millisecond
		p := run(t, r)
		p.send(t, says)
		got := p.readTo(t, "</stream:stream>")
		if !strings.Contains(got, "<connection-timeout") || strings.Count(got, "<stream:stream ") != 1 {
			t.Errorf("after %q: got %s", says, got)
		}
	}
}

// TestRest: a stream that is silent for a while goes on waiting on another goroutine, whose stack is small, and
// then lives as before.
func TestRest(t *testing.T) {
	r := role(t)
	r.Timing.Login = time.Minute
	handled := make(chan string, 1)
	r.Handle = func(_ *stream.Stream, e element.Element) error {
		handled <- e.Attr("id")
		return nil
	}
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	resting := func() bool {
		stacks := make([]byte, 1<<20)
		return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "created by tombolo/xmpp/stream.(*Stream).live ")
	}
	for end := time.Now().Add(patience); !resting(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the stream does not rest")
		}
	}
	p.send(t, "<message id='1'/>")
	select {
	case id := <-handled:
		if id != "1" {
			t.Errorf("handled %q", id)
		}
	case <-time.After(patience):
		t.Fatal("nothing was handled")
	}
	p.send(t, "</stream:stream>")
	p.readTo(t, "</stream:stream>")
}

// TestAPeerThatDoesNotReadIsCutOff sends more than the queue may hold to one that does not read;
// nobody who sends is held up.
func TestAPeerThatDoesNotReadIsCutOff(t *testing.T) {
	r := role(t)
	ended := make(chan struct{})
	r.Ended = func(*stream.Stream, error) { close(ended) }
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	e := element.Leaf("message", ns.Client, strings.Repeat("x", 8000))
	for start := time.Now(); ; {
		p.stream.Send(e)
		select {
		case <-ended:
			return
		default:
		}
		if time.Since(start) > patience {
			t.Fatal("a peer that does not read is still connected")
		}
	}
}

// TestOrderUnderManySenders lets many send at once: what one sender sent arrives in order.
func TestOrderUnderManySenders(t *testing.T) {
	r := role(t)
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	const senders, each = 8, 500
	for s := range senders {
		go func() {
			for i := range each {
				p.stream.Send(element.Start("message", ns.Client).Attr("id", fmt.Sprintf("%d.%d.", s, i)).Element())
			}
		}()
	}
	var got strings.Builder
	buf := make([]byte, 64<<10)
	for strings.Count(got.String(), "/>") < senders*each {
		if err := p.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := p.Read(buf)
		if err != nil {
			t.Fatalf("%d of %d: %v", strings.Count(got.String(), "/>"), senders*each, err)
		}
		got.Write(buf[:n])
	}
	for s := range senders {
		rest := got.String()
		for i := range each {
			_, after, found := strings.Cut(rest, fmt.Sprintf("'%d.%d.'", s, i))
			if !found {
				t.Fatalf("sender %d: %d is missing or came late", s, i)
			}
			rest = after
		}
	}
}

// TestAFastSenderIsReadSlowly sends what would take seconds at the allowed rate: the burst passes at
// once, the rest takes its time, and nothing is dropped.
func TestAFastSenderIsReadSlowly(t *testing.T) {
	r := role(t)
	const perSecond, messages = 100, 700 // the burst is five seconds' worth
	r.Limits.Stanzas = perSecond
	r.Counters = new(meter.Counters)
	got := atomic.Int32{}
	all := make(chan struct{})
	r.Handle = func(*stream.Stream, element.Element) error {
		if got.Add(1) == messages {
			close(all)
		}
		return nil
	}
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	start := time.Now()
	p.send(t, strings.Repeat("<message><body>"+strings.Repeat("x", 100)+"</body></message>", messages))
	select {
	case <-all:
	case <-time.After(2 * patience):
		t.Fatalf("%d of %d came", got.Load(), messages)
	}
	if took := time.Since(start); took < 800*time.Millisecond {
		t.Errorf("%d messages were read in %v", messages, took)
	}
	if r.Counters.All()["limit: rate of a session"] == 0 {
		t.Error("the limit was hit and not counted")
	}
}

// TestTooMuchBeforeLogin: all that comes before login is bounded, not only each element.
func TestTooMuchBeforeLogin(t *testing.T) {
	for _, test := range []struct{ name, send string }{
		{"bytes", strings.Repeat(" ", 30_000)},
		{"elements", strings.Repeat("<a xmlns='known'/>", 50)},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := role(t)
			r.Ready = func(*stream.Stream) bool { return false }
			r.Limits.EarlyBytes, r.Limits.EarlyElements = 20_000, 20
			r.Features = []stream.Feature{{
				Claims: func(e element.Element) bool { return e.NS() == "known" },
				Offer:  func(*stream.Stream) []element.Element { return []element.Element{element.Leaf("known", "known", "")} },
				Handle: func(*stream.Stream, element.Element) (stream.Outcome, error) { return stream.Outcome{}, nil },
			}}
			p := run(t, r)
			p.send(t, header)
			p.readTo(t, "</stream:features>")
			p.send(t, test.send)
			if got := p.readTo(t, "</stream:stream>"); !strings.Contains(got, "<policy-violation") {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestAPanicEndsOneStream(t *testing.T) {
	r := role(t)
	r.Handle = func(_ *stream.Stream, e element.Element) error {
		if e.Attr("id") == "bad" {
			panic("a bug")
		}
		return nil
	}
	first, second := run(t, r), run(t, r)
	first.send(t, header)
	second.send(t, header)
	first.readTo(t, "</stream:features>")
	second.readTo(t, "</stream:features>")
	first.send(t, "<message id='bad'/>")
	if got := first.readTo(t, "</stream:stream>"); !strings.Contains(got, "<internal-server-error") {
		t.Errorf("got %s", got)
	}
	second.stream.Send(stanza.New(stanza.Message, "", "still here", jid.JID{}, jid.JID{}).Element)
	second.readTo(t, "still here")
}

func TestBothSidesClose(t *testing.T) {
	r := role(t)
	p := run(t, r)
	p.send(t, header+"</stream:stream>")
	p.readTo(t, "</stream:stream>")
	p.Close()
	select {
	case err := <-p.result:
		if err != nil {
			t.Errorf("an orderly end is not an error: %v", err)
		}
		p.result <- err
	case <-time.After(patience):
		t.Fatal("the stream goes on")
	}
}

// TestPauseSaysWhetherItWasServed: who counts on somebody having been held up must learn when he was not.
func TestPauseSaysWhetherItWasServed(t *testing.T) {
	served := make(chan bool, 1)
	for _, test := range []struct {
		name string
		d    time.Duration
		end  func(*peer)
		want bool
	}{
		{"in full", time.Millisecond, func(*peer) {}, true},
		{"the time of the stream is over", time.Hour, func(*peer) {}, false},
		{"the stream is closed", time.Hour, func(p *peer) { p.stream.Close(nil) }, false},
		{"the peer has left", time.Hour, func(p *peer) { p.Close() }, false},
		{"the peer has left behind what it said", time.Hour, func(p *peer) { io.WriteString(p, " "); p.Close() }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := role(t)
			if strings.Contains(test.name, "time") {
				r.Timing.Quiet = 50 * time.Millisecond
			}
			paused := make(chan struct{})
			r.Handle = func(s *stream.Stream, _ element.Element) error {
				close(paused)
				served <- s.Pause(test.d)
				return nil
			}
			p := run(t, r)
			p.send(t, header)
			p.readTo(t, "</stream:features>")
			p.send(t, "<message/>")
			<-paused
			test.end(p)
			select {
			case got := <-served:
				if got != test.want {
					t.Errorf("served: %v, want %v", got, test.want)
				}
			case <-time.After(patience / 2):
				t.Error("the pause goes on")
				p.stream.Close(nil)
			}
		})
	}
}

// TestAStreamClosedForAnErrorIsNotRead: nothing that a peer sends after that counts, so nobody parses it
// (RFC 6120 section 4.9.1.1: there is no way on from an error).
func TestAStreamClosedForAnErrorIsNotRead(t *testing.T) {
	r := role(t)
	r.Timing.Finish = 10 * patience
	ended := make(chan struct{})
	r.Ended = func(*stream.Stream, error) { close(ended) }
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	p.stream.Close(&stanza.StreamError{Condition: stanza.StreamConflict})
	p.readTo(t, "</stream:stream>")
	p.send(t, "<message/>")
	select {
	case <-ended: // and only the end of the connection is waited for
	case <-time.After(patience):
		t.Error("the stream is read on")
	}
}

// TestAClosedStreamKeepsItsPace: what a peer was sending when we closed our side in order still counts, but
// it may not send it any faster, nor for longer than it has the time to close its side.
func TestAClosedStreamKeepsItsPace(t *testing.T) {
	r := role(t)
	const perSecond, messages = 10, 2000 // the burst is five seconds' worth
	r.Limits.Stanzas = perSecond
	r.Timing.Finish = time.Second
	handled := atomic.Int32{}
	r.Handle = func(*stream.Stream, element.Element) error { handled.Add(1); return nil }
	ended := make(chan struct{})
	r.Ended = func(*stream.Stream, error) { close(ended) }
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	p.stream.Close(nil)
	go io.WriteString(p, strings.Repeat("<message><body>"+strings.Repeat("x", 1000)+"</body></message>", messages))
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the stream goes on as long as its peer does")
	}
	// A buffer that was read is handled, whatever is in it.
	if n := handled.Load(); n == 0 || n > 5*perSecond+perSecond+2*16 {
		t.Errorf("%d messages were handled", n)
	}
}
