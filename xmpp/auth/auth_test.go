package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	client "mellium.im/sasl"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/sasl"
)

var (
	juliet = jid.MustParse("juliet@example.com")
	romeo  = jid.MustParse("romeo@example.com")
)

// counting is a store that counts its reads and writes.
type counting struct {
	storage.Store
	views, submits atomic.Int32
}

func (c *counting) Submit(fn func(storage.Tx) error) *storage.Ticket {
	c.submits.Add(1)
	return c.Store.Submit(fn)
}

func (c *counting) View(fn func(storage.Tx) error) error {
	c.views.Add(1)
	return c.Store.View(fn)
}

func newStore(t *testing.T, o mem.Options) *counting {
	t.Helper()
	store := mem.New(o)
	t.Cleanup(func() { store.Close() })
	return &counting{Store: store}
}

func newAccounts(t *testing.T, store storage.Store) *Accounts {
	t.Helper()
	a, err := NewAccounts(store, Options{
		Iterations: 32,
		Now:        func() time.Time { return time.Unix(1e9, 0).UTC() },
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func create(t *testing.T, a *Accounts, account jid.JID, password string) {
	t.Helper()
	if err := a.Create(deadline(t), account, password); err != nil {
		t.Fatal(err)
	}
}

func verify(t *testing.T, a *Accounts, account jid.JID, password string, want bool) {
	t.Helper()
	if got, err := a.Verify(account, password); got != want || err != nil {
		t.Errorf("Verify(%s, %q) = %v, %v, want %v", account, password, got, err, want)
	}
}

func TestLifeOfAnAccount(t *testing.T) {
	a := newAccounts(t, newStore(t, mem.Options{}))
	ctx := deadline(t)
	exists := func(want bool) {
		t.Helper()
		if got, err := a.Exists(juliet); got != want || err != nil {
			t.Errorf("Exists = %v, %v, want %v", got, err, want)
		}
	}
	exists(false)
	verify(t, a, juliet, "r0m30", false)

	create(t, a, juliet, "r0m30")
	exists(true)
	if got, err := a.Exists(jid.MustParse("juliet@example.com/balcony")); !got || err != nil {
		t.Errorf("Exists of a full JID = %v, %v", got, err)
	}
	verify(t, a, juliet, "r0m30", true)
	verify(t, a, juliet, "R0m30", false)
	verify(t, a, romeo, "r0m30", false)
	verify(t, a, jid.MustParse("juliet@example.net"), "r0m30", false) // another host
	if err := a.Create(ctx, juliet, "x"); !errors.Is(err, storage.ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	verify(t, a, juliet, "r0m30", true)

	if err := a.SetPassword(ctx, juliet, "par1s"); err != nil {
		t.Fatal(err)
	}
	verify(t, a, juliet, "r0m30", false)
	verify(t, a, juliet, "par1s", true)

	if err := a.SetDisabled(ctx, juliet, true); err != nil {
		t.Fatal(err)
	}
	exists(true)
	verify(t, a, juliet, "r0m30", false)
	if good, err := a.Verify(juliet, "par1s"); good || !errors.Is(err, &sasl.Failure{Condition: sasl.AccountDisabled}) {
		t.Errorf("disabled: %v, %v", good, err)
	}
	kept, err := a.Get(juliet)
	if err != nil || kept.JID != juliet || !kept.Disabled || kept.Created.Unix() != 1e9 || kept.Credentials != nil {
		t.Errorf("Get = %+v, %v", kept, err)
	}
	if err := a.SetDisabled(ctx, juliet, false); err != nil {
		t.Fatal(err)
	}
	verify(t, a, juliet, "par1s", true)

	if err := a.Delete(ctx, juliet); err != nil {
		t.Fatal(err)
	}
	exists(false)
	verify(t, a, juliet, "par1s", false)
	for what, err := range map[string]error{
		"Delete":      a.Delete(ctx, juliet),
		"SetPassword": a.SetPassword(ctx, juliet, "x"),
		"SetDisabled": a.SetDisabled(ctx, juliet, true),
	} {
		if !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s of nobody: %v", what, err)
		}
	}
	if _, err := a.Get(juliet); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get of nobody: %v", err)
	}
}

func TestAll(t *testing.T) {
	a := newAccounts(t, newStore(t, mem.Options{}))
	elsewhere := jid.MustParse("benvolio@example.net")
	for _, account := range []jid.JID{romeo, elsewhere, juliet} {
		create(t, a, account, "secret")
	}
	for domain, want := range map[string][]jid.JID{
		"":            {juliet, romeo, elsewhere},
		"example.com": {juliet, romeo},
		"example.net": {elsewhere},
		"example.org": nil,
	} {
		all, err := a.All(domain)
		if err != nil {
			t.Fatal(err)
		}
		var got []jid.JID
		for _, account := range all {
			got = append(got, account.JID)
			if account.Credentials != nil {
				t.Errorf("%s comes with credentials", account.JID)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("All(%q) = %v, want %v", domain, got, want)
		}
	}
}

func TestRefusedPasswords(t *testing.T) {
	a := newAccounts(t, newStore(t, mem.Options{}))
	create(t, a, romeo, "jul1et")
	for _, password := range []string{"", "\x00", "tab\t", "\xff", "zero\u200bwidth"} {
		if err := a.Create(deadline(t), juliet, password); !errors.Is(err, sasl.ErrPassword) {
			t.Errorf("Create with %q: %v", password, err)
		}
		if err := a.SetPassword(deadline(t), romeo, password); !errors.Is(err, sasl.ErrPassword) {
			t.Errorf("SetPassword %q: %v", password, err)
		}
		verify(t, a, romeo, password, false)
	}
	verify(t, a, romeo, "jul1et", true)
	for _, account := range []string{"example.com", "example.com/x", "juliet@example.com/x"} {
		if err := a.Create(deadline(t), jid.MustParse(account), "secret"); err == nil {
			t.Errorf("an account %s", account)
		}
	}
}

// RFC 8265 section 4: however it is typed, it is the same password.
func TestPasswordsArePrepared(t *testing.T) {
	a := newAccounts(t, newStore(t, mem.Options{}))
	create(t, a, juliet, "caf\u00e9 x")
	verify(t, a, juliet, "cafe\u0301\u00a0x", true)
	verify(t, a, juliet, "CAF\u00c9 x", false)
}

// For a user that exists, one that does not and one that is disabled, the server reads as often
// and derives keys by the same mechanism with the same iterations and sizes.
func TestUnknownUserCostsTheSame(t *testing.T) {
	store := newStore(t, mem.Options{})
	a := newAccounts(t, store)
	create(t, a, juliet, "r0m30")
	create(t, a, romeo, "jul1et")
	if err := a.SetDisabled(deadline(t), romeo, true); err != nil {
		t.Fatal(err)
	}
	type cost struct {
		views                            int32
		mechanism                        string
		salt, iterations, stored, server int
	}
	unknown := jid.MustParse("mercutio@example.com")
	for _, mechanism := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", ""} {
		costOf := func(account jid.JID) cost {
			before := store.views.Load()
			used, c, _, err := a.lookup(account, mechanism)
			if err != nil {
				t.Fatal(err)
			}
			if c.Known != (account != unknown) || c.Disabled != (account == romeo) {
				t.Errorf("%s: known %v, disabled %v", account, c.Known, c.Disabled)
			}
			return cost{store.views.Load() - before, used, len(c.Salt), c.Iterations, len(c.StoredKey), len(c.ServerKey)}
		}
		known, other, disabled := costOf(juliet), costOf(unknown), costOf(romeo)
		if known != other || known != disabled || known.views != 1 {
			t.Errorf("%s: known %+v, unknown %+v, disabled %+v", mechanism, known, other, disabled)
		}
	}
	for _, account := range []jid.JID{juliet, unknown, romeo} {
		before := store.views.Load()
		verify(t, a, account, "wrong", false)
		if n := store.views.Load() - before; n != 1 {
			t.Errorf("Verify(%s) read %d times", account, n)
		}
		before = store.views.Load()
		if _, err := a.Exists(account); err != nil || store.views.Load()-before != 1 {
			t.Errorf("Exists(%s) read %d times, %v", account, store.views.Load()-before, err)
		}
	}
}

// An unknown user has the same salt at each attempt and after a restart, another one by each
// mechanism, domain and server; a user's spelling does not matter.
func TestImaginedSalts(t *testing.T) {
	store := newStore(t, mem.Options{})
	first, restarted := newAccounts(t, store), newAccounts(t, store)
	foreign := newAccounts(t, newStore(t, mem.Options{}))
	salt := func(a *Accounts, domain, user, mechanism string) []byte {
		t.Helper()
		c, err := a.Credentials(domain)(user, mechanism)
		if err != nil || c.Known || len(c.Salt) != saltSize {
			t.Fatalf("%+v, %v", c, err)
		}
		return c.Salt
	}
	want := salt(first, "example.com", "mercutio", "SCRAM-SHA-1")
	for what, got := range map[string][]byte{
		"again":         salt(first, "example.com", "mercutio", "SCRAM-SHA-1"),
		"restart":       salt(restarted, "example.com", "mercutio", "SCRAM-SHA-1"),
		"other letters": salt(first, "Example.COM.", "Mercutio", "SCRAM-SHA-1"),
	} {
		if !bytes.Equal(got, want) {
			t.Errorf("%s: another salt", what)
		}
	}
	for what, got := range map[string][]byte{
		"other user":      salt(first, "example.com", "tybalt", "SCRAM-SHA-1"),
		"other mechanism": salt(first, "example.com", "mercutio", "SCRAM-SHA-256"),
		"other domain":    salt(first, "example.net", "mercutio", "SCRAM-SHA-1"),
		"other server":    salt(foreign, "example.com", "mercutio", "SCRAM-SHA-1"),
	} {
		if bytes.Equal(got, want) {
			t.Errorf("%s: the same salt", what)
		}
	}
}

// Even the password that was imagined for an unknown user, which only the server's secret yields,
// lets nobody in.
func TestImaginedPasswordIsNobodys(t *testing.T) {
	a, err := NewAccounts(newStore(t, mem.Options{}), Options{Iterations: 1})
	if err != nil {
		t.Fatal(err)
	}
	const mechanism = "SCRAM-SHA-1"
	password := fmt.Sprintf("%x", a.fromSecret("password", mechanism, juliet))
	_, c, _, err := a.lookup(juliet, mechanism)
	if err != nil {
		t.Fatal(err)
	}
	stored, _, err := sasl.Derive(mechanism, password, c.Salt, c.Iterations)
	if err != nil || !bytes.Equal(stored, c.StoredKey) {
		t.Fatalf("the keys are not those of the imagined password: %v", err)
	}
	verify(t, a, juliet, password, false)
}

func TestNoPasswordIsKept(t *testing.T) {
	store := newStore(t, mem.Options{})
	a := newAccounts(t, store)
	create(t, a, juliet, "r0m30")
	var kept storage.Account
	if err := store.View(func(tx storage.Tx) (err error) {
		kept, err = tx.Accounts().Get(juliet)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	salts := map[string]bool{}
	for i, want := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		c := kept.Credentials[i]
		stored, server, err := sasl.Derive(want, "r0m30", c.Salt, 32)
		if err != nil || c.Mechanism != want || c.Iterations != 32 ||
			!bytes.Equal(c.StoredKey, stored) || !bytes.Equal(c.ServerKey, server) {
			t.Errorf("kept %+v, %v", c, err)
		}
		salts[string(c.Salt)] = true
	}
	if len(kept.Credentials) != 3 || len(salts) != 3 {
		t.Errorf("%d credentials with %d salts", len(kept.Credentials), len(salts))
	}
}

// The whole way, with a client that is not ours.
func TestLogin(t *testing.T) {
	a := newAccounts(t, newStore(t, mem.Options{}))
	create(t, a, juliet, "r0m30")
	create(t, a, romeo, "jul1et")
	if err := a.SetDisabled(deadline(t), romeo, true); err != nil {
		t.Fatal(err)
	}
	for _, m := range []client.Mechanism{client.ScramSha1, client.ScramSha256, client.Plain} {
		for _, tc := range []struct{ domain, user, password, authzid, condition string }{
			{"example.com", "juliet", "r0m30", "", ""},
			{"example.com", "Juliet", "r0m30", "juliet@example.com", ""},
			{"example.com", "juliet", "r0m30", "juliet@example.com/balcony", sasl.InvalidAuthzid},
			{"example.com", "juliet", "r0m30", "juliet", sasl.InvalidAuthzid},
			{"example.com", "juliet", "r0m30", "romeo@example.com", sasl.InvalidAuthzid},
			{"example.com", "juliet", "wrong", "", sasl.NotAuthorized},
			{"example.com", "mercutio", "r0m30", "", sasl.NotAuthorized},
			{"example.net", "juliet", "r0m30", "", sasl.NotAuthorized},
			{"example.com", "romeo", "jul1et", "", sasl.AccountDisabled},
			{"example.com", "romeo", "wrong", "", sasl.NotAuthorized},
		} {
			attempt := a.Attempt(tc.domain)
			attempt.Offered = []string{m.Name}
			x, err := sasl.Server(m.Name, attempt)
			if err != nil {
				t.Fatal(err)
			}
			c := client.NewClient(m, client.Credentials(func() (user, password, identity []byte) {
				return []byte(tc.user), []byte(tc.password), []byte(tc.authzid)
			}))
			_, response, err := c.Step(nil)
			for done := false; err == nil && !done; {
				var challenge []byte
				if challenge, done, err = x.Step(response); err == nil && len(challenge) > 0 {
					if _, response, err = c.Step(challenge); err != nil {
						t.Fatalf("%s: the client refuses %q: %v", m.Name, challenge, err)
					}
				}
			}
			if tc.condition == "" && (err != nil || x.Identity() != "juliet") ||
				tc.condition != "" && !errors.Is(err, &sasl.Failure{Condition: tc.condition}) {
				t.Errorf("%s %+v: %v, identity %q", m.Name, tc, err, x.Identity())
			}
		}
	}
}

func TestFailingStore(t *testing.T) {
	broken := errors.New("broken disk")
	if _, err := NewAccounts(newStore(t, mem.Options{BeforeCommit: func() error { return broken }}), Options{}); !errors.Is(err, broken) {
		t.Errorf("the secret was not kept, and the error is %v", err)
	}

	store := newStore(t, mem.Options{})
	a := newAccounts(t, store)
	create(t, a, juliet, "r0m30")
	store.Close()
	_, verifyErr := a.Verify(juliet, "r0m30")
	_, existsErr := a.Exists(juliet)
	_, getErr := a.Get(juliet)
	_, allErr := a.All("")
	_, credentialsErr := a.Credentials("example.com")("juliet", "SCRAM-SHA-1")
	for what, err := range map[string]error{
		"Verify": verifyErr, "Exists": existsErr, "Get": getErr, "All": allErr, "Credentials": credentialsErr,
		"Create": a.Create(deadline(t), romeo, "x"), "Delete": a.Delete(deadline(t), juliet),
	} {
		if !errors.Is(err, storage.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := NewAccounts(store, Options{}); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("NewAccounts: %v", err)
	}
}

// A stalled disk holds up the one who waits, not longer than that one will.
func TestWaitEndsWithContext(t *testing.T) {
	release := make(chan struct{})
	var stalled atomic.Bool
	store := newStore(t, mem.Options{BeforeCommit: func() error {
		if stalled.Load() {
			<-release
		}
		return nil
	}})
	a := newAccounts(t, store)
	stalled.Store(true)
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Create(ctx, juliet, "r0m30"); !errors.Is(err, context.Canceled) {
		t.Errorf("Create: %v", err)
	}
}

func TestOptions(t *testing.T) {
	store := newStore(t, mem.Options{})
	if a, err := NewAccounts(store, Options{}); err != nil || a.opts.Iterations != 10_000 || len(a.opts.Mechanisms) != 3 {
		t.Errorf("defaults: %+v, %v", a, err)
	}
	for what, o := range map[string]Options{
		"iterations": {Iterations: -1},
		"mechanism":  {Mechanisms: []string{"PLAIN"}},
	} {
		if _, err := NewAccounts(store, o); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	// Who has keys only for a mechanism that is not wanted any more can still use PLAIN.
	a, err := NewAccounts(store, Options{Iterations: 32, Mechanisms: []string{"SCRAM-SHA-1"}})
	if err != nil {
		t.Fatal(err)
	}
	create(t, a, juliet, "r0m30")
	later, err := NewAccounts(store, Options{Iterations: 64, Mechanisms: []string{"SCRAM-SHA-512"}})
	if err != nil {
		t.Fatal(err)
	}
	verify(t, later, juliet, "r0m30", true)
	if c, err := later.Credentials("example.com")("juliet", "SCRAM-SHA-512"); err != nil || c.Known {
		t.Errorf("a credential from nowhere: %+v, %v", c, err)
	}
}
