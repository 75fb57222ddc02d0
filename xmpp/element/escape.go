package element

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Classes of ASCII bytes, one bit each.
const (
	isText      = 1 << iota // stands for itself in character data
	isValue                 // stands for itself in an attribute value, whatever the quotes
	isNameStart             // may begin a name; the colon is not part of a name here
	isName                  // may continue a name
	isSpace                 // the S production
)

// class classifies every byte; those of multi-byte characters belong to no class.
var class = func() (class [256]uint8) {
	for c := range byte(utf8.RuneSelf) {
		switch {
		case c == '\t' || c == '\n':
			class[c] = isText | isSpace
		case c == '\r':
			class[c] = isSpace
		case c == ' ':
			class[c] = isText | isValue | isSpace
		case c < ' ' || c == '<' || c == '>' || c == '&':
		case c == '\'' || c == '"':
			class[c] = isText
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_':
			class[c] = isText | isValue | isNameStart | isName
		case '0' <= c && c <= '9' || c == '-' || c == '.':
			class[c] = isText | isValue | isName
		default:
			class[c] = isText | isValue
		}
	}
	return class
}()

// isChar is the Char production of XML 1.0. Surrogates are no characters and never get here as runes.
func isChar(r rune) bool {
	return r >= ' ' && r != 0xFFFE && r != 0xFFFF || r == '\t' || r == '\n' || r == '\r'
}

// isNameRune reports whether r may stand in a name, or begin one.
func isNameRune(r rune, begins bool) bool {
	switch {
	case r < utf8.RuneSelf && begins:
		return class[r]&isNameStart != 0
	case r < utf8.RuneSelf:
		return class[r]&isName != 0
	}
	return unicode.Is(nameStart, r) || !begins && unicode.Is(nameOther, r)
}

// mustName panics unless s is a name without colon. What the program writes is its own; a name from
// elsewhere would let data become markup.
func mustName(s string) {
	for i, r := range s {
		if !isNameRune(r, i == 0) {
			panic("element: not a name: " + s)
		}
	}
	if s == "" {
		panic("element: empty name")
	}
}

func mustAttrName(s string) {
	if s == "xmlns" {
		panic("element: a namespace declaration is not an attribute")
	}
	mustName(strings.TrimPrefix(s, "xml:"))
}

// AppendEscaped appends s as it may stand both between tags and between either kind of quotes. What
// XML 1.0 cannot carry at all (most control characters, broken UTF-8) becomes U+FFFD.
func AppendEscaped(dst []byte, s string) []byte { return appendEscaped(dst, s, isValue) }

// escape is AppendEscaped for strings.
func escape(s string) string {
	for i := range len(s) {
		if class[s[i]]&isValue == 0 {
			return string(AppendEscaped(nil, s))
		}
	}
	return s
}

// appendEscaped escapes for the place where the bytes of class plain stand for themselves.
func appendEscaped(dst []byte, s string, plain uint8) []byte {
	for i := 0; i < len(s); {
		start := i
		for i < len(s) && class[s[i]]&plain != 0 {
			i++
		}
		dst = append(dst, s[start:i]...)
		if i < len(s) {
			r, size := utf8.DecodeRuneInString(s[i:])
			dst = appendRune(dst, r, plain)
			i += size
		}
	}
	return dst
}

// appendRune appends one character, escaped for the place where bytes of class plain stand for
// themselves. The result is the only canonical spelling that is not the character itself.
func appendRune(dst []byte, r rune, plain uint8) []byte {
	if r < utf8.RuneSelf && class[r]&plain != 0 {
		return append(dst, byte(r))
	}
	switch r {
	case '<':
		return append(dst, "&lt;"...)
	case '>':
		return append(dst, "&gt;"...)
	case '&':
		return append(dst, "&amp;"...)
	case '\'':
		return append(dst, "&apos;"...)
	case '"':
		return append(dst, "&quot;"...)
	case '\t':
		return append(dst, "&#9;"...)
	case '\n':
		return append(dst, "&#10;"...)
	case '\r':
		return append(dst, "&#13;"...)
	}
	if !isChar(r) {
		r = utf8.RuneError
	}
	return utf8.AppendRune(dst, r)
}

// entity returns the character of a reference, given without "&" and ";": one of the five entities
// that XML predefines, or a number. It is -1 for any other, and for a number that is no character.
func entity(name string) rune {
	switch name {
	case "lt":
		return '<'
	case "gt":
		return '>'
	case "amp":
		return '&'
	case "apos":
		return '\''
	case "quot":
		return '"'
	}
	digits, ok := strings.CutPrefix(name, "#")
	if !ok || digits == "" || digits == "x" {
		return -1
	}
	base := rune(10)
	if digits[0] == 'x' {
		digits, base = digits[1:], 16
	}
	var r rune
	for _, c := range []byte(digits) {
		digit := rune(c|0x20) - 'a' + 10 // of a letter
		if c <= '9' {
			digit = rune(c - '0')
		}
		if r = r*base + digit; r > unicode.MaxRune {
			return -1
		}
	}
	if !utf8.ValidRune(r) || !isChar(r) {
		return -1
	}
	return r
}

// unescape resolves the references in canonical bytes. Without any it returns s itself.
func unescape(s string) string {
	at := strings.IndexByte(s, '&')
	if at < 0 {
		return s
	}
	plain := make([]byte, 0, len(s))
	for ; at >= 0; at = strings.IndexByte(s, '&') {
		plain = append(plain, s[:at]...)
		name, rest, _ := strings.Cut(s[at+1:], ";")
		plain = utf8.AppendRune(plain, entity(name))
		s = rest
	}
	return string(append(plain, s...))
}
