package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// A Client is one that may log in to an account (XEP-0494).
type Client struct {
	ID        string
	Software  string
	Device    string
	FirstSeen time.Time
	LastSeen  time.Time // it logged in
	Mechanism string    // of that login
	Address   string    // that it came from; empty where that is not kept
	Password  bool      // it knows the password
	Token     time.Time // it has a token until then; zero: none
}

// ErrPassword is the answer to an attempt to revoke a client that knows the password.
var ErrPassword = errors.New("client knows the password")

// Clients lists those that may log in to an account, the latest seen first.
func (a *Accounts) Clients(account jid.JID) ([]Client, error) {
	var kept []storage.Client
	err := a.store.View(func(tx storage.Tx) (err error) {
		kept, err = tx.Clients().All(account)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list clients of %s: %w", account, err)
	}
	var list []Client
	for _, c := range kept {
		if !a.remembered(c, a.opts.Now()) {
			continue
		}
		list = append(list, Client{
			ID: c.ID, Software: c.Software, Device: c.Device,
			FirstSeen: c.FirstSeen, LastSeen: c.LastSeen, Mechanism: c.Mechanism, Address: c.Address,
			Password: c.Password, Token: validUntil(c, a.opts.Now()),
		})
	}
	slices.SortStableFunc(list, func(x, y Client) int { return y.LastSeen.Compare(x.LastSeen) })
	return list, nil
}

// Revoke ends the tokens of a client and forgets it. Of one that knows the password the tokens end,
// but it can come back, and the error is ErrPassword: only SetPassword keeps it out (XEP-0494
// section 3.2). Sessions are for the caller to end. storage.ErrNotFound.
func (a *Accounts) Revoke(ctx context.Context, account jid.JID, id string) error {
	knows := false
	ticket := a.store.Submit(func(tx storage.Tx) error {
		client, err := tx.Clients().Get(account, id)
		if err != nil {
			return err
		}
		knows = client.Password
		return revoke(tx, account, &client, false)
	})
	err := ticket.Wait(ctx)
	if err == nil && knows {
		err = ErrPassword
	}
	if err != nil {
		return fmt.Errorf("revoke client %q of %s: %w", id, account, err)
	}
	return nil
}

// RevokeAll ends the tokens of every client of an account. storage.ErrNotFound.
func (a *Accounts) RevokeAll(ctx context.Context, account jid.JID) error {
	return a.submit(ctx, "end the tokens of", account, func(tx storage.Tx) error {
		if _, err := tx.Accounts().Get(account); err != nil {
			return err
		}
		return revoke(tx, account, nil, false)
	})
}

// revoke ends the tokens of one client or, where that is nil, of all of an account, and forgets
// those that know no password: all of them after a new one.
func revoke(tx storage.Tx, account jid.JID, one *storage.Client, newPassword bool) error {
	var list []storage.Client
	if one != nil {
		list = []storage.Client{*one}
	} else {
		var err error
		if list, err = tx.Clients().All(account); err != nil {
			return err
		}
	}
	for _, c := range list {
		var err error
		if c.Password && !newPassword {
			c.Current, c.New = storage.Token{}, storage.Token{}
			c.Generation++
			err = tx.Clients().Put(account, c)
		} else {
			err = tx.Clients().Delete(account, c.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeRoom forgets clients of an account that are not to be remembered, and as many others as it
// takes to have room for the one that logs in.
func (a *Accounts) makeRoom(tx storage.Tx, account jid.JID, id string, now time.Time) error {
	list, err := tx.Clients().All(account)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(c storage.Client) bool { return c.ID == id })
	slices.SortStableFunc(list, func(x, y storage.Client) int { return x.LastSeen.Compare(y.LastSeen) })
	left := len(list)
	for _, c := range list {
		if left < a.opts.Clients && a.remembered(c, now) {
			continue
		}
		if err := tx.Clients().Delete(account, c.ID); err != nil {
			return err
		}
		left--
	}
	return nil
}

// remembered says whether a client has a token or was seen lately.
func (a *Accounts) remembered(c storage.Client, now time.Time) bool {
	return !validUntil(c, now).IsZero() || c.Password && now.Sub(c.LastSeen) < a.opts.ClientsKept
}

// validUntil is when the last token of a client expires; zero where it has none.
func validUntil(c storage.Client, now time.Time) (until time.Time) {
	for _, slot := range []storage.Token{c.Current, c.New} {
		if slot.Expiry.After(now) && slot.Expiry.After(until) {
			until = slot.Expiry
		}
	}
	return until
}
