package element

import (
	"strings"

	"tombolo/xmpp/ns"
)

// AppendTo appends e as it is written where the namespace surrounding is the default one: with a
// declaration of its own namespace exactly where that is another. Between content namespaces none is
// written, so a stanza fits streams of every kind; an empty surrounding always declares, which is
// the framing of RFC 7395 and XEP-0206.
func (e Element) AppendTo(dst []byte, surrounding string) []byte {
	head, declaration, rest := e.split(surrounding)
	dst = append(dst, head...)
	dst = append(dst, declaration...)
	return append(dst, rest...)
}

// split cuts e's bytes where a declaration of its namespace belongs, and gives the declaration that
// these surroundings need.
func (e Element) split(surrounding string) (head, declare, rest string) {
	_, end, declared := declaration(e.raw)
	if e.ns == surrounding || isContent(e.ns) && isContent(surrounding) || e.IsZero() {
		return e.raw[:nameEnd(e.raw)], "", e.raw[end:]
	}
	if declared {
		return e.raw[:end], "", e.raw[end:]
	}
	if e.ns == ns.Client {
		return e.raw[:end], " xmlns='" + ns.Client + "'", e.raw[end:]
	}
	return e.raw[:end], " xmlns='" + escape(e.ns) + "'", e.raw[end:]
}

// isContent reports whether a stream's stanzas may be in this namespace (RFC 6120 section 4.8.3,
// XEP-0114).
func isContent(namespace string) bool {
	return namespace == ns.Client || namespace == ns.Server || namespace == ns.Component
}

// WithAttr returns e with this attribute set to value, or without it when value is empty. The name is
// that of an attribute without namespace, or xml:lang. It panics on a name that is none, for names
// are the program's own.
func (e Element) WithAttr(name, value string) Element {
	mustAttrName(name)
	if e.IsZero() {
		return e
	}
	_, start, _ := declaration(e.raw)
	end := start
	for tag := range attributes(e.raw) {
		if e.raw[tag.start:tag.nameEnd] == name {
			start, end = tag.start-1, tag.end
		}
	}
	switch {
	case value != "":
		return Element{e.raw[:start] + " " + name + "='" + escape(value) + "'" + e.raw[end:], e.ns}
	case start < end:
		return Element{e.raw[:start] + e.raw[end:], e.ns}
	}
	return e
}

// With returns e with child appended after everything else in it.
func (e Element) With(child Element) Element {
	if e.IsZero() || child.IsZero() {
		return e
	}
	head, declaration, rest := child.split(e.ns)
	if tag, empty := strings.CutSuffix(e.raw, "/>"); empty {
		return Element{tag + ">" + head + declaration + rest + "</" + e.Name() + ">", e.ns}
	}
	at := strings.LastIndexByte(e.raw, '<')
	return Element{e.raw[:at] + head + declaration + rest + e.raw[at:], e.ns}
}

// Without returns e without the direct children for which drop is true: e itself when there are
// none. Deeper elements are left alone.
func (e Element) Without(drop func(Element) bool) Element {
	var kept strings.Builder
	from := 0
	for at, child := range e.children() {
		if !drop(child) {
			continue
		}
		kept.WriteString(e.raw[from:at])
		from = at + len(child.raw)
	}
	if from == 0 {
		return e
	}
	kept.WriteString(e.raw[from:])
	return Element{kept.String(), e.ns}
}
