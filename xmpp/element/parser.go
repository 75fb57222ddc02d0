package element

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"tombolo/xmpp/ns"
)

// Limits bound what one top-level element, or one stream header, may ask of us. They act at the byte
// that breaks them, with policy-violation. A field that is zero has its value from DefaultLimits.
type Limits struct {
	// Bytes that one element may have, as it is sent and also in canonical form, where escaping and
	// declarations may need more room.
	Bytes int
	// Depth of nesting, where the top-level element is 1.
	Depth int
	// Attrs of one tag, namespace declarations among them.
	Attrs int
	// Namespaces is how many prefixes may be declared in one place: on an element and on those around
	// it. Those of the stream header count apart.
	Namespaces int
}

// DefaultLimits are for a peer that is not authenticated yet, who needs little.
var DefaultLimits = Limits{Bytes: 10_000, Depth: 64, Attrs: 64, Namespaces: 16}

// Kind says what a Token is.
type Kind uint8

// The parts of a stream (RFC 6120 section 4.1).
const (
	None   Kind = iota
	Header      // the open tag of the stream; its content namespace is Parser.Content
	Top         // a complete top-level element: a stanza or an element of negotiation
	End         // the close tag of the stream
)

// Token is what Parse found. A Header has for its Element the open tag, closed.
type Token struct {
	Kind    Kind
	Element Element
}

// Error is input that we refuse, and with it the stream.
type Error struct {
	Condition string // a stream error condition of RFC 6120 section 4.9.3
	Text      string // what was wrong, in words that the peer may read
	Offset    int    // of the refused byte or character, from the beginning of the stream
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s at byte %d", e.Condition, e.Text, e.Offset)
}

// The conditions that a parser can find.
const (
	badFormat           = "bad-format"
	badNamespacePrefix  = "bad-namespace-prefix"
	notWellFormed       = "not-well-formed"
	policyViolation     = "policy-violation"
	restrictedXML       = "restricted-xml"
	unsupportedEncoding = "unsupported-encoding"
)

func malformed(text string) *Error { return &Error{Condition: notWellFormed, Text: text} }

func restricted(text string) *Error { return &Error{Condition: restrictedXML, Text: text} }

func exceeds(format string, limit int) *Error {
	return &Error{Condition: policyViolation, Text: fmt.Sprintf(format, limit)}
}

// Parser reads one XML stream, pushed to it in pieces of any size. It has neither reader nor
// goroutine, and between elements next to no memory. What it finds does not depend on the pieces.
//
// It is a machine that takes a byte at a time and writes canonical form as it goes, so most input is
// copied in runs. A start tag is looked at once more when it is complete (see startTag), for only
// then are its namespaces known.
type Parser struct {
	limits Limits
	phase  phase
	state  state
	err    *Error
	offset int // bytes taken before those of the Parse call under way
	budget int // what Limits.Bytes leaves to the element being read, counted from the same place

	out     []byte // canonical form of the element being read, as far as it is known
	ready   Kind   // the token that the last byte completed
	tag     int    // in out: where the tag being read begins
	name    int    // in out: where the name being read begins
	colon   int    // in out: the colon of that name, -1 for none
	element attribute
	attrs   []tagAttr
	scoped  bool // the tag being read has a prefix or a declaration somewhere
	scope

	quote   byte // of the attribute value being read, else 0
	matched int  // bytes read of "CDATA[", of brackets that may end that, or of an end tag's name
	literal int  // in out: after this, "]" in text stood there as such
	ref     int  // in out: the "&" of the reference being read
	cr      bool // the byte before was a carriage return, now written as a line feed
	partial [utf8.UTFMax - 1]byte
	pending int // bytes in partial: the beginning of a character
}

// phase is how far the stream has come.
type phase uint8

const (
	fresh  phase = iota // nothing read: only here may an XML declaration begin
	prolog              // before the header
	open                // the header was read
	closed              // the stream has ended
)

// state is what the next byte is part of.
type state uint8

const (
	outside         state = iota // any element
	afterLT                      // "<"
	inDeclaration                // "<?" at the beginning of the stream
	afterBang                    // "<!"
	inOpening                    // "<![", the opening of a CDATA section
	inCDATA                      //
	inText                       // character data of an element
	inReference                  // "&", in text or in a value
	inTagName                    //
	inTag                        // a start tag, after space
	inAttrName                   //
	afterAttrName                // before "="
	beforeValue                  // before the quote
	inValue                      //
	afterValue                   // after the quote
	afterSlash                   // "/" of an empty-element tag
	afterHeader                  // the same in the header, whose token is out already
	inEndTag                     // the name in an end tag
	afterEndTagName              //
)

// keepScratch is how much scratch memory survives the element that needed it, in bytes.
const keepScratch = 4 << 10

// NewParser returns a parser for a new stream.
func NewParser(l Limits) *Parser {
	p := new(Parser)
	p.SetLimits(l)
	p.Reset()
	return p
}

// SetLimits changes the limits, from the next element on.
func (p *Parser) SetLimits(l Limits) {
	set := func(limit *int, value, otherwise int) {
		if value <= 0 {
			value = otherwise
		}
		*limit = min(value, math.MaxInt32/4) // offsets and sums of them fit an int32
	}
	set(&p.limits.Bytes, l.Bytes, DefaultLimits.Bytes)
	set(&p.limits.Depth, l.Depth, DefaultLimits.Depth)
	set(&p.limits.Attrs, l.Attrs, DefaultLimits.Attrs)
	set(&p.limits.Namespaces, l.Namespaces, DefaultLimits.Namespaces)
}

// Reset begins a new stream on the same connection, as after TLS and SASL (RFC 6120 sections 5.4.3.3
// and 6.4.6). Limits stay.
func (p *Parser) Reset() {
	p.phase, p.state, p.err, p.offset = fresh, outside, nil, 0
	p.out, p.attrs = p.out[:0], p.attrs[:0]
	p.quote, p.cr, p.pending = 0, false, 0
	p.scope.reset()
}

// Idle lets go of scratch memory if no element is under way, and reports whether that is so. It is
// for a connection that has nothing to read.
func (p *Parser) Idle() bool {
	if p.state != outside {
		return false
	}
	p.out, p.attrs, p.frames = nil, nil, nil
	return true
}

// Content returns the default namespace that the stream header declared, as it is written there.
func (p *Parser) Content() string { return p.content }

// Parse takes bytes of buf until it has a token or buf ends, and says how many it took. With a token
// of kind None it took all and wants more. White space between top-level elements, which keeps
// connections alive, is taken without a word. After an error, which is always an *Error, the parser
// repeats it until Reset.
func (p *Parser) Parse(buf []byte) (n int, tok Token, err error) {
	if p.err != nil {
		return 0, Token{}, p.err
	}
	if p.state == outside && p.pending == 0 {
		n = run(buf, isSpace)
		if n > 0 && p.phase == fresh {
			p.phase = prolog
		}
		p.offset += n
		p.budget = p.limits.Bytes
	}
	taken, fault := p.read(buf[n:])
	if fault != nil {
		fault.Offset += p.offset + taken
		p.err = fault
		return n + taken, Token{}, fault
	}
	p.offset += taken
	p.budget -= taken
	return n + taken, p.token(), nil
}

// read takes bytes until a token is ready. The Offset of its error is relative to the first byte that
// was not taken.
func (p *Parser) read(buf []byte) (i int, err *Error) {
	for end := min(len(buf), p.budget); i < end; end = min(len(buf), p.budget) {
		if p.cr { // XML section 2.11: CR LF is one line end
			if p.cr = false; buf[i] == '\n' {
				i++
				continue
			}
		}
		n := 0
		switch b := buf[i:end]; {
		case b[0] >= utf8.RuneSelf || p.pending > 0:
			n, err = p.multibyte(b)
		case p.state == inText:
			n, err = p.text(b)
		case p.state == inTagName || p.state == inAttrName:
			n, err = p.nameRun(b)
		case p.state == inValue:
			n, err = p.value(b)
		case p.state == inEndTag:
			n, err = p.endTagName(b)
		case p.state == inCDATA:
			n, err = p.cdata(b)
		default:
			n, err = p.markup(b[0])
		}
		i += n
		if err != nil {
			return i, err
		}
		if p.ready != None {
			if i > p.budget {
				return i - 1, exceeds("more than %d bytes", p.limits.Bytes)
			}
			return i, nil
		}
	}
	if i < len(buf) {
		return i, exceeds("more than %d bytes", p.limits.Bytes)
	}
	return i, nil
}

// token hands out what is ready and makes room for the next.
func (p *Parser) token() Token {
	kind := p.ready
	p.ready = None
	if kind == None || kind == End {
		return Token{Kind: kind}
	}
	e := within(string(p.out), ns.Client)
	p.out = p.out[:0]
	if cap(p.out) > keepScratch {
		p.out = nil
	}
	if cap(p.names) > keepScratch {
		p.names = slices.Clip(bytes.Clone(p.names))
	}
	return Token{kind, e}
}

// run counts the bytes of a class at the beginning of b.
func run(b []byte, of uint8) int {
	for i, c := range b {
		if class[c]&of == 0 {
			return i
		}
	}
	return len(b)
}

// text takes character data up to and with the next byte that does not stand for itself.
func (p *Parser) text(b []byte) (int, *Error) {
	n := run(b, isText)
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
	n := run(b, isText)
	if bracket := bytes.IndexByte(b[:n], ']'); bracket >= 0 {
		n = bracket
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

// value takes an attribute value up to and with the next byte that does not stand for itself.
func (p *Parser) value(b []byte) (int, *Error) {
	n := run(b, isValue)
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

// write writes one character that was not read as such, and charges what it takes more than the one
// byte it was.
func (p *Parser) write(r rune, plain uint8) {
	before := len(p.out)
	p.out = appendRune(p.out, r, plain)
	p.charge(len(p.out) - before - 1)
}

// charge counts bytes of canonical form that were not in the input, so that a short input cannot make
// a long element.
func (p *Parser) charge(n int) { p.budget -= max(n, 0) }

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

// markup takes a byte in all the states that take only one.
func (p *Parser) markup(c byte) (n int, err *Error) {
	space := class[c]&isSpace != 0
	switch p.state {
	case outside:
		if c != '<' {
			return 0, p.stray()
		}
		if p.phase == closed {
			return 0, malformed("element after the end of the stream")
		}
		p.state, p.out = afterLT, p.out[:0]
	case afterLT:
		return p.openMarkup(c)
	case inDeclaration:
		if p.out = append(p.out, c); c == '>' && bytes.HasSuffix(p.out, []byte("?>")) {
			return 1, p.declaration()
		}
	case afterBang:
		return 1, p.openSection(c)
	case inOpening:
		const opening = "CDATA["
		if c != opening[p.matched] {
			return 0, malformed("neither CDATA nor anything else")
		}
		if p.matched++; p.matched == len(opening) {
			p.state, p.matched = inCDATA, 0
		}
	case inReference:
		return p.referenceByte(c)
	case inTag, afterValue:
		switch {
		case space:
			p.state = inTag
		case c == '/' || c == '>':
			return 1, p.endOfTag(c)
		case p.state == inTag && class[c]&isNameStart != 0:
			return 0, p.beginAttr()
		default:
			return 0, malformed("unexpected character in a tag")
		}
	case afterAttrName:
		if c == '=' {
			p.state, p.out = beforeValue, append(p.out, c)
		} else if !space {
			return 0, malformed("attribute without value")
		}
	case beforeValue:
		if c == '\'' || c == '"' {
			p.state, p.quote, p.out = inValue, c, append(p.out, c)
		} else if !space {
			return 0, malformed("attribute value without quotes")
		}
	case afterSlash, afterHeader:
		if c != '>' {
			return 0, malformed("/ in a tag")
		}
		if p.state == afterSlash {
			return 1, p.startTag(true)
		}
		p.endStream()
	case afterEndTagName:
		if c == '>' {
			p.endTag()
		} else if !space {
			return 0, malformed("unexpected character in an end tag")
		}
	}
	return 1, nil
}

// openMarkup takes the byte after "<".
func (p *Parser) openMarkup(c byte) (int, *Error) {
	switch {
	case class[c]&isNameStart != 0:
		return 0, p.beginTag()
	case c == '/' && p.phase == open:
		p.state, p.matched = inEndTag, 0
	case c == '!':
		p.state = afterBang
	case c == '?' && p.phase == fresh:
		p.state = inDeclaration
	case c == '?':
		return 0, restricted("processing instruction")
	default:
		return 0, malformed("< without a tag")
	}
	return 1, nil
}

// openSection takes the byte after "<!".
func (p *Parser) openSection(c byte) *Error {
	switch {
	case c == '-' || c == 'D':
		return restricted("comment or document type")
	case c != '[':
		return malformed("<! without meaning")
	case len(p.frames) == 0:
		return p.stray()
	}
	p.state, p.matched = inOpening, 0
	return nil
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

// beginTag begins a start tag; its first byte is still to be read.
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

// beginAttr begins an attribute; its first byte is still to be read.
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

// nameRun takes the name of an element or attribute up to and with the byte after it.
func (p *Parser) nameRun(b []byte) (int, *Error) {
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
		p.element, p.state = name, afterValue
	} else {
		p.attrs = append(p.attrs, tagAttr{attribute: name})
		p.scoped = p.scoped || string(p.out[p.name:]) == "xmlns"
		p.state = afterAttrName
	}
	return n, nil
}

// endOfTag takes "/" or ">" of a start tag.
func (p *Parser) endOfTag(c byte) *Error {
	if c == '>' {
		return p.startTag(false)
	}
	if p.state = afterSlash; p.phase == open {
		return nil
	}
	// A stream that is empty: its beginning and its end are two tokens.
	err := p.startTag(true)
	p.state = afterHeader
	return err
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

// ParseOne reads one element that is stored, framed or written in a test, and nothing else: content
// is the namespace that is the default one around it. It knows no limits; all else it checks as
// Parser does, so that a damaged store cannot send what a peer could not.
func ParseOne(s, content string) (Element, error) {
	p := NewParser(Limits{math.MaxInt, math.MaxInt, math.MaxInt, math.MaxInt})
	p.phase = open
	p.scope.enter(content)
	p.out = make([]byte, 0, len(s))
	n, tok, err := p.Parse([]byte(s))
	switch rest := s[n:]; {
	case err != nil:
		return Element{}, fmt.Errorf("element: %w", err)
	case tok.Kind != Top:
		return Element{}, fmt.Errorf("element: %w", &Error{notWellFormed, "incomplete", n})
	case run([]byte(rest), isSpace) < len(rest):
		return Element{}, fmt.Errorf("element: %w", &Error{notWellFormed, "more than one element", n})
	}
	return tok.Element, nil
}
