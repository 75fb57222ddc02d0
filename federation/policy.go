package federation

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"strings"

	"tombolo/xmpp/jid"
)

// A Policy says with which domains this server talks, and on what terms. A domain in it covers its
// subdomains; the longest match of all entries decides, and of two for the same domain Deny does.
type Policy struct {
	// Open lets every domain in that proves its name; otherwise only Partners are talked to.
	Open     bool
	Deny     []string
	Partners []Partner
}

// A Partner is what is agreed with one domain.
type Partner struct {
	Domain string
	// Address is the host, or host and port, of its server, instead of DNS. The certificate must
	// still be the domain's.
	Address string
	// DirectTLS says that TLS starts at once at Address (XEP-0368).
	DirectTLS bool
	// Certificate demands that the partner prove its domain with a certificate; otherwise
	// dialback (XEP-0220) will do where the certificate does not.
	Certificate bool
	// Pins are SHA-256 sums, in base64, of the keys (SubjectPublicKeyInfo) one of which the partner
	// must show. It then needs no CA, and nothing else will do.
	Pins []string
	// Clear talks without TLS where the partner offers none.
	Clear bool
}

// rules are a Policy in the form in which it is asked.
type rules struct {
	open   bool
	denied map[string]bool
	terms  map[string]*terms
	others *terms // for domains without an entry of their own
}

// terms are what holds for one domain.
type terms struct {
	entry       string // the domain of the entry, "" for none
	address     *target
	certificate bool
	clear       bool
	pins        [][sha256.Size]byte
}

// compile checks a policy. An error names the entry.
func (p Policy) compile() (*rules, error) {
	r := &rules{open: p.Open, denied: make(map[string]bool), terms: make(map[string]*terms), others: new(terms)}
	for _, name := range p.Deny {
		domain, err := parseDomain(name)
		if err != nil {
			return nil, fmt.Errorf("denied domain %q: %w", name, err)
		}
		r.denied[domain] = true
	}
	for _, partner := range p.Partners {
		domain, err := parseDomain(partner.Domain)
		if err != nil {
			return nil, fmt.Errorf("partner %q: %w", partner.Domain, err)
		}
		t, err := partner.terms(domain)
		if err != nil {
			return nil, fmt.Errorf("partner %q: %w", partner.Domain, err)
		}
		r.terms[domain] = t
	}
	return r, nil
}

func (p Partner) terms(domain string) (*terms, error) {
	t := &terms{entry: domain, certificate: p.Certificate || len(p.Pins) > 0, clear: p.Clear}
	if t.clear && t.certificate {
		return nil, fmt.Errorf("without TLS there is no certificate to demand")
	}
	for _, text := range p.Pins {
		sum, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("pin %q is not a SHA-256 sum in base64", text)
		}
		t.pins = append(t.pins, [sha256.Size]byte(sum))
	}
	if p.Address != "" {
		host, port, err := net.SplitHostPort(p.Address)
		if err != nil { // no port
			host, port = strings.Trim(p.Address, "[]"), defaultPort
		}
		if host == "" || port == "" {
			return nil, fmt.Errorf("address %q has no host or no port", p.Address)
		}
		t.address = &target{host: host, port: port, direct: p.DirectTLS}
	}
	return t, nil
}

// of returns the terms for a domain and whether it may be talked to at all.
func (r *rules) of(domain string) (*terms, bool) {
	for d := domain; ; {
		if r.denied[d] {
			return r.others, false
		}
		if t := r.terms[d]; t != nil {
			return t, true
		}
		_, parent, found := strings.Cut(d, ".")
		if !found {
			return r.others, r.open
		}
		d = parent
	}
}

// parseDomain brings a domain into our canonical form, in which it is compared and routed. An address
// with a localpart or a resource is not one.
func parseDomain(s string) (string, error) {
	j, err := jid.Parse(s)
	if err != nil {
		return "", err
	}
	if !j.IsServer() {
		return "", fmt.Errorf("%q is not a domain", s)
	}
	return strings.Clone(j.Domain()), nil
}
