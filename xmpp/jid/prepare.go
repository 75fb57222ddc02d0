package jid

import (
	"errors"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
	reference "mellium.im/xmpp/jid"
)

// Preparation accepts what mellium.im/xmpp/jid accepts and yields the same form, but:
//
//  1. The result is a fixed point. PRECIS and IDNA mappings may need more than one pass (RFC 8264
//     section 7), and an address whose canonical form had another one would be two map keys. We
//     map until nothing changes and refuse what does not settle.
//  2. Domain labels are not empty and keep the limits of DNS, 63 bytes a label and 253 in all,
//     in A-label form: RFC 7622 section 3.2 leaves the limits of RFC 1034 in force.
//  3. An IPv6 literal is written as RFC 5952 says, so that its spellings are one address.
//  4. A part longer than maxRaw bytes is refused before any mapping. No sensible mapping shrinks
//     that to the permitted 1023, and the work that a stranger can ask for stays bounded.
const (
	maxPart  = 1023        // bytes a part, RFC 7622 sections 3.2 to 3.4
	maxRaw   = 4 * maxPart // bytes a part before mapping
	maxPass  = 4           // once, and three times more (RFC 8264 section 7)
	maxLabel = 63          // RFC 1034 section 3.1
	maxName  = 253         // RFC 1034 section 3.1, without the length bytes at both ends
)

const (
	partLocal    = "localpart"
	partDomain   = "domainpart"
	partResource = "resourcepart"
)

// prepareLocal applies UsernameCaseMapped and the exclusions of RFC 7622 section 3.3.1.
func prepareLocal(s string) (string, error) {
	if len(s) > maxRaw {
		return "", malformed(partLocal, "is longer than 1023 bytes")
	}
	upper, ascii := false, true
	for i := 0; i < len(s) && ascii; i++ {
		switch c := s[i]; {
		case c >= utf8.RuneSelf:
			ascii = false
		case c <= ' ' || c == 0x7f:
			return "", malformed(partLocal, "contains a space or a control character")
		case strings.IndexByte(`"&'/:<>@`, c) >= 0:
			return "", malformed(partLocal, "contains one of \"&'/:<>@")
		case 'A' <= c && c <= 'Z':
			upper = true
		}
	}
	switch {
	case !ascii:
		return settle(partLocal, s, func(s string) (string, error) {
			j, err := reference.New(s, "localhost", "")
			return j.Localpart(), err
		})
	case len(s) > maxPart:
		return "", malformed(partLocal, "is longer than 1023 bytes")
	case upper:
		s = strings.ToLower(s)
	}
	return s, nil
}

// prepareResource applies OpaqueString (RFC 7622 section 3.4).
func prepareResource(s string) (string, error) {
	if len(s) > maxRaw {
		return "", malformed(partResource, "is longer than 1023 bytes")
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= utf8.RuneSelf:
			return settle(partResource, s, func(s string) (string, error) {
				j, err := reference.New("", "localhost", s)
				return j.Resourcepart(), err
			})
		case c < ' ' || c == 0x7f:
			return "", malformed(partResource, "contains a control character")
		}
	}
	if len(s) > maxPart {
		return "", malformed(partResource, "is longer than 1023 bytes")
	}
	return s, nil
}

// prepareDomain yields U-labels, or an IP literal (RFC 7622 section 3.2).
func prepareDomain(s string) (string, error) {
	if len(s) > maxRaw {
		return "", malformed(partDomain, "is longer than 1023 bytes")
	}
	if strings.HasPrefix(s, "[") {
		return prepareIPv6(s)
	}
	// One final separator is stripped before anything else is done (RFC 7622 section 3.2), in
	// each of the forms that IDNA takes for a dot.
	if r, size := utf8.DecodeLastRuneInString(s); strings.ContainsRune(".\u3002\uff0e\uff61", r) {
		s = s[:len(s)-size]
	}
	plain, upper := scanLabels(s)
	if !plain {
		var err error
		s, err = settle(partDomain, s, func(s string) (string, error) {
			// The reference strips a dot at each pass; it gets one so that s keeps its own.
			j, err := reference.New("", s+".", "")
			return j.Domainpart(), err
		})
		if err != nil {
			return "", err
		}
	} else if upper {
		s = strings.ToLower(s)
	}
	return s, checkLabels(s)
}

// scanLabels reports whether s is of LDH labels that IDNA leaves as they are but for their case,
// and whether there is a case to fold. Hyphens at the ends of a label and in its third and fourth
// place have a meaning in IDNA (RFC 5891 section 4.2.3.1), so such names are not plain.
func scanLabels(s string) (plain, upper bool) {
	start := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
		case 'A' <= c && c <= 'Z':
			upper = true
		case c == '.':
			start = i + 1
		case c == '-':
			if i == start || i == start+3 && s[i-1] == '-' || i+1 == len(s) || s[i+1] == '.' {
				return false, false
			}
		default:
			return false, false
		}
	}
	return true, upper
}

// checkLabels holds the canonical domain s to the limits of DNS.
func checkLabels(s string) error {
	ascii := ASCIIDomain(s)
	switch {
	case s == "":
		return malformed(partDomain, "is empty")
	case len(s) > maxPart:
		return malformed(partDomain, "is longer than 1023 bytes")
	case len(ascii) > maxName:
		return malformed(partDomain, "is longer than 253 bytes in DNS")
	}
	for start := 0; start <= len(ascii); {
		end := strings.IndexByte(ascii[start:], '.')
		if end < 0 {
			end = len(ascii) - start
		}
		if end == 0 {
			return malformed(partDomain, "has an empty label")
		}
		if end > maxLabel {
			return malformed(partDomain, "has a label longer than 63 bytes")
		}
		start += end + 1
	}
	return nil
}

func prepareIPv6(s string) (string, error) {
	inner, closed := strings.CutSuffix(s[1:], "]")
	ip, err := netip.ParseAddr(inner)
	if !closed || err != nil || !ip.Is6() || ip.Is4In6() || ip.Zone() != "" {
		return "", malformed(partDomain, "is no IPv6 address in brackets")
	}
	canonical := ip.String()
	if canonical == inner {
		return s, nil
	}
	return "[" + canonical + "]", nil
}

// settle applies a mapping of the reference until its result stays the same.
func settle(part, s string, apply func(string) (string, error)) (string, error) {
	for range maxPass {
		mapped, err := apply(s)
		if err == nil && mapped == "" {
			err = errors.New("nothing is left of it")
		}
		if err != nil {
			return "", malformed(part, "is not valid: "+err.Error())
		}
		if mapped == s {
			return s, nil
		}
		s = mapped
	}
	return "", malformed(part, "has no stable canonical form")
}

// ASCIIDomain is a canonical domainpart in A-labels, the form that DNS, TLS and certificates use.
// IP literals come back as they are.
func ASCIIDomain(domain string) string {
	for i := 0; i < len(domain); i++ {
		if domain[i] >= utf8.RuneSelf {
			// The labels were mapped and validated when the JID was made; only the encoding is
			// left to do.
			ascii, err := idna.Punycode.ToASCII(domain)
			if err != nil {
				return domain
			}
			return ascii
		}
	}
	return domain
}
