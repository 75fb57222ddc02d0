package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// XEP-0313 section 3: meaningful content is archived, a change of state is not. XEP-0334 section 4: nor what its
// sender does not want to be.
func TestWorth3(t *testing.T) {
	const state, hint = "<composing xmlns='http://jabber.org/protocol/chatstates'/>", " xmlns='urn:xmpp:hints'/>"
	for _, c := range []struct {
		message string
		want    bool
	}{
		{"<message type='chat'><body>x</body></message>", true},
		{"<message><body>x</body></message>", true},
		{"<message type='unheard-of'><body>x</body></message>", true}, // RFC 6121 section 5.2.2
		{"<message type='chat'><encrypted xmlns='eu.siacs.conversations.axolotl'/></message>", true},
		{"<message type='chat'><received xmlns='urn:xmpp:receipts' id='1'/></message>", true},
		{"<message><subject>x</subject></message>", true},
		{"<message type='chat'>" + state + "<body>x</body></message>", true},
		{"<message type='chat'>" + state + "</message>", false},
		{"<message type='chat'>" + state + "<thread>t</thread></message>", false},
		{"<message type='chat'>" + state + "<origin-id xmlns='urn:xmpp:sid:0' id='1'/></message>", false},
		{"<message type='chat'>" + state + "<store" + hint + "</message>", true},
		{"<message type='chat'/>", false},
		{"<message type='chat'>text between elements</message>", false},
		{"<message type='chat'><thread>t</thread></message>", false},
		{"<message><event xmlns='http://jabber.org/protocol/pubsub#event'><items node='x'/></event></message>", false},
		{"<message type='headline'><body>x</body></message>", false},
		{"<message type='headline'><body>x</body><store" + hint + "</message>", false},
		{"<message type='groupchat'><body>x</body></message>", false},
		{"<message type='error'><body>x</body><store" + hint + "</message>", false},
		{"<message type='chat'><body>x</body><no-store" + hint + "</message>", false},
		{"<message type='chat'><body>x</body><no-permanent-store" + hint + "</message>", false},
		{"<message type='chat'><body>x</body><no-copy" + hint + "</message>", true},
		{"<message type='chat'><body>x</body><no-store" + hint + "<store" + hint + "</message>", false},
	} {
		e, err := element.ParseOne(c.message, ns.Client)
		if err != nil {
			t.Fatal(err)
		}
		st, err := stanza.Parse(e)
		if err != nil {
			t.Fatal(err)
		}
		if got := worth(st); got != c.want {
			t.Errorf("%s: %v, want %v", c.message, got, c.want)
		}
	}
}

// XEP-0441 section 2.3.1.
func TestPreferencesMatch231(t *testing.T) {
	e, err := element.ParseOne("<prefs xmlns='urn:xmpp:mam:2' default='roster'><always><jid>a@x.test</jid><jid>b@x.test/one</jid><jid>both@x.test/r</jid>"+
		"</always><never><jid>c@x.test</jid><jid>x.test</jid><jid>both@x.test</jid></never></prefs>", ns.Client)
	if err != nil {
		t.Fatal(err)
	}
	p, err := parsePreferences(e)
	if err != nil {
		t.Fatal(err)
	}
	listed := jid.MustParse("friend@x.test")
	for who, want := range map[string]bool{
		"a@x.test": true, "a@x.test/any": true, "b@x.test": false, "b@x.test/one": true, "b@x.test/two": false,
		"c@x.test/any": false, "x.test": false, "x.test/any": false, "d@x.test": false,
		"friend@x.test": true, "friend@x.test/any": true, "both@x.test/r": false,
	} {
		j := jid.MustParse(who)
		if got := p.want(j, func() bool { return j.Bare() == listed }); got != want {
			t.Errorf("%s: %v, want %v", who, got, want)
		}
	}
}

// hold keeps what Juliet says from going on until release is called, as a slow effect before it would.
func (h *house) hold(c *client, body string) (release func()) {
	h.Helper()
	held, free, said := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(said)
		_ = h.host.Users.Do(juliet, func(u *session.User) {
			u.After(func() { close(held); <-free })
			h.say(u, c.s, body)
		})
	}()
	<-held
	return func() { close(free); <-said }
}

// What a user says gets its id before it is on its way; what he hears meanwhile is on disk at once. A page must not
// have the later one without the earlier one, or a client that goes on behind it never sees that.
func TestPageHasNothingNewerThanItsQuery(t *testing.T) {
	h := newHouse(t)
	c := h.login("balcony")
	h.hear("1")
	for range readers {
		h.reading <- struct{}{} // pages have to wait
	}
	c.ask("q", "")
	release := h.hold(c, "2")
	h.hear("3")
	h.write(func(storage.Tx) error { return nil })
	for range readers {
		<-h.reading
	}
	bodies, iq := c.page()
	fin := iq.Child("fin", ns.MAM)
	if !slices.Equal(bodies, []string{"1"}) || fin.Attr("complete") != "true" {
		t.Errorf("got %q, %s", bodies, iq)
	}
	last := fin.Child("set", ns.RSM).Child("last", ns.RSM).Text()
	release()
	c.ask("q", "<set xmlns='"+ns.RSM+"'><after>"+last+"</after></set>")
	if bodies, _ := c.page(); !slices.Equal(bodies, []string{"2", "3"}) {
		t.Errorf("then %q", bodies)
	}
	c.ask("q", "<set xmlns='"+ns.RSM+"'><max>2</max><before/></set>")
	if bodies, _ := c.page(); !slices.Equal(bodies, []string{"2", "3"}) {
		t.Errorf("backwards %q", bodies)
	}
}

// The same for a query that is answered when the client has read what it asked for before.
func TestPageWaitsForWhatWasSaidBefore(t *testing.T) {
	h := newHouse(t)
	c := h.login("balcony")
	h.hear("1")
	for range maxUnread + 1 {
		c.ask("q", "")
	}
	for range maxUnread {
		c.page()
	}
	release := h.hold(c, "2")
	h.hear("3")
	c.acknowledge()
	h.write(func(storage.Tx) error { return nil })
	h.do(func(u *session.User) {
		if b := h.boxes.Get(u); !b.reading || len(b.pagers[c.s].waiting) != 0 {
			t.Errorf("the query is not being answered: %+v", b.pagers[c.s])
		}
	})
	select {
	case e := <-c.all:
		t.Errorf("before what was said is on its way: %s", e)
	default:
	}
	release()
	if bodies, _ := c.page(); !slices.Equal(bodies, []string{"1", "2", "3"}) {
		t.Errorf("got %q", bodies)
	}
}

// The lock is not held while a page is read: commits that stall hold up the page, and nobody else.
func TestStalledCommitHoldsUpPagesOnly(t *testing.T) {
	h := newHouse(t)
	c := h.login("balcony")
	stalled, release := h.faults.Stall()
	defer release()
	h.hear("1")
	<-stalled
	c.ask("q", "")
	done := make(chan struct{})
	go func() {
		h.do(func(*session.User) {})
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the lock is held")
	}
	release()
	if bodies, iq := c.page(); !slices.Equal(bodies, []string{"1"}) || iq.Attr("type") != "result" {
		t.Errorf("got %q, %s", bodies, iq)
	}
}

// A client that asks and does not read is sent a few pages and no more; when it has read it gets the others, all of
// them in order.
func TestClientThatAsksFasterThanItReads(t *testing.T) {
	h := newHouse(t)
	c := h.login("balcony")
	h.hear("1")
	const queries = maxUnread + 10
	for i := range queries {
		c.ask(fmt.Sprint(i), "")
	}
	for i := range maxUnread {
		if _, iq := c.page(); iq.Attr("id") != fmt.Sprint(i) {
			t.Errorf("page %d answers query %s", i, iq.Attr("id"))
		}
	}
	h.write(func(storage.Tx) error { return nil })
	h.do(func(u *session.User) {
		if b, p := h.boxes.Get(u), h.boxes.Get(u).pagers[c.s]; b.reading || p.unread != maxUnread || len(p.waiting) != queries-maxUnread {
			t.Errorf("%d pages are unread, %d queries wait", p.unread, len(p.waiting))
		}
	})
	for i := maxUnread; i < queries; i++ {
		c.acknowledge()
		if _, iq := c.page(); iq.Attr("id") != fmt.Sprint(i) {
			t.Errorf("page %d answers query %s", i, iq.Attr("id"))
		}
	}
}

// There is an end to what waits.
func TestTooManyQueries(t *testing.T) {
	h := newHouse(t)
	c := h.login("balcony")
	for i := range maxUnread + maxWaiting + 1 {
		c.ask(fmt.Sprint(i), "")
		if i < maxUnread {
			c.page()
		}
	}
	if _, iq := c.page(); iq.Child("error", ns.Client).Child("resource-constraint", ns.StanzaErr).IsZero() {
		t.Errorf("got %s", iq)
	}
	h.host.Users.End(c.s, nil)
	h.do(func(u *session.User) {
		if n := len(h.boxes.Get(u).pagers); n != 0 {
			t.Errorf("%d pagers are left of a session that has ended", n)
		}
	})
}

// What waits is bounded in bytes, too: a query may be as large as a stanza.
func TestTooLargeQueries(t *testing.T) {
	h := newHouse(t)
	c := h.login("balcony")
	large := "<x xmlns='urn:test'>" + strings.Repeat("x", 100<<10) + "</x>"
	for i := range maxUnread + 20 {
		c.ask(fmt.Sprint(i), large)
		if i < maxUnread {
			c.page()
		}
	}
	h.do(func(u *session.User) {
		size := 0
		for _, p := range h.boxes.Get(u).pagers {
			for _, q := range p.waiting {
				size += len(q.Element.String())
			}
		}
		if size == 0 || size > maxAsked {
			t.Errorf("%d bytes of queries wait", size)
		}
	})
}

// However many sessions an account has, they take the place of one reader from others; each has its turn, also
// when the one that was read for has ended.
func TestOneReaderOfAnAccount(t *testing.T) {
	h := newHouse(t)
	h.hear("1")
	clients := []*client{h.login("a"), h.login("b"), h.login("c")}
	stalled, release := h.faults.Stall()
	defer release()
	h.hear("2")
	<-stalled // pages have to wait
	for _, c := range clients {
		c.ask("q", "")
		c.ask("r", "")
	}
	h.do(func(u *session.User) {
		waiting := 0
		for _, p := range h.boxes.Get(u).pagers {
			waiting += len(p.waiting)
		}
		if want := 2*len(clients) - 1; waiting != want {
			t.Errorf("%d queries wait, want %d", waiting, want)
		}
	})
	h.host.Users.End(clients[0].s, nil)
	release()
	for _, c := range clients[1:] {
		for _, id := range []string{"q", "r"} {
			if bodies, iq := c.page(); !slices.Equal(bodies, []string{"1", "2"}) || iq.Attr("id") != id {
				t.Errorf("got %q, %s", bodies, iq)
			}
		}
	}
}

// What could not be written is not the end of the archive.
func TestMetadataAfterAFailedCommit(t *testing.T) {
	h := newHouse(t)
	c := h.login("balcony")
	h.hear("1")
	h.write(func(storage.Tx) error { return nil })
	h.faults.FailNext(fmt.Errorf("disk: %w", storage.ErrNoSpace))
	h.hear("2")
	if err := h.host.Journal.Barrier(); err != nil {
		t.Fatal(err)
	}
	c.ask("q", "")
	_, page := c.page()
	e, err := element.ParseOne(fmt.Sprintf("<iq type='get' id='m' from='%s' to='%s'><metadata xmlns='%s'/></iq>", c.s.JID(), juliet, ns.MAM), ns.Client)
	if err != nil {
		t.Fatal(err)
	}
	st, err := stanza.Parse(e)
	if err != nil {
		t.Fatal(err)
	}
	h.do(func(u *session.User) { u.Route(st) })
	_, iq := c.page()
	want := page.Child("fin", ns.MAM).Child("set", ns.RSM).Child("last", ns.RSM).Text()
	if got := iq.Child("metadata", ns.MAM).Child("end", ns.MAM).Attr("id"); got != want || want == "" {
		t.Errorf("the archive ends with %s, want %s", got, want)
	}
}

// What a session did not get of a page is in the archive still: it is no message for anybody else.
func TestLostResultsAreNotSentOn(t *testing.T) {
	h := newHouse(t)
	h.hear("1")
	<-h.lost
	c := h.login("balcony")
	c.ask("q", "")
	c.page()
	before := h.came.Load()
	h.host.Users.End(c.s, nil)
	if n := h.came.Load() - before; n != 0 {
		t.Errorf("%d results are sent on", n)
	}
	if h.fetched != 1 {
		t.Errorf("a client that was not available has fetched messages %d times", h.fetched)
	}
}

// What a session did not get is sent on also when it was purged meanwhile, and does not enter the archive once more:
// neither as it was sent, nor as it is found after a restart, without its id.
func TestPurgedIsSentOn(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		h := newHouse(t)
		c := h.login("balcony")
		h.do(func(u *session.User) {
			u.SetPresence(c.s, stanza.New(stanza.Presence, "", "", c.s.JID(), jid.JID{}))
		})
		h.hear("1")
		if err := h.host.Journal.Barrier(); err != nil {
			t.Fatal(err)
		}
		if n, err := h.purge(t.Context(), juliet, h.now().Add(time.Hour)); n != 1 || err != nil {
			t.Fatalf("%d messages were purged, %v", n, err)
		}
		if restarted {
			for i := range c.got {
				c.got[i].Element = stanza.StripClaims(c.got[i].Element, juliet)
			}
		}
		h.host.Users.End(c.s, nil)
		select {
		case st := <-h.lost:
			if st.Element.Child("body", ns.Client).Text() != "1" {
				t.Errorf("got %s", st.Element)
			}
		case <-time.After(patience):
			t.Fatal("it is lost")
		}
		h.write(func(tx storage.Tx) error {
			if _, _, err := tx.Archive().Bounds(juliet); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("restarted %t: it is in the archive again: %v", restarted, err)
			}
			return nil
		})
	}
}

// A page is bounded in bytes, whatever a client asks for, and the next one goes on where it ended.
func TestPageBytes(t *testing.T) {
	h := newHouse(t)
	large := strings.Repeat("x", pageBytes/5)
	var want []string
	for i := range 12 {
		body := fmt.Sprint(i, large)
		h.hear(body)
		want = append(want, body)
	}
	want = append(want, strings.Repeat("y", pageBytes)) // one must pass
	h.hear(want[12])
	c := h.login("balcony")
	var got []string
	set := func(inner string) string {
		return "<set xmlns='" + ns.RSM + "'><max>100</max>" + inner + "</set>"
	}
	for after := ""; ; {
		c.ask("q", set("<after>"+after+"</after>"))
		bodies, iq := c.page()
		c.acknowledge()
		fin := iq.Child("fin", ns.MAM)
		if index := fin.Child("set", ns.RSM).Child("first", ns.RSM).Attr("index"); index != fmt.Sprint(len(got)) {
			t.Errorf("index %s, want %d", index, len(got))
		}
		if got = append(got, bodies...); fin.Attr("complete") == "true" || len(bodies) == 0 {
			break
		}
		if len(bodies) > 5 {
			t.Errorf("%d messages on a page", len(bodies))
		}
		after = fin.Child("set", ns.RSM).Child("last", ns.RSM).Text()
	}
	if !slices.Equal(got, want) {
		t.Errorf("forwards: %d messages, want %d", len(got), len(want))
	}
	got = nil
	for before := ""; ; {
		c.ask("q", set("<before>"+before+"</before>"))
		bodies, iq := c.page()
		c.acknowledge()
		fin := iq.Child("fin", ns.MAM)
		got = append(slices.Clone(bodies), got...)
		if fin.Attr("complete") == "true" || len(bodies) == 0 {
			break
		}
		before = fin.Child("set", ns.RSM).Child("first", ns.RSM).Text()
	}
	if !slices.Equal(got, want) {
		t.Errorf("backwards: %d messages, want %d", len(got), len(want))
	}
}

// Operators are shown as many messages as they ask for, however large these are.
func TestReadBytes(t *testing.T) {
	h := newHouse(t)
	large := strings.Repeat("x", pageBytes/5)
	for i := range 15 {
		h.hear(fmt.Sprint(i, large))
	}
	for limit, want := range map[int]int{1: 1, 5: 5, 13: 13, 15: 15, 1000: 15} {
		list, err := h.verbRead(t.Context(), Request{Account: juliet, Limit: limit})
		if err != nil || len(list) != want {
			t.Fatalf("%d of %d messages, %v", len(list), want, err)
		}
		for i, m := range list {
			if m.Body != fmt.Sprint(15-want+i, large) {
				t.Errorf("of %d, message %d is %.10s", want, i, m.Body)
			}
		}
	}
}

// Pages of several chunks, both ways, have everything in order.
func TestChunks(t *testing.T) {
	h := newHouse(t)
	var want []string
	for i := range 3*chunk + 1 {
		want = append(want, fmt.Sprint(i))
		h.hear(want[i])
	}
	c := h.login("balcony")
	for _, max := range []int{1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3*chunk + 1, 3*chunk + 2} {
		n := min(max, len(want))
		c.ask("q", fmt.Sprintf("<set xmlns='%s'><max>%d</max></set>", ns.RSM, max))
		if got, iq := c.page(); !slices.Equal(got, want[:n]) || (iq.Child("fin", ns.MAM).Attr("complete") == "true") != (max >= len(want)) {
			t.Errorf("first %d: %q, %s", max, got, iq)
		}
		c.acknowledge()
		c.ask("q", fmt.Sprintf("<set xmlns='%s'><max>%d</max><before/></set>", ns.RSM, max))
		got, iq := c.page()
		if !slices.Equal(got, want[len(want)-n:]) || (iq.Child("fin", ns.MAM).Attr("complete") == "true") != (max >= len(want)) {
			t.Errorf("last %d: %q, %s", max, got, iq)
		}
		c.acknowledge()
	}
}

// Retention goes in steps, through all archives, and leaves what is young enough; an account can have its own.
func TestRetention(t *testing.T) {
	h := newHouse(t)
	h.retention = 24 * time.Hour
	for i := range 2*purgeStep + 10 {
		h.hear(fmt.Sprint(i))
	}
	h.pass(20 * time.Hour)
	h.hear("young")
	count := func(owner jid.JID) (n int) {
		t.Helper()
		h.write(func(tx storage.Tx) error {
			stats, err := tx.Archive().Stats(owner)
			n = stats.Messages
			return err
		})
		return n
	}
	if n := count(juliet); n != 2*purgeStep+11 {
		t.Fatalf("%d messages", n)
	}
	purge := func() {
		t.Helper()
		if err := h.purgeAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	purge()
	if n := count(juliet); n != 2*purgeStep+11 {
		t.Errorf("%d messages, none is old", n)
	}
	h.pass(5 * time.Hour)
	forever := time.Duration(0)
	if err := h.setRetention(t.Context(), juliet, &forever); err != nil {
		t.Fatal(err)
	}
	purge()
	if n := count(juliet); n != 2*purgeStep+11 {
		t.Errorf("%d messages of an account that keeps them for good", n)
	}
	if err := h.setRetention(t.Context(), juliet, nil); err != nil {
		t.Fatal(err)
	}
	h.login("balcony") // so that the account is in memory
	purge()
	if n := count(juliet); n != 1 {
		t.Errorf("%d messages, want the young one", n)
	}
	h.do(func(u *session.User) {
		if b := h.boxes.Get(u); b.oldest.id == 0 || b.oldest != b.newest {
			t.Errorf("in memory the archive reaches from %v to %v", b.oldest, b.newest)
		}
	})
	hour := time.Hour
	if err := h.setRetention(t.Context(), juliet, &hour); err != nil {
		t.Fatal(err)
	}
	purge()
	if n := count(juliet); n != 0 {
		t.Errorf("%d messages", n)
	}
	h.do(func(u *session.User) {
		if b := h.boxes.Get(u); b.oldest.id != 0 || b.newest.id != 0 {
			t.Errorf("in memory the archive reaches from %v to %v", b.oldest, b.newest)
		}
	})
	if err := h.setRetention(t.Context(), jid.MustParse("nobody@a.test"), &hour); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("retention of nobody: %v", err)
	}
}

// What was written while the clock was ahead is young for long, and does not keep what is behind it; and what was
// written while it was behind may be the newest.
func TestRetentionAfterWrongClock(t *testing.T) {
	h := newHouse(t)
	h.retention = 24 * time.Hour
	h.hear("old")
	h.pass(1000 * time.Hour)
	h.hear("of the future")
	h.pass(-1000 * time.Hour)
	h.hear("old")
	h.pass(20 * time.Hour)
	h.hear("young")
	h.pass(-20 * time.Hour)
	h.hear("old, and the newest")
	h.pass(25 * time.Hour)
	c := h.login("balcony") // so that the account is in memory
	h.write(func(storage.Tx) error { return nil })
	if err := h.purgeAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.ask("q", "")
	bodies, iq := c.page()
	if !slices.Equal(bodies, []string{"of the future", "young"}) {
		t.Errorf("%q are left", bodies)
	}
	set := iq.Child("fin", ns.MAM).Child("set", ns.RSM)
	h.do(func(u *session.User) {
		metadata := h.describe(u)
		for name, end := range map[string]string{"start": "first", "end": "last"} {
			if got, want := metadata.Child(name, ns.MAM).Attr("id"), set.Child(end, ns.RSM).Text(); got != want {
				t.Errorf("the archive has its %s at %s, want %s", name, got, want)
			}
		}
	})
}

// A purge does not wait for a message that could not be written, which is not the end of the archive either.
func TestRetentionAfterAFailedCommit(t *testing.T) {
	for _, left := range []string{"", "kept"} {
		h := newHouse(t)
		h.retention = time.Hour
		h.login("balcony") // so that the account is in memory
		h.hear("old")
		h.pass(2 * time.Hour)
		if left != "" {
			h.hear(left)
		}
		if err := h.host.Journal.Barrier(); err != nil {
			t.Fatal(err)
		}
		h.faults.FailNext(fmt.Errorf("disk: %w", storage.ErrNoSpace))
		h.hear("not kept")
		if err := h.host.Journal.Barrier(); err != nil || h.faults.Pending() > 0 {
			t.Fatal("no commit has failed", err)
		}
		ended := make(chan error, 1)
		go func() { ended <- h.purgeAll(t.Context()) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("it does not end")
		}
		var last mark
		if err := h.host.Store.View(func(tx storage.Tx) (err error) {
			_, last, err = readBounds(tx, juliet)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		h.do(func(u *session.User) {
			if b := h.boxes.Get(u); b.newest.id != last.id || (left != "") != (last.id != 0) {
				t.Errorf("%q is left: in memory the archive ends with %v, on disk with %v", left, b.newest, last)
			}
		})
	}
}

// One archive that cannot be purged does not keep the others.
func TestRetentionGoesOnAfterAnError(t *testing.T) {
	h := newHouse(t)
	h.retention = time.Hour
	h.router.Route(message(jid.MustParse("paris@b.test"), romeo, "old"))
	h.hear("old")
	h.write(func(tx storage.Tx) error {
		return tx.Settings().Put(juliet, retentionKey, element.Leaf(retention, ns.MAM, "for ever").String(), 0)
	})
	h.pass(2 * time.Hour)
	if err := h.purgeAll(t.Context()); err == nil || !strings.Contains(err.Error(), juliet.String()) {
		t.Errorf("the archive that cannot be purged is not named: %v", err)
	}
	for account, want := range map[jid.JID]int{juliet: 1, romeo: 0} {
		h.write(func(tx storage.Tx) error {
			stats, err := tx.Archive().Stats(account)
			if stats.Messages != want {
				t.Errorf("%s has %d messages, want %d", account, stats.Messages, want)
			}
			return err
		})
	}
}

// Retention ends when the server does.
func TestRetentionEnds(t *testing.T) {
	h := newHouse(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- h.retain(ctx) }()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
}

// Preferences that cannot be kept hold no more.
func TestPreferencesNotKept(t *testing.T) {
	h := newHouse(t)
	c := h.login("balcony")
	h.faults.FailNext(fmt.Errorf("disk: %w", storage.ErrNoSpace))
	e, err := element.ParseOne(fmt.Sprintf("<iq type='set' id='p' from='%s' to='%s'><prefs xmlns='%s' default='never'/></iq>", c.s.JID(), juliet, ns.MAM), ns.Client)
	if err != nil {
		t.Fatal(err)
	}
	st, err := stanza.Parse(e)
	if err != nil {
		t.Fatal(err)
	}
	h.do(func(u *session.User) { u.Route(st) })
	if iq := c.next(); iq.Child("error", ns.Client).Child("resource-constraint", ns.StanzaErr).IsZero() {
		t.Errorf("got %s", iq)
	}
	h.do(func(u *session.User) {
		if p := h.boxes.Get(u).preferences; p.rule != "always" {
			t.Errorf("the default is %s", p.rule)
		}
	})
}

// The times that we tell are in milliseconds, and a message is found by the one that it has; whatever is written is
// read, in whatever zone.
func TestDateTime412(t *testing.T) {
	for text, want := range map[string]string{
		"2010-06-07T00:00:00Z": "2010-06-07T00:00:00.000Z", "2010-06-07T02:00:00+02:00": "2010-06-07T00:00:00.000Z",
		"2010-06-07T00:00:00.1Z": "2010-06-07T00:00:00.100Z", "2010-06-06T23:59:59.999999-00:00": "2010-06-06T23:59:59.999Z",
		"0001-01-01T00:00:00Z": "1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59Z": "2200-01-01T00:00:00.000Z",
		"2010-06-07": "", "20100607T00:00:00": "", "2010-06-07T00:00:00": "", "2010-06-07 00:00:00Z": "", "2010-06-07T24:00:00Z": "",
		"2010-02-30T00:00:00Z": "", "2010-06-07T00:00:00,5Z": "", "-2010-06-07T00:00:00Z": "", "now": "", " 2010-06-07T00:00:00Z": "",
	} {
		got, err := parseDateTime(text)
		if (err != nil) != (want == "") || err == nil && dateTime(got) != want {
			t.Errorf("%q: %s, %v, want %q", text, dateTime(got), err, want)
		}
	}
}

// FuzzQuery demands that whatever a client asks for is understood or refused with an error that it may be told, and
// that what is understood is within its bounds.
func FuzzQuery(f *testing.F) {
	const field = "<query><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>urn:xmpp:mam:2</value></field><field var='%s'><value>%s</value></field></x></query>"
	for _, seed := range [][2]string{{"with", "a@b/c"}, {"start", "2010-06-07T00:00:00Z"}, {"end", "9999-12-31T23:59:59.999Z"},
		{"after-id", "AAAAAAAAAAAAAAAAAAAAAA"}, {"ids", ""}, {"include-groupchat", "1"}, {"withtext", "x"}} {
		f.Add(fmt.Sprintf(field, seed[0], seed[1]))
	}
	f.Add("<query queryid='1' node=''><set xmlns='http://jabber.org/protocol/rsm'><max>10</max><before/><after>x</after></set><flip-page xmlns='urn:xmpp:mam:2'/></query>")
	f.Add("<query><set xmlns='http://jabber.org/protocol/rsm'><max>18446744073709551616</max></set></query>")
	h := newHouse(f)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := element.ParseOne(text, ns.Client)
		if err != nil {
			t.Skip()
		}
		r, err := parseQuery(h.host.Journal, juliet, e)
		if err != nil {
			if refused := (*stanza.Error)(nil); !errors.As(err, &refused) {
				t.Errorf("%v is no stanza error", err)
			}
			return
		}
		if r.max < 0 || r.max > maxPage || len(r.IDs) > maxIDs || len(r.id) > maxQueryID ||
			!r.Start.IsZero() && r.Start.Before(earliest) || r.End.After(latest.Add(time.Second)) {
			t.Errorf("%+v", r)
		}
	})
}
