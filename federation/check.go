package federation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tombolo/xmpp/element"
)

// A Report says, step by step, what happened when this server tried to talk to a domain, for an
// operator who wants to know why it does not.
type Report struct {
	Domain string `json:"domain"`
	Local  string `json:"local"` // our domain that tried
	OK     bool   `json:"ok"`    // at least one server of the domain took us for Local
	Steps  []Step `json:"steps"`
	// Streams are what there is with the domain besides this attempt.
	Streams []StreamInfo `json:"streams,omitempty"`
}

// A Step is one thing that was tried or found.
type Step struct {
	Target string        `json:"target,omitempty"` // where it was tried
	Name   string        `json:"name"`             // "policy", "DNS", "connect", "TLS", ...
	OK     bool          `json:"ok"`
	Detail string        `json:"detail,omitempty"`
	Took   time.Duration `json:"took"`             // nanoseconds since the step before
	Advice string        `json:"advice,omitempty"` // what to do about it
}

// Check tries all servers of a domain, each up to the point at which stanzas could flow, and
// reports. It is the way of real streams in every step. local is one of our domains, "" for the
// first one.
func (f *Federation) Check(ctx context.Context, local, domain string) (*Report, error) {
	remote, err := parseDomain(domain)
	if err != nil {
		return nil, fmt.Errorf("federation.check: %w", err)
	}
	if local == "" {
		local = f.Domains()[0]
	}
	if local, err = parseDomain(local); err != nil {
		return nil, fmt.Errorf("federation.check: %w", err)
	}
	if !f.isLocal(local) {
		return nil, fmt.Errorf("federation.check: %s is not a domain of this server", local)
	}
	if f.isLocal(remote) {
		return nil, fmt.Errorf("federation.check: %s is a domain of this server", remote)
	}
	c := &check{f: f, pair: Pair{local, remote}, last: time.Now(), report: &Report{Domain: remote, Local: local}}
	c.run(ctx)
	for _, s := range f.List() {
		if s.Remote == remote {
			c.report.Streams = append(c.report.Streams, s)
		}
	}
	return c.report, nil
}

// A check fills in a report.
type check struct {
	f    *Federation
	pair Pair

	mu     sync.Mutex
	report *Report
	target string
	last   time.Time
}

func (c *check) run(ctx context.Context) {
	t, allowed := c.f.trust.Load().of(c.pair.Remote)
	switch {
	case !allowed:
		c.note("policy", "", errors.New("the policy does not allow this domain"))
		return
	case t.entry != "":
		c.note("policy", "allowed by the partner entry for "+t.entry, nil)
	default:
		c.note("policy", "allowed: the policy is open", nil)
	}
	targets := c.resolve(ctx, t)
	for _, target := range targets {
		c.try(ctx, target)
	}
}

// resolve notes what DNS says.
func (c *check) resolve(ctx context.Context, t *terms) []target {
	ctx, cancel := context.WithTimeout(ctx, c.f.ConnectTime)
	defer cancel()
	targets, err := c.f.resolve(ctx, c.pair.Remote, t)
	names := make([]string, len(targets))
	for i, target := range targets {
		names[i] = target.String()
	}
	detail := strings.Join(names, ", ")
	switch {
	case t.address != nil:
		detail += ", from the partner entry"
	case len(targets) == 1 && targets[0].port == defaultPort && !targets[0].direct:
		detail += " (without SRV records, the domain's own address)"
	}
	c.note("DNS", detail, err)
	return targets
}

// try goes as far as a stream that carries stanzas would.
func (c *check) try(ctx context.Context, target target) {
	ctx, cancel := context.WithTimeout(ctx, c.f.ConnectTime)
	defer cancel()
	c.mu.Lock()
	c.target = target.String()
	c.mu.Unlock()
	o := &outgoing{f: c.f, Pair: c.pair, target: target, purpose: &purpose{
		authenticate: true,
		note:         c.note,
		ready: func(o *outgoing) {
			c.mu.Lock()
			c.report.OK = true
			c.mu.Unlock()
			o.s.Close(nil)
		},
	}}
	_ = o.run(ctx) // has been noted
}

// note adds a step.
func (c *check) note(name, detail string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	step := Step{Target: c.target, Name: name, OK: err == nil, Detail: detail, Took: now.Sub(c.last)}
	if c.last = now; err != nil {
		step.Detail, step.Advice = strings.TrimPrefix(detail+": "+err.Error(), ": "), c.advice(name, err)
	}
	c.report.Steps = append(c.report.Steps, step)
}

// advice is what an operator can do about a failed step.
func (c *check) advice(step string, err error) string {
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		verdict *dialbackError
		peer    *peerError
	)
	domain, own := c.pair.Remote, c.pair.Local
	switch {
	case step == "policy":
		return fmt.Sprintf("add a [[federation.partner]] for %s, or remove it from federation.deny", domain)
	case errors.Is(err, errNotOffered):
		return "its operator has to publish SRV records, or you name its server in a [[federation.partner]] with an address"
	case step == "connect":
		return "check that the name is right, that its server runs, and that your firewall lets you out to this port"
	case errors.As(err, &unknown):
		return fmt.Sprintf("if %s has a CA of its own, add that to federation.ca_file; with dialback it works without", domain)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the operator of %s has to renew the certificate; check the clocks of both servers", domain)
	case step == "certificate":
		return fmt.Sprintf("the operator of %s needs a certificate with that name; with dialback it works without", domain)
	case errors.As(err, &verdict):
		return fmt.Sprintf("its server could not verify %s: it must be able to connect to this server, found by the SRV records of %s or at port 5269 of its address", own, own)
	case errors.As(err, &peer):
		return fmt.Sprintf("ask the operator of %s whether its policy allows %s", domain, own)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("its server took too long; if it was verifying %s, it could not reach this server", own)
	}
	return ""
}

// describeFeatures names what a peer offers.
func describeFeatures(features element.Element) string {
	var names []string
	for child := range features.Children() {
		name := child.Name()
		if name == "mechanisms" {
			for m := range child.Children() {
				names = append(names, "SASL "+m.Text())
			}
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
