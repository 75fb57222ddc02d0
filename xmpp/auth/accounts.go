package auth

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/sasl"
)

// Exists reports whether there is such an account, disabled or not, with one read of the store.
func (a *Accounts) Exists(account jid.JID) (bool, error) {
	switch _, err := a.get(account); {
	case errors.Is(err, storage.ErrNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for account %s: %w", account, err)
	}
	return true, nil
}

// Get returns an account without its credentials, which nobody else needs. storage.ErrNotFound.
func (a *Accounts) Get(account jid.JID) (storage.Account, error) {
	kept, err := a.get(account)
	if err != nil {
		return storage.Account{}, fmt.Errorf("get account %s: %w", account, reason(err))
	}
	kept.Credentials = nil
	return kept, nil
}

// All returns the accounts of a domain, or of every domain where it is empty, in JID order and
// without their credentials.
func (a *Accounts) All(domain string) ([]storage.Account, error) {
	var all []storage.Account
	err := a.store.View(func(tx storage.Tx) error {
		for account, err := range tx.Accounts().All(domain) {
			if err != nil {
				return err
			}
			account.Credentials = nil
			all = append(all, account)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	return all, nil
}

func (a *Accounts) get(account jid.JID) (kept storage.Account, err error) {
	err = a.store.View(func(tx storage.Tx) error {
		kept, err = tx.Accounts().Get(account.Bare())
		return err
	})
	return kept, err
}

// Create makes an account, and returns when it is kept. storage.ErrExists, sasl.ErrPassword.
func (a *Accounts) Create(ctx context.Context, account jid.JID, password string) error {
	if !account.IsAccount() {
		return fmt.Errorf("create account %q: not of the form user@domain", account)
	}
	credentials, err := a.derive(password, a.opts.Mechanisms)
	if err != nil {
		return fmt.Errorf("create account %s: %w", account, err)
	}
	// Random, so that nothing proved for a deleted account of this name counts for the new one.
	generation, err := a.random(8)
	if err != nil {
		return fmt.Errorf("create account %s: %w", account, err)
	}
	made := storage.Account{
		JID:         account.Clone(),
		Credentials: credentials,
		Created:     a.opts.Now(),
		Generation:  binary.BigEndian.Uint64(generation),
	}
	err = a.submit(ctx, "create", account, func(tx storage.Tx) error {
		return tx.Accounts().Create(made)
	})
	if err == nil {
		a.moved(nil, credentials)
	}
	return err
}

// SetPassword replaces the password and forgets every client with its tokens, and returns when that
// is kept. Sessions that the old one opened are for the caller to end. storage.ErrNotFound,
// sasl.ErrPassword.
func (a *Accounts) SetPassword(ctx context.Context, account jid.JID, password string) error {
	credentials, err := a.derive(password, a.opts.Mechanisms)
	if err != nil {
		return fmt.Errorf("set password of %s: %w", account, err)
	}
	var before []storage.Credential
	err = a.submit(ctx, "set password of", account, func(tx storage.Tx) error {
		kept, err := tx.Accounts().Get(account)
		if err != nil {
			return err
		}
		before, kept.Credentials = kept.Credentials, credentials
		kept.Generation++
		return errors.Join(tx.Accounts().Update(kept), revoke(tx, account, nil, true))
	})
	if err == nil {
		a.moved(before, credentials)
	}
	return err
}

// SetDisabled forbids or permits an account to log in. Tokens end when it is forbidden; sessions
// are for the caller to end. storage.ErrNotFound.
func (a *Accounts) SetDisabled(ctx context.Context, account jid.JID, disabled bool) error {
	verb := "enable"
	if disabled {
		verb = "disable"
	}
	return a.submit(ctx, verb, account, func(tx storage.Tx) error {
		kept, err := tx.Accounts().Get(account)
		if err != nil {
			return err
		}
		kept.Disabled = disabled
		if disabled {
			kept.Generation++
			err = revoke(tx, account, nil, false)
		}
		return errors.Join(err, tx.Accounts().Update(kept))
	})
}

// Delete removes an account with everything that is kept for it. storage.ErrNotFound.
func (a *Accounts) Delete(ctx context.Context, account jid.JID) error {
	return a.submit(ctx, "delete", account, func(tx storage.Tx) error {
		return tx.Accounts().Delete(account)
	})
}

func (a *Accounts) submit(ctx context.Context, verb string, account jid.JID, fn func(storage.Tx) error) error {
	if err := a.store.Submit(fn).Wait(ctx); err != nil {
		return fmt.Errorf("%s account %s: %w", verb, account, reason(err))
	}
	return nil
}

// reason is a refusal of the store without the operation and the account, which its error names too.
func reason(err error) error {
	for _, refusal := range []error{storage.ErrNotFound, storage.ErrExists} {
		if errors.Is(err, refusal) {
			return refusal
		}
	}
	return err
}

// derive makes the credentials to keep for a password, each with a salt of its own.
func (a *Accounts) derive(password string, mechanisms []string) ([]storage.Credential, error) {
	credentials := make([]storage.Credential, len(mechanisms))
	for i, mechanism := range mechanisms {
		salt, err := a.random(saltSize)
		if err != nil {
			return nil, fmt.Errorf("make a salt: %w", err)
		}
		stored, server, err := sasl.Derive(mechanism, password, salt, a.opts.Iterations)
		if err != nil {
			return nil, err
		}
		credentials[i] = storage.Credential{
			Mechanism:  mechanism,
			Salt:       salt,
			Iterations: a.opts.Iterations,
			StoredKey:  stored,
			ServerKey:  server,
		}
	}
	return credentials, nil
}

func (a *Accounts) random(size int) ([]byte, error) {
	b := make([]byte, size)
	_, err := io.ReadFull(a.opts.Random, b)
	return b, err
}
