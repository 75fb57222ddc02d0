package element

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestLimits(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("<a>", n) + strings.Repeat("</a>", n) }
	attrs := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, " a%d=''", i)
		}
		return b.String()
	}
	prefixes := func(from, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, " xmlns:p%d='u'", from+i)
		}
		return b.String()
	}
	for _, test := range []struct {
		name     string
		limits   Limits
		at, over string // the most that is allowed; that and a little more
	}{
		{"bytes of an element", Limits{Bytes: 200}, `<a>` + strings.Repeat("x", 193) + `</a>`, `<a>` + strings.Repeat("x", 194) + `</a>`},
		{"bytes outside ASCII", Limits{Bytes: 200}, `<a>` + strings.Repeat("é", 96) + `x</a>`, `<a>` + strings.Repeat("é", 97) + `</a>`},
		{"bytes of a tag", Limits{Bytes: 200}, `<a b='` + strings.Repeat("x", 191) + `'/>`, `<a b='` + strings.Repeat("x", 192) + `'/>`},
		{"white space in a tag", Limits{Bytes: 200}, `<a` + strings.Repeat(" ", 196) + `/>`, `<a` + strings.Repeat(" ", 197) + `/>`},
		{"each element alone", Limits{Bytes: 200}, strings.Repeat(`<a>`+strings.Repeat("x", 193)+`</a>`, 3), strings.Repeat(`<a>`+strings.Repeat("x", 194)+`</a>`, 2)},
		{"white space between elements", Limits{Bytes: 200}, strings.Repeat(" ", 1000) + `<a/>` + strings.Repeat("\n", 1000) + `<a/>`, `<a>` + strings.Repeat("\n", 200)},
		{"escaping", Limits{Bytes: 200}, `<a>` + strings.Repeat(">", 48) + `x</a>`, `<a>` + strings.Repeat(">", 49) + `</a>`},
		{"CDATA", Limits{Bytes: 200}, `<a><![CDATA[` + strings.Repeat("<", 45) + `]]></a>`, `<a><![CDATA[` + strings.Repeat("<", 46) + `]]></a>`},
		{"declarations that were not in the input", Limits{Bytes: 200}, `<a xmlns:p='` + strings.Repeat("u", 50) + `'><p:b/></a>`, `<a xmlns:p='` + strings.Repeat("u", 50) + `'><p:b/><p:b/><p:b/></a>`},
		{"at the last byte", Limits{Bytes: 130}, `<a xmlns:p='` + strings.Repeat("u", 100) + `'/>`, `<p:a xmlns='` + strings.Repeat("v", 15) + `' xmlns:p='` + strings.Repeat("u", 60) + `'><b/></p:a>`},
		{"depth", Limits{Depth: 5}, nested(5), nested(6)},
		{"depth of empty elements", Limits{Depth: 2}, `<a><b/><b/></a>`, `<a><b><c/></b></a>`},
		{"depth 1", Limits{Depth: 1}, `<a/>`, `<a><b/></a>`},
		{"attributes", Limits{Attrs: 9}, `<a` + attrs(9) + `/>`, `<a` + attrs(10) + `/>`},
		{"attributes that are declarations", Limits{Attrs: 9}, `<a` + prefixes(0, 9) + `/>`, `<a` + prefixes(0, 10) + `/>`},
		{"prefixes on an element", Limits{Namespaces: 5}, `<a` + prefixes(0, 5) + `/>`, `<a` + prefixes(0, 6) + `/>`},
		{"prefixes in scope", Limits{Namespaces: 5}, `<a` + prefixes(0, 3) + `><b` + prefixes(3, 2) + `/><b` + prefixes(3, 2) + `/></a>`,
			`<a` + prefixes(0, 3) + `><b` + prefixes(3, 3) + `/></a>`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if o := feed(t, test.limits, header+test.at); o.err != "" {
				t.Errorf("at the limit: %s", o.err)
			}
			if o := feed(t, test.limits, header+test.over); o.condition() != policyViolation {
				t.Errorf("over the limit: %v", o)
			}
		})
	}
}

// TestLimitActsAtItsByte holds that a limit does not wait for the token that breaks it.
func TestLimitActsAtItsByte(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits Limits
		before string // the longest beginning that breaks nothing
		byte   string
	}{
		{"text", Limits{Bytes: 200}, `<a>` + strings.Repeat("x", 197), "x"},
		{"the byte of an error", Limits{Bytes: 200}, `<a>` + strings.Repeat("x", 197), "\x00"},
		{"value", Limits{Bytes: 200}, `<a b='` + strings.Repeat("x", 194), "x"},
		{"name", Limits{Bytes: 200}, `<` + strings.Repeat("x", 199), "x"},
		{"inside a character", Limits{Bytes: 200}, `<a>` + strings.Repeat("x", 196) + "\xc3", "\xa9"},
		{"reference", Limits{Bytes: 200}, `<a>&#` + strings.Repeat("0", 195), "0"},
		{"depth", Limits{Depth: 2}, `<a><a><`, "a"},
		{"attributes", Limits{Attrs: 3}, `<a b='' c='' d='' `, "e"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, pieces := range [][]string{{header, test.before, test.byte}, {header + test.before + test.byte + "xxx"}} {
				o := feed(t, test.limits, pieces...)
				want := fmt.Sprintf("at byte %d", len(header)+len(test.before))
				if o.condition() != policyViolation || !strings.HasSuffix(o.err, want) {
					t.Errorf("got %q, want policy-violation %s", o.err, want)
				}
			}
			if o := feed(t, test.limits, header, test.before); o.err != "" {
				t.Errorf("too early: %s", o.err)
			}
		})
	}
}

// TestHeaderNamespaceIsShort: what a header declares is declared again for each element that uses it.
func TestHeaderNamespaceIsShort(t *testing.T) {
	declare := func(size int) string {
		return strings.Replace(header, " version=", " xmlns:p='"+strings.Repeat("u", size)+"' version=", 1)
	}
	if o := feed(t, Limits{}, declare(maxHeaderSpace)+"<p:a/>"); o.err != "" {
		t.Errorf("at the limit: %s", o.err)
	}
	if o := feed(t, Limits{}, declare(maxHeaderSpace+1)); o.condition() != policyViolation {
		t.Errorf("over the limit: %v", o)
	}
	// In an element it is paid for by its own length.
	if o := feed(t, Limits{}, header+"<p:a xmlns:p='"+strings.Repeat("u", 1000)+"'/>"); o.err != "" {
		t.Errorf("in an element: %s", o.err)
	}
}

// TestGrown holds that what was sent and what it has grown by are together no less than what it became.
func TestGrown(t *testing.T) {
	const long = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' xmlns:p='urn:example:prefix' version='1.0'>`
	for _, test := range []struct {
		in    string
		grown int // at least
	}{
		{`<message><body>plain &amp; simple</body></message>`, 0},
		{`<iq><q xmlns='u' v='1'/></iq>`, 0},
		{`<p:a/>`, len(" xmlns='urn:example:prefix'") - len("p:")},
		{`<message>` + strings.Repeat(`<p:a/>`, 10) + `</message>`, 10 * (len(" xmlns='urn:example:prefix'") - len("p:"))},
		{`<a p:b='1'/>`, len(" xmlns:p='urn:example:prefix'")},
		{`<a xmlns:q='urn:example:another'><q:b/><q:b/></a>`, 2 * (len(" xmlns='urn:example:another'") - len("q:"))},
		{`<a>>>></a>`, 9},
		{`<a><![CDATA[<<<]]></a>`, 9},
	} {
		for _, step := range []int{1, len(test.in)} {
			p := NewParser(Limits{})
			parseAll(t, p, []byte(long))
			for range 2 { // the second one has nothing of the first
				var tok Token
				for in := []byte(test.in); len(in) > 0; {
					n, next, err := p.Parse(in[:min(step, len(in))])
					if err != nil {
						t.Fatal(err)
					}
					in, tok = in[n:], next
				}
				if tok.Kind != Top || tok.Grown < test.grown || len(test.in)+tok.Grown < len(tok.Element.String()) || test.grown == 0 && tok.Grown > len(test.in) {
					t.Errorf("%s became %s, grown by %d", test.in, tok.Element, tok.Grown)
				}
			}
		}
	}
}

func TestLimitsCoverTheHeader(t *testing.T) {
	for _, test := range []struct {
		limits Limits
		ok     bool
	}{
		{Limits{Bytes: len(header)}, true},
		{Limits{Bytes: len(header) - 1}, false},
		{Limits{Attrs: 3}, true},
		{Limits{Attrs: 2}, false},
		{Limits{Namespaces: 1, Depth: 1}, true},
	} {
		if o := feed(t, test.limits, header); (o.err == "") != test.ok {
			t.Errorf("%+v: %q", test.limits, o.err)
		}
	}
	if o := feed(t, Limits{Bytes: 100}, `<?xml version='1.0' `+strings.Repeat(" ", 100)); o.condition() != policyViolation {
		t.Errorf("an endless declaration: %q", o.err)
	}
}

func TestSetLimits(t *testing.T) {
	p := NewParser(Limits{Bytes: len(header)})
	parseAll(t, p, []byte(header))
	p.SetLimits(Limits{Bytes: 1000})
	parseAll(t, p, []byte(`<a>`+strings.Repeat("x", 500)+`</a>`))
	p.Reset()
	parseAll(t, p, []byte(header+`<a>`+strings.Repeat("x", 500)+`</a>`))
	if p.SetLimits(Limits{Depth: -1}); p.limits != (Limits{10_000, 64, 64, 16}) {
		t.Errorf("no limits became %+v", p.limits)
	}
}

// TestMemoryIsBounded holds that neither a long text nor a short input with long expansion is
// gathered past the limit.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 20_000
	for name, in := range map[string]string{
		"text":    `<a>` + strings.Repeat("x", 1<<20),
		"CDATA":   `<a><![CDATA[` + strings.Repeat("<", 1<<20),
		"value":   `<a b='` + strings.Repeat(">", 1<<20),
		"prefix":  `<a xmlns:p='` + strings.Repeat("u", limit/2) + `'>` + strings.Repeat("<p:b/>", 1<<16),
		"default": `<p:a xmlns:p='v' xmlns='` + strings.Repeat("u", limit/2) + `'>` + strings.Repeat("<b/>", 1<<16),
	} {
		p := NewParser(Limits{Bytes: limit})
		parseAll(t, p, []byte(header))
		var err error
		for in := []byte(in); err == nil && len(in) > 0; {
			var n int
			n, _, err = p.Parse(in[:min(len(in), 100)])
			in = in[n:]
		}
		if err == nil || cap(p.out) > 4*limit {
			t.Errorf("%s: %v, %d bytes of memory", name, err, cap(p.out))
		}
	}
}

// TestHostileInputIsLinear gives input that would take minutes if any byte were looked at for each
// of the others.
func TestHostileInputIsLinear(t *testing.T) {
	size := 4 << 20
	if raceEnabled {
		size >>= 3
	}
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	long := strings.Repeat("u", size/2)
	start := time.Now()
	for name, in := range map[string]string{
		"CDATA brackets":    `<a><![CDATA[` + fill("]a") + `]]></a>`,
		"CDATA markup":      `<a><![CDATA[` + fill("<") + `]]></a>`,
		"CDATA sections":    `<a>` + fill("<![CDATA[]]>") + `</a>`,
		"brackets":          `<a>` + fill("]") + `</a>`,
		"references":        `<a>` + fill("&#9;") + `</a>`,
		"one reference":     `<a>&#` + fill("0") + `9;</a>`,
		"value":             `<a b='` + fill(">\"") + `'/>`,
		"name":              `<` + fill("a") + `/>`,
		"children":          `<a>` + fill("<b/>") + `</a>`,
		"a long namespace":  `<p:a xmlns:p='` + long + `'>` + fill("<p:b/>") + `</p:a>`,
		"two prefixes":      `<p:a xmlns:p='` + long + `' xmlns:q='` + long + `'>` + fill("<q:b/>") + `</p:a>`,
		"default and other": `<p:a xmlns:p='` + long + `' xmlns='` + long + `'>` + fill("<b/>") + `</p:a>`,
		"white space":       fill(" \n") + `<a/>`,
	} {
		p := NewParser(Limits{Bytes: 8 * size})
		if e := parseAll(t, p, []byte(header+in)); e.IsZero() {
			t.Errorf("%s: no element", name)
		} else if e.Text(); !e.Child("c", "").IsZero() {
			t.Error("found what is not there")
		}
		if took := time.Since(start); took > time.Minute {
			t.Fatalf("%s: %v", name, took)
		}
	}
}

func TestReset(t *testing.T) {
	tls := `<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`
	for _, before := range []string{
		"", header, header + tls, header + "<a><b", header + "<a b='", header + "<a>&am", header + "<a>\xc3",
		header + "<a>x\r", header + "<a><![CDATA[]", header + footer, header + "</b>", header + "<a xmlns:p='u'",
	} {
		p := NewParser(Limits{})
		for in := []byte(before); len(in) > 0; {
			n, _, err := p.Parse(in)
			if in = in[n:]; err != nil {
				break
			}
		}
		p.Reset()
		if p.Content() != "" {
			t.Errorf("after %q: content namespace %q", before, p.Content())
		}
		n, tok, err := p.Parse([]byte(header + tls))
		if err != nil || n != len(header) || tok.Kind != Header || p.Content() != "jabber:client" {
			t.Errorf("after %q: %d, %v, %v", before, n, tok, err)
		}
		if n, tok, err := p.Parse([]byte(tls)); err != nil || n != len(tls) || tok.Element.String() != tls {
			t.Errorf("after %q: %d, %v, %v", before, n, tok, err)
		}
	}
	// What broke a limit at the end of a token must not leave that token behind.
	p := NewParser(Limits{Bytes: 130})
	parseAll(t, p, []byte(header))
	if _, _, err := p.Parse([]byte(`<p:a xmlns='` + strings.Repeat("v", 10) + `' xmlns:p='` + strings.Repeat(">", 40) + `'/>`)); err == nil {
		t.Fatal("no error")
	}
	p.Reset()
	if _, tok, err := p.Parse([]byte(" <")); tok.Kind != None || err != nil {
		t.Errorf("left behind: %v, %v", tok, err)
	}
}
