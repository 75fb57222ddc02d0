package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tombolo/xmpp/jid"
)

// defaultPort is where a server is found without SRV records (RFC 6120 section 14.7).
const defaultPort = "5269"

// A target is one place where a domain may be served. host is a name or an IP address.
type target struct {
	host, port string
	direct     bool // TLS starts at once (XEP-0368)
}

func (t target) String() string {
	text := net.JoinHostPort(t.host, t.port)
	if t.direct {
		text += " (direct TLS)"
	}
	return text
}

// errNotOffered says that a domain's DNS denies that there is a server.
var errNotOffered = errors.New("DNS says that the domain has no XMPP server")

// A record is an SRV record of either service.
type record struct {
	*net.SRV
	direct bool
}

// resolve finds where a domain is served, the place to try first in front (RFC 6120 section 3.2).
func (f *Federation) resolve(ctx context.Context, domain string, t *terms) ([]target, error) {
	if t.address != nil {
		return []target{*t.address}, nil
	}
	if ip, err := netip.ParseAddr(strings.Trim(domain, "[]")); err == nil {
		return []target{{host: ip.String(), port: defaultPort}}, nil
	}
	ascii := jid.ASCIIDomain(domain)
	records, err := f.lookup(ctx, ascii)
	if err != nil {
		return nil, fmt.Errorf("SRV records of %s: %w", domain, err)
	}
	if len(records) == 0 {
		return []target{{host: ascii, port: defaultPort}}, nil
	}
	// XEP-0368 section 5: a target of "." says that this service is not there, and since the
	// domain does use SRV records its addresses are not tried.
	records = slices.DeleteFunc(records, func(r record) bool { return r.Target == "." })
	if len(records) == 0 {
		return nil, errNotOffered
	}
	order(records, f.Random)
	targets := make([]target, len(records))
	for i, r := range records {
		targets[i] = target{strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)), r.direct}
	}
	return targets, nil
}

// lookup asks for both services at once. No records at all is not an error; neither is a failed
// question while the other one has an answer. Where DNS fails the addresses are tried (RFC 6120
// section 3.2.1), which fail in turn if DNS does, so failures are not told apart from absence here.
func (f *Federation) lookup(ctx context.Context, ascii string) ([]record, error) {
	answers := make(chan []record, 2)
	for _, service := range []string{"xmpp-server", "xmpps-server"} {
		go func() {
			// The final dot keeps the resolver's search list out. An error may come with records:
			// those with a name that is none are left out then.
			_, found, _ := f.resolver.LookupSRV(ctx, service, "tcp", ascii+".")
			records := make([]record, len(found))
			for i, srv := range found {
				records[i] = record{srv, service == "xmpps-server"}
			}
			answers <- records
		}()
	}
	records := append(<-answers, <-answers...)
	return records, context.Cause(ctx)
}

// order sorts by priority and, within one, draws by weight (RFC 2782), the records of both services
// together (XEP-0368 section 3). random(n) is uniform in [0, n).
func order(records []record, random func(int) int) {
	slices.SortStableFunc(records, func(a, b record) int {
		// Those of weight 0 come first, so that they keep their very small chance.
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(min(a.Weight, 1), min(b.Weight, 1)))
	})
	for len(records) > 0 {
		same, sum := 0, 0
		for same < len(records) && records[same].Priority == records[0].Priority {
			sum += int(records[same].Weight)
			same++
		}
		drawn, at := random(sum+1), 0
		for drawn -= int(records[0].Weight); drawn > 0; drawn -= int(records[at].Weight) {
			at++
		}
		chosen := records[at]
		copy(records[1:at+1], records[:at])
		records[0] = chosen
		records = records[1:]
	}
}

// dial connects to a target. A host with several addresses is tried as RFC 8305 says.
func (f *Federation) dial(ctx context.Context, t target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, f.DialTime)
	defer cancel()
	return f.Dial(ctx, "tcp", net.JoinHostPort(t.host, t.port))
}

// newResolver asks one DNS server, or the system's for "".
func newResolver(server string) *net.Resolver {
	if server == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server)
	}}
}
