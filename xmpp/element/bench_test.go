package element

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"tombolo/xmpp/ns"
)

// chat is what a common client sends for one line of conversation: 300 bytes.
const chat = `<message to='juliet@capulet.example' type='chat' id='b4e1c8a2-9a7d-4d0e-8f53-2f1a3c5d7e9b'>` +
	`<body>But soft, what light through yonder window breaks? It is the east.</body>` +
	`<active xmlns='http://jabber.org/protocol/chatstates'/>` +
	`<request xmlns='urn:xmpp:receipts'/><markable xmlns='urn:xmpp:chat-markers:0'/></message>`

func inStream(tb testing.TB) *Parser {
	p := NewParser(Limits{})
	if n, tok, err := p.Parse([]byte(header)); n != len(header) || tok.Kind != Header || err != nil {
		tb.Fatal(n, tok, err)
	}
	return p
}

func parseAll(tb testing.TB, p *Parser, in []byte) (e Element) {
	for len(in) > 0 {
		n, tok, err := p.Parse(in)
		if err != nil {
			tb.Fatal(err)
		}
		if tok.Kind == Top {
			e = tok.Element
		}
		in = in[n:]
	}
	return e
}

func BenchmarkParseChat(b *testing.B) {
	for name, in := range map[string]string{
		"plain":  chat,
		"odd":    strings.NewReplacer(`<body>`, `<body xmlns='jabber:client'><![CDATA[x]]>`, `yonder`, "&#121;onder\r\n").Replace(chat),
		"greek":  strings.Replace(chat, "But soft, what light through yonder window breaks", "Αλλά σιγά, τι φως φέγγει από εκείνο το παράθυρο", 1),
		"prefix": strings.NewReplacer(`<active xmlns=`, `<c:active xmlns:c=`, `<request xmlns=`, `<r:request xmlns:r=`).Replace(chat),
	} {
		b.Run(name, func(b *testing.B) {
			p, in := inStream(b), []byte(in)
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				if n, tok, err := p.Parse(in); n != len(in) || tok.Kind != Top || err != nil {
					b.Fatal(n, tok, err)
				}
			}
		})
	}
}

// BenchmarkEncodingXML is the same work by the standard library, to compare.
func BenchmarkEncodingXML(b *testing.B) {
	b.SetBytes(int64(len(chat)))
	b.ReportAllocs()
	for b.Loop() {
		d := xml.NewDecoder(strings.NewReader(chat))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkDeliverChat(b *testing.B) {
	e := parseAll(b, inStream(b), []byte(chat))
	out := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		stamped := e.WithAttr("from", "romeo@montague.example/orchard")
		if stamped.Child("body", ns.Client).IsZero() {
			b.Fatal("no body")
		}
		out = stamped.AppendTo(out[:0], ns.Client)
	}
}

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates; run without -race")
	}
	p, in := inStream(t), []byte(chat)
	e := parseAll(t, p, in)
	out := make([]byte, 0, 1024)
	for _, test := range []struct {
		name string
		most float64
		do   func()
	}{
		{"parse a chat message", 1, func() { parseAll(t, p, in) }},
		{"parse one after idling", 1, func() { p.Idle(); parseAll(t, p, in) }},
		{"read it", 0, func() {
			if e.Attr("type") != "chat" || e.Lang() != "" || e.Child("body", ns.Client).Text() == "" {
				t.Error("not the message")
			}
			for child := range e.Children() {
				_ = child.NS()
			}
			for a := range e.Attrs() {
				_ = a.Value
			}
		}},
		{"write it to a client", 0, func() { out = e.AppendTo(out[:0], ns.Client) }},
		{"write it to a server", 0, func() { out = e.AppendTo(out[:0], ns.Server) }},
		{"write it framed", 0, func() { out = e.AppendTo(out[:0], "") }},
		{"set an attribute", 1, func() { e.WithAttr("from", "romeo@montague.example/orchard") }},
		{"drop nothing", 0, func() { e.Without(func(c Element) bool { return c.Is("stanza-id", ns.StanzaID) }) }},
	} {
		if got := testing.AllocsPerRun(100, test.do); got > test.most {
			t.Errorf("%s: %v allocations, want at most %v", test.name, got, test.most)
		}
	}
}

// TestIdleMemory holds what a quiet connection keeps after its largest stanza.
func TestIdleMemory(t *testing.T) {
	p := NewParser(Limits{Bytes: 1 << 20})
	in := header + `<a xmlns='` + strings.Repeat("u", 100_000) + `'>` + strings.Repeat("x", 100_000) + `</a>`
	parseAll(t, p, []byte(in))
	if kept := cap(p.out) + cap(p.names); kept > keepScratch {
		t.Errorf("%d bytes kept after a large element", kept)
	}
	if !p.Idle() || cap(p.out)+cap(p.attrs)+cap(p.frames) != 0 {
		t.Error("an idle parser keeps scratch")
	}
	if e := parseAll(t, p, []byte(chat)); e.String() != chat {
		t.Errorf("after Idle: %s", e)
	}
	if _, _, err := p.Parse([]byte("<a>")); err != nil || p.Idle() {
		t.Errorf("idle inside an element, %v", err)
	}
}
