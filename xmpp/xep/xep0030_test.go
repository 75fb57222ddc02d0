package xep

import (
	"slices"
	"testing"

	"tombolo/xmpp/element"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
)

const (
	infoQuery  = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
	infoNode   = "<query xmlns='http://jabber.org/protocol/disco#info' node='n'/>"
	itemsQuery = "<query xmlns='http://jabber.org/protocol/disco#items'/>"
	itemsNode  = "<query xmlns='http://jabber.org/protocol/disco#items' node='n'/>"
)

func vars(query element.Element) (list []string) {
	for child := range query.Children() {
		if child.Is("feature", ns.DiscoInfo) {
			list = append(list, child.Attr("var"))
		}
	}
	return list
}

func TestServerInfoSection3(t *testing.T) {
	h := newHouse(t, houseOptions{})
	reply := h.ask("<iq type='get' id='1' from='romeo@far.test/x' to='a.test'>" + infoQuery + "</iq>")
	id := reply.Payload().Child("identity", ns.DiscoInfo)
	if reply.Type != "result" || id.Attr("category") != "server" || id.Attr("type") != "im" {
		t.Fatalf("got %s", reply.Element)
	}
	got := vars(reply.Payload())
	want := []string{
		"http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items",
		"jabber:iq:last", "jabber:iq:private", "jabber:iq:register", "jabber:iq:version", "msgoffline",
		"urn:xmpp:carbons:2", "urn:xmpp:carbons:rules:0", "urn:xmpp:delay", "urn:xmpp:hints", "urn:xmpp:ping", "urn:xmpp:time", "vcard-temp",
	}
	if !slices.Equal(got, want) {
		t.Errorf("features\n got %q\nwant %q", got, want)
	}
	if form := reply.Payload().Child("x", ns.Forms); !form.IsZero() {
		t.Errorf("a form without contacts: %s", form)
	}
}

func TestServerItemsAreEmptySection4(t *testing.T) {
	h := newHouse(t, houseOptions{})
	wantPayload(t, h.ask("<iq type='get' id='1' from='romeo@far.test/x' to='a.test'>"+itemsQuery+"</iq>"), itemsQuery)
}

func TestUnknownNodeSection7(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("juliet@a.test")
	juliet := h.bind("juliet@a.test/b")
	for _, query := range []string{infoNode, itemsNode} {
		wantError(t, juliet.ask("<iq type='get' id='1' to='a.test'>"+query+"</iq>"), "cancel item-not-found")
		wantError(t, juliet.ask("<iq type='get' id='1'>"+query+"</iq>"), "cancel item-not-found")
	}
}

// TestAccountSection8 is the table of what strangers, friends and the user get for a bare JID.
func TestAccountSection8(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("romeo@a.test", "juliet@a.test", "nurse@a.test")
	h.friends[[2]string{"juliet@a.test", "romeo@a.test"}] = true
	h.friends[[2]string{"juliet@a.test", "paris@far.test"}] = true
	romeo, nurse := h.bind("romeo@a.test/x"), h.bind("nurse@a.test/x")
	juliet := h.bind("juliet@a.test/b")
	juliet.presence("<presence/>")
	h.bind("juliet@a.test/unavailable")

	const resources = "<query xmlns='http://jabber.org/protocol/disco#items'><item jid='juliet@a.test/b'/></query>"
	for _, c := range []*client{romeo, juliet} {
		reply := c.ask("<iq type='get' id='1' to='juliet@a.test'>" + infoQuery + "</iq>")
		id := reply.Payload().Child("identity", ns.DiscoInfo)
		if id.Attr("category") != "account" || id.Attr("type") != "registered" || !slices.Contains(vars(reply.Payload()), ns.DiscoInfo) {
			t.Errorf("%s got %s", c.s.JID(), reply.Element)
		}
		wantPayload(t, c.ask("<iq type='get' id='1' to='juliet@a.test'>"+itemsQuery+"</iq>"), resources)
	}
	wantPayload(t, h.ask("<iq type='get' id='1' from='paris@far.test/x' to='juliet@a.test'>"+itemsQuery+"</iq>"), resources)

	for _, query := range []string{infoQuery, infoNode} {
		wantError(t, nurse.ask("<iq type='get' id='1' to='juliet@a.test'>"+query+"</iq>"), "cancel service-unavailable")
		wantError(t, nurse.ask("<iq type='get' id='1' to='nobody@a.test'>"+query+"</iq>"), "cancel service-unavailable")
	}
	for _, query := range []string{itemsQuery, itemsNode} {
		wantPayload(t, nurse.ask("<iq type='get' id='1' to='juliet@a.test'>"+query+"</iq>"), query)
	}
}

func TestContactAddressesXEP0157Section3(t *testing.T) {
	h := newHouse(t, houseOptions{domains: []module.Domain{
		{Name: "a.test", Contacts: map[string][]string{
			"support": {"xmpp:help@a.test"}, "abuse": {"mailto:abuse@a.test", "xmpp:abuse@a.test"},
		}},
		{Name: "b.test"},
	}})
	form := func(domain string) element.Element {
		reply := h.ask("<iq type='get' id='1' from='romeo@far.test/x' to='" + domain + "'>" + infoQuery + "</iq>")
		return reply.Payload().Child("x", ns.Forms)
	}
	want := "<x xmlns='jabber:x:data' type='result'>" +
		"<field var='FORM_TYPE' type='hidden'><value>http://jabber.org/network/serverinfo</value></field>" +
		"<field var='abuse-addresses' type='list-multi'><value>mailto:abuse@a.test</value><value>xmpp:abuse@a.test</value></field>" +
		"<field var='support-addresses' type='list-multi'><value>xmpp:help@a.test</value></field></x>"
	if got := form("a.test").String(); got != want {
		t.Errorf("a.test: got  %s\nwant %s", got, want)
	}
	if got := form("b.test"); !got.IsZero() {
		t.Errorf("b.test has no contacts, got %s", got)
	}
}
