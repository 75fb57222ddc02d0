package roster

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

const (
	subscribe    = "<presence type='subscribe' to='%'/>"
	subscribed   = "<presence type='subscribed' to='%'/>"
	unsubscribe  = "<presence type='unsubscribe' to='%'/>"
	unsubscribed = "<presence type='unsubscribed' to='%'/>"
)

func toward(template, contact string) string { return strings.Replace(template, "%", contact, 1) }

// Two users of one server come to see each other and part again (RFC 6121 sections 3.1 to 3.3).
func TestLocalSubscription(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test", "juliet@a.test")
	romeo, juliet := s.online("romeo@a.test/orchard"), s.online("juliet@a.test/balcony")
	away := s.login("juliet@a.test/away") // knows the roster but is not available
	away.sends(rosterGet)
	away.gets("iq result g query:")

	// Section 3.1.2: both addresses become bare; 3.1.3: what is available gets the request.
	romeo.sends("<presence type='subscribe' id='1' to='juliet@a.test/balcony'><status>please</status></presence>")
	romeo.gets("iq push query: <item jid='juliet@a.test' ask='subscribe' subscription='none'/>")
	juliet.gets("presence subscribe romeo@a.test > juliet@a.test <status>please</status>")
	away.gets()
	// Appendix A.2.1 and A.3.1: again it is routed, and not delivered.
	romeo.sends(toward(subscribe, "juliet@a.test"))
	romeo.gets()
	juliet.gets()

	// Sections 3.1.5 and 3.1.6: interested resources get the stanza, then the push, then presence.
	juliet.sends(toward(subscribed, "romeo@a.test/orchard"))
	juliet.gets("iq push query: <item jid='romeo@a.test' subscription='from'/>")
	away.gets("iq push query: <item jid='romeo@a.test' subscription='from'/>")
	romeo.gets("presence subscribed juliet@a.test > romeo@a.test",
		"iq push query: <item jid='juliet@a.test' subscription='to'/>",
		"presence available juliet@a.test/balcony > romeo@a.test")

	juliet.sends(toward(subscribe, "romeo@a.test"))
	juliet.gets("iq push query: <item jid='romeo@a.test' ask='subscribe' subscription='from'/>")
	romeo.gets("presence subscribe juliet@a.test > romeo@a.test")
	romeo.sends(toward(subscribed, "juliet@a.test"))
	romeo.gets("iq push query: <item jid='juliet@a.test' subscription='both'/>")
	juliet.gets("presence subscribed romeo@a.test > juliet@a.test",
		"iq push query: <item jid='romeo@a.test' subscription='both'/>",
		"presence available romeo@a.test/orchard > juliet@a.test")
	away.gets("iq push query: <item jid='romeo@a.test' ask='subscribe' subscription='from'/>",
		"presence subscribed romeo@a.test > juliet@a.test", "iq push query: <item jid='romeo@a.test' subscription='both'/>")

	// Section 3.2: juliet takes back what she gave.
	juliet.sends(toward(unsubscribed, "romeo@a.test"))
	juliet.gets("iq push query: <item jid='romeo@a.test' subscription='to'/>")
	romeo.gets("presence unavailable juliet@a.test/balcony > romeo@a.test",
		"presence unsubscribed juliet@a.test > romeo@a.test",
		"iq push query: <item jid='juliet@a.test' subscription='from'/>")
	away.gets("iq push query: <item jid='romeo@a.test' subscription='to'/>")

	// Section 3.3: and what she got.
	juliet.sends(toward(unsubscribe, "romeo@a.test"))
	romeo.gets("presence unsubscribe juliet@a.test > romeo@a.test",
		"iq push query: <item jid='juliet@a.test' subscription='none'/>")
	juliet.gets("iq push query: <item jid='romeo@a.test' subscription='none'/>",
		"presence unavailable romeo@a.test/orchard > juliet@a.test")

	// Neither sees the other any more.
	romeo.sends("<presence><show>dnd</show></presence>")
	juliet.gets()
}

// Requests wait for the contact, and are shown whenever a resource becomes available until they are
// answered (RFC 6121 section 3.1.3); to each resource once at a time.
func TestPendingRequest313(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	s.arrives("<presence type='subscribe' id='7' from='romeo@b.test/orchard' to='juliet@a.test'><nick>R</nick></presence>")
	s.arrives("<presence type='subscribe' id='8' from='romeo@b.test' to='juliet@a.test'/>")
	s.routed()
	s.start(Options{}) // it is kept
	request := "presence subscribe romeo@b.test > juliet@a.test <nick>R</nick>"

	balcony := s.login("juliet@a.test/balcony")
	balcony.sends(rosterGet)
	balcony.gets("iq result g query:") // section 2.1.2.2: a mere request is not in the roster
	balcony.sends("<presence/>")
	balcony.gets("presence available juliet@a.test/balcony > juliet@a.test", request)
	balcony.sends("<presence><priority>-1</priority></presence>")
	balcony.gets("presence available juliet@a.test/balcony > juliet@a.test <priority>-1</priority>")
	phone := s.login("juliet@a.test/phone")
	phone.sends("<presence><priority>-1</priority></presence>")
	phone.getsInAnyOrder("presence available juliet@a.test/balcony > juliet@a.test <priority>-1</priority>",
		"presence available juliet@a.test/phone > juliet@a.test <priority>-1</priority>", request)
	balcony.gets("presence available juliet@a.test/phone > juliet@a.test <priority>-1</priority>")

	// The answer ends it. A refusal shows nothing in the roster.
	balcony.sends(toward(unsubscribed, "romeo@b.test"))
	s.routed("presence unsubscribed juliet@a.test > romeo@b.test")
	balcony.gets()
	balcony.ends()
	balcony = s.login("juliet@a.test/balcony")
	balcony.sends("<presence/>")
	balcony.getsInAnyOrder("presence available juliet@a.test/balcony > juliet@a.test",
		"presence available juliet@a.test/phone > juliet@a.test <priority>-1</priority>")
	if item, _ := s.kept("juliet@a.test", "romeo@b.test"); !item.Contact.IsZero() {
		t.Errorf("kept after the answer: %+v", item)
	}
}

// A request that is on its way to the store when a resource becomes available is shown to it once.
func TestPendingRequestNotTwice(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	release := make(chan struct{})
	s.mu.Lock()
	s.stall = release
	s.mu.Unlock()
	s.arrives("<presence type='subscribe' from='romeo@b.test' to='juliet@a.test'/>")
	balcony := s.login("juliet@a.test/balcony")
	balcony.sends("<presence/>")
	close(release)
	balcony.gets("presence available juliet@a.test/balcony > juliet@a.test",
		"presence subscribe romeo@b.test > juliet@a.test")
}

// One that is answered while the answer is on its way to the store is not shown any more.
func TestPendingRequestAnswered(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	s.arrives("<presence type='subscribe' from='romeo@b.test' to='juliet@a.test'/>")
	balcony := s.online("juliet@a.test/balcony")
	release := make(chan struct{})
	s.mu.Lock()
	s.stall = release
	s.mu.Unlock()
	balcony.sends(toward(unsubscribed, "romeo@b.test"))
	phone := s.login("juliet@a.test/phone")
	phone.sends("<presence/>")
	close(release)
	phone.getsInAnyOrder("presence available juliet@a.test/balcony > juliet@a.test",
		"presence available juliet@a.test/phone > juliet@a.test")
}

// Strangers cannot make the server keep without end, and users cannot either.
func TestRequestsAreLimited(t *testing.T) {
	s := newServer(t, Options{MaxItems: 2}, "juliet@a.test")
	for _, from := range []string{"1", "2", "3"} {
		s.arrives("<presence type='subscribe' from='" + from + "@b.test' to='juliet@a.test'/>")
	}
	s.routed("presence error juliet@a.test > 3@b.test wait resource-constraint")
	c := s.login("juliet@a.test/balcony")
	c.sends(toward(subscribe, "4@b.test"))
	c.sends(toward(subscribed, "1@b.test"))
	c.sends(toward(subscribe, "5@b.test"))
	c.gets("presence error 5@b.test > juliet@a.test/balcony wait resource-constraint")
	s.routed("presence subscribe juliet@a.test > 4@b.test", "presence subscribed juliet@a.test > 1@b.test")
}

// An approval or a cancellation that nobody asked for is ignored (RFC 6121 sections 3.1.6 and 3.2.3),
// and so are stanzas to and from oneself.
func TestUninvited(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	c := s.online("juliet@a.test/balcony")
	for _, typ := range []string{"subscribed", "unsubscribed", "unsubscribe"} {
		s.arrives("<presence type='" + typ + "' from='romeo@b.test' to='juliet@a.test'/>")
		c.sends("<presence type='" + typ + "' to='juliet@a.test'/>")
	}
	c.sends(toward(subscribe, "juliet@a.test"))
	c.gets()
	s.routed()
	if item, version := s.kept("juliet@a.test", "romeo@b.test"); version != 0 {
		t.Errorf("kept: %+v, version %d", item, version)
	}
}

// A contact who is subscribed and asks again is told so on the user's behalf (RFC 6121 section
// 3.1.3).
func TestAlreadySubscribed313(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	s.befriends("juliet@a.test", "romeo@b.test", "from")
	c := s.online("juliet@a.test/balcony")
	s.routed("presence available juliet@a.test/balcony > romeo@b.test")
	s.arrives("<presence type='subscribe' from='romeo@b.test' to='juliet@a.test'/>")
	s.routed("presence subscribed juliet@a.test > romeo@b.test", "presence available juliet@a.test/balcony > romeo@b.test")
	c.gets()
}

// RFC 6121 section 3.4: an approval given in advance grants the request when it comes.
func TestPreApproval34(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	c := s.online("juliet@a.test/balcony")
	c.sends(toward(subscribed, "romeo@b.test"))
	s.routed()
	c.gets("iq push query: <item jid='romeo@b.test' approved='true' subscription='none'/>")
	c.sends(toward(unsubscribed, "romeo@b.test"))
	s.routed()
	c.gets("iq push query: <item jid='romeo@b.test' subscription='none'/>")

	c.sends(toward(subscribed, "romeo@b.test"))
	s.quiet()
	c.take()
	s.arrives("<presence type='subscribe' from='romeo@b.test' to='juliet@a.test'/>")
	c.gets("iq push query: <item jid='romeo@b.test' approved='true' subscription='from'/>")
	s.routed("presence subscribed juliet@a.test > romeo@b.test", "presence available juliet@a.test/balcony > romeo@b.test")
	c.sends(toward(unsubscribed, "romeo@b.test"))
	c.gets("iq push query: <item jid='romeo@b.test' subscription='none'/>")
	s.routed("presence unavailable juliet@a.test/balcony > romeo@b.test", "presence unsubscribed juliet@a.test > romeo@b.test")
}

// What a client sets in a roster never touches the request that waits behind it.
func TestSetKeepsRequest(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	c := s.online("juliet@a.test/balcony")
	s.arrives("<presence type='subscribe' from='romeo@b.test' to='juliet@a.test'/>")
	c.gets("presence subscribe romeo@b.test > juliet@a.test")
	c.sends(rosterSet("<item jid='romeo@b.test' name='R'/>"))
	c.gets("iq result s", "iq push query: <item jid='romeo@b.test' name='R' subscription='none'/>")
	c.sends(toward(subscribed, "romeo@b.test"))
	c.gets("iq push query: <item jid='romeo@b.test' name='R' subscription='from'/>")
	want := storage.RosterItem{Contact: jid.MustParse("romeo@b.test"), Name: "R", Listed: true, From: true}
	if item, _ := s.kept("juliet@a.test", "romeo@b.test"); item.PendingIn != "" || item.From != want.From || item.Name != want.Name || !item.Listed {
		t.Errorf("kept %+v, want %+v", item, want)
	}
}

// Everybody asks everybody and says yes to everybody, all at once. Whatever comes first, a yes or
// the request (then section 3.4 applies), all must end up seeing each other.
func TestAllAtOnce(t *testing.T) {
	const n = 6
	var accounts []string
	for i := range n {
		accounts = append(accounts, fmt.Sprintf("user%d@a.test", i))
	}
	s := newServer(t, Options{}, accounts...)
	clients := make([]*client, n)
	for i, account := range accounts {
		clients[i] = s.online(account + "/r")
	}
	var all sync.WaitGroup
	for i, c := range clients {
		for j, account := range accounts {
			if i != j {
				all.Go(func() { c.sends(toward(subscribe, account)) })
				all.Go(func() { c.sends(toward(subscribed, account)) })
			}
		}
		all.Go(func() { c.sends("<presence><show>chat</show></presence>") })
	}
	all.Wait()
	s.quiet()
	for i, c := range clients {
		pushes, views := make(map[jid.JID]string), make(map[jid.JID]string)
		for _, st := range c.take() {
			switch {
			case st.Type == "set":
				item := st.Payload().Payload()
				pushes[jid.MustParse(item.Attr("jid"))] = item.Attr("subscription")
			case st.Type == "":
				views[st.From] = st.Element.Child("show", "jabber:client").Text()
			}
		}
		for j, account := range accounts {
			if i == j {
				continue
			}
			item, _ := s.kept(accounts[i], account)
			if !item.To || !item.From || item.Ask || item.PendingIn != "" {
				t.Errorf("%s keeps %+v", accounts[i], item)
			}
			if got := pushes[jid.MustParse(account)]; got != "both" {
				t.Errorf("%s: the last push for %s says %q", accounts[i], account, got)
			}
			if got := views[jid.MustParse(account+"/r")]; got != "chat" {
				t.Errorf("%s: the last presence of %s shows %q", accounts[i], account, got)
			}
		}
	}
}

// A kept request that cannot be read is not shown, and hurts nothing else.
func TestUnreadableRequest(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	s.write(func(tx storage.Tx) error {
		return tx.Rosters().Put(jid.MustParse("juliet@a.test"),
			storage.RosterItem{Contact: jid.MustParse("x@b.test"), PendingIn: "<presence"}, 1)
	})
	c := s.login("juliet@a.test/balcony")
	c.sends("<presence/>")
	c.gets("presence available juliet@a.test/balcony > juliet@a.test")
}
