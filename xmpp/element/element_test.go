package element

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"mellium.im/xmpp/disco"
	"mellium.im/xmpp/disco/info"
	"mellium.im/xmpp/form"

	"tombolo/xmpp/ns"
)

func one(t testing.TB, s string) Element {
	t.Helper()
	e, err := ParseOne(s, ns.Client)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return e
}

func TestElement(t *testing.T) {
	e := one(t, `<message to='a&amp;b' p:to='no' xmlns:p='urn:p&#39;' xml:lang="de" empty=''>one &lt;<body>x</body> two`+
		`<x xmlns='u'><y/><z xmlns=''><v/></z></x><body xml:lang='fr'/>&#13;three</message>`)
	if e.IsZero() || e.Name() != "message" || e.NS() != ns.Client || !e.Is("message", ns.Client) || e.Is("message", "u") || e.Is("m", ns.Client) {
		t.Errorf("%q in %q", e.Name(), e.NS())
	}
	for name, want := range map[string]string{"to": "a&b", "empty": "", "lang": "", "p:to": "", "xmlns": "", "xmlns:p": "", "xml:lang": "", "t": ""} {
		if got, ok := e.LookupAttr(name); got != want || ok != (name == "to" || name == "empty") || e.Attr(name) != want {
			t.Errorf("attribute %s is %q, %t", name, got, ok)
		}
	}
	if e.Lang() != "de" || one(t, `<a lang='x'/>`).Lang() != "" {
		t.Errorf("language %q", e.Lang())
	}
	want := []Attr{{"", "to", "a&b"}, {"urn:p'", "to", "no"}, {ns.XML, "lang", "de"}, {"", "empty", ""}}
	if got := slices.Collect(e.Attrs()); !slices.Equal(got, want) {
		t.Errorf("attributes %q\nwant %q", got, want)
	}
	var kids []string
	for kid := range e.Children() {
		kids = append(kids, kid.Name()+" "+kid.NS())
	}
	if got := strings.Join(kids, ", "); got != "body jabber:client, x u, body jabber:client" {
		t.Errorf("children %s", got)
	}
	if got := e.Text(); got != "one < two\rthree" {
		t.Errorf("text %q", got)
	}
	if got := e.Child("body", ns.Client).Text(); got != "x" {
		t.Errorf("body %q", got)
	}
	if x := e.Child("x", "u"); !e.Child("x", ns.Client).IsZero() || !e.Child("y", "u").IsZero() ||
		!x.Child("y", "u").Is("y", "u") || !x.Child("z", "").Child("v", "").Is("v", "") || x.Payload() != x.Child("y", "u") {
		t.Error("children by name")
	}
	if got := e.Child("x", "u").Child("y", "u").String(); got != `<y xmlns='u'/>` {
		t.Errorf("alone: %s", got)
	}
	for range e.Attrs() {
		break
	}
	for range e.Children() {
		break
	}
}

func TestZeroElement(t *testing.T) {
	var e Element
	child := one(t, `<a/>`)
	if !e.IsZero() || e.Name() != "" || e.NS() != "" || e.Attr("a") != "" || e.Lang() != "" || e.Text() != "" || e.String() != "" ||
		len(e.AppendTo(nil, "u")) > 0 || !e.Payload().IsZero() || !e.Child("a", "").IsZero() || len(slices.Collect(e.Attrs())) > 0 {
		t.Error("the zero Element is something")
	}
	if e.With(child) != e || child.With(e) != child || e.WithAttr("a", "b") != e || e.Without(func(Element) bool { return true }) != e {
		t.Error("the zero Element changes")
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		`<a/>`: "", `<a></a>`: "", `<a>x</a>`: "x", `<a>;&amp;;&gt;&lt;&quot;&apos;&#9;;</a>`: ";&;><\"'\t;",
		`<a><b>no</b></a>`: "", `<a>1<b>no<c/>no</b>2<b/>3</a>`: "123", `<a>1<b/></a>`: "1",
	} {
		if got := one(t, in).Text(); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestAppendTo(t *testing.T) {
	stanza := one(t, `<message to='a'><body/></message>`)
	roster := one(t, `<iq><query xmlns='jabber:iq:roster' ver='1'><item/></query></iq>`).Payload()
	forwarded := one(t, `<f xmlns='urn:xmpp:forward:0'><message xmlns='jabber:server'><body/></message></f>`).Payload()
	for _, test := range []struct {
		e            Element
		around, want string
	}{
		{stanza, ns.Client, `<message to='a'><body/></message>`},
		{stanza, ns.Server, `<message to='a'><body/></message>`},
		{stanza, ns.Component, `<message to='a'><body/></message>`},
		{stanza, "", `<message xmlns='jabber:client' to='a'><body/></message>`},
		{stanza, ns.Forward, `<message xmlns='jabber:client' to='a'><body/></message>`},
		{roster, ns.Client, `<query xmlns='jabber:iq:roster' ver='1'><item/></query>`},
		{roster, ns.Roster, `<query ver='1'><item/></query>`},
		{roster.Payload(), ns.Roster, `<item/>`},
		{roster.Payload(), ns.Client, `<item xmlns='jabber:iq:roster'/>`},
		{forwarded, ns.Forward, `<message xmlns='jabber:server'><body/></message>`},
		{forwarded, ns.Client, `<message><body/></message>`},
		{forwarded, ns.Server, `<message><body/></message>`},
		{one(t, `<a xmlns=''><b/></a>`).Payload(), "u", `<b xmlns=''/>`},
		{one(t, `<a xmlns='&lt;&#39;'><b/></a>`).Payload(), "u", `<b xmlns='&lt;&apos;'/>`},
	} {
		if got := string(test.e.AppendTo([]byte("x"), test.around)); got != "x"+test.want {
			t.Errorf("in %q: %s\nwant %s", test.around, got[1:], test.want)
		}
	}
}

func TestWithAttr(t *testing.T) {
	for _, test := range []struct{ in, name, value, want string }{
		{`<a/>`, "b", "1", `<a b='1'/>`},
		{`<a>x</a>`, "b", "1", `<a b='1'>x</a>`},
		{`<a c='2'/>`, "b", "<&'\"\n\x00", `<a b='&lt;&amp;&apos;&quot;&#10;` + "\ufffd" + `' c='2'/>`},
		{`<a b="2" c='3'/>`, "b", "1", `<a b='1' c='3'/>`},
		{`<a bb='2' b='3'/>`, "b", "1", `<a bb='2' b='1'/>`},
		{`<a b='2' c='3'/>`, "c", "", `<a b='2'/>`},
		{`<a b='2'/>`, "b", "", `<a/>`},
		{`<a/>`, "b", "", `<a/>`},
		{`<a xmlns='u' c='2'/>`, "b", "1", `<a xmlns='u' b='1' c='2'/>`},
		{`<a xmlns:p='u' p:b='2'/>`, "b", "1", `<a b='1' xmlns:p='u' p:b='2'/>`},
		{`<a lang='2'/>`, "xml:lang", "1", `<a xml:lang='1' lang='2'/>`},
		{`<a xml:lang='2'/>`, "xml:lang", "1", `<a xml:lang='1'/>`},
	} {
		got := one(t, test.in).WithAttr(test.name, test.value)
		if got.String() != test.want {
			t.Errorf("%s with %s: %s\nwant %s", test.in, test.name, got, test.want)
		}
		checkElement(t, got)
	}
	for _, name := range []string{"", "xmlns", "xmlns:a", "p:a", "a b", "a='", "1", "xml:", "xml:a:b", "a\xff"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("the attribute %q was written", name)
				}
			}()
			one(t, `<a/>`).WithAttr(name, "1")
		}()
	}
}

func TestWith(t *testing.T) {
	for _, test := range []struct{ in, child, want string }{
		{`<a/>`, `<b/>`, `<a><b/></a>`},
		{`<a x='/'></a>`, `<b/>`, `<a x='/'><b/></a>`},
		{`<a>1<b/>2</a>`, `<b>3</b>`, `<a>1<b/>2<b>3</b></a>`},
		{`<a xmlns='u'/>`, `<b xmlns='u'/>`, `<a xmlns='u'><b/></a>`},
		{`<a xmlns='u'/>`, `<b/>`, `<a xmlns='u'><b xmlns='jabber:client'/></a>`},
		{`<a xmlns='jabber:server'/>`, `<b/>`, `<a><b/></a>`},
	} {
		got := one(t, test.in).With(one(t, test.child))
		if got.String() != test.want {
			t.Errorf("%s with %s: %s\nwant %s", test.in, test.child, got, test.want)
		}
		checkElement(t, got)
	}
}

func TestWithout(t *testing.T) {
	drop := func(e Element) bool { return e.Name() == "x" }
	for in, want := range map[string]string{
		`<a/>`:                            `<a/>`,
		`<a><b><x/></b></a>`:              `<a><b><x/></b></a>`,
		`<a><x/></a>`:                     `<a></a>`,
		`<a>1<x>2<x/></x>3<b/><x/>4</a>`:  `<a>13<b/>4</a>`,
		`<a>]]<x/>&gt;]<x/>]<x/>&gt;</a>`: `<a>]]&gt;]]&gt;</a>`,
	} {
		got := one(t, in).Without(drop)
		if got.String() != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
		checkElement(t, got)
	}
}

func TestWriter(t *testing.T) {
	item := one(t, `<query xmlns='jabber:iq:roster'><item jid='a'/></query>`).Payload()
	for _, test := range []struct {
		w    *Writer
		want string
	}{
		{Start("presence", ns.Client), `<presence/>`},
		{Start("presence", ns.Server).Open("show", ns.Component).Text("dnd"), `<presence><show>dnd</show></presence>`},
		{Start("iq", ns.Client).Attr("id", "'").Attr("empty", "").Open("query", ns.Roster).Add(item).Add(Element{}).Close().Text("."),
			`<iq id='&apos;' empty=''><query xmlns='jabber:iq:roster'><item jid='a'/></query>.</iq>`},
		{Start("a", "u").Leaf("b", "u", "").Leaf("c", "", "1").Leaf("d", ns.Client, "2").Add(item),
			`<a xmlns='u'><b/><c xmlns=''>1</c><d xmlns='jabber:client'>2</d><item xmlns='jabber:iq:roster' jid='a'/></a>`},
		{Start("a", "").Attr("xml:lang", "en").Leaf("b", "", ""), `<a xmlns='' xml:lang='en'><b/></a>`},
		{Start("a", "u'").Text("").Close(), `<a xmlns='u&apos;'/>`},
		{Start("a", ns.Client).Text("<&>]]>'\"\t\n\r\x00\xff\ufffe😀"), "<a>&lt;&amp;&gt;]]&gt;'\"\t\n&#13;\ufffd\ufffd\ufffd😀</a>"},
		{Start("a", ns.Client).Attr("b", "<&>'\"\t\n\r\x00\xff"), "<a b='&lt;&amp;&gt;&apos;&quot;&#9;&#10;&#13;\ufffd\ufffd'/>"},
		{Start("message", ns.Client).Open("forwarded", ns.Forward).Add(one(t, `<message><body/></message>`)),
			`<message><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body/></message></forwarded></message>`},
	} {
		got := test.w.Element()
		if got.String() != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
		checkElement(t, got)
	}
	if got := Leaf("ping", ns.Ping, ""); got.String() != `<ping xmlns='urn:xmpp:ping'/>` || got.NS() != ns.Ping {
		t.Errorf("got %s", got)
	}
}

func TestWriterPanics(t *testing.T) {
	for name, do := range map[string]func(){
		"name":                 func() { Start("a b", "u") },
		"name of a child":      func() { Start("a", "u").Open("p:b", "u") },
		"no name":              func() { Leaf("", "u", "") },
		"name of an attribute": func() { Start("a", "u").Attr("b='1' c", "") },
		"attribute after text": func() { Start("a", "u").Text("x").Attr("b", "") },
		"text after the root":  func() { Start("a", "u").Close().Text("") },
		"child after the root": func() { Start("a", "u").Close().Open("b", "u") },
		"element after it":     func() { Start("a", "u").Close().Add(Element{}) },
		"closed twice":         func() { Start("a", "u").Close().Close() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			do()
		}()
	}
}

func TestAppendEscaped(t *testing.T) {
	all := []rune{}
	for r := rune(0); r < 0x10000; r++ {
		if utf8.ValidRune(r) && isChar(r) {
			all = append(all, r)
		}
	}
	in := string(all)
	raw := "<a b='" + string(AppendEscaped(nil, in)) + "'>" + string(AppendEscaped(nil, in)) + "</a>"
	if e := one(t, raw); e.Attr("b") != in || e.Text() != in {
		t.Error("the characters of XML do not come back")
	}
}

func TestParseOne(t *testing.T) {
	for _, test := range []struct{ in, content, want string }{
		{`<a/>`, ns.Server, `<a/>`},
		{" <a/>\n", ns.Client, `<a/>`},
		{`<message xmlns='jabber:client'><body/></message>`, "", `<message><body/></message>`},
		{`<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>`, "", `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>`},
		{`<a/>`, "u", `<a xmlns='u'/>`},
		{`<a/>`, "", `<a xmlns=''/>`},
		{`<a>` + strings.Repeat("x", 1<<20) + strings.Repeat("<b>", 1000) + strings.Repeat("</b>", 1000) + `</a>`, ns.Client, "="},
	} {
		if test.want == "=" {
			test.want = test.in
		}
		if e, err := ParseOne(test.in, test.content); err != nil || e.String() != test.want {
			t.Errorf("%.80s in %q: %.80s, %v", test.in, test.content, e, err)
		}
	}
	for _, in := range []string{"", " ", "x", "<a>", "<a", "<a/><b/>", "<a/>x", "</a>", "</>", "<a/></>", "<p:a/>", "<?xml version='1.0'?><a/>", "<a>&x;</a>", "<a/>\xff"} {
		var parseErr *Error
		if e, err := ParseOne(in, ns.Client); !errors.As(err, &parseErr) || !e.IsZero() {
			t.Errorf("%q: %v, %v", in, e, err)
		}
	}
}

func TestDecodeEncode(t *testing.T) {
	type item struct {
		JID   string   `xml:"jid,attr"`
		Group []string `xml:"group"`
	}
	type query struct {
		XMLName xml.Name `xml:"jabber:iq:roster query"`
		Items   []item   `xml:"item"`
	}
	e := one(t, `<iq><query xmlns='jabber:iq:roster'><item jid='a&amp;b'><group>x</group><group>y</group></item></query></iq>`).Payload()
	var q query
	if err := e.Decode(&q); err != nil || len(q.Items) != 1 || q.Items[0].JID != "a&b" || !slices.Equal(q.Items[0].Group, []string{"x", "y"}) {
		t.Errorf("%+v, %v", q, err)
	}
	if back, err := Encode(q); err != nil || seen(back).String() != seen(e).String() {
		t.Errorf("%s, %v", back, err)
	}
	if err := e.Decode(new(struct {
		XMLName xml.Name `xml:"other"`
	})); err == nil {
		t.Error("decoded another element")
	}
	if e, err := Encode(struct {
		XMLName xml.Name `xml:"message"`
	}{}); err != nil || e != one(t, `<message></message>`) {
		t.Errorf("%s, %v", e, err)
	}
	if _, err := Encode(func() {}); err == nil {
		t.Error("encoded a function")
	}
}

// TestFromTokens takes elements through encoding/xml, and from mellium's packages.
func TestFromTokens(t *testing.T) {
	for _, test := range accepted {
		for _, tok := range feed(t, Limits{}, header+test.in).tokens[1:] {
			want := tok.Element
			if want.IsZero() || strings.Contains(want.raw, ":x=") || strings.Contains(want.raw, "xmlns=''") {
				continue // encoding/xml makes up prefixes, and cannot write an empty namespace
			}
			got, err := FromTokens(xml.NewDecoder(strings.NewReader(string(want.AppendTo(nil, "")))))
			if err != nil || seen(got).String() != seen(want).String() {
				t.Errorf("%s: %v\ngot  %s\nwant %s", test.name, err, got, want)
			}
		}
	}
	f := form.New(form.Title("<t>"), form.Text("name", form.Value("v&w")))
	e, err := FromTokens(f.TokenReader())
	if err != nil || !e.Is("x", ns.Forms) || e.Child("title", ns.Forms).Text() != "<t>" || e.Child("field", ns.Forms).Attr("var") != "name" {
		t.Errorf("a form: %s, %v", e, err)
	}
	var back form.Data
	if err := e.Decode(&back); err != nil || back.Title() != "<t>" {
		t.Errorf("the form again: %v", err)
	}
	e, err = FromTokens(disco.Info{Features: []info.Feature{{Var: "urn:x"}}}.TokenReader())
	if err != nil || e.Child("feature", ns.DiscoInfo).Attr("var") != "urn:x" {
		t.Errorf("disco: %s, %v", e, err)
	}
	for _, in := range []string{"", "<a/><b/>", "<a>", "<!-- --><a/>"} {
		if e, err := FromTokens(xml.NewDecoder(strings.NewReader(in))); err == nil {
			t.Errorf("%q became %s", in, e)
		}
	}
	broken := errors.New("broken")
	if _, err := FromTokens(tokens(func() (xml.Token, error) { return nil, broken })); !errors.Is(err, broken) {
		t.Error(err)
	}
	// The namespace as an attribute, and the last token together with io.EOF, as readers may give them.
	name := xml.Name{Local: "a"}
	stream := []xml.Token{xml.StartElement{Name: name, Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: "u"}}},
		xml.StartElement{Name: xml.Name{Local: "b"}}, xml.EndElement{Name: xml.Name{Local: "b"}}, xml.EndElement{Name: name}}
	e, err = FromTokens(tokens(func() (tok xml.Token, err error) {
		if tok, stream = stream[0], stream[1:]; len(stream) == 0 {
			err = io.EOF
		}
		return tok, err
	}))
	if err != nil || !e.Is("a", "u") || !e.Payload().Is("b", "u") {
		t.Errorf("%s, %v", e, err)
	}
}

type tokens func() (xml.Token, error)

func (t tokens) Token() (xml.Token, error) { return t() }

// TestNames holds the tables of names against the productions of XML 1.0 fifth edition, which they
// must not exceed, and against encoding/xml, which they must equal.
func TestNames(t *testing.T) {
	start5 := &unicode.RangeTable{R16: []unicode.Range16{
		{0xC0, 0xD6, 1}, {0xD8, 0xF6, 1}, {0xF8, 0x2FF, 1}, {0x370, 0x37D, 1}, {0x37F, 0x1FFF, 1}, {0x200C, 0x200D, 1},
		{0x2070, 0x218F, 1}, {0x2C00, 0x2FEF, 1}, {0x3001, 0xD7FF, 1}, {0xF900, 0xFDCF, 1}, {0xFDF0, 0xFFFD, 1},
	}, R32: []unicode.Range32{{0x10000, 0xEFFFF, 1}}}
	other5 := &unicode.RangeTable{R16: []unicode.Range16{{0xB7, 0xB7, 1}, {0x300, 0x36F, 1}, {0x203F, 0x2040, 1}}}
	decodes := func(s string) bool {
		_, err := xml.NewDecoder(strings.NewReader(s)).Token()
		return err == nil
	}
	for r := rune(0); r < 0x11000; r++ {
		if !utf8.ValidRune(r) || r == ':' {
			continue
		}
		begins, follows := isNameRune(r, true), isNameRune(r, false)
		if r >= utf8.RuneSelf && (begins && !unicode.Is(start5, r) || follows && !unicode.In(r, start5, other5)) {
			t.Errorf("%U: more than the fifth edition", r)
		}
		if r < utf8.RuneSelf && unicode.IsSpace(r) || strings.ContainsRune("/>=", r) {
			continue // ends a name
		}
		if got := decodes(fmt.Sprintf("<%c/>", r)); got != begins && !strings.ContainsRune("!?", r) {
			t.Errorf("%U begins a name: %t, encoding/xml %t", r, begins, got)
		}
		if got := decodes(fmt.Sprintf("<a%c/>", r)); got != follows {
			t.Errorf("%U in a name: %t, encoding/xml %t", r, follows, got)
		}
	}
}
