package roster

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/session"
)

const rosterGet = "<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>"

func rosterSet(item string) string {
	return "<iq type='set' id='s'><query xmlns='jabber:iq:roster'>" + item + "</query></iq>"
}

func TestRosterGetSetRemove(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	home, phone, quiet := s.login("romeo@a.test/home"), s.login("romeo@a.test/phone"), s.login("romeo@a.test/quiet")
	home.sends(rosterGet)
	home.gets("iq result g query:")
	phone.sends(rosterGet)
	phone.gets("iq result g query:")

	// RFC 6121 section 2.3: the subscription is not the client's to set.
	home.sends(rosterSet("<item jid='Nurse@B.test/room' name='N&amp;' subscription='both' ask='subscribe'>" +
		"<group>Servants</group><group>Old</group></item>"))
	nurse := "<item jid='nurse@b.test' name='N&amp;' subscription='none'><group>Servants</group><group>Old</group></item>"
	home.gets("iq result s", "iq push query: "+nurse)
	phone.gets("iq push query: " + nurse)
	quiet.gets() // it never asked for the roster: section 2.2

	// Section 2.4: an update replaces name and groups.
	home.sends(rosterSet("<item jid='nurse@b.test'/>"))
	home.gets("iq result s", "iq push query: <item jid='nurse@b.test' subscription='none'/>")
	phone.gets("iq push query: <item jid='nurse@b.test' subscription='none'/>")

	// Section 2.5.
	phone.sends(rosterSet("<item jid='nurse@b.test' subscription='remove'/>"))
	home.gets("iq push query: <item jid='nurse@b.test' subscription='remove'/>")
	phone.gets("iq result s", "iq push query: <item jid='nurse@b.test' subscription='remove'/>")
	phone.sends(rosterSet("<item jid='nurse@b.test' subscription='remove'/>"))
	phone.gets("iq error s cancel item-not-found")
	home.gets()
	s.routed()
}

func TestRosterSetErrors233(t *testing.T) {
	s := newServer(t, Options{MaxItems: 2}, "romeo@a.test")
	c := s.login("romeo@a.test/home")
	for _, row := range []struct{ name, item, want string }{
		{"no item", "", "modify bad-request"},
		{"two items", "<item jid='a@b.test'/><item jid='c@b.test'/>", "modify bad-request"},
		{"no jid", "<item name='x'/>", "modify bad-request"},
		{"bad jid", "<item jid='@b.test'/>", "modify jid-malformed"},
		{"long name", "<item jid='a@b.test' name='" + strings.Repeat("x", 1024) + "'/>", "modify not-acceptable"},
		{"empty group", "<item jid='a@b.test'><group/></item>", "modify not-acceptable"},
		{"long group", "<item jid='a@b.test'><group>" + strings.Repeat("x", 1024) + "</group></item>", "modify not-acceptable"},
		{"same group twice", "<item jid='a@b.test'><group>x</group><group>x</group></item>", "modify bad-request"},
		{"too many groups", "<item jid='a@b.test'>" + manyGroups(maxGroups+1) + "</item>", "modify not-acceptable"},
		{"oneself", "<item jid='romeo@a.test'/>", "cancel not-allowed"},
		{"unknown removed", "<item jid='a@b.test' subscription='remove'/>", "cancel item-not-found"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c.sends(rosterSet(row.item))
			c.gets("iq error s " + row.want)
		})
	}
	c.sends(rosterSet("<item jid='1@b.test' name='" + strings.Repeat("x", 1023) + "'>" + manyGroups(maxGroups) + "</item>"))
	c.sends(rosterSet("<item jid='2@b.test'/>"))
	c.gets("iq result s", "iq result s")
	c.sends(rosterSet("<item jid='3@b.test'/>"))
	c.gets("iq error s wait resource-constraint")
	c.sends(rosterSet("<item jid='2@b.test' name='there is room for a change'/>"))
	c.gets("iq result s")
}

func manyGroups(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "<group>%d</group>", i)
	}
	return b.String()
}

// A roster is read and written by its owner only (RFC 6121 sections 2.1.6 and 2.3.3).
func TestRosterOfSomebodyElse(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test", "juliet@a.test")
	c := s.login("juliet@a.test/balcony")
	c.sends("<iq type='get' id='g' to='romeo@a.test'><query xmlns='jabber:iq:roster'/></iq>")
	c.sends("<iq type='set' id='s' to='romeo@a.test'><query xmlns='jabber:iq:roster'><item jid='x@b.test'/></query></iq>")
	c.gets("iq error g auth forbidden", "iq error s auth forbidden")
	s.arrives("<iq type='get' id='g' from='x@b.test/r' to='romeo@a.test'><query xmlns='jabber:iq:roster'/></iq>")
	s.routed("iq error g auth forbidden")
	c.sends("<iq type='get' id='own' to='juliet@a.test'><query xmlns='jabber:iq:roster'/></iq>")
	c.gets("iq result own query:")
}

// Each push has a version of its own, rising; a client that has the newest gets an empty result (RFC
// 6121 section 2.6).
func TestRosterVersions26(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	c := s.login("romeo@a.test/home")
	c.sends("<iq type='get' id='g'><query xmlns='jabber:iq:roster' ver=''/></iq>")
	s.quiet()
	seen := []string{c.take()[0].Payload().Attr("ver")}
	for _, name := range []string{"x", "y", "z"} {
		c.sends(rosterSet("<item jid='a@b.test' name='" + name + "'/>"))
	}
	s.quiet()
	for _, st := range c.take() {
		if st.Type == "set" {
			seen = append(seen, st.Payload().Attr("ver"))
		}
	}
	if len(seen) != 4 {
		t.Fatalf("versions %v, want one of the result and three of pushes", seen)
	}
	for i := range seen[1:] {
		if len(seen[i]) > len(seen[i+1]) || len(seen[i]) == len(seen[i+1]) && seen[i] >= seen[i+1] {
			t.Errorf("versions %v do not rise", seen)
		}
	}
	get := func(ver string) string {
		return "<iq type='get' id='g'><query xmlns='jabber:iq:roster' ver='" + ver + "'/></iq>"
	}
	c.sends(get(seen[3]))
	c.gets("iq result g")
	c.sends(get(seen[2]))
	c.gets("iq result g query: <item jid='a@b.test' name='z' subscription='none'/>")

	// What clients are not shown makes no version (XEP-0237 section 2.4, "roster modification").
	s.arrives("<presence type='subscribe' from='stranger@b.test' to='romeo@a.test'/>")
	s.quiet()
	c.sends(get(seen[3]))
	c.gets("iq result g")

	// After a restart the version is still the same.
	c.ends()
	s.start(Options{})
	c = s.login("romeo@a.test/home")
	c.sends(get(seen[3]))
	c.gets("iq result g")
}

// Neither result nor push leaves before the commit; meanwhile the roster is the one that is kept, and
// nobody waits for it.
func TestAnnouncedAfterCommit(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	c := s.login("romeo@a.test/home")
	c.sends(rosterGet)
	c.gets("iq result g query:")
	release := make(chan struct{})
	s.mu.Lock()
	s.stall = release
	s.mu.Unlock()
	c.sends(rosterSet("<item jid='a@b.test'/>"))
	c.sends(rosterSet("<item jid='a@b.test' name='x'/>"))
	c.sends("<presence type='subscribe' to='a@b.test'/>")
	c.sends(rosterGet)
	compare(t, "before the commit the client gets", c.take(), []string{"iq result g query:"}, true)
	if len(s.sent) != 0 {
		t.Errorf("routed before the commit: %v", s.sent)
	}
	close(release)
	c.gets("iq result s", "iq push query: <item jid='a@b.test' subscription='none'/>",
		"iq result s", "iq push query: <item jid='a@b.test' name='x' subscription='none'/>",
		"iq push query: <item jid='a@b.test' ask='subscribe' name='x' subscription='none'/>")
	s.routed("presence subscribe romeo@a.test > a@b.test")
}

// A change that cannot be kept is refused and leaves no trace.
func TestCommitFails(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	c := s.login("romeo@a.test/home")
	c.sends(rosterSet("<item jid='a@b.test' name='old'/>"))
	s.quiet()
	c.sends(rosterGet)
	s.quiet()
	ver := c.take()[1].Payload().Attr("ver")
	s.fail.Store(true)
	c.sends(rosterSet("<item jid='a@b.test' name='new'/>"))
	c.sends(rosterSet("<item jid='a@b.test' subscription='remove'/>"))
	c.sends("<presence type='subscribe' id='p' to='a@b.test'/>")
	s.arrives("<presence type='subscribe' from='c@b.test' to='romeo@a.test'/>")
	c.gets("iq error s wait resource-constraint", "iq error s wait resource-constraint",
		"presence error a@b.test > romeo@a.test/home wait resource-constraint")
	s.routed("presence error romeo@a.test > c@b.test wait resource-constraint")
	c.sends(rosterGet)
	c.gets("iq result g query: <item jid='a@b.test' name='old' subscription='none'/>")
	c.sends("<iq type='get' id='g'><query xmlns='jabber:iq:roster' ver='" + ver + "'/></iq>")
	c.gets("iq result g")
	s.fail.Store(false)
	c.sends("<presence type='subscribe' to='a@b.test'/>")
	c.gets("iq push query: <item jid='a@b.test' ask='subscribe' name='old' subscription='none'/>")
}

// Removing a contact ends the subscriptions in both directions (RFC 6121 section 2.5.2).
func TestRemoveEndsSubscriptions252(t *testing.T) {
	for _, row := range []struct {
		item storage.RosterItem
		want []string
	}{
		{storage.RosterItem{}, nil},
		{storage.RosterItem{To: true}, []string{"unsubscribe"}},
		{storage.RosterItem{Ask: true}, []string{"unsubscribe"}},
		{storage.RosterItem{From: true}, []string{"unavailable", "unsubscribed"}},
		{storage.RosterItem{To: true, From: true}, []string{"unsubscribe", "unavailable", "unsubscribed"}},
		{storage.RosterItem{PendingIn: "<presence type='subscribe' from='x@b.test' to='romeo@a.test'/>"}, []string{"unsubscribed"}},
	} {
		s := newServer(t, Options{}, "romeo@a.test")
		row.item.Contact, row.item.Listed = jid.MustParse("x@b.test"), true
		s.write(func(tx storage.Tx) error { return tx.Rosters().Put(jid.MustParse("romeo@a.test"), row.item, 1) })
		c := s.online("romeo@a.test/home")
		s.routed(initial(row.item)...)
		c.sends(rosterSet("<item jid='x@b.test' subscription='remove'/>"))
		var want []string
		for _, typ := range row.want {
			sender := "romeo@a.test"
			if typ == "unavailable" {
				sender += "/home"
			}
			want = append(want, "presence "+typ+" "+sender+" > x@b.test")
		}
		s.quiet()
		compare(t, "the contact gets", s.sent, want, true)
		if item, _ := s.kept("romeo@a.test", "x@b.test"); !item.Contact.IsZero() {
			t.Errorf("kept: %+v", item)
		}
	}
}

// initial is what initial presence routes to x@b.test.
func initial(item storage.RosterItem) (want []string) {
	if item.From {
		want = append(want, "presence available romeo@a.test/home > x@b.test")
	}
	if item.To {
		want = append(want, "presence probe romeo@a.test > x@b.test")
	}
	if item.Ask {
		want = append(want, "presence subscribe romeo@a.test > x@b.test")
	}
	return want
}

func TestAccountRemoved(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test", "juliet@a.test")
	s.befriends("romeo@a.test", "x@b.test", "from")
	s.befriends("romeo@a.test", "juliet@a.test", "both")
	s.befriends("juliet@a.test", "romeo@a.test", "both")
	julia := s.online("juliet@a.test/balcony")
	s.online("romeo@a.test/home")
	julia.gets("presence available romeo@a.test/home > juliet@a.test")
	s.routed("presence available romeo@a.test/home > x@b.test")
	removed := make(chan error, 1)
	s.users.Remove(jid.MustParse("romeo@a.test"), nil, func(err error) { removed <- err })
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	s.routed("presence unavailable romeo@a.test/home > x@b.test", "presence unsubscribed romeo@a.test > x@b.test")
	julia.gets("presence unavailable romeo@a.test/home > juliet@a.test",
		"presence unsubscribe romeo@a.test > juliet@a.test",
		"iq push query: <item jid='romeo@a.test' subscription='to'/>",
		"presence unsubscribed romeo@a.test > juliet@a.test",
		"iq push query: <item jid='romeo@a.test' subscription='none'/>")
	if item, _ := s.kept("romeo@a.test", "x@b.test"); !item.Contact.IsZero() {
		t.Errorf("kept after the account: %+v", item)
	}
	if len(s.ledger.entries) != 0 {
		t.Errorf("the ledger still has %d accounts", len(s.ledger.entries))
	}
}

// An announcement is made though its user has left memory, and those of one user in their order.
func TestLedgerOutlivesUser(t *testing.T) {
	s := newServer(t, Options{}, "romeo@a.test")
	romeo := jid.MustParse("romeo@a.test")
	const n = 200
	for i := range n {
		err := s.users.Do(romeo, func(u *session.User) {
			s.set(u, storage.RosterItem{Contact: jid.MustParse(fmt.Sprintf("%d@b.test", i%7)), Name: fmt.Sprint(i)},
				func(u hook.User, err error) {
					if err != nil {
						t.Error(err)
					}
					u.Route(parse(t, fmt.Sprintf("<message from='romeo@a.test' to='x@b.test'><body>%d</body></message>", i)))
				})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.quiet()
	want := make([]string, n)
	for i := range want {
		want[i] = fmt.Sprintf("message normal romeo@a.test > x@b.test <body>%d</body>", i)
	}
	compare(t, "announced", s.sent, want, true)
}

func TestMirror(t *testing.T) {
	key, lost := jid.MustParse("a@b.test"), errors.New("lost")
	m := mirror[string]{kept: map[jid.JID]string{key: "old"}}
	check := func(step, latest, kept string) {
		t.Helper()
		if got, _ := m.latest(key); got != latest {
			t.Errorf("%s: latest is %q, want %q", step, got, latest)
		}
		if got := m.kept[key]; got != kept {
			t.Errorf("%s: kept is %q, want %q", step, got, kept)
		}
	}
	first, second, third := m.put(key, "first", true), m.put(key, "second", true), m.put(key, "", false)
	check("three on their way", "", "old")
	first(nil)
	check("first kept", "", "first")
	second(nil)
	check("second kept", "", "second")
	if n := m.size(); n != 0 {
		t.Errorf("size %d with a deletion on its way, want 0", n)
	}
	third(lost)
	check("third lost", "second", "second")
	if n := m.size(); n != 1 {
		t.Errorf("size %d, want 1", n)
	}
	first, second = m.put(key, "lost", true), m.put(key, "kept", true)
	first(lost)
	check("the one before was lost", "kept", "second")
	second(nil)
	check("the one after was kept", "kept", "kept")
}
