package xmpp_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// What only a user's own account or server says to her clients, and what these believe without asking
// further if it comes from there, or from nobody.
var claims = map[string]string{
	"a roster push":            "<iq type='set' id='c' %s><query xmlns='jabber:iq:roster'><item jid='mallory@b.test' name='Romeo' subscription='both'/></query></iq>",
	"a block push":             "<iq type='set' id='c' %s><block xmlns='urn:xmpp:blocking'><item jid='romeo@a.test'/></block></iq>",
	"a carbon of what came":    "<message %s><received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='romeo@a.test/y' to='juliet@a.test/x' type='chat'><body>x</body></message></forwarded></received></message>",
	"a carbon of what went":    "<message %s><sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='juliet@a.test/y' to='romeo@a.test' type='chat'><body>x</body></message></forwarded></sent></message>",
	"a result of the archive":  "<message %s><result xmlns='urn:xmpp:mam:2' queryid='q' id='1'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='romeo@a.test/y'><body>x</body></message></forwarded></result></message>",
	"an event of her account":  "<message type='headline' %s><event xmlns='http://jabber.org/protocol/pubsub#event'><items node='urn:xmpp:bookmarks:1'/></event></message>",
	"an announcement":          "<message type='headline' %s><subject>x</subject><body>x</body></message>",
	"her own presence":         "<presence %s><show>dnd</show></presence>",
	"a subscription":           "<presence type='subscribed' %s/>",
	"an answer of the server":  "<iq type='result' id='settled' %s/>",
	"an error of the server":   "<message type='error' id='m' %s><error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>",
	"a request of the account": "<iq type='get' id='c' %s><query xmlns='jabber:iq:version'/></iq>",
}

// Nobody says anything to a client in the name of its account or its server. What is refused ends the
// stream of who said it; what arrives has the full address of its true sender.
func TestClaimsToBeTheServer(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet")
	juliet := g.online(t, "juliet")
	other := g.authenticated(t, "juliet")
	other.bind("y") // one of her own devices, in wrong hands
	for name, claim := range claims {
		for _, to := range []string{"juliet@a.test/x", "juliet@a.test"} {
			for _, from := range []string{"", "juliet@a.test", "juliet@a.test/x", "a.test", "mallory@a.test", "Juliet@A.test.", "mallory@b.test"} {
				addresses := "to='" + to + "'"
				if from != "" {
					addresses += " from='" + from + "'"
				}
				text := fmt.Sprintf(claim, addresses)
				for sender, w := range map[string]*wire{"a user": g.bound(t, "mallory"), "another server": g.server(t, "b.test")} {
					w.send(text)
					w.tcp.CloseWrite()
					w.rest()
					for _, e := range elements(t, juliet.settled()) {
						got := e.attr("from")
						bare, _, _ := strings.Cut(got, "/")
						if bare != "mallory@a.test" && bare != "mallory@b.test" || bare == "mallory@b.test" && sender == "a user" ||
							bare == "mallory@a.test" && sender != "a user" {
							t.Errorf("%s from %q, by %s: juliet got %s", name, from, sender, e)
						}
						noCarbon(t, e)
					}
				}
			}
			// Her own device may say what it likes, as itself.
			other.send(fmt.Sprintf(claim, "to='"+to+"' from='juliet@a.test'"))
			other.settled()
			for _, e := range elements(t, juliet.settled()) {
				if got := e.attr("from"); got != "juliet@a.test/y" && !(e.name.Local == "iq" && e.attr("to") == "juliet@a.test/x" && got == "") {
					t.Errorf("%s by her other device: juliet got %s", name, e)
				}
				noCarbon(t, e)
			}
		}
	}
}

// noCarbon: copies that the server has not made are none, whoever they seem to be from (XEP-0280 section 11).
func noCarbon(t *testing.T, e *tree) {
	t.Helper()
	for _, c := range e.children() {
		if c.name.Space == "urn:xmpp:carbons:2" {
			t.Errorf("juliet got a copy that is forged: %s", e)
		}
	}
}

// A stanza-id or a delay by us is there only if we put it there, and once (XEP-0359 section 6).
func TestStanzaIDAndDelayByUs(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet", "nurse")
	juliet := g.online(t, "juliet")
	forged := func(to string) string {
		var b strings.Builder
		for _, by := range []string{to + "@a.test", strings.ToUpper(to) + "@a.test", to + "@A.TEST", to + "@a.test/x", "a.test"} {
			for range 2 {
				fmt.Fprintf(&b, "<stanza-id xmlns='urn:xmpp:sid:0' by='%s' id='forged'/>", by)
				fmt.Fprintf(&b, "<delay xmlns='urn:xmpp:delay' from='%s' stamp='2002-09-10T23:08:25Z'/>", by)
				fmt.Fprintf(&b, "<p:stanza-id xmlns:p='urn:xmpp:sid:0' by='%s' id='forged'/>", by)
			}
		}
		return b.String() + "<stanza-id xmlns='urn:xmpp:sid:0' by='room@b.test' id='true'/>"
	}
	send := func(to string) {
		for _, w := range []*wire{g.bound(t, "mallory"), g.server(t, "b.test")} {
			w.sendf("<message type='chat' from='%s' to='%s@a.test'><body>x</body>%s</message>",
				map[bool]string{true: "mallory@a.test", false: "mallory@b.test"}[w.boundAs("mallory")], to, forged(to))
			w.tcp.CloseWrite()
			w.rest()
		}
	}
	check := func(what, got string, delays int) {
		t.Helper()
		list := elements(t, got)
		if len(list) != 2 {
			t.Fatalf("%s: %q", what, got)
		}
		for _, e := range list {
			ours := 0
			kept := false
			for _, c := range e.children() {
				switch {
				case c.attr("id") == "forged", c.attr("stamp") == "2002-09-10T23:08:25Z":
					t.Errorf("%s: %s", what, c)
				case c.name.Local == "delay":
					ours++
				case c.attr("id") == "true":
					kept = true
				}
			}
			if ours != delays || !kept {
				t.Errorf("%s: %d delays of ours, want %d; the id of somebody else kept: %v", what, ours, delays, kept)
			}
		}
	}
	send("juliet")
	check("online", juliet.settled(), 0)
	send("nurse")
	nurse := g.bound(t, "nurse")
	nurse.send("<presence/>")
	got := nurse.expect("</message>")
	got += nurse.expect("</message>")
	check("offline", got[strings.Index(got, "<message"):], 1)
}

func (w *wire) boundAs(name string) bool {
	return strings.Contains(string(w.seen), "<jid>"+name+"@"+w.to+"/")
}

// A reply counts if it comes from whom the request was handed to, has its id, and is the first.
func TestRepliesNobodyAskedFor(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet", "romeo")
	juliet, romeo, mallory := g.online(t, "juliet"), g.online(t, "romeo"), g.online(t, "mallory")
	second := g.authenticated(t, "romeo")
	second.bind("y")
	juliet.settled()
	ask := func(id string) {
		t.Helper()
		juliet.sendf("<iq type='get' id='%s' to='romeo@a.test/x'><query xmlns='jabber:iq:version'/></iq>", id)
		romeo.expect("id='" + id + "'")
		romeo.expect("</iq>")
	}
	reply := func(w *wire, text string, args ...any) {
		w.sendf(text, args...)
		w.settled()
	}
	silence := func(what string) {
		t.Helper()
		if got := juliet.settled(); got != "" {
			t.Errorf("%s: juliet got %q", what, got)
		}
	}
	const result = "<iq type='result' id='%s' to='juliet@a.test/x'><query xmlns='jabber:iq:version'><name>x</name></query></iq>"
	ask("1")
	reply(mallory, result, "1")
	silence("a reply by somebody else")
	reply(second, result, "1")
	silence("a reply by another device")
	reply(romeo, result, "2")
	silence("a reply with another id")
	reply(romeo, strings.Replace(result, "juliet@a.test/x", "juliet@a.test", 1), "1")
	silence("a reply to her account")
	reply(romeo, strings.Replace(result, "juliet@a.test/x", "juliet@a.test/other", 1), "1")
	silence("a reply to another device of hers")
	romeo.sendf("<iq type='get' id='1' to='juliet@a.test/x'><query xmlns='jabber:iq:version'/></iq>")
	romeo.settled()
	if got := elements(t, juliet.settled()); len(got) != 1 || got[0].attr("type") != "get" {
		t.Errorf("a request with the same id: %v", got)
	}
	reply(romeo, result, "1")
	if got := elements(t, juliet.settled()); len(got) != 1 || got[0].attr("type") != "result" || got[0].attr("from") != "romeo@a.test/x" {
		t.Errorf("the reply: %v", got)
	}
	reply(romeo, result, "1")
	silence("the same reply again")
	reply(romeo, "<iq type='error' id='%s' to='juliet@a.test/x'><error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>", "1")
	silence("an error for what was answered")

	// Who may not be answered any more gets what he would if he asked now.
	ask("blocked")
	romeo.send("<iq type='set' id='block'><block xmlns='urn:xmpp:blocking'><item jid='juliet@a.test'/></block></iq>")
	romeo.expect("id='block'")
	reply(romeo, result, "blocked")
	if got := elements(t, juliet.settled()); len(got) == 0 || got[0].attr("type") != "error" || got[0].attr("id") != "blocked" {
		t.Errorf("for a reply that was blocked: %v", got)
	}
	romeo.send("<iq type='set' id='unblock'><unblock xmlns='urn:xmpp:blocking'/></iq>")
	romeo.expect("id='unblock'")
	juliet.settled()

	// What was not answered is answered when the session ends, once.
	ask("2")
	romeo.send(closing)
	romeo.rest()
	got := juliet.expect("</iq>")
	if !strings.Contains(got, "id='2'") || !strings.Contains(got, "<service-unavailable ") {
		t.Errorf("for a session that ended: %q", got)
	}
	for _, e := range elements(t, juliet.settled()) {
		if e.name.Local == "iq" {
			t.Errorf("juliet got %s", e)
		}
	}
	// A reply from elsewhere that nobody asked for reaches a client with its true sender, or not at all.
	b := g.server(t, "b.test")
	b.sendf("<iq type='result' id='2' from='romeo@b.test/x' to='juliet@a.test/x'/>")
	b.send("<iq type='result' id='2' from='romeo@a.test/x' to='juliet@a.test/x'/>")
	b.rest()
	for _, e := range elements(t, juliet.settled()) {
		if e.attr("from") != "romeo@b.test/x" {
			t.Errorf("juliet got %s", e)
		}
	}
}

// served says how long a message takes from one user to another, the longest of some.
func served(t testing.TB, from, to *wire, recipient string) (longest time.Duration) {
	t.Helper()
	from.limit(4 * patience)
	to.limit(4 * patience)
	for i := range 20 {
		start := time.Now()
		from.sendf("<message to='%s' id='served-%d'><body>x</body></message>", recipient, i)
		to.expect(fmt.Sprintf("id='served-%d'", i))
		to.expect("</message>")
		longest = max(longest, time.Since(start))
	}
	return longest
}

// A sender that sends as fast as it can is served, and so is everybody else.
func TestStorms(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet", "romeo", "nurse")
	romeo, nurse := g.online(t, "romeo"), g.online(t, "nurse")
	for name, text := range map[string]string{
		"messages to somebody who is there":     "<message to='juliet@a.test'><body>x</body></message>",
		"messages to somebody who is not":       "<message type='chat' to='nobody@a.test'><body>x</body></message>",
		"messages to oneself":                   "<message to='mallory@a.test/x'><body>x</body></message>",
		"presence to somebody":                  "<presence to='juliet@a.test'/>",
		"presence to all":                       "<presence/><presence type='unavailable'/>",
		"requests for subscriptions":            "<presence type='subscribe' to='juliet@a.test'/><presence type='unsubscribe' to='juliet@a.test'/>",
		"probes":                                "<presence type='probe' to='juliet@a.test'/>",
		"requests to somebody":                  "<iq type='get' id='1' to='juliet@a.test/x'><query xmlns='jabber:iq:version'/></iq>",
		"requests to the server":                "<iq type='get' id='1' to='a.test'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>",
		"writes of the roster":                  "<iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='x@b.test'/></query></iq>",
		"messages that have to be kept":         "<message type='chat' to='absent@a.test'><body>x</body></message>",
		"messages to another domain, not there": "<message to='x@unreachable.invalid'><body>x</body></message>",
	} {
		t.Run(name, func(t *testing.T) {
			mallory, juliet := g.online(t, "mallory"), g.online(t, "juliet")
			mallory.limit(4 * patience)
			juliet.limit(4 * patience)
			for _, w := range []*wire{mallory, juliet} {
				go func() { // they read, but what they read does not matter
					var buf [64 << 10]byte
					for {
						if _, err := w.conn.Read(buf[:]); err != nil {
							return
						}
					}
				}()
			}
			poured := make(chan int)
			stop := make(chan struct{})
			go func() {
				total, storm := 0, []byte(strings.Repeat(text, 100))
				for {
					select {
					case <-stop:
						poured <- total
						return
					default:
					}
					mallory.tcp.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
					n, _ := mallory.conn.Write(storm) // it may well be slowed down
					total += n
				}
			}()
			longest := served(t, romeo, nurse, "nurse@a.test")
			close(stop)
			t.Logf("%d bytes of storm, a message of others takes %v at most", <-poured, longest)
			if longest > 2*time.Second {
				t.Errorf("a message between others took %v", longest)
			}
			mallory.tcp.SetLinger(0)
			mallory.tcp.Close()
		})
	}
}

// A client that never reads costs what its queue may hold, and then its connection; who sends to it,
// and everybody else, notices nothing.
func TestPeerThatNeverReads(t *testing.T) {
	g := newTarget(t, "[limits]\nexempt = ['127.0.0.0/8']\nqueue = '1MB'", "mallory", "juliet", "romeo", "nurse")
	romeo, nurse, mallory := g.online(t, "romeo"), g.online(t, "nurse"), g.online(t, "mallory")
	deaf := g.bound(t, "juliet")
	if err := deaf.tcp.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	deaf.send("<presence/>")
	go func() {
		var buf [64 << 10]byte
		for {
			if _, err := mallory.conn.Read(buf[:]); err != nil {
				return
			}
		}
	}()
	before := heapAfter()
	body := strings.Repeat("x", 8000)
	highest, sent := 0, 0
	mallory.limit(6 * patience)
	cut := func() bool {
		list, err := g.Call(t.Context(), "session.list", []byte(`{"account": "juliet@a.test"}`))
		if err != nil {
			t.Fatal(err)
		}
		return !strings.Contains(fmt.Sprintf("%+v", list), "juliet")
	}
	for start := time.Now(); !cut(); {
		if time.Since(start) > 5*patience {
			t.Fatalf("a client that does not read is still connected after %d bytes", sent)
		}
		for range 50 {
			mallory.sendf("<message to='juliet@a.test/x' type='headline'><body>%s</body></message>", body)
			sent += len(body)
		}
		highest = max(highest, heapAfter()-before)
	}
	if longest := served(t, romeo, nurse, "nurse@a.test"); longest > 2*time.Second {
		t.Errorf("a message between others took %v", longest)
	}
	// 1 MB may wait; what the connection took over from the queue waits in its own buffer.
	if highest > 8<<20 && !underRace {
		t.Errorf("%d bytes of memory for one client that does not read", highest)
	}
	t.Logf("cut after %d bytes; %d bytes of memory at most", sent, highest)
	deaf.limit(patience)
	if err := deaf.tcp.SetReadBuffer(4 << 20); err != nil { // for what the kernel still has to send
		t.Fatal(err)
	}
	for {
		if err := deaf.more(); err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Error("its connection is open")
			}
			break
		}
	}
}
