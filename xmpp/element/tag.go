package element

import "unicode/utf8"

// Tags, byte by byte. What their names mean is in scope.go.

// beginTag begins a start tag; the first character of the name is still to be taken.
func (p *Parser) beginTag() *Error {
	if p.phase != open {
		p.phase = prolog
	} else if len(p.frames) >= p.limits.Depth {
		return exceeds("more than %d elements deep", p.limits.Depth)
	}
	p.state, p.tag, p.attrs, p.scoped = inTagName, len(p.out), p.attrs[:0], false
	p.out = append(p.out, '<')
	p.beginName()
	return nil
}

// tagBytes takes bytes of a start tag, up to its end if that is there.
func (p *Parser) tagBytes(b []byte) (n int, err *Error) {
	for n < len(b) && b[n] < utf8.RuneSelf {
		c := b[n]
		space := class[c]&isSpace != 0
		switch p.state {
		case inTagName, inAttrName:
			took, err := p.nameBytes(b[n:])
			if n += took; err != nil {
				return n, err
			}
			continue
		case inTag, afterValue:
			switch {
			case space:
				p.state = inTag
			case c == '>':
				return n + 1, p.startTag(false)
			case c == '/' && p.phase == open:
				p.state = afterSlash
			case c == '/': // an empty stream: the token for its header comes now, its end at ">"
				err := p.startTag(true)
				p.state = afterHeader
				return n + 1, err
			case p.state == inTag && class[c]&isNameStart != 0:
				if err := p.beginAttr(); err != nil {
					return n, err
				}
				continue
			default:
				return n, malformed("unexpected character in a tag")
			}
		case afterAttrName:
			if c == '=' {
				p.state, p.out = beforeValue, append(p.out, c)
			} else if !space {
				return n, malformed("attribute without value")
			}
		case beforeValue:
			if c == '\'' || c == '"' {
				p.state, p.quote, p.out = inValue, c, append(p.out, c)
			} else if !space {
				return n, malformed("attribute value without quotes")
			}
		case inValue:
			took, err := p.value(b[n:])
			if n += took; p.state != afterValue { // what it met may have changed the budget
				return n, err
			}
			continue
		case afterSlash:
			if c != '>' {
				return n, malformed("/ in a tag")
			}
			return n + 1, p.startTag(true)
		}
		n++
	}
	return n, nil
}

// beginAttr begins an attribute; the first character of the name is still to be taken.
func (p *Parser) beginAttr() *Error {
	if len(p.attrs) >= p.limits.Attrs {
		return exceeds("more than %d attributes", p.limits.Attrs)
	}
	p.state, p.out = inAttrName, append(p.out, ' ')
	p.beginName()
	return nil
}

func (p *Parser) beginName() { p.name, p.colon = len(p.out), -1 }

// nameBegins reports whether the next character begins a name, or the part of it after the colon.
func (p *Parser) nameBegins() bool { return len(p.out) == p.name || len(p.out) == p.colon+1 }

// nameBytes takes the name of an element or attribute up to the byte after it.
func (p *Parser) nameBytes(b []byte) (int, *Error) {
	n := run(b, isName)
	if n > 0 && p.nameBegins() && class[b[0]]&isNameStart == 0 {
		return 0, malformed("character that begins no name")
	}
	p.out = append(p.out, b[:n]...)
	if n == len(b) || b[n] >= utf8.RuneSelf {
		return n, nil
	}
	c := b[n]
	if p.nameBegins() || c == ':' && p.colon >= 0 {
		return n, malformed("name with an empty part or a second colon")
	}
	if c == ':' {
		p.colon, p.out = len(p.out), append(p.out, c)
		return n + 1, nil
	}
	name := attribute{p.name, p.colon, len(p.out), 0}
	p.scoped = p.scoped || p.colon >= 0
	if p.state == inTagName {
		if string(p.out[max(p.name, p.colon+1):]) == "xmlns" {
			// Namespaces in XML reserves it, and encoding/xml finds such an element in no namespace,
			// whatever its surroundings declare.
			return n, &Error{Condition: badFormat, Text: "an element named xmlns"}
		}
		p.element, p.state = name, afterValue
	} else {
		p.attrs = append(p.attrs, tagAttr{attribute: name})
		p.scoped = p.scoped || string(p.out[p.name:]) == "xmlns"
		p.state = afterAttrName
		if n+1 < len(b) && c == '=' && b[n+1] == '\'' { // as nearly always
			p.state, p.quote, p.out = inValue, '\'', append(p.out, "='"...)
			return n + 2, nil
		}
	}
	return n, nil
}

// value takes an attribute value up to and with the next byte that does not stand for itself.
func (p *Parser) value(b []byte) (int, *Error) {
	n := runText(b, isValue)
	p.out = append(p.out, b[:n]...)
	if n == len(b) || b[n] >= utf8.RuneSelf {
		return n, nil
	}
	switch c := b[n]; c {
	case p.quote:
		p.out = append(p.out, c)
		p.attrs[len(p.attrs)-1].end = len(p.out)
		p.quote, p.state = 0, afterValue
	case '\'', '"':
		p.out = append(p.out, c)
	case '&':
		p.reference()
	case '\t', '\n', '\r': // XML section 3.3.3
		p.out, p.cr = append(p.out, ' '), c == '\r'
	case '>':
		p.write('>', isValue)
	case '<':
		return n, malformed("< in an attribute value")
	default:
		return n, malformed("control character")
	}
	return n + 1, nil
}

// endTagName takes the name in an end tag, which must be that of its start tag as it was written.
func (p *Parser) endTagName(b []byte) (int, *Error) {
	want := p.awaited()
	n := 0
	for n < len(b) && n < len(want) && b[n] == want[n] && b[n] < utf8.RuneSelf {
		n++
	}
	p.matched += n
	switch {
	case n == len(b) || b[n] >= utf8.RuneSelf:
		return n, nil
	case n < len(want):
		return n, malformed("end tag without its start tag")
	case b[n] == '>':
		p.endTag()
	case class[b[n]]&isSpace != 0:
		p.state = afterEndTagName
	default:
		return n, malformed("end tag without its start tag")
	}
	return n + 1, nil
}

// endTag ends the element whose end tag was read, or the stream.
func (p *Parser) endTag() {
	if len(p.frames) == 0 {
		p.endStream()
	} else {
		p.closeElement()
	}
}

func (p *Parser) endStream() {
	p.out = p.out[:0]
	p.phase, p.state, p.ready = closed, outside, End
}

// endElement goes on after an element is complete, empty or not.
func (p *Parser) endElement() {
	if p.state = inText; len(p.frames) == 0 {
		p.state, p.ready = outside, Top
	}
	p.literal = len(p.out)
}
