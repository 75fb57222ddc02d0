package c2s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/audit"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// UserRequest is the argument of the user verbs and of session.list.
type UserRequest struct {
	// Account is a bare JID. session.list: empty for all accounts.
	Account jid.JID `json:"account"`
	// Password is the new one, for user.add and user.passwd.
	Password string `json:"password,omitempty"`
	// Keep leaves the account's sessions alone in user.passwd.
	Keep bool `json:"keep,omitempty"`
	// Domain restricts user.list; empty for all.
	Domain string `json:"domain,omitempty"`
}

// UserInfo is what user.list and user.show tell of an account.
type UserInfo struct {
	Account    jid.JID   `json:"account"`
	Disabled   bool      `json:"disabled"`
	Created    time.Time `json:"created"`
	Mechanisms []string  `json:"mechanisms"` // with which the password can be proved
	Sessions   int       `json:"sessions"`   // bound now
}

// SessionInfo is what session.list tells of a session.
type SessionInfo struct {
	JID       jid.JID   `json:"jid"`
	Since     time.Time `json:"since"`
	Available bool      `json:"available"`
	Priority  int       `json:"priority"`
	Show      string    `json:"show,omitempty"` // RFC 6121 section 4.7.2.1
}

// KickRequest is the argument of session.kick.
type KickRequest struct {
	// JID is a session, or an account for all its sessions.
	JID jid.JID `json:"jid"`
}

// Kicked is the result of session.kick.
type Kicked struct {
	Ended int `json:"ended"` // sessions
}

// Verbs are what operators can do with accounts and sessions. What they do is durable, and the
// sessions that it ends have ended, when they return.
func Verbs(h *module.Host) map[string]module.Verb {
	o := operator{h}
	return map[string]module.Verb{
		"user.add":     verb("user add", o.add),
		"user.list":    verb("user list", o.list),
		"user.show":    verb("user show", o.show),
		"user.passwd":  verb("user passwd", o.passwd),
		"user.disable": verb("user disable", o.disable),
		"user.enable":  verb("user enable", o.enable),
		"user.delete":  verb("user delete", o.remove),
		"session.list": verb("session list", o.sessions),
		"session.kick": verb("session kick", o.kick),
	}
}

// verb reads the arguments of an operation, and names it in its errors.
func verb[Q, R any](name string, do func(context.Context, Q) (R, error)) module.Verb {
	return func(ctx context.Context, args []byte) (any, error) {
		var q Q
		if len(args) > 0 {
			if err := json.Unmarshal(args, &q); err != nil {
				return nil, fmt.Errorf("%s: arguments: %w", name, err)
			}
		}
		result, err := do(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return result, nil
	}
}

// done is the result of what has none.
type done struct{}

type operator struct{ host *module.Host }

func (o operator) add(ctx context.Context, q UserRequest) (done, error) {
	if err := isAccount(q.Account); err != nil {
		return done{}, err
	}
	if err := o.isOurs(q.Account.Domain()); err != nil {
		return done{}, err
	}
	if err := o.host.Accounts.Create(ctx, q.Account, q.Password); err != nil {
		return done{}, err
	}
	o.record(ctx, audit.AccountCreated, q.Account)
	return done{}, nil
}

// record notes what became of an account. It is on the disk no later than the record of the verb's
// outcome.
func (o operator) record(ctx context.Context, kind audit.Kind, account jid.JID) {
	actor := audit.ActorOf(ctx)
	o.host.Audit.Write(audit.Event{Kind: kind, Account: account.Bare().String(), By: actor.By, Remote: actor.Remote})
}

func (o operator) list(_ context.Context, q UserRequest) ([]UserInfo, error) {
	domain := ""
	if q.Domain != "" {
		server, err := jid.New("", q.Domain, "")
		if err != nil {
			return nil, err
		}
		domain = server.Domain()
		if err := o.isOurs(domain); err != nil {
			return nil, err
		}
	}
	bound := make(map[jid.JID]int)
	for u := range o.host.Users.Sessions() {
		bound[u.JID()]++
	}
	users := []UserInfo{}
	err := o.host.Store.View(func(tx storage.Tx) error {
		for account, err := range tx.Accounts().All(domain) {
			if err != nil {
				return err
			}
			users = append(users, describe(account, bound[account.JID]))
		}
		return nil
	})
	return users, err
}

func (o operator) show(_ context.Context, q UserRequest) (UserInfo, error) {
	if err := isAccount(q.Account); err != nil {
		return UserInfo{}, err
	}
	var account storage.Account
	err := o.host.Store.View(func(tx storage.Tx) (err error) {
		account, err = tx.Accounts().Get(q.Account)
		return err
	})
	if err != nil {
		return UserInfo{}, err
	}
	bound := 0
	err = o.host.Users.Do(q.Account, func(u *session.User) { bound = len(u.Bound()) })
	return describe(account, bound), err
}

func describe(account storage.Account, sessions int) UserInfo {
	mechanisms := make([]string, len(account.Credentials))
	for i, c := range account.Credentials {
		mechanisms[i] = c.Mechanism
	}
	return UserInfo{Account: account.JID, Disabled: account.Disabled, Created: account.Created,
		Mechanisms: mechanisms, Sessions: sessions}
}

// passwd logs out who had logged in with the old password.
func (o operator) passwd(ctx context.Context, q UserRequest) (done, error) {
	if err := isAccount(q.Account); err != nil {
		return done{}, err
	}
	if err := o.host.Accounts.SetPassword(ctx, q.Account, q.Password); err != nil {
		return done{}, err
	}
	if o.record(ctx, audit.PasswordChanged, q.Account); q.Keep {
		return done{}, nil
	}
	return done{}, o.endAll(q.Account, stanza.StreamNotAuthorized, "the password was changed")
}

func (o operator) disable(ctx context.Context, q UserRequest) (done, error) {
	if err := isAccount(q.Account); err != nil {
		return done{}, err
	}
	if err := o.host.Accounts.SetDisabled(ctx, q.Account, true); err != nil {
		return done{}, err
	}
	o.record(ctx, audit.AccountDisabled, q.Account)
	return done{}, o.endAll(q.Account, stanza.StreamNotAuthorized, "the account was disabled")
}

func (o operator) enable(ctx context.Context, q UserRequest) (done, error) {
	if err := isAccount(q.Account); err != nil {
		return done{}, err
	}
	if err := o.host.Accounts.SetDisabled(ctx, q.Account, false); err != nil {
		return done{}, err
	}
	o.record(ctx, audit.AccountEnabled, q.Account)
	return done{}, nil
}

func (o operator) remove(ctx context.Context, q UserRequest) (done, error) {
	if err := isAccount(q.Account); err != nil {
		return done{}, err
	}
	removed := make(chan error, 1)
	o.host.Users.Remove(q.Account, &stanza.StreamError{Condition: stanza.StreamNotAuthorized,
		Text: "the account was removed"}, func(err error) {
		if err == nil {
			o.record(ctx, audit.AccountRemoved, q.Account)
		}
		removed <- err
	})
	select {
	case err := <-removed:
		return done{}, err
	case <-ctx.Done():
		return done{}, ctx.Err()
	}
}

func (o operator) endAll(account jid.JID, condition, text string) error {
	return o.host.Users.EndAll(account, &stanza.StreamError{Condition: condition, Text: text}, nil)
}

func (o operator) sessions(_ context.Context, q UserRequest) ([]SessionInfo, error) {
	list := []SessionInfo{}
	for u, s := range o.host.Users.Sessions() {
		if q.Account.IsZero() || u.JID() == q.Account.Bare() {
			list = append(list, SessionInfo{JID: s.JID(), Since: s.Since(), Available: s.Available(),
				Priority: s.Priority(), Show: s.Presence().Element.Child("show", ns.Client).Text()})
		}
	}
	slices.SortFunc(list, func(a, b SessionInfo) int { return jid.Compare(a.JID, b.JID) })
	return list, nil
}

// kick ends sessions; their users may log in again.
func (o operator) kick(_ context.Context, q KickRequest) (Kicked, error) {
	if q.JID.Local() == "" {
		return Kicked{}, errors.New("the JID of a session or an account is needed")
	}
	ended := 0
	err := o.host.Users.EndAll(q.JID.Bare(), &stanza.StreamError{Condition: stanza.StreamPolicyViolation,
		Text: "the session was ended by an operator"},
		func(s *session.Session) bool {
			if !q.JID.IsBare() && s.JID() != q.JID {
				return true
			}
			ended++
			return false
		})
	if err == nil && ended == 0 {
		err = fmt.Errorf("%s: no such session", q.JID)
	}
	return Kicked{ended}, err
}

func isAccount(account jid.JID) error {
	if !account.IsAccount() {
		return fmt.Errorf("account %q: write user@domain", account)
	}
	return nil
}

func (o operator) isOurs(domain string) error {
	if o.host.IsLocal(domain) {
		return nil
	}
	var ours []string
	for _, d := range o.host.Domains() {
		ours = append(ours, d.Name)
	}
	return fmt.Errorf("%s is not a domain of this server, which serves %s", domain, strings.Join(ours, ", "))
}
