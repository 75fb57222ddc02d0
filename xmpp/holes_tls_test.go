package xmpp_test

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tombolo/xmpp/ns"
)

// steps that lead to login, to a session, or to somebody's screen where nothing stops them.
var shortcuts = []struct{ name, text string }{
	{"auth", plain("", "mallory", "secret of mallory")},
	{"SASL2", "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AG1hbGxvcnkAc2VjcmV0IG9mIG1hbGxvcnk=</initial-response></authenticate>"},
	{"bind", "<iq type='set' id='b'><bind xmlns='" + ns.Bind + "'><resource>x</resource></bind></iq>"},
	{"session", "<iq type='set' id='s'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>"},
	{"iq:auth", "<iq type='set' id='a'><query xmlns='jabber:iq:auth'><username>mallory</username><password>secret of mallory</password><resource>x</resource></query></iq>"},
	{"register", "<iq type='set' id='r'><query xmlns='jabber:iq:register'><username>new</username><password>new</password></query></iq>"},
	{"resume", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>"},
	{"compress", "<compress xmlns='http://jabber.org/protocol/compress'><method>zlib</method></compress>"},
	{"response", "<response xmlns='" + ns.SASL + "'>AG1hbGxvcnkAc2VjcmV0IG9mIG1hbGxvcnk=</response>"},
	{"success", "<success xmlns='" + ns.SASL + "'/>"},
	{"proceed", "<proceed xmlns='" + ns.StartTLS + "'/>"},
	{"message", "<message from='mallory@a.test/x' to='juliet@a.test'><body>x</body></message>"},
	{"presence", "<presence/>"},
	{"roster", "<iq type='get' id='q'><query xmlns='jabber:iq:roster'/></iq>"},
	{"dialback", "<db:result xmlns:db='" + ns.Dialback + "' from='b.test' to='a.test'>key</db:result>"},
}

// No one, two or three steps in any order get anybody anywhere before TLS, and under TLS none gets a
// session but the right ones.
func TestNoOrderOfFeaturesReachesLoginWithoutTLS(t *testing.T) {
	g := newTarget(t, "auth.registration = true\nlimits.registrations_per_minute = 'off'\nlimits.exempt = ['127.0.0.0/8']", "mallory", "juliet")
	juliet := g.online(t, "juliet")
	var orders [][]int
	for a := range shortcuts {
		for b := range shortcuts {
			orders = append(orders, []int{a, b}) // the second is what the first could have opened the way for
		}
	}
	inClear := ways[1].open
	serverInClear := func(t testing.TB, g *target) *wire {
		w := g.dial(t, "server")
		w.serverHeader("b.test")
		w.expect(endOfFeatures)
		return w
	}
	for _, order := range orders {
		var names, texts []string
		for _, i := range order {
			names, texts = append(names, shortcuts[i].name), append(texts, shortcuts[i].text)
		}
		for where, open := range map[string]func(testing.TB, *target) *wire{"client": inClear, "server": serverInClear} {
			w := open(t, g)
			w.send(strings.Join(texts, ""))
			w.tcp.CloseWrite()
			got := w.rest()
			for _, granted := range []string{"<success", "<jid", "type='result'", "<challenge", "<resumed", "<compressed", "type='valid'", "<message", "<continue"} {
				if strings.Contains(got, granted) {
					t.Errorf("%s in clear, %s: got %q", where, names, got)
				}
			}
		}
		if slices.ContainsFunc(order, func(i int) bool {
			return slices.Contains([]string{"auth", "SASL2", "register"}, shortcuts[i].name)
		}) {
			continue // these are for under TLS
		}
		w := g.underTLS(t)
		w.send(strings.Join(texts, ""))
		w.tcp.CloseWrite()
		got := w.rest()
		for _, granted := range []string{"<success", "<jid", "type='result'", "<resumed", "<message", "<presence"} {
			if strings.Contains(got, granted) {
				t.Errorf("under TLS without login, %s: got %q", names, got)
			}
		}
	}
	if got := juliet.settled(); got != "" {
		t.Errorf("juliet got %q", got)
	}
	if g.hasAccount(t, "new") {
		t.Error("an account was made without TLS")
	}
}

// What follows <starttls/> in clear, in its packet or in a later one, is not taken for something that
// came under TLS: not even by a stream that starts anew after it.
func TestBytesBehindSTARTTLS(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet")
	juliet := g.online(t, "juliet")
	header := "<stream:stream xmlns='jabber:client' xmlns:stream='" + ns.Stream + "' to='a.test' version='1.0'>"
	injected := plain("", "mallory", "secret of mallory") + header +
		"<iq type='set' id='b'><bind xmlns='" + ns.Bind + "'/></iq><message to='juliet@a.test'><body>x</body></message>"
	for name, behind := range map[string]string{
		"a login": injected, "a header and a login": header + injected, "white space": " ", "half an element": "<auth",
	} {
		for _, together := range []bool{true, false} {
			for _, key := range []string{"client", "server"} {
				t.Run(fmt.Sprintf("%s, in the same packet %v, %s", name, together, key), func(t *testing.T) {
					w := g.dial(t, key)
					if key == "client" {
						w.header()
					} else {
						w.serverHeader("b.test")
					}
					w.expect(endOfFeatures)
					if together {
						w.send(streamTLS + behind)
						got := w.rest()
						if !strings.Contains(got, "<policy-violation ") || strings.Contains(got, "<success") {
							t.Errorf("got %q, want policy-violation", got)
						}
						return
					}
					w.send(streamTLS)
					w.expect("<proceed xmlns='" + ns.StartTLS + "'/>")
					w.send(behind + strings.Repeat(" ", 64)) // of the length of a TLS record at least
					if got := w.rest(); strings.Contains(got, "<") {
						t.Errorf("got %q", got)
					}
				})
			}
		}
	}
	if got := juliet.settled(); got != "" {
		t.Errorf("juliet got %q", got)
	}
}

// A stream is for the domain and the account that its first header named.
func TestChangedHeaderOfAClient(t *testing.T) {
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test", "a2.test"}, "auth.plain = true\nlimits.exempt = ['127.0.0.0/8']", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range []string{"mallory@a.test", "mallory@a2.test", "juliet@a.test"} {
		if err := h.addAccount(account, "secret of mallory"); err != nil {
			t.Fatal(err)
		}
	}
	h.run(t)
	g := &target{h, l}
	header := func(from, to string) string {
		return "<stream:stream xmlns='jabber:client' xmlns:stream='" + ns.Stream + "'" + from + " to='" + to + "' version='1.0'>"
	}
	login := func(t *testing.T) *wire {
		w := g.underTLS(t)
		w.send(plain("", "mallory", "secret of mallory"))
		w.expect("<success")
		w.expect(">")
		return w
	}
	for _, row := range []struct{ name, from, to, want string }{
		{"another to", "", "a2.test", "host-unknown"},
		{"no domain of ours", "", "x.test", "host-unknown"},
		{"another from", " from='juliet@a.test'", "a.test", "invalid-from"},
		{"the same name elsewhere", " from='mallory@a2.test'", "a.test", "invalid-from"},
		{"a domain as from", " from='a.test'", "a.test", "invalid-from"},
		{"no from", "", "a.test", ""},
		{"its own from", " from='Mallory@a.test'", "A.test", ""},
	} {
		t.Run(row.name+", after login", func(t *testing.T) {
			w := login(t)
			w.send(header(row.from, row.to))
			if row.want != "" {
				w.refused(row.want)
				return
			}
			w.expect(endOfFeatures)
			w.bind("x")
			if got := string(w.seen); !strings.Contains(got, "<jid>mallory@a.test/x</jid>") {
				t.Errorf("bound %q", got)
			}
		})
	}
	t.Run("another to, after TLS", func(t *testing.T) {
		w := g.dial(t, "client")
		w.header()
		w.expect(endOfFeatures)
		w.send(streamTLS)
		w.expect("<proceed xmlns='" + ns.StartTLS + "'/>")
		w.secure(l, nil)
		w.send(header("", "a2.test"))
		w.refused("host-unknown")
	})
	// A from before login is a claim that nothing rests on.
	t.Run("another from, before login", func(t *testing.T) {
		w := g.dial(t, "client_tls")
		w.send(header(" from='juliet@a.test'", "a.test"))
		w.expect(endOfFeatures)
		w.send(plain("", "mallory", "secret of mallory"))
		w.expect("<success")
		w.expect(">")
		w.header()
		w.expect(endOfFeatures)
		w.bind("x")
		if got := string(w.seen); !strings.Contains(got, "<jid>mallory@a.test/x</jid>") {
			t.Errorf("bound %q", got)
		}
	})
}

// No TLS session is resumed, so what a certificate or a channel binding proved is proved on every
// connection anew.
func TestTLSSessionsAreNotResumed(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']")
	cert := g.lab.keyPair(t, "b.test")
	for _, key := range []string{"client", "client_tls", "server", "server_tls"} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%s, %s", key, tls.VersionName(version)), func(t *testing.T) {
				config := g.lab.clientTLS("a.test")
				config.ClientSessionCache = tls.NewLRUClientSessionCache(10)
				config.MaxVersion = version
				config.Certificates = []tls.Certificate{cert}
				for range 3 {
					w := g.dialRaw(t, key)
					if !strings.HasSuffix(key, "_tls") {
						if key == "client" {
							w.header()
						} else {
							w.serverHeader("b.test")
						}
						w.expect(endOfFeatures)
						w.send(streamTLS)
						w.expect("<proceed xmlns='" + ns.StartTLS + "'/>")
					}
					secured := tls.Client(w.tcp, config)
					if err := secured.Handshake(); err != nil {
						t.Fatal(err)
					}
					w.conn = secured
					if strings.HasPrefix(key, "client") {
						w.header()
					} else {
						w.serverHeader("b.test")
					}
					w.expect(endOfFeatures) // a ticket would have come by now
					if secured.ConnectionState().DidResume {
						t.Error("a TLS session was resumed")
					}
				}
			})
		}
	}
}

// Versions and renegotiation that have holes of their own are not spoken.
func TestOldTLS(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']")
	for _, key := range []string{"client_tls", "server_tls"} {
		for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
			w := g.dialRaw(t, key)
			config := g.lab.clientTLS("a.test")
			config.MinVersion, config.MaxVersion = version, version
			if err := tls.Client(w.tcp, config).Handshake(); err == nil {
				t.Errorf("%s speaks %s", key, tls.VersionName(version))
			}
		}
		for _, suite := range tls.InsecureCipherSuites() {
			w := g.dialRaw(t, key)
			config := g.lab.clientTLS("a.test")
			config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{suite.ID}
			if err := tls.Client(w.tcp, config).Handshake(); err == nil {
				t.Errorf("%s speaks %s", key, suite.Name)
			}
		}
	}
}
