package xep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/audit"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// ClientRequest is the argument of client.list (Account) and client.revoke (Account, ID).
type ClientRequest struct {
	Account jid.JID `json:"account"`
	ID      string  `json:"id,omitempty"`
}

// ClientInfo is what client.list tells of one client of an account.
type ClientInfo struct {
	ID        string    `json:"id"`
	Software  string    `json:"software,omitempty"` // as it calls itself
	Device    string    `json:"device,omitempty"`
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"` // it logged in
	Mechanism string    `json:"mechanism,omitempty"`
	Address   string    `json:"address,omitempty"` // that it came from, if that is kept
	Password  bool      `json:"password"`          // it has used the password that the account has now
	Token     bool      `json:"token"`             // it can log in without one
	Connected bool      `json:"connected"`
}

// Revoked is the result of client.revoke.
type Revoked struct {
	// Password says that the client knows the account's password and can come back with it.
	Password bool `json:"password"`
}

type clientAccess struct{ host *module.Host }

// clientAccessManagement lets a user, and an operator, see the clients that may log in to an account,
// and revoke that.
func clientAccessManagement(h *module.Host) (module.Feature, error) {
	c := &clientAccess{h}
	return module.Feature{
		Info: module.Info{Spec: "XEP-0494", Name: "Client Access Management", Version: "0.1.0", Status: "complete"},
		IQ: []module.IQ{
			{Name: "list", NS: ns.ClientAccess, Get: true, Scope: module.ToSelf, Handle: c.answerList},
			{Name: "revoke", NS: ns.ClientAccess, Set: true, Scope: module.ToSelf, Handle: c.answerRevoke},
		},
		Verbs: map[string]module.Verb{"client.list": c.verbList, "client.revoke": c.verbRevoke},
	}, nil
}

// list are the clients of an account that have said who they are (XEP-0388 section 2.3), and for the
// others their sessions, which is all that is known of them. These have used the password: a token is good
// only for a client that says who it is.
func (c *clientAccess) list(account jid.JID) ([]ClientInfo, error) {
	known, err := c.host.Accounts.Clients(account)
	if err != nil {
		return nil, err
	}
	list := []ClientInfo{}
	for _, k := range known {
		list = append(list, ClientInfo{
			ID: k.ID, Software: k.Software, Device: k.Device, FirstSeen: k.FirstSeen, LastSeen: k.LastSeen,
			Mechanism: k.Mechanism, Address: k.Address, Password: k.Password, Token: !k.Token.IsZero(),
		})
	}
	err = c.host.Users.Do(account, func(u *session.User) {
		for _, s := range u.Bound() {
			i := slices.IndexFunc(list, func(i ClientInfo) bool { return i.ID == installation(s) })
			if i < 0 {
				list = append(list, ClientInfo{ID: installation(s), FirstSeen: s.Since(), LastSeen: s.Since(), Password: true})
				i = len(list) - 1
			}
			list[i].Connected = true
		}
	})
	return list, err
}

// installation names the client of a session.
func installation(s *session.Session) string {
	if s.Client() != "" {
		return s.Client()
	}
	return anonymous + s.JID().Resource()
}

// anonymous begins the names of clients that have none of their own; no UUID has it.
const anonymous = "session:"

// revoke ends the tokens of a client. One that knows the password can come back; then the error is
// auth.ErrPassword. Its sessions are left for end.
func (c *clientAccess) revoke(ctx context.Context, account jid.JID, id string) error {
	err := c.host.Accounts.Revoke(ctx, account, id)
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	bound := false
	if doErr := c.host.Users.Do(account, func(u *session.User) {
		bound = slices.ContainsFunc(u.Bound(), func(s *session.Session) bool { return installation(s) == id })
	}); doErr != nil {
		return doErr
	}
	if bound { // nothing is known of it but that it logged in
		return auth.ErrPassword
	}
	return err
}

// end records what revoke did, and ends the sessions of the client, also one that it is about to bind.
func (c *clientAccess) end(account jid.JID, id string, by audit.Actor) error {
	c.host.Audit.Write(audit.Event{Kind: audit.ClientRevoked, Account: account.String(), By: by.By, Remote: by.Remote,
		Detail: map[string]string{"id": id}})
	return c.host.Users.EndAll(account, &stanza.StreamError{Condition: stanza.StreamNotAuthorized,
		Text: "the client's access was revoked"},
		func(s *session.Session) bool { return installation(s) != id })
}

func (c *clientAccess) answerList(q *module.Query) {
	list, err := c.list(q.Target)
	if err != nil {
		q.Fail(storeError(err))
		return
	}
	w := element.Start("clients", ns.ClientAccess)
	for _, i := range list {
		w.Open("client", ns.ClientAccess).Attr("id", i.ID).Attr("type", "session").Attr("connected", fmt.Sprint(i.Connected))
		w.Leaf("first-seen", ns.ClientAccess, dateTime(i.FirstSeen)).Leaf("last-seen", ns.ClientAccess, dateTime(i.LastSeen))
		w.Open("auth", ns.ClientAccess)
		if i.Password {
			w.Leaf("password", ns.ClientAccess, "")
		}
		if i.Token {
			w.Leaf("fast", ns.ClientAccess, "")
		}
		w.Close().Open("permission", ns.ClientAccess).Attr("status", "unrestricted").Close()
		w.Open("user-agent", ns.ClientAccess)
		if i.Software != "" {
			w.Leaf("software", ns.ClientAccess, i.Software)
		}
		if i.Device != "" {
			w.Leaf("device", ns.ClientAccess, i.Device)
		}
		w.Close().Close()
	}
	q.Result(w.Element())
}

func dateTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// answerRevoke answers before it ends sessions: the client that asks may be the one.
func (c *clientAccess) answerRevoke(q *module.Query) {
	id := q.Payload().Attr("id")
	if id == "" {
		q.Fail(stanza.BadRequest("which client?"))
		return
	}
	go func() { // the store must not hold up the stream
		err := c.revoke(context.Background(), q.Target, id)
		switch {
		case err == nil:
			q.Result()
		case errors.Is(err, auth.ErrPassword):
			q.Fail(stanza.ServiceUnavailable("the client knows the password").
				WithApp(element.Leaf("password-reset-required", ns.ClientAccess, "")))
		default:
			q.Fail(storeError(err))
			return
		}
		if err := c.end(q.Target, id, audit.Actor{By: q.From.String()}); err != nil && !errors.Is(err, storage.ErrNotFound) {
			c.host.Log.Error("sessions of a revoked client could not be ended", "account", q.Target, "err", err)
		}
	}()
}

func (c *clientAccess) verbList(_ context.Context, args []byte) (any, error) {
	q, err := readClientRequest(args)
	if err != nil {
		return nil, err
	}
	list, err := c.list(q.Account)
	if err != nil {
		return nil, fmt.Errorf("client list: %w", err)
	}
	return list, nil
}

func (c *clientAccess) verbRevoke(ctx context.Context, args []byte) (any, error) {
	q, err := readClientRequest(args)
	if err != nil {
		return nil, err
	}
	err = c.revoke(ctx, q.Account, q.ID)
	revoked := Revoked{Password: errors.Is(err, auth.ErrPassword)}
	if err == nil || revoked.Password {
		err = c.end(q.Account, q.ID, audit.ActorOf(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("client revoke: %w", err)
	}
	return revoked, nil
}

func readClientRequest(args []byte) (q ClientRequest, err error) {
	if err := json.Unmarshal(args, &q); err != nil {
		return q, fmt.Errorf("client: arguments: %w", err)
	}
	if !q.Account.IsAccount() {
		return q, fmt.Errorf("account %q: write user@domain", q.Account)
	}
	return q, nil
}
