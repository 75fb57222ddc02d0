// Package element is the XML of XMPP: a Parser that checks what a peer sends and yields one
// top-level element at a time, the immutable Element that the rest of the server passes around, and
// a Writer for the elements that the server makes itself. Every package that touches a stanza uses
// it; start reading at Element, then Parser.
//
// # Canonical form
//
// An Element is a string. The Parser brings what it reads into one form, and everything here keeps
// that form, so that an element can be spliced, cut and sent on without being parsed again, and so
// that the XML parser of whoever receives it sees the very tree that we saw:
//
//   - Nothing but elements, attributes and character data: no declaration, comment, processing
//     instruction or CDATA section. Characters are valid UTF-8 and valid XML 1.0.
//   - A tag is <name a='1' b="2"> or <name/>, with single spaces. Either quote may be used.
//   - "<" and ">" occur only as the two ends of a tag. Carriage returns everywhere, and tabs and line
//     feeds in attributes, occur only as numeric references, and nothing else does.
//   - Elements carry no prefix. The default namespace is declared, as the first attribute, where it
//     differs from the parent's and nowhere else. An attribute in a namespace other than that of
//     xml: has its prefix declared on the same element, and no other prefix is declared.
//   - The content namespaces jabber:client, jabber:server and jabber:component:accept (RFC 6120
//     section 4.8.3) are neutral. A top-level element in any of them has the namespace [ns.Client]
//     and declares nothing, so the same string fits every kind of stream. Below an element in a
//     content namespace any other of them means the same; below a foreign one (as in XEP-0297) a
//     content namespace keeps its name and its declaration.
package element

import (
	"iter"
	"strings"

	"tombolo/xmpp/ns"
)

// Element is one XML element with all that is in it. It is immutable and cheap to copy; the elements
// found in it share its memory. The zero Element is no element: it has no name, attributes or
// children. Two Elements are == when their canonical bytes and namespaces are.
type Element struct {
	raw string // in canonical form, relative to ns: it needs a declaration where ns is not in scope
	ns  string // the namespace of the root; also of each child that declares none
}

// Attr is an attribute. Name is the local name, NS is empty unless the attribute has a prefix.
type Attr struct{ NS, Name, Value string }

// IsZero reports whether e is no element.
func (e Element) IsZero() bool { return e.raw == "" }

// Name returns the local name.
func (e Element) Name() string {
	if e.raw == "" {
		return ""
	}
	return e.raw[1:nameEnd(e.raw)]
}

// NS returns the namespace, which is [ns.Client] for a stanza of whatever stream.
func (e Element) NS() string { return e.ns }

// Is reports whether e has this local name and this namespace.
func (e Element) Is(name, ns string) bool { return e.ns == ns && e.Name() == name }

// Attr returns the value of an attribute without namespace, "" when it is absent.
func (e Element) Attr(name string) string {
	value, _ := e.LookupAttr(name)
	return value
}

// LookupAttr returns the value of an attribute without namespace and whether it is there.
func (e Element) LookupAttr(name string) (string, bool) {
	for tag := range attributes(e.raw) {
		if e.raw[tag.start:tag.nameEnd] == name && name != "xmlns" && tag.colon < 0 {
			return unescape(tag.value(e.raw)), true
		}
	}
	return "", false
}

// Lang returns the value of xml:lang on this very element, "" when it is absent.
func (e Element) Lang() string {
	for tag := range attributes(e.raw) {
		if e.raw[tag.start:tag.nameEnd] == "xml:lang" {
			return unescape(tag.value(e.raw))
		}
	}
	return ""
}

// Attrs yields the attributes in their order, without namespace declarations.
func (e Element) Attrs() iter.Seq[Attr] {
	return func(yield func(Attr) bool) {
		for tag := range attributes(e.raw) {
			prefix, name := tag.split(e.raw)
			if prefix == "xmlns" || prefix == "" && name == "xmlns" {
				continue
			}
			if !yield(Attr{e.prefixed(prefix), name, unescape(tag.value(e.raw))}) {
				return
			}
		}
	}
}

// prefixed returns the namespace of an attribute prefix, which the canonical form declares on the
// element itself.
func (e Element) prefixed(prefix string) string {
	switch prefix {
	case "":
		return ""
	case "xml":
		return ns.XML
	}
	for tag := range attributes(e.raw) {
		if p, name := tag.split(e.raw); p == "xmlns" && name == prefix {
			return unescape(tag.value(e.raw))
		}
	}
	return ""
}

// Children yields the child elements. They share e's memory.
func (e Element) Children() iter.Seq[Element] {
	return func(yield func(Element) bool) {
		for _, child := range e.children() {
			if !yield(child) {
				return
			}
		}
	}
}

// children yields each child element with the offset in e.raw where it starts.
func (e Element) children() iter.Seq2[int, Element] {
	return func(yield func(int, Element) bool) {
		at, empty := tagEnd(e.raw, 0)
		for !empty {
			at += strings.IndexByte(e.raw[at:], '<')
			if e.raw[at+1] == '/' {
				return
			}
			end := elementEnd(e.raw, at)
			if !yield(at, within(e.raw[at:end], e.ns)) {
				return
			}
			at = end
		}
	}
}

// Named yields the child elements with this name and namespace.
func (e Element) Named(name, ns string) iter.Seq[Element] {
	return func(yield func(Element) bool) {
		if !strings.Contains(e.raw, name) {
			return // most that is looked for in a message is not there, and this is quicker
		}
		for _, child := range e.children() {
			if child.Is(name, ns) && !yield(child) {
				return
			}
		}
	}
}

// Child returns the first child element with this name and namespace, else the zero Element.
func (e Element) Child(name, ns string) Element {
	for child := range e.Named(name, ns) {
		return child
	}
	return Element{}
}

// Payload returns the first child element, which in an IQ request is its payload (RFC 6120
// section 8.2.3), else the zero Element.
func (e Element) Payload() Element {
	for child := range e.Children() {
		return child
	}
	return Element{}
}

// Text returns the character data directly inside e, that of child elements left out.
func (e Element) Text() string {
	at, empty := tagEnd(e.raw, 0)
	if empty {
		return ""
	}
	next := at + strings.IndexByte(e.raw[at:], '<')
	if e.raw[next+1] == '/' {
		return unescape(e.raw[at:next])
	}
	var text strings.Builder
	for e.raw[next+1] != '/' {
		text.WriteString(e.raw[at:next])
		at = elementEnd(e.raw, next)
		next = at + strings.IndexByte(e.raw[at:], '<')
	}
	text.WriteString(e.raw[at:next])
	return unescape(text.String())
}

// String returns the canonical bytes as they stand alone: the namespace is declared unless it is a
// content namespace. ParseOne with [ns.Client] reads them back.
func (e Element) String() string {
	head, declaration, rest := e.split(ns.Client)
	if declaration == "" && len(head)+len(rest) == len(e.raw) {
		return e.raw
	}
	return head + declaration + rest
}

// The rest of this file reads canonical bytes. None of it checks anything: the Parser did.

// within gives raw, found where the namespace surrounding is in scope, its own namespace.
func within(raw, surrounding string) Element {
	value, _, declared := declaration(raw)
	if !declared {
		return Element{raw, surrounding}
	}
	return Element{raw, unescape(value)}
}

// declaration returns the default namespace that raw's root declares, still escaped, and where in
// raw the declaration ends. It begins where the name ends.
func declaration(raw string) (value string, end int, ok bool) {
	const first = " xmlns="
	at := nameEnd(raw)
	if !strings.HasPrefix(raw[at:], first) {
		return "", at, false
	}
	at += len(first) + 1
	n := strings.IndexByte(raw[at:], raw[at-1])
	return raw[at : at+n], at + n + 1, true
}

// nameEnd returns the offset after the name in the start tag that raw begins with.
func nameEnd(raw string) int {
	for i := 1; i < len(raw); i++ {
		if c := raw[i]; c == ' ' || c == '>' || c == '/' {
			return i
		}
	}
	return len(raw)
}

// tagEnd returns the offset after the start tag at offset at, and whether it is an empty-element
// tag. No element counts as an empty one.
func tagEnd(raw string, at int) (end int, empty bool) {
	if raw == "" {
		return 0, true
	}
	end = at + strings.IndexByte(raw[at:], '>') + 1
	return end, raw[end-2] == '/'
}

// elementEnd returns the offset after the element that starts at offset at.
func elementEnd(raw string, at int) int {
	for depth := 0; ; {
		at += strings.IndexByte(raw[at:], '<')
		closing := raw[at+1] == '/'
		end, empty := tagEnd(raw, at)
		switch {
		case closing:
			depth--
		case !empty:
			depth++
		}
		if at = end; depth == 0 {
			return at
		}
	}
}

// attribute says where one attribute stands in a start tag: name from start to nameEnd, then "=", a
// quote, the value, and the same quote before end.
type attribute struct{ start, colon, nameEnd, end int }

func (a attribute) value(raw string) string { return raw[a.nameEnd+2 : a.end-1] }

func (a attribute) split(raw string) (prefix, name string) {
	if a.colon < 0 {
		return "", raw[a.start:a.nameEnd]
	}
	return raw[a.start:a.colon], raw[a.colon+1 : a.nameEnd]
}

// attributes yields where the attributes of raw's root stand, declarations among them.
func attributes(raw string) iter.Seq[attribute] {
	return func(yield func(attribute) bool) {
		for at := nameEnd(raw); at < len(raw) && raw[at] == ' '; {
			a := attribute{start: at + 1, colon: -1}
			for at++; raw[at] != '='; at++ {
				if raw[at] == ':' {
					a.colon = at
				}
			}
			a.nameEnd = at
			at += 2
			at += strings.IndexByte(raw[at:], raw[at-1]) + 1
			if a.end = at; !yield(a) {
				return
			}
		}
	}
}
