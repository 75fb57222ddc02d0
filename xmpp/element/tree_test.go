package element

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tombolo/xmpp/ns"
)

// Our reading of a stream against that of the parsers on the other side: expat, under Prosody,
// ejabberd and many clients, and encoding/xml.

// node is an element as any parser may see it. Text stands between the children: Text[i] before
// Kids[i], the last after all.
type node struct {
	Name  string // "namespace name"
	Attrs []string
	Text  []string
	Kids  []*node
}

func newNode(namespace, name string) *node {
	return &node{Name: namespace + " " + name, Text: []string{""}}
}

func (n *node) attr(namespace, name, value string) {
	n.Attrs = append(n.Attrs, fmt.Sprintf("%s %s=%q", namespace, name, value))
	slices.Sort(n.Attrs)
}

func (n *node) text(s string) { n.Text[len(n.Text)-1] += s }

func (n *node) kid(k *node) {
	n.Kids = append(n.Kids, k)
	n.Text = append(n.Text, "")
}

func (n *node) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "(%s %s %q", n.Name, n.Attrs, n.Text[0])
	for i, kid := range n.Kids {
		fmt.Fprintf(&b, " %s %q", kid, n.Text[i+1])
	}
	return b.String() + ")"
}

// splitName cuts a node's name. A namespace may hold a space, a name cannot.
func splitName(s string) (namespace, name string) {
	at := strings.LastIndexByte(s, ' ')
	return s[:at], s[at+1:]
}

// neutral gives content namespaces the meaning that they have here, where those around are.
func (n *node) neutral(around string) *node {
	namespace, name := splitName(n.Name)
	if isContent(namespace) && isContent(around) {
		namespace = around
	}
	n.Name = namespace + " " + name
	for _, kid := range n.Kids {
		kid.neutral(namespace)
	}
	return n
}

// seen is the element as its own methods show it.
func seen(e Element) *node {
	n := newNode(e.NS(), e.Name())
	for a := range e.Attrs() {
		n.attr(a.NS, a.Name, a.Value)
	}
	at, empty := tagEnd(e.raw, 0)
	for start, kid := range e.children() {
		n.text(unescape(e.raw[at:start]))
		n.kid(seen(kid))
		at = start + len(kid.raw)
	}
	if !empty {
		n.text(unescape(e.raw[at:strings.LastIndexByte(e.raw, '<')]))
	}
	return n
}

// readByEncodingXML is the element as encoding/xml shows it.
func readByEncodingXML(s string) (*node, error) {
	d := xml.NewDecoder(strings.NewReader(s))
	open := []*node{newNode("", "")}
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return open[0].Kids[0], nil
		}
		if err != nil {
			return nil, err
		}
		top := open[len(open)-1]
		switch tok := tok.(type) {
		case xml.StartElement:
			n := newNode(tok.Name.Space, tok.Name.Local)
			for _, a := range tok.Attr {
				if a.Name.Space != "xmlns" && a.Name != (xml.Name{Local: "xmlns"}) {
					n.attr(a.Name.Space, a.Name.Local, a.Value)
				}
			}
			top.kid(n)
			open = append(open, n)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			top.text(string(tok))
		default:
			return nil, fmt.Errorf("unexpected %T", tok)
		}
	}
}

// checkElement holds one element against the promises of canonical form.
func checkElement(t testing.TB, e Element) {
	t.Helper()
	again, err := ParseOne(e.String(), ns.Client)
	if err != nil || again != e {
		t.Errorf("read back: %v, %q\nwant %q", err, again, e)
	}
	want := seen(e).String()
	got, err := readByEncodingXML(string(e.AppendTo(nil, "")))
	if err != nil {
		t.Errorf("encoding/xml: %v\n%s", err, e)
	} else if got.String() != want {
		t.Errorf("encoding/xml reads %s\nwe read %s", got, want)
	}
	var walk func(e Element)
	walk = func(e Element) {
		for kid := range e.Children() {
			// A part must be the same alone, moved elsewhere, and built anew.
			alone, err := ParseOne(kid.String(), ns.Client)
			if err != nil || seen(alone).String() != seen(kid).neutral(ns.Client).String() {
				t.Errorf("%s alone: %v\ngot  %s\nwant %s", kid, err, seen(alone), seen(kid).neutral(ns.Client))
			}
			moved := Leaf("x", "urn:x", "]]").With(kid).Payload()
			if got, want := seen(moved).String(), seen(kid).String(); got != want {
				t.Errorf("moved: got %s\nwant %s", got, want)
			}
			walk(kid)
		}
	}
	walk(e)
	none := e.Without(func(Element) bool { return true })
	if again, err := ParseOne(none.String(), ns.Client); err != nil || again != none || !none.Payload().IsZero() {
		t.Errorf("without children: %v, %q", err, none)
	}
}

func FuzzParse(f *testing.F) {
	for _, test := range accepted {
		f.Add([]byte(test.in + footer))
	}
	for _, test := range refused {
		f.Add([]byte(strings.TrimPrefix(test.in, header)))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		limits := Limits{Bytes: 2000}
		if len(in) > 1<<16 {
			return
		}
		for _, in := range []string{header + string(in), string(in)} {
			whole := feed(t, limits, in)
			bytes := make([]string, len(in))
			for i := range len(in) {
				bytes[i] = in[i : i+1]
			}
			if got := feed(t, limits, bytes...).String(); got != whole.String() {
				t.Errorf("in bytes: %s\nwhole: %s", got, whole)
			}
			for _, tok := range whole.tokens {
				if len(tok.Element.raw) > limits.Bytes {
					t.Errorf("%d bytes of canonical form", len(tok.Element.raw))
				}
				if tok.Kind == Top {
					checkElement(t, tok.Element)
				}
			}
		}
	})
}

func TestElementsAgainstEncodingXML(t *testing.T) {
	for _, test := range accepted {
		t.Run(test.name, func(t *testing.T) {
			for _, tok := range feed(t, Limits{}, header+test.in+footer).tokens {
				if tok.Kind == Top {
					checkElement(t, tok.Element)
				}
			}
		})
	}
}

// expat reads base64 documents, one a line, and answers each with a line of JSON: the tree, or null
// where expat finds an error.
const expat = `
import sys, base64, json, xml.parsers.expat as expat
def name(s):
    parts = s.split('\x01')
    return ' '.join(parts) if len(parts) > 1 else ' ' + s
def read(doc):
    p = expat.ParserCreate(namespace_separator='\x01')
    p.buffer_text = True
    root = {'Name': '', 'Attrs': [], 'Text': [''], 'Kids': []}
    stack = [root]
    def start(n, attrs):
        e = {'Name': name(n), 'Attrs': [[name(k), v] for k, v in attrs.items()], 'Text': [''], 'Kids': []}
        stack[-1]['Kids'].append(e); stack[-1]['Text'].append(''); stack.append(e)
    def end(n): stack.pop()
    def text(s): stack[-1]['Text'][-1] += s
    p.StartElementHandler, p.EndElementHandler, p.CharacterDataHandler = start, end, text
    try: p.Parse(doc, True)
    except expat.ExpatError: return None
    return root['Kids'][0]
for line in sys.stdin: print(json.dumps(read(base64.b64decode(line))))
`

type expatNode struct {
	Name  string
	Attrs [][2]string
	Text  []string
	Kids  []*expatNode
}

func (e *expatNode) node() *node {
	n := newNode("", "")
	n.Name, n.Text = e.Name, e.Text
	for _, a := range e.Attrs {
		namespace, name := splitName(a[0])
		n.attr(namespace, name, a[1])
	}
	for _, kid := range e.Kids {
		n.Kids = append(n.Kids, kid.node())
	}
	return n
}

// readByExpat returns the tree of each document, nil where it is refused.
func readByExpat(t *testing.T, docs []string) []*node {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("python3 is missing: install it for the comparison with expat")
		}
		t.Skip("python3 is not installed: it brings expat to compare with")
	}
	var in, out bytes.Buffer
	for _, doc := range docs {
		in.WriteString(base64.StdEncoding.EncodeToString([]byte(doc)) + "\n")
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", expat)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("python3: %v", err)
	}
	trees := make([]*node, 0, len(docs))
	for d := json.NewDecoder(&out); ; {
		var tree *expatNode
		if err := d.Decode(&tree); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if tree == nil {
			trees = append(trees, nil)
		} else {
			trees = append(trees, tree.node())
		}
	}
	if len(trees) != len(docs) {
		t.Fatalf("%d answers to %d documents", len(trees), len(docs))
	}
	return trees
}

// TestAgainstExpat reads the tables and thousands of mutations of them with both parsers. What we
// accept expat reads as the same tree, both as it came and as we pass it on; what we call malformed
// it refuses. We refuse more, by the other conditions.
func TestAgainstExpat(t *testing.T) {
	var docs []string
	for _, test := range accepted {
		docs = append(docs, header+test.in+footer)
	}
	for _, test := range refused {
		docs = append(docs, test.in, test.in+"</a>"+footer, test.in+"'/></a>"+footer, test.in+"/>"+footer)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for seeds := slices.Clone(docs); len(docs) < 12_000; {
		doc := seeds[random.IntN(len(accepted))]
		for range 1 + random.IntN(2) {
			doc = mutate(random, doc, seeds[random.IntN(len(seeds))])
		}
		docs = append(docs, doc)
	}
	docs = slices.DeleteFunc(docs, func(doc string) bool {
		// The RFC is stricter than XML on encodings, the order of bytes, and versions.
		return strings.HasPrefix(doc, "<?xml") || strings.HasPrefix(doc, "\ufeff") || strings.HasPrefix(doc, "\xff") ||
			strings.HasPrefix(doc, "\xfe")
	})

	outcomes := make([]outcome, len(docs))
	var passedOn []string
	for i, doc := range docs {
		outcomes[i] = feed(t, Limits{Bytes: 1 << 20}, doc)
		passed := `<stream xmlns='jabber:client'>`
		for _, tok := range outcomes[i].tokens {
			if tok.Kind == Top {
				passed = string(tok.Element.AppendTo([]byte(passed), ns.Client))
			}
		}
		passedOn = append(passedOn, passed+`</stream>`)
	}
	read, readOn := readByExpat(t, docs), readByExpat(t, passedOn)
	accepted, malformed := 0, 0
	for i, doc := range docs {
		o := outcomes[i]
		whole := o.err == "" && len(o.tokens) > 0 && o.tokens[len(o.tokens)-1].Kind == End
		var ours []string
		for _, tok := range o.tokens {
			if tok.Kind == Top {
				ours = append(ours, seen(tok.Element).String())
			}
		}
		switch {
		case readOn[i] == nil:
			t.Errorf("expat refuses what we pass on:\n%s", passedOn[i])
		case whole && read[i] == nil:
			t.Errorf("expat refuses\n%s\nof which we made\n%s", doc, ours)
		case !whole && read[i] != nil && (o.condition() == notWellFormed || o.condition() == unsupportedEncoding || o.err == ""):
			t.Errorf("expat accepts\n%s\nand we say %q", doc, o.err)
		}
		trees := map[string]*node{"what we pass on": readOn[i]}
		if whole {
			trees["the input"] = read[i]
			accepted++
		} else if o.condition() == notWellFormed {
			malformed++
		}
		for what, tree := range trees {
			if tree == nil {
				continue
			}
			var theirs []string
			for _, kid := range tree.Kids {
				theirs = append(theirs, kid.neutral(ns.Client).String())
			}
			if !slices.Equal(ours, theirs) {
				t.Errorf("%s\nexpat reads in %s\n%s\nwe read\n%s", doc, what, theirs, ours)
			}
		}
		if t.Failed() {
			t.Fatalf("document %d of %d", i, len(docs))
		}
	}
	if accepted < 1000 || malformed < 1000 {
		t.Errorf("a poor selection: %d accepted, %d malformed of %d", accepted, malformed, len(docs))
	}
	t.Logf("%d documents: %d accepted, %d malformed", len(docs), accepted, malformed)
}

// mutate changes one thing in doc.
func mutate(random *rand.Rand, doc, other string) string {
	bits := []string{"<", ">", "/", "'", `"`, "=", " ", "&", ";", ":", "]]>", "<![CDATA[", "&#38;", "&#x3C;", "&#13;", "\r", "\n", "\t",
		"a", "p:", "xmlns", "xmlns=''", " xmlns='jabber:server'", " xmlns:p='u'", " xmlns:p='jabber:client'", " p:x='1'", " x='1'",
		"<a>", "</a>", "<b/>", "<p:b/>", "é", "·", "\xc3", "\xa9", "\xef\xbf\xbe", "\x00", "\x0b", "😀", "xml", "xml:lang"}
	cut := func(s string) (int, int) {
		i, j := random.IntN(len(s)+1), random.IntN(len(s)+1)
		return min(i, j), max(i, j)
	}
	// Past the header, mostly: a stream that does not open tests nothing else.
	from := min(len(header), len(doc))
	if random.IntN(10) == 0 {
		from = 0
	}
	head, tail := doc[:from], doc[from:]
	at, end := cut(tail)
	switch random.IntN(6) {
	case 0, 1:
		tail = tail[:at] + bits[random.IntN(len(bits))] + tail[at:]
	case 2:
		if at < len(tail) {
			tail = tail[:at] + tail[at+1:]
		}
	case 3:
		if at < len(tail) {
			tail = tail[:at] + bits[random.IntN(len(bits))] + tail[at+1:]
		}
	case 4:
		tail = tail[:end] + tail[at:end] + tail[end:]
	case 5:
		other = strings.TrimPrefix(other, header)
		from, to := cut(other)
		tail = tail[:at] + other[from:to] + tail[at:]
	}
	return head + tail
}
