package xmpp_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tombolo/xmpp/audit"
	"tombolo/xmpp/ns"
)

// TestAudit plays what is to be recorded, with a secret wherever there can be one, and then looks for
// each record, and for each secret, in the audit log.
func TestAudit(t *testing.T) {
	g := newTarget(t, "auth.registration = true\nfederation.deny = ['evil.test']\n[[federation.partner]]\ndomain = 'strict.test'\nauthentication = 'certificate'\n", "juliet")
	secrets := []string{"secret of juliet", "TheWrongGuess", "ChosenAtRegistration", "ChangedByTheUser", "GivenByTheOperator",
		"SetByTheOperator", "SweetNothings", "Guessed", "AsASecretArgument"}

	// In-band registration, then a login that fails and one that does not.
	bill := g.underTLS(t)
	bill.sendf("<iq type='set' id='r'><query xmlns='%s'><username>bill</username><password>ChosenAtRegistration</password></query></iq>", ns.IQRegister)
	bill.expect("type='result'")
	bill.send(plain("", "bill", "TheWrongGuess"))
	bill.expect("</failure>")
	bill.send("<auth xmlns='" + ns.SASL + "' mechanism='X-BOGUS'/>")
	bill.expect("</failure>")
	bill.send(plain("", "bill", "ChosenAtRegistration"))
	bill.expect("<success xmlns='" + ns.SASL + "'")
	bill.expect(">")
	bill.header()
	bill.expect(endOfFeatures)
	bill.bind("x")
	bill.send("<message to='juliet@a.test' type='chat'><body>SweetNothings</body></message>")
	bill.sendf("<iq type='set' id='p'><query xmlns='%s'><username>bill</username><password>ChangedByTheUser</password></query></iq>", ns.IQRegister)
	bill.expect("type='result'")

	// SASL2 with a token, which is a secret too.
	juliet := g.underTLS(t)
	juliet.sendf("<authenticate xmlns='%s' mechanism='PLAIN'><initial-response>%s</initial-response>"+
		"<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'><software>Software</software></user-agent>"+
		"<request-token xmlns='%s' mechanism='HT-SHA-256-NONE'/></authenticate>",
		ns.SASL2, base64.StdEncoding.EncodeToString([]byte("\x00juliet\x00secret of juliet")), ns.FAST)
	success := juliet.expect("</success>")
	token := regexp.MustCompile(`token='([^']+)'`).FindStringSubmatch(success)
	if token == nil {
		t.Fatalf("no token in %s", success)
	}
	secrets = append(secrets, token[1])
	guest := g.underTLS(t)
	guest.send(plain("", "nobody<&\n", "Guessed")) // no localpart, and nobody's name
	guest.expect("</failure>")

	// Other servers: one that is denied, one that cannot prove its name, and a forger.
	evil := g.dial(t, "server")
	evil.serverHeader("evil.test")
	evil.refused("policy-violation")
	strict := g.dial(t, "server")
	strict.serverHeader("strict.test")
	strict.expect(endOfFeatures)
	strict.send(streamTLS)
	strict.expect("<proceed")
	strict.expect(">")
	strict.secure(g.lab, nil)
	strict.serverHeader("strict.test")
	strict.refused("not-authorized")
	forger := g.server(t, "forger.test")
	forger.send("<message from='bank@good.test' to='juliet@a.test'/>")
	forger.refused("invalid-from")

	// Operators.
	ctx := audit.WithActor(context.Background(), audit.Actor{By: "uid 4711", Remote: "admin socket"})
	call := func(verb, args string, good bool) {
		t.Helper()
		if _, err := g.Call(ctx, verb, []byte(args)); (err == nil) != good {
			t.Errorf("%s: %v", verb, err)
		}
	}
	call("user.add", `{"account": "romeo@a.test", "password": "GivenByTheOperator"}`, true)
	call("user.add", `{"account": "romeo@a.test", "password": "GivenByTheOperator", "secret": "AsASecretArgument"}`, false)
	call("user.add", `{"account": "tybalt@a.test", "password": 54321987}`, false)
	call("user.passwd", `{"ACCOUNT": "Romeo@a.test", "password": "SetByTheOperator", "keep": true}`, true)
	call("user.disable", `{"account": "romeo@a.test"}`, true)
	call("user.enable", `{"account": "romeo@a.test"}`, true)
	call("user.list", `{}`, true)
	call("server.status", ``, true)
	call("session.kick", `{"jid": "bill@a.test/x"}`, true)
	call("roster.add", `{"account": "juliet@a.test", "contact": "nurse@a.test", "name": "SweetNothings"}`, true)
	call("user.delete", `{"account": "romeo@a.test"}`, true)
	call("server.reload", ``, false)
	secrets = append(secrets, "54321987")

	// The last is the result of the server's own end.
	g.stop()
	if err := <-g.stopped; err != nil {
		t.Fatal(err)
	}
	g.stopped <- nil

	var got []string
	report, err := audit.Read(g.config.AuditLog(), audit.Query{Each: func(r audit.Record, _ []byte, _ bool) error {
		text := fmt.Sprintf("%s %s by=%s", r.Kind, r.Account, r.By)
		for _, name := range []string{"mechanism", "tls", "reason", "verb", "jid", "contact", "domain", "local", "how"} {
			if v := r.Detail[name]; v != "" {
				text += " " + name + "=" + v
			}
		}
		switch {
		case strings.HasPrefix(r.Remote, "127.0.0.1:"):
			text += " from=network"
		case r.Remote != "":
			text += " from=" + r.Remote
		}
		got = append(got, text)
		return nil
	}})
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("%v, %+v", err, report)
	}
	all := strings.Join(got, "\n") + "\n"
	for _, want := range []string{
		"server-started  by=" + audit.User(os.Getuid()),
		"account-created bill@a.test by=bill@a.test how=registration from=network",
		"login-failed bill@a.test by= mechanism=PLAIN tls=TLS 1.3 reason=not-authorized from=network",
		"login-failed  by= tls=TLS 1.3 reason=invalid-mechanism from=network",
		"login bill@a.test by= mechanism=PLAIN tls=TLS 1.3 from=network",
		"password-changed bill@a.test by=bill@a.test/x",
		"login juliet@a.test by= mechanism=PLAIN tls=TLS 1.3 from=network",
		"login-failed  by= mechanism=PLAIN tls=TLS 1.3 reason=not-authorized from=network",
		"federation-refused  by= reason=policy domain=evil.test local=a.test from=network",
		"federation-refused  by= reason=a stanza of a domain that was not proved domain=good.test local=a.test from=network",
		"admin romeo@a.test by=uid 4711 verb=user.add from=admin socket",
		"account-created romeo@a.test by=uid 4711 from=admin socket",
		"admin-done romeo@a.test by=uid 4711 verb=user.add from=admin socket",
		"admin-failed romeo@a.test by=uid 4711 verb=user.add from=admin socket",
		"admin-failed tybalt@a.test by=uid 4711 verb=user.add from=admin socket",
		"admin romeo@a.test by=uid 4711 verb=user.passwd from=admin socket",
		"password-changed romeo@a.test by=uid 4711 from=admin socket",
		"account-disabled romeo@a.test by=uid 4711 from=admin socket",
		"account-enabled romeo@a.test by=uid 4711 from=admin socket",
		"admin-done bill@a.test by=uid 4711 verb=session.kick jid=bill@a.test/x from=admin socket",
		"admin-done juliet@a.test by=uid 4711 verb=roster.add contact=nurse@a.test from=admin socket",
		"account-removed romeo@a.test by=uid 4711 from=admin socket",
		"admin-failed  by=uid 4711 verb=server.reload from=admin socket",
		"server-stopped  by=",
	} {
		if !strings.Contains(all, want+"\n") {
			t.Errorf("there is no record %q", want)
		}
	}
	if !regexp.MustCompile(`(?m)^federation-refused  by= reason=.* domain=strict.test local=a.test from=network$`).MatchString(all) {
		t.Error("a partner without a certificate left no record")
	}
	for _, not := range []string{"verb=user.list", "verb=server.status"} {
		if strings.Contains(all, not) {
			t.Errorf("there is a record of %s, which changes nothing", not)
		}
	}
	if t.Failed() {
		t.Logf("the records are\n%s", all)
	}
	noSecrets(t, g.config.AuditLog().File, secrets)
}

// noSecrets looks for secrets in all files of an audit log, as they are and as they travel.
func noSecrets(t *testing.T, file string, secrets []string) {
	t.Helper()
	files, err := filepath.Glob(file + "*")
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range secrets {
			quoted, _ := json.Marshal(s)
			for _, form := range []string{s, strings.Trim(string(quoted), `"`), base64.StdEncoding.EncodeToString([]byte(s))} {
				if strings.Contains(string(text), form) {
					t.Errorf("%s holds the secret %q", name, s)
				}
			}
		}
	}
}
