package element

import (
	"bytes"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Characters: text, CDATA, references, what is outside ASCII, and the XML declaration.

// run counts the bytes of a class at the beginning of b.
func run(b []byte, of uint8) int {
	for i, c := range b {
		if class[c]&of == 0 {
			return i
		}
	}
	return len(b)
}

// runText is run with complete characters outside ASCII counted in.
func runText(b []byte, of uint8) int {
	for i := 0; ; {
		i += run(b[i:], of)
		if i == len(b) || b[i] < utf8.RuneSelf {
			return i
		}
		r, size := utf8.DecodeRune(b[i:])
		if size == 1 || !isChar(r) {
			return i // or incomplete: multibyte tells
		}
		i += size
	}
}

// text takes character data up to and with the next byte that does not stand for itself.
func (p *Parser) text(b []byte) (int, *Error) {
	n := runText(b, isText)
	p.out = append(p.out, b[:n]...)
	if n == len(b) || b[n] >= utf8.RuneSelf {
		return n, nil
	}
	switch b[n] {
	case '<':
		p.state = afterLT
	case '&':
		p.reference()
	case '\r':
		p.out, p.cr = append(p.out, '\n'), true
	case '>':
		if bytes.HasSuffix(p.out[p.literal:], []byte("]]")) {
			return n, malformed("]]> in character data")
		}
		p.write('>', isText)
	default:
		return n, malformed("control character")
	}
	return n + 1, nil
}

// cdata takes the content of a CDATA section, which becomes text.
func (p *Parser) cdata(b []byte) (int, *Error) {
	switch c := b[0]; {
	case c == ']':
		p.matched++
		p.out = append(p.out, c)
		return 1, nil
	case c == '>' && p.matched >= len("]]"):
		p.out = p.out[:len(p.out)-len("]]")]
		p.state, p.literal = inText, len(p.out)
		return 1, nil
	}
	p.matched = 0
	n := 0
	for n < len(b) && b[n] != ']' && class[b[n]]&isText != 0 {
		n++
	}
	p.out = append(p.out, b[:n]...)
	if n > 0 {
		return n, nil
	}
	switch b[0] {
	case '<', '>', '&':
		p.write(rune(b[0]), isText)
	case '\r':
		p.out, p.cr = append(p.out, '\n'), true
	default:
		return 0, malformed("control character")
	}
	return 1, nil
}

// reference begins a reference, in text or in a value.
func (p *Parser) reference() {
	p.state, p.ref, p.out = inReference, len(p.out), append(p.out, '&')
}

// referenceByte takes a byte after "&". The named ones stay as they are, numbers become characters.
func (p *Parser) referenceByte(c byte) (int, *Error) {
	name := p.out[p.ref+1:]
	var ok bool
	switch {
	case c == ';':
		return 1, p.endReference()
	case len(name) == 0:
		ok = c == '#' || class[c]&isNameStart != 0
	case name[0] != '#':
		ok = class[c]&isName != 0
	case '0' <= c && c <= '9':
		ok = true
	case len(name) == 1:
		ok = c == 'x'
	default:
		ok = name[1] == 'x' && ('a' <= c|0x20 && c|0x20 <= 'f')
	}
	if !ok {
		return 0, malformed("& without a reference")
	}
	p.out = append(p.out, c)
	return 1, nil
}

func (p *Parser) endReference() *Error {
	name := string(p.out[p.ref+1:])
	r := entity(name)
	switch {
	case name == "":
		return malformed("& without a reference")
	case r < 0 && name[0] == '#':
		return malformed("reference to no character")
	case r < 0:
		return restricted("entity that XML does not predefine") // RFC 6120 section 11.1
	}
	var plain uint8 = isText
	if p.state = inText; p.quote != 0 {
		p.state, plain = inValue, isValue
	}
	if name[0] != '#' {
		p.out = append(p.out, ';')
		return nil
	}
	p.out = appendRune(p.out[:p.ref], r, plain)
	p.charge(len(p.out) - p.ref - len("&;") - len(name))
	p.literal = len(p.out)
	return nil
}

// write writes one character that was not read as such, and charges what it takes more than the one
// byte it was.
func (p *Parser) write(r rune, plain uint8) {
	before := len(p.out)
	p.out = appendRune(p.out, r, plain)
	p.charge(len(p.out) - before - 1)
}

// charge counts bytes of canonical form that were not in the input, so that a short input cannot make
// a long element.
func (p *Parser) charge(n int) {
	if n > 0 {
		p.budget, p.grown = p.budget-n, p.grown+n
	}
}

// multibyte takes one character outside ASCII, or as much of it as is there.
func (p *Parser) multibyte(b []byte) (int, *Error) {
	var char [utf8.UTFMax]byte
	had := copy(char[:], p.partial[:p.pending])
	seq := char[:had+copy(char[had:], b)]
	if !utf8.FullRune(seq) {
		p.pending = copy(p.partial[:], seq)
		return len(seq) - had, nil
	}
	p.pending = 0
	r, size := utf8.DecodeRune(seq)
	if r == utf8.RuneError && size == 1 {
		return 0, &Error{unsupportedEncoding, "not UTF-8", -had} // RFC 6120 section 4.9.3.22
	}
	if err := p.character(r, seq[:size]); err != nil {
		err.Offset = -had
		return 0, err
	}
	return size - had, nil
}

// character takes one character outside ASCII.
func (p *Parser) character(r rune, char []byte) (err *Error) {
	if !isChar(r) {
		return malformed("character that XML does not allow")
	}
	switch p.state {
	case inCDATA:
		p.matched = 0
	case afterLT, inTag:
		if !isNameRune(r, true) {
			return malformed("character that begins no name")
		}
		if p.state == inTag {
			err = p.beginAttr()
		} else {
			err = p.beginTag()
		}
	case inTagName, inAttrName:
		if !isNameRune(r, p.nameBegins()) {
			return malformed("character outside names")
		}
	case inEndTag:
		if !bytes.HasPrefix(p.awaited(), char) {
			return malformed("end tag without its start tag")
		}
		p.matched += len(char)
		return nil
	case inText, inValue:
	case outside:
		return p.stray()
	default:
		return malformed("character outside text")
	}
	p.out = append(p.out, char...)
	return err
}

// stray refuses text outside any element.
func (p *Parser) stray() *Error {
	if p.phase == open {
		return &Error{Condition: badFormat, Text: "text between stanzas"}
	}
	return malformed("text outside the stream")
}

// xmlDeclaration is production 23 of XML 1.0, without "<?".
var xmlDeclaration = regexp.MustCompile(`^xml[ \t\r\n]+version[ \t\r\n]*=[ \t\r\n]*['"]1\.0['"]` +
	`([ \t\r\n]+encoding[ \t\r\n]*=[ \t\r\n]*('[A-Za-z][\w.-]*'|"[A-Za-z][\w.-]*"))?` +
	`([ \t\r\n]+standalone[ \t\r\n]*=[ \t\r\n]*('(yes|no)'|"(yes|no)"))?[ \t\r\n]*\?>$`)

// declaration judges a complete XML declaration (RFC 6120 sections 11.5 and 11.6).
func (p *Parser) declaration() *Error {
	text := string(p.out)
	match := xmlDeclaration.FindStringSubmatch(text)
	switch {
	case match == nil && len(text) > 3 && text[:3] == "xml" && class[text[3]]&isSpace != 0:
		return malformed("XML declaration")
	case match == nil:
		return restricted("processing instruction")
	case match[2] != "" && !strings.EqualFold(strings.Trim(match[2], `'"`), "utf-8"):
		return &Error{Condition: unsupportedEncoding, Text: "only UTF-8 is supported"}
	}
	p.phase, p.state = prolog, outside
	return nil
}
