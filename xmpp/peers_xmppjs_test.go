package xmpp_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tombolo/xmpp/jid"
	"tombolo/xmpp/xep"
)

// TestXMPPJS: the npm package @xmpp/client logs in with SASL2 (XEP-0388), Bind 2 (XEP-0386) and asks for
// a token (XEP-0484), comes back with the token to resume its session (XEP-0198), and with its password
// to a new session when the token and the session are no more.
func TestXMPPJS(t *testing.T) {
	node := need(t, "node", "nodejs npm")
	dir, err := filepath.Abs("../testdata/peers/xmppjs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		missing(t, "@xmpp/client", "npm, then: npm ci --prefix testdata/peers/xmppjs")
	}
	for _, how := range []struct{ scheme, listener string }{{"xmpp", "client"}, {"xmpps", "client_tls"}} {
		t.Run(how.scheme, func(t *testing.T) {
			t.Parallel()
			m := newMeeting(t, "js.example")
			address, port := m.at(t, how.listener)
			c := start(t, t.TempDir(), []string{"PASSWORD=secret", "NODE_EXTRA_CA_CERTS=" + m.caFile()},
				node, filepath.Join(dir, "client.js"), m.domain, "bob", how.scheme, address, port)
			// arrives waits for another session, after a login by that mechanism.
			online := regexp.MustCompile(`(?m)^online (bob@js\.example/xmppjs/\S+)$`)
			var mechanisms []string
			sessions := 0
			arrives := func(mechanism string) (full string) {
				t.Helper()
				mechanisms = append(mechanisms, mechanism)
				sessions++
				until(t, fmt.Sprintf("bob is online for time %d", sessions), func() bool {
					return len(online.FindAllString(c.output.String(), -1)) == sessions
				})
				full = online.FindAllStringSubmatch(c.output.String(), -1)[sessions-1][1]
				m.alice.sees("<presence from='%s'><status>xmpp.js is here</status></presence>", full)
				if got := m.logins("bob"); !slices.Equal(got, mechanisms) {
					t.Fatalf("bob logged in by %s, want %s", got, mechanisms)
				}
				return full
			}

			bob := arrives("SCRAM-SHA-1")
			c.says(t, "success urn:xmpp:sasl:2")
			c.says(t, "token HT-SHA-256-NONE")
			converses := func(body string) {
				t.Helper()
				m.alice.says("<message to='%s' type='chat'><body>%s</body></message>", bob, body)
				m.alice.sees("<message from='%s' type='chat'><body>you said: %s</body></message>", bob, body)
			}
			converses("How do you do?")

			for time := range 2 {
				m.alice.says("<message to='%s' type='chat'><body>again</body></message>", bob)
				mechanisms = append(mechanisms, "HT-SHA-256-NONE")
				until(t, "bob has resumed", func() bool {
					return strings.Count(c.output.String(), "\nresumed\n") == time+1
				})
				if got := m.logins("bob"); !slices.Equal(got, mechanisms) {
					t.Fatalf("bob logged in by %s, want %s", got, mechanisms)
				}
				converses(fmt.Sprintf("Welcome back, for time %d", time+1))
			}
			known := m.clients(t, "bob")
			if len(known) != 1 || !known[0].Token || !known[0].Connected || known[0].Software != "xmpp.js" ||
				known[0].Device != "a test" || known[0].Mechanism != "HT-SHA-256-NONE" {
				t.Fatalf("clients: %+v", known)
			}

			// Its token is taken away: it has the password still.
			if _, err := m.Call(t.Context(), "client.revoke", m.request(t, "bob", known[0].ID)); err != nil {
				t.Fatal(err)
			}
			c.says(t, "token refused")
			m.alice.sees("<presence from='%s' type='unavailable'/>", bob)
			bob = arrives("SCRAM-SHA-1")
			m.alice.says("<message to='%s' type='chat'><body>bye</body></message>", bob)
			m.alice.sees("<presence from='%s' type='unavailable'/>", bob)
			c.says(t, "offline")
		})
	}
}

// clients are what an operator sees of a user.
func (m meeting) clients(t *testing.T, user string) (list []xep.ClientInfo) {
	t.Helper()
	got, err := m.Call(t.Context(), "client.list", m.request(t, user, ""))
	if err != nil {
		t.Fatal(err)
	}
	return got.([]xep.ClientInfo)
}

func (m meeting) request(t *testing.T, user, id string) []byte {
	t.Helper()
	args, err := json.Marshal(xep.ClientRequest{Account: jid.MustParse(user + "@" + m.domain), ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return args
}

// logins are the mechanisms by which a user has logged in.
func (m meeting) logins(user string) (mechanisms []string) {
	login := regexp.MustCompile(`msg=authenticated .*account=` + user + `@\S+ mechanism=(\S+)`)
	for _, found := range login.FindAllStringSubmatch(m.log.String(), -1) {
		mechanisms = append(mechanisms, found[1])
	}
	return mechanisms
}
