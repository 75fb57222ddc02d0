package xmpp

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"tombolo/xmpp/jid"
)

// A Problem is something in a configuration that will not do, or, as a Warning, that an operator
// should know of.
type Problem struct {
	Key     string // as "limits.stanza" or "domain[0].name"; the loader knows its line
	Text    string // what is wrong, and what to write
	Warning bool
}

// Validate finds what is wrong with a configuration beyond the types of its values, all of it. It
// reads the certificates but listens nowhere and asks nobody.
func (c *Config) Validate(now time.Time) []Problem {
	v := validation{now: now}
	if len(c.Domain) == 0 {
		v.refuse("domain", "no domain is served; write a [[domain]] table with name, certificate and key")
	}
	local := make(map[string]bool)
	for i := range c.Domain {
		v.domain(fmt.Sprintf("domain[%d]", i), &c.Domain[i], local)
	}
	v.listen(c)
	v.auth(&c.Auth)
	v.limits(&c.Limits)
	v.audit(c)
	v.oneOf("offline.consume", c.Offline.Consume, "account", "never")
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "text", "json")
	v.federation(c, local)
	return v.problems
}

func (v *validation) audit(c *Config) {
	log := c.AuditLog()
	if c.Audit.File == "" {
		v.refuse("audit.file", "the audit log cannot be off; write a file name such as %q", "audit.log")
	}
	if c.Audit.Key == "" || log.Key == log.File {
		v.refuse("audit.key", "the key needs a file of its own; write a name such as %q", "audit.key")
	}
	v.atLeast("audit.rotate_size", c.Audit.RotateSize, 64_000)
}

func (v *validation) auth(a *Auth) {
	if a.Iterations < 4096 {
		v.refuse("auth.iterations", "%d is too few; write 4096 or more", a.Iterations)
	}
	for i, name := range a.Mechanisms {
		key := fmt.Sprintf("auth.mechanisms[%d]", i)
		v.oneOf(key, name, slices.Concat(passwordMechanisms, []string{fast})...)
		if slices.Contains(a.Mechanisms[:i], name) {
			v.refuse(key, "%q is there twice; remove one", name)
		}
	}
	if len(a.keys()) == 0 {
		v.refuse("auth.mechanisms", "no password can be kept; write one of %s at least", quoted(passwordMechanisms))
	}
}

// passwordMechanisms and fast are what auth.mechanisms may name.
var passwordMechanisms = []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"}

const fast = "FAST"

// keys are the mechanisms for which keys are kept.
func (a *Auth) keys() []string {
	return slices.DeleteFunc(slices.Clone(a.Mechanisms), func(name string) bool { return name == fast })
}

type validation struct {
	now      time.Time
	problems []Problem
}

func (v *validation) refuse(key, format string, args ...any) {
	v.problems = append(v.problems, Problem{Key: key, Text: fmt.Sprintf(format, args...)})
}

func (v *validation) warn(key, format string, args ...any) {
	v.problems = append(v.problems, Problem{Key: key, Text: fmt.Sprintf(format, args...), Warning: true})
}

func (v *validation) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.refuse(key, "%q is not possible here; write one of %s", value, quoted(allowed))
	}
}

// domainName checks a domain and returns its canonical form, "" if it has none.
func (v *validation) domainName(key, name string) string {
	j, err := jid.Parse(name)
	switch {
	case name == "":
		v.refuse(key, "a domain name is missing; write one such as %q", "example.org")
	case err != nil:
		v.refuse(key, "%q is not a domain name: %v", name, err)
	case !j.IsServer():
		v.refuse(key, "%q is an address; write the domain alone, %q", name, j.Domain())
	default:
		return j.Domain()
	}
	return ""
}

func (v *validation) domain(key string, d *Domain, local map[string]bool) {
	name := v.domainName(key+".name", d.Name)
	if name != "" && name != d.Name {
		v.refuse(key+".name", "%q is not the form in which addresses have it; write %q", d.Name, name)
	}
	if local[name] && name != "" {
		v.refuse(key+".name", "%q is served twice; remove one of its tables", name)
	}
	local[name] = true
	v.certificate(key, d, name)
	for i, admin := range d.Admins {
		if j, err := jid.Parse(admin); err != nil || !j.IsAccount() {
			v.refuse(fmt.Sprintf("%s.admins[%d]", key, i), "%q is not the address of an account, such as %q", admin, "root@"+d.Name)
		}
	}
	roles := []string{"abuse", "admin", "feedback", "sales", "security", "status", "support"}
	for role := range d.Contacts {
		if !slices.Contains(roles, role) {
			v.refuse(key+".contacts."+role, "%q is no kind of contact; write one of %s", role, quoted(roles))
		}
	}
}

func (v *validation) certificate(key string, d *Domain, name string) {
	if d.Certificate == "" {
		v.refuse(key+".certificate", "a certificate is missing; write the name of a PEM file")
	}
	if d.Key == "" {
		v.refuse(key+".key", "a key is missing; write the name of a PEM file")
	}
	if d.Certificate == "" || d.Key == "" {
		return
	}
	pair, err := tls.LoadX509KeyPair(d.Certificate, d.Key)
	if err != nil {
		at, what := ".certificate", "the certificate chain of the key, leaf first"
		if p := (*fs.PathError)(nil); errors.As(err, &p) && p.Path == d.Key && d.Key != d.Certificate {
			at, what = ".key", "the private key"
		}
		v.refuse(key+at, "%s; write the name of a PEM file that the server may read, with %s",
			strings.TrimPrefix(err.Error(), "tls: "), what)
		return
	}
	if info, err := os.Stat(d.Key); err == nil && info.Mode().Perm()&0o007 != 0 {
		v.warn(key+".key", "every user of this machine can use %s; run: chmod o-rwx %[1]s", d.Key)
	}
	leaf := pair.Leaf
	switch {
	case v.now.After(leaf.NotAfter):
		v.warn(key+".certificate", "it expired on %s; clients and servers will refuse it", leaf.NotAfter.Format(time.DateOnly))
	case v.now.Before(leaf.NotBefore):
		v.warn(key+".certificate", "it is valid only from %s on", leaf.NotBefore.Format(time.DateTime))
	}
	if name != "" && leaf.VerifyHostname(jid.ASCIIDomain(name)) != nil {
		v.warn(key+".certificate", "it is for %s, not for %s; clients and servers will refuse it", certificateNames(leaf), name)
	}
}

func certificateNames(leaf *x509.Certificate) string {
	if len(leaf.DNSNames) == 0 {
		return "no domain"
	}
	return strings.Join(leaf.DNSNames, ", ")
}

func (v *validation) listen(c *Config) {
	taken := make(map[string]string)
	for _, l := range []struct {
		key       string
		addresses []string
	}{
		{"client", c.Listen.Client}, {"client_tls", c.Listen.ClientTLS}, {"server", c.Listen.Server},
		{"server_tls", c.Listen.ServerTLS}, {"http", c.Listen.HTTP},
	} {
		for i, address := range l.addresses {
			key := fmt.Sprintf("listen.%s[%d]", l.key, i)
			v.address(key, address)
			if other := taken[address]; other != "" && !strings.HasSuffix(address, ":0") {
				v.refuse(key, "%s already listens on %q; give one of them another port", other, address)
			}
			taken[address] = "listen." + l.key
		}
	}
	if c.Listen.Admin == "" {
		v.refuse("listen.admin", "the admin socket cannot be off; write a file name such as %q", "admin.sock")
	}
	if n := len(c.AdminSocket()); n > maxSocketPath {
		v.refuse("listen.admin", "%s has %d bytes, and a Unix socket may have %d; write a shorter absolute path",
			c.AdminSocket(), n, maxSocketPath)
	}
}

// maxSocketPath is what the shortest sockaddr_un in use (macOS, 104 bytes) leaves for a name, less
// the suffix that package admin adds while it binds.
const maxSocketPath = 98

func (v *validation) address(key, address string) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host != "" && strings.ContainsAny(host, " /@") {
		err = errors.New("bad host")
	}
	if n, convErr := strconv.Atoi(port); err != nil || convErr != nil || n < 0 || n > 65535 {
		v.refuse(key, "%q is not an address and a port, such as %q or %q", address, "127.0.0.1:5222", ":5222")
	}
}

func (v *validation) limits(l *Limits) {
	fields := reflect.ValueOf(l).Elem()
	for i := range fields.NumField() {
		field, value := fields.Type().Field(i), fields.Field(i)
		if value.CanInt() && value.Int() <= 0 && field.Tag.Get("off") == "" {
			problem, example := "this limit cannot be off", strconv.Quote(field.Tag.Get("default"))
			if value.Int() < 0 {
				problem = fmt.Sprintf("%d limits nothing", value.Int())
			}
			if field.Type == reflect.TypeFor[int]() {
				example = field.Tag.Get("default")
			}
			v.refuse("limits."+field.Tag.Get("toml"), "%s; write a positive value such as %s", problem, example)
		}
	}
	v.atLeast("limits.stanza_before_auth", l.StanzaBeforeAuth, 2000)
	v.atLeast("limits.stanza", l.Stanza, 10000)
	v.atLeast("limits.server_stanza", l.ServerStanza, 10000)
	v.atLeast("limits.queue", l.Queue, max(l.Stanza, l.ServerStanza))
}

func (v *validation) atLeast(key string, value, least Size) {
	if 0 < value && value < least {
		v.refuse(key, "%q is too small; write %q or more", value, least)
	}
}

func (v *validation) federation(c *Config, local map[string]bool) {
	f := &c.Federation
	v.oneOf("federation.policy", f.Policy, "open", "partners")
	if f.Policy == "partners" && len(f.Partner) == 0 {
		v.warn("federation.policy", "there is no [[federation.partner]], so no other domain is reached")
	}
	if f.Queue <= 0 {
		v.refuse("federation.queue", "this limit cannot be off; write a size such as \"1MB\"")
	}
	v.atLeast("federation.queue", f.Queue, max(c.Limits.Stanza, c.Limits.ServerStanza))
	if f.Resolver != "" {
		v.address("federation.resolver", f.Resolver)
	}
	if f.CAFile != "" {
		pem, err := os.ReadFile(f.CAFile)
		if err != nil {
			v.refuse("federation.ca_file", "%v; write the name of a PEM file with the trust anchors, or remove the key", err)
		} else if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			v.refuse("federation.ca_file", "%s holds no certificate in PEM form; write the name of a PEM file with the trust anchors", f.CAFile)
		}
	}
	denied := make(map[string]bool)
	for i, name := range f.Deny {
		denied[v.domainName(fmt.Sprintf("federation.deny[%d]", i), name)] = true
	}
	partners := make(map[string]bool)
	for i := range f.Partner {
		key, p := fmt.Sprintf("federation.partner[%d]", i), &f.Partner[i]
		name := v.domainName(key+".domain", p.Domain)
		if name == "" {
			continue
		}
		switch {
		case local[name]:
			v.refuse(key+".domain", "%s is a domain of this server", name)
		case partners[name]:
			v.refuse(key+".domain", "%s has two entries; remove one", name)
		case denied[name]:
			v.refuse(key+".domain", "%s is also in federation.deny; remove it from one of them", name)
		}
		partners[name] = true
		v.partner(key, p)
	}
}

func (v *validation) partner(key string, p *Partner) {
	if p.Address != "" {
		v.address(key+".address", p.Address)
	} else if p.DirectTLS {
		v.refuse(key+".direct_tls", "it goes with an address; without one DNS says which servers take direct TLS")
	}
	v.oneOf(key+".authentication", p.Authentication, "certificate", "dialback")
	for i, pin := range p.Pins {
		if sum, err := base64.StdEncoding.DecodeString(pin); err != nil || len(sum) != 32 {
			v.refuse(fmt.Sprintf("%s.pins[%d]", key, i), "%q is not a SHA-256 in base64 (44 characters)", pin)
		}
	}
	if p.Clear && (len(p.Pins) > 0 || p.Authentication == "certificate") {
		v.refuse(key+".clear", "without TLS nothing proves the partner's domain; remove this, or the pins and authentication")
	}
}

func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = strconv.Quote(w)
	}
	return strings.Join(q, ", ")
}
