package c2s_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/router"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// office is a server without streams, as operators see it.
type office struct {
	t     *testing.T
	host  *module.Host
	verbs map[string]module.Verb

	mu    sync.Mutex
	ended map[string]string // stream error by full JID
}

// line is the sink of a session.
type line struct {
	o    *office
	full string
}

func (l line) Send(element.Element) {}
func (l line) Close(err *stanza.StreamError) {
	l.o.mu.Lock()
	defer l.o.mu.Unlock()
	l.o.ended[l.full] = err.Condition
}

func openOffice(t *testing.T) *office {
	t.Helper()
	store := mem.New(mem.Options{})
	t.Cleanup(func() { store.Close() })
	now := func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	accounts, err := auth.NewAccounts(store, auth.Options{Iterations: 1, Mechanisms: []string{"SCRAM-SHA-1", "SCRAM-SHA-256"}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	isLocal := func(d string) bool { return d == "a.test" || d == "b.test" }
	users := session.New(store, now)
	hooks := hook.Join(router.OwnHooks())
	users.Start(hooks, &router.Router{Users: users, Hooks: hooks, IsLocal: isLocal, Remote: nowhere{}, Log: slog.Default()}, nil)
	o := &office{t: t, ended: make(map[string]string)}
	o.host = &module.Host{Store: store, Users: users, Accounts: accounts, Now: now, IsLocal: isLocal,
		Domains: func() []module.Domain { return []module.Domain{{Name: "a.test"}, {Name: "b.test"}} }}
	o.verbs = c2s.Verbs(o.host)
	return o
}

// call carries out a verb; its result goes through JSON, as it does for the command line.
func (o *office) call(verb, args string) (string, error) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 10*time.Second)
	defer cancel()
	result, err := o.verbs[verb](ctx, []byte(args))
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(result)
	if err != nil {
		o.t.Fatal(err)
	}
	return string(text), nil
}

func (o *office) must(verb, args string) string {
	o.t.Helper()
	result, err := o.call(verb, args)
	if err != nil {
		o.t.Fatalf("%s %s: %v", verb, args, err)
	}
	return result
}

func (o *office) add(accounts ...string) {
	o.t.Helper()
	for _, account := range accounts {
		o.must("user.add", `{"account":"`+account+`","password":"secret"}`)
	}
}

func (o *office) bind(sessions ...string) {
	o.t.Helper()
	for _, full := range sessions {
		if _, err := o.host.Users.Bind(session.Binding{Full: jid.MustParse(full), Sink: line{o, full},
			Announce: func(*session.User, *session.Session) {}}); err != nil {
			o.t.Fatal(err)
		}
	}
}

// wantSessions asserts what is bound now, and why the others ended.
func (o *office) wantSessions(bound []string, ended map[string]string) {
	o.t.Helper()
	var got []string
	for _, s := range o.host.Users.Sessions() {
		got = append(got, s.JID().String())
	}
	slices.Sort(got)
	if !slices.Equal(got, bound) {
		o.t.Errorf("sessions %q, want %q", got, bound)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for full, want := range ended {
		if o.ended[full] != want {
			o.t.Errorf("%s ended with %q, want %q", full, o.ended[full], want)
		}
	}
	if len(o.ended) != len(ended) {
		o.t.Errorf("ended: %v, want %v", o.ended, ended)
	}
}

func (o *office) verify(account, password string) (bool, error) {
	return o.host.Accounts.Verify(jid.MustParse(account), password)
}

func TestUserAddAndList(t *testing.T) {
	o := openOffice(t)
	if got := o.must("user.list", `{}`); got != "[]" {
		t.Errorf("nobody: %s", got)
	}
	o.add("juliet@a.test", "romeo@b.test")
	o.bind("juliet@a.test/1", "juliet@a.test/2")
	const (
		juliet = `{"account":"juliet@a.test","disabled":false,"created":"2026-03-01T12:00:00Z","mechanisms":["SCRAM-SHA-1","SCRAM-SHA-256"],"sessions":2}`
		romeo  = `{"account":"romeo@b.test","disabled":false,"created":"2026-03-01T12:00:00Z","mechanisms":["SCRAM-SHA-1","SCRAM-SHA-256"],"sessions":0}`
	)
	for _, test := range []struct{ verb, args, want string }{
		{"user.list", `{}`, "[" + juliet + "," + romeo + "]"},
		{"user.list", ``, "[" + juliet + "," + romeo + "]"},
		{"user.list", `null`, "[" + juliet + "," + romeo + "]"},
		{"user.list", `{"domain":"b.test"}`, "[" + romeo + "]"},
		{"user.list", `{"domain":"B.test"}`, "[" + romeo + "]"},
		{"user.show", `{"account":"juliet@a.test"}`, juliet},
		{"user.show", `{"account":"ROMEO@b.test"}`, romeo},
	} {
		if got := o.must(test.verb, test.args); got != test.want {
			t.Errorf("%s %s\n got %s\nwant %s", test.verb, test.args, got, test.want)
		}
	}
	if ok, err := o.verify("juliet@a.test", "secret"); !ok || err != nil {
		t.Errorf("juliet cannot log in: %v, %v", ok, err)
	}
}

func TestVerbsRefuse(t *testing.T) {
	o := openOffice(t)
	o.add("juliet@a.test")
	for _, test := range []struct{ verb, args, want string }{
		{"user.add", `{"account":"x@c.test","password":"p"}`, "c.test is not a domain of this server, which serves a.test, b.test"},
		{"user.add", `{"account":"juliet@a.test","password":"p"}`, "already exists"},
		{"user.add", `{"account":"x@a.test"}`, "password"},
		{"user.add", `{"account":"x@a.test/r","password":"p"}`, "write user@domain"},
		{"user.add", `{"account":"a.test","password":"p"}`, "write user@domain"},
		{"user.add", `{"account":"@","password":"p"}`, "arguments"},
		{"user.add", `{`, "arguments"},
		{"user.add", ``, "write user@domain"},
		{"user.list", `{"domain":"c.test"}`, "c.test is not a domain of this server"},
		{"user.show", `{"account":"x@a.test"}`, "not found"},
		{"user.passwd", `{"account":"x@a.test","password":"p"}`, "not found"},
		{"user.passwd", `{"account":"juliet@a.test"}`, "password"},
		{"user.disable", `{"account":"x@a.test"}`, "not found"},
		{"user.enable", `{"account":"x@a.test"}`, "not found"},
		{"user.delete", `{"account":"x@a.test"}`, "not found"},
		{"session.kick", `{}`, "is needed"},
		{"session.kick", `{"jid":"a.test"}`, "is needed"},
		{"session.kick", `{"jid":"juliet@a.test"}`, "no such session"},
		{"session.kick", `{"jid":"juliet@a.test/1"}`, "no such session"},
		{"session.kick", `{"jid":"x@a.test"}`, "not found"},
	} {
		_, err := o.call(test.verb, test.args)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), strings.Replace(test.verb, ".", " ", 1)) {
			t.Errorf("%s %s: error %v, want %q", test.verb, test.args, err, test.want)
		}
	}
}

func TestUserPasswd(t *testing.T) {
	o := openOffice(t)
	o.add("juliet@a.test", "romeo@b.test")
	o.bind("juliet@a.test/1", "juliet@a.test/2", "romeo@b.test/1")
	o.must("user.passwd", `{"account":"juliet@a.test","password":"kept","keep":true}`)
	o.wantSessions([]string{"juliet@a.test/1", "juliet@a.test/2", "romeo@b.test/1"}, nil)
	o.must("user.passwd", `{"account":"juliet@a.test","password":"new"}`)
	o.wantSessions([]string{"romeo@b.test/1"},
		map[string]string{"juliet@a.test/1": stanza.StreamNotAuthorized, "juliet@a.test/2": stanza.StreamNotAuthorized})
	for password, want := range map[string]bool{"new": true, "kept": false, "secret": false} {
		if got, err := o.verify("juliet@a.test", password); got != want || err != nil {
			t.Errorf("password %q: %v, %v", password, got, err)
		}
	}
}

func TestUserDisableAndEnable(t *testing.T) {
	o := openOffice(t)
	o.add("juliet@a.test", "romeo@b.test")
	o.bind("juliet@a.test/1", "romeo@b.test/1")
	o.must("user.disable", `{"account":"juliet@a.test"}`)
	o.wantSessions([]string{"romeo@b.test/1"}, map[string]string{"juliet@a.test/1": stanza.StreamNotAuthorized})
	if _, err := o.verify("juliet@a.test", "secret"); err == nil {
		t.Error("a disabled account can log in")
	}
	if got := o.must("user.show", `{"account":"juliet@a.test"}`); !strings.Contains(got, `"disabled":true`) {
		t.Errorf("got %s", got)
	}
	o.must("user.enable", `{"account":"juliet@a.test"}`)
	if ok, err := o.verify("juliet@a.test", "secret"); !ok || err != nil {
		t.Errorf("enabled, but: %v, %v", ok, err)
	}
}

func TestUserDelete(t *testing.T) {
	o := openOffice(t)
	o.add("juliet@a.test", "romeo@b.test")
	o.bind("juliet@a.test/1", "romeo@b.test/1")
	juliet := jid.MustParse("juliet@a.test")
	err := o.host.Store.Submit(func(tx storage.Tx) error {
		return tx.Messages().Add(storage.Message{Stanza: "<message/>", Offline: juliet})
	}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.must("user.delete", `{"account":"juliet@a.test"}`)
	o.wantSessions([]string{"romeo@b.test/1"}, map[string]string{"juliet@a.test/1": stanza.StreamNotAuthorized})
	if ok, err := o.host.Accounts.Exists(juliet); ok || err != nil {
		t.Errorf("exists: %v, %v", ok, err)
	}
	err = o.host.Store.View(func(tx storage.Tx) error {
		if n, err := tx.Offline().Count(juliet); n != 0 || err != nil {
			t.Errorf("%d messages are left, %v", n, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSessionListAndKick(t *testing.T) {
	o := openOffice(t)
	o.add("juliet@a.test", "romeo@b.test")
	if got := o.must("session.list", `{}`); got != "[]" {
		t.Errorf("nobody: %s", got)
	}
	o.bind("juliet@a.test/2", "romeo@b.test/1", "juliet@a.test/1")
	err := o.host.Users.Do(jid.MustParse("juliet@a.test"), func(u *session.User) {
		s := u.Find(jid.MustParse("juliet@a.test/1"))
		u.SetPresence(s, stanza.New(stanza.Presence, "", "", s.JID(), jid.JID{},
			element.Leaf("priority", ns.Client, "5"), element.Leaf("show", ns.Client, "away")))
	})
	if err != nil {
		t.Fatal(err)
	}
	const (
		one   = `{"jid":"juliet@a.test/1","since":"2026-03-01T12:00:00Z","available":true,"priority":5,"show":"away"}`
		two   = `{"jid":"juliet@a.test/2","since":"2026-03-01T12:00:00Z","available":false,"priority":0}`
		romeo = `{"jid":"romeo@b.test/1","since":"2026-03-01T12:00:00Z","available":false,"priority":0}`
	)
	for args, want := range map[string]string{
		`{}`:                          "[" + one + "," + two + "," + romeo + "]",
		`{"account":""}`:              "[" + one + "," + two + "," + romeo + "]",
		`{"account":"juliet@a.test"}`: "[" + one + "," + two + "]",
	} {
		if got := o.must("session.list", args); got != want {
			t.Errorf("%s\n got %s\nwant %s", args, got, want)
		}
	}

	if got := o.must("session.kick", `{"jid":"juliet@a.test/2"}`); got != `{"ended":1}` {
		t.Errorf("got %s", got)
	}
	o.wantSessions([]string{"juliet@a.test/1", "romeo@b.test/1"}, map[string]string{"juliet@a.test/2": stanza.StreamPolicyViolation})
	o.bind("juliet@a.test/3")
	if got := o.must("session.kick", `{"jid":"juliet@a.test"}`); got != `{"ended":2}` {
		t.Errorf("got %s", got)
	}
	o.wantSessions([]string{"romeo@b.test/1"}, map[string]string{
		"juliet@a.test/1": stanza.StreamPolicyViolation, "juliet@a.test/2": stanza.StreamPolicyViolation,
		"juliet@a.test/3": stanza.StreamPolicyViolation})
}
