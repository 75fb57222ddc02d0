package element

import "tombolo/xmpp/ns"

// Writer builds one element that the server makes. It only ever appends: Start or Open an element,
// then its attributes, then what is in it, then Close. Everything is escaped as its place needs it.
// A Writer makes one element and is then spent.
//
//	Start("iq", ns.Client).Attr("type", "result").Attr("id", id).
//		Open("query", ns.Version).
//		Leaf("name", ns.Version, "Tombolo").
//		Element()
type Writer struct {
	out   []byte
	open  []opened
	inTag bool // the last start tag lacks its ">"
}

type opened struct {
	ns         string
	name, stop int // in out
}

// Start begins an element in this namespace; any content namespace is the neutral one.
func Start(name, namespace string) *Writer {
	w := &Writer{out: make([]byte, 0, 256), open: make([]opened, 0, 4)}
	return w.begin(name, namespace, ns.Client)
}

// Leaf makes an element that holds only text, which may be empty.
func Leaf(name, namespace, text string) Element {
	return Start(name, namespace).Text(text).Element()
}

// Attr writes an attribute, also when value is empty; the name is as for Element.WithAttr. It may
// follow only Start, Open and Attr, and must not repeat a name.
func (w *Writer) Attr(name, value string) *Writer {
	mustAttrName(name)
	if !w.inTag {
		panic("element: attribute outside a start tag: " + name)
	}
	w.out = append(w.out, ' ')
	w.out = append(w.out, name...)
	w.out = append(w.out, "='"...)
	w.out = AppendEscaped(w.out, value)
	w.out = append(w.out, '\'')
	return w
}

// Open begins a child element.
func (w *Writer) Open(name, namespace string) *Writer {
	surrounding := w.top().ns
	w.endTag()
	return w.begin(name, namespace, surrounding)
}

// Leaf writes a child element that holds only text.
func (w *Writer) Leaf(name, namespace, text string) *Writer {
	return w.Open(name, namespace).Text(text).Close()
}

// Text writes character data. What XML cannot carry becomes U+FFFD.
func (w *Writer) Text(s string) *Writer {
	if w.top(); s != "" {
		w.endTag()
		w.out = appendEscaped(w.out, s, isText)
	}
	return w
}

// Add writes a child element that exists; the zero Element adds nothing.
func (w *Writer) Add(e Element) *Writer {
	if surrounding := w.top().ns; !e.IsZero() {
		w.endTag()
		w.out = e.AppendTo(w.out, surrounding)
	}
	return w
}

// Close ends the innermost open element.
func (w *Writer) Close() *Writer {
	o := w.top()
	w.open = w.open[:len(w.open)-1]
	if w.inTag {
		w.inTag = false
		w.out = append(w.out, "/>"...)
		return w
	}
	w.out = append(w.out, "</"...)
	w.out = append(w.out, w.out[o.name:o.stop]...)
	w.out = append(w.out, '>')
	return w
}

// Element ends what is open and returns the whole.
func (w *Writer) Element() Element {
	for len(w.open) > 0 {
		w.Close()
	}
	return within(string(w.out), ns.Client)
}

func (w *Writer) begin(name, namespace, surrounding string) *Writer {
	mustName(name)
	if isContent(namespace) && isContent(surrounding) {
		namespace = surrounding
	}
	w.out = append(w.out, '<')
	w.open = append(w.open, opened{namespace, len(w.out), len(w.out) + len(name)})
	w.out = append(w.out, name...)
	if namespace != surrounding {
		w.out = append(w.out, " xmlns='"...)
		w.out = AppendEscaped(w.out, namespace)
		w.out = append(w.out, '\'')
	}
	w.inTag = true
	return w
}

func (w *Writer) endTag() {
	if w.inTag {
		w.inTag = false
		w.out = append(w.out, '>')
	}
}

func (w *Writer) top() opened {
	if len(w.open) == 0 {
		panic("element: the root is closed")
	}
	return w.open[len(w.open)-1]
}
