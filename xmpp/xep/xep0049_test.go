package xep

import (
	"strings"
	"testing"
	"time"
)

func privateIQ(typ, inside string) string {
	return "<iq type='" + typ + "' id='1'><query xmlns='jabber:iq:private'>" + inside + "</query></iq>"
}

const (
	exodus      = "<exodus xmlns='exodus:prefs'><defaultnick>Hamlet</defaultnick></exodus>"
	exodusEmpty = "<exodus xmlns='exodus:prefs'/>"
)

func privateResult(inside string) string {
	return "<query xmlns='jabber:iq:private'>" + inside + "</query>"
}

func TestPrivateSection2(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("hamlet@a.test", "macbeth@a.test")
	hamlet, macbeth := h.bind("hamlet@a.test/x"), h.bind("macbeth@a.test/x")

	wantPayload(t, hamlet.ask(privateIQ("get", exodusEmpty)), privateResult(exodusEmpty))
	wantPayload(t, hamlet.ask(privateIQ("set", exodus+"<b xmlns='urn:b'>1</b>")), "")
	wantPayload(t, hamlet.ask(privateIQ("get", exodusEmpty)), privateResult(exodus))
	wantPayload(t, hamlet.ask(privateIQ("get", "<b xmlns='urn:b'/>")), privateResult("<b xmlns='urn:b'>1</b>"))
	wantPayload(t, hamlet.ask(privateIQ("get", "<other xmlns='urn:b'/>")), privateResult("<other xmlns='urn:b'/>"))
	wantPayload(t, macbeth.ask(privateIQ("get", exodusEmpty)), privateResult(exodusEmpty))

	wantPayload(t, hamlet.ask(privateIQ("set", exodusEmpty)), "")
	wantPayload(t, hamlet.ask(privateIQ("get", exodusEmpty)), privateResult(exodusEmpty))
}

func TestPrivateIsTheUsersOwnSection2Point3(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("hamlet@a.test", "macbeth@a.test")
	macbeth := h.bind("macbeth@a.test/x")
	for _, typ := range []string{"get", "set"} {
		xml := strings.Replace(privateIQ(typ, exodus), "<iq", "<iq to='hamlet@a.test'", 1)
		wantError(t, macbeth.ask(xml), "cancel service-unavailable")
	}
	wantPayload(t, h.bind("hamlet@a.test/x").ask(privateIQ("get", exodusEmpty)), privateResult(exodusEmpty))
}

func TestPrivateErrorsSection3(t *testing.T) {
	h := newHouse(t, houseOptions{Options: Options{PrivateBytes: 100}})
	h.accounts("hamlet@a.test")
	hamlet := h.bind("hamlet@a.test/x")
	for _, test := range []struct{ name, typ, inside, want string }{
		{"get without child", "get", "", "modify bad-request"},
		{"get of two", "get", exodusEmpty + "<b xmlns='urn:b'/>", "modify bad-request"},
		{"get without namespace", "get", "<exodus/>", "modify not-acceptable"},
		{"set without child", "set", "", "modify not-acceptable"},
		{"set without namespace", "set", "<exodus>1</exodus>", "modify not-acceptable"},
		{"set of no namespace", "set", "<exodus xmlns=''>1</exodus>", "modify not-acceptable"},
		{"set of a stanza", "set", "<message xmlns='jabber:client'>1</message>", "modify not-acceptable"},
		{"set of the same twice", "set", exodus + exodus, "modify not-acceptable"},
		{"set of too much", "set", "<a xmlns='urn:a'>kept?</a><b xmlns='urn:b'>" + strings.Repeat("x", 100) + "</b>", "wait resource-constraint"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, hamlet.ask(privateIQ(test.typ, test.inside)), test.want)
		})
	}
	wantPayload(t, hamlet.ask(privateIQ("get", "<a xmlns='urn:a'/>")), privateResult("<a xmlns='urn:a'/>"))
}

// TestPrivateReadFollowsWrite: requests of one client are processed in their order (RFC 6120 section
// 10.1), also while the disk stalls, and nobody waits meanwhile.
func TestPrivateReadFollowsWriteRFC6120Section10Point1(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("hamlet@a.test")
	hamlet := h.bind("hamlet@a.test/x")
	stalled, release := h.stall()
	hamlet.send(strings.Replace(privateIQ("set", exodus), "id='1'", "id='set'", 1))
	select {
	case <-stalled:
	case <-time.After(patience):
		t.Fatal("nothing is written")
	}
	hamlet.send(strings.Replace(privateIQ("get", exodusEmpty), "id='1'", "id='get'", 1))
	hamlet.nothing()
	release()
	for range 2 {
		if reply := hamlet.next(); reply.ID == "get" {
			wantPayload(t, reply, privateResult(exodus))
		} else {
			wantPayload(t, reply, "")
		}
	}
}
