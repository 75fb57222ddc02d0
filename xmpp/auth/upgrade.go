package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/sasl"
)

const upgradePrefix = "UPGR-"

// Mechanisms are those that keys are kept for, and so the SCRAM mechanisms to offer, without -PLUS,
// in the order of the options.
func (a *Accounts) Mechanisms() []string { return slices.Clone(a.opts.Mechanisms) }

// Upgrades names the tasks by which a client adds keys to its account (XEP-0480 section 2.1). They
// are the same for everybody, whatever keys an account has. None makes SHA-1 keys: every client that
// does tasks can do better.
func (a *Accounts) Upgrades() []string {
	var tasks []string
	for _, mechanism := range a.opts.Mechanisms {
		if mechanism != "SCRAM-SHA-1" {
			tasks = append(tasks, upgradePrefix+mechanism)
		}
	}
	return tasks
}

// An Upgrade is a task that has begun: what the client must salt its password with (XEP-0480
// section 3).
type Upgrade struct {
	Salt       []byte
	Iterations int

	accounts  *Accounts
	account   jid.JID
	mechanism string
	epoch     string
}

// BeginUpgrade begins a task for the client that x authenticated. It is nil where nothing is to be
// done: the account has the keys, the task is none of Upgrades, or the client has not proved that it
// knows the password, so that a stolen token does not become one.
func (a *Accounts) BeginUpgrade(account jid.JID, x *sasl.Exchange, task string) (*Upgrade, error) {
	if !slices.Contains(a.Upgrades(), task) || !isPassword(x.Mechanism()) {
		return nil, nil
	}
	mechanism := strings.TrimPrefix(task, upgradePrefix)
	kept, err := a.get(account)
	if err != nil {
		return nil, fmt.Errorf("upgrade account %s: %w", account, err)
	}
	if !slices.Contains(missing(kept, a.opts.Mechanisms), mechanism) {
		return nil, nil
	}
	salt, err := a.random(saltSize)
	if err != nil {
		return nil, fmt.Errorf("upgrade account %s: make a salt: %w", account, err)
	}
	return &Upgrade{salt, a.opts.Iterations, a, account, mechanism, x.Epoch()}, nil
}

// Finish keeps the keys that follow from the salted password, and forgets that. It fails with a
// *sasl.Failure where the client has sent something else, or where what it had proved has lost its
// worth since.
func (u *Upgrade) Finish(ctx context.Context, salted []byte) error {
	stored, server, err := sasl.DeriveSalted(u.mechanism, salted)
	if err != nil {
		return &sasl.Failure{Condition: sasl.MalformedRequest, Cause: err}
	}
	made := storage.Credential{
		Mechanism: u.mechanism, Salt: u.Salt, Iterations: u.Iterations, StoredKey: stored, ServerKey: server,
	}
	ticket := u.accounts.add(u.account, parseEpoch(u.epoch), []storage.Credential{made})
	if err := ticket.Wait(ctx); err != nil {
		return fmt.Errorf("upgrade account %s: %w", u.account, err)
	}
	return nil
}

// complete adds the keys that an account lacks, when its password is at hand. Nobody waits for that.
func (a *Accounts) complete(kept storage.Account, password string) error {
	lacking := missing(kept, a.opts.Mechanisms)
	if len(lacking) == 0 {
		return nil
	}
	made, err := a.derive(password, lacking)
	if err != nil {
		return fmt.Errorf("complete account %s: %w", kept.JID, err)
	}
	a.add(kept.JID, epoch{account: kept.Generation}, made)
	return nil
}

// add keeps credentials of mechanisms that an account has none for.
func (a *Accounts) add(account jid.JID, proved epoch, made []storage.Credential) *storage.Ticket {
	var before, after []storage.Credential
	ticket := a.store.Submit(func(tx storage.Tx) error {
		kept, err := tx.Accounts().Get(account)
		switch {
		case err != nil && !errors.Is(err, storage.ErrNotFound):
			return err
		case err != nil || kept.Disabled || !proved.holds(kept, storage.Client{}):
			return &sasl.Failure{Condition: sasl.NotAuthorized, Cause: errors.New("credentials changed")}
		}
		before = slices.Clone(kept.Credentials)
		for _, c := range made {
			if slices.Contains(missing(kept, []string{c.Mechanism}), c.Mechanism) {
				kept.Credentials = append(kept.Credentials, c)
			}
		}
		kept.Credentials = a.wanted(kept)
		after = kept.Credentials
		return tx.Accounts().Update(kept)
	})
	ticket.Then(func(err error) {
		if err == nil {
			a.moved(before, after)
		}
	})
	return ticket
}

// review takes the census of all accounts, and drops the keys of mechanisms that are not wanted any more
// from each that can do without.
func (a *Accounts) review() error {
	var some bool
	err := a.store.View(func(tx storage.Tx) error {
		for account, err := range tx.Accounts().All("") {
			if err != nil {
				return err
			}
			a.moved(nil, account.Credentials)
			some = some || len(a.wanted(account)) < len(account.Credentials)
		}
		return nil
	})
	if err != nil || !some {
		return err
	}
	return a.store.Submit(func(tx storage.Tx) error {
		for account, err := range tx.Accounts().All("") {
			if err != nil {
				return err
			}
			if wanted := a.wanted(account); len(wanted) < len(account.Credentials) {
				account.Credentials = wanted
				if err := tx.Accounts().Update(account); err != nil {
					return err
				}
			}
		}
		return nil
	}).Wait(context.Background())
}

// wanted are the credentials of an account without those of other mechanisms, if nothing is missing
// then.
func (a *Accounts) wanted(account storage.Account) []storage.Credential {
	if len(missing(account, a.opts.Mechanisms)) > 0 {
		return account.Credentials
	}
	var wanted []storage.Credential
	for _, c := range account.Credentials {
		if slices.Contains(a.opts.Mechanisms, c.Mechanism) {
			wanted = append(wanted, c)
		}
	}
	return wanted
}

// missing are the mechanisms that an account has no keys for.
func missing(account storage.Account, mechanisms []string) []string {
	return slices.DeleteFunc(slices.Clone(mechanisms), func(mechanism string) bool {
		return slices.ContainsFunc(account.Credentials, func(c storage.Credential) bool { return c.Mechanism == mechanism })
	})
}
