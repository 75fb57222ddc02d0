package xmpp_test

import (
	"strings"
	"testing"
	"time"
)

// A client whose stream we ended, or that ended its own, is gone for others at once, however long it
// takes to close its connection: what it was asked is answered, and what is sent to it is not lost.
func TestSessionEndsWithItsStream(t *testing.T) {
	g := newTarget(t, "[limits]\nexempt = ['127.0.0.0/8']\nshutdown = '20s'", "mallory", "juliet")
	juliet := g.online(t, "juliet")
	for name, last := range map[string]string{
		"XML beyond repair":         "<a></b>",
		"an error in a stanza":      "<message from='juliet@a.test' to='juliet@a.test'/>",
		"an element of no stanza":   "<a xmlns='urn:a'/>",
		"the end of the stream":     closing,
		"more than the limits":      "<message><body>" + strings.Repeat("x", 300_000),
		"a stream error of its own": "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
	} {
		t.Run(name, func(t *testing.T) {
			mallory := g.online(t, "mallory")
			juliet.limit(patience)
			juliet.send("<iq type='get' id='asked' to='mallory@a.test/x'><query xmlns='jabber:iq:version'/></iq>")
			mallory.expect("id='asked'")
			start := time.Now()
			mallory.send(last)
			mallory.expect(closing)
			// The connection stays open; mallory says and reads nothing more.
			if got := juliet.expect("</iq>"); !strings.Contains(got, "id='asked'") || !strings.Contains(got, "<service-unavailable ") {
				t.Errorf("juliet got %q", got)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("the answer took %v", took)
			}
			juliet.send("<message type='chat' to='mallory@a.test/x' id='late'><body>x</body></message>")
			juliet.settled()
			again := g.bound(t, "mallory")
			again.send("<presence/>")
			again.expect("id='late'")
			again.tcp.SetLinger(0)
			again.tcp.Close()
			mallory.tcp.Close()
		})
	}
}
