package xep

import (
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

const lastQuery = "<query xmlns='jabber:iq:last'/>"

func TestLastActivityOfOfflineUserSection3(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("romeo@a.test", "juliet@a.test", "nurse@a.test")
	h.friends[[2]string{"juliet@a.test", "romeo@a.test"}] = true
	h.friends[[2]string{"juliet@a.test", "paris@far.test"}] = true
	h.write(func(tx storage.Tx) error {
		return tx.LastPresence().Put(jid.MustParse("juliet@a.test"),
			"<presence type='unavailable' from='juliet@a.test/b'><status>Heading Home</status></presence>", h.clock())
	})
	h.pass(903*time.Second + 999*time.Millisecond)
	romeo, nurse := h.bind("romeo@a.test/x"), h.bind("nurse@a.test/x")

	const ask = "<iq type='get' id='1' to='juliet@a.test'>" + lastQuery + "</iq>"
	wantPayload(t, romeo.ask(ask), "<query xmlns='jabber:iq:last' seconds='903'>Heading Home</query>")
	wantError(t, nurse.ask(ask), "auth forbidden")
	wantPayload(t, h.ask("<iq type='get' id='1' from='paris@far.test/x' to='juliet@a.test'>"+lastQuery+"</iq>"),
		"<query xmlns='jabber:iq:last' seconds='903'>Heading Home</query>")
	wantError(t, h.ask("<iq type='get' id='1' from='tybalt@far.test/x' to='juliet@a.test'>"+lastQuery+"</iq>"), "auth forbidden")
	wantError(t, romeo.ask("<iq type='get' id='1' to='nobody@a.test'>"+lastQuery+"</iq>"), "cancel service-unavailable")

	h.friends[[2]string{"nurse@a.test", "romeo@a.test"}] = true
	nurse.end()
	wantError(t, romeo.ask("<iq type='get' id='1' to='nurse@a.test'>"+lastQuery+"</iq>"), "cancel item-not-found")
}

func TestLastActivityOfConnectedUserIsZeroSection3(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("romeo@a.test", "juliet@a.test")
	h.friends[[2]string{"juliet@a.test", "romeo@a.test"}] = true
	h.write(func(tx storage.Tx) error {
		return tx.LastPresence().Put(jid.MustParse("juliet@a.test"), "<presence type='unavailable'/>", h.clock())
	})
	h.pass(time.Hour)
	h.bind("juliet@a.test/b")
	wantPayload(t, h.bind("romeo@a.test/x").ask("<iq type='get' id='1' to='juliet@a.test'>"+lastQuery+"</iq>"),
		"<query xmlns='jabber:iq:last' seconds='0'/>")
}

func TestLastActivityOfFullJIDSection4(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("romeo@a.test", "juliet@a.test", "nurse@a.test")
	h.friends[[2]string{"juliet@a.test", "romeo@a.test"}] = true
	romeo, nurse, juliet := h.bind("romeo@a.test/x"), h.bind("nurse@a.test/x"), h.bind("juliet@a.test/b")

	for _, resource := range []string{"b", "none"} {
		wantError(t, nurse.ask("<iq type='get' id='1' to='juliet@a.test/"+resource+"'>"+lastQuery+"</iq>"), "auth forbidden")
	}
	juliet.nothing()
	for _, c := range []*client{romeo, juliet} {
		c.send("<iq type='get' id='of-b' to='juliet@a.test/b'>" + lastQuery + "</iq>")
		if got := juliet.next(); got.ID != "of-b" {
			t.Errorf("juliet got %s", got.Element)
		}
	}
}

func TestLastActivityOfServerSection5(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.pass(123456 * time.Second)
	wantPayload(t, h.ask("<iq type='get' id='1' from='romeo@far.test/x' to='a.test'>"+lastQuery+"</iq>"),
		"<query xmlns='jabber:iq:last' seconds='123456'/>")
}
