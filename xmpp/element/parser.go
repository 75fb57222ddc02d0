package element

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"sync"
	"unicode/utf8"

	"tombolo/xmpp/ns"
)

// Limits bound what one top-level element, or one stream header, may ask of us. They act at the byte
// that breaks them, with policy-violation. A field that is zero or less has the default, which is for
// a peer that is not authenticated yet.
type Limits struct {
	// Bytes that one element may have, as it is sent and also in canonical form, where escaping and
	// declarations may need more room. Default 10,000.
	Bytes int
	// Depth of nesting, where the top-level element is 1. Default 64.
	Depth int
	// Attrs of one tag, namespace declarations among them. Default 64.
	Attrs int
	// Namespaces is how many prefixes may be declared in one place: on an element and on those around
	// it. Those of the stream header count apart. Default 16.
	Namespaces int
}

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
	// Grown is how many bytes canonical form needed that were not sent.
	Grown int
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

// maxHeaderSpace is the longest namespace that a header may give a prefix for: each element that uses the prefix
// has to declare it. No registered one is a quarter as long.
const maxHeaderSpace = 256

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
	grown  int // what was charged to it beyond the bytes taken

	out     []byte // canonical form of the element being read, as far as it is known
	ready   Kind   // the token that the last byte completed
	tag     int    // in out: where the tag being read begins
	name    int    // in out: where the name being read begins
	colon   int    // in out: the colon of that name, -1 for none
	element attribute
	attrs   []tagAttr
	scoped  bool // the tag being read has a prefix or a declaration somewhere
	scope
	lent *scratch // whose memory out, attrs and frames are; nil between elements

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
	or := func(limit, otherwise int) int {
		if limit <= 0 {
			return otherwise
		}
		return min(limit, math.MaxInt32/4) // offsets and sums of them fit an int32
	}
	p.limits = Limits{or(l.Bytes, 10_000), or(l.Depth, 64), or(l.Attrs, 64), or(l.Namespaces, 16)}
}

// Reset begins a new stream on the same connection, as after TLS and SASL (RFC 6120 sections 5.4.3.3
// and 6.4.6). Limits stay.
func (p *Parser) Reset() {
	*p = Parser{limits: p.limits, out: p.out[:0], attrs: p.attrs[:0], scope: p.scope, lent: p.lent}
	p.scope.reset()
}

// scratch is what a parser needs while an element is under way. Connections that read take turns with it.
type scratch struct {
	out    []byte
	attrs  []tagAttr
	frames []frame
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Idle lets go of scratch memory if no element is under way, and reports whether that is so. It is
// for a connection that has nothing to read.
func (p *Parser) Idle() bool {
	if p.state != outside {
		return false
	}
	if p.lent != nil {
		*p.lent = scratch{p.out[:0], p.attrs[:0], p.frames[:0]}
		scratches.Put(p.lent)
	}
	p.out, p.attrs, p.frames, p.lent = nil, nil, nil, nil
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
	if p.out == nil && p.lent == nil {
		p.lent = scratches.Get().(*scratch)
		p.out, p.attrs, p.frames = p.lent.out, p.lent.attrs, p.lent.frames
	}
	for {
		if p.state == outside && p.pending == 0 {
			p.budget, p.grown = p.limits.Bytes, 0
			space := run(buf[n:], isSpace)
			if space > 0 && p.phase == fresh {
				p.phase = prolog
			}
			n += space
			p.offset += space
		}
		taken, fault := p.read(buf[n:])
		n += taken
		p.offset += taken
		p.budget -= taken
		if fault != nil {
			fault.Offset += p.offset
			p.err = fault
			return n, Token{}, fault
		}
		if p.ready != None || n == len(buf) {
			return n, p.token(), nil
		}
	}
}

// read takes bytes until a token is ready, or the XML declaration is over. The Offset of its error is relative to the first byte that
// was not taken.
func (p *Parser) read(buf []byte) (i int, err *Error) {
	for end := min(len(buf), p.budget); i < end; end = min(len(buf), p.budget) {
		if p.cr { // XML section 2.11: CR LF is one line end
			if p.cr = false; buf[i] == '\n' {
				i++
				continue
			}
		}
		n, b := 0, buf[i:end]
		if b[0] >= utf8.RuneSelf || p.pending > 0 {
			n, err = p.multibyte(b)
		} else {
			switch p.state {
			case inText:
				n, err = p.text(b)
			case inTagName, inTag, inAttrName, afterAttrName, beforeValue, inValue, afterValue, afterSlash:
				n, err = p.tagBytes(b)
			case afterLT:
				n, err = p.openMarkup(b)
			case inEndTag:
				n, err = p.endTagName(b)
			case inCDATA:
				n, err = p.cdata(b)
			default:
				n, err = p.markup(b[0])
			}
		}
		i += n
		if err != nil {
			return i, err
		}
		if p.state == outside || p.ready != None {
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
	return Token{kind, e, p.grown}
}

// markup takes a byte in all the states that take only one.
func (p *Parser) markup(c byte) (n int, err *Error) {
	switch p.state {
	case outside:
		if c != '<' {
			return 0, p.stray()
		}
		if p.phase == closed {
			return 0, malformed("element after the end of the stream")
		}
		p.state, p.out = afterLT, p.out[:0]
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
	case afterHeader:
		if c != '>' {
			return 0, malformed("/ in a tag")
		}
		p.endStream()
	case afterEndTagName:
		if c == '>' {
			p.endTag()
		} else if class[c]&isSpace == 0 {
			return 0, malformed("unexpected character in an end tag")
		}
	}
	return 1, nil
}

// openMarkup takes the byte after "<", and the start tag if it is one.
func (p *Parser) openMarkup(b []byte) (int, *Error) {
	switch c := b[0]; {
	case class[c]&isNameStart != 0:
		if err := p.beginTag(); err != nil {
			return 0, err
		}
		return p.tagBytes(b)
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
