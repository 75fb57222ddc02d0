package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// What a splitter finds.
type kind uint8

const (
	nothing kind = iota // more must be read first
	header              // <stream:stream ...>
	element             // a whole child of the stream
	end                 // </stream:stream>
)

// A splitter cuts what a server sends into the children of the stream, without looking into them
// more than that takes: a load generator that parses costs more than the server that it measures.
type splitter struct {
	buf   []byte
	start int // of the element that is being read
	pos   int // up to where it has been looked at
	end   int // of what has been read
	depth int // of open elements, the stream included
}

const (
	firstBuffer   = 2 << 10 // thousands of idle sessions have one each
	largestBuffer = 4 << 20 // nobody's stanza is larger
)

var errTooLarge = errors.New("the server sends a stanza of more than 4 MiB")

// fill reads once. What next has returned is overwritten.
func (s *splitter) fill(r io.Reader) error {
	if s.start > 0 {
		copy(s.buf, s.buf[s.start:s.end])
		s.pos -= s.start
		s.end -= s.start
		s.start = 0
	}
	if s.end == len(s.buf) {
		if len(s.buf) >= largestBuffer {
			return errTooLarge
		}
		s.buf = append(s.buf, make([]byte, max(firstBuffer, len(s.buf)))...)
	}
	n, err := r.Read(s.buf[s.end:])
	s.end += n
	if n > 0 {
		return nil // an error comes again with the next Read
	}
	return err
}

// restart expects a new stream: after STARTTLS and after authentication (RFC 6120 sections 5.4.3.3
// and 6.4.6). Nothing of the old one may be left.
func (s *splitter) restart() error {
	if s.pos < s.end {
		return fmt.Errorf("the server sends %q before the new stream", s.buf[s.pos:s.end])
	}
	s.start, s.pos, s.end, s.depth = 0, 0, 0, 0
	return nil
}

// next is what comes next of what has been read. The bytes are valid until fill.
func (s *splitter) next() (kind, []byte, error) {
	for {
		between := s.depth <= 1 && s.start == s.pos
		i := bytes.IndexByte(s.buf[s.pos:s.end], '<')
		if i < 0 {
			s.pos = s.end
			if between { // white space that keeps the connection alive
				s.start = s.end
			}
			return nothing, nil, nil
		}
		if s.pos += i; between {
			s.start = s.pos
		}
		tag, err := tagAt(s.buf[s.pos:s.end])
		if tag == nil || err != nil {
			return nothing, nil, err
		}
		begin := s.start
		s.pos += len(tag)
		switch {
		case tag[1] == '?':
			s.start = s.pos
		case tag[1] == '!': // CDATA
		case tag[1] == '/':
			if s.depth--; s.depth == 1 {
				s.start = s.pos
				return element, s.buf[begin:s.pos], nil
			}
			if s.depth == 0 {
				s.start = s.pos
				return end, s.buf[begin:s.pos], nil
			}
		case tag[len(tag)-2] == '/':
			if s.depth == 1 {
				s.start = s.pos
				return element, s.buf[begin:s.pos], nil
			}
		default:
			if s.depth++; s.depth == 1 {
				s.start = s.pos
				return header, s.buf[begin:s.pos], nil
			}
		}
		if s.depth < 0 || s.depth == 0 && tag[1] != '?' {
			return nothing, nil, fmt.Errorf("the server sends %q outside of a stream", tag)
		}
	}
}

// tagAt is the tag, declaration or CDATA section that b begins with; nil if it is not all there.
func tagAt(b []byte) ([]byte, error) {
	const cdata = "<![CDATA["
	if len(b) > 1 && b[1] == '!' {
		n := min(len(b), len(cdata))
		if string(b[:n]) != cdata[:n] {
			return nil, fmt.Errorf("the server sends %q, which XMPP does not allow (RFC 6120 section 11.1)", b[:n])
		}
		if i := bytes.Index(b, []byte("]]>")); i >= 0 {
			return b[:i+3], nil
		}
		return nil, nil
	}
	quote := byte(0)
	for i, c := range b {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '>':
			return b[:i+1], nil
		}
	}
	return nil, nil
}

// attribute is the value of an attribute of an element's first tag, as it is written.
func attribute(el []byte, name string) string {
	tag, _ := tagAt(el)
	for rest := tag; ; {
		i := bytes.Index(rest, []byte(name))
		if i < 1 {
			return ""
		}
		before := rest[i-1]
		rest = rest[i+len(name):]
		if len(rest) > 2 && rest[0] == '=' && (before == ' ' || before == '\n' || before == '\t') {
			if j := bytes.IndexByte(rest[2:], rest[1]); j >= 0 {
				return string(rest[2 : 2+j])
			}
		}
	}
}

// named says whether an element's name, without a prefix, is this.
func named(el []byte, name string) bool {
	rest := el[1:]
	if i := bytes.IndexAny(rest, ": />"); i >= 0 && rest[i] == ':' {
		rest = rest[i+1:]
	}
	return len(rest) > len(name) && string(rest[:len(name)]) == name && bytes.IndexByte([]byte(" \t\r\n/>"), rest[len(name)]) >= 0
}

// text is what stands between the first tag of this name in an element and the next tag, as it is
// written.
func text(el []byte, name string) (string, bool) {
	for rest := el; ; {
		i := bytes.IndexByte(rest, '<')
		if i < 0 {
			return "", false
		}
		rest = rest[i:]
		tag, _ := tagAt(rest)
		if tag == nil {
			return "", false
		}
		rest = rest[len(tag):]
		if named(tag, name) && tag[len(tag)-2] != '/' {
			content, _, found := bytes.Cut(rest, []byte{'<'})
			return string(content), found
		}
	}
}
