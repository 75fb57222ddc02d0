package c2s_test

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"mellium.im/sasl"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

const installation = "d4565fa7-4d72-4749-b3d3-740edbf87770"

// A wire is a client that says what a test wants it to say.
type wire struct {
	t    *testing.T
	conn *tls.Conn
}

// dial goes as far as the features under TLS.
func (s *server) dial(t *testing.T, change func(*tls.Config)) (w *wire, features string) {
	t.Helper()
	config := &tls.Config{ServerName: domain, RootCAs: s.roots, MinVersion: tls.VersionTLS12}
	if change != nil {
		change(config)
	}
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	header := "<stream:stream to='" + domain + "' version='1.0' xmlns='jabber:client' xmlns:stream='" + ns.Stream + "'>"
	exchange(t, conn, header, "</stream:features>")
	exchange(t, conn, "<starttls xmlns='"+ns.StartTLS+"'/>", "<proceed")
	w = &wire{t, tls.Client(conn, config)}
	return w, w.ask(header, "</stream:features>")
}

// ask says something and returns what is said until there was text.
func (w *wire) ask(say, text string) string {
	w.t.Helper()
	return exchange(w.t, w.conn, say, text)
}

func exchange(t *testing.T, conn net.Conn, say, text string) string {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, say); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), text) {
		n, err := conn.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("waiting for %s, got %s: %v", text, got.String(), err)
		}
	}
	return got.String()
}

// authenticate is the element for an initial response and what else is asked for.
func authenticate(mechanism string, response []byte, inline string) string {
	return fmt.Sprintf("<authenticate xmlns='%s' mechanism='%s'><initial-response>%s</initial-response>"+
		"<user-agent id='%s'><software>test</software></user-agent>%s</authenticate>",
		ns.SASL2, mechanism, base64.StdEncoding.EncodeToString(response), installation, inline)
}

func plain(user string) string {
	return "\x00" + user + "\x00secret of " + user
}

// hashedToken is draft-schmaus-kitten-sasl-ht section 3.
func hashedToken(user, token string, binding []byte) []byte {
	h := hmac.New(sha256.New, []byte(token))
	h.Write(append([]byte("Initiator"), binding...))
	return append([]byte(user+"\x00"), h.Sum(nil)...)
}

func attribute(t *testing.T, in, name string) string {
	t.Helper()
	m := regexp.MustCompile(` ` + name + `='([^']*)'`).FindStringSubmatch(in)
	if m == nil {
		t.Fatalf("no %s in %s", name, in)
	}
	return m[1]
}

// A clock is set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// XEP-0484 sections 3.5 and 5.1: a token that is a day old is replaced, and holds until the new one
// was used; one that has expired says so.
func TestTokensAreRotated(t *testing.T) {
	now, store := &clock{now: time.Now()}, mem.New(mem.Options{})
	s := serveOn(t, store, func(c *c2s.Config) {
		c.Tokens, c.Plain = true, true
		c.Accounts = accounts(t, store, auth.Options{Iterations: 4096, Now: now.Now})
	})
	login := func(token string) string {
		w, _ := s.dial(t, nil)
		defer w.conn.Close()
		return w.ask(authenticate("HT-SHA-256-NONE", hashedToken("romeo", token, nil), "<fast xmlns='"+ns.FAST+"'/>"), ">")
	}
	w, _ := s.dial(t, nil)
	got := w.ask(authenticate("PLAIN", []byte(plain("romeo")), "<request-token xmlns='"+ns.FAST+"' mechanism='HT-SHA-256-NONE'/>"), "</success>")
	first := attribute(t, got, "token")
	expiry, err := time.Parse(time.RFC3339, attribute(t, got, "expiry"))
	if err != nil || !expiry.Equal(now.Now().Add(21*24*time.Hour).UTC().Truncate(time.Second)) {
		t.Errorf("it expires at %v, %v", expiry, err)
	}

	if got := login(first); !strings.Contains(got, "<success") || strings.Contains(got, "<token") {
		t.Errorf("a fresh token: %s", got)
	}
	now.pass(25 * time.Hour)
	lost := attribute(t, login(first), "token") // and the client does not hear of it
	second := attribute(t, login(first), "token")
	if got := login(lost); !strings.Contains(got, "<not-authorized") {
		t.Errorf("a token that was replaced before it was used: %s", got)
	}
	if got := login(second); !strings.Contains(got, "<success") {
		t.Errorf("the new token: %s", got)
	}
	if got := login(first); !strings.Contains(got, "<not-authorized") {
		t.Errorf("the old token, after the new one was used: %s", got)
	}
	now.pass(22 * 24 * time.Hour)
	if got := login(second); !strings.Contains(got, "<credentials-expired") {
		t.Errorf("an expired token: %s", got)
	}
}

// accounts are those of a store with other options.
func accounts(t *testing.T, store storage.Store, o auth.Options) *auth.Accounts {
	t.Helper()
	a, err := auth.NewAccounts(store, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// XEP-0484 section 3.4, with each mechanism that the connection has.
func TestTokensWithChannelBinding(t *testing.T) {
	s := serve(t, func(c *c2s.Config) { c.Tokens, c.Plain = true, true })
	exporter := func(w *wire) []byte {
		state := w.conn.ConnectionState()
		data, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, test := range []struct {
		version   uint16
		mechanism string
		binding   func(*wire) []byte
	}{
		{tls.VersionTLS13, "HT-SHA-256-EXPR", exporter},
		{tls.VersionTLS12, "HT-SHA-256-EXPR", exporter},
		{tls.VersionTLS12, "HT-SHA-256-UNIQ", func(w *wire) []byte { return w.conn.ConnectionState().TLSUnique }},
		{tls.VersionTLS13, "HT-SHA-256-ENDP", func(w *wire) []byte {
			sum := sha256.Sum256(w.conn.ConnectionState().PeerCertificates[0].Raw)
			return sum[:]
		}},
		{tls.VersionTLS13, "HT-SHA-256-NONE", func(*wire) []byte { return nil }},
	} {
		t.Run(tls.VersionName(test.version)+" "+test.mechanism, func(t *testing.T) {
			version := func(c *tls.Config) { c.MaxVersion = test.version }
			w, features := s.dial(t, version)
			if !strings.Contains(features, "<mechanism>"+test.mechanism+"<") {
				t.Fatalf("not offered: %s", features)
			}
			got := w.ask(authenticate("PLAIN", []byte(plain("romeo")), "<request-token xmlns='"+ns.FAST+"' mechanism='"+test.mechanism+"'/>"), "</success>")
			token := attribute(t, got, "token")

			w, _ = s.dial(t, version)
			bad := append([]byte("x"), test.binding(w)...)
			w.ask(authenticate(test.mechanism, hashedToken("romeo", token, bad), "<fast xmlns='"+ns.FAST+"'/>"), "<not-authorized")
			got = w.ask(authenticate(test.mechanism, hashedToken("romeo", token, test.binding(w)), "<fast xmlns='"+ns.FAST+"'/>"), "</success>")
			h := hmac.New(sha256.New, []byte(token))
			h.Write(append([]byte("Responder"), test.binding(w)...))
			if want := "<additional-data>" + base64.StdEncoding.EncodeToString(h.Sum(nil)) + "<"; !strings.Contains(got, want) {
				t.Errorf("the server does not prove that it knows the token: %s", got)
			}
		})
	}
	w, features := s.dial(t, nil)
	if strings.Contains(features, "UNIQ") {
		t.Errorf("TLS 1.3 has no tls-unique: %s", features)
	}
	w.ask(authenticate("HT-SHA-256-UNIQ", hashedToken("romeo", "x", nil), "<fast xmlns='"+ns.FAST+"'/>"), "<invalid-mechanism")
}

// scram is an exchange by a client that is not ours; it returns what the server said at its end.
func scram(w *wire, m sasl.Mechanism, user, inline string) string {
	w.t.Helper()
	c := sasl.NewClient(m, sasl.Credentials(func() (username, password, identity []byte) {
		return []byte(user), []byte("secret of " + user), nil
	}))
	_, response, err := c.Step(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	challenge := w.ask(authenticate(m.Name, response, inline), "</challenge>")
	data, err := base64.StdEncoding.DecodeString(between(challenge, "<challenge xmlns='"+ns.SASL2+"'>", "</challenge>"))
	if err != nil {
		w.t.Fatalf("%v: %s", err, challenge)
	}
	if _, response, err = c.Step(data); err != nil {
		w.t.Fatal(err)
	}
	got := w.ask(fmt.Sprintf("<response xmlns='%s'>%s</response>", ns.SASL2, base64.StdEncoding.EncodeToString(response)), ">")
	if proof := between(got, "<additional-data>", "</additional-data>"); proof != "" {
		data, err := base64.StdEncoding.DecodeString(proof)
		if err == nil {
			_, _, err = c.Step(data)
		}
		if err != nil {
			w.t.Errorf("the client refuses the server's proof: %v", err)
		}
	} else {
		w.t.Errorf("the server proves nothing: %s", got)
	}
	return got
}

func between(text, before, after string) string {
	_, rest, _ := strings.Cut(text, before)
	found, _, ok := strings.Cut(rest, after)
	if !ok {
		return ""
	}
	return found
}

// XEP-0480: an account that has keys for SHA-1 only gets others, by its own client.
func TestUpgradeTasks(t *testing.T) {
	store := mem.New(mem.Options{})
	s := serveOn(t, store, func(c *c2s.Config) {
		c.Exempt = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} // it fails often
		old := accounts(t, store, auth.Options{Iterations: 4096, Mechanisms: []string{"SCRAM-SHA-1"}})
		for _, name := range []string{"mercutio", "tybalt"} {
			if err := old.Create(t.Context(), jid.MustParse(name+"@"+domain), "secret of "+name); err != nil {
				t.Fatal(err)
			}
		}
	})
	const (
		upgrade = "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>"
		ask     = upgrade + "UPGR-GUESS</upgrade>" + upgrade + "UPGR-SCRAM-SHA-256</upgrade>" + upgrade + "UPGR-SCRAM-SHA-256</upgrade>"
	)
	next := func(task string) string { return "<next xmlns='" + ns.SASL2 + "' task='" + task + "'/>" }
	hash := func(salted []byte) string {
		return fmt.Sprintf("<task-data xmlns='%s'><hash xmlns='%s'>%s</hash></task-data>", ns.SASL2, ns.ScramUpgrade,
			base64.StdEncoding.EncodeToString(salted))
	}
	// Section 2.1: the same for everybody.
	w, features := s.dial(t, nil)
	if got := strings.Count(features, upgrade); got != 2 || !strings.Contains(features, upgrade+"UPGR-SCRAM-SHA-256</upgrade>") {
		t.Errorf("%d upgrades are offered: %s", got, features)
	}
	got := scram(w, sasl.ScramSha1, "mercutio", ask+"<bind xmlns='"+ns.Bind2+"'/>")
	if !strings.Contains(got, "<continue ") || !strings.Contains(got, "<tasks><task>UPGR-SCRAM-SHA-256</task></tasks>") {
		t.Fatalf("section 2.2: no task: %s", got)
	}
	data := w.ask(next("UPGR-SCRAM-SHA-256"), "</task-data>")
	salt, err := base64.StdEncoding.DecodeString(between(data, "iterations='4096'>", "</salt>"))
	if err != nil || len(salt) == 0 {
		t.Fatalf("section 3: %v: %s", err, data)
	}
	salted, err := pbkdf2.Key(sha256.New, "secret of mercutio", salt, 4096, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	got = w.ask(hash(salted), "</stream:features>")
	if !strings.Contains(got, "<success ") || strings.Contains(got, "additional-data") || !strings.Contains(got, "<bound ") {
		t.Errorf("XEP-0388 section 2.6.3: %s", got)
	}
	w, _ = s.dial(t, nil)
	if got := scram(w, sasl.ScramSha256, "mercutio", ask); !strings.Contains(got, "<success ") {
		t.Errorf("with the new keys there is nothing to do: %s", got)
	}

	// What a client can do wrong ends the attempt and adds nothing.
	for name, step := range map[string]struct{ say, condition string }{
		"another task":          {next("UPGR-SCRAM-SHA-512"), "malformed-request"},
		"data before <next/>":   {hash(salted), "malformed-request"},
		"a response":            {"<response xmlns='" + ns.SASL2 + "'>eA==</response>", "malformed-request"},
		"it gives up":           {"<abort xmlns='" + ns.SASL2 + "'/>", "aborted"},
		"not base64":            {next("UPGR-SCRAM-SHA-256") + strings.Replace(hash(nil), "></hash>", ">*</hash>", 1), "incorrect-encoding"},
		"nothing":               {next("UPGR-SCRAM-SHA-256") + hash(nil), "malformed-request"},
		"not a SHA-256":         {next("UPGR-SCRAM-SHA-256") + hash(salted[1:]), "malformed-request"},
		"<next/> once more":     {next("UPGR-SCRAM-SHA-256") + next("UPGR-SCRAM-SHA-256"), "malformed-request"},
		"no hash in the answer": {next("UPGR-SCRAM-SHA-256") + "<task-data xmlns='" + ns.SASL2 + "'/>", "malformed-request"},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := s.dial(t, nil)
			if got := scram(w, sasl.ScramSha1, "tybalt", ask); !strings.Contains(got, "<continue ") {
				t.Fatalf("no task: %s", got)
			}
			if got := w.ask(step.say, "</failure>"); !strings.Contains(got, "<failure xmlns='"+ns.SASL2+"'><"+step.condition+" xmlns='"+ns.SASL+"'/>") {
				t.Errorf("got %s", got)
			}
			w.ask("<iq type='get' id='1' to='"+domain+"'><ping xmlns='"+ns.Ping+"'/></iq>", "<not-authorized")
		})
	}
	// Section 2.4 of XEP-0388 holds for tasks as well.
	w, _ = s.dial(t, nil)
	scram(w, sasl.ScramSha1, "tybalt", ask)
	w.ask(authenticate("PLAIN", []byte(plain("romeo")), ""), "<policy-violation")
}

// XEP-0386 section 3.2: what is asked for inline is enabled before the client learns its address, and
// its answers are in <bound/>.
func TestInlineFeatures(t *testing.T) {
	var enabled []string
	s := serve(t, func(c *c2s.Config) {
		c.Plain = true
		c.Inline = []module.Inline{
			{NS: "urn:a", Enable: func(u hook.User, s hook.Session, request element.Element) element.Element {
				enabled = append(enabled, u.JID().String()+" "+request.Name())
				return element.Leaf("enabled", "urn:a", s.JID().Resource())
			}},
			{NS: "urn:b", Enable: func(hook.User, hook.Session, element.Element) element.Element {
				enabled = append(enabled, "b")
				return element.Element{}
			}},
		}
	})
	w, features := s.dial(t, nil)
	if want := "<bind xmlns='urn:xmpp:bind:0'><inline><feature var='urn:xmpp:sm:3'/><feature var='urn:a'/><feature var='urn:b'/></inline></bind>"; !strings.Contains(features, want) {
		t.Errorf("section 3.1: %s", features)
	}
	got := w.ask(authenticate("PLAIN", []byte(plain("romeo")),
		"<bind xmlns='urn:xmpp:bind:0'><tag>\u200d</tag><on xmlns='urn:a'/><on xmlns='urn:c'/></bind>"), "</stream:features>")
	resource := between(got, "<authorization-identifier>romeo@a.test/", "<")
	if resource == "" || strings.Contains(resource, "/") || !strings.Contains(got, "<bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:a'>"+resource+"</enabled></bound>") {
		t.Errorf("a tag that cannot be part of a resource: %s", got)
	}
	if fmt.Sprint(enabled) != "[romeo@a.test on]" {
		t.Errorf("enabled: %q", enabled)
	}
}

// A login that is not bound yet ends with what ends sessions, in both profiles.
func TestNothingIsBoundAfterRevocation(t *testing.T) {
	for name, revoke := range map[string]func(context.Context, *auth.Accounts, jid.JID) error{
		"another password": func(ctx context.Context, a *auth.Accounts, j jid.JID) error { return a.SetPassword(ctx, j, "another") },
		"disabled":         func(ctx context.Context, a *auth.Accounts, j jid.JID) error { return a.SetDisabled(ctx, j, true) },
		"deleted":          func(ctx context.Context, a *auth.Accounts, j jid.JID) error { return a.Delete(ctx, j) },
		"another of that name": func(ctx context.Context, a *auth.Accounts, j jid.JID) error {
			if err := a.Delete(ctx, j); err != nil {
				return err
			}
			return a.Create(ctx, j, "secret of romeo")
		},
	} {
		t.Run(name, func(t *testing.T) {
			var all *auth.Accounts
			s := serve(t, func(c *c2s.Config) { c.Plain, all = true, c.Accounts })
			old, _ := s.dial(t, nil)
			old.ask(fmt.Sprintf("<auth xmlns='%s' mechanism='PLAIN'>%s</auth>", ns.SASL, base64.StdEncoding.EncodeToString([]byte(plain("romeo")))), "<success")
			old.ask("<stream:stream to='"+domain+"' version='1.0' xmlns='jabber:client' xmlns:stream='"+ns.Stream+"'>", "</stream:features>")
			newer, _ := s.dial(t, nil)
			newer.ask(authenticate("PLAIN", []byte(plain("romeo")), ""), "</stream:features>")
			if err := revoke(t.Context(), all, jid.MustParse("romeo@"+domain)); err != nil {
				t.Fatal(err)
			}
			for _, w := range []*wire{old, newer} {
				got := w.ask("<iq type='set' id='b'><bind xmlns='"+ns.Bind+"'/></iq>", "</stream:stream>")
				if !strings.Contains(got, "<not-authorized") || strings.Contains(got, "<iq") {
					t.Errorf("got %s", got)
				}
			}
		})
	}
}

func TestTooManySessions(t *testing.T) {
	s := serve(t, func(c *c2s.Config) { c.Plain, c.Users.MaxSessions = true, 1 })
	ask := authenticate("PLAIN", []byte(plain("romeo")), "<bind xmlns='urn:xmpp:bind:0'/>")
	first, _ := s.dial(t, nil)
	first.ask(ask, "<bound")
	// Another session of the same client takes the place of the first, one of another has none.
	second, _ := s.dial(t, nil)
	second.ask(ask, "<bound")
	first.ask("", "<"+stanza.StreamConflict)
	third, _ := s.dial(t, nil)
	if got := third.ask(strings.Replace(ask, installation, strings.Replace(installation, "d", "e", 1), 1), "</stream:stream>"); strings.Contains(got, "<success") ||
		!strings.Contains(got, "<"+stanza.StreamResourceConstraint) {
		t.Errorf("got %s", got)
	}
}

// XEP-0198 section 5: a server that resumes no sessions says so.
func TestNoResumption(t *testing.T) {
	s := serve(t, func(c *c2s.Config) { c.Plain, c.Resume = true, 0 })
	w, _ := s.dial(t, nil)
	w.ask(authenticate("PLAIN", []byte(plain("romeo")), ""), "</stream:features>")
	if got := w.ask("<resume xmlns='"+ns.SM+"' previd='one of before' h='0'/>", "</failed>"); !strings.Contains(got, "<feature-not-implemented ") {
		t.Errorf("got %s", got)
	}
}
