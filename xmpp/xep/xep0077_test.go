package xep

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

func registerIQ(typ, inside string) string {
	return "<iq type='" + typ + "' id='r'><query xmlns='jabber:iq:register'>" + inside + "</query></iq>"
}

const bill = "<username>bill</username><password>Calliope</password>"

// early sends one request before login and returns the answer.
func (h *house) early(from, xml string) stanza.Stanza {
	h.t.Helper()
	e, err := element.ParseOne(xml, ns.Client)
	if err != nil {
		h.t.Fatal(err)
	}
	got := make(chan element.Element, 1)
	h.registration.early("a.test", net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)), e, func(e element.Element) { got <- e })
	select {
	case e := <-got:
		return parse(h.t, e.String())
	case <-time.After(patience):
		h.t.Fatalf("no answer to %s", xml)
		return stanza.Stanza{}
	}
}

func (h *house) passwordOf(account string) func(string) bool {
	return func(password string) bool {
		h.t.Helper()
		ok, err := h.host.Accounts.Verify(jid.MustParse(account), password)
		if err != nil {
			h.t.Fatal(err)
		}
		return ok
	}
}

func (h *house) exists(account string) bool {
	h.t.Helper()
	ok, err := h.host.Accounts.Exists(jid.MustParse(account))
	if err != nil {
		h.t.Fatal(err)
	}
	return ok
}

func (h *house) create(account, password string) {
	h.t.Helper()
	if err := h.host.Accounts.Create(context.Background(), jid.MustParse(account), password); err != nil {
		h.t.Fatal(err)
	}
}

func TestRegistrationIsOfferedOnlyWhenOpenSection8(t *testing.T) {
	if early := newHouse(t, houseOptions{}).registration.Early(); early != nil {
		t.Errorf("closed, but there is %s", early[0].Name)
	}
	early := newHouse(t, houseOptions{registration: RegistrationOptions{Open: true}}).registration.Early()
	if len(early) != 1 || early[0].Needs != stream.Secure || early[0].Refuses != stream.Authenticated {
		t.Fatalf("got %+v; a password must not cross a stream in clear", early)
	}
	offer := early[0].Offer(nil)
	if len(offer) != 1 || offer[0].String() != "<register xmlns='http://jabber.org/features/iq-register'/>" {
		t.Errorf("got %v", offer)
	}
	for xml, want := range map[string]bool{
		registerIQ("get", ""): true,
		"<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>": false,
		"<message><query xmlns='jabber:iq:register'/></message>":                      false,
	} {
		if e := parse(t, xml).Element; early[0].Claims(e) != want {
			t.Errorf("claims %s: %v", xml, !want)
		}
	}
}

func TestRegistrationBeforeLoginSection3Point1(t *testing.T) {
	h := newHouse(t, houseOptions{registration: RegistrationOptions{Open: true}})
	h.create("taken@a.test", "x")
	fields := h.early("127.0.0.1:1", registerIQ("get", "")).Payload()
	for _, name := range []string{"instructions", "username", "password"} {
		if fields.Child(name, ns.IQRegister).IsZero() {
			t.Errorf("no %s in %s", name, fields)
		}
	}
	for _, test := range []struct{ name, xml, want string }{
		{"no username", registerIQ("set", "<password>x</password>"), "modify not-acceptable"},
		{"no password", registerIQ("set", "<username>bill</username>"), "modify not-acceptable"},
		{"empty password", registerIQ("set", "<username>bill</username><password/>"), "modify not-acceptable"},
		{"nothing", registerIQ("set", ""), "modify not-acceptable"},
		{"not a local part", registerIQ("set", "<username>b@ill</username><password>x</password>"), "modify not-acceptable"},
		{"not a password", registerIQ("set", "<username>bill</username><password>\tx</password>"), "modify not-acceptable"},
		{"conflict", registerIQ("set", "<username>taken</username><password>y</password>"), "cancel conflict"},
		{"conflict in another case", registerIQ("set", "<username>Taken</username><password>y</password>"), "cancel conflict"},
		{"section 3.2: remove", registerIQ("set", "<remove/>"), "wait unexpected-request"},
		{"another host", strings.Replace(registerIQ("set", bill), "<iq", "<iq to='b.test'", 1), "cancel service-unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, h.early("127.0.0.1:1", test.xml), test.want)
		})
	}
	if h.exists("bill@a.test") || h.passwordOf("taken@a.test")("y") {
		t.Error("a refused request changed something")
	}
	wantPayload(t, h.early("127.0.0.1:1", strings.Replace(registerIQ("set", bill), "<iq", "<iq to='a.test'", 1)), "")
	if !h.passwordOf("bill@a.test")("Calliope") {
		t.Error("bill cannot log in")
	}
}

func TestRegistrationsPerMinuteSection3Point1Point1(t *testing.T) {
	h := newHouse(t, houseOptions{registration: RegistrationOptions{Open: true, PerMinute: 2,
		Exempt: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}})
	users := 0
	try := func(from string) string {
		users++
		reply := h.early(from, registerIQ("set", fmt.Sprintf("<username>u%d</username><password>x</password>", users)))
		if reply.Type == "result" {
			return ""
		}
		err := stanza.ParseError(reply.Element.Child("error", ns.Client))
		return string(err.Type) + " " + err.Condition
	}
	const refused = "wait not-acceptable"
	for _, step := range []struct {
		from string
		wait time.Duration
		want string
	}{
		{from: "198.51.100.1:1", wait: 30 * time.Second},
		{from: "198.51.100.1:2"},
		{from: "198.51.100.1:3", want: refused},
		{from: "[::ffff:198.51.100.1]:3", want: refused}, // the same in a socket for both versions
		{from: "198.51.100.2:1"},
		{from: "[2001:db8:0:1::1]:1"},
		{from: "[2001:db8:0:1::2]:1"},
		{from: "[2001:db8:0:1:ffff::3]:1", want: refused}, // the same /64
		{from: "[2001:db8:0:2::1]:1"},
		{from: "192.0.2.7:1"},
		{from: "192.0.2.7:1"},
		{from: "192.0.2.7:1", wait: 29 * time.Second},
		{from: "198.51.100.1:4", want: refused, wait: time.Second},
		{from: "198.51.100.1:5"},                // the first is a minute ago
		{from: "198.51.100.1:6", want: refused}, // the second is not
	} {
		if got := try(step.from); got != step.want {
			t.Errorf("from %s: %q, want %q", step.from, got, step.want)
		}
		h.pass(step.wait)
	}
}

func TestRateForgets(t *testing.T) {
	now := time.Unix(0, 0)
	r := newRate(1, nil, func() time.Time { return now })
	for i := range 100 {
		r.allows(&net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(i))})
	}
	now = now.Add(time.Minute)
	r.allows(&net.TCPAddr{IP: net.IPv4(10, 0, 1, 1)})
	if len(r.acts) != 1 {
		t.Errorf("%d addresses are remembered", len(r.acts))
	}
}

func TestRegisteredUserSection3Point1(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.create("bill@a.test", "old")
	b := h.bind("bill@a.test/globe")
	for _, to := range []string{"", " to='a.test'", " to='bill@a.test'"} {
		query := b.ask(strings.Replace(registerIQ("get", ""), "<iq", "<iq"+to, 1)).Payload()
		if query.Child("registered", ns.IQRegister).IsZero() || query.Child("username", ns.IQRegister).Text() != "bill" ||
			query.Child("password", ns.IQRegister).Text() != "" {
			t.Errorf("to %q: got %s", to, query)
		}
	}
}

func TestPasswordChangeSection3Point3(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.create("bill@a.test", "old")
	h.create("anne@a.test", "hers")
	globe, other, anne := h.bind("bill@a.test/globe"), h.bind("bill@a.test/other"), h.bind("anne@a.test/x")
	toServer := func(inside string) string {
		return strings.Replace(registerIQ("set", inside), "<iq", "<iq to='a.test'", 1)
	}
	for _, test := range []struct{ name, inside, want string }{
		{"empty password", "<username>bill</username><password/>", "modify bad-request"},
		{"no username", "<password>new</password>", "modify bad-request"},
		{"nothing", "", "modify bad-request"},
		{"somebody else", "<username>anne</username><password>new</password>", "modify not-acceptable"},
		{"a second account (3.1.1)", "<username>second</username><password>new</password>", "modify not-acceptable"},
		{"not a password", "<username>bill</username><password>\tx</password>", "modify not-acceptable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, globe.ask(toServer(test.inside)), test.want)
		})
	}
	if !h.passwordOf("bill@a.test")("old") || !h.passwordOf("anne@a.test")("hers") || h.exists("second@a.test") {
		t.Fatal("a refused request changed something")
	}

	wantPayload(t, globe.ask(toServer("<username>bill</username><password>new</password>")), "")
	if password := h.passwordOf("bill@a.test"); !password("new") || password("old") {
		t.Error("the password is not the new one")
	}
	if err := other.isClosed(); err.Condition != stanza.StreamNotAuthorized {
		t.Errorf("the other session ended with %v", err)
	}
	globe.nothing()
	anne.nothing()
}

func TestRegisterFromElsewhere(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.create("bill@a.test", "old")
	b := h.bind("bill@a.test/globe")
	for _, inside := range []string{bill, "<remove/>"} {
		wantError(t, h.ask(strings.Replace(registerIQ("set", inside), "<iq", "<iq from='bill@far.test/x' to='a.test'", 1)),
			"auth registration-required")
		wantError(t, h.ask(strings.Replace(registerIQ("set", inside), "<iq", "<iq from='x@far.test/x' to='bill@a.test'", 1)),
			"cancel service-unavailable")
		wantError(t, b.ask(strings.Replace(registerIQ("set", inside), "<iq", "<iq to='b.test'", 1)), "auth registration-required")
	}
	wantError(t, b.ask(strings.Replace(registerIQ("get", ""), "<iq", "<iq to='b.test'", 1)), "cancel service-unavailable")
	if !h.passwordOf("bill@a.test")("old") || h.exists("bill@b.test") {
		t.Error("a refused request changed something")
	}
}

func TestCancellationSection3Point2(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.create("bill@a.test", "x")
	globe, other := h.bind("bill@a.test/globe"), h.bind("bill@a.test/other")
	wantError(t, globe.ask(registerIQ("set", "<remove/><username>bill</username>")), "modify bad-request")

	globe.send(registerIQ("set", "<remove/>"))
	for _, c := range []*client{globe, other} {
		if err := c.isClosed(); err.Condition != stanza.StreamNotAuthorized {
			t.Errorf("%s ended with %v", c.s.JID(), err)
		}
	}
	select {
	case reply := <-globe.got: // came before the end of the stream
		wantPayload(t, reply, "")
	default:
		t.Error("the stream ended without the result")
	}
	eventually(t, "the account is gone", func() bool { return !h.exists("bill@a.test") })
}

func TestCancellationThatCannotBeKept(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.create("bill@a.test", "x")
	globe := h.bind("bill@a.test/globe")
	h.faults.FailNext(storage.ErrNoSpace)
	wantError(t, globe.ask(registerIQ("set", "<remove/>")), "wait resource-constraint")
	if !h.exists("bill@a.test") {
		t.Error("the account is gone")
	}
	globe.nothing()
}

// TestPasswordsAtOnce: while the disk stalls, requests neither pile up nor hold up the stream.
func TestPasswordsAtOnce(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.create("bill@a.test", "x")
	globe := h.bind("bill@a.test/globe")
	_, release := h.stall()
	for range passwordsAtOnce {
		globe.send(registerIQ("set", bill))
	}
	wantError(t, globe.ask(registerIQ("set", bill)), "wait resource-constraint")
	release()
	for range passwordsAtOnce {
		wantPayload(t, globe.next(), "")
	}
}
