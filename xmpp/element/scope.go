package element

import (
	"bytes"

	"tombolo/xmpp/ns"
)

// Namespaces of the element being read. Which ones a start tag means is known at its end, since a
// prefix may be used before the declaration; startTag then decides whether the tag may stay as it was
// read, and otherwise writes it anew.
//
// All names in scope lie in one buffer that grows and shrinks with the nesting, so that a stanza with
// several payloads costs no memory for their namespaces. Each namespace is there once: equal spans are
// equal namespaces, and an endless name is not compared with itself for each short tag that uses it.

// span is a piece of a buffer.
type span struct{ start, end int32 }

func (s span) of(b []byte) []byte { return b[s.start:s.end] }

type scope struct {
	content  string // default namespace that the header declared
	names    []byte // prefixes and namespaces in scope
	spaces   []span // the namespaces in names; the first is ns.Client
	bindings []binding
	declared int     // bindings of the header
	base     frame   // surroundings of a top-level element
	frames   []frame // open elements, the innermost last
}

// binding is a declared prefix.
type binding struct{ prefix, ns span } // in names

// frame is an open element.
type frame struct {
	name     span  // local name, in out
	written  span  // name with its prefix, in names; empty without prefix
	ns       span  // namespace in canonical form: the default one for its children as we write them
	dflt     span  // default namespace for its children as they were read
	plain    bool  // the two are the same: a child without prefix and declaration needs none
	names    int32 // what was in scope before
	spaces   int32
	bindings int32
}

// tagAttr is an attribute of the tag being read.
type tagAttr struct {
	attribute
	role    role
	binding int // of its prefix, when prefixed
}

type role uint8

const (
	local       role = iota // without prefix, or with xml:
	prefixed                // with another prefix
	declaresNS              // xmlns
	declaresPre             // xmlns:prefix
)

// reset forgets everything but the neutral namespace around a top-level element.
func (s *scope) reset() {
	s.content = ""
	s.names, s.spaces = s.names[:0], s.spaces[:0]
	s.bindings, s.declared = s.bindings[:0], 0
	s.frames = s.frames[:0]
	s.base = frame{ns: s.space([]byte(ns.Client)), dflt: s.space(nil)}
}

// enter makes content the default namespace around top-level elements.
func (s *scope) enter(content string) {
	s.content = content
	s.base.dflt = s.space([]byte(content))
	s.base.plain = s.same(s.base.dflt, s.base.ns)
	s.declared = len(s.bindings)
}

func (s *scope) keep(name []byte) span {
	start := int32(len(s.names))
	s.names = append(s.names, name...)
	return span{start, int32(len(s.names))}
}

// space finds or keeps a namespace.
func (s *scope) space(name []byte) span {
	for _, known := range s.spaces {
		if bytes.Equal(known.of(s.names), name) {
			return known
		}
	}
	s.spaces = append(s.spaces, s.keep(name))
	return s.spaces[len(s.spaces)-1]
}

// leave puts out of scope what an element declared.
func (s *scope) leave(f *frame) {
	s.names, s.spaces, s.bindings = s.names[:f.names], s.spaces[:f.spaces], s.bindings[:f.bindings]
}

// same reports whether two namespaces are one, as all content namespaces are.
func (s *scope) same(a, b span) bool {
	return a == b || s.isContent(a) && s.isContent(b)
}

func (s *scope) isContent(a span) bool {
	return a.end-a.start <= int32(len(ns.Component)) && isContent(string(a.of(s.names)))
}

// lookup finds the binding of a prefix, -1 for none.
func (s *scope) lookup(prefix []byte) int {
	for i := len(s.bindings) - 1; i >= 0; i-- {
		if string(s.bindings[i].prefix.of(s.names)) == string(prefix) {
			return i
		}
	}
	return -1
}

// startTag ends a start tag that was read up to its ">" or "/>".
func (p *Parser) startTag(empty bool) *Error {
	parent := p.innermost()
	f := frame{
		name:     span{int32(p.element.start), int32(p.element.nameEnd)},
		ns:       parent.ns,
		dflt:     parent.dflt,
		plain:    true,
		names:    int32(len(p.names)),
		spaces:   int32(len(p.spaces)),
		bindings: int32(len(p.bindings)),
	}
	scoped := p.scoped || !parent.plain
	if scoped {
		if err := p.resolve(&f, parent.ns); err != nil {
			return err
		}
	}
	if err := p.unique(); err != nil {
		return err
	}
	if scoped && !p.asRead(&f, parent.ns) {
		p.rewrite(&f, parent.ns)
	}
	switch {
	case p.phase != open:
		p.out = append(p.out, "/>"...)
		p.phase, p.state, p.ready = open, outside, Header
		p.base.written = f.written
		p.enter(string(f.dflt.of(p.names)))
	case empty:
		p.out = append(p.out, "/>"...)
		p.leave(&f)
		p.endElement()
	default:
		p.out = append(p.out, '>')
		p.frames = append(p.frames, f)
		p.state, p.literal = inText, len(p.out)
	}
	return nil
}

// closeElement writes the end tag of the innermost element.
func (p *Parser) closeElement() {
	f := p.innermost()
	p.out = append(p.out, "</"...)
	p.out = append(p.out, f.name.of(p.out)...)
	p.out = append(p.out, '>')
	p.leave(f)
	p.frames = p.frames[:len(p.frames)-1]
	p.endElement()
}

func (p *Parser) innermost() *frame {
	if len(p.frames) == 0 {
		return &p.base
	}
	return &p.frames[len(p.frames)-1]
}

// awaited is what an end tag's name must still bring.
func (p *Parser) awaited() []byte {
	f := p.innermost()
	if f.written.start < f.written.end {
		return f.written.of(p.names)[p.matched:]
	}
	return f.name.of(p.out)[p.matched:]
}

// resolve finds the namespaces that the tag just read declares and uses.
func (p *Parser) resolve(f *frame, surrounding span) *Error {
	for i := range p.attrs {
		a := &p.attrs[i]
		prefix, name := p.parts(a.attribute)
		switch {
		case string(prefix) == "xmlns":
			a.role = declaresPre
			if err := p.bind(name, p.declaredSpace(a.attribute)); err != nil {
				return err
			}
		case len(prefix) == 0 && string(name) == "xmlns":
			a.role = declaresNS
			f.dflt = p.declaredSpace(a.attribute)
			if n := f.dflt.of(p.names); string(n) == ns.XML || string(n) == ns.XMLNS {
				return malformed("reserved namespace")
			}
		}
	}
	own := f.dflt
	prefix, _ := p.parts(p.element)
	switch string(prefix) {
	case "":
	case "xml": // which leaves no way to write the element without a prefix
		return &Error{Condition: badNamespacePrefix, Text: "element with the prefix xml"}
	default:
		i := p.lookup(prefix)
		if i < 0 {
			return malformed("undeclared prefix")
		}
		own = p.bindings[i].ns
	}
	if p.phase != open || len(prefix) > 0 {
		f.written = p.keep(p.out[p.element.start:p.element.nameEnd])
	}
	if f.ns = own; p.same(own, surrounding) {
		f.ns = surrounding
	}
	f.plain = p.same(f.dflt, f.ns)
	for i := range p.attrs {
		a := &p.attrs[i]
		prefix, _ := p.parts(a.attribute)
		if a.role != local || len(prefix) == 0 || string(prefix) == "xml" {
			continue
		}
		if a.role, a.binding = prefixed, p.lookup(prefix); a.binding < 0 {
			return malformed("undeclared prefix")
		}
	}
	return nil
}

// bind declares a prefix, by the constraints of Namespaces in XML 1.0 sections 3 and 5.
func (p *Parser) bind(prefix []byte, namespace span) *Error {
	isXML := string(prefix) == "xml"
	switch name := namespace.of(p.names); {
	case isXML != (string(name) == ns.XML), string(prefix) == "xmlns", string(name) == ns.XMLNS:
		return malformed("reserved prefix or namespace")
	case isXML:
		return nil
	case string(name) == "xmlns": // as encoding/xml calls that of declarations, which it takes such attributes for
		return &Error{Condition: badNamespacePrefix, Text: "a prefix for the namespace xmlns"}
	case len(name) == 0:
		return malformed("prefix without a namespace")
	case p.phase != open && len(name) > maxHeaderSpace:
		return exceeds("a prefix for a namespace of more than %d bytes", maxHeaderSpace)
	case len(p.bindings)-p.declared >= p.limits.Namespaces:
		return exceeds("more than %d prefixes declared", p.limits.Namespaces)
	}
	p.bindings = append(p.bindings, binding{p.keep(prefix), namespace})
	return nil
}

// declaredSpace keeps the namespace that a declaration names.
func (p *Parser) declaredSpace(a attribute) span {
	value := p.out[a.nameEnd+2 : a.end-1]
	if bytes.IndexByte(value, '&') >= 0 {
		value = []byte(unescape(string(value)))
	}
	return p.space(value)
}

// unique refuses two attributes of one name (XML section 3.1, Namespaces in XML section 6.3).
func (p *Parser) unique() *Error {
	for i := range p.attrs {
		a := &p.attrs[i]
		for j := range p.attrs[:i] {
			if p.sameName(a, &p.attrs[j]) {
				return malformed("duplicate attribute")
			}
		}
	}
	return nil
}

func (p *Parser) sameName(a, b *tagAttr) bool {
	if a.role != prefixed || b.role != prefixed {
		return string(p.out[a.start:a.nameEnd]) == string(p.out[b.start:b.nameEnd])
	}
	_, x := p.parts(a.attribute)
	_, y := p.parts(b.attribute)
	return string(x) == string(y) && p.bindings[a.binding].ns == p.bindings[b.binding].ns
}

// asRead reports whether the tag is in canonical form as it was read.
func (p *Parser) asRead(f *frame, surrounding span) bool {
	declares := len(p.attrs) > 0 && p.attrs[0].role == declaresNS
	if p.element.colon >= 0 || declares != (f.ns != surrounding) {
		return false
	}
	for i := range p.attrs {
		switch a := &p.attrs[i]; {
		case a.role == declaresNS && i > 0,
			a.role == declaresPre && !p.usesPrefix(a),
			a.role == prefixed && a.binding < int(f.bindings):
			return false
		}
	}
	return true
}

// usesPrefix reports whether an attribute of the tag has the prefix that a declares.
func (p *Parser) usesPrefix(a *tagAttr) bool {
	_, declared := p.parts(a.attribute)
	for i := range p.attrs {
		prefix, _ := p.parts(p.attrs[i].attribute)
		if p.attrs[i].role == prefixed && string(prefix) == string(declared) {
			return true
		}
	}
	return false
}

// rewrite writes the tag anew, in canonical form: first behind the tag as it was read, then over it.
func (p *Parser) rewrite(f *frame, surrounding span) {
	old := len(p.out)
	_, name := p.parts(p.element)
	p.out = append(p.out, '<')
	p.out = append(p.out, name...)
	if f.ns != surrounding {
		p.declare("xmlns", f.ns)
	}
	for i := range p.attrs {
		if a := &p.attrs[i]; a.role == prefixed && !p.declaredBefore(i) {
			prefix, _ := p.parts(a.attribute)
			p.declare("xmlns:"+string(prefix), p.bindings[a.binding].ns)
		}
	}
	for i := range p.attrs {
		if a := &p.attrs[i]; a.role == local || a.role == prefixed {
			p.out = append(p.out, ' ')
			p.out = append(p.out, p.out[a.start:a.end]...)
		}
	}
	size := copy(p.out[p.tag:], p.out[old:])
	p.out = p.out[:p.tag+size]
	p.charge(size - (old - p.tag))
	f.name = span{int32(p.tag + 1), int32(p.tag + 1 + len(name))}
}

func (p *Parser) declare(attr string, namespace span) {
	p.out = append(p.out, ' ')
	p.out = append(p.out, attr...)
	p.out = append(p.out, "='"...)
	p.out = AppendEscaped(p.out, string(namespace.of(p.names)))
	p.out = append(p.out, '\'')
}

// declaredBefore reports whether an attribute before the i-th needs the same declaration.
func (p *Parser) declaredBefore(i int) bool {
	for j := range p.attrs[:i] {
		if p.attrs[j].role == prefixed && p.attrs[j].binding == p.attrs[i].binding {
			return true
		}
	}
	return false
}

// parts splits a name that is in out.
func (p *Parser) parts(a attribute) (prefix, name []byte) {
	if a.colon < 0 {
		return nil, p.out[a.start:a.nameEnd]
	}
	return p.out[a.start:a.colon], p.out[a.colon+1 : a.nameEnd]
}
