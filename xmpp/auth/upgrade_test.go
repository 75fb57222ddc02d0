package auth

import (
	"context"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	client "mellium.im/sasl"

	"tombolo/storage"
	"tombolo/xmpp/sasl"
)

func keeping(mechanisms ...string) func(*Options) {
	return func(o *Options) { o.Mechanisms = mechanisms }
}

// kept are the mechanisms that juliet has keys for. It waits for what has been submitted.
func (l *tester) kept() (mechanisms []string) {
	l.t.Helper()
	if err := l.store.Submit(func(storage.Tx) error { return nil }).Wait(deadline(l.t)); err != nil {
		l.t.Fatal(err)
	}
	account, err := l.get(juliet)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, c := range account.Credentials {
		mechanisms = append(mechanisms, c.Mechanism)
	}
	return mechanisms
}

// scram proves the password of juliet by a mechanism, with a client that is not ours.
func (l *tester) scram(m client.Mechanism, password string) (*sasl.Exchange, error) {
	l.t.Helper()
	a := l.Attempt("example.com")
	a.Offered = []string{m.Name}
	x, err := sasl.Server(m.Name, a)
	if err != nil {
		l.t.Fatal(err)
	}
	c := client.NewClient(m, client.Credentials(func() (user, secret, identity []byte) {
		return []byte("juliet"), []byte(password), nil
	}))
	_, response, err := c.Step(nil)
	for done := false; err == nil && !done; {
		var challenge []byte
		if challenge, done, err = x.Step(response); err == nil && len(challenge) > 0 {
			if _, response, err = c.Step(challenge); err != nil {
				l.t.Fatal(err)
			}
		}
	}
	return x, err
}

const upgradeTo256 = "UPGR-SCRAM-SHA-256"

// salted does the client's part of XEP-0480 section 3.
func salted(t *testing.T, u *Upgrade, password string) []byte {
	t.Helper()
	if u == nil || len(u.Salt) != saltSize || u.Iterations != 32 {
		t.Fatalf("upgrade %+v", u)
	}
	key, err := pbkdf2.Key(sha256.New, password, u.Salt, u.Iterations, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// XEP-0480 section 2.1: the same for everybody.
func TestUpgradesOffered(t *testing.T) {
	for _, tc := range []struct{ mechanisms, upgrades []string }{
		{[]string{"SCRAM-SHA-1"}, nil},
		{[]string{"SCRAM-SHA-256", "SCRAM-SHA-1"}, []string{upgradeTo256}},
		{[]string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"}, []string{upgradeTo256, "UPGR-SCRAM-SHA-512"}},
	} {
		l := newTester(t, keeping(tc.mechanisms...))
		if got := l.Upgrades(); !slices.Equal(got, tc.upgrades) {
			t.Errorf("%q: upgrades %q", tc.mechanisms, got)
		}
		if got := l.Mechanisms(); !slices.Equal(got, tc.mechanisms) {
			t.Errorf("mechanisms %q, want %q", got, tc.mechanisms)
		}
	}
}

func TestUpgrade(t *testing.T) {
	l := newTester(t, keeping("SCRAM-SHA-1"))
	l.restart(keeping("SCRAM-SHA-1", "SCRAM-SHA-256"))
	if _, err := l.scram(client.ScramSha256, "r0m30"); !errors.Is(err, &sasl.Failure{Condition: sasl.NotAuthorized}) {
		t.Fatalf("by keys that are not there: %v", err)
	}
	x, err := l.scram(client.ScramSha1, "r0m30")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range []string{"", "SCRAM-SHA-256", "UPGR-SCRAM-SHA-1", "UPGR-SCRAM-SHA-512", "UPGR-SCRAM-SHA-256-PLUS"} {
		if u, err := l.BeginUpgrade(juliet, x, task); u != nil || err != nil {
			t.Errorf("task %q: %+v, %v", task, u, err)
		}
	}
	u, err := l.BeginUpgrade(juliet, x, upgradeTo256)
	if err != nil {
		t.Fatal(err)
	}
	key := salted(t, u, "r0m30")
	for _, wrong := range [][]byte{nil, key[1:], append(slices.Clone(key), 0)} {
		if err := u.Finish(deadline(t), wrong); !errors.Is(err, &sasl.Failure{Condition: sasl.MalformedRequest}) {
			t.Errorf("%d bytes: %v", len(wrong), err)
		}
	}
	if err := u.Finish(deadline(t), key); err != nil {
		t.Fatal(err)
	}
	if got := l.kept(); !slices.Equal(got, []string{"SCRAM-SHA-1", "SCRAM-SHA-256"}) {
		t.Errorf("keys for %q", got)
	}
	for _, m := range []client.Mechanism{client.ScramSha1, client.ScramSha256} {
		if _, err := l.scram(m, "r0m30"); err != nil {
			t.Errorf("%s afterwards: %v", m.Name, err)
		}
	}
	l.current(x, true) // more keys are no other password
	if u, err := l.BeginUpgrade(juliet, x, upgradeTo256); u != nil || err != nil {
		t.Errorf("not needed any more: %+v, %v", u, err)
	}
	// Of two upgrades at the same time the first one counts.
	if err := u.Finish(deadline(t), salted(t, u, "another")); err != nil {
		t.Error(err)
	}
	if _, err := l.scram(client.ScramSha256, "r0m30"); err != nil || len(l.kept()) != 2 {
		t.Errorf("after a second one: %v, keys for %q", err, l.kept())
	}
}

// A stolen token must not become a password, nor a password that was replaced come back.
func TestUpgradeRefused(t *testing.T) {
	l := newTester(t, keeping("SCRAM-SHA-1"))
	token := l.issue(none)
	key := l.tokens
	l.restart(keeping("SCRAM-SHA-1", "SCRAM-SHA-256"))
	l.tokens = key
	x := must(l.prove(none, "phone", token))
	if u, err := l.BeginUpgrade(juliet, x, upgradeTo256); u != nil || err != nil {
		t.Errorf("with a token: %+v, %v", u, err)
	}
	for what, revoke := range map[string]func(context.Context, *tester) error{
		"the password changed": func(ctx context.Context, l *tester) error {
			return l.SetPassword(ctx, juliet, "par1s")
		},
		"the account is disabled": func(ctx context.Context, l *tester) error {
			return l.SetDisabled(ctx, juliet, true)
		},
		"the account is disabled by whatever way": func(_ context.Context, l *tester) error {
			l.edit(func(account *storage.Account) { account.Disabled = true })
			return nil
		},
		"the account is gone": func(ctx context.Context, l *tester) error { return l.Delete(ctx, juliet) },
	} {
		l := newTester(t, keeping("SCRAM-SHA-1"))
		l.restart(keeping("SCRAM-SHA-1", "SCRAM-SHA-256"))
		x, err := l.scram(client.ScramSha1, "r0m30")
		if err != nil {
			t.Fatal(err)
		}
		u, err := l.BeginUpgrade(juliet, x, upgradeTo256)
		if err != nil {
			t.Fatal(err)
		}
		key := salted(t, u, "r0m30")
		if err := revoke(deadline(t), l); err != nil {
			t.Fatal(err)
		}
		if err := u.Finish(deadline(t), key); !errors.Is(err, &sasl.Failure{Condition: sasl.NotAuthorized}) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// PLAIN shows the password, so it completes the keys, once, without harm to what was proved.
func TestPlainCompletes(t *testing.T) {
	l := newTester(t, keeping("SCRAM-SHA-1"))
	l.restart(keeping("SCRAM-SHA-256", "SCRAM-SHA-1"))
	before := l.plain("r0m30")
	if _, err := l.exchange("PLAIN", "", []byte("\x00juliet\x00wrong")); err == nil {
		t.Fatal("a wrong password")
	}
	if got := l.kept(); !slices.Equal(got, []string{"SCRAM-SHA-1", "SCRAM-SHA-256"}) {
		t.Errorf("keys for %q", got)
	}
	first, _ := l.get(juliet)
	l.current(before, true)
	if x, err := l.scram(client.ScramSha256, "r0m30"); err != nil || x.Identity() != "juliet" {
		t.Errorf("by the new keys: %v", err)
	}
	writes := l.store.submits.Load()
	if l.plain("r0m30"); l.store.submits.Load() != writes {
		t.Error("there was something to write")
	}
	if again, _ := l.get(juliet); string(again.Credentials[1].Salt) != string(first.Credentials[1].Salt) {
		t.Error("the keys were made again")
	}
}

// What an operator does not want is not kept by those who can do without it.
func TestUnwantedKeysAreForgotten(t *testing.T) {
	l := newTester(t, keeping("SCRAM-SHA-1"))
	create(t, l.Accounts, romeo, "jul1et")
	l.restart(nil)
	if err := l.SetPassword(deadline(t), juliet, "r0m30"); err != nil || len(l.kept()) != 3 {
		t.Fatalf("keys for %q, %v", l.kept(), err)
	}
	l.restart(keeping("SCRAM-SHA-512", "SCRAM-SHA-256"))
	if got := l.kept(); !slices.Equal(got, []string{"SCRAM-SHA-256", "SCRAM-SHA-512"}) {
		t.Errorf("keys for %q", got)
	}
	verify(t, l.Accounts, juliet, "r0m30", true)
	// Romeo has no others. He can use PLAIN, and then the old ones go.
	if account, err := l.get(romeo); err != nil || len(account.Credentials) != 1 {
		t.Fatalf("%+v, %v", account, err)
	}
	if _, err := l.exchange("PLAIN", "", []byte("\x00romeo\x00jul1et")); err != nil {
		t.Fatal(err)
	}
	l.kept()
	if account, err := l.get(romeo); err != nil || len(account.Credentials) != 2 || account.Credentials[0].Mechanism == "SCRAM-SHA-1" {
		t.Errorf("%+v, %v", account, err)
	}
	verify(t, l.Accounts, romeo, "jul1et", true)
}
