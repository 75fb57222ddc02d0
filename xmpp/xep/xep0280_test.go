package xep

import (
	"fmt"
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// copies turns copies on for a client.
func (c *client) copies() {
	c.h.t.Helper()
	if err := c.h.host.Users.Do(c.s.JID().Bare(), func(*session.User) { c.s.Enable(ns.Carbons, true) }); err != nil {
		c.h.t.Fatal(err)
	}
}

func copied(st stanza.Stanza, as string) string {
	return st.Element.Child(as, ns.Carbons).Child("forwarded", ns.Forward).Child("message", ns.Client).Attr("id")
}

// A device that is being handed what waited gets a message that comes meanwhile behind that, and no copy
// of it; one that will not get it has the copy at once (XEP-0280 section 7).
func TestNoCopyOfWhatComesAnyway(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	write := func(to string, id int) {
		h.route(fmt.Sprintf("<message from='romeo@far.test/x' to='%s' type='chat' id='%d'><body>x</body></message>", to, id))
	}
	write("juliet@a.test", 1)
	phone, lurker := h.bind("juliet@a.test/phone"), h.bind("juliet@a.test/lurker")
	phone.copies()
	lurker.copies()
	lurker.presence("<presence><priority>-1</priority></presence>")
	stalled, release := h.stall()
	h.store.Submit(func(storage.Tx) error { return nil })
	<-stalled
	phone.presence("<presence/>") // the hand-over waits for the store
	write("juliet@a.test", 2)
	write("juliet@a.test/phone", 3)
	for _, id := range []string{"2", "3"} {
		if got := lurker.next(); copied(got, "received") != id {
			t.Errorf("the other device got %s, want a copy of %s", got.Element, id)
		}
	}
	release()
	for _, id := range []string{"1", "2", "3"} {
		if got := phone.next(); got.ID != id {
			t.Errorf("got %s, want %s", got.Element, id)
		}
	}
	phone.nothing()
	lurker.nothing()
}

// Errors of long ago are nobody's; those of the last messages are found (section 6.1).
func TestErrorsThatAnswerCopies(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	phone, laptop := h.bind("juliet@a.test/phone"), h.bind("juliet@a.test/laptop")
	laptop.copies()
	const many = len(talk{}.last) + 1
	for i := range many {
		h.route(fmt.Sprintf("<message from='romeo@far.test/x' to='juliet@a.test/phone' type='chat' id='%d'/>", i))
		if phone.next(); copied(laptop.next(), "received") != fmt.Sprint(i) {
			t.Fatal("no copy")
		}
	}
	fail := func(id int) {
		h.host.Users.Do(phone.s.JID().Bare(), func(u *session.User) {
			st := parse(t, fmt.Sprintf("<message from='juliet@a.test/phone' to='romeo@far.test/x' type='error' id='%d'/>", id))
			h.hooks.Outgoing(u, phone.s, &st)
		})
	}
	for i := 1; i < many; i++ {
		if fail(i); copied(laptop.next(), "sent") != fmt.Sprint(i) {
			t.Fatalf("no copy of the error of message %d", i)
		}
	}
	fail(0)
	laptop.nothing()
}
