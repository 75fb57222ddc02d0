package xep

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// note is a message with a number that tells it apart.
func note(n int) string {
	return fmt.Sprintf("<message type='chat' id='m%d' from='romeo@far.test/x' to='juliet@a.test'><body>%d</body></message>", n, n)
}

func TestProcessFlowSection2(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	h.route("<message from='romeo@far.test/orchard' to='juliet@a.test' id='1'><body>O blessed night!</body></message>")
	h.write(func(storage.Tx) error { return nil })
	h.pass(time.Hour)
	h.route("<message from='romeo@far.test/orchard' to='juliet@a.test/gone' type='chat'><body>2</body></message>")
	h.pass(time.Hour)

	juliet := h.bind("juliet@a.test/balcony")
	juliet.nothing() // not before its presence
	juliet.presence("<presence><priority>-1</priority></presence>")
	juliet.nothing() // nor to a resource of negative priority
	juliet.presence("<presence><priority>0</priority></presence>")
	for _, want := range []string{
		"<message from='romeo@far.test/orchard' to='juliet@a.test' id='1'><body>O blessed night!</body>" +
			"<delay xmlns='urn:xmpp:delay' from='a.test' stamp='2026-03-01T12:00:00.000Z'/></message>",
		"<message from='romeo@far.test/orchard' to='juliet@a.test/gone' type='chat'><body>2</body>" +
			"<delay xmlns='urn:xmpp:delay' from='a.test' stamp='2026-03-01T13:00:00.000Z'/></message>",
	} {
		if got := juliet.next().Element.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	eventually(t, "the store is empty", func() bool { return len(h.stored("juliet@a.test")) == 0 })
	juliet.presence("<presence><show>away</show></presence>")
	h.bind("juliet@a.test/chamber").presence("<presence/>")
	h.pass(time.Second)
	h.route(note(3))
	if got := juliet.next(); got.ID != "m3" || !got.Element.Child("delay", ns.Delay).IsZero() {
		t.Errorf("got %s, want the live message", got.Element)
	}
}

// TestWhatIsKept is section 3, one row each, with XEP-0334 section 4 and XEP-0085 section 5.5.
func TestWhatIsKeptSection3(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	const (
		body      = "<body>hi</body>"
		composing = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
		hint      = "<%s xmlns='urn:xmpp:hints'/>"
	)
	for _, test := range []struct {
		typ, inside string
		kept        bool
		reply       string // to the sender of one that is not: RFC 6121 section 8.5.2.2
	}{
		{"", body, true, ""},
		{"normal", body, true, ""},
		{"unknown", body, true, ""},
		{"chat", body, true, ""},
		{"chat", "<received xmlns='urn:xmpp:receipts' id='1'/>", true, ""},
		{"chat", body + composing, true, ""},
		{"chat", composing, false, "cancel service-unavailable"},
		{"chat", composing + "<thread>1</thread>", false, "cancel service-unavailable"},
		{"chat", composing + fmt.Sprintf(hint, "no-copy"), false, "cancel service-unavailable"},
		{"chat", composing + fmt.Sprintf(hint, "store"), true, ""},
		{"chat", body + fmt.Sprintf(hint, "no-store"), false, "cancel service-unavailable"},
		{"chat", body + fmt.Sprintf(hint, "no-store") + fmt.Sprintf(hint, "store"), false, "cancel service-unavailable"},
		{"chat", body + fmt.Sprintf(hint, "no-permanent-store"), true, ""},
		{"groupchat", body, false, "cancel service-unavailable"},
		{"groupchat", body + fmt.Sprintf(hint, "store"), false, "cancel service-unavailable"},
		{"headline", body, false, ""},
		{"error", body, false, ""},
		{"error", body + fmt.Sprintf(hint, "store"), false, ""},
	} {
		t.Run(test.typ+test.inside, func(t *testing.T) {
			typ := ""
			if test.typ != "" {
				typ = " type='" + test.typ + "'"
			}
			xml := "<message from='romeo@far.test/x' to='juliet@a.test'" + typ + ">" + test.inside + "</message>"
			if test.reply != "" {
				wantError(t, h.ask(xml), test.reply)
			} else {
				h.route(xml)
			}
			kept := h.stored("juliet@a.test")
			if (len(kept) == 1) != test.kept || test.kept && kept[0] != xml {
				t.Errorf("kept %q, want %v", kept, test.kept)
			}
			h.write(func(tx storage.Tx) error { return tx.Offline().Delete(jid.MustParse("juliet@a.test"), 1<<62) })
		})
	}
	select {
	case st := <-h.remote.got:
		t.Errorf("unexpected: %s", st.Element)
	default:
	}
}

func TestTheSenderIsToldWhatCannotBeKeptSection2(t *testing.T) {
	h := newHouse(t, houseOptions{offline: OfflineOptions{Max: 2}})
	h.accounts("juliet@a.test")
	h.route(note(1))
	h.route(note(2))
	full := h.ask(note(3))
	wantError(t, full, "cancel service-unavailable")
	if full.ID != "m3" || full.From.String() != "juliet@a.test" || full.To.String() != "romeo@far.test/x" {
		t.Errorf("got %s", full.Element)
	}
	h.write(func(tx storage.Tx) error { return tx.Offline().Delete(jid.MustParse("juliet@a.test"), 1<<62) })
	h.faults.FailNext(storage.ErrNoSpace)
	wantError(t, h.ask(note(4)), "wait resource-constraint")
	h.faults.FailNext(errors.New("disk on fire"))
	wantError(t, h.ask(note(5)), "cancel internal-server-error")
}

// TestRefusalsAreInOrder: what is told to a sender arrives in the order of what he sent (RFC 6120 section 10.1).
func TestRefusalsAreInOrder(t *testing.T) {
	h := newHouse(t, houseOptions{offline: OfflineOptions{Max: 1}})
	h.accounts("juliet@a.test")
	_, release := h.stall()
	for n := range 200 {
		h.route(note(n))
	}
	release()
	for n := 1; n < 200; n++ {
		if got := h.answer(); got.ID != fmt.Sprintf("m%d", n) {
			t.Fatalf("answer %d is %s", n, got.Element)
		}
	}
}

// TestHandOverWaitsForTheDisk: messages that are still being written come first, then those that came
// during the hand-over, and neither presence nor requests wait for them.
func TestHandOverWaitsForTheDisk(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	_, release := h.stall()
	h.route(note(1))
	h.route(note(2))
	juliet := h.bind("juliet@a.test/balcony")
	juliet.presence("<presence/>")
	h.pass(time.Second)
	h.route(note(3))
	h.route(strings.Replace(note(4), "to='juliet@a.test'", "to='juliet@a.test/balcony'", 1))
	h.route("<presence from='romeo@far.test/x' to='juliet@a.test' id='p'/>")
	if got := juliet.next(); got.ID != "p" {
		t.Errorf("got %s, want the presence", got.Element)
	}
	juliet.nothing()
	release()
	for n := 1; n <= 4; n++ {
		got := juliet.next()
		if got.ID != fmt.Sprintf("m%d", n) || got.Element.Child("delay", ns.Delay).IsZero() != (n > 2) {
			t.Errorf("message %d is %s", n, got.Element)
		}
	}
	h.route(note(5))
	if got := juliet.next(); got.ID != "m5" {
		t.Errorf("got %s after the hand-over", got.Element)
	}
}

// TestHandOverToSomebodyWhoLeaves: what was held is kept again, behind what was kept before.
func TestHandOverToSomebodyWhoLeaves(t *testing.T) {
	for name, leave := range map[string]func(*client){
		"the stream ends": (*client).end,
		"unavailable":     func(c *client) { c.presence("<presence type='unavailable'/>") },
		"negative":        func(c *client) { c.presence("<presence><priority>-1</priority></presence>") },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, houseOptions{})
			h.accounts("juliet@a.test")
			_, release := h.stall()
			h.route(note(1))
			juliet := h.bind("juliet@a.test/balcony")
			juliet.presence("<presence/>")
			h.route(note(2))
			leave(juliet)
			h.route(note(3))
			release()
			want := []string{note(1), note(2), note(3)}
			eventually(t, "all are kept", func() bool { return len(h.stored("juliet@a.test")) == len(want) })
			if got := h.stored("juliet@a.test"); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("kept in another order: %q", got)
			}
			if len(juliet.got) > 0 {
				t.Errorf("got %s", (<-juliet.got).Element)
			}
			again := h.bind("juliet@a.test/chamber")
			again.presence("<presence/>")
			for n := 1; n <= 3; n++ {
				if got := again.next(); got.ID != fmt.Sprintf("m%d", n) {
					t.Errorf("message %d is %s", n, got.Element)
				}
			}
		})
	}
}

// TestHandOverGoesOnWithAnotherSession: the messages kept still come before those that were held.
func TestHandOverGoesOnWithAnotherSession(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	_, release := h.stall()
	h.route(note(1))
	first, second := h.bind("juliet@a.test/1"), h.bind("juliet@a.test/2")
	first.presence("<presence/>")
	second.presence("<presence/>")
	h.route(note(2))
	first.end()
	release()
	for n := 1; n <= 2; n++ {
		if got := second.next(); got.ID != fmt.Sprintf("m%d", n) {
			t.Errorf("message %d is %s", n, got.Element)
		}
	}
	if len(first.got) > 0 {
		t.Errorf("the first got %s", (<-first.got).Element)
	}
}

// TestHandOverToSomebodyWithCopies: who becomes available during a hand-over gets what has come before as a copy
// (XEP-0280 section 7), and what comes then itself; each once, and in order.
func TestHandOverToSomebodyWithCopies(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	_, release := h.stall()
	h.route(note(1))
	first, second := h.bind("juliet@a.test/1"), h.bind("juliet@a.test/2")
	for _, c := range []*client{first, second} {
		if err := h.host.Users.Do(c.s.JID().Bare(), func(*session.User) { c.s.Enable(ns.Carbons, true) }); err != nil {
			t.Fatal(err)
		}
	}
	first.presence("<presence/>")
	h.pass(time.Second)
	h.route(note(2))
	second.presence("<presence/>")
	h.pass(time.Second)
	h.route(note(3))
	release()
	for n := 1; n <= 3; n++ {
		if got := first.next(); got.ID != fmt.Sprintf("m%d", n) {
			t.Errorf("message %d is %s", n, got.Element)
		}
	}
	if got := second.next(); copied(got, "received") != "m2" {
		t.Errorf("the second got no copy of the second message but %s", got.Element)
	}
	if got := second.next(); got.ID != "m3" {
		t.Errorf("message 3 is %s at the second", got.Element)
	}
	first.nothing()
	second.nothing()
}

// TestHandOverAfterARestart: a message that was waiting for the end of a hand-over when the server was killed is for
// all sessions that were ready for it, and are back; one that had waited before is for one of them.
func TestHandOverAfterARestart(t *testing.T) {
	owner := jid.MustParse("juliet@a.test")
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	keep := func(n int) {
		h.pass(time.Second)
		h.write(func(tx storage.Tx) error {
			return tx.Messages().Add(storage.Message{At: h.clock(), Stanza: note(n), Offline: owner})
		})
		h.pass(time.Second)
	}
	keep(1)
	var old []*client
	for n := range 3 {
		old = append(old, h.bind(fmt.Sprint("juliet@a.test/", n)))
		err := h.host.Users.Do(owner, func(*session.User) {
			old[n].s.SetPresence(parse(t, "<presence/>"), h.clock()) // as session.Registry.Restore does
		})
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			keep(n + 1)
		}
	}
	if err := h.host.Users.Do(owner, func(u *session.User) { u.Restored(old[1].s) }); err != nil {
		t.Fatal(err)
	}
	for n, want := range [][]string{{"m2", "m3"}, {"m1", "m2", "m3"}, {"m3"}} {
		for _, id := range want {
			if got := old[n].next(); got.ID != id {
				t.Errorf("session %d: got %s, want %s", n, got.Element, id)
			}
		}
		old[n].nothing()
	}
}

// TestHandOverOfWhatWasForSomebodyElse: what comes during a hand-over for a session that is gone is for all
// others, each of which gets it once, even if the one that got the other messages leaves.
func TestHandOverOfWhatWasForSomebodyElse(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	_, release := h.stall()
	h.route(note(1))
	first, second := h.bind("juliet@a.test/1"), h.bind("juliet@a.test/2")
	first.presence("<presence/>")
	second.presence("<presence/>")
	h.pass(time.Second)
	h.route(strings.Replace(note(2), "to='juliet@a.test'", "to='juliet@a.test/gone'", 1))
	first.end()
	release()
	for n := 1; n <= 2; n++ {
		if got := second.next(); got.ID != fmt.Sprintf("m%d", n) {
			t.Errorf("message %d is %s", n, got.Element)
		}
	}
	second.nothing()
}

// TestHandOverKeepsTheOrder: while messages for everybody wait for a hand-over, one for a device waits behind
// them, wherever the hand-over goes, and so do the copies of it that others get. So each device gets what it
// gets in the order of the archive. One that becomes available on the way gets nothing of before that is for all: it is
// in the archive, where such a client looks.
func TestHandOverKeepsTheOrder(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	_, release := h.stall()
	h.route(note(1))
	first, second, late := h.bind("juliet@a.test/1"), h.bind("juliet@a.test/2"), h.bind("juliet@a.test/3")
	silent := h.bind("juliet@a.test/4")
	first.copies()
	second.copies()
	silent.copies()
	first.presence("<presence/>")
	second.presence("<presence/>")
	h.pass(time.Second)
	to := func(n int, c *client) {
		h.route(strings.Replace(note(n), "to='juliet@a.test'", "to='"+c.s.JID().String()+"'", 1))
	}
	h.route(note(2))
	to(3, second)
	h.route(note(4))
	to(5, first)
	to(6, late)
	to(7, silent)
	h.route(note(8))
	late.presence("<presence/>")
	for _, c := range []*client{first, second, late, silent} {
		c.nothing()
	}
	release()
	for name, c := range map[string]struct {
		*client
		want string
	}{
		"first":  {first, "m1 m2 copy-m3 m4 m5 copy-m6 copy-m7 m8"},
		"second": {second, "m2 m3 m4 copy-m5 copy-m6 copy-m7 m8"},
		"late":   {late, "m6"},
		"silent": {silent, "copy-m2 copy-m3 copy-m4 copy-m5 copy-m6 m7 copy-m8"},
	} {
		var got []string
		for range strings.Fields(c.want) {
			st := c.next()
			if id := copied(st, "received"); id != "" {
				got = append(got, "copy-"+id)
			} else {
				got = append(got, st.ID)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s got %q, want %q", name, got, c.want)
		}
		c.nothing()
	}
}

// TestHandOverToWhoHasLeft: what has waited for one device, which is gone when it is its turn, is for all.
func TestHandOverToWhoHasLeft(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	_, release := h.stall()
	h.route(note(1))
	first, second, gone := h.bind("juliet@a.test/1"), h.bind("juliet@a.test/2"), h.bind("juliet@a.test/3")
	first.presence("<presence/>")
	second.presence("<presence/>")
	h.pass(time.Second)
	h.route(strings.Replace(note(2), "to='juliet@a.test'", "to='juliet@a.test/3'", 1))
	gone.end()
	release()
	for _, want := range []string{"m1", "m2"} {
		if got := first.next(); got.ID != want {
			t.Errorf("got %s, want %s", got.Element, want)
		}
	}
	if got := second.next(); got.ID != "m2" {
		t.Errorf("the second got %s", got.Element)
	}
}

func TestHandOverIsPaged(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	const count = 3*pageMessages + 1
	large := strings.Repeat("x", pageBytes/2+1)
	for n := range count {
		h.route(note(n))
	}
	for n := count; n < count+3; n++ {
		h.route(strings.Replace(note(n), "<body>", "<body>"+large, 1))
	}
	juliet := h.bind("juliet@a.test/balcony")
	juliet.presence("<presence/>")
	for n := range count + 3 {
		if got := juliet.next(); got.ID != fmt.Sprintf("m%d", n) {
			t.Fatalf("message %d is %s", n, got.ID)
		}
	}
	eventually(t, "the store is empty", func() bool { return len(h.stored("juliet@a.test")) == 0 })
	juliet.nothing()
}

// TestWhatComesMeanwhileIsBounded: whoever writes too much during a hand-over is told.
func TestWhatComesMeanwhileIsBounded(t *testing.T) {
	h := newHouse(t, houseOptions{offline: OfflineOptions{Max: 2}})
	h.accounts("juliet@a.test")
	_, release := h.stall()
	h.route(note(0))
	h.bind("juliet@a.test/balcony").presence("<presence/>")
	h.route(note(1))
	h.route(note(2))
	release()
	wantError(t, h.answer(), "cancel service-unavailable")
}

// TestRemovalThatFails: when the store has no room even to remove what was handed over, that is not
// handed over a second time, and goes with what comes next.
func TestRemovalThatFails(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	h.route(note(1))
	h.write(func(storage.Tx) error { return nil })
	juliet := h.bind("juliet@a.test/balcony")
	h.faults.FailNext(storage.ErrNoSpace)
	juliet.presence("<presence/>")
	eventually(t, "the removal has failed", func() bool { return h.faults.Pending() == 0 })
	h.route(note(2))
	for n := 1; n <= 2; n++ {
		if got := juliet.next(); got.ID != fmt.Sprintf("m%d", n) {
			t.Fatalf("message %d is %s", n, got.Element)
		}
	}
	juliet.presence("<presence type='unavailable'/>")
	h.route(note(3))
	juliet.presence("<presence/>")
	if got := juliet.next(); got.ID != "m3" {
		t.Errorf("got %s", got.Element)
	}
	eventually(t, "the store is empty", func() bool { return len(h.stored("juliet@a.test")) == 0 })
}

// TestLoginAgainstArrivingMessages: while clients come and go in every way, each message is delivered
// exactly once, those for the bare JID from one sender in their order. Those for a full JID may come
// earlier: a client that is connected without being available gets them at once (RFC 6121 section
// 8.5.3.1).
func TestLoginAgainstArrivingMessages(t *testing.T) {
	const (
		senders  = 4
		messages = 2000
	)
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")

	var mu sync.Mutex
	got := make(map[string][]int) // by sender
	record := func(st stanza.Stanza) {
		if st.Kind != stanza.Message {
			return
		}
		n, err := strconv.Atoi(st.ID)
		if err != nil {
			t.Errorf("got %s", st.Element)
		}
		mu.Lock()
		defer mu.Unlock()
		got[st.From.Local()] = append(got[st.From.Local()], n)
	}

	stop := make(chan struct{})
	var comings, sending sync.WaitGroup
	comings.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			// One is there at a time, else a message for the bare JID would rightly come twice.
			c := h.bindWith(fmt.Sprintf("juliet@a.test/%d", i%2), record)
			c.presence("<presence/>")
			switch i % 4 {
			case 0:
				c.presence("<presence type='unavailable'/>")
				c.presence("<presence><priority>1</priority></presence>")
			case 1:
				c.presence("<presence><priority>-1</priority></presence>")
			case 2:
				eventually(t, "a message has come", func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(got) > 0
				})
			}
			c.end()
		}
	})
	address := func(sender, n int) string {
		if sender == 0 {
			return fmt.Sprintf("juliet@a.test/%d", n%3)
		}
		return "juliet@a.test"
	}
	for s := range senders {
		sending.Go(func() {
			for n := range messages {
				h.route(fmt.Sprintf("<message type='chat' id='%d' from='%d@far.test/x' to='%s'><body>%d</body></message>",
					n, s, address(s, n), n))
			}
		})
	}
	sending.Wait()
	close(stop)
	comings.Wait()
	h.bindWith("juliet@a.test/last", record).presence("<presence/>")
	eventually(t, "everything has come", func() bool {
		mu.Lock()
		defer mu.Unlock()
		total := 0
		for _, list := range got {
			total += len(list)
		}
		return total >= senders*messages
	})
	eventually(t, "the store is empty", func() bool { return len(h.stored("juliet@a.test")) == 0 })
	mu.Lock()
	defer mu.Unlock()
	for s := range senders {
		list := got[strconv.Itoa(s)]
		if s == 0 {
			slices.Sort(list)
		}
		if len(list) != messages {
			t.Errorf("sender %d: %d of %d messages came", s, len(list), messages)
		}
		for want, n := range list {
			if n != want {
				t.Errorf("sender %d: %d came in place of %d", s, n, want)
				break
			}
		}
	}
	if len(h.remote.got) > 0 {
		t.Errorf("a sender was told: %s", (<-h.remote.got).Element)
	}
}

// TestFetchedBesideASessionThatIsBackFromARestart: what that one is still to get is left for it.
func TestFetchedBesideASessionThatIsBackFromARestart(t *testing.T) {
	owner := jid.MustParse("juliet@a.test")
	h := newHouse(t, houseOptions{offline: OfflineOptions{Consume: true}})
	h.accounts("juliet@a.test")
	h.write(func(tx storage.Tx) error {
		return tx.Messages().Add(storage.Message{At: h.clock(), Stanza: note(1), Offline: owner,
			Archived: []storage.Archived{{Owner: owner, ID: 1, With: jid.MustParse("romeo@far.test/x")}}})
	})
	old := h.bind("juliet@a.test/old")
	err := h.host.Users.Do(owner, func(u *session.User) {
		old.s.SetPresence(parse(t, "<presence/>"), h.clock()) // as session.Registry.Restore does
		h.offline.Fetched(u)
	})
	if err != nil {
		t.Fatal(err)
	}
	if kept := h.stored("juliet@a.test"); len(kept) != 1 {
		t.Errorf("%d messages are left", len(kept))
	}
	old.presence("<presence/>")
	if got := old.next(); got.ID != "m1" {
		t.Errorf("got %s", got.Element)
	}
}

// TestFetchedFromTheArchive: what a client gets from the archive waits no more; what is not there does, and so does
// what a session is being handed.
func TestFetchedFromTheArchive(t *testing.T) {
	owner := jid.MustParse("juliet@a.test")
	for name, c := range map[string]struct {
		consume, handing bool
		want             []string
	}{
		"consumed":          {true, false, []string{"m2"}},
		"never":             {false, false, []string{"m1", "m2", "m3"}},
		"while handed over": {true, true, []string{"m1", "m2", "m3"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, houseOptions{offline: OfflineOptions{Consume: c.consume}})
			h.accounts("juliet@a.test")
			h.write(func(tx storage.Tx) error {
				for n := 1; n <= 3; n++ {
					m := storage.Message{At: h.clock(), Stanza: note(n), Offline: owner}
					if n != 2 {
						m.Archived = []storage.Archived{{Owner: owner, ID: uint64(n), With: jid.MustParse("romeo@far.test/x")}}
					}
					if err := tx.Messages().Add(m); err != nil {
						return err
					}
				}
				return nil
			})
			juliet := h.bind("juliet@a.test/balcony")
			stalled, release := h.stall()
			fetch := func() {
				if err := h.host.Users.Do(owner, func(u *session.User) { h.offline.Fetched(u) }); err != nil {
					t.Fatal(err)
				}
			}
			if c.handing {
				h.host.Store.Submit(func(storage.Tx) error { return nil }) // the hand-over stands behind it
				<-stalled
				juliet.presence("<presence/>")
				fetch()
			} else {
				fetch()
				juliet.presence("<presence/>")
			}
			release()
			for _, id := range c.want {
				if got := juliet.next(); got.ID != id {
					t.Errorf("got %s, want %s", got.Element, id)
				}
			}
			h.route(note(4))
			if got := juliet.next(); got.ID != "m4" {
				t.Errorf("got %s after the hand-over", got.Element)
			}
			eventually(t, "the store is empty", func() bool { return len(h.stored("juliet@a.test")) == 0 })
		})
	}
}

// A managed client acknowledges what it is sent when the test says so.
type managed struct {
	*client
	parcels []stream.Parcel
}

func (m *managed) Track(e element.Element, note any, _ *stream.Gate) uint64 {
	n := uint64(len(m.parcels) + 1)
	m.parcels = append(m.parcels, stream.Parcel{Element: e, Note: note, Number: n})
	m.Send(e)
	return n
}
func (m *managed) Managed() bool                           { return true }
func (m *managed) Parked() bool                            { return false }
func (m *managed) Peer() uint64                            { return 0 }
func (m *managed) Changed()                                {}
func (m *managed) Numbers(func(any) bool) []uint64         { return nil }
func (m *managed) Settle() (written, lost []stream.Parcel) { return nil, m.parcels }
func (m *managed) Forget()                                 {}

var _ session.Keeper = (*managed)(nil)

// TestHandOverToSeveralOfWhichOneFails: what several devices were handed comes to none of them again when one of them
// ends without it, if another has acknowledged it.
func TestHandOverToSeveralOfWhichOneFails(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	_, release := h.stall()
	h.route(note(1))
	var devices []*managed
	for n := range 2 {
		m := &managed{client: &client{h: h, got: make(chan stanza.Stanza, 100), closed: make(chan *stanza.StreamError, 1)}}
		var err error
		if m.s, err = h.host.Users.Bind(session.Binding{Full: jid.MustParse(fmt.Sprint("juliet@a.test/", n)), Sink: m,
			Announce: func(*session.User, *session.Session) {}}); err != nil {
			t.Fatal(err)
		}
		m.presence("<presence/>")
		devices = append(devices, m)
	}
	first, second := devices[0], devices[1]
	h.pass(time.Second)
	h.route(note(2))
	release()
	for n := 1; n <= 2; n++ {
		if got := first.next(); got.ID != fmt.Sprintf("m%d", n) {
			t.Errorf("message %d is %s", n, got.Element)
		}
	}
	if got := second.next(); got.ID != "m2" {
		t.Errorf("the second got %s", got.Element)
	}
	if err := h.host.Users.Do(first.s.JID().Bare(), func(u *session.User) {
		u.Arrived(second.parcels)
		second.parcels = nil
	}); err != nil {
		t.Fatal(err)
	}
	first.end()
	if got := second.next(); got.ID != "m1" {
		t.Errorf("the second got %s", got.Element)
	}
	second.nothing()
}

// A lasting client outlives a restart. It is not there, so nothing that it is sent leaves.
type lasting struct {
	*client
	ledger *stream.Ledger
	peer   uint64
}

func (l *lasting) Track(e element.Element, note any, gate *stream.Gate) uint64 {
	n, _ := l.ledger.Send(e, note, gate)
	return n
}
func (l *lasting) Managed() bool                           { return true }
func (l *lasting) Parked() bool                            { return true }
func (l *lasting) Peer() uint64                            { return l.peer }
func (l *lasting) Changed()                                {}
func (l *lasting) Numbers(of func(any) bool) []uint64      { return l.ledger.Numbers(of) }
func (l *lasting) Settle() (written, lost []stream.Parcel) { return l.ledger.Settle() }
func (l *lasting) Forget()                                 {}

var _ session.Keeper = (*lasting)(nil)

// TestHandOverWithoutSpace: what a session could not take over, because there was no space to write that, waits as
// before, and so does what is behind it. Its sender knows that it is kept. When there is space again it goes on.
func TestHandOverWithoutSpace(t *testing.T) {
	const peer = 7
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	h.write(func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: peer, Kind: storage.ClientPeer}) })
	h.route(note(1))
	h.route(strings.Replace(note(2), "to='juliet@a.test'", "to='juliet@a.test/other'", 1))
	h.route(note(3))
	h.write(func(storage.Tx) error { return nil })
	other := h.bind("juliet@a.test/other") // gets the second one, and then that is not to take the first with it
	l := &lasting{&client{h: h, closed: make(chan *stanza.StreamError, 1)}, stream.Restore(1<<20, h.clock, 0, nil, 0), peer}
	var err error
	if l.s, err = h.host.Users.Bind(session.Binding{Full: jid.MustParse("juliet@a.test/lasting"), Sink: l,
		Announce: func(*session.User, *session.Session) {}}); err != nil {
		t.Fatal(err)
	}
	h.faults.FailNext(fmt.Errorf("disk: %w", storage.ErrNoSpace))
	l.presence("<presence/>")
	if got := other.next(); got.ID != "m2" {
		t.Errorf("the other one got %s", got.Element)
	}
	eventually(t, "the store has no space", func() bool { return h.faults.Pending() == 0 })
	var got []string
	eventually(t, "the others are taken over", func() bool {
		got = nil
		if err := h.store.View(func(tx storage.Tx) error {
			waiting, err := tx.Peers().Waiting(peer)
			for _, m := range waiting {
				got = append(got, m.Stanza)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return len(got) == 2 || len(h.remote.got) > 0
	})
	if !slices.Equal(got, []string{note(1), note(3)}) {
		t.Errorf("the session has %q", got)
	}
	if _, _, err := l.ledger.Acknowledged(0); err != nil {
		t.Error(err)
	}
	if n, _ := l.ledger.Waiting(); n != 2 {
		t.Errorf("the session has %d messages", n)
	}
	eventually(t, "nothing waits", func() bool { return len(h.stored("juliet@a.test")) == 0 })
	other.nothing()
	if len(h.remote.got) > 0 {
		t.Errorf("the sender gets %s", (<-h.remote.got).Element)
	}
}

// A damaged store is one whose offline messages cannot be read.
type damaged struct{ storage.Store }

func (d damaged) View(fn func(storage.Tx) error) error {
	return d.Store.View(func(tx storage.Tx) error { return fn(damagedTx{tx}) })
}

type damagedTx struct{ storage.Tx }

func (d damagedTx) Offline() storage.Offline { return damagedOffline{d.Tx.Offline()} }

type damagedOffline struct{ storage.Offline }

func (damagedOffline) List(jid.JID, uint64, int) ([]storage.OfflineMessage, error) {
	return nil, errors.New("damaged")
}

// TestDamagedOfflineMessages: a message that cannot be read keeps no later one from its user.
func TestDamagedOfflineMessages(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	h.route(note(1))
	h.host.Store = damaged{h.store}
	juliet := h.bind("juliet@a.test/balcony")
	juliet.presence("<presence/>")
	eventually(t, "the hand-over has ended", func() (over bool) {
		if err := h.host.Users.Do(juliet.s.JID().Bare(), func(u *session.User) { over = h.offline.boxes.Get(u).handOver == nil }); err != nil {
			t.Fatal(err)
		}
		return over
	})
	for n := 2; n <= 3; n++ {
		h.route(note(n))
		if got := juliet.next(); got.ID != fmt.Sprintf("m%d", n) {
			t.Errorf("got %s", got.Element)
		}
	}
	if kept := h.stored("juliet@a.test"); len(kept) != 1 {
		t.Errorf("%d messages are kept", len(kept))
	}
}

// TestMoreThanMaxWereAccepted: what a session has not got was accepted, and waits in any case: its sender was told so.
func TestMoreThanMaxWereAccepted(t *testing.T) {
	h := newHouse(t, houseOptions{offline: OfflineOptions{Max: 1}})
	h.accounts("juliet@a.test")
	m := &managed{client: &client{h: h, got: make(chan stanza.Stanza, 100), closed: make(chan *stanza.StreamError, 1)}}
	var err error
	if m.s, err = h.host.Users.Bind(session.Binding{Full: jid.MustParse("juliet@a.test/balcony"), Sink: m,
		Announce: func(*session.User, *session.Session) {}}); err != nil {
		t.Fatal(err)
	}
	m.presence("<presence/>")
	for n := 1; n <= 2; n++ {
		h.route(note(n))
		m.next()
	}
	m.end()
	eventually(t, "both wait", func() bool { return len(h.stored("juliet@a.test")) == 2 })
	wantError(t, h.ask(note(3)), "cancel service-unavailable")
}
