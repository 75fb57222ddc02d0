package xep

import (
	"testing"

	"tombolo/xmpp/element"
)

// TestSmallExtensions is one row for each request that has one answer.
func TestSmallExtensions(t *testing.T) {
	h := newHouse(t, houseOptions{Options: Options{Version: "1.2"}})
	h.accounts("juliet@a.test", "romeo@a.test")
	juliet := h.bind("juliet@a.test/b")
	const (
		ping    = "<ping xmlns='urn:xmpp:ping'/>"
		time    = "<time xmlns='urn:xmpp:time'/>"
		utc     = "<time xmlns='urn:xmpp:time'><tzo>+00:00</tzo><utc>2026-03-01T12:00:00Z</utc></time>"
		version = "<query xmlns='jabber:iq:version'/>"
		session = "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>"
	)
	for _, test := range []struct{ name, typ, to, query, want, err string }{
		{"XEP-0199 section 4.2 to the server", "get", "a.test", ping, "", ""},
		{"XEP-0199 section 4.2 to the own account", "get", "juliet@a.test", ping, "", ""},
		{"XEP-0199 section 4.2 without to", "get", "", ping, "", ""},
		{"XEP-0199 to another account", "get", "romeo@a.test", ping, "", "cancel service-unavailable"},
		{"XEP-0199 to no account", "get", "nobody@a.test", ping, "", "cancel service-unavailable"},
		{"XEP-0199 section 7 to a resource that is not there", "get", "romeo@a.test/x", ping, "", "cancel service-unavailable"},
		{"XEP-0199 as a set", "set", "a.test", ping, "", "cancel service-unavailable"},
		{"XEP-0202 section 2", "get", "a.test", time, utc, ""},
		{"XEP-0202 without to", "get", "", time, utc, ""},
		{"XEP-0202 to another account", "get", "romeo@a.test", time, "", "cancel service-unavailable"},
		{"XEP-0092 section 2, without os (section 5)", "get", "a.test", version,
			"<query xmlns='jabber:iq:version'><name>Tombolo</name><version>1.2</version></query>", ""},
		{"XEP-0092 to another account", "get", "romeo@a.test", version, "", "cancel service-unavailable"},
		{"RFC 3921 section 3 without to", "set", "", session, "", ""},
		{"RFC 3921 section 3 to the server", "set", "a.test", session, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			to := ""
			if test.to != "" {
				to = " to='" + test.to + "'"
			}
			reply := juliet.ask("<iq type='" + test.typ + "' id='i'" + to + ">" + test.query + "</iq>")
			if reply.ID != "i" || reply.From.String() != map[bool]string{true: "juliet@a.test", false: test.to}[test.to == ""] {
				t.Errorf("got %s", reply.Element)
			}
			if test.err != "" {
				wantError(t, reply, test.err)
			} else {
				wantPayload(t, reply, test.want)
			}
		})
	}
	wantPayload(t, h.ask("<iq type='get' id='s2s1' from='far.test' to='a.test'>"+ping+"</iq>"), "") // XEP-0199 section 4.3
}

func TestSessionIsAnnouncedAsOptionalRFC3921Section3(t *testing.T) {
	h := newHouse(t, houseOptions{})
	var announced []element.Element
	for _, f := range h.host.Features() {
		announced = append(announced, f.Stream...)
	}
	const want = "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'><optional/></session>"
	if len(announced) != 1 || announced[0].String() != want {
		t.Errorf("got %v, want %s", announced, want)
	}
}
