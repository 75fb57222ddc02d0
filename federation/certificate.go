package federation

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tombolo/xmpp/jid"
)

// A proof is how a domain was proved; the empty one is no proof.
type proof string

const (
	byCertificate proof = "certificate" // a valid chain, and a name in it
	byPin         proof = "pin"         // a key that the operator named
	byDialback    proof = "dialback"    // XEP-0220; outbound: DNS led us to the peer
)

// judge says whether the peer's certificate proves a domain, by the terms for that domain. The TLS
// layer only asks for a certificate and checks that the peer has its key; everything else is decided
// here, for both directions and after every handshake.
func (t *terms) judge(shown *credential, domain string, roots *x509.CertPool, now time.Time) (proof, error) {
	if shown == nil {
		return "", errors.New("there is no TLS")
	}
	if len(shown.PeerCertificates) == 0 {
		return "", errors.New("the peer showed no certificate")
	}
	leaf := shown.PeerCertificates[0]
	if len(t.pins) > 0 {
		if slices.Contains(t.pins, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)) {
			return byPin, nil
		}
		return "", errors.New("the key is none of the pinned ones")
	}
	if err := shown.proves(domain, roots, now); err != nil {
		return "", err
	}
	return byCertificate, nil
}

// A credential is what a peer showed in its handshake. Whether that is valid is found out once and not for
// each domain that the peer names: a chain can be made such that it takes a long time.
type credential struct {
	*tls.ConnectionState

	mu      sync.Mutex
	roots   *x509.CertPool // by which, and when, the chain was verified
	checked time.Time
	err     error
	others  []otherName // in the leaf, as far as they count
}

// shown is what a peer showed, nil for no TLS.
func shown(state *tls.ConnectionState) *credential {
	if state == nil {
		return nil
	}
	return &credential{ConnectionState: state}
}

// recheck is how long what was found out of a chain holds: its certificates expire.
const recheck = time.Minute

// verify checks the chain. Extended key usages are not looked at: public CAs no longer issue certificates
// for clients, and servers authenticate in both roles with the one they have.
func (c *credential) verify(roots *x509.CertPool, now time.Time) ([]otherName, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if age := now.Sub(c.checked); !c.checked.IsZero() && c.roots == roots && 0 <= age && age < recheck {
		return c.others, c.err
	}
	c.roots, c.checked, c.others = roots, now, nil
	leaf, intermediates := c.PeerCertificates[0], x509.NewCertPool()
	for _, above := range c.PeerCertificates[1:] {
		intermediates.AddCert(above)
	}
	var chains [][]*x509.Certificate
	chains, c.err = withoutCriticalSAN(leaf).Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	// The standard library holds DNS names to the name constraints of the chain, but does not know
	// the names below. So they count only in a chain that has no constraints.
	if slices.ContainsFunc(chains, unconstrained) {
		c.others = otherNames(leaf)
	}
	return c.others, c.err
}

// proves checks the chain and the names in its leaf (RFC 6120 section 13.7.2, RFC 6125).
func (c *credential) proves(domain string, roots *x509.CertPool, now time.Time) error {
	others, err := c.verify(roots, now)
	if err != nil {
		return fmt.Errorf("the certificate is not valid: %w", err)
	}
	leaf, ascii := c.PeerCertificates[0], jid.ASCIIDomain(domain)
	if slices.ContainsFunc(leaf.DNSNames, func(name string) bool { return matches(name, ascii) }) {
		return nil
	}
	if slices.ContainsFunc(others, func(name otherName) bool { return name.proves(domain, ascii) }) {
		return nil
	}
	return fmt.Errorf("the certificate is for %s, not for %s", listNames(leaf, others), domain)
}

// matches compares a presented DNS name with a domain in A-labels (RFC 6125 section 6.4). A
// wildcard is the whole leftmost label and stands for exactly one.
func matches(presented, domain string) bool {
	if rest, wild := strings.CutPrefix(presented, "*."); wild {
		_, parent, found := strings.Cut(domain, ".")
		return found && strings.EqualFold(rest, parent)
	}
	return strings.EqualFold(presented, domain)
}

func unconstrained(chain []*x509.Certificate) bool {
	return !slices.ContainsFunc(chain[1:], func(c *x509.Certificate) bool {
		return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(nameConstraints) })
	})
}

var (
	subjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
	nameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
	idOnXMPPAddr    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 5} // RFC 6120 section 13.7.1.4
	idOnDNSSRV      = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 7} // RFC 4985
)

// withoutCriticalSAN lets the standard library verify a certificate whose only names are of the kinds
// that it does not know: it takes a critical subjectAltName of them for unhandled, but we handle it.
func withoutCriticalSAN(leaf *x509.Certificate) *x509.Certificate {
	c := *leaf
	c.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions), subjectAltName.Equal)
	return &c
}

// An otherName is a subject alternative name of a kind that crypto/x509 does not know.
type otherName struct {
	kind  asn1.ObjectIdentifier
	value string // of an XMPP address in canonical form
}

func (n otherName) proves(domain, ascii string) bool {
	if n.kind.Equal(idOnDNSSRV) {
		service, name, _ := strings.Cut(n.value, ".")
		return strings.EqualFold(service, "_xmpp-server") && matches(name, ascii)
	}
	return n.value == domain
}

// otherNames are the XMPP addresses and SRV names of a certificate; those that cannot be read are
// none.
func otherNames(leaf *x509.Certificate) []otherName {
	var found []otherName
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(subjectAltName) {
			continue
		}
		var names, name asn1.RawValue
		if _, err := asn1.Unmarshal(ext.Value, &names); err != nil {
			return nil
		}
		for rest := names.Bytes; len(rest) > 0; {
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return nil
			}
			if name.Class == asn1.ClassContextSpecific && name.Tag == 0 {
				if n, ok := readOtherName(name.Bytes); ok {
					found = append(found, n)
				}
			}
		}
	}
	return found
}

// readOtherName reads type-id and [0] EXPLICIT value (RFC 5280 section 4.2.1.6).
func readOtherName(der []byte) (n otherName, ok bool) {
	rest, err := asn1.Unmarshal(der, &n.kind)
	if err != nil {
		return n, false
	}
	var explicit, value asn1.RawValue
	if _, err := asn1.Unmarshal(rest, &explicit); err != nil {
		return n, false
	}
	if _, err := asn1.Unmarshal(explicit.Bytes, &value); err != nil || value.Class != asn1.ClassUniversal {
		return n, false
	}
	n.value = string(value.Bytes)
	if n.kind.Equal(idOnXMPPAddr) {
		n.value, err = parseDomain(n.value)
		return n, err == nil && value.Tag == asn1.TagUTF8String
	}
	return n, n.kind.Equal(idOnDNSSRV) && value.Tag == asn1.TagIA5String
}

// listNames are the names in a certificate that could prove a domain, for people.
func listNames(leaf *x509.Certificate, others []otherName) string {
	names := slices.Clone(leaf.DNSNames)
	for _, n := range others {
		names = append(names, n.value)
	}
	const few = 10 // for each domain that the peer asks about this is logged
	switch more := len(names) - few; {
	case len(names) == 0:
		return "no domain"
	case more > 0:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), more)
	}
	return strings.Join(names, ", ")
}
