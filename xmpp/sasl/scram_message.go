package sasl

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// clientFirst is client-first-message of RFC 5802 section 7.
type clientFirst struct {
	gs2     string // the GS2 header with its final comma, as received
	flag    byte   // 'n': the client has no channel binding, 'y': it thinks that we have none, 'p': it uses it
	binding string // the type, where flag is 'p'
	authzid string
	bare    string // client-first-message-bare, as received
	user    string
	nonce   string
}

func parseClientFirst(message string) (clientFirst, error) {
	m := clientFirst{}
	flag, rest, ok1 := strings.Cut(message, ",")
	authzid, bare, ok2 := strings.Cut(rest, ",")
	if !ok1 || !ok2 {
		return m, malformed("the GS2 header is incomplete")
	}
	m.gs2, m.bare = message[:len(message)-len(bare)], bare

	binding, bound := strings.CutPrefix(flag, "p=")
	switch {
	case bound && isBindingName(binding):
		m.flag, m.binding = 'p', binding
	case flag == "n" || flag == "y":
		m.flag = flag[0]
	default:
		return m, malformed("bad channel binding flag")
	}
	if authzid != "" {
		name, ok := strings.CutPrefix(authzid, "a=")
		if m.authzid, ok = decodeName(name, ok); !ok {
			return m, malformed("bad authzid")
		}
	}

	attributes := strings.Split(bare, ",")
	if strings.HasPrefix(bare, "m=") {
		return m, malformed("a mandatory extension")
	}
	if len(attributes) < 2 {
		return m, malformed("user or nonce is missing")
	}
	name, ok := strings.CutPrefix(attributes[0], "n=")
	if m.user, ok = decodeName(name, ok); !ok {
		return m, malformed("bad user")
	}
	if m.nonce, ok = strings.CutPrefix(attributes[1], "r="); !ok || !isNonce(m.nonce) {
		return m, malformed("bad nonce")
	}
	return m, checkExtensions(attributes[2:])
}

// clientFinal is client-final-message of RFC 5802 section 7.
type clientFinal struct {
	binding      string // base64
	nonce        string
	proof        string // base64
	withoutProof string // client-final-message-without-proof, as received
}

func parseClientFinal(message string) (clientFinal, error) {
	m := clientFinal{}
	end := strings.LastIndexByte(message, ',')
	if end < 0 {
		return m, malformed("the proof is missing")
	}
	m.withoutProof = message[:end]
	attributes := strings.Split(m.withoutProof, ",")
	if len(attributes) < 2 {
		return m, malformed("channel binding or nonce is missing")
	}
	var ok bool
	if m.binding, ok = strings.CutPrefix(attributes[0], "c="); !ok {
		return m, malformed("bad channel binding")
	}
	if m.nonce, ok = strings.CutPrefix(attributes[1], "r="); !ok || !isNonce(m.nonce) {
		return m, malformed("bad nonce")
	}
	if m.proof, ok = strings.CutPrefix(message[end+1:], "p="); !ok {
		return m, malformed("bad proof")
	}
	return m, checkExtensions(attributes[2:])
}

// checkExtensions lets pass what a later SCRAM may add, to be ignored, but neither a mandatory
// extension nor an attribute out of its place (RFC 5802 section 5.1).
func checkExtensions(attributes []string) error {
	for _, a := range attributes {
		switch {
		case len(a) < 3 || !isLetter(a[0]) || a[1] != '=' || !isValue(a[2:]):
			return malformed("not an attribute")
		case a[0] == 'm':
			return malformed("a mandatory extension")
		case strings.IndexByte("anrcsipve", a[0]) >= 0:
			return malformed("an attribute out of its place")
		}
	}
	return nil
}

// decodeName undoes the escapes of a saslname, which are these two and no others.
func decodeName(name string, ok bool) (string, bool) {
	if !ok || name == "" || !isValue(name) {
		return "", false
	}
	before, rest, escaped := strings.Cut(name, "=")
	if !escaped {
		return name, true
	}
	var b strings.Builder
	for ; escaped; before, rest, escaped = strings.Cut(rest, "=") {
		b.WriteString(before)
		switch {
		case strings.HasPrefix(rest, "2C"):
			b.WriteByte(',')
		case strings.HasPrefix(rest, "3D"):
			b.WriteByte('=')
		default:
			return "", false
		}
		rest = rest[2:]
	}
	b.WriteString(before)
	return b.String(), true
}

// decodeBase64 decodes text that must be of size bytes. The decoder skips line breaks; the length
// of the text leaves no room for any.
func decodeBase64(text string, size int) ([]byte, error) {
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(data) != size || len(text) != base64.StdEncoding.EncodedLen(size) {
		return nil, malformed("bad proof")
	}
	return data, nil
}

// isBindingName: 1*(ALPHA / DIGIT / "." / "-").
func isBindingName(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isLetter(c) && (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return s != ""
}

// isNonce: printable ASCII; the comma has been cut at.
func isNonce(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != ""
}

// isValue: UTF-8 without NUL; the comma has been cut at.
func isValue(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func malformed(cause string) error { return fail(MalformedRequest, cause) }
