// Package auth says who may log in. Today these are the local accounts of the store; a directory
// or an identity provider would stand beside them.
//
// The client role (xmpp/c2s) asks it with the Attempt of a domain, the router whether an account
// Exists, and the admin API creates and changes accounts. Start with Accounts.
//
// A password is never kept, nor anything that would let its keeper log in: only the keys that
// verify a proof (RFC 5802 section 3). A stranger cannot tell from answers or from the work done
// whether a user exists: an unknown one gets credentials made from a secret of this server, the
// same at each attempt.
package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/sasl"
)

// Options of Accounts. The zero value is the default of each.
type Options struct {
	// Iterations of PBKDF2 for new passwords; 10,000.
	Iterations int
	// Mechanisms to keep keys for; SCRAM-SHA-1, SCRAM-SHA-256 and SCRAM-SHA-512.
	Mechanisms []string
	// Random is the source of salts, safe for concurrent use; crypto/rand.
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
	if opts.Random == nil {
		opts.Random = rand.Reader
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Iterations < 1 {
		return nil, fmt.Errorf("auth: %d iterations", opts.Iterations)
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
	return &Accounts{store: store, opts: opts, secret: secret}, nil
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
// what belongs to the connection: Binding, External and Offered.
func (a *Accounts) Attempt(domain string) *sasl.Attempt {
	return &sasl.Attempt{
		Credentials: a.Credentials(domain),
		Verify: func(user, password string) (bool, error) {
			account, err := jid.New(user, domain, "")
			if err != nil {
				return false, err
			}
			return a.Verify(account, password)
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
		_, credential, err := a.lookup(account, mechanism)
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
	mechanism, credential, err := a.lookup(account, "")
	if err != nil {
		return false, fmt.Errorf("verify password of %s: %w", account, err)
	}
	stored, _, err := sasl.Derive(mechanism, password, credential.Salt, credential.Iterations)
	if errors.Is(err, sasl.ErrPassword) {
		return false, nil // nobody has it
	}
	if err != nil {
		return false, fmt.Errorf("verify password of %s: %w", account, err)
	}
	good := subtle.ConstantTimeCompare(stored, credential.StoredKey) == 1 && credential.Known
	if good && credential.Disabled {
		return false, &sasl.Failure{Condition: sasl.AccountDisabled}
	}
	return good, nil
}

// lookup is the credential of an account for a mechanism, or for an empty one the first that it
// has. It first makes what an unknown account would get, so that the work is the same for all.
func (a *Accounts) lookup(account jid.JID, mechanism string) (string, sasl.Credential, error) {
	first := mechanism == ""
	if first {
		mechanism = a.opts.Mechanisms[0]
	}
	credential, err := a.imagine(account, mechanism)
	if err != nil {
		return "", sasl.Credential{}, err
	}
	kept, err := a.get(account)
	if errors.Is(err, storage.ErrNotFound) {
		return mechanism, credential, nil
	}
	if err != nil {
		return "", sasl.Credential{}, err
	}
	for _, c := range kept.Credentials {
		if first || c.Mechanism == mechanism {
			return c.Mechanism, sasl.Credential{
				Salt:       c.Salt,
				Iterations: c.Iterations,
				StoredKey:  c.StoredKey,
				ServerKey:  c.ServerKey,
				Known:      true,
				Disabled:   kept.Disabled,
			}, nil
		}
	}
	return mechanism, credential, nil
}

// imagine makes the credential that an account would have whose salt and password follow from the
// server's secret.
func (a *Accounts) imagine(account jid.JID, mechanism string) (sasl.Credential, error) {
	c := sasl.Credential{
		Salt:       a.fromSecret("salt", mechanism, account)[:saltSize],
		Iterations: a.opts.Iterations,
	}
	// One iteration: nobody will prove these keys, they have to have the right size only.
	password := fmt.Sprintf("%x", a.fromSecret("password", mechanism, account))
	var err error
	c.StoredKey, c.ServerKey, err = sasl.Derive(mechanism, password, c.Salt, 1)
	return c, err
}

func (a *Accounts) fromSecret(purpose, mechanism string, account jid.JID) []byte {
	h := hmac.New(sha256.New, a.secret)
	fmt.Fprintf(h, "%s\x00%s\x00%s", purpose, mechanism, account.Bare())
	return h.Sum(nil)
}
