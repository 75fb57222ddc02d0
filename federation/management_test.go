package federation

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/stanza"
)

const smFeature = "<sm xmlns='urn:xmpp:sm:3'/>"

// manage enables stream management as the initiating server, and returns the identifier.
func (p *peer) manage() string {
	p.t.Helper()
	p.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
	return between(p.expect("<enabled xmlns='urn:xmpp:sm:3' ")+p.expect("/>"), "id='", "'")
}

func (p *peer) message(from, to, body string) {
	p.send("<message from='juliet@%s' to='romeo@%s' type='chat'><body>%s</body></message>", from, to, body)
}

// A server that connects to us counts from <enable/> on, and gets the count at once (XEP-0198 sections
// 3 and 4).
func TestAcknowledgements_XEP0198_4(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	p := dialPeer(t, a)
	p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test"))
	if !strings.Contains(p.seen.String(), smFeature) {
		t.Error("not offered")
	}
	p.message("b.test", "a.test", "not counted")
	p.manage()
	p.message("b.test", "a.test", "one")
	p.message("b.test", "a.test", "two")
	p.send("<r xmlns='urn:xmpp:sm:3'/>")
	p.expect("<a xmlns='urn:xmpp:sm:3' h='2'/>")
	if i := a.stream(t, "in", "b.test"); i.Acks != "resumable" {
		t.Errorf("%+v, want a resumable session", i)
	}
	for _, body := range []string{"not counted", "one", "two"} {
		a.wantMessage(t, body)
	}
}

// What may not be asked for, and when (XEP-0198 sections 3 and 6).
func TestManagementErrors_XEP0198_6(t *testing.T) {
	for name, c := range map[string]struct {
		play func(*peer)
		want string
	}{
		"enabled twice":         {func(p *peer) { p.manage(); p.send("<enable xmlns='urn:xmpp:sm:3'/>") }, "<policy-violation"},
		"more than it was sent": {func(p *peer) { p.manage(); p.send("<a xmlns='urn:xmpp:sm:3' h='1'/>") }, "<handled-count-too-high xmlns='urn:xmpp:sm:3' h='1' send-count='0'/>"},
		"h is a word":           {func(p *peer) { p.manage(); p.send("<a xmlns='urn:xmpp:sm:3' h='x'/>") }, "<policy-violation"},
		"h is negative":         {func(p *peer) { p.send("<resume xmlns='urn:xmpp:sm:3' previd='x' h='-1'/>") }, "<policy-violation"},
		"asked before":          {func(p *peer) { p.send("<r xmlns='urn:xmpp:sm:3'/>") }, "<failed xmlns='urn:xmpp:sm:3'><unexpected-request"},
		"nothing to resume":     {func(p *peer) { p.send("<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>") }, "<failed xmlns='urn:xmpp:sm:3'><item-not-found"},
		"resumed after enabling": {func(p *peer) {
			p.send("<resume xmlns='urn:xmpp:sm:3' previd='%s' h='0'/>", p.manage())
		}, "<failed xmlns='urn:xmpp:sm:3'><unexpected-request"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a := l.serve("a.test", options{})
			p := dialPeer(t, a)
			p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test"))
			c.play(p)
			p.expect(c.want)
		})
	}
	t.Run("before authentication", func(t *testing.T) {
		l := newLab(t)
		a := l.serve("a.test", options{})
		p := dialPeer(t, a)
		p.open("b.test", "a.test", nil)
		p.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
		p.expect("<failed xmlns='urn:xmpp:sm:3'><unexpected-request")
	})
}

// resume asks to go on with a session, on a new stream.
func (l *lab) resume(a *server, domain, previd string, want string) *peer {
	l.t.Helper()
	p := dialPeer(l.t, a)
	p.login(domain, "a.test", l.ca.issue(l.t, nil, domain))
	p.send("<resume xmlns='urn:xmpp:sm:3' previd='%s' h='0'/>", previd)
	p.expect(want)
	return p
}

func TestIncomingResumption_XEP0198_5(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	p := dialPeer(t, a)
	p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test"))
	id := p.manage()
	p.message("b.test", "a.test", "one")
	a.wantMessage(t, "one")
	p.conn.Close()

	// The key of b's session is worth nothing to others.
	l.resume(a, "c.test", id, "<item-not-found")

	resumed := fmt.Sprintf("<resumed xmlns='urn:xmpp:sm:3' previd='%s' h='", id)
	p = l.resume(a, "b.test", id, resumed+"1'/>")
	p.message("b.test", "a.test", "two")
	p.send("<r xmlns='urn:xmpp:sm:3'/>")
	p.expect("<a xmlns='urn:xmpp:sm:3' h='2'/>")
	a.wantMessage(t, "two")

	// While the old stream seems to live: it ends, and nothing on it counts.
	q := l.resume(a, "b.test", id, resumed+"2'/>")
	p.message("b.test", "a.test", "too late")
	p.expect("<conflict")
	q.message("b.test", "a.test", "three")
	q.send("<r xmlns='urn:xmpp:sm:3'/>")
	q.expect("<a xmlns='urn:xmpp:sm:3' h='3'/>")
	a.wantMessage(t, "three")
	a.quiet(t)

	// Who closes the stream does not come back.
	q.send("</stream:stream>")
	q.rest()
	eventually(t, "the end of the session", func() bool { return a.recall(keyOf(id)) == nil })
	l.resume(a, "b.test", id, "<item-not-found")
}

func TestInboundSessionsExpire(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{})
	p := dialPeer(t, a)
	p.login("b.test", "a.test", l.ca.issue(t, nil, "b.test"))
	id := p.manage()
	a.expire(time.Now().Add(48 * time.Hour))
	if a.recall(keyOf(id)) == nil {
		t.Fatal("a session with a stream has expired")
	}
	p.conn.Close()
	eventually(t, "the end of the stream", func() bool { return len(a.incomingNow()) == 0 })
	a.expire(time.Now().Add(23 * time.Hour))
	if a.recall(keyOf(id)) == nil {
		t.Error("expired too early")
	}
	a.expire(time.Now().Add(25 * time.Hour))
	if a.recall(keyOf(id)) != nil {
		t.Error("not expired")
	}
}

// The peer at the other end of our stream, played word for word.

// receiveManaged plays the receiving server up to what it is sent first of stream management.
func (l *lab) receiveManaged(s *stage, cert tls.Certificate) *peer {
	l.t.Helper()
	p := s.accept()
	p.receive("id", cert, dialbackFeature+smFeature)
	p.expect("</db:result>")
	p.send("<db:result from='b.test' to='a.test' type='valid'/>")
	return p
}

func (p *peer) expectEnable(answer string) {
	p.t.Helper()
	p.expect("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
	p.send("%s", answer)
}

const enabledTest = "<enabled xmlns='urn:xmpp:sm:3' id='sm' resume='true' max='60'/>"

func presence(from, typ string) stanza.Stanza {
	return stanza.New(stanza.Presence, typ, "", jid.MustParse(from), jid.MustParse("juliet@b.test"))
}

func iq(typ, id string) stanza.Stanza {
	return stanza.New(stanza.IQ, typ, id, jid.MustParse("romeo@a.test/r"), jid.MustParse("juliet@b.test/j"),
		element.Leaf("query", "urn:x", ""))
}

func TestOutgoingResumption_XEP0198_5(t *testing.T) {
	l := newLab(t)
	a, b, cert := l.serve("a.test", options{}), l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	for i := range 5 {
		a.Send(message("a.test", "b.test", fmt.Sprint("body", i)))
	}
	p := l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	p.expect("body4")
	p.expect("<r xmlns='urn:xmpp:sm:3'/>")
	p.send("<a xmlns='urn:xmpp:sm:3' h='1'/>")
	eventually(t, "the acknowledgement", func() bool { return a.stream(t, "out", "b.test").Unacknowledged == 4 })
	if i := a.stream(t, "out", "b.test"); i.Acks != "resumable" {
		t.Errorf("%+v, want a resumable session", i)
	}
	p.conn.Close()
	p = l.receiveManaged(b, cert)
	a.Send(message("a.test", "b.test", "later"))
	p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
	p.send("<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='3'/>")
	got := p.expect("later")
	if strings.Contains(got, "body2") || !strings.Contains(got, "body3") || !strings.Contains(got, "body4") ||
		strings.Index(got, "body3") > strings.Index(got, "body4") || strings.Contains(got, "<delay") {
		t.Errorf("sent again: %s", got)
	}
	p.expect("<r xmlns='urn:xmpp:sm:3'/>")
	p.send("<a xmlns='urn:xmpp:sm:3' h='6'/>")
	eventually(t, "the acknowledgement", func() bool { return a.stream(t, "out", "b.test").Unacknowledged == 0 })
	p.send("<a xmlns='urn:xmpp:sm:3' h='7'/>")
	p.expect("<handled-count-too-high xmlns='urn:xmpp:sm:3' h='7' send-count='6'/>")
	a.quiet(t)
}

// What may have arrived goes again, but for what must not happen twice.
func TestFailedResumption(t *testing.T) {
	for name, c := range map[string]struct {
		features, enabled, failed string
		first                     string // of what is unacknowledged
	}{
		"the peer has forgotten":       {enabled: enabledTest, failed: "<failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>", first: "body0"},
		"the peer remembers the count": {enabled: enabledTest, failed: "<failed h='1' xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>", first: "body1"},
		"the peer only acknowledges":   {enabled: "<enabled xmlns='urn:xmpp:sm:3' resume='true'/>", first: "body0"}, // Prosody's words
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a, b, cert := l.serve("a.test", options{}), l.listen("b.test"), l.ca.issue(t, nil, "b.test")
			for _, st := range []stanza.Stanza{
				message("a.test", "b.test", "body0"), message("a.test", "b.test", "body1"),
				iq("get", "question"), iq("result", "answer"),
				presence("romeo@a.test/stale", ""), presence("romeo@a.test/fresh", ""), presence("romeo@a.test/stale", "unavailable"),
				presence("romeo@a.test", "subscribe"), message("a.test", "b.test", "body2"),
			} {
				a.Send(st)
			}
			p := l.receiveManaged(b, cert)
			p.expectEnable(c.enabled)
			p.expect("body2")
			p.expect("<r xmlns='urn:xmpp:sm:3'/>")
			p.conn.Close()
			p = l.receiveManaged(b, cert)
			if c.failed != "" {
				p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
				p.send("%s", c.failed)
			}
			p.expectEnable("<enabled xmlns='urn:xmpp:sm:3'/>")
			got := p.expect("<r xmlns='urn:xmpp:sm:3'/>")
			var place []int
			for _, want := range []string{c.first, "body1", "answer", "/fresh", "unavailable", "subscribe", "body2"} {
				place = append(place, strings.Index(got, want))
			}
			if !slices.IsSorted(place) || place[0] < 0 {
				t.Errorf("sent again, at %v: %s", place, got)
			}
			messages := strings.Count(got, "<message")
			if strings.Contains(got, "question") || strings.Count(got, "/stale") != 1 ||
				strings.Count(got, "<delay xmlns='urn:xmpp:delay' from='a.test'") != messages || messages != 3-int(c.first[4]-'0') {
				t.Errorf("sent again: %s", got)
			}
			if st := a.wantBounce(t, "remote-server-timeout"); st.ID != "question" {
				t.Errorf("returned: %s", st.Element)
			}
			a.quiet(t)
		})
	}
}

// What is sent when the stream is closed already, and its peer has not closed it yet, was on no stream: it goes on the next
// one as if it were new, requests too.
func TestSentToAClosedStream(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Idle = 50 * time.Millisecond }})
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a.Send(message("a.test", "b.test", "body0"))
	p := l.receiveManaged(b, cert)
	p.expectEnable("<enabled xmlns='urn:xmpp:sm:3'/>")
	p.expect("body0")
	p.send("<a xmlns='urn:xmpp:sm:3' h='1'/>")
	p.expect("</stream:stream>") // it is idle
	a.Send(iq("get", "question"))
	a.Send(message("a.test", "b.test", "late"))
	p.send("</stream:stream>")
	p = l.receiveManaged(b, cert)
	p.expectEnable("<enabled xmlns='urn:xmpp:sm:3'/>")
	if got := p.expect("late"); !strings.Contains(got, "question") || strings.Contains(got, "<delay") {
		t.Errorf("sent: %s", got)
	}
	a.quiet(t)
}

// A peer that says it has got more than it was sent, or less than it had: nothing goes on with it.
func TestOutgoingNonsense(t *testing.T) {
	for name, c := range map[string]struct{ play, want string }{
		"acknowledged too much": {"<a xmlns='urn:xmpp:sm:3' h='3'/>", "<handled-count-too-high xmlns='urn:xmpp:sm:3' h='3' send-count='2'/>"},
		"no count":              {"<a xmlns='urn:xmpp:sm:3'/>", "<policy-violation"},
		"resumed":               {"<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>", "<policy-violation"},
		"enables":               {"<enable xmlns='urn:xmpp:sm:3'/>", "<policy-violation"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a, b, cert := l.serve("a.test", options{}), l.listen("b.test"), l.ca.issue(t, nil, "b.test")
			a.Send(message("a.test", "b.test", "body0"))
			a.Send(message("a.test", "b.test", "body1"))
			p := l.receiveManaged(b, cert)
			p.expectEnable(enabledTest)
			p.expect("body1")
			p.send("%s", c.play)
			p.expect(c.want)
		})
	}
	for name, resumed := range map[string]string{
		"resumed with too much":     "<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='3'/>",
		"resumed with less":         "<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>",
		"another session resumed":   "<resumed xmlns='urn:xmpp:sm:3' previd='other' h='1'/>",
		"enabled without a failure": enabledTest,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a, b, cert := l.serve("a.test", options{}), l.listen("b.test"), l.ca.issue(t, nil, "b.test")
			a.Send(message("a.test", "b.test", "body0"))
			a.Send(message("a.test", "b.test", "body1"))
			p := l.receiveManaged(b, cert)
			p.expectEnable(enabledTest)
			p.expect("body1")
			p.send("<a xmlns='urn:xmpp:sm:3' h='1'/>")
			eventually(t, "the acknowledgement", func() bool { return a.stream(t, "out", "b.test").Unacknowledged == 1 })
			p.conn.Close()
			p = l.receiveManaged(b, cert)
			p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
			p.send("%s", resumed)
			if resumed != enabledTest {
				p.expect("<stream:error>")
				p.conn.Close()
				p = l.receiveManaged(b, cert)
				if name == "another session resumed" { // on the next stream it may think better of it
					p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
					p.send("<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='1'/>")
				} else {
					p.expectEnable(enabledTest)
				}
			}
			if got := p.expect("body1"); strings.Contains(got, "body0") {
				t.Errorf("what is acknowledged was sent again: %s", got)
			}
		})
	}
}

// A peer that keeps the connection and says nothing does not keep what it was sent from going on.
func TestSilentPeer(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Timing.Answer = 100 * time.Millisecond }})
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a.Send(message("a.test", "b.test", "body0"))
	p := l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	p.expect("body0")
	if got := p.rest(); strings.Contains(got, "</stream:stream>") {
		t.Errorf("the session went with its stream: %s", got) // XEP-0198 section 5
	}
	p = l.receiveManaged(b, cert)
	p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
	p.send("<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
	p.expect("body0")
	p.expect("<r xmlns='urn:xmpp:sm:3'/>")
	p.send("<a xmlns='urn:xmpp:sm:3' h='1'/>")
	eventually(t, "the acknowledgement", func() bool { return a.stream(t, "out", "b.test").Unacknowledged == 0 })
}

// One that never comes back: what it may have got, and what came later, returns to its senders.
func TestPeerThatIsGone(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.ConnectTime = 300 * time.Millisecond }})
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	a.Send(message("a.test", "b.test", "body0"))
	p := l.receiveManaged(b, cert)
	p.expectEnable("<enabled xmlns='urn:xmpp:sm:3' id='sm' resume='true' max='1'/>")
	p.expect("body0")
	b.Close()
	p.conn.Close()
	eventually(t, "the end of the stream", func() bool {
		list := a.List()
		return len(list) == 1 && list[0].State == "connecting" && list[0].Unacknowledged == 1
	})
	a.Send(message("a.test", "b.test", "body1"))
	for _, body := range []string{"body0", "body1"} {
		if st := a.wantBounce(t, "remote-server-timeout"); st.ID != body {
			t.Errorf("returned %s, want %s", st.Element, body)
		}
	}
	a.quiet(t)
}

// What a peer does not acknowledge is bounded while there is no stream.
func TestUnacknowledgedIsBounded(t *testing.T) {
	l := newLab(t)
	a := l.serve("a.test", options{config: func(c *Config) { c.Queue = 2000 }})
	b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
	big := fmt.Sprintf("%0600d", 0)
	a.Send(message("a.test", "b.test", big))
	p := l.receiveManaged(b, cert)
	p.expectEnable(enabledTest)
	p.expect(big)
	b.Close()
	p.conn.Close()
	eventually(t, "the end of the stream", func() bool { return a.List()[0].State == "connecting" })
	a.Send(message("a.test", "b.test", big))
	a.wantBounce(t, "resource-constraint")
	a.quiet(t)
}

// What waited for a stream is more than may wait on one for a peer that does not read. The peer reads, and gets all of it on
// one stream.
func TestBacklogLargerThanTheQueue(t *testing.T) {
	const (
		count = 200
		size  = 20_000 // of a body, which is the id, too: 8 MB in all, more than the kernel takes where nobody reads
	)
	for name, enabled := range map[string]string{
		"a new session":     "<enabled xmlns='urn:xmpp:sm:3'/>",
		"a resumed session": enabledTest,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			a := l.serve("a.test", options{config: func(c *Config) { c.Limits.Queue, c.Queue = 100_000, 20_000_000 }})
			b, cert := l.listen("b.test"), l.ca.issue(t, nil, "b.test")
			a.Send(message("a.test", "b.test", "body0"))
			p := l.receiveManaged(b, cert)
			p.expectEnable(enabled)
			p.expect("body0")
			p.conn.Close()
			eventually(t, "the end of the stream", func() bool { return a.List()[0].State == "connecting" })
			for i := range count {
				a.Send(message("a.test", "b.test", fmt.Sprintf("%0*d waiting%d|", size, 0, i)))
			}
			p = l.receiveManaged(b, cert)
			if enabled == enabledTest {
				p.expect("<resume xmlns='urn:xmpp:sm:3' previd='sm' h='0'/>")
				p.send("<resumed xmlns='urn:xmpp:sm:3' previd='sm' h='1'/>")
			} else {
				p.expectEnable(enabled)
			}
			time.Sleep(300 * time.Millisecond) // it reads nothing while all is handed over, as the fastest reader would seem to
			for i := range 2 * count {
				if got, err := p.r.ReadString('|'); err != nil || !strings.HasSuffix(got, fmt.Sprintf(" waiting%d|", i/2)) {
					t.Fatalf("in the place of message %d: %.200s…, %v", i/2, got, err)
				}
			}
		})
	}
}

// A relay stands between two servers and cuts their connections.
type relay struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	cuts  int
}

func newRelay(t testing.TB, target string) *relay {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: listener}
	t.Cleanup(func() { listener.Close(); r.cut() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, in, out)
			r.mu.Unlock()
			go r.copy(in, out)
			go r.copy(out, in)
		}
	}()
	return r
}

func (r *relay) copy(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
}

// cut resets all connections, so that what was on its way is lost.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	if len(r.conns) > 0 {
		r.cuts++
	}
	r.conns = nil
}

// Between two of us nothing is lost, doubled or put into another order, however often connections are
// cut under traffic.
func TestExactlyOnceWhateverIsCut(t *testing.T) {
	l := newLab(t)
	strange := newAuthority(t).issue(t, nil, "a.test")
	for name, cert := range map[string]*tls.Certificate{"EXTERNAL": nil, "dialback": &strange} {
		t.Run(name, func(t *testing.T) {
			l.t = t
			b := l.serve("b.test", options{})
			r := newRelay(t, b.listener.Addr().String())
			a := l.serve("a.test", options{cert: cert, config: func(c *Config) {
				c.Policy.Partners = []Partner{{Domain: "b.test", Address: r.Addr().String()}}
				c.Queue = 64 << 20 // nothing returns, however slow the machine is
			}})
			const n = 20_000
			go func() {
				for i := range n {
					a.Send(message("a.test", "b.test", fmt.Sprint(i)))
					if i%100 == 99 {
						time.Sleep(5 * time.Millisecond) // traffic that lasts longer than a few streams
					}
				}
			}()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			next := random.IntN(1000)
			for i := range n {
				b.wantMessage(t, fmt.Sprint(i))
				if i == next {
					r.cut()
					next += 100 + random.IntN(1500)
				}
			}
			eventually(t, "the last acknowledgement", func() bool { return a.stream(t, "out", "b.test").Unacknowledged == 0 })
			a.quiet(t)
			b.quiet(t)
			t.Logf("%d messages, %d cuts", n, r.cuts)
		})
	}
}
