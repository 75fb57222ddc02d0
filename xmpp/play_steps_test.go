package xmpp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tombolo/federation"
	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// steps are what a role can do, the longer phrases first.
var steps = []struct {
	phrase string
	do     func(p *play, ctx context.Context, r *role, argument string) error
}{
	{"connects", (*play).connects},
	{"logs in", (*play).logsIn},
	{"cannot connect", (*play).cannotConnect},
	{"sends", (*play).sends},
	{"receives nothing", func(p *play, ctx context.Context, r *role, _ string) error { return p.nothing(ctx, r) }},
	{"receives in any order", (*play).receivesMixed},
	{"receives", (*play).receives},
	{"is closed with", (*play).isClosed},
	{"is closed", (*play).isClosed},
	{"disconnects", (*play).disconnects},
	{"cuts", (*play).cuts},
	{"opens", (*play).opens},
	{"starts TLS", (*play).startsTLS},
	{"gets to", (*play).getsTo},
}

// entrances are what somebody does who is not connected.
var entrances = []string{"connects", "logs in", "cannot connect", "opens", "gets to"}

func (p *play) step(ctx context.Context, l line) error {
	first, rest, _ := strings.Cut(l.text, " ")
	switch first {
	case "admin":
		return p.admin(ctx, rest)
	case "stop":
		return p.stop(rest)
	case "gone":
		return p.noticed(ctx, rest)
	}
	rest = strings.TrimSpace(rest)
	r := p.roles[first]
	if r == nil {
		return fmt.Errorf("nobody is called %q", first)
	}
	for _, s := range steps {
		after, ok := strings.CutPrefix(rest, s.phrase)
		if !ok || (after != "" && after[0] != ' ') {
			continue
		}
		argument, err := expand(l.argument(after), p.vars)
		if err != nil {
			return err
		}
		if slices.Contains(entrances, s.phrase) != (r.peer == nil) {
			return fmt.Errorf("%s is connected already, or not yet", r.name)
		}
		return s.do(p, ctx, r, argument)
	}
	return fmt.Errorf("%q is not something to do", rest)
}

func (p *play) connects(ctx context.Context, r *role, _ string) (err error) {
	r.peer, err = connect(ctx, r.login)
	return err
}

// logsIn is what clients do first: ask for the roster, and become available. Nothing but the
// answers to that is taken.
func (p *play) logsIn(ctx context.Context, r *role, _ string) error {
	if err := p.connects(ctx, r, ""); err != nil {
		return err
	}
	if err := r.peer.send("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq><presence/>"); err != nil {
		return err
	}
	if _, err := r.peer.takeIf(ctx, func(e event) bool {
		return e.kind == gotElement && e.tree.name.Local == "iq" && e.tree.attr("id") == "roster" && e.tree.attr("type") == "result"
	}); err != nil {
		return fmt.Errorf("no roster: %w", err)
	}
	if _, err := r.peer.takeIf(ctx, func(e event) bool {
		return e.kind == gotElement && e.tree.name.Local == "presence" && e.tree.attr("from") == r.jid && e.tree.attr("type") == ""
	}); err != nil {
		return fmt.Errorf("its own presence does not come back: %w", err)
	}
	return nil
}

func (p *play) cannotConnect(ctx context.Context, r *role, why string) error {
	peer, err := connect(ctx, r.login)
	if err == nil {
		peer.cut()
		return fmt.Errorf("it can")
	}
	if !strings.Contains(err.Error(), why) {
		return fmt.Errorf("refused with %q, want %q", err, why)
	}
	return nil
}

func (p *play) sends(_ context.Context, r *role, text string) error { return r.peer.send(text) }

func (p *play) receives(ctx context.Context, r *role, text string) error {
	expected, err := parseTrees(text)
	if err != nil {
		return err
	}
	for _, want := range expected {
		got, err := r.peer.take(ctx)
		if err != nil {
			return fmt.Errorf("nothing arrived; expected:\n%s", want)
		}
		if err := p.compare(want, got); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) compare(want *tree, got event) error {
	header := want.name.Space == ns.Stream && want.name.Local == "stream"
	if header && got.kind != gotHeader || !header && got.kind != gotElement {
		return fmt.Errorf("expected:\n%s\ngot:\n%s", want, got)
	}
	if got.kind == gotElement {
		got.tree = got.tree.unmarked(want)
	}
	trial := maps.Clone(p.vars)
	if err := want.match(got.tree, trial); err != nil {
		return fmt.Errorf("%w\nexpected:\n%s\ngot:\n%s", err, want, got)
	}
	p.vars = trial
	return nil
}

func (p *play) receivesMixed(ctx context.Context, r *role, text string) error {
	expected, err := parseTrees(text)
	if err != nil {
		return err
	}
	for len(expected) > 0 {
		got, err := r.peer.take(ctx)
		if err != nil {
			return fmt.Errorf("nothing more arrived; still expected:\n%s", list(expected))
		}
		i := slices.IndexFunc(expected, func(want *tree) bool { return p.compare(want, got) == nil })
		if i < 0 {
			return fmt.Errorf("expected one of:\n%s\ngot:\n%s", list(expected), got)
		}
		expected = slices.Delete(expected, i, i+1)
	}
	return nil
}

// nothing proves that nothing is on its way to the role.
func (p *play) nothing(ctx context.Context, r *role) error {
	if err := p.settle(ctx, r); err != nil {
		return err
	}
	if events := r.peer.pending(); len(events) > 0 {
		return fmt.Errorf("got:\n%s", list(events))
	}
	return nil
}

// settle waits until everything that was said has had its effects: each client on the stage asks each
// server for an answer, and everything that was to be stored is stored; then once more, for what
// that caused; the role itself comes last.
func (p *play) settle(ctx context.Context, last *role) error {
	for range 2 {
		for _, name := range p.names {
			r := p.roles[name]
			if r.peer == nil || r.raw {
				continue
			}
			for _, h := range p.servers {
				if h.stopping {
					continue
				}
				if err := p.ask(ctx, r, h.domains[0]); err != nil {
					return err
				}
			}
		}
		for _, h := range p.servers {
			if h.stopping {
				continue
			}
			if err := h.store.Submit(func(storage.Tx) error { return nil }).Wait(ctx); err != nil {
				return err
			}
		}
	}
	return p.ask(ctx, last, last.domain)
}

func (p *play) ask(ctx context.Context, r *role, domain string) error {
	p.pings++
	if err := r.peer.ask(ctx, domain, p.pings); err != nil {
		return fmt.Errorf("%s gets no answer from %s: %w; pending:\n%s", r.name, domain, err, list(r.peer.pending()))
	}
	return nil
}

// isClosed expects the end of the stream, with an error or without.
func (p *play) isClosed(ctx context.Context, r *role, condition string) error {
	if condition != "" {
		if err := p.receives(ctx, r, "<stream:error>"+condition+"<any/></stream:error>"); err != nil {
			return err
		}
	}
	if err := p.ends(ctx, r); err != nil {
		return err
	}
	if err := r.peer.send("</stream:stream>"); err != nil && !r.raw {
		r.peer.cut() // the server may have gone first
	}
	return p.leaves(ctx, r)
}

func (p *play) ends(ctx context.Context, r *role) error {
	got, err := r.peer.take(ctx)
	if err != nil {
		return fmt.Errorf("the stream is still open")
	}
	if got.kind != gotEnd {
		return fmt.Errorf("expected the end of the stream, got:\n%s", got)
	}
	return nil
}

// leaves expects the server to close the connection.
func (p *play) leaves(ctx context.Context, r *role) error {
	got, err := r.peer.take(ctx)
	if err != nil {
		return fmt.Errorf("the connection is still open")
	}
	if got.kind != gotGone {
		return fmt.Errorf("expected the end of the connection, got:\n%s", got)
	}
	return p.gone(ctx, r)
}

func (p *play) disconnects(ctx context.Context, r *role, _ string) error {
	if err := r.peer.send("</stream:stream>"); err != nil {
		return err
	}
	if err := p.ends(ctx, r); err != nil {
		return err
	}
	return p.leaves(ctx, r)
}

func (p *play) cuts(ctx context.Context, r *role, _ string) error { return p.gone(ctx, r) }

// gone takes a role off the stage, and waits until its server knows.
func (p *play) gone(ctx context.Context, r *role) error {
	r.peer.cut()
	r.peer = nil
	if r.raw {
		return nil
	}
	return p.hosts[r.domain].awaitSessions(ctx, r.jid, p.others(r))
}

// others is how many other roles are on the stage with the same address.
func (p *play) others(r *role) int {
	n := 0
	for _, other := range p.roles {
		if other != r && other.peer != nil && !other.raw && other.jid == r.jid {
			n++
		}
	}
	return n
}

func (p *play) opens(ctx context.Context, r *role, _ string) (err error) {
	var config *tls.Config
	if r.direct {
		config = p.lab.clientTLS(r.domain)
	}
	r.peer, err = open(ctx, r.address, config)
	return err
}

// startsTLS puts TLS on a raw connection; "without SNI", the name is not told to the server, but the
// certificate must be the right one all the same.
func (p *play) startsTLS(ctx context.Context, r *role, how string) error {
	config := p.lab.clientTLS(r.domain)
	if how == "without SNI" {
		config.ServerName, config.InsecureSkipVerify = "", true
		config.VerifyConnection = func(state tls.ConnectionState) error {
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: r.domain, Roots: p.lab.roots})
			return err
		}
	}
	return r.peer.secure(ctx, config)
}

// getsTo brings a raw connection to where a play begins: a new stream, its features taken, under TLS
// ("TLS"), authenticated by PLAIN as well ("login"), or with the resource bound, too ("binding").
func (p *play) getsTo(ctx context.Context, r *role, where string) error {
	goal := slices.Index([]string{"TLS", "login", "binding"}, where)
	if goal < 0 {
		return fmt.Errorf("no such place: %q", where)
	}
	j := jid.MustParse(r.jid)
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + j.Local() + "\x00" + r.password))
	dialogue := []struct {
		sends, receives string
		begin           bool // a stream
	}{
		{sends: "<starttls xmlns='" + ns.StartTLS + "'/>", receives: "<proceed xmlns='" + ns.StartTLS + "'/>", begin: true},
		{sends: "<auth xmlns='" + ns.SASL + "' mechanism='PLAIN'>" + plain + "</auth>", receives: "<success xmlns='" + ns.SASL + "'/>", begin: true},
		{sends: "<iq type='set' id='bind'><bind xmlns='" + ns.Bind + "'><resource>" + j.Resource() + "</resource></bind></iq>",
			receives: "<iq type='result' id='bind'><bind xmlns='" + ns.Bind + "'><jid>" + j.String() + "</jid></bind></iq>"},
	}
	if err := p.opens(ctx, r, ""); err != nil {
		return err
	}
	if r.direct {
		dialogue = dialogue[1:]
		goal--
	}
	if err := p.begins(ctx, r); err != nil {
		return err
	}
	for i, step := range dialogue {
		if i > goal {
			break
		}
		if err := r.peer.send(step.sends); err != nil {
			return err
		}
		if err := p.receives(ctx, r, step.receives); err != nil {
			return err
		}
		if i == 0 && !r.direct {
			if err := p.startsTLS(ctx, r, ""); err != nil {
				return err
			}
		}
		if step.begin {
			if err := p.begins(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// begins opens a stream on a raw connection and takes the answer.
func (p *play) begins(ctx context.Context, r *role) error {
	header := fmt.Sprintf("<stream:stream xmlns='%s' xmlns:stream='%s' to='%s' version='1.0'>", ns.Client, ns.Stream, r.domain)
	return firstError(r.peer.send(header),
		p.receives(ctx, r, fmt.Sprintf("<stream:stream from='%s' to='?' id='*' version='1.0' xml:lang='*'>", r.domain)),
		p.receives(ctx, r, "<stream:features><any/></stream:features>"))
}

// admin calls a verb: admin [DOMAIN] VERB [JSON] [fails TEXT]
func (p *play) admin(ctx context.Context, text string) error {
	text, failure, fails := strings.Cut(text, " fails")
	h := p.servers[0]
	first, rest, _ := strings.Cut(text, " ")
	if other := p.hosts[first]; other != nil {
		h = other
		first, rest, _ = strings.Cut(rest, " ")
	}
	_, err := h.Call(ctx, first, []byte(rest))
	switch {
	case !fails:
		return err
	case err == nil:
		return fmt.Errorf("it does not fail")
	case !strings.Contains(err.Error(), strings.TrimSpace(failure)):
		return fmt.Errorf("it fails with %q", err)
	}
	return nil
}

// stop tells a server to end; it does so while the play goes on.
func (p *play) stop(domain string) error {
	h := p.hosts[domain]
	if h == nil {
		return fmt.Errorf("no server for %q", domain)
	}
	h.stopping = true
	h.stop()
	return nil
}

// noticed waits until the other servers have noticed that one has ended: what they send to its domain
// then is not written to a stream that nobody reads.
func (p *play) noticed(ctx context.Context, domain string) error {
	for _, h := range p.servers {
		for !h.stopping {
			result, err := h.Call(ctx, "federation.list", []byte("{}"))
			if err != nil {
				return err
			}
			text, err := json.Marshal(result)
			if err != nil {
				return err
			}
			var streams []federation.StreamInfo
			if err := json.Unmarshal(text, &streams); err != nil {
				return err
			}
			if !slices.ContainsFunc(streams, func(s federation.StreamInfo) bool { return s.Remote == domain && s.State == "open" }) {
				break
			}
			if err := pause(ctx); err != nil {
				return fmt.Errorf("%v still has a stream: %s", h.domains, text)
			}
		}
	}
	return nil
}

// awaitSessions waits until so many sessions are bound to a full JID.
func (h *host) awaitSessions(ctx context.Context, full string, count int) error {
	for !h.stopping {
		result, err := h.Call(ctx, "session.list", []byte("{}"))
		if err != nil {
			return err
		}
		text, err := json.Marshal(result)
		if err != nil {
			return err
		}
		quoted, _ := json.Marshal(full)
		if strings.Count(string(text), string(quoted)) == count {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("want %d sessions of %s, have: %s", count, full, text)
		}
	}
	return nil
}

func list[T fmt.Stringer](all []T) string {
	var s []string
	for _, one := range all {
		s = append(s, one.String())
	}
	return strings.Join(s, "\n")
}

func firstError(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}
