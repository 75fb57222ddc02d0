package transport

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"tombolo/xmpp/jid"
)

// recheck is how often a certificate's files are looked at for a change.
const recheck = 30 * time.Second

// Certificates are the certificates of the server's domains, read again when their files change.
type Certificates struct {
	now  func() time.Time
	note func(domain string, err error) // of a re-read; err nil: a new certificate is in use

	mu    sync.RWMutex
	first string // the domain that is served when nobody named one
	pairs map[string]*pair
}

// A KeyPair names the PEM files of a domain: the chain, leaf first, and the key.
type KeyPair struct{ Domain, Certificate, Key string }

type pair struct {
	files   KeyPair
	stamp   string
	checked time.Time
	cert    *tls.Certificate
}

// LoadCertificates reads all key pairs; an error names the file. note hears of later re-reads.
func LoadCertificates(pairs []KeyPair, now func() time.Time, note func(domain string, err error)) (*Certificates, error) {
	c := &Certificates{now: now, note: note, pairs: make(map[string]*pair)}
	for _, files := range pairs {
		p := &pair{files: files}
		if err := p.read(); err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", files.Domain, err)
		}
		p.checked = now()
		c.pairs[files.Domain] = p
		if c.first == "" {
			c.first = files.Domain
		}
	}
	return c, nil
}

// Reload reads all files again, changed or not, from now on those of pairs for the domains that these
// name. No other domain comes in. On an error it changes nothing.
func (c *Certificates) Reload(pairs ...KeyPair) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := make(map[string]*pair, len(c.pairs))
	for domain, old := range c.pairs {
		p := &pair{files: old.files, checked: c.now()}
		for _, files := range pairs {
			if files.Domain == domain {
				p.files = files
			}
		}
		if err := p.read(); err != nil {
			return fmt.Errorf("certificate of %s: %w", domain, err)
		}
		fresh[domain] = p
	}
	c.pairs = fresh
	return nil
}

// Of returns the certificate of a domain, nil if it is not ours.
func (c *Certificates) Of(domain string) *tls.Certificate {
	c.mu.RLock()
	p := c.pairs[domain]
	fresh := p == nil || c.now().Sub(p.checked) < recheck
	c.mu.RUnlock()
	if p == nil {
		return nil
	}
	if !fresh {
		c.refresh(domain)
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.pairs[domain].cert
}

// refresh reads the files of a domain again if they changed. Files that cannot be used leave the
// old certificate in place: they may be half written.
func (c *Certificates) refresh(domain string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.pairs[domain]
	if c.now().Sub(old.checked) < recheck {
		return
	}
	old.checked = c.now()
	if old.files.stamp() == old.stamp {
		return
	}
	p := &pair{files: old.files, checked: old.checked}
	err := p.read()
	if err == nil {
		c.pairs[domain] = p
	}
	c.note(domain, err)
}

// Choose is a tls.Config's GetCertificate: by SNI, else by what the stream's header named, else the
// first domain's. It leaves the leaf with the connection.
func (c *Certificates) Choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	sock, _ := hello.Conn.(*socket)
	var cert *tls.Certificate
	if name, err := jid.New("", strings.TrimSuffix(hello.ServerName, "."), ""); err == nil {
		cert = c.Of(name.Domain())
	}
	if cert == nil && sock != nil {
		cert = c.Of(sock.expected)
	}
	if cert == nil {
		cert = c.Of(c.first)
	}
	if cert == nil {
		return nil, fmt.Errorf("no certificate for %q", hello.ServerName)
	}
	if sock != nil {
		sock.served = cert.Leaf
	}
	return cert, nil
}

func (p *pair) read() error {
	p.stamp = p.files.stamp()
	cert, err := tls.LoadX509KeyPair(p.files.Certificate, p.files.Key)
	if err != nil {
		return err
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return err
		}
	}
	p.cert = &cert
	return nil
}

// stamp changes when one of the files does.
func (k KeyPair) stamp() string {
	var b strings.Builder
	for _, name := range []string{k.Certificate, k.Key} {
		if fi, err := os.Stat(name); err == nil {
			fmt.Fprintf(&b, "%d %d;", fi.ModTime().UnixNano(), fi.Size())
		}
	}
	return b.String()
}
