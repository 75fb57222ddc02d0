package roster

import (
	"slices"
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

func blockCommand(name string, jids ...string) string {
	items := ""
	for _, j := range jids {
		items += "<item jid='" + j + "'/>"
	}
	return "<iq type='set' id='" + name + "'><" + name + " xmlns='urn:xmpp:blocking'>" + items + "</" + name + "></iq>"
}

const getBlocklist = "<iq type='get' id='list'><blocklist xmlns='urn:xmpp:blocking'/></iq>"

func blockItem(j string) string { return "<item xmlns='urn:xmpp:blocking' jid='" + j + "'/>" }

// XEP-0191 section 6.
func TestMatching(t *testing.T) {
	entities := []string{"user@b.test/res", "user@b.test/other", "user@b.test", "b.test/res", "b.test", "user@sub.b.test"}
	for entry, want := range map[string][]string{
		"user@b.test/res": {"user@b.test/res"},
		"user@b.test":     {"user@b.test/res", "user@b.test/other", "user@b.test"},
		"b.test/res":      {"b.test/res"},
		"b.test":          {"user@b.test/res", "user@b.test/other", "user@b.test", "b.test/res", "b.test"},
	} {
		list := setOf([]jid.JID{jid.MustParse(entry)})
		for _, entity := range entities {
			if got := matches(list, jid.MustParse(entity)); got != slices.Contains(want, entity) {
				t.Errorf("entry %s, entity %s: %v", entry, entity, got)
			}
		}
	}
}

// XEP-0191 sections 3.2 to 3.5: the list, its changes, and pushes to those who asked for it.
func TestBlocklistCommands(t *testing.T) {
	s := newServer(t, Options{MaxItems: 3}, "juliet@a.test")
	c, asked, other := s.login("juliet@a.test/c"), s.login("juliet@a.test/asked"), s.login("juliet@a.test/other")
	asked.sends(getBlocklist)
	asked.gets("iq result list blocklist:")
	c.sends(blockCommand("block", "Romeo@b.test", "iago@b.test"))
	c.gets("iq result block")
	asked.gets("iq push block: " + blockItem("iago@b.test") + " " + blockItem("romeo@b.test"))
	other.gets()
	c.sends(blockCommand("block", "romeo@b.test", "x@b.test")) // one of them is blocked already
	c.gets("iq result block")
	asked.gets("iq push block: " + blockItem("romeo@b.test") + " " + blockItem("x@b.test"))
	for _, row := range []struct{ command, want string }{
		{blockCommand("block"), "iq error block modify bad-request"},
		{blockCommand("block", "@"), "iq error block modify jid-malformed"},
		{blockCommand("unblock", "@"), "iq error unblock modify jid-malformed"},
		{blockCommand("block", "y@b.test"), "iq error block wait resource-constraint"},
	} {
		c.sends(row.command)
		c.gets(row.want)
	}
	s.start(Options{MaxItems: 3}) // it is kept
	c, asked = s.login("juliet@a.test/c"), s.login("juliet@a.test/asked")
	asked.sends(getBlocklist)
	asked.gets("iq result list blocklist: " + blockItem("iago@b.test") + " " + blockItem("romeo@b.test") + " " + blockItem("x@b.test"))
	c.sends(blockCommand("unblock", "iago@b.test", "never@b.test"))
	asked.gets("iq push unblock: " + blockItem("iago@b.test") + " " + blockItem("never@b.test"))
	c.gets("iq result unblock")
	c.sends(blockCommand("unblock"))
	asked.gets("iq push unblock:")
	c.gets("iq result unblock")
	asked.sends(getBlocklist)
	asked.gets("iq result list blocklist:")
	asked.ends()
	c.sends(blockCommand("block", "romeo@b.test"))
	c.gets("iq result block")
	if err := s.store.View(func(tx storage.Tx) error {
		list, err := tx.Blocklists().Get(jid.MustParse("juliet@a.test"))
		if len(list) != 1 || list[0] != jid.MustParse("romeo@b.test") {
			t.Errorf("kept: %v", list)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// XEP-0191 section 3.3: what a blocked JID sends, and what is sent to it.
func TestBlockedStanzas(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	s.befriends("juliet@a.test", "romeo@b.test", "both")
	c := s.online("juliet@a.test/c")
	c.sends(blockCommand("block", "romeo@b.test"))
	c.gets("iq result block")
	s.quiet()
	s.sent = nil

	const who = " from='romeo@b.test/orchard' to='juliet@a.test"
	for _, in := range []string{
		"<presence" + who + "'/>", "<presence type='probe'" + who + "'/>", "<presence type='subscribe'" + who + "'/>",
		"<presence type='unsubscribed'" + who + "'/>", "<presence type='error'" + who + "/c'/>",
		"<message type='error'" + who + "/c'/>", "<message type='groupchat'" + who + "/c'/>", "<message type='headline'" + who + "'/>",
		"<iq type='result' id='1'" + who + "/c'/>", "<iq type='error' id='1'" + who + "/c'/>",
	} {
		s.arrives(in)
		c.gets()
		s.routed()
	}
	s.arrives("<message" + who + "'/>")
	s.routed("message error juliet@a.test > romeo@b.test/orchard cancel service-unavailable")
	s.arrives("<message type='chat'" + who + "/c'/>")
	s.routed("message error juliet@a.test/c > romeo@b.test/orchard cancel service-unavailable")
	for _, typ := range []string{"get", "set"} {
		s.arrives("<iq type='" + typ + "' id='9'" + who + "/c'><ping xmlns='urn:xmpp:ping'/></iq>")
		s.routed("iq error 9 cancel service-unavailable")
	}
	c.gets()

	const refused = " cancel not-acceptable"
	c.sends("<message to='romeo@b.test/x'><body>can you hear me now?</body></message>")
	s.quiet()
	reply := c.take()
	compare(t, "the client gets", reply, []string{"message error romeo@b.test/x > juliet@a.test/c" + refused}, true)
	if app := reply[0].Element.Child("error", "jabber:client").Child("blocked", "urn:xmpp:blocking:errors"); app.IsZero() {
		t.Errorf("no <blocked/> in %s", reply[0].Element)
	}
	c.sends("<presence to='romeo@b.test'/>")
	c.sends("<iq type='get' id='8' to='romeo@b.test/x'><ping xmlns='urn:xmpp:ping'/></iq>")
	c.gets("presence error romeo@b.test > juliet@a.test/c"+refused, "iq error 8"+refused)
	c.sends("<presence><show>dnd</show></presence>")
	s.routed()
	if item, _ := s.kept("juliet@a.test", "romeo@b.test"); !item.To || !item.From {
		t.Errorf("the subscription is now %+v", item)
	}
}

// XEP-0191 sections 3.3 to 3.5: who may see the user's presence sees it end, and come back.
func TestBlockingPresence(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	for contact, subscription := range map[string]string{"both@b.test": "both", "from@c.test": "from", "to@b.test": "to"} {
		s.befriends("juliet@a.test", contact, subscription)
	}
	c := s.online("juliet@a.test/c")
	s.login("juliet@a.test/connected")
	c.sends("<presence to='room@b.test/julia'/>")
	s.quiet()
	s.sent = nil
	c.sends(blockCommand("block", "b.test"))
	s.routed("presence unavailable juliet@a.test/c > both@b.test", "presence unavailable juliet@a.test/c > room@b.test/julia")
	c.sends(blockCommand("block", "both@b.test")) // it is blocked already
	s.routed()
	c.sends(blockCommand("unblock", "b.test"))
	s.routed("presence probe juliet@a.test > to@b.test")
	c.sends(blockCommand("unblock"))
	s.routed("presence available juliet@a.test/c > both@b.test", "presence probe juliet@a.test > both@b.test")
	c.sends(blockCommand("block", "from@c.test/phone"))
	s.routed("presence unavailable juliet@a.test/c > from@c.test/phone")
	c.ends()
	s.routed("presence unavailable juliet@a.test/c > both@b.test", "presence unavailable juliet@a.test/c > from@c.test")

	// A request that waited when its sender was blocked is not shown until the block is gone.
	s.arrives("<presence type='subscribe' from='stranger@d.test' to='juliet@a.test'/>")
	c = s.login("juliet@a.test/c")
	c.sends(blockCommand("block", "stranger@d.test"))
	c.gets("iq result block")
	c.sends("<presence/>")
	c.gets("presence available juliet@a.test/c > juliet@a.test")
	c.sends(blockCommand("unblock"))
	c.gets("iq result unblock")
	c.ends()
	c = s.login("juliet@a.test/c")
	c.sends("<presence/>")
	c.gets("presence available juliet@a.test/c > juliet@a.test", "presence subscribe stranger@d.test > juliet@a.test")
}

// A user cannot block themselves or their server (XEP-0191 section 5), though they may block others
// in their domain.
func TestBlockingOwnDomain(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test", "romeo@a.test")
	c, phone := s.online("juliet@a.test/c"), s.online("juliet@a.test/phone")
	romeo := s.online("romeo@a.test/r")
	s.quiet()
	c.take()
	c.sends(blockCommand("block", "a.test", "juliet@a.test", "juliet@a.test/phone"))
	c.gets("iq result block")
	c.sends("<message to='juliet@a.test/phone'><body>x</body></message>")
	phone.gets("message normal juliet@a.test/c > juliet@a.test/phone <body>x</body>")
	c.sends("<iq type='get' id='v' to='a.test'><version xmlns='x'/></iq>")
	c.gets("iq error v cancel service-unavailable")
	romeo.sends("<message to='juliet@a.test'><body>x</body></message>")
	romeo.gets("message error juliet@a.test > romeo@a.test/r cancel service-unavailable")
}

// A block that cannot be kept does not hold.
func TestBlockFails(t *testing.T) {
	s := newServer(t, Options{}, "juliet@a.test")
	c := s.online("juliet@a.test/c")
	s.fail.Store(true)
	c.sends(blockCommand("block", "romeo@b.test"))
	c.gets("iq error block wait resource-constraint")
	s.fail.Store(false)
	s.arrives("<message from='romeo@b.test' to='juliet@a.test'><body>x</body></message>")
	c.gets("message normal romeo@b.test > juliet@a.test <body>x</body>")
}
