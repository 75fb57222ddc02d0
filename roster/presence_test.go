package roster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
)

// Initial, changed and unavailable presence go to subscribers and to the user's own available
// resources; the contacts to whom the user is subscribed are asked once (RFC 6121 sections 4.2 to
// 4.5).
func TestBroadcast(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	for contact, subscription := range map[string]string{"to@b.test": "to", "from@b.test": "from", "both@b.test": "both"} {
		s.befriends("romeo@a.test", contact, subscription)
	}
	home := s.login("romeo@a.test/home")
	silent := s.login("romeo@a.test/silent")
	home.sends("<presence><priority>5</priority></presence>")
	initial := "presence available romeo@a.test/home > %s <priority>5</priority>"
	s.routed(fmt.Sprintf(initial, "from@b.test"), fmt.Sprintf(initial, "both@b.test"),
		"presence probe romeo@a.test > to@b.test", "presence probe romeo@a.test > both@b.test")
	home.gets(fmt.Sprintf(initial, "romeo@a.test"))

	phone := s.login("romeo@a.test/phone")
	phone.sends("<presence/>")
	home.gets("presence available romeo@a.test/phone > romeo@a.test")
	phone.getsInAnyOrder("presence available romeo@a.test/phone > romeo@a.test", fmt.Sprintf(initial, "romeo@a.test"))
	s.routed("presence available romeo@a.test/phone > from@b.test", "presence available romeo@a.test/phone > both@b.test",
		"presence probe romeo@a.test > to@b.test", "presence probe romeo@a.test > both@b.test")

	home.sends("<presence><show>dnd</show></presence>") // section 4.4: no probes
	s.routed("presence available romeo@a.test/home > from@b.test <show>dnd</show>",
		"presence available romeo@a.test/home > both@b.test <show>dnd</show>")
	phone.gets("presence available romeo@a.test/home > romeo@a.test <show>dnd</show>")
	home.gets("presence available romeo@a.test/home > romeo@a.test <show>dnd</show>")

	home.sends("<presence type='unavailable'><status>bye</status></presence>")
	s.routed("presence unavailable romeo@a.test/home > from@b.test <status>bye</status>",
		"presence unavailable romeo@a.test/home > both@b.test <status>bye</status>")
	phone.gets("presence unavailable romeo@a.test/home > romeo@a.test <status>bye</status>")
	home.gets("presence unavailable romeo@a.test/home > romeo@a.test <status>bye</status>")
	home.sends("<presence type='unavailable'/>") // nobody believes otherwise any more
	home.ends()
	s.routed()

	phone.ends() // section 4.5.2: the server says it where the client could not
	s.routed("presence unavailable romeo@a.test/phone > from@b.test", "presence unavailable romeo@a.test/phone > both@b.test")
	silent.gets()
}

// A newer stream with the same resource makes the older one unavailable before it is available.
func TestReplacedSession(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	s.befriends("romeo@a.test", "x@b.test", "from")
	s.online("romeo@a.test/home")
	s.online("romeo@a.test/home")
	s.quiet()
	compare(t, "the contact gets", s.sent, []string{"presence available romeo@a.test/home > x@b.test",
		"presence unavailable romeo@a.test/home > x@b.test", "presence available romeo@a.test/home > x@b.test"}, true)
}

// RFC 6121 section 4.3.2, in its order.
func TestProbe432(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	for contact, subscription := range map[string]string{"from@b.test": "from", "both@b.test": "both", "to@b.test": "to"} {
		s.befriends("juliet@a.test", contact, subscription)
	}
	probe := func(from, to string) { s.arrives("<presence type='probe' from='" + from + "' to='" + to + "'/>") }
	for _, from := range []string{"stranger@b.test", "to@b.test"} {
		probe(from, "juliet@a.test")
		s.routed("presence unsubscribed juliet@a.test > " + from)
	}
	s.arrives("<presence type='subscribe' from='stranger@b.test' to='juliet@a.test'/>")
	probe("stranger@b.test", "juliet@a.test")
	s.routed("presence unsubscribed juliet@a.test > stranger@b.test")

	probe("from@b.test", "juliet@a.test") // never seen
	s.routed("presence unavailable juliet@a.test > from@b.test")

	balcony, phone := s.online("juliet@a.test/balcony"), s.online("juliet@a.test/phone")
	s.login("juliet@a.test/connected")
	balcony.sends("<presence id='p'><show>away</show></presence>")
	s.quiet()
	s.sent = nil
	probe("both@b.test/full", "juliet@a.test")
	s.routed("presence available juliet@a.test/balcony > both@b.test/full <show>away</show>",
		"presence available juliet@a.test/phone > both@b.test/full")
	probe("both@b.test", "juliet@a.test/phone")
	s.routed("presence available juliet@a.test/phone > both@b.test")
	probe("both@b.test", "juliet@a.test/connected")
	s.routed("presence unavailable juliet@a.test/connected > both@b.test")

	balcony.sends("<presence type='unavailable'><status>good night</status></presence>")
	s.quiet()
	s.sent = nil
	probe("from@b.test", "juliet@a.test") // the other one is still there
	s.routed("presence available juliet@a.test/phone > from@b.test")
	phone.sends("<presence type='unavailable'><status>me too</status></presence>")
	s.quiet()
	s.sent = nil
	want := "presence unavailable juliet@a.test/phone > from@b.test <status>me too</status>" +
		"<delay xmlns='urn:xmpp:delay' from='juliet@a.test' stamp='2026-02-03T04:05:06.000Z'/>"
	want = strings.Replace(want, "</status><", "</status> <", 1)
	s.now = s.now.Add(time.Hour)
	probe("from@b.test", "juliet@a.test")
	s.routed(want)
	s.write(func(storage.Tx) error { return nil }) // the last presence is kept
	s.start(Options{})
	probe("from@b.test", "juliet@a.test")
	s.routed(want)
}

// Directed presence (RFC 6121 section 4.6.3) and its end (4.5.2): who got it and is no subscriber
// learns that the session became unavailable, unless it was told directly; and learns nothing else.
func TestDirectedPresence46(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	s.befriends("romeo@a.test", "friend@b.test", "from")
	c := s.online("romeo@a.test/home")
	s.quiet()
	s.sent = nil
	for _, to := range []string{"room@b.test/romeo", "other@b.test", "friend@b.test", "friend@b.test/full"} {
		c.sends("<presence to='" + to + "'/>")
	}
	s.routed("presence available romeo@a.test/home > room@b.test/romeo", "presence available romeo@a.test/home > other@b.test",
		"presence available romeo@a.test/home > friend@b.test", "presence available romeo@a.test/home > friend@b.test/full")
	c.sends("<presence><show>xa</show></presence>")
	s.routed("presence available romeo@a.test/home > friend@b.test <show>xa</show>")

	// 4.6.6: who got it may ask, and learns no more than that.
	s.arrives("<presence type='probe' from='other@b.test' to='romeo@a.test/home'/>")
	s.arrives("<presence type='probe' from='other@b.test' to='romeo@a.test'/>")
	s.routed("presence available romeo@a.test/home > other@b.test", "presence unsubscribed romeo@a.test > other@b.test")

	c.sends("<presence type='unavailable' to='other@b.test'/>")
	s.routed("presence unavailable romeo@a.test/home > other@b.test")
	c.ends()
	s.routed("presence unavailable romeo@a.test/home > friend@b.test", "presence unavailable romeo@a.test/home > room@b.test/romeo")

	// Without initial presence subscribers are like everybody else (4.6.3, third case).
	c = s.login("romeo@a.test/home")
	c.sends("<presence to='friend@b.test'/>")
	s.routed("presence available romeo@a.test/home > friend@b.test")
	c.sends("<presence type='unavailable'/>")
	s.routed("presence unavailable romeo@a.test/home > friend@b.test")
	c.sends("<presence to='friend@b.test'/>")
	c.sends("<presence/>")
	s.quiet()
	s.sent = nil
	c.ends() // by then there is a broadcast, and it is enough
	s.routed("presence unavailable romeo@a.test/home > friend@b.test")
}

// A cancelled subscription ends what the contact could see, and later presence does not leak.
func TestDirectedPresenceAfterCancellation(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	s.befriends("romeo@a.test", "x@b.test", "from")
	c := s.login("romeo@a.test/home")
	c.sends("<presence to='x@b.test/full'/>")
	c.sends("<presence to='x@b.test'/>")
	c.sends("<presence/>")
	s.quiet()
	s.sent = nil
	c.sends(toward(unsubscribed, "x@b.test"))
	s.routed("presence unavailable romeo@a.test/home > x@b.test", "presence unavailable romeo@a.test/home > x@b.test/full",
		"presence unsubscribed romeo@a.test > x@b.test")
	c.ends()
	s.routed()
}

func TestDirectedPresenceIsLimited(t *testing.T) {
	const maxDirected = 20
	s := newServer(t, Options{MaxDirected: maxDirected}, "romeo@a.test")
	c := s.online("romeo@a.test/home")
	for i := range maxDirected + 1 {
		c.sends(fmt.Sprintf("<presence to='%d@b.test'/>", i))
	}
	c.gets(fmt.Sprintf("presence error %d@b.test > romeo@a.test/home wait resource-constraint", maxDirected))
	c.sends("<presence to='0@b.test'/>") // one that is known is no more
	c.gets()
}

func TestSubscriptionRequestsAreLimited(t *testing.T) {
	s := newServer(t, Options{RequestsPerMinute: 2}, "romeo@a.test")
	c := s.online("romeo@a.test/home")
	for i := range 2 {
		c.sends(fmt.Sprintf("<presence type='subscribe' to='%d@b.test'/>", i))
	}
	// Pushes follow their commit, so wait for them: an error waits for nobody.
	c.gets("iq push query: <item jid='0@b.test' ask='subscribe' subscription='none'/>",
		"iq push query: <item jid='1@b.test' ask='subscribe' subscription='none'/>")
	c.sends("<presence type='subscribe' to='2@b.test'/>")
	c.gets("presence error 2@b.test > romeo@a.test/home wait resource-constraint")
}

// A request that was never answered is sent again when the user becomes available
// (RFC 6121 section 3.1.2).
func TestRequestIsRepeated312(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	c := s.online("romeo@a.test/home")
	c.sends(toward(subscribe, "x@b.test"))
	c.ends()
	s.routed("presence subscribe romeo@a.test > x@b.test")
	s.online("romeo@a.test/home")
	s.routed("presence subscribe romeo@a.test > x@b.test")
}

func TestSubscribed(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	s.befriends("romeo@a.test", "from@b.test", "from")
	s.befriends("romeo@a.test", "to@b.test", "to")
	for entity, want := range map[string]bool{"from@b.test": true, "from@b.test/x": true, "to@b.test": false,
		"stranger@b.test": false, "romeo@a.test/home": true} {
		s.under("romeo@a.test", func(u hook.User) {
			if got := s.Subscribed(u, jid.MustParse(entity)); got != want {
				t.Errorf("%s: %v, want %v", entity, got, want)
			}
		})
	}
}
