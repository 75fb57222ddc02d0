package auth

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/sasl"
)

const (
	none = "HT-SHA-256-NONE"
	expr = "HT-SHA-256-EXPR"
	day  = 24 * time.Hour
)

// tester is accounts with a clock, and juliet with the password r0m30.
type tester struct {
	*Accounts
	t     *testing.T
	store *counting
	clock time.Time
}

func newTester(t *testing.T, change func(*Options)) *tester {
	t.Helper()
	l := &tester{t: t, store: newStore(t, mem.Options{}), clock: time.Unix(1e9, 0)}
	l.restart(change)
	create(t, l.Accounts, juliet, "r0m30")
	return l
}

// restart makes the accounts anew, as the next process would.
func (l *tester) restart(change func(*Options)) {
	l.t.Helper()
	o := Options{Iterations: 32, Now: func() time.Time { return l.clock }, TokenLifetime: 10 * day, TokenRotation: day}
	if change != nil {
		change(&o)
	}
	var err error
	if l.Accounts, err = NewAccounts(l.store, o); err != nil {
		l.t.Fatal(err)
	}
}

// edit changes juliet behind the back of the accounts.
func (l *tester) edit(change func(*storage.Account)) {
	l.t.Helper()
	l.write(func(tx storage.Tx) error {
		account, err := tx.Accounts().Get(juliet)
		change(&account)
		return errors.Join(err, tx.Accounts().Update(account))
	})
}

func (l *tester) write(fn func(storage.Tx) error) {
	l.t.Helper()
	if err := l.store.Submit(fn).Wait(deadline(l.t)); err != nil {
		l.t.Fatal(err)
	}
}

// plain proves a password.
func (l *tester) plain(password string) *sasl.Exchange {
	l.t.Helper()
	x, err := l.exchange("PLAIN", "", []byte("\x00juliet\x00"+password))
	if err != nil {
		l.t.Fatal(err)
	}
	return x
}

// prove proves a token, as the client of that name.
func (l *tester) prove(mechanism, client, secret string) (*sasl.Exchange, error) {
	l.t.Helper()
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte("Initiator"))
	if mechanism == expr {
		h.Write([]byte("exported"))
	}
	return l.exchange(mechanism, client, append([]byte("juliet\x00"), h.Sum(nil)...))
}

func (l *tester) exchange(mechanism, client string, message []byte) (*sasl.Exchange, error) {
	l.t.Helper()
	a := l.Attempt("example.com")
	a.Tokens = l.Tokens("example.com", client)
	a.Offered, a.OfferedTokens = []string{"PLAIN"}, sasl.TokenMechanisms()
	a.Binding = func(typ string) ([]byte, bool) { return []byte("exported"), typ == sasl.TLSExporter }
	x, err := sasl.Server(mechanism, a)
	if err != nil {
		l.t.Fatal(err)
	}
	_, _, err = x.Step(message)
	return x, err
}

// accept expects a login to be fine, and tells whether there was a token.
func (l *tester) accept(x *sasl.Exchange, login Login) *Token {
	l.t.Helper()
	login.Account, login.Exchange = juliet, x
	token, err := l.Accept(deadline(l.t), login)
	if err != nil {
		l.t.Fatal(err)
	}
	l.current(x, true)
	return token
}

func (l *tester) current(x *sasl.Exchange, want bool) {
	l.t.Helper()
	if got, err := l.Current(juliet, x.Epoch()); got != want || err != nil {
		l.t.Errorf("Current = %v, %v, want %v", got, err, want)
	}
}

// issue gives the phone a token.
func (l *tester) issue(mechanism string) string {
	l.t.Helper()
	token := l.accept(l.plain("r0m30"), Login{Client: "phone", RequestToken: mechanism})
	if token == nil {
		l.t.Fatal("no token")
	}
	return token.Secret
}

// use logs the phone in with a token and returns the one that it gets, if it does.
func (l *tester) use(secret string) string {
	l.t.Helper()
	x, err := l.prove(none, "phone", secret)
	if err != nil {
		l.t.Fatal(err)
	}
	if token := l.accept(x, Login{Client: "phone"}); token != nil {
		return token.Secret
	}
	return ""
}

func (l *tester) refused(what, secret, condition string) {
	l.t.Helper()
	x, err := l.prove(none, "phone", secret)
	if !errors.Is(err, &sasl.Failure{Condition: condition}) {
		l.t.Errorf("%s: %v, want %s", what, err, condition)
	}
	if x.Identity() != "" {
		l.t.Errorf("%s: identity %q", what, x.Identity())
	}
}

// XEP-0484 sections 3.2 and 3.3.
func TestTokenIsIssued(t *testing.T) {
	l := newTester(t, nil)
	if token := l.accept(l.plain("r0m30"), Login{Client: "phone"}); token != nil {
		t.Error("a token that nobody asked for")
	}
	for what, login := range map[string]Login{
		"without a client":     {RequestToken: none},
		"for another":          {Client: "phone", RequestToken: "SCRAM-SHA-1"},
		"with a strange name":  {Client: "a\x00b", RequestToken: none},
		"with a long name":     {Client: strings.Repeat("a", 129), RequestToken: none},
		"with a name not UTF8": {Client: "\xff", RequestToken: none},
	} {
		if token := l.accept(l.plain("r0m30"), login); token != nil {
			t.Errorf("a token %s", what)
		}
	}
	seen := map[string]bool{}
	for range 10 {
		token := l.accept(l.plain("r0m30"), Login{Client: "phone", RequestToken: none})
		if token == nil || len(token.Secret) != 43 || seen[token.Secret] || !token.Expiry.Equal(l.clock.Add(10*day)) {
			t.Fatalf("token %+v", token)
		}
		seen[token.Secret] = true
	}
}

// XEP-0484 section 3.5 and 5.1.
func TestTokenRotation(t *testing.T) {
	l := newTester(t, nil)
	first := l.issue(none)
	l.clock = l.clock.Add(day - time.Second)
	if l.use(first) != "" {
		t.Error("rotated before its time")
	}
	l.clock = l.clock.Add(time.Second)
	second := l.use(first)
	if second == "" {
		t.Fatal("not rotated")
	}
	// The client did not get it: the first one stays good, and what was never used ends.
	third := l.use(first)
	if third == "" || third == second {
		t.Fatalf("the old token gives %q after %q", third, second)
	}
	l.refused("replaced before it was used", second, sasl.NotAuthorized)
	if l.use(first) == "" {
		t.Error("the old token is no longer rotated")
	}
	fourth := l.use(first)
	if got := l.use(fourth); got != "" {
		t.Errorf("a fresh token was rotated to %q", got)
	}
	l.refused("the token before one that was used", first, sasl.NotAuthorized)
	if l.use(fourth) != "" {
		t.Error("a fresh token was rotated")
	}

	// A login that was overtaken by one with a later token.
	overtaken := must(l.prove(none, "phone", fourth))
	l.clock = l.clock.Add(day)
	fourth = l.use(fourth)
	l.use(fourth)
	if token, err := l.Accept(deadline(t), Login{Account: juliet, Exchange: overtaken, Client: "phone"}); token != nil || !errors.Is(err, &sasl.Failure{Condition: sasl.CredentialsExpired}) {
		t.Errorf("overtaken: %v, %v", token, err)
	}

	// The expiry of the new one is counted from its rotation.
	l.clock = l.clock.Add(10*day - time.Second)
	last := l.use(fourth)
	l.clock = l.clock.Add(time.Second)
	l.refused("expired", fourth, sasl.CredentialsExpired)
	l.clock = l.clock.Add(10*day - 2*time.Second)
	if l.use(last) == "" {
		t.Error("the last token was not rotated")
	}
}

// A client that asks for a token gets it for the mechanism that it names, also when one was due.
func TestTokenDueAndAskedFor(t *testing.T) {
	l := newTester(t, nil)
	first := l.issue(none)
	l.clock = l.clock.Add(day)
	token := l.accept(must(l.prove(none, "phone", first)), Login{Client: "phone", RequestToken: expr})
	if token == nil {
		t.Fatal("no token")
	}
	if _, err := l.prove(expr, "phone", token.Secret); err != nil {
		t.Error(err)
	}
}

// XEP-0484 section 4.2: who has the token learns that it has expired, others do not.
func TestTokenExpiry(t *testing.T) {
	l := newTester(t, nil)
	token := l.issue(none)
	l.clock = l.clock.Add(10*day - time.Second)
	l.use(token)
	l.clock = l.clock.Add(time.Second)
	l.refused("expired", token, sasl.CredentialsExpired)
	l.refused("wrong", token+"x", sasl.NotAuthorized)
	list, err := l.Clients(juliet)
	if err != nil || len(list) != 1 || !list[0].Token.After(l.clock) { // the one that use was given
		t.Errorf("%+v, %v", list, err)
	}
}

// XEP-0484 section 3.4: a token is bound to its mechanism, and to its client and account.
func TestTokenIsBound(t *testing.T) {
	l := newTester(t, nil)
	create(t, l.Accounts, romeo, "jul1et")
	token := l.issue(expr)
	l.accept(must(l.prove(expr, "phone", token)), Login{Client: "phone"}) // and it is the current one
	for _, mechanism := range sasl.TokenMechanisms() {
		if _, err := l.prove(mechanism, "phone", token); mechanism != expr && !errors.Is(err, &sasl.Failure{Condition: sasl.NotAuthorized}) {
			t.Errorf("by %s: %v", mechanism, err)
		}
	}
	for _, client := range []string{"", "Phone", "phone2", "tablet"} {
		if _, err := l.prove(expr, client, token); !errors.Is(err, &sasl.Failure{Condition: sasl.NotAuthorized}) {
			t.Errorf("as client %q: %v", client, err)
		}
	}
	l.accept(l.plain("r0m30"), Login{Client: "tablet", RequestToken: expr})
	if _, err := l.prove(expr, "tablet", token); err == nil {
		t.Error("another client's token is good")
	}
	l.issue(none) // another mechanism in the other slot
	if _, err := l.prove(none, "phone", token); err == nil {
		t.Error("a token is good by the mechanism of the other slot")
	}

	// A login with a token of one client is none of another.
	x := must(l.prove(expr, "phone", token))
	for what, login := range map[string]Login{
		"another client":  {Account: juliet, Client: "tablet", RequestToken: none},
		"a new client":    {Account: juliet, Client: "laptop", RequestToken: none},
		"another account": {Account: romeo, Client: "phone", RequestToken: none},
		"nobody":          {Account: jid.MustParse("x@example.com"), Client: "phone"},
	} {
		login.Exchange = x
		if token, err := l.Accept(deadline(t), login); token != nil || !errors.As(err, new(*sasl.Failure)) {
			t.Errorf("%s: %v, %v", what, token, err)
		}
	}
}

// XEP-0484 section 3.6.
func TestTokenInvalidation(t *testing.T) {
	l := newTester(t, nil)
	first := l.issue(none)
	l.clock = l.clock.Add(2 * day)
	second := l.use(first)
	x, err := l.prove(none, "phone", first)
	if err != nil {
		t.Fatal(err)
	}
	if token := l.accept(x, Login{Client: "phone", Invalidate: true}); token != nil {
		t.Error("a token, though it was due only")
	}
	l.current(x, true) // the session goes on
	l.refused("invalidated", first, sasl.NotAuthorized)
	l.refused("its successor", second, sasl.NotAuthorized)

	x, err = l.prove(none, "phone", l.issue(none))
	if err != nil {
		t.Fatal(err)
	}
	token := l.accept(x, Login{Client: "phone", Invalidate: true, RequestToken: none})
	if token == nil {
		t.Fatal("no token though it was asked for")
	}
	l.use(token.Secret)
}

// What ends tokens, and what was proved before and has not led to a session yet. Each is tried
// between the proof and Accept, and between Accept and the session; by password and by token.
func TestRevocationReachesUnfinishedLogins(t *testing.T) {
	for what, tc := range map[string]struct {
		revoke func(context.Context, *tester) error
		// stays: a login that proved the password is still good.
		stays bool
	}{
		"password": {func(ctx context.Context, l *tester) error { return l.SetPassword(ctx, juliet, "par1s") }, false},
		"the same password": {func(ctx context.Context, l *tester) error {
			return l.SetPassword(ctx, juliet, "r0m30")
		}, false},
		"disable": {func(ctx context.Context, l *tester) error { return l.SetDisabled(ctx, juliet, true) }, false},
		"disable and enable": {func(ctx context.Context, l *tester) error {
			return errors.Join(l.SetDisabled(ctx, juliet, true), l.SetDisabled(ctx, juliet, false))
		}, false},
		"delete": {func(ctx context.Context, l *tester) error { return l.Delete(ctx, juliet) }, false},
		"delete and create": {func(ctx context.Context, l *tester) error {
			return errors.Join(l.Delete(ctx, juliet), l.Create(ctx, juliet, "r0m30"))
		}, false},
		"client": {func(ctx context.Context, l *tester) error {
			if err := l.Revoke(ctx, juliet, "phone"); !errors.Is(err, ErrPassword) {
				return errors.Join(errors.New("no ErrPassword"), err)
			}
			return nil
		}, true},
		"all clients": {func(ctx context.Context, l *tester) error { return l.RevokeAll(ctx, juliet) }, true},
	} {
		t.Run(what, func(t *testing.T) {
			l := newTester(t, nil)
			token := l.issue(none)
			byPassword, byToken, bound := l.plain("r0m30"), must(l.prove(none, "phone", token)), must(l.prove(none, "phone", token))
			l.accept(bound, Login{Client: "phone"})
			if err := tc.revoke(deadline(t), l); err != nil {
				t.Fatal(err)
			}
			l.current(bound, false)
			l.current(byToken, false)
			l.current(byPassword, tc.stays)
			for _, client := range []string{"phone", "tablet", ""} {
				for _, x := range []*sasl.Exchange{byToken, byPassword} {
					if client == "phone" && what == "disable" {
						_, err := l.Accept(deadline(t), Login{Account: juliet, Exchange: x, Client: client})
						if !errors.Is(err, &sasl.Failure{Condition: sasl.AccountDisabled}) {
							t.Errorf("disabled: %v", err)
						}
					}
					wanted := x == byPassword && tc.stays
					got, err := l.Accept(deadline(t), Login{Account: juliet, Exchange: x, Client: client, RequestToken: none})
					if wanted != (err == nil) || err != nil && (!errors.As(err, new(*sasl.Failure)) || got != nil) {
						t.Errorf("%s as %q: %v, %v", x.Mechanism(), client, got, err)
					}
				}
			}
			if x, err := l.prove(none, "phone", token); err == nil {
				t.Errorf("the token is still good: %+v", x)
			}
			if !tc.stays {
				if list, err := l.Clients(juliet); len(list) > 0 && what != "disable" && what != "disable and enable" || err != nil {
					t.Errorf("clients %+v, %v", list, err)
				}
			}
		})
	}
}

func must(x *sasl.Exchange, err error) *sasl.Exchange {
	if err != nil {
		panic(err)
	}
	return x
}

// The password changes while it is compared: after the keys were read, before the proof is done.
func TestPasswordChangesDuringExchange(t *testing.T) {
	l := newTester(t, nil)
	a := l.Attempt("example.com")
	a.Offered = []string{"PLAIN"}
	verify := a.Verify
	a.Verify = func(user, password string) (string, bool, error) {
		epoch, good, err := verify(user, password)
		return epoch, good, errors.Join(err, l.SetPassword(deadline(t), juliet, "par1s"))
	}
	x, err := sasl.Server("PLAIN", a)
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := x.Step([]byte("\x00juliet\x00r0m30")); !done || err != nil {
		t.Fatal(done, err)
	}
	l.current(x, false)
	if token, err := l.Accept(deadline(t), Login{Account: juliet, Exchange: x, Client: "phone", RequestToken: none}); err == nil || token != nil {
		t.Errorf("%v, %v", token, err)
	}
}

func TestCurrentOfNothing(t *testing.T) {
	l := newTester(t, nil)
	l.edit(func(account *storage.Account) { account.Generation = 0 }) // as it is for old accounts
	for _, epoch := range []string{"", " ", "x", "0 0", "1 0 ", "0 2 phone", "g 0 ", "0 g ", l.plain("r0m30").Epoch() + "phone"} {
		if got, err := l.Current(juliet, epoch); got || err != nil {
			t.Errorf("Current(%q) = %v, %v", epoch, got, err)
		}
	}
	l.current(l.plain("r0m30"), true)
	token := l.issue(none)
	before := l.plain("r0m30")
	l.edit(func(account *storage.Account) { account.Disabled = true }) // by whatever way
	l.current(before, false)
	l.refused("disabled", token, sasl.AccountDisabled)
	if got, err := l.Current(romeo, before.Epoch()); got || err != nil {
		t.Errorf("Current of nobody = %v, %v", got, err)
	}
	l.store.Close()
	if got, err := l.Current(juliet, "0 0 "); got || !errors.Is(err, storage.ErrClosed) {
		t.Errorf("Current of a closed store = %v, %v", got, err)
	}
}

func TestEpochHolds(t *testing.T) {
	account, phone := storage.Account{Generation: 7}, storage.Client{ID: "the phone", Generation: 8}
	for _, tc := range []struct {
		epoch epoch
		want  bool
	}{
		{epoch{account: 7}, true},
		{epoch{account: 8}, false},
		{epoch{account: 7, client: "the phone", clientGeneration: 8}, true},
		{epoch{account: 7, client: "the phone", clientGeneration: 7}, false},
		{epoch{account: 7, client: "tablet", clientGeneration: 8}, false},
		{epoch{account: 1<<64 - 1, client: "the phone", clientGeneration: 8}, false},
		{epoch{account: 7, invalid: true}, false},
	} {
		if got := tc.epoch.holds(account, phone); got != tc.want {
			t.Errorf("%+v holds: %v", tc.epoch, got)
		}
		if got := parseEpoch(tc.epoch.String()); got != tc.epoch && !tc.epoch.invalid {
			t.Errorf("%+v was read as %+v", tc.epoch, got)
		}
	}
}

// XEP-0388 section 3 warns of telling who exists. Reads and decryptions are counted; what an unknown
// user's client is compared with is the decoy, and not even that is good.
func TestUnknownClientCostsTheSame(t *testing.T) {
	l := newTester(t, nil)
	create(t, l.Accounts, romeo, "jul1et")
	first := l.issue(none)
	l.clock = l.clock.Add(2 * day)
	l.use(first) // both slots are in use
	mercutio := jid.MustParse("mercutio@example.com")
	l.write(func(tx storage.Tx) error { // left behind by an account that is gone
		c := storage.Client{ID: "phone", New: storage.Token{Mechanism: none, Expiry: l.clock.Add(day)}}
		c.New.Sealed = l.tokens.seal(mercutio, "phone", first, c.New)
		return tx.Clients().Put(mercutio, c)
	})
	counter := &countingAEAD{AEAD: l.tokens.aead}
	l.tokens.aead = counter
	decoy, err := counter.Open(nil, nil, l.tokens.decoy, nil)
	if err != nil || len(decoy) != len(first) {
		t.Fatalf("decoy of %d bytes, %v", len(decoy), err)
	}
	for _, tc := range []struct{ user, client, mechanism string }{
		{"juliet", "phone", none},
		{"juliet", "phone", expr},
		{"juliet", "tablet", none},
		{"juliet", "", none},
		{"romeo", "phone", none},
		{"mercutio", "phone", none},
		{"mercutio", "", none},
		{"juliet", "", ""},
	} {
		opened, views := counter.opened, l.store.views.Load()
		tokens, err := l.Tokens("example.com", tc.client)(tc.user, tc.mechanism)
		if err != nil {
			t.Fatal(err)
		}
		if opened, views := counter.opened-opened, l.store.views.Load()-views; opened != 2 || views != 1 {
			t.Errorf("%+v: %d decryptions, %d reads", tc, opened, views)
		}
		known := tc.user == "juliet" && tc.client == "phone" && tc.mechanism == none
		if tokens.New.Known != known || tokens.Current.Known != known || len(tokens.New.Secret) != 43 || len(tokens.Current.Secret) != 43 {
			t.Errorf("%+v: %+v", tc, tokens)
		}
	}
	if _, err := l.prove(none, "tablet", string(decoy)); !errors.Is(err, &sasl.Failure{Condition: sasl.NotAuthorized}) {
		t.Errorf("the decoy: %v", err)
	}
}

type countingAEAD struct {
	cipher.AEAD
	opened int
}

func (c *countingAEAD) Open(dst, nonce, sealed, additional []byte) ([]byte, error) {
	c.opened++
	return c.AEAD.Open(dst, nonce, sealed, additional)
}

// Whoever can write to the database but has not the key cannot make a token of another.
func TestSealedTokens(t *testing.T) {
	l := newTester(t, nil)
	create(t, l.Accounts, romeo, "jul1et")
	token := l.issue(none)
	row := func() (c storage.Client) {
		if err := l.store.View(func(tx storage.Tx) (err error) {
			c, err = tx.Clients().Get(juliet, "phone")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := row()
	if bytes.Contains(good.New.Sealed, []byte(token)) || good.Current.Sealed != nil {
		t.Errorf("kept: %+v", good)
	}
	put := func(owner jid.JID, c storage.Client) {
		t.Helper()
		l.write(func(tx storage.Tx) error { return tx.Clients().Put(owner, c) })
	}
	for what, change := range map[string]func(*storage.Client){
		"a later expiry":    func(c *storage.Client) { c.New.Expiry = c.New.Expiry.Add(1) },
		"another mechanism": func(c *storage.Client) { c.New.Mechanism = expr },
		"a changed byte":    func(c *storage.Client) { c.New.Sealed[20] ^= 1 },
		"cut short":         func(c *storage.Client) { c.New.Sealed = c.New.Sealed[:5] },
		"the decoy":         func(c *storage.Client) { c.New.Sealed = l.tokens.decoy },
	} {
		c := row()
		change(&c)
		put(juliet, c)
		for _, mechanism := range []string{none, expr} {
			if _, err := l.prove(mechanism, "phone", token); err == nil {
				t.Errorf("%s: good by %s", what, mechanism)
			}
		}
		if tokens, err := l.Tokens("example.com", "phone")("juliet", none); err != nil || len(tokens.New.Secret) != tokenSize {
			t.Errorf("%s: compared with %q, %v", what, tokens.New.Secret, err)
		}
		put(juliet, good)
	}
	moved := good
	moved.ID = "tablet"
	put(juliet, moved)
	put(romeo, good)
	if _, err := l.prove(none, "tablet", token); err == nil {
		t.Error("good when moved to another client")
	}
	if tokens, err := l.Tokens("example.com", "phone")("romeo", none); err != nil || tokens.New.Known {
		t.Errorf("good when moved to another account, %v", err)
	}
	l.use(token)
}

func TestTokenKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.key")
	with := func(o *Options) { o.TokenKeyFile = file }
	l := newTester(t, with)
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 || info.Size() != 32 {
		t.Fatalf("%+v, %v", info, err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("beside the key: %v, %v", left, err)
	}
	token := l.issue(none)
	l.restart(with)
	if l.use(token); t.Failed() {
		return
	}

	// Lost, it costs the tokens and nothing else.
	if err := os.Rename(file, file+".old"); err != nil {
		t.Fatal(err)
	}
	l.restart(with)
	l.refused("under another key", token, sasl.NotAuthorized)
	l.use(l.issue(none))
	l.restart(nil)
	l.refused("without a key file", token, sasl.NotAuthorized)

	for what, damage := range map[string]func() error{
		"readable by the group": func() error { return os.Chmod(file, 0o640) },
		"readable by all":       func() error { return os.Chmod(file, 0o604) },
		"empty":                 func() error { return os.WriteFile(file, nil, 0o600) },
		"too short":             func() error { return os.WriteFile(file, make([]byte, 16), 0o600) },
		"too long":              func() error { return os.WriteFile(file, make([]byte, 33), 0o600) },
		"no file":               func() error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
	} {
		os.RemoveAll(file)
		if err := os.WriteFile(file, make([]byte, 32), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if _, err := NewAccounts(l.store, Options{TokenKeyFile: file}); err == nil {
			t.Errorf("a key file that is %s", what)
		} else {
			t.Log(err)
		}
	}
	if _, err := NewAccounts(l.store, Options{TokenKeyFile: filepath.Join(file, "no", "such")}); err == nil {
		t.Error("a key file in no directory")
	}
}

// A login that changes nothing but when the client was seen does not wait for the disk; one that
// changes a token does.
func TestPlainTokenLoginDoesNotWait(t *testing.T) {
	var stalled atomic.Bool
	release := make(chan struct{})
	l := &tester{t: t, clock: time.Unix(1e9, 0), store: newStore(t, mem.Options{BeforeCommit: func() error {
		if stalled.Load() {
			<-release
		}
		return nil
	}})}
	l.restart(nil)
	create(t, l.Accounts, juliet, "r0m30")
	token := l.issue(none)
	l.use(token)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	stalled.Store(true)
	defer close(release)
	l.use(token)
	l.accept(l.plain("r0m30"), Login{Client: "phone"})
	for what, login := range map[string]Login{
		"a token":      {Client: "phone", RequestToken: none},
		"invalidation": {Client: "phone", Invalidate: true},
		"a new client": {Client: "tablet"},
	} {
		login.Account, login.Exchange = juliet, l.plain("r0m30")
		if _, err := l.Accept(ended, login); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// On a full disk nobody gets a token, but everybody who has one gets in.
func TestAcceptWithoutSpace(t *testing.T) {
	l := newTester(t, nil)
	token := l.issue(none)
	full := &fullStore{Store: l.store}
	l.Accounts.store = full
	for _, login := range []Login{{Client: "phone", RequestToken: none}, {Client: "tablet"}} {
		if got := l.accept(l.plain("r0m30"), login); got != nil {
			t.Errorf("a token that is not kept: %+v", got)
		}
	}
	if got := l.use(token); got != "" {
		t.Errorf("a token that is not kept: %q", got)
	}
	x := must(l.prove(none, "phone", token))
	if _, err := l.Accept(deadline(t), Login{Account: juliet, Exchange: x, Client: "phone", Invalidate: true}); !errors.Is(err, storage.ErrNoSpace) {
		t.Errorf("invalidation that is not kept: %v", err)
	}
}

type fullStore struct{ storage.Store }

func (fullStore) Submit(func(storage.Tx) error) *storage.Ticket {
	var t storage.Ticket
	t.Finish(storage.ErrNoSpace)
	return &t
}

// XEP-0494 section 3.1.
func TestClients(t *testing.T) {
	l := newTester(t, func(o *Options) { o.ClientAddresses = true })
	start := l.clock
	if list, err := l.Clients(juliet); len(list) > 0 || err != nil {
		t.Fatalf("%+v, %v", list, err)
	}
	l.accept(l.plain("r0m30"), Login{Client: "phone", Software: "Conversations", Device: "Pixel", Address: "192.0.2.1"})
	l.clock = l.clock.Add(day)
	l.accept(l.plain("r0m30"), Login{Client: "desk", Software: "Gajim", Device: "The \x1b[31mDesk\n", RequestToken: none})
	l.clock = l.clock.Add(day)
	token := l.accept(l.plain("r0m30"), Login{Client: "phone", Software: strings.Repeat("ü", 200), Device: "Pixel 2", Address: "192.0.2.2", RequestToken: none})
	l.accept(l.plain("r0m30"), Login{Software: "old"}) // SASL1: not remembered
	l.clock = l.clock.Add(time.Hour)
	x := must(l.prove(none, "phone", token.Secret))
	l.accept(x, Login{Client: "phone", Software: strings.Repeat("ü", 200), Device: "Pixel 2", Address: "192.0.2.3"})

	list, err := l.Clients(juliet)
	want := []Client{
		{ID: "phone", Software: strings.Repeat("ü", 128), Device: "Pixel 2", FirstSeen: start.UTC(), LastSeen: l.clock.UTC(),
			Mechanism: none, Address: "192.0.2.3", Password: true, Token: token.Expiry},
		{ID: "desk", Software: "Gajim", Device: "The [31mDesk", FirstSeen: start.Add(day).UTC(), LastSeen: start.Add(day).UTC(),
			Mechanism: "PLAIN", Password: true, Token: start.Add(11 * day).UTC()},
	}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("got  %+v\nwant %+v, %v", list, want, err)
	}

	l.restart(nil) // addresses are not kept by default
	l.accept(l.plain("r0m30"), Login{Client: "phone", Address: "192.0.2.4", RequestToken: none})
	if list, err := l.Clients(juliet); err != nil || list[0].Address != "" {
		t.Errorf("%+v, %v", list[0], err)
	}
	for what, err := range map[string]error{
		"Revoke of no client":    l.Revoke(deadline(t), juliet, "x"),
		"Revoke of nobody's":     l.Revoke(deadline(t), romeo, "phone"),
		"RevokeAll of nobody":    l.RevokeAll(deadline(t), romeo),
		"Revoke without a name":  l.Revoke(deadline(t), juliet, ""),
		"Revoke of another name": l.Revoke(deadline(t), juliet, "Phone"),
	} {
		if !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// XEP-0494 section 3.2: the tokens end at once, and it is said that the password remains.
func TestRevokeClient(t *testing.T) {
	l := newTester(t, nil)
	token := l.issue(none)
	tablet := l.accept(l.plain("r0m30"), Login{Client: "tablet", RequestToken: none}).Secret
	if err := l.Revoke(deadline(t), juliet, "phone"); !errors.Is(err, ErrPassword) {
		t.Errorf("Revoke: %v", err)
	}
	l.refused("revoked", token, sasl.NotAuthorized)
	if _, err := l.prove(none, "tablet", tablet); err != nil {
		t.Errorf("another client: %v", err)
	}
	list, err := l.Clients(juliet)
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, c := range list {
		if c.Token.IsZero() != (c.ID == "phone") {
			t.Errorf("%+v", c)
		}
	}

	// One that never proved the password is gone.
	l.write(func(tx storage.Tx) error {
		c, err := tx.Clients().Get(juliet, "tablet")
		c.Password = false
		return errors.Join(err, tx.Clients().Put(juliet, c))
	})
	x := must(l.prove(none, "tablet", tablet))
	if err := l.Revoke(deadline(t), juliet, "tablet"); err != nil {
		t.Errorf("Revoke: %v", err)
	}
	l.current(x, false)
	if err := l.store.View(func(tx storage.Tx) error {
		_, err := tx.Clients().Get(juliet, "tablet")
		return err
	}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("it is still kept: %v", err)
	}
	l.accept(l.plain("r0m30"), Login{Client: "tablet"}) // back, by the password
	l.current(x, false)
	if token, err := l.Accept(deadline(t), Login{Account: juliet, Exchange: x, Client: "tablet", RequestToken: none}); token != nil || !errors.Is(err, &sasl.Failure{Condition: sasl.CredentialsExpired}) {
		t.Errorf("%v, %v", token, err)
	}
}

// XEP-0494 section 6: not more than necessary, and not longer.
func TestClientsAreForgotten(t *testing.T) {
	l := newTester(t, func(o *Options) { o.Clients, o.ClientsKept = 3, 30*day })
	ids := func() (ids []string) {
		t.Helper()
		var shown []string
		list, err := l.Clients(juliet)
		for _, c := range list {
			shown = append(shown, c.ID)
		}
		err = errors.Join(err, l.store.View(func(tx storage.Tx) error {
			kept, err := tx.Clients().All(juliet)
			for _, c := range kept {
				ids = append(ids, c.ID)
			}
			return err
		}))
		if slices.Sort(shown); err != nil || !slices.Equal(shown, ids) {
			t.Errorf("shown %q, kept %q, %v", shown, ids, err)
		}
		return ids
	}
	seen := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			l.clock = l.clock.Add(time.Hour)
			l.accept(l.plain("r0m30"), Login{Client: id, RequestToken: none})
		}
	}
	seen("a", "b", "c", "c", "b")
	if got := ids(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("%q", got) // there is room for a
	}
	seen("c", "a", "d")
	if got := ids(); !slices.Equal(got, []string{"a", "c", "d"}) {
		t.Errorf("%q", got) // b was seen before a
	}
	l.clock = l.clock.Add(30 * day)
	if list, err := l.Clients(juliet); len(list) > 0 || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
	l.write(func(tx storage.Tx) error { // its tokens have been revoked, and it never knew the password
		return tx.Clients().Put(juliet, storage.Client{ID: "x", LastSeen: l.clock})
	})
	l.accept(l.plain("r0m30"), Login{Client: "e"})
	if got := ids(); !slices.Equal(got, []string{"e"}) {
		t.Errorf("%q", got)
	}
	// One with a token is remembered as long as that is good.
	l.restart(func(o *Options) { o.ClientsKept = day })
	l.accept(l.plain("r0m30"), Login{Client: "f", RequestToken: none})
	l.clock = l.clock.Add(9 * day)
	l.accept(l.plain("r0m30"), Login{Client: "g"})
	if got := ids(); !slices.Equal(got, []string{"f", "g"}) {
		t.Errorf("%q", got)
	}
}

// BenchmarkToken is the proof of a token by a client that has one, and by one of nobody.
func BenchmarkToken(b *testing.B) {
	store := mem.New(mem.Options{})
	defer store.Close()
	a, err := NewAccounts(store, Options{Iterations: 32})
	if err != nil {
		b.Fatal(err)
	}
	if err := a.Create(b.Context(), juliet, "r0m30"); err != nil {
		b.Fatal(err)
	}
	slot := storage.Token{Mechanism: none, Expiry: time.Now().Add(day)}
	slot.Sealed = a.tokens.seal(juliet, "phone", strings.Repeat("s", tokenSize), slot)
	if err := store.Submit(func(tx storage.Tx) error {
		return tx.Clients().Put(juliet, storage.Client{ID: "phone", Current: slot, New: slot})
	}).Wait(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, user := range []string{"juliet", "mercutio"} {
		b.Run(user, func(b *testing.B) {
			message := []byte(user + "\x00" + strings.Repeat("p", sha256.Size))
			for b.Loop() {
				attempt := a.Attempt("example.com")
				attempt.OfferedTokens, attempt.Tokens = []string{none}, a.Tokens("example.com", "phone")
				x, err := sasl.Server(none, attempt)
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := x.Step(message); err == nil {
					b.Fatal("a good proof")
				}
			}
		})
	}
}
