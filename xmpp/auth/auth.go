// Package auth says who may log in. Today these are the local accounts of the store; a directory
// or an identity provider would stand beside them.
//
// The client role (xmpp/c2s) asks it with the Attempt of a domain, tells it of a good proof with
// Accept, and asks Current once the session stands; the router asks whether an account Exists, and
// the admin API creates and changes accounts. Start with Accounts.
//
// A password is never kept, nor anything that would let its keeper log in: only the keys that
// verify a proof (RFC 5802 section 3), and tokens (XEP-0484) sealed with a key that is not in the
// store. A stranger cannot tell from answers or from the work done whether a user exists: an unknown
// one gets credentials made from a secret of this server, the same at each attempt.
package auth

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/sasl"
)

// Options of Accounts. The zero value is the default of each.
type Options struct {
	// Iterations of PBKDF2 for new passwords; 10,000.
	Iterations int
	// Mechanisms to keep keys for; SCRAM-SHA-1, SCRAM-SHA-256 and SCRAM-SHA-512. The keys of
	// other mechanisms are forgotten, once an account has all of these.
	Mechanisms []string
	// TokenKeyFile holds the key that seals tokens, readable by its owner only. It is made where
	// there is none. Whoever has both it and the store can log in as anybody who has a token, so
	// it is not for the same backup. Empty: a key for this process, and no token outlives it.
	TokenKeyFile string
	// TokenLifetime is how long a token can be used; 21 days.
	TokenLifetime time.Duration
	// TokenRotation is the age at which a token is replaced when its client logs in; 1 day.
	TokenRotation time.Duration
	// Clients is how many an account may have. The one not seen for the longest time makes room.
	// 50.
	Clients int
	// ClientsKept is how long a client without a token is remembered after it was last seen; 90
	// days.
	ClientsKept time.Duration
	// ClientAddresses: remember where a client came from.
	ClientAddresses bool
	// Random is the source of salts and tokens, safe for concurrent use; crypto/rand.
	Random io.Reader
	// Now is the time; time.Now.
	Now func() time.Time
}

const saltSize = 16 // bytes

// Accounts are the users of every domain of this server. Safe for concurrent use.
type Accounts struct {
	store  storage.Store
	opts   Options
	secret []byte // behind the credentials of users that do not exist
	tokens *sealer
	census census
}

// NewAccounts makes the accounts kept in store usable. At the first start it also makes the
// secret behind the credentials of unknown users, and waits until that is kept.
func NewAccounts(store storage.Store, opts Options) (*Accounts, error) {
	if opts.Iterations == 0 {
		opts.Iterations = 10_000
	}
	if len(opts.Mechanisms) == 0 {
		opts.Mechanisms = []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"}
	}
	opts.TokenLifetime = cmp.Or(opts.TokenLifetime, 21*24*time.Hour)
	opts.TokenRotation = cmp.Or(opts.TokenRotation, 24*time.Hour)
	opts.Clients = cmp.Or(opts.Clients, 50)
	opts.ClientsKept = cmp.Or(opts.ClientsKept, 90*24*time.Hour)
	if opts.Random == nil {
		opts.Random = rand.Reader
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	switch {
	case opts.Iterations < 1:
		return nil, fmt.Errorf("auth: %d iterations", opts.Iterations)
	case opts.TokenLifetime < 0 || opts.TokenRotation < 0 || opts.ClientsKept < 0 || opts.Clients < 0:
		return nil, errors.New("auth: a limit of less than nothing")
	}
	for _, mechanism := range opts.Mechanisms {
		if _, _, err := sasl.Derive(mechanism, "probe", nil, 1); err != nil {
			return nil, fmt.Errorf("auth: keep keys: %w", err)
		}
	}
	secret, err := loadSecret(store, opts.Random)
	if err != nil {
		return nil, fmt.Errorf("auth: secret for unknown users: %w", err)
	}
	tokens, err := newSealer(opts.TokenKeyFile, opts.Random)
	if err != nil {
		return nil, fmt.Errorf("auth: key for tokens: %w", err)
	}
	a := &Accounts{store: store, opts: opts, secret: secret, tokens: tokens}
	if err := a.review(); err != nil {
		return nil, fmt.Errorf("auth: look through accounts: %w", err)
	}
	return a, nil
}

// loadSecret reads the secret, and makes it where there is none.
func loadSecret(store storage.Store, random io.Reader) ([]byte, error) {
	const name = "auth: unknown users"
	var secret []byte
	err := store.View(func(tx storage.Tx) (err error) {
		secret, err = tx.Secrets().Get(name)
		return err
	})
	if !errors.Is(err, storage.ErrNotFound) {
		return secret, err
	}
	secret = make([]byte, sha256.Size)
	if _, err := io.ReadFull(random, secret); err != nil {
		return nil, err
	}
	return secret, store.Submit(func(tx storage.Tx) error {
		return tx.Secrets().Put(name, secret)
	}).Wait(context.Background())
}

// Attempt is what an authentication attempt for an account of domain may know. The caller adds
// what belongs to the connection: Binding, External and what was offered, and Tokens of a client
// that says who it is.
func (a *Accounts) Attempt(domain string) *sasl.Attempt {
	return &sasl.Attempt{
		Credentials: a.Credentials(domain),
		Verify: func(user, password string) (string, bool, error) {
			account, err := jid.New(user, domain, "")
			if err != nil {
				return "", false, err
			}
			kept, good, err := a.verify(account, password)
			if err != nil || !good {
				return "", false, err
			}
			return epoch{account: kept.Generation}.String(), true, a.complete(kept, password)
		},
		// A client asks to act as a bare JID, which must be its own (RFC 6120 section 6.3.8).
		Authorize: func(user, authzid string) bool {
			self, err := jid.New(user, domain, "")
			asked, askedErr := jid.Parse(authzid)
			return err == nil && askedErr == nil && asked == self
		},
		Random: a.opts.Random,
	}
}

// Credentials returns, for the users of domain, what SCRAM verifies them with. The function that it
// returns reads the store once and does the same work whether the user exists or not. A disabled
// account is verified like any other, so that only its owner learns that it is disabled.
func (a *Accounts) Credentials(domain string) func(user, mechanism string) (sasl.Credential, error) {
	return func(user, mechanism string) (sasl.Credential, error) {
		account, err := jid.New(user, domain, "")
		if err != nil {
			return sasl.Credential{}, fmt.Errorf("credentials: %w", err)
		}
		_, credential, _, err := a.lookup(account, mechanism)
		if err != nil {
			return sasl.Credential{}, fmt.Errorf("credentials of %s: %w", account, err)
		}
		return credential, nil
	}
}

// Verify reports whether password is that of the account, with the same work whether the account
// exists or not. For the right password of a disabled account the error is a *sasl.Failure,
// account-disabled.
func (a *Accounts) Verify(account jid.JID, password string) (bool, error) {
	_, good, err := a.verify(account, password)
	return good, err
}

// verify is Verify with the account for which the password is good.
func (a *Accounts) verify(account jid.JID, password string) (storage.Account, bool, error) {
	mechanism, credential, kept, err := a.lookup(account, "")
	if err != nil {
		return kept, false, fmt.Errorf("verify password of %s: %w", account, err)
	}
	stored, _, err := sasl.Derive(mechanism, password, credential.Salt, credential.Iterations)
	if errors.Is(err, sasl.ErrPassword) {
		return kept, false, nil // nobody has it
	}
	if err != nil {
		return kept, false, fmt.Errorf("verify password of %s: %w", account, err)
	}
	good := subtle.ConstantTimeCompare(stored, credential.StoredKey) == 1 && credential.Known
	if good && credential.Disabled {
		return kept, false, &sasl.Failure{Condition: sasl.AccountDisabled}
	}
	return kept, good, nil
}

// lookup is the credential of an account for a mechanism, or for an empty one the first that
// there is, and the account. It first makes what an unknown account would get, so that the work is
// the same for all.
func (a *Accounts) lookup(account jid.JID, mechanism string) (string, sasl.Credential, storage.Account, error) {
	drawn := a.drawn(account)
	n := slices.IndexFunc(drawn, func(iterations int) bool { return iterations > 0 })
	if mechanism != "" {
		n = slices.Index(a.opts.Mechanisms, mechanism)
	}
	imagined, iterations := cmp.Or(mechanism, a.opts.Mechanisms[max(n, 0)]), 0
	if n >= 0 {
		iterations = drawn[n]
	}
	credential, err := a.imagine(account, imagined, cmp.Or(iterations, a.opts.Iterations))
	if err != nil {
		return "", sasl.Credential{}, storage.Account{}, err
	}
	kept, err := a.get(account)
	if errors.Is(err, storage.ErrNotFound) {
		return imagined, credential, kept, nil
	}
	if err != nil {
		return "", sasl.Credential{}, kept, err
	}
	wanted := cmp.Or(mechanism, a.opts.Mechanisms[0])
	i := slices.IndexFunc(kept.Credentials, func(c storage.Credential) bool { return c.Mechanism == wanted })
	if i < 0 && mechanism == "" && len(kept.Credentials) > 0 {
		i = 0
	}
	if i < 0 { // as those are imagined who lack these keys
		credential.Salt, credential.Iterations = a.salt(account, wanted, a.opts.Iterations), a.opts.Iterations
		return wanted, credential, kept, nil
	}
	c := kept.Credentials[i]
	return c.Mechanism, sasl.Credential{
		Salt:       c.Salt,
		Iterations: c.Iterations,
		StoredKey:  c.StoredKey,
		ServerKey:  c.ServerKey,
		Known:      true,
		Disabled:   kept.Disabled,
		Epoch:      epoch{account: kept.Generation}.String(),
	}, kept, nil
}

// imagine makes the credential that an account would have whose salt and password follow from the
// server's secret.
func (a *Accounts) imagine(account jid.JID, mechanism string, iterations int) (sasl.Credential, error) {
	c := sasl.Credential{Salt: a.salt(account, mechanism, iterations), Iterations: iterations}
	// One iteration: nobody will prove these keys, they have to have the right size only.
	password := fmt.Sprintf("%x", a.fromSecret("password", mechanism, account))
	var err error
	c.StoredKey, c.ServerKey, err = sasl.Derive(mechanism, password, c.Salt, 1)
	return c, err
}

// salt is imagined with the iterations, since a password that is set anew has both anew.
func (a *Accounts) salt(account jid.JID, mechanism string, iterations int) []byte {
	return a.fromSecret(fmt.Sprintf("salt %d", iterations), mechanism, account)[:saltSize]
}

func (a *Accounts) fromSecret(purpose, mechanism string, account jid.JID) []byte {
	h := hmac.New(sha256.New, a.secret)
	fmt.Fprintf(h, "%s\x00%s\x00%s", purpose, mechanism, account.Bare())
	return h.Sum(nil)
}
