package element

import (
	"fmt"
	"strings"
	"testing"

	"tombolo/xmpp/ns"
)

const (
	header = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>`
	footer = `</stream:stream>`
)

// accepted holds the inside of a client stream and the top-level elements that we make of it, one a
// line.
var accepted = []struct{ name, in, want string }{
	{"empty element", `<presence/>`, `<presence/>`},
	{"empty pair stays", `<presence></presence>`, `<presence></presence>`},
	{"either quote", `<a b='1' c="2"/>`, `<a b='1' c="2"/>`},
	{"the other quote inside", `<a b='"' c="'"/>`, `<a b='"' c="'"/>`},
	{"white space in tags is normalised", "<a\t b =\r\n'1'\nc= '2' ><b /></a >", `<a b='1' c='2'><b/></a>`},
	{"white space between stanzas", "\n <a/>\r\n\t<b/> ", "<a/>\n<b/>"},
	{"redundant entities stay", `<a b='&lt;&gt;&amp;&apos;&quot;'>&lt;&gt;&amp;&apos;&quot;</a>`,
		`<a b='&lt;&gt;&amp;&apos;&quot;'>&lt;&gt;&amp;&apos;&quot;</a>`},
	{"> is escaped everywhere", `<a b='>'>></a>`, `<a b='&gt;'>&gt;</a>`},

	{"XML 2.11: CR LF and CR are line feeds", "<a>1\r\n2\r3\n4\r\r\n</a>", "<a>1\n2\n3\n4\n\n</a>"},
	{"XML 2.11: in CDATA", "<a><![CDATA[1\r\n2\r]]>\n</a>", "<a>1\n2\n\n</a>"},
	{"XML 2.11: a referenced CR is none", "<a>&#13;\n&#xD;</a>", "<a>&#13;\n&#13;</a>"},
	{"XML 3.3.3: white space in values", "<a b='1\t2\n3\r\n4\r5'/>", "<a b='1 2 3 4 5'/>"},
	{"XML 3.3.3: referenced white space", "<a b='&#9;&#xa;&#13;&#32;'>&#9;&#10;</a>", "<a b='&#9;&#10;&#13; '>\t\n</a>"},
	{"XML 4.1: numbers become characters", `<a b='&#65;&#34;&#x27;'>&#x1F600;&#060;&#38;&#x3e;&#34;</a>`,
		`<a b='A&quot;&apos;'>😀&lt;&amp;&gt;"</a>`},
	{"XML 2.7: CDATA becomes text", `<a><![CDATA[<b>&amp;]]></a>`, `<a>&lt;b&gt;&amp;amp;</a>`},
	{"XML 2.7: brackets in CDATA", `<a><![CDATA[]]]]><![CDATA[>]]]></a>`, `<a>]]&gt;]</a>`},
	{"XML 2.7: empty CDATA", `<a><![CDATA[]]></a>`, `<a></a>`},
	{"XML 2.4: ]]> by references", `<a>]]&gt; &#93;]> ]&#93;> <![CDATA[]]]]>></a>`, `<a>]]&gt; ]]&gt; ]]&gt; ]]&gt;</a>`},
	{"XML 2.4: ]] and > apart", `<a>]]<b/>></a>`, `<a>]]<b/>&gt;</a>`},
	{"XML 2.2: the edges of Char", "<a>\u007f\u0080\ud7ff\ue000\ufffd\U00010000\U0010ffff&#x10FFFF;</a>",
		"<a>\u007f\u0080\ud7ff\ue000\ufffd\U00010000\U0010ffff\U0010ffff</a>"},
	{"XML 2.3: names", "<_a-1.é·><ñ Ω='1'/></_a-1.é·>", "<_a-1.é·><ñ Ω='1'/></_a-1.é·>"},
	{"leading zeros in a reference", `<a>&#0000000000000000000000000065;</a>`, `<a>A</a>`},

	{"content namespace repeated on the root", `<message xmlns='jabber:client' to='a'/>`, `<message to='a'/>`},
	{"content namespace repeated on a child", `<message><body xmlns='jabber:client'>x</body></message>`, `<message><body>x</body></message>`},
	{"another content namespace", `<message xmlns='jabber:server'><body xmlns='jabber:component:accept'/></message>`, `<message><body/></message>`},
	{"a declaration that changes nothing", `<a xmlns='u'><b xmlns='u'/></a>`, `<a xmlns='u'><b/></a>`},
	{"the declaration comes first", `<iq id='1'><q v='1' xmlns="u"/></iq>`, `<iq id='1'><q xmlns='u' v='1'/></iq>`},
	{"payload as it is", `<iq id='1'><q xmlns="u&amp;" v='1'><i/></q></iq>`, `<iq id='1'><q xmlns="u&amp;" v='1'><i/></q></iq>`},
	{"back to content", `<iq><q xmlns='u'><m xmlns='jabber:client'><b/></m></q></iq>`,
		`<iq><q xmlns='u'><m xmlns='jabber:client'><b/></m></q></iq>`},
	{"XEP-0297: a forwarded stanza keeps its namespace",
		`<message><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:server'><body xmlns='jabber:client'/></message></forwarded></message>`,
		`<message><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:server'><body/></message></forwarded></message>`},
	{"no namespace", `<a xmlns=''><b xmlns=''/><c xmlns='u'><d xmlns=''/></c></a>`, `<a xmlns=''><b/><c xmlns='u'><d xmlns=''/></c></a>`},
	{"prefix of the header", `<stream:features/>`, `<features xmlns='http://etherx.jabber.org/streams'/>`},
	{"prefix on the root", `<db:result xmlns:db='jabber:server:dialback' to='a'>k</db:result>`,
		`<result xmlns='jabber:server:dialback' to='a'>k</result>`},
	{"prefix declared above", `<iq xmlns:r='u'><r:q><r:i/><i/></r:q></iq>`, `<iq><q xmlns='u'><i/><i xmlns='jabber:client'/></q></iq>`},
	{"prefix for the content namespace", `<c:iq xmlns:c='jabber:client' xmlns='u'><c:a/><b/></c:iq>`, `<iq><a/><b xmlns='u'/></iq>`},
	{"prefix declared again", `<p:a xmlns:p='1'><p:b xmlns:p='2'><p:c/></p:b><p:c/></p:a>`,
		`<a xmlns='1'><b xmlns='2'><c/></b><c/></a>`},
	{"default namespace declared again", `<p:a xmlns:p='1' xmlns='2'><b/></p:a>`, `<a xmlns='1'><b xmlns='2'/></a>`},
	{"unused prefix", `<iq xmlns:u='u' id='1'/>`, `<iq id='1'/>`},
	{"xml:lang", `<a xml:lang='en' lang='de'/>`, `<a xml:lang='en' lang='de'/>`},
	{"the prefix xml declared", `<a xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:lang='en'/>`, `<a xml:lang='en'/>`},
	{"attribute prefix declared here", `<a xmlns:p='u' p:x='1' x='2'/>`, `<a xmlns:p='u' p:x='1' x='2'/>`},
	{"attribute prefix declared above", `<a xmlns:p='u'><b p:x='1' p:y='2' x='3'/></a>`, `<a><b xmlns:p='u' p:x='1' p:y='2' x='3'/></a>`},
	{"attribute prefix used before its declaration", `<p:a p:x='1' xmlns:p='u'/>`, `<a xmlns='u' xmlns:p='u' p:x='1'/>`},
	{"namespace by references", `<a xmlns='&#106;abber:client'/><p:b xmlns:p='a&#39;b'/>`, "<a/>\n<b xmlns='a&apos;b'/>"},
}

// refused holds whole streams and the condition that they end with.
var refused = []struct{ name, condition, in string }{
	{"XML 2.1: no root", notWellFormed, `text`},
	{"XML 2.1: end before a root", notWellFormed, `</stream:stream>`},
	{"XML 2.8: stray declaration", restrictedXML, ` <?xml version='1.0'?>` + header},
	{"XML 2.8: two declarations", restrictedXML, `<?xml version='1.0'?><?xml version='1.0'?>`},
	{"XML 2.8: version 1.1", notWellFormed, `<?xml version='1.1'?>`},
	{"XML 2.8: no version", notWellFormed, `<?xml encoding='UTF-8'?>`},
	{"XML 2.8: broken declaration", notWellFormed, `<?xml version='1.0' standalone='maybe'?>`},
	{"RFC 6120 11.6: another encoding", unsupportedEncoding, `<?xml version='1.0' encoding='ISO-8859-1'?>`},
	{"RFC 6120 11.6: UTF-16", unsupportedEncoding, "\xff\xfe<\x00"},
	{"RFC 6120 11.6: U+FEFF is a character", notWellFormed, "\ufeff" + header},
	{"RFC 6120 4.9.3.22: overlong", unsupportedEncoding, header + "<a>\xc0\x80"},
	{"RFC 6120 4.9.3.22: overlong in three bytes", unsupportedEncoding, header + "<a>\xe0\x80\xaf"},
	{"RFC 6120 4.9.3.22: surrogate", unsupportedEncoding, header + "<a>\xed\xa0\x80"},
	{"RFC 6120 4.9.3.22: above U+10FFFF", unsupportedEncoding, header + "<a>\xf4\x90\x80\x80"},
	{"RFC 6120 4.9.3.22: cut short", unsupportedEncoding, header + "<a>\xe2\x82<"},
	{"RFC 6120 4.9.3.22: in a value", unsupportedEncoding, header + "<a b='\xff"},
	{"RFC 6120 4.9.3.22: in a name", unsupportedEncoding, header + "<a\xff"},
	{"RFC 6120 4.9.3.22: in an end tag", unsupportedEncoding, header + "<aé></a\xc3>"},
	{"RFC 6120 4.9.3.22: between stanzas", unsupportedEncoding, header + "\xff"},
	{"RFC 6120 11.1: comment", restrictedXML, header + `<a><!-- -->`},
	{"RFC 6120 11.1: comment before the header", restrictedXML, `<!-- -->`},
	{"RFC 6120 11.1: comment between stanzas", restrictedXML, header + `<!-- -->`},
	{"RFC 6120 11.1: processing instruction", restrictedXML, header + `<a><?x ?>`},
	{"RFC 6120 11.1: processing instruction first", restrictedXML, `<?xml-stylesheet href='x'?>`},
	{"RFC 6120 11.1: DTD", restrictedXML, `<!DOCTYPE stream>`},
	{"RFC 6120 11.1: DTD inside", restrictedXML, header + `<a><!DOCTYPE a>`},
	{"RFC 6120 11.1: entity", restrictedXML, header + `<a>&nbsp;`},
	{"RFC 6120 11.1: entity in a value", restrictedXML, header + `<a b='&foo;`},
	{"RFC 6120 4.9.3.1: an element that other parsers find in another namespace", badFormat, header + `<a><xmlns/></a>`},
	{"RFC 6120 4.9.3.1: the same with a prefix", badFormat, header + `<p:xmlns xmlns:p='u'/>`},
	{"RFC 6120 4.9.3.1: text between stanzas", badFormat, header + `<a/>x`},
	{"RFC 6120 4.9.3.1: reference between stanzas", badFormat, header + `&#32;`},
	{"RFC 6120 4.9.3.1: CDATA between stanzas", badFormat, header + `<![CDATA[ ]]>`},
	{"RFC 6120 4.9.3.2: attributes that other parsers take for declarations", badNamespacePrefix, header + `<a xmlns:p='xmlns' p:b=''/>`},
	{"RFC 6120 4.9.3.2: the prefix xml on an element", badNamespacePrefix, header + `<xml:a/>`},

	{"XML 2.2: control character", notWellFormed, header + "<a>\x01"},
	{"XML 2.2: NUL", notWellFormed, header + "<a>\x00"},
	{"XML 2.2: control character in a value", notWellFormed, header + "<a b='\x1f"},
	{"XML 2.2: control character in CDATA", notWellFormed, header + "<a><![CDATA[\x0b"},
	{"XML 2.2: form feed in a tag", notWellFormed, header + "<a\fb='1'/>"},
	{"XML 2.2: U+FFFE", notWellFormed, header + "<a>\ufffe"},
	{"XML 2.2: U+FFFF", notWellFormed, header + "<a b='\uffff"},
	{"XML 4.1: reference to U+0000", notWellFormed, header + `<a>&#0;`},
	{"XML 4.1: reference to a control character", notWellFormed, header + `<a>&#x1f;`},
	{"XML 4.1: reference to a surrogate", notWellFormed, header + `<a>&#xD800;`},
	{"XML 4.1: reference to U+FFFE", notWellFormed, header + `<a>&#xfffe;`},
	{"XML 4.1: reference too large", notWellFormed, header + `<a>&#x110000;`},
	{"XML 4.1: reference that overflows", notWellFormed, header + `<a>&#99999999999999999999;`},
	{"XML 4.1: reference without number", notWellFormed, header + `<a>&#;`},
	{"XML 4.1: reference without digits", notWellFormed, header + `<a>&#x;`},
	{"XML 4.1: large X", notWellFormed, header + `<a>&#X41;`},
	{"XML 4.1: hexadecimal without x", notWellFormed, header + `<a>&#4a;`},
	{"XML 4.1: nothing", notWellFormed, header + `<a>&;`},
	{"XML 4.1: bare ampersand", notWellFormed, header + `<a>a & b`},
	{"XML 4.1: end inside a reference", notWellFormed, header + `<a>&lt</a>`},
	{"XML 2.4: ]]> in text", notWellFormed, header + `<a>]]>`},
	{"XML 2.4: more brackets", notWellFormed, header + `<a>]]]]>`},
	{"XML 2.4: after a reference", notWellFormed, header + `<a>&#93;]]>`},
	{"XML 2.7: CDATA misspelt", notWellFormed, header + `<a><![cdata[`},
	{"XML 2.7: neither", notWellFormed, header + `<a><!x`},
	{"XML 2.7: CDATA before the header", notWellFormed, `<![CDATA[`},
	{"XML 3.1: < in a value", notWellFormed, header + `<a b='<`},
	{"XML 3.1: value without quotes", notWellFormed, header + `<a b=1`},
	{"XML 3.1: attribute without value", notWellFormed, header + `<a b/>`},
	{"XML 3.1: attribute without value, spaced", notWellFormed, header + `<a b c='1'/>`},
	{"XML 3.1: no space between attributes", notWellFormed, header + `<a b='1'c='2'/>`},
	{"XML 3.1: duplicate attribute", notWellFormed, header + `<a b='1' c='2' b='3'/>`},
	{"XML 3.1: end tag of another", notWellFormed, header + `<a><b></a>`},
	{"XML 3.1: end tag of a longer name", notWellFormed, header + `<a></ab>`},
	{"XML 3.1: end tag of a shorter name", notWellFormed, header + `<ab></a>`},
	{"XML 3.1: end tag of another letter", notWellFormed, header + `<aé></aè>`},
	{"XML 3.1: end tag without name", notWellFormed, header + `<a></>`},
	{"XML 3.1: space before the name of an end tag", notWellFormed, header + `<a></ a>`},
	{"XML 3.1: attribute in an end tag", notWellFormed, header + `<a></a b='1'>`},
	{"XML 3.1: end tag of another at the top", notWellFormed, header + `</a>`},
	{"XML 3.1: space before a name", notWellFormed, header + `< a/>`},
	{"XML 3.1: slash in a tag", notWellFormed, header + `<a / >`},
	{"XML 2.3: name begins with a digit", notWellFormed, header + `<1a/>`},
	{"XML 2.3: name begins with a dash", notWellFormed, header + `<a -b='1'/>`},
	{"XML 2.3: name holds a sign", notWellFormed, header + `<a$/>`},
	{"XML 2.3: name begins with a combining character", notWellFormed, header + "<\u0300/>"},
	{"XML 2.3: name holds a multiplication sign", notWellFormed, header + "<a×/>"},
	{"fourth edition: name of the fifth only", notWellFormed, header + "<\U00010000/>"},
	{"after the end", notWellFormed, header + footer + `<a/>`},
	{"text after the end", notWellFormed, header + footer + `x`},

	{"Namespaces 4: colon first", notWellFormed, header + `<:a/>`},
	{"Namespaces 4: colon last", notWellFormed, header + `<a: xmlns:a='u'/>`},
	{"Namespaces 4: two colons", notWellFormed, header + `<a:b:c xmlns:a='u'/>`},
	{"Namespaces 4: local part begins with a digit", notWellFormed, header + `<a:1 xmlns:a='u'/>`},
	{"Namespaces 5: undeclared prefix", notWellFormed, header + `<p:a/>`},
	{"Namespaces 5: undeclared prefix of an attribute", notWellFormed, header + `<a p:b='1'/>`},
	{"Namespaces 5: prefix out of scope", notWellFormed, header + `<a><b xmlns:p='u'/><p:c/></a>`},
	{"Namespaces 5: prefix of the stanza before", notWellFormed, header + `<a xmlns:p='u'/><p:c/>`},
	{"Namespaces 5: prefix bound to nothing", notWellFormed, header + `<a xmlns:p=''/>`},
	{"Namespaces 3: xml bound to another", notWellFormed, header + `<a xmlns:xml='u'/>`},
	{"Namespaces 3: another bound to xml's", notWellFormed, header + `<a xmlns:p='http://www.w3.org/XML/1998/namespace'/>`},
	{"Namespaces 3: xml's as default", notWellFormed, header + `<a xmlns='http://www.w3.org/XML/1998/namespace'/>`},
	{"Namespaces 3: xmlns bound", notWellFormed, header + `<a xmlns:xmlns='http://www.w3.org/2000/xmlns/'/>`},
	{"Namespaces 3: another bound to xmlns's", notWellFormed, header + `<a xmlns:p='http://www.w3.org/2000/xmlns/'/>`},
	{"Namespaces 3: xmlns's as default", notWellFormed, header + `<a xmlns='http://www.w3.org/2000/xmlns/'/>`},
	{"Namespaces 3: element with prefix xmlns", notWellFormed, header + `<xmlns:a/>`},
	{"Namespaces 6.3: duplicate by namespace", notWellFormed, header + `<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/>`},
	{"Namespaces 6.3: declared twice", notWellFormed, header + `<a xmlns:p='u' xmlns:p='v'/>`},
	{"Namespaces 6.3: default declared twice", notWellFormed, header + `<a xmlns='u' xmlns='u'/>`},
	{"Namespaces 5: end tag with another prefix", notWellFormed, header + `<p:a xmlns:p='u' xmlns:q='u'></q:a>`},
	{"Namespaces 5: end tag without the prefix", notWellFormed, header + `<p:a xmlns:p='u'></a>`},
}

// outcome is all that a parser says of one input.
type outcome struct {
	tokens []Token
	err    string
}

func (o outcome) String() string {
	var b strings.Builder
	for _, tok := range o.tokens {
		fmt.Fprintf(&b, "%d %s {%s}\n", tok.Kind, tok.Element, tok.Element.NS())
	}
	return b.String() + o.err
}

// feed parses pieces of one stream.
func feed(t testing.TB, l Limits, pieces ...string) outcome {
	t.Helper()
	p := NewParser(l)
	var o outcome
	for _, piece := range pieces {
		for rest := piece; ; {
			n, tok, err := p.Parse([]byte(rest))
			rest = rest[n:]
			if err != nil {
				o.err = err.Error()
				if _, _, again := p.Parse([]byte("<a/>")); again != err {
					t.Errorf("after the error %v the parser says %v", err, again)
				}
				return o
			}
			if tok.Kind == None {
				if rest != "" {
					t.Fatalf("no token and %q left", rest)
				}
				break
			}
			o.tokens = append(o.tokens, tok)
		}
	}
	return o
}

// condition is the stream error condition of an outcome, "" for none.
func (o outcome) condition() string {
	condition, _, _ := strings.Cut(o.err, ":")
	return condition
}

func TestParse(t *testing.T) {
	for _, test := range accepted {
		t.Run(test.name, func(t *testing.T) {
			o := feed(t, Limits{}, header+test.in+footer)
			var got []string
			for _, tok := range o.tokens[1:] {
				if tok.Kind == Top {
					got = append(got, tok.Element.String())
				}
			}
			if o.err != "" || strings.Join(got, "\n") != test.want {
				t.Fatalf("got %q\nwant %q\n%s", got, test.want, o.err)
			}
			if last := o.tokens[len(o.tokens)-1]; last.Kind != End {
				t.Errorf("last token is %v", last)
			}
			for _, raw := range got {
				again, err := ParseOne(raw, ns.Client)
				if err != nil || again.String() != raw {
					t.Errorf("again: got %q, %v\nwant %q", again, err, raw)
				}
			}
		})
	}
}

func TestParseHeader(t *testing.T) {
	const streams = `http://etherx.jabber.org/streams`
	for _, test := range []struct{ name, in, want, content string }{
		{"RFC 6120 4.8.5: usual prefix", header, `<stream xmlns='` + streams + `' version='1.0'/>`, ns.Client},
		{"RFC 6120 4.8.5: other prefix", `<s:stream xmlns:s='` + streams + `' xmlns='jabber:server' to='a'>`, `<stream xmlns='` + streams + `' to='a'/>`, ns.Server},
		{"RFC 6120 4.8.5: no prefix", `<stream to="a" xmlns="` + streams + `">`, `<stream xmlns='` + streams + `' to="a"/>`, streams},
		{"RFC 6120 4.8.1: another namespace", `<stream:stream xmlns:stream='u' xmlns='v'>`, `<stream xmlns='u'/>`, "v"},
		{"RFC 6120 4.8.1: none", `<stream>`, `<stream xmlns=''/>`, ""},
		{"RFC 6120 4.8.1: content namespace", `<stream xmlns='jabber:client'>`, `<stream/>`, ns.Client},
		{"RFC 6120 4.7: attributes", `<s:stream xml:lang='de' xmlns:s='` + streams + `' from='a@b' xmlns:x='u' x:y='1'>`,
			`<stream xmlns='` + streams + `' xmlns:x='u' xml:lang='de' from='a@b' x:y='1'/>`, ""},
		{"RFC 6120 11.5: declaration", `<?xml version='1.0'?>` + header, `<stream xmlns='` + streams + `' version='1.0'/>`, ns.Client},
		{"RFC 6120 11.5: declaration and line end", "<?xml version='1.0' ?>\r\n" + header, `<stream xmlns='` + streams + `' version='1.0'/>`, ns.Client},
		{"RFC 6120 11.6: UTF-8", "<?xml\tversion = \"1.0\"\nencoding='Utf-8'\rstandalone=\"yes\"?> " + header, `<stream xmlns='` + streams + `' version='1.0'/>`, ns.Client},
		{"white space first", " \n" + header, `<stream xmlns='` + streams + `' version='1.0'/>`, ns.Client},
	} {
		t.Run(test.name, func(t *testing.T) {
			limits := Limits{Bytes: 150} // for the declaration and the header, each
			want := feed(t, limits, test.in, "<a/>")
			if len(want.tokens) != 2 || want.tokens[0].Kind != Header || want.tokens[0].Element.raw != test.want || want.tokens[1].Kind != Top {
				t.Fatalf("got %s\nwant %s", want, test.want)
			}
			for i := range len(test.in) {
				if got := feed(t, limits, test.in[:i], test.in[i:]+"<a/>"); got.String() != want.String() {
					t.Errorf("cut at %d: %s", i, got)
				}
			}
			p := NewParser(limits)
			parseAll(t, p, []byte(test.in))
			if p.Content() != test.content {
				t.Errorf("content namespace %q, want %q", p.Content(), test.content)
			}
		})
	}
}

func TestParseEmptyStream(t *testing.T) {
	empty := strings.TrimSuffix(header, ">") + "/>"
	for i := range len(empty) {
		o := feed(t, Limits{}, empty[:i], empty[i:])
		if len(o.tokens) != 2 || o.tokens[0].Kind != Header || o.tokens[1].Kind != End || o.err != "" {
			t.Errorf("cut at %d: %s", i, o)
		}
	}
	if o := feed(t, Limits{}, strings.TrimSuffix(header, ">")+"/ >"); o.condition() != notWellFormed {
		t.Errorf("got %s", o)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range refused {
		t.Run(test.name, func(t *testing.T) {
			if o := feed(t, Limits{}, test.in); o.condition() != test.condition {
				t.Errorf("got %v\nwant %s", o, test.condition)
			}
		})
	}
}

// TestParseInPieces gives every input again, cut at each place and at all of them.
func TestParseInPieces(t *testing.T) {
	var inputs []string
	for _, test := range accepted {
		inputs = append(inputs, header+test.in+footer)
	}
	for _, test := range refused {
		inputs = append(inputs, test.in, test.in+"<a/></stream:stream>")
	}
	for _, limits := range []Limits{{}, {Bytes: len(header), Depth: 2, Attrs: 3, Namespaces: 2}} {
		for _, in := range inputs {
			want := feed(t, limits, in).String()
			bytes := make([]string, len(in))
			for i := range len(in) {
				bytes[i] = in[i : i+1]
				if got := feed(t, limits, in[:i], in[i:]).String(); got != want {
					t.Errorf("%q cut at %d:\n%s\nwant\n%s", in, i, got, want)
				}
			}
			if got := feed(t, limits, bytes...).String(); got != want {
				t.Errorf("%q a byte at a time:\n%s\nwant\n%s", in, got, want)
			}
		}
	}
}

func TestErrorSaysWhere(t *testing.T) {
	in := header + " <a>\n</b>"
	want := Error{notWellFormed, "end tag without its start tag", len(header) + len(" <a>\n</")}
	if o := feed(t, Limits{}, in); o.err != want.Error() {
		t.Errorf("got %q, want %q", o.err, want.Error())
	}
}
