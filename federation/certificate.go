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
func (t *terms) judge(state *tls.ConnectionState, domain string, roots *x509.CertPool, now time.Time) (proof, error) {
	if state == nil {
		return "", errors.New("there is no TLS")
	}
	if len(state.PeerCertificates) == 0 {
		return "", errors.New("the peer showed no certificate")
	}
	leaf := state.PeerCertificates[0]
	if len(t.pins) > 0 {
		if slices.Contains(t.pins, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)) {
			return byPin, nil
		}
		return "", errors.New("the key is none of the pinned ones")
	}
	if err := proves(state.PeerCertificates, domain, roots, now); err != nil {
		return "", err
	}
	return byCertificate, nil
}

// proves checks a chain and the names in its leaf (RFC 6120 section 13.7.2, RFC 6125). Extended key
// usages are not looked at: public CAs no longer issue certificates for clients, and servers
// authenticate in both roles with the one they have.
func proves(chain []*x509.Certificate, domain string, roots *x509.CertPool, now time.Time) error {
	leaf, intermediates := chain[0], x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	chains, err := withoutCriticalSAN(leaf).Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("the certificate is not valid: %w", err)
	}
	ascii := jid.ASCIIDomain(domain)
	if slices.ContainsFunc(leaf.DNSNames, func(name string) bool { return matches(name, ascii) }) {
		return nil
	}
	// The standard library holds DNS names to the name constraints of the chain, but does not know
	// the names below. So they count only in a chain that has no constraints.
	if slices.ContainsFunc(chains, unconstrained) {
		for _, name := range otherNames(leaf) {
			if name.proves(domain, ascii) {
				return nil
			}
		}
	}
	return fmt.Errorf("the certificate is for %s, not for %s", listNames(leaf), domain)
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
	value string
}

func (n otherName) proves(domain, ascii string) bool {
	if n.kind.Equal(idOnDNSSRV) {
		service, name, _ := strings.Cut(n.value, ".")
		return strings.EqualFold(service, "_xmpp-server") && matches(name, ascii)
	}
	named, err := parseDomain(n.value)
	return err == nil && named == domain
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
	return n, n.kind.Equal(idOnXMPPAddr) && value.Tag == asn1.TagUTF8String ||
		n.kind.Equal(idOnDNSSRV) && value.Tag == asn1.TagIA5String
}

// listNames are the names in a certificate that could prove a domain, for people.
func listNames(leaf *x509.Certificate) string {
	names := slices.Clone(leaf.DNSNames)
	for _, n := range otherNames(leaf) {
		names = append(names, n.value)
	}
	if len(names) == 0 {
		return "no domain"
	}
	return strings.Join(names, ", ")
}
