package xmpp_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// ways are all the ways in which XML reaches a server before and after login; what the server gets as
// the side that connects is in package federation.
var ways = []struct {
	name string
	open func(testing.TB, *target) *wire
}{
	{"client in clear", func(t testing.TB, g *target) *wire { return g.dial(t, "client") }},
	{"client in clear, in its stream", func(t testing.TB, g *target) *wire {
		w := g.dial(t, "client")
		w.header()
		w.expect(endOfFeatures)
		return w
	}},
	{"client under direct TLS", func(t testing.TB, g *target) *wire { return g.dial(t, "client_tls") }},
	{"client under TLS, in its stream", func(t testing.TB, g *target) *wire { return g.underTLS(t) }},
	{"client after login, before its header", func(t testing.TB, g *target) *wire {
		w := g.underTLS(t)
		w.send(plain("", "mallory", "secret of mallory"))
		w.expect("<success")
		w.expect(">")
		return w
	}},
	{"client after login", func(t testing.TB, g *target) *wire { return g.authenticated(t, "mallory") }},
	{"client that is bound", func(t testing.TB, g *target) *wire { return g.bound(t, "mallory") }},
	{"server in clear", func(t testing.TB, g *target) *wire { return g.dial(t, "server") }},
	{"server under direct TLS", func(t testing.TB, g *target) *wire { return g.dial(t, "server_tls") }},
	{"server that is authenticated", func(t testing.TB, g *target) *wire { return g.server(t, "b.test") }},
}

// laughs is the document type of the billion laughs.
func laughs() string {
	var b strings.Builder
	b.WriteString("<!DOCTYPE x [<!ENTITY l0 'lol'>")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "<!ENTITY l%d '%s'>", i, strings.Repeat(fmt.Sprintf("&l%d;", i-1), 10))
	}
	return b.String() + "]>"
}

func TestEntitiesAndDocumentTypes(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet")
	juliet := g.online(t, "juliet")
	message := func(inside string) string {
		return "<message from='mallory@b.test' to='juliet@a.test'>" + inside + "</message>"
	}
	for name, text := range map[string]string{
		"a billion laughs":           laughs(),
		"a billion laughs in a body": laughs() + message("<body>&l9;</body>"),
		"quadratic blow-up":          "<!DOCTYPE x [<!ENTITY a '" + strings.Repeat("a", 5000) + "'>]>",
		"an external document type":  "<!DOCTYPE x SYSTEM 'file:///etc/passwd'>",
		"an external entity":         "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>" + message("<body>&e;</body>"),
		"a parameter entity":         "<!DOCTYPE x [<!ENTITY % e SYSTEM 'http://127.0.0.1/'>%e;]>",
		"an XSLT instruction":        "<?xml-stylesheet href='file:///etc/passwd'?>",
		"a comment":                  "<!-- -->",
	} {
		for _, way := range ways {
			t.Run(name+", "+way.name, func(t *testing.T) {
				w := way.open(t, g)
				w.send(text)
				w.refused("restricted-xml")
			})
		}
	}
	// Inside of what is a stanza or would be one, an entity is no more defined than outside.
	for name, text := range map[string]string{
		"an entity in text":         message("<body>&l9;</body>"),
		"an entity in an attribute": "<message from='mallory@b.test' to='juliet@a.test' id='&l9;'/>",
		"a document type":           message("<!DOCTYPE x>"),
		"an instruction":            message("<?php x ?>"),
		"a comment":                 message("<!-- -->"),
	} {
		for _, way := range ways {
			if strings.HasSuffix(way.name, "clear") || strings.HasSuffix(way.name, "direct TLS") || strings.HasSuffix(way.name, "header") {
				continue // a message is no header; that it is refused has other reasons
			}
			t.Run(name+" inside of a stanza, "+way.name, func(t *testing.T) {
				w := way.open(t, g)
				w.send(text)
				w.refused("restricted-xml")
			})
		}
	}
	if got := juliet.settled(); got != "" {
		t.Errorf("juliet got %q", got)
	}
}

// Everything that comes from a network is read by package element. Another parser beside it would be
// one with fewer checks: encoding/xml knows no limits and takes undeclared prefixes.
func TestThereIsOneWayToReadXML(t *testing.T) {
	allowed := map[string]string{
		"xmpp/element/names.go":   "the tables of characters",
		"xmpp/element/convert.go": "what element has checked becomes a Go struct",
	}
	for file := range sources(t) {
		if strings.HasPrefix(file, "cmd/") {
			continue // the commands are clients
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			client := strings.HasPrefix(p, "mellium.im/xmpp") && !slices.Contains([]string{"mellium.im/xmpp/jid"}, p)
			if (p == "encoding/xml" || p == "mellium.im/xmlstream" || client) && allowed[file] == "" {
				t.Errorf("%s imports %s, which reads XML in its own way; read it with package element", file, p)
			}
		}
	}
}

// heapAfter is the memory in use when everything that can be given back has been.
func heapAfter() int {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc) + int(m.StackInuse)
}

// What a stranger sends costs us memory in proportion to what he sent, whatever its form. The worst of
// XML's forms are those that a parser turns into many small objects, or has to write out.
func TestMemoryBeforeLogin(t *testing.T) {
	const connections, size, factor = 200, 9000, 4
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']")
	fill := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < size-100; i++ {
			if strings.Contains(format, "%") {
				fmt.Fprintf(&b, format, i)
			} else {
				b.WriteString(format)
			}
		}
		return b.String()
	}
	open := func(t *testing.T, key, text string) {
		for range connections {
			w := g.dial(t, key)
			if key == "client" {
				w.header()
			} else {
				w.serverHeader("b.test")
			}
			w.expect(endOfFeatures)
			w.send(text)
		}
	}
	for _, key := range []string{"client", "server"} {
		for name, text := range map[string]string{
			"text":                     "<a>" + fill("x"),
			"text that is escaped":     "<a>" + fill("&#62;"),
			"character references":     "<a>" + fill("&#x10FFFF;"),
			"a character reference":    "<a>&#" + fill("0"),
			"CDATA":                    "<a><![CDATA[" + fill("x"),
			"nested elements":          "<a>" + strings.Repeat("<b>", 60) + fill("x"),
			"children":                 "<a>" + fill("<b/>"),
			"children with attributes": "<a>" + fill("<b c='d' e='f'/>"),
			"children with namespaces": "<a>" + fill("<b xmlns='u%d'/>"),
			"prefixed children":        "<a xmlns:p='u'>" + fill("<p:b/>"),
			"a name":                   "<" + fill("a"),
			"a value":                  "<a b='" + fill("x"),
			"a namespace":              "<a xmlns:p='" + fill("x"),
			"white space in a tag":     "<a" + fill(" "),
			"white space":              fill(" "),
		} {
			t.Run(key+", "+name, func(t *testing.T) {
				before := heapAfter()
				open(t, key, "")
				idle := heapAfter()
				open(t, key, text)
				// The parser holds the text when the server has read it all; there is nothing to wait
				// for, so look until it does not grow any more.
				used := heapAfter()
				for end := time.Now().Add(patience); time.Now().Before(end); {
					time.Sleep(20 * time.Millisecond)
					now := heapAfter()
					if now <= used+used/100 {
						break
					}
					used = now
				}
				each := (used - idle - (idle - before)) / connections
				t.Logf("%d bytes for a connection, %d more for %d bytes on it", (idle-before)/connections, each, len(text))
				if each > factor*size && !underRace {
					t.Errorf("%d bytes of memory for %d bytes of input", each, len(text))
				}
			})
		}
	}
}

// A peer that takes its time has the time for logging in, and no more: however it spends it.
func TestSlowLoris(t *testing.T) {
	g := newTarget(t, "[limits]\nlogin_time = '700ms'\nexempt = ['127.0.0.0/8']", "mallory")
	const drop = 20 * time.Millisecond
	drip := func(text string) func(*wire) {
		return func(w *wire) {
			for start := time.Now(); time.Since(start) < patience; time.Sleep(drop) {
				for _, c := range []byte(text) {
					if _, err := w.conn.Write([]byte{c}); err != nil {
						return
					}
					time.Sleep(drop)
				}
			}
		}
	}
	pour := func(text string) func(*wire) {
		return func(w *wire) {
			for {
				if _, err := w.conn.Write([]byte(text)); err != nil {
					return
				}
			}
		}
	}
	raw := func(key string) func(testing.TB, *target) *wire {
		return func(t testing.TB, g *target) *wire {
			return g.dialRaw(t, key)
		}
	}
	header := "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='a.test' version='1.0'>"
	for _, row := range []struct {
		name string
		open func(testing.TB, *target) *wire
		do   func(*wire)
	}{
		{"silence, client", raw("client"), nil},
		{"silence, client, direct TLS", raw("client_tls"), nil},
		{"silence, server", raw("server"), nil},
		{"silence, server, direct TLS", raw("server_tls"), nil},
		{"half a TLS record", raw("client_tls"), func(w *wire) { w.send("\x16\x03\x01\x02\x00\x01") }},
		{"a TLS record by the byte", raw("client_tls"), drip("\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + strings.Repeat("x", 1000))},
		{"a TLS record by the byte, server", raw("server_tls"), drip("\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + strings.Repeat("x", 1000))},
		{"silence behind <proceed/>", ways[1].open, func(w *wire) { w.send(streamTLS) }},
		{"a header by the byte", raw("client"), drip(header[:len(header)-1] + strings.Repeat(" ", 1000))},
		{"a header by the byte, server", raw("server"), drip(header[:len(header)-1] + strings.Repeat(" ", 1000))},
		{"white space by the byte", ways[1].open, drip(" ")},
		{"white space, poured", ways[1].open, pour(strings.Repeat(" ", 32<<10))},
		{"white space, poured, under TLS", ways[3].open, pour(strings.Repeat(" ", 16<<10))},
		{"white space, poured, before the header", raw("client"), pour(strings.Repeat("\n", 32<<10))},
		{"white space, poured, after login", ways[5].open, pour(strings.Repeat(" ", 16<<10))},
		{"white space, poured, server", raw("server"), pour(strings.Repeat("\n", 32<<10))},
		{"silence after login", ways[5].open, nil},
		{"an exchange that never ends", ways[3].open, drip("<auth xmlns='" + ns.SASL + "' mechanism='SCRAM-SHA-256'>")},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			w := row.open(t, g)
			w.limit(patience)
			if row.do != nil {
				go row.do(w)
			}
			w.rest() // fails if the connection stays
			t.Logf("closed after %v", time.Since(start))
			if took := time.Since(start); took > 4*time.Second {
				t.Errorf("closed after %v", took)
			}
		})
	}
}

func TestAMillionNestedElements(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet", "nurse")
	juliet := g.online(t, "juliet")
	nested := strings.Repeat("<a>", 1_000_000)
	for _, way := range ways {
		for _, to := range []string{"juliet@a.test", "juliet@a.test/x", "nurse@a.test", "a.test"} {
			t.Run(way.name+", to "+to, func(t *testing.T) {
				w := way.open(t, g)
				before := heapAfter()
				w.send("<message from='mallory@b.test' to='" + to + "'>" + nested)
				w.rest()
				if more := heapAfter() - before; more > 4<<20 && !underRace {
					t.Errorf("%d bytes more are in use", more)
				}
			})
		}
	}
	if got := juliet.settled(); got != "" {
		t.Errorf("juliet got %.200q", got)
	}
	g.keptFor(t, "nurse", 0)
}

// keptFor says how many messages wait for somebody.
func (g *target) keptFor(t testing.TB, name string, want int) {
	t.Helper()
	got := 0
	err := g.store.View(func(tx storage.Tx) (err error) {
		got, err = tx.Offline().Count(jid.MustParse(name + "@a.test"))
		return err
	})
	if err != nil || got != want {
		t.Errorf("%d messages wait for %s, want %d (%v)", got, name, want, err)
	}
}

// characters are bytes that are not text in UTF-8 and XML 1.0.
var characters = map[string]string{
	"a byte that begins nothing":     "\x80",
	"0xFF":                           "\xff",
	"0xC0":                           "\xc0",
	"an overlong /":                  "\xc0\xaf",
	"an overlong <":                  "\xc0\xbc",
	"an overlong < of three bytes":   "\xe0\x80\xbc",
	"an overlong < of four bytes":    "\xf0\x80\x80\xbc",
	"an overlong NUL":                "\xc0\x80",
	"a surrogate":                    "\xed\xa0\x80",
	"a pair of surrogates (CESU-8)":  "\xed\xa0\xbd\xed\xb8\x80",
	"beyond U+10FFFF":                "\xf4\x90\x80\x80",
	"five bytes":                     "\xf8\x88\x80\x80\x80",
	"a character cut short":          "\xe2\x82",
	"a character cut short by <":     "\xe2\x82<",
	"NUL":                            "\x00",
	"U+0001":                         "\x01",
	"U+000B":                         "\x0b",
	"U+001F":                         "\x1f",
	"U+FFFE":                         "\xef\xbf\xbe",
	"U+FFFF":                         "\xef\xbf\xbf",
	"a reference to NUL":             "&#0;",
	"a reference to U+000B":          "&#xB;",
	"a reference to a surrogate":     "&#xD800;",
	"a reference to U+FFFE":          "&#xFFFE;",
	"a reference beyond U+10FFFF":    "&#x110000;",
	"a reference that wraps around":  "&#x100000041;",
	"a reference that wraps at 2^64": "&#18446744073709551681;",
	"an empty reference":             "&#;",
	"a reference in capitals":        "&#X41;",
	"a reference to nothing":         "&;",
	"an ampersand":                   "& ",
	"the end of CDATA":               "]]>",
}

// A byte that is no character ends the stream on which it came, wherever in a stanza it stands, and no
// part of that stanza goes to anybody.
func TestBytesThatAreNoText(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet", "nurse")
	juliet := g.online(t, "juliet")
	for name, bad := range characters {
		places := map[string]string{
			"text": "<message from='mallory@b.test' to='juliet@a.test'><body>x" + bad + "</body></message>",
			"name": "<message from='mallory@b.test' to='juliet@a.test'><b" + bad + "/></message>",
		}
		if bad != "]]>" {
			places["value"] = "<message from='mallory@b.test' to='juliet@a.test' id='x" + bad + "'/>"
		}
		if !strings.HasPrefix(bad, "&") && bad != "]]>" {
			places["CDATA"] = "<message from='mallory@b.test' to='juliet@a.test'><body><![CDATA[" + bad + "]]></body></message>"
		}
		for place, text := range places {
			t.Run(name+" in a "+place, func(t *testing.T) {
				for _, way := range []int{1, 6, 9} {
					w := ways[way].open(t, g)
					w.send(text)
					w.refused("not-well-formed", "unsupported-encoding", "restricted-xml")
				}
				w := g.bound(t, "mallory")
				w.send(strings.Replace(text, "juliet", "nurse", 1))
				w.refused("not-well-formed", "unsupported-encoding", "restricted-xml")
			})
		}
	}
	if got := juliet.settled(); got != "" {
		t.Errorf("juliet got %q", got)
	}
	g.keptFor(t, "nurse", 0)
}

// A stream in a stream, and elements of the stream's namespace where stanzas belong, end the stream.
func TestNestedStream(t *testing.T) {
	g := newTarget(t, "", "mallory")
	for _, text := range []string{
		"<stream:stream to='a.test' version='1.0'><iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq></stream:stream>",
		"<stream:stream xmlns='jabber:client' xmlns:stream='" + ns.Stream + "' to='a.test' version='1.0'></stream:stream>",
		"<stream xmlns='" + ns.Stream + "'/>",
		"<x:stream xmlns:x='" + ns.Stream + "' from='juliet@a.test'/>",
		"<stream:features><bind xmlns='" + ns.Bind + "'/></stream:features>",
		"<stream:stream/>", "<stream:message/>",
	} {
		for _, way := range []int{1, 3, 5, 6, 9} {
			w := ways[way].open(t, g)
			w.send(text)
			if got := w.rest(); !strings.Contains(got, "<stream:error>") || strings.Contains(got, "<stream:stream") || strings.Contains(got, "<stream:features") {
				t.Errorf("%s, %s: got %q, want a stream error", ways[way].name, text, got)
			}
		}
	}
}

// What stands in a stanza means to its recipient what it meant to us: names are in the namespaces that
// they had, and nothing in it is an element of the recipient's own stream.
func TestPrefixGames(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet")
	juliet := g.online(t, "juliet")
	const streams = ns.Stream
	for _, row := range []struct {
		name, text string
		want       string // the children of the message, as "{namespace}name"; "" for a refusal
	}{
		{"a stanza with a prefix", "<x:message xmlns:x='jabber:client' to='juliet@a.test'><x:body>x</x:body></x:message>", "{jabber:client}body"},
		{"a stanza in the other content namespace", "<message xmlns='jabber:server' to='juliet@a.test'><body>x</body></message>", "{jabber:client}body"},
		{"another content namespace inside", "<message to='juliet@a.test'><body xmlns='jabber:server'>x</body></message>", "{jabber:client}body"},
		{"a stanza of nobody's namespace", "<message xmlns='urn:x' to='juliet@a.test'><body>x</body></message>", ""},
		{"a stanza in no namespace", "<message xmlns='' to='juliet@a.test'><body>x</body></message>", ""},
		{"a prefix for the namespace of streams", "<message to='juliet@a.test'><x:error xmlns:x='" + streams + "'/></message>", "{" + streams + "}error"},
		{"the prefix stream for something else", "<message to='juliet@a.test'><stream:error xmlns:stream='urn:x'/></message>", "{urn:x}error"},
		{"the prefix stream on the stanza", "<message to='juliet@a.test' xmlns:stream='urn:x'><stream:error/></message>", "{urn:x}error"},
		{"the prefix of the header", "<message to='juliet@a.test'><stream:error/></message>", "{" + streams + "}error"},
		{"the prefix db", "<message to='juliet@a.test'><db:result xmlns:db='jabber:server:dialback'/></message>", "{jabber:server:dialback}result"},
		{"a default that is taken back", "<message to='juliet@a.test'><a xmlns='urn:x'><b xmlns='jabber:client'/></a></message>", "{urn:x}a"},
		{"no namespace below one", "<message to='juliet@a.test'><a xmlns='urn:x'><b xmlns=''/></a></message>", "{urn:x}a"},
		{"an undeclared prefix", "<message to='juliet@a.test'><p:a/></message>", ""},
		{"a prefix of a sibling", "<message to='juliet@a.test'><a xmlns:p='urn:x'/><p:a/></message>", ""},
		{"a prefix that is taken back", "<message to='juliet@a.test'><a xmlns:p=''/></message>", ""},
		{"xml for something else", "<message to='juliet@a.test'><a xmlns:xml='urn:x'/></message>", ""},
		{"xmlns as a prefix", "<message to='juliet@a.test'><a xmlns:xmlns='urn:x'/></message>", ""},
		{"the namespace of xmlns", "<message to='juliet@a.test'><a xmlns='http://www.w3.org/2000/xmlns/'/></message>", ""},
		{"the same attribute by two prefixes", "<message to='juliet@a.test'><a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/></message>", ""},
		{"two to", "<message to='juliet@a.test' to='nurse@a.test'/>", ""},
		{"a to in a namespace", "<message xmlns:x='jabber:client' to='juliet@a.test' x:to='nurse@a.test'><body>x</body></message>", "{jabber:client}body"},
		{"a body of another namespace", "<message to='juliet@a.test'><body xmlns='urn:x'>x</body></message>", "{urn:x}body"},
		{"the end of a stanza in CDATA", "<message to='juliet@a.test'><body><![CDATA[</body></message><message from='a.test'>]]></body></message>", "{jabber:client}body"},
		{"the end of a stanza in an attribute", "<message to='juliet@a.test'><a b='&apos;/>&lt;/message>&lt;message from=&quot;a.test&quot;>'/></message>", "{jabber:client}a"},
		{"an end tag with another prefix", "<message to='juliet@a.test'><p:a xmlns:p='u' xmlns:q='u'></q:a></message>", ""},
		{"an element named xmlns", "<message to='juliet@a.test'><xmlns/></message>", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := g.bound(t, "mallory")
			w.send(row.text)
			if row.want == "" {
				w.refused("not-well-formed", "bad-namespace-prefix", "invalid-namespace", "unsupported-stanza-type", "bad-format")
				if got := juliet.settled(); got != "" {
					t.Errorf("juliet got %q", got)
				}
				return
			}
			w.settled()
			raw := juliet.settled()
			if strings.Contains(raw, "<stream:") {
				t.Errorf("juliet got an element of her own stream: %q", raw)
			}
			list := elements(t, raw)
			if len(list) != 1 || list[0].name.Local != "message" || list[0].name.Space != ns.Client ||
				list[0].attr("from") != "mallory@a.test/x" || list[0].attr("to") != "juliet@a.test" {
				t.Fatalf("juliet got %q", raw)
			}
			var got []string
			for _, c := range list[0].without("juliet@a.test").children() {
				got = append(got, "{"+c.name.Space+"}"+c.name.Local)
			}
			if strings.Join(got, " ") != row.want {
				t.Errorf("juliet reads %q, want %q, in %q", got, row.want, raw)
			}
		})
	}
}

// A stanza reaches its recipients whole or not at all: whatever follows its beginning, and whenever it
// breaks off.
func TestIllFormedInputReachesNobody(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet", "nurse")
	juliet := g.online(t, "juliet")
	whole := "<message from='mallory@b.test' to='juliet@a.test'><body>x</body><y xmlns='urn:y'>z</y></message>"
	ends := []string{"\x00", "</x>", "<<", "&x;", "</stream:stream>", "<!---->"}
	for i := 1; i < len(whole); i++ {
		for _, end := range []string{"", ends[i%len(ends)]} {
			text := whole[:i] + end
			for _, way := range []int{6, 9} {
				w := ways[way].open(t, g)
				w.send(text)
				w.tcp.CloseWrite()
				if got := w.rest(); strings.Contains(got, "<message") {
					t.Errorf("%q: got %q", text, got)
				}
			}
		}
	}
	if got := juliet.settled(); got != "" {
		t.Errorf("juliet got %q", got)
	}
}
