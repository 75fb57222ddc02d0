package xmpp_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tombolo/federation"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// The servers of other people, each with its own idea of XMPP, and ours as a partner of itself. They
// find each other by DNS, as on the Internet.

func TestFederationWithProsody(t *testing.T) {
	federationWith(t, startProsody, "127.0.7.1", external, externalDirect, dialback)
}

func TestFederationWithTombolo(t *testing.T) {
	federationWith(t, startTombolo, "127.0.7.2", external, externalDirect, dialback)
}

// ejabberd looks at the extended key usage of a certificate, like OpenSSL: one that is for servers
// only, as those of public CAs are, does not prove to it who connects.
func TestFederationWithEjabberd(t *testing.T) {
	both, bothDirect, halfway := external, externalDirect, external
	both.forClients, bothDirect.forClients = true, true
	halfway.name, halfway.sent = "EXTERNAL one way", "dialback"
	federationWith(t, startEjabberd, "127.0.7.3", both, bothDirect, halfway, dialback)
}

// A way is how two servers find each other and prove who they are.
type way struct {
	name    string
	service string // the only one in DNS
	// trusted says that both know the CA of the other's certificate, which must then prove its
	// domain.
	trusted bool
	// forClients says that our certificate is one for clients of TLS, too.
	forClients bool
	// sent is how we prove ourselves where we connect, received how the partner does.
	sent, received string
}

var (
	external       = way{name: "EXTERNAL", service: "xmpp-server", trusted: true, sent: "EXTERNAL", received: "EXTERNAL"}
	externalDirect = way{name: "EXTERNAL over direct TLS", service: "xmpps-server", trusted: true, sent: "EXTERNAL", received: "EXTERNAL"}
	dialback       = way{name: "dialback", service: "xmpp-server", sent: "dialback", received: "dialback"}
)

// A partner is the server that we federate with.
type partner struct {
	domain            string
	client            string // where its users connect
	server, serverTLS string // where other servers do
	// doubts says in what the partner's own account of the streams differs from how they should be;
	// "" if it does not.
	doubts func(domain string, w way) string
}

// A site is where a partner is put up.
type site struct {
	address string
	lab     *lab // its CA is the one that the partner trusts
	zone    *zone
	users   []string // one for each way
}

func federationWith(t *testing.T, start func(*testing.T, site) partner, address string, ways ...way) {
	t.Parallel()
	s := site{address: address, lab: newLab(t), zone: newZone(t, address)}
	for i := range ways {
		s.users = append(s.users, fmt.Sprintf("bob%d", i))
	}
	p := start(t, s)
	for i, w := range ways {
		// One after the other: where DNS says that the partner is differs.
		t.Run(w.name, func(t *testing.T) {
			s.zone.forget(p.domain)
			s.zone.add(t, w.service, p.domain, choose(w, p.server, p.serverTLS))
			h := s.ours(t, fmt.Sprintf("north%d.example", i), w)
			alice := login{address: h.Addresses()["client"][0], jid: "alice@" + h.domains[0] + "/desk", password: "secret", roots: h.roots}
			bob := login{address: p.client, jid: s.users[i] + "@" + p.domain + "/phone", password: "secret", roots: s.lab.roots}
			converse(t, alice, bob, func() {
				checkStreams(t, h.streams(t), p.domain, w)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				for doubts := "..."; doubts != ""; { // some write their logs late
					if doubts = p.doubts(h.domains[0], w); doubts != "" && pause(ctx) != nil {
						t.Errorf("%s: %s", p.domain, doubts)
						break
					}
				}
			})
		})
	}
}

// choose is the address for the service of a way.
func choose(w way, starttls, direct string) string {
	if w.service == "xmpps-server" {
		return direct
	}
	return starttls
}

// A company is a server of ours with the lab of its own certificate.
type company struct {
	*host
	*lab
}

// ours is a server of ours, with the account alice, that the partner can find.
func (s site) ours(t *testing.T, domain string, w way) company {
	t.Helper()
	c := company{lab: s.lab}
	settings := fmt.Sprintf("[federation]\nresolver = %q\n", s.zone.server)
	if w.trusted {
		settings += "[[federation.partner]]\ndomain = \"example\"\nauthentication = \"certificate\"\n"
	} else {
		c.lab = newLab(t)
	}
	if w.forClients {
		if err := c.extend(domain, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if c.host, err = c.prepare(t, home, []string{domain}, settings, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.addAccount("alice@"+domain, "secret"); err != nil {
		t.Fatal(err)
	}
	s.zone.add(t, w.service, domain, choose(w, c.Addresses()["server"][0], c.Addresses()["server_tls"][0]))
	c.run(t)
	return c
}

// extend issues the certificate of a domain again, for other uses.
func (l *lab) extend(domain string, uses ...x509.ExtKeyUsage) error {
	file, _, err := l.certificate(domain)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	c.ExtKeyUsage = uses
	der, err := x509.CreateCertificate(rand.Reader, c, l.ca, c.PublicKey, l.key)
	if err != nil {
		return err
	}
	return writePEM(file, "CERTIFICATE", der)
}

// checkStreams demands an open stream in both directions, over TLS, with the proofs of the way.
func checkStreams(t *testing.T, streams []federation.StreamInfo, remote string, w way) {
	t.Helper()
	peer := "dialback"
	if w.trusted {
		peer = "certificate"
	}
	seen := make(map[string]bool)
	for _, i := range streams {
		if i.Remote != remote || i.State != "open" {
			continue
		}
		seen[i.Direction] = true
		want := federation.StreamInfo{Authenticated: w.received}
		if i.Direction == "out" {
			want = federation.StreamInfo{Authenticated: w.sent, Peer: peer}
		}
		if i.Authenticated != want.Authenticated || i.Peer != want.Peer || i.TLS == "" {
			t.Errorf("stream %s to %s: %+v, want authenticated %q, peer %q", i.Direction, remote, i, want.Authenticated, want.Peer)
		}
		t.Logf("%s of %s and %s: %s, sender authenticated by %s", i.Direction, i.Local, i.Remote, i.TLS, i.Authenticated)
	}
	if !seen["in"] || !seen["out"] {
		t.Errorf("no open stream of each direction: %+v", streams)
	}
}

// streams is what an operator sees.
func (h *host) streams(t *testing.T) []federation.StreamInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result, err := h.Call(ctx, "federation.list", []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	return result.([]federation.StreamInfo)
}

// converse has two users of two servers do what people do. meanwhile is called while both are there.
func converse(t *testing.T, a, b login, meanwhile func()) {
	t.Helper()
	alice, bob := enter(t, "alice", a), enter(t, "bob", b)

	// Each asks for the other's presence, and gets it (RFC 6121 sections 3.1 and 4.3).
	for _, pair := range [][2]*user{{alice, bob}, {bob, alice}} {
		asks, grants := pair[0], pair[1]
		asks.says("<presence to='%s' type='subscribe'/>", grants.bare)
		grants.sees("<presence from='%s' type='subscribe'/>", asks.bare)
		grants.says("<presence to='%s' type='subscribed'/>", asks.bare)
		asks.sees("<presence from='%s' type='subscribed'/>", grants.bare)
		asks.sees("<presence from='%s'><status>here</status></presence>", grants.jid)
	}
	for _, pair := range [][2]*user{{alice, bob}, {bob, alice}} {
		one, other := pair[0], pair[1]
		if state := one.subscription(other.bare); state != "both" {
			t.Errorf("%s has a subscription %q to %s, want both", one.name, state, other.bare)
		}
		one.says("<presence><show>away</show><status>%s is at lunch</status></presence>", one.name)
		other.sees("<presence from='%s'><show>away</show><status>%s is at lunch</status></presence>", one.jid, one.name)

		one.says("<message to='%s' type='chat' id='m1'><body>Grüße von %s &amp; 👋</body></message>", other.bare, one.name)
		other.sees("<message from='%s' type='chat'><body>Grüße von %s &amp; 👋</body></message>", one.jid, one.name)
		one.says("<message to='%s' type='chat' id='m2'><body>to your phone</body><thread>t</thread></message>", other.jid)
		other.sees("<message from='%s' type='chat'><body>to your phone</body><thread>t</thread></message>", one.jid)

		one.asks(other.domain, "<ping xmlns='urn:xmpp:ping'/>", "")
		one.asks(other.domain, "<query xmlns='http://jabber.org/protocol/disco#info'/>",
			"<query xmlns='http://jabber.org/protocol/disco#info'><identity category='server' type='im' name='?'/><any/></query>")
		one.asks(other.domain, "<query xmlns='jabber:iq:version'/>", "<query xmlns='jabber:iq:version'><name>*</name><any/></query>")
		// A request to a client is that client's to answer.
		one.says("<iq to='%s' type='get' id='q'><time xmlns='urn:xmpp:time'/></iq>", other.jid)
		other.sees("<iq from='%s' type='get' id='q'><time xmlns='urn:xmpp:time'/></iq>", one.jid)
		other.says("<iq to='%s' type='result' id='q'><time xmlns='urn:xmpp:time'><tzo>+01:00</tzo></time></iq>", one.jid)
		one.sees("<iq from='%s' type='result' id='q'><time xmlns='urn:xmpp:time'><tzo>+01:00</tzo></time></iq>", other.jid)

		// RFC 6121 section 8.5.1: nobody has that name.
		one.says("<message to='nobody@%s' type='chat' id='m3'><body>Anybody?</body></message>", other.domain)
		one.sees("<message from='nobody@%s' type='error'>%s</message>", other.domain, unavailable)
		one.says("<iq to='nobody@%s' type='get' id='q2'><query xmlns='jabber:iq:version'/></iq>", other.domain)
		one.sees("<iq from='nobody@%s' type='error' id='q2'>%s</iq>", other.domain, unavailable)
	}
	meanwhile()

	// Who leaves is seen to leave, who comes sees who is there (RFC 6121 sections 4.2 and 4.5).
	bob.leaves()
	alice.sees("<presence from='%s' type='unavailable'/>", bob.jid)
	bob = enter(t, "bob", b)
	alice.sees("<presence from='%s'><status>here</status></presence>", bob.jid)
	bob.sees("<presence from='%s'><show>away</show><status>alice is at lunch</status></presence>", alice.jid)
	alice.peer.cut()
	bob.sees("<presence from='%s' type='unavailable'/>", alice.jid)
	bob.leaves()
}

const unavailable = "<error type='cancel' code='?' by='?'><e:service-unavailable/><any/></error>"

// A user is somebody with a client.
type user struct {
	t                       *testing.T
	name, jid, bare, domain string
	peer                    *peer
	questions               int
}

// enter logs a user in, who is then here.
func enter(t *testing.T, name string, l login) *user {
	t.Helper()
	full, err := jid.Parse(l.jid)
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t: t, name: name, jid: l.jid, bare: full.Bare().String(), domain: full.Domain()}
	ctx, cancel := context.WithTimeout(t.Context(), childPatience)
	defer cancel()
	if u.peer, err = connect(ctx, l); err != nil {
		t.Fatalf("%s cannot log in: %v", name, err)
	}
	t.Cleanup(u.peer.cut)
	u.roster()
	u.says("<presence><status>here</status></presence>")
	u.sees("<presence from='%s'><status>here</status></presence>", l.jid)
	return u
}

// leaves ends the stream, and then the connection.
func (u *user) leaves() {
	u.t.Helper()
	u.says("</stream:stream>")
	ctx, cancel := context.WithTimeout(u.t.Context(), childPatience)
	defer cancel()
	if _, err := u.peer.takeIf(ctx, func(e event) bool { return e.kind == gotEnd }); err != nil {
		u.t.Fatalf("%s cannot leave: %v", u.name, err)
	}
	u.peer.cut()
}

func (u *user) says(format string, args ...any) {
	u.t.Helper()
	if err := u.peer.send(fmt.Sprintf(format, args...)); err != nil {
		u.t.Fatalf("%s cannot send: %v", u.name, err)
	}
}

// sees waits for a stanza, which may have more attributes of some kinds and more children than the
// expectation: servers add things to what they deliver. What else comes is left for later.
func (u *user) sees(format string, args ...any) *tree {
	u.t.Helper()
	text := fmt.Sprintf(format, args...)
	expected, err := parseTrees(text)
	if err != nil {
		u.t.Fatalf("%s: %v", text, err)
	}
	want := expected[0]
	for _, name := range []xml.Name{{Local: "id"}, {Local: "to"}, {Space: "http://www.w3.org/XML/1998/namespace", Local: "lang"}} {
		if _, given := want.attrs[name]; !given {
			want.attrs[name] = "?"
		}
	}
	want.content = append(want.content, &tree{name: xml.Name{Space: ns.Client, Local: markAny}})
	ctx, cancel := context.WithTimeout(u.t.Context(), childPatience)
	defer cancel()
	e, err := u.peer.takeIf(ctx, func(e event) bool { return e.kind == gotElement && want.match(e.tree, map[string]string{}) == nil })
	if err != nil {
		u.t.Fatalf("%s waits for\n%s\n%v; what else came:\n%s", u.name, text, err, list(u.peer.pending()))
	}
	return e.tree
}

// asks sends a request to a domain and expects a result with the answer in it.
func (u *user) asks(domain, payload, answer string) {
	u.t.Helper()
	u.questions++
	u.says("<iq to='%s' type='get' id='ask%d'>%s</iq>", domain, u.questions, payload)
	u.sees("<iq from='%s' type='result' id='ask%d'>%s</iq>", domain, u.questions, answer)
}

func (u *user) roster() *tree {
	u.t.Helper()
	u.questions++
	u.says("<iq type='get' id='roster%d'><query xmlns='jabber:iq:roster'/></iq>", u.questions)
	return u.sees("<iq from='?' type='result' id='roster%d'><query xmlns='jabber:iq:roster' ver='?'><any/></query></iq>", u.questions)
}

// subscription is what the user's roster says of a contact.
func (u *user) subscription(contact string) string {
	u.t.Helper()
	for _, item := range u.roster().children()[0].children() {
		if item.attr("jid") == contact {
			return item.attr("subscription")
		}
	}
	return ""
}

// startProsody puts up Prosody.
func startProsody(t *testing.T, s site) partner {
	program := need(t, "prosody", "prosody lua-unbound")
	p, dir := partner{domain: "prosody.example"}, t.TempDir()
	values := s.describe(t, &p, dir)
	fill(t, filepath.Join(dir, "prosody.cfg.lua"), "prosody.cfg.lua", values)
	// Prosody takes a password as it is, and keeps nothing but what SCRAM needs.
	accounts := filepath.Join(dir, "data", strings.ReplaceAll(p.domain, ".", "%2e"), "accounts")
	if err := os.MkdirAll(accounts, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range s.users {
		if err := os.WriteFile(filepath.Join(accounts, name+".dat"), []byte(`return { password = "secret" };`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, dir, nil, program, "--config", filepath.Join(dir, "prosody.cfg.lua"), "-F")
	c.listens(t, p.client)
	if strings.Contains(c.output.String(), "missing lua-unbound") { // then it asks the system's DNS
		missing(t, "lua-unbound for Prosody", "lua-unbound")
	}
	p.doubts = func(domain string, w way) string {
		received := map[string][]string{
			"EXTERNAL": {"Accepting SASL EXTERNAL identity from " + domain},
			"dialback": {"Sending[s2sin]: <db:result ", "to='" + domain + "'", "type='valid'"},
		}
		sent := map[string][]string{
			"EXTERNAL": {"SASL EXTERNAL with " + domain + " succeeded"},
			"dialback": {"Received[s2sout_unauthed]: <result ", "from='" + domain + "'", "type='valid'"},
		}
		return lacks(c.output.String(), received[w.sent], sent[w.received])
	}
	return p
}

// startEjabberd puts up ejabberd, without ejabberdctl, which would become another user and start a
// daemon that outlives it.
func startEjabberd(t *testing.T, s site) partner {
	script, err := os.ReadFile(need(t, "ejabberdctl", "ejabberd"))
	if err != nil {
		t.Fatal(err)
	}
	erl, libs := setting(string(script), "ERL"), setting(string(script), "ERL_LIBS")
	if erl == "" {
		t.Fatal("ejabberdctl does not say where Erlang is")
	}
	p, dir := partner{domain: "ejabberd.example"}, t.TempDir()
	values := s.describe(t, &p, dir)
	fill(t, filepath.Join(dir, "ejabberd.yml"), "ejabberd.yml", values)
	fill(t, filepath.Join(dir, "inetrc"), "inetrc", values)
	var register strings.Builder
	for _, name := range s.users {
		fmt.Fprintf(&register, "ok = ejabberd_auth:try_register(<<%q>>, <<%q>>, <<\"secret\">>), ", name, p.domain)
	}
	c := start(t, dir, []string{
		"EJABBERD_CONFIG_PATH=" + filepath.Join(dir, "ejabberd.yml"), "EJABBERD_LOG_PATH=" + filepath.Join(dir, "ejabberd.log"),
		"ERL_LIBS=" + libs, "ERL_INETRC=" + filepath.Join(dir, "inetrc"), "ERL_CRASH_DUMP_SECONDS=0",
	}, erl, "-noinput", "-mnesia", "dir", fmt.Sprintf("%q", filepath.Join(dir, "data")),
		"-s", "ejabberd", "-eval", register.String()+`io:format("accounts are there~n").`)
	c.says(t, "accounts are there")
	c.listens(t, p.client)
	p.doubts = func(domain string, w way) string {
		return lacks(c.output.String(), []string{"Accepted inbound s2s " + w.sent + " authentication " + domain + " -> " + p.domain},
			[]string{"Accepted outbound s2s " + w.received + " authentication " + p.domain + " -> " + domain})
	}
	return p
}

// setting is the value of a variable in a shell script.
func setting(script, name string) string {
	m := regexp.MustCompile(`(?m)^` + name + `=['"]?([^'"\n]*)`).FindStringSubmatch(script)
	if m == nil {
		return ""
	}
	return m[1]
}

// startTombolo puts up another server of ours.
func startTombolo(t *testing.T, s site) partner {
	domain := "south.example"
	h, err := s.lab.prepare(t, s.address, []string{domain}, fmt.Sprintf("[federation]\nresolver = %q\n", s.zone.server), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range s.users {
		if err := h.addAccount(name+"@"+domain, "secret"); err != nil {
			t.Fatal(err)
		}
	}
	h.run(t)
	at := h.Addresses()
	return partner{domain: domain, client: at["client"][0], server: at["server"][0], serverTLS: at["server_tls"][0],
		doubts: func(remote string, w way) string {
			w.sent, w.received = w.received, w.sent
			checkStreams(t, h.streams(t), remote, w)
			return ""
		}}
}

// describe fills in what a partner's files need to know, and where it will be.
func (s site) describe(t *testing.T, p *partner, dir string) map[string]string {
	t.Helper()
	cert, key, err := s.lab.certificate(p.domain)
	if err != nil {
		t.Fatal(err)
	}
	nameServer, namePort, err := net.SplitHostPort(s.zone.server)
	if err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, s.address, 3)
	p.client = net.JoinHostPort(s.address, ports[0])
	p.server = net.JoinHostPort(s.address, ports[1])
	p.serverTLS = net.JoinHostPort(s.address, ports[2])
	return map[string]string{
		"Dir": dir, "Domain": p.domain, "Address": s.address,
		"ClientPort": ports[0], "ServerPort": ports[1], "ServerTLSPort": ports[2],
		"Certificates": filepath.Dir(cert), "Certificate": cert, "Key": key, "CA": s.lab.caFile(),
		"NameServer": nameServer, "NamePort": namePort,
		"NameServerTuple": "{" + strings.ReplaceAll(nameServer, ".", ",") + "}",
	}
}

// lacks says which lines, each given by texts in it, a log does not have.
func lacks(log string, wanted ...[]string) string {
	for _, texts := range wanted {
		if !slices.ContainsFunc(strings.Split(log, "\n"), func(line string) bool {
			return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) })
		}) {
			return fmt.Sprintf("its log has no line with %q", texts)
		}
	}
	return ""
}
