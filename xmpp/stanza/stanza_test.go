package stanza

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

var (
	romeo  = jid.MustParse("romeo@montague.example/orchard")
	juliet = jid.MustParse("juliet@capulet.example")
)

func read(t testing.TB, s string) element.Element {
	t.Helper()
	e, err := element.ParseOne(s, ns.Client)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return e
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, in  string
		kind      Kind
		typ       string
		condition string
	}{
		{"RFC 6121 5.2.2: no type", `<message/>`, Message, "normal", ""},
		{"RFC 6121 5.2.2: normal", `<message type='normal'/>`, Message, "normal", ""},
		{"RFC 6121 5.2.2: chat", `<message type='chat'/>`, Message, "chat", ""},
		{"RFC 6121 5.2.2: groupchat", `<message type='groupchat'/>`, Message, "groupchat", ""},
		{"RFC 6121 5.2.2: headline", `<message type='headline'/>`, Message, "headline", ""},
		{"RFC 6121 5.2.2: error", `<message type='error'/>`, Message, "error", ""},
		{"RFC 6121 5.2.2: unknown", `<message type='gossip'/>`, Message, "normal", ""},
		{"RFC 6121 4.7.1: available", `<presence/>`, Presence, "", ""},
		{"RFC 6121 4.7.1: unavailable", `<presence type='unavailable'/>`, Presence, "unavailable", ""},
		{"RFC 6121 4.7.1: probe", `<presence type='probe'/>`, Presence, "probe", ""},
		{"RFC 6121 4.7.1: unknown", `<presence type='available'/>`, Presence, "available", "bad-request"},
		{"RFC 6120 8.2.3: get", `<iq id='1' type='get'><q/></iq>`, IQ, "get", ""},
		{"RFC 6120 8.2.3: set with text around", `<iq id='1' type='set'> <q/> </iq>`, IQ, "set", ""},
		{"RFC 6120 8.2.3: empty result", `<iq id='1' type='result'/>`, IQ, "result", ""},
		{"RFC 6120 8.2.3: error", `<iq id='1' type='error'><q/><error/></iq>`, IQ, "error", ""},
		{"RFC 6120 8.2.3: no id", `<iq type='get'><q/></iq>`, IQ, "get", "bad-request"},
		{"RFC 6120 8.2.3: no type", `<iq id='1'><q/></iq>`, IQ, "", "bad-request"},
		{"RFC 6120 8.2.3: unknown type", `<iq id='1' type='put'><q/></iq>`, IQ, "put", "bad-request"},
		{"RFC 6120 8.2.3: no payload", `<iq id='1' type='get'>text</iq>`, IQ, "get", "bad-request"},
		{"RFC 6120 8.2.3: two payloads", `<iq id='1' type='set'><q/><q/></iq>`, IQ, "set", "bad-request"},
		{"RFC 6120 8.3.3.8: to", `<message to='@x' type='x'/>`, Message, "normal", "jid-malformed"},
		{"RFC 6120 8.3.3.8: empty to", `<message to=''/>`, Message, "normal", "jid-malformed"},
		{"RFC 6120 8.3.3.8: from", `<presence from='a@b/'/>`, Presence, "", "jid-malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Parse(read(t, test.in))
			if s.Kind != test.kind || s.Type != test.typ {
				t.Errorf("got %v %q", s.Kind, s.Type)
			}
			var refused *Error
			if errors.As(err, &refused) != (test.condition != "") || refused != nil && refused.Condition != test.condition {
				t.Errorf("got %v, want %q", err, test.condition)
			}
		})
	}
}

func TestParseReadsAttributes(t *testing.T) {
	e := read(t, `<message xmlns:p='u' p:to='no' to='Juliet@CAPULET.example' from="romeo@montague.example/orchard" id='a&amp;b' type='chat'/>`)
	got, err := Parse(e)
	want := Stanza{Kind: Message, Type: "chat", ID: "a&b", To: juliet, From: romeo, Element: e}
	if err != nil || got != want {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestParseKeepsWhatAReplyNeeds(t *testing.T) {
	s, err := Parse(read(t, `<iq to='@' from='romeo@montague.example/orchard' id='7' type='get'><q/></iq>`))
	reply, ok := s.ErrorReply(AsError(err))
	if !ok || reply.To != romeo || reply.ID != "7" {
		t.Errorf("got %s, %t", reply.Element, ok)
	}
}

func TestParseRefusesOtherElements(t *testing.T) {
	for _, in := range []string{`<query/>`, `<message xmlns='u'/>`} {
		if s, err := Parse(read(t, in)); !errors.Is(err, ErrNotStanza) || s != (Stanza{}) {
			t.Errorf("%s: got %v, %v", in, s, err)
		}
	}
}

func TestNew(t *testing.T) {
	body := element.Leaf("body", ns.Client, "hi")
	for _, test := range []struct {
		got  Stanza
		want string
	}{
		{New(Message, "chat", "1", romeo, juliet, body),
			`<message type='chat' id='1' from='romeo@montague.example/orchard' to='juliet@capulet.example'><body>hi</body></message>`},
		{New(Message, "", "", jid.JID{}, juliet), `<message to='juliet@capulet.example'/>`},
		{New(Message, "normal", "", romeo, jid.JID{}), `<message from='romeo@montague.example/orchard'/>`},
		{New(Presence, "", "", jid.JID{}, jid.JID{}), `<presence/>`},
		{New(IQ, "get", "normal", jid.JID{}, jid.JID{}, element.Leaf("ping", ns.Ping, "")),
			`<iq type='get' id='normal'><ping xmlns='urn:xmpp:ping'/></iq>`},
	} {
		if got := test.got.Element.String(); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
		if again, err := Parse(test.got.Element); err != nil || again != test.got {
			t.Errorf("read back %+v, %v\nwant %+v", again, err, test.got)
		}
	}
}

func TestWith(t *testing.T) {
	s, _ := Parse(read(t, `<message to='x.example' id='1'><body/></message>`))
	changed := s.WithTo(juliet).WithFrom(romeo).WithID("2")
	const want = `<message from='romeo@montague.example/orchard' to='juliet@capulet.example' id='2'><body/></message>`
	if changed.Element.String() != want {
		t.Errorf("got  %s\nwant %s", changed.Element, want)
	}
	if again, _ := Parse(changed.Element); again != changed {
		t.Errorf("the fields are %+v\nthe element says %+v", changed, again)
	}
	if back := changed.WithFrom(jid.JID{}).WithTo(jid.MustParse("x.example")).WithID("1"); back != s {
		t.Errorf("got %+v\nwant %+v", back, s)
	}
	if same := changed.WithFrom(romeo).WithTo(juliet).WithID("2"); same != changed {
		t.Errorf("what it was already: %+v", same)
	}
	if (Stanza{}).Kind.String() != "none" {
		t.Error("a kind without name")
	}
	if e := read(t, `<message to='x.example'/>`); s.WithElement(e).Element != e {
		t.Error("WithElement has another element")
	}
}

func TestReplies(t *testing.T) {
	for _, test := range []struct {
		in     string
		isTrue bool
		reply  string // without its error child, "" for none
	}{
		{`<iq id='1' type='get' from='a.x' to='b.x'><q/></iq>`, true, `<iq type='error' id='1' from='b.x' to='a.x'>`},
		{`<iq id='1' type='set' from='a.x'><q/></iq>`, true, `<iq type='error' id='1' to='a.x'>`},
		{`<iq type='get' from='a.x'><q/></iq>`, true, `<iq type='error' to='a.x'>`},
		{`<iq id='1' type='result' from='a.x'/>`, false, ``},
		{`<iq id='1' type='error' from='a.x'/>`, false, ``},
		{`<message id='1' from='a.x' to='b.x' type='chat'/>`, false, `<message type='error' id='1' from='b.x' to='a.x'>`},
		{`<message type='error' from='a.x'/>`, false, ``},
		{`<presence type='subscribe' from='a.x'/>`, false, `<presence type='error' to='a.x'>`},
		{`<presence type='error' from='a.x'/>`, false, ``},
	} {
		s, _ := Parse(read(t, test.in))
		if s.IsRequest() != test.isTrue {
			t.Errorf("%s: IsRequest is %t", test.in, s.IsRequest())
		}
		reply, ok := s.ErrorReply(Forbidden(""))
		want := ""
		if test.reply != "" {
			want = test.reply + `<error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></` + s.Kind.String() + `>`
		}
		if ok != (want != "") || reply.Element.String() != want {
			t.Errorf("%s\ngot  %s, %t\nwant %s", test.in, reply.Element, ok, want)
		}
		if test.isTrue {
			result := s.Result(element.Leaf("q", "u", ""))
			if result.Type != "result" || result.To != s.From || result.From != s.To || result.ID != s.ID ||
				!result.Payload().Is("q", "u") {
				t.Errorf("%s: result %s", test.in, result.Element)
			}
		}
	}
	if _, ok := (Stanza{}).ErrorReply(Forbidden("")); ok {
		t.Error("what is no stanza has an answer")
	}
}

// TestErrorConditions is the table of RFC 6120 section 8.3.3.
func TestErrorConditions(t *testing.T) {
	for _, test := range []struct {
		err       *Error
		condition string
		typ       ErrorType
	}{
		{BadRequest(""), "bad-request", Modify},
		{Conflict(""), "conflict", Cancel},
		{FeatureNotImplemented(""), "feature-not-implemented", Cancel},
		{Forbidden(""), "forbidden", Auth},
		{Gone(""), "gone", Cancel},
		{InternalServerError(""), "internal-server-error", Cancel},
		{ItemNotFound(""), "item-not-found", Cancel},
		{JIDMalformed(""), "jid-malformed", Modify},
		{NotAcceptable(""), "not-acceptable", Modify},
		{NotAllowed(""), "not-allowed", Cancel},
		{NotAuthorized(""), "not-authorized", Auth},
		{PolicyViolation(""), "policy-violation", Modify},
		{RecipientUnavailable(""), "recipient-unavailable", Wait},
		{Redirect(""), "redirect", Modify},
		{RegistrationRequired(""), "registration-required", Auth},
		{RemoteServerNotFound(""), "remote-server-not-found", Cancel},
		{RemoteServerTimeout(""), "remote-server-timeout", Wait},
		{ResourceConstraint(""), "resource-constraint", Wait},
		{ServiceUnavailable(""), "service-unavailable", Cancel},
		{SubscriptionRequired(""), "subscription-required", Auth},
		{UndefinedCondition(""), "undefined-condition", Cancel},
		{UnexpectedRequest(""), "unexpected-request", Wait},
	} {
		if test.err.Condition != test.condition || test.err.Type != test.typ {
			t.Errorf("got %+v, want %s %s", test.err, test.typ, test.condition)
		}
	}
}

func TestError(t *testing.T) {
	full := &Error{Cancel, "gone", "no & more", "xmpp:new@x.example", element.Leaf("left", "u", ""), juliet}
	const want = `<error type='cancel' by='juliet@capulet.example'>` +
		`<gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>xmpp:new@x.example</gone>` +
		`<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>no &amp; more</text><left xmlns='u'/></error>`
	if got := full.Element().String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, err := range []*Error{full, BadRequest("x"), Redirect("xmpp:x"), Forbidden("").WithApp(full.App)} {
		if got := ParseError(err.Element()); *got != *err {
			t.Errorf("read back %+v\nwant %+v", got, err)
		}
	}
	for in, want := range map[string]Error{
		`<error/>`:              {Type: Cancel, Condition: "undefined-condition"},
		`<error type='fatal'/>`: {Type: Cancel, Condition: "undefined-condition"},
		`<error type='wait' by='@'><a/></error>`: {Type: Wait, Condition: "undefined-condition",
			App: element.Leaf("a", ns.Client, "")},
	} {
		if got := ParseError(read(t, in)); *got != want {
			t.Errorf("%s: got %+v\nwant %+v", in, got, want)
		}
	}
	if got := full.Error(); got != "stanza error gone: no & more" {
		t.Error(got)
	}
	if got := Forbidden("").Error(); got != "stanza error forbidden" {
		t.Error(got)
	}
}

func TestAsError(t *testing.T) {
	known := Forbidden("no")
	if got := AsError(fmt.Errorf("x: %w", known)); got != known {
		t.Errorf("got %v", got)
	}
	if got := AsError(errors.New("secret")); *got != *InternalServerError("") {
		t.Errorf("got %v", got)
	}
}

func TestStreamError(t *testing.T) {
	full := &StreamError{StreamSeeOtherHost, "a < b", "[::1]:5222", element.Leaf("a", "u", "")}
	const want = `<error xmlns='http://etherx.jabber.org/streams'>` +
		`<see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>[::1]:5222</see-other-host>` +
		`<text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>a &lt; b</text><a xmlns='u'/></error>`
	if got := full.Element().String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, err := range []*StreamError{full, {Condition: StreamReset}} {
		if got := ParseStreamError(err.Element()); *got != *err {
			t.Errorf("read back %+v\nwant %+v", got, err)
		}
	}
	if got := ParseStreamError(element.Leaf("error", ns.Stream, "")); got.Condition != StreamUndefinedCondition {
		t.Errorf("got %v", got)
	}
}

// TestAsStreamError holds every condition that the parser has against those of RFC 6120 section
// 4.9.3, and any other error against telling the peer about it.
func TestAsStreamError(t *testing.T) {
	const header = `<stream xmlns='http://etherx.jabber.org/streams'>`
	for in, want := range map[string]string{
		"<a><b></a>":          StreamNotWellFormed,
		"<!-- -->":            StreamRestrictedXML,
		"\xff":                StreamUnsupportedEncoding,
		header + "x":          StreamBadFormat,
		header + "<xml:a/>":   StreamBadNamespacePrefix,
		header + "<a b='' c=": StreamPolicyViolation,
	} {
		p := element.NewParser(element.Limits{Attrs: 1})
		var err error
		for rest := []byte(in); err == nil && len(rest) > 0; {
			var n int
			n, _, err = p.Parse(rest)
			rest = rest[n:]
		}
		if got := AsStreamError(fmt.Errorf("read: %w", err)); got.Condition != want || got.Text == "" {
			t.Errorf("%q: got %+v, want %s", in, got, want)
		}
	}
	known := &StreamError{Condition: StreamReset}
	if got := AsStreamError(fmt.Errorf("x: %w", known)); got != known {
		t.Errorf("got %v", got)
	}
	if got := AsStreamError(errors.New("secret")); *got != (StreamError{Condition: StreamInternalServerError}) {
		t.Errorf("got %v", got)
	}
}

func TestDelay(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 7_890_000, time.FixedZone("", 3600))
	for _, test := range []struct {
		from jid.JID
		want string
	}{
		{juliet, `<message><delay xmlns='urn:xmpp:delay' from='juliet@capulet.example' stamp='2026-02-03T03:05:06.007Z'/></message>`},
		{jid.JID{}, `<message><delay xmlns='urn:xmpp:delay' stamp='2026-02-03T03:05:06.007Z'/></message>`},
	} {
		if got := Delay(read(t, `<message/>`), test.from, at).String(); got != test.want {
			t.Errorf("XEP-0203 section 2, XEP-0082 section 3.2:\ngot  %s\nwant %s", got, test.want)
		}
	}
}

func TestStripClaims(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"XEP-0359 6: all of ours", `<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='juliet@capulet.example'/>.<stanza-id xmlns='urn:xmpp:sid:0' id='2' by='juliet@capulet.example'/>`, `.`},
		{"XEP-0359 6: in another spelling", `<stanza-id xmlns='urn:xmpp:sid:0' by='JULIET@capulet.Example'/>`, ``},
		{"of one of our resources", `<stanza-id xmlns='urn:xmpp:sid:0' by='juliet@capulet.example/x'/>`, ``},
		{"of our server", `<delay xmlns='urn:xmpp:delay' from='capulet.example'/>`, ``},
		{"XEP-0203: of ours", `<delay xmlns='urn:xmpp:delay' from='juliet@capulet.example'/>`, ``},
		{"of another", `<delay xmlns='urn:xmpp:delay' from='room@x.example'/><stanza-id xmlns='urn:xmpp:sid:0' by='room@x.example'/>`, `=`},
		{"of our neighbour", `<stanza-id xmlns='urn:xmpp:sid:0' by='nurse@capulet.example'/>`, `=`},
		{"of nobody", `<delay xmlns='urn:xmpp:delay'/><stanza-id xmlns='urn:xmpp:sid:0' by='@'/>`, `=`},
		{"another namespace", `<stanza-id by='juliet@capulet.example'/><delay xmlns='u' from='juliet@capulet.example'/>`, `=`},
		{"XEP-0359 3: origin-id stays", `<origin-id xmlns='urn:xmpp:sid:0' id='1' by='juliet@capulet.example'/>`, `=`},
		{"XEP-0280 11: copies", `<sent xmlns='urn:xmpp:carbons:2'/>.<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'/></received><p:sent xmlns:p='urn:xmpp:carbons:2'/>`, `.`},
		{"XEP-0280 9: the wish for none stays", `<private xmlns='urn:xmpp:carbons:2'/><sent/><received xmlns='u'/>`, `=`},
		{"in a forwarded message", `<forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' from='juliet@capulet.example'/></forwarded>`, `=`},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			if want == "=" {
				want = test.in
			}
			e := read(t, `<message>`+test.in+`</message>`)
			if got := StripClaims(e, juliet); got != read(t, `<message>`+want+`</message>`) {
				t.Errorf("got %s\nfrom %s", got, e)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	e := New(Message, "chat", "purple1234", romeo, juliet, element.Leaf("body", ns.Client, "hi")).Element
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(e); err != nil {
			b.Fatal(err)
		}
	}
}
