// Package jid is the XMPP address (RFC 7622): localpart@domainpart/resourcepart.
//
// A JID here is a small comparable value in canonical form, so two addresses of the same entity
// are ==, and a JID is a map key as it stands. Every package of the server that names an entity
// uses it. Start with Parse for what arrives as one string, New for parts, and the predicates
// IsServer, IsAccount and IsBare for what an address means.
//
// Addresses in lower-case ASCII, which is nearly all of them, cost one scan and no allocation.
// The rest goes through mellium.im/xmpp/jid, which knows PRECIS (RFC 8264, 8265) and IDNA. Where
// this package is stricter on purpose is said in prepare.go.
package jid

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// ErrMalformed is what every refusal of an address wraps; its text names the part and the reason.
var ErrMalformed = errors.New("malformed JID")

// A JID is an address in canonical form. The zero JID is no address; IsZero tells.
type JID struct {
	full string // the canonical string form
	// local and domain are where those parts end in full. A localpart is never empty, so local
	// is 0 exactly where there is none. Three parts of at most 1023 bytes fit into 16 bits.
	local, domain uint16
}

// Parse reads an address in its string form and brings it into canonical form. The JID shares
// memory with s where s is canonical already; Clone separates them.
func Parse(s string) (JID, error) {
	// The separators are found before anything is mapped, since a mapping may yield them (RFC
	// 7622 section 3.1).
	rest, resource, hasResource := strings.Cut(s, "/")
	if hasResource && resource == "" {
		return JID{}, malformed(partResource, "is empty")
	}
	local, domain, hasLocal := strings.Cut(rest, "@")
	if !hasLocal {
		local, domain = "", rest
	} else if local == "" {
		return JID{}, malformed(partLocal, "is empty")
	}
	return build(s, local, domain, resource)
}

// MustParse is Parse for constants: it panics where Parse fails.
func MustParse(s string) JID {
	j, err := Parse(s)
	if err != nil {
		panic(fmt.Sprintf("jid: parse %q: %v", s, err))
	}
	return j
}

// New makes an address from its parts. An empty local or resource means that there is none.
func New(local, domain, resource string) (JID, error) {
	return build("", local, domain, resource)
}

// build prepares the parts and joins them. Where preparation changed none of them, the string
// they were cut from is the canonical form.
func build(whole, local, domain, resource string) (JID, error) {
	l, err := prepareLocal(local)
	if err != nil {
		return JID{}, err
	}
	d, err := prepareDomain(domain)
	if err != nil {
		return JID{}, err
	}
	r, err := prepareResource(resource)
	if err != nil {
		return JID{}, err
	}
	if whole == "" || l != local || d != domain || r != resource {
		whole = join(l, d, r)
	}
	end := len(d)
	if l != "" {
		end += len(l) + 1
	}
	return JID{full: whole, local: uint16(len(l)), domain: uint16(end)}, nil
}

func join(local, domain, resource string) string {
	switch {
	case local == "" && resource == "":
		return domain
	case local == "":
		return domain + "/" + resource
	case resource == "":
		return local + "@" + domain
	}
	return local + "@" + domain + "/" + resource
}

// String is the canonical string form; empty for the zero JID.
func (j JID) String() string { return j.full }

// Local is the localpart, or empty.
func (j JID) Local() string { return j.full[:j.local] }

// Domain is the domainpart, in U-labels; ASCIIDomain has the form for DNS and TLS.
func (j JID) Domain() string { return j.full[j.domainStart():j.domain] }

// Resource is the resourcepart, or empty.
func (j JID) Resource() string {
	if j.IsBare() {
		return ""
	}
	return j.full[j.domain+1:]
}

func (j JID) domainStart() uint16 {
	if j.local == 0 {
		return 0
	}
	return j.local + 1
}

// Bare is the address without its resource.
func (j JID) Bare() JID {
	j.full = j.full[:j.domain]
	return j
}

// Server is the address of the domain alone.
func (j JID) Server() JID {
	domain := j.Domain()
	return JID{full: domain, domain: uint16(len(domain))}
}

// WithResource is the address with another resource, or with none where resource is empty.
func (j JID) WithResource(resource string) (JID, error) {
	if j.IsZero() {
		return JID{}, malformed(partDomain, "is empty")
	}
	r, err := prepareResource(resource)
	if err != nil {
		return JID{}, err
	}
	j = j.Bare()
	if r != "" {
		j.full += "/" + r
	}
	return j, nil
}

// IsZero reports that j is no address at all.
func (j JID) IsZero() bool { return j.full == "" }

// IsBare reports that j has no resource. The zero JID has none.
func (j JID) IsBare() bool { return len(j.full) == int(j.domain) }

// IsServer reports that j is a domain and nothing else.
func (j JID) IsServer() bool { return j.local == 0 && j.IsBare() && !j.IsZero() }

// IsAccount reports that j is the bare address of a user: a localpart and no resource.
func (j JID) IsAccount() bool { return j.local > 0 && j.IsBare() }

// Clone is j with memory of its own. What outlives the bytes it was parsed from (a map key, a
// queue) keeps a clone, lest an address of 30 bytes hold a whole read buffer.
func (j JID) Clone() JID {
	j.full = strings.Clone(j.full)
	return j
}

// Compare orders addresses by domain, then localpart, then resource, each byte by byte, so that
// the addresses of a domain stand together.
func Compare(a, b JID) int {
	return cmp.Or(
		strings.Compare(a.Domain(), b.Domain()),
		strings.Compare(a.Local(), b.Local()),
		strings.Compare(a.Resource(), b.Resource()),
	)
}

// MarshalText is the canonical string form; empty for the zero JID.
func (j JID) MarshalText() ([]byte, error) { return []byte(j.full), nil }

// UnmarshalText parses text; empty text is the zero JID.
func (j *JID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*j = JID{}
		return nil
	}
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*j = parsed
	return nil
}

func malformed(part, reason string) error {
	return fmt.Errorf("%w: the %s %s", ErrMalformed, part, reason)
}
