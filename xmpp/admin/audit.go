package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strings"

	"tombolo/xmpp/audit"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
)

// reading are the last parts of the names of verbs that change nothing. A call of any other verb is
// recorded, so that one with a new name is recorded until somebody says otherwise.
var reading = []string{"list", "show", "status", "check"}

// Audited makes verbs that change something leave records: one before, without which nothing is done,
// and one of the outcome. Both are on the disk when the verb returns.
func Audited(verbs map[string]module.Verb, log *audit.Log) map[string]module.Verb {
	audited := maps.Clone(verbs)
	for name, verb := range verbs {
		if !slices.Contains(reading, strings.TrimPrefix(path.Ext(name), ".")) {
			audited[name] = recorded(name, verb, log)
		}
	}
	return audited
}

func recorded(name string, verb module.Verb, log *audit.Log) module.Verb {
	return func(ctx context.Context, args []byte) (any, error) {
		actor := audit.ActorOf(ctx)
		record := named(args).event(name)
		record.By, record.Remote, record.Kind = actor.By, actor.Remote, audit.Admin
		if err := log.WriteSync(ctx, record); err != nil {
			return nil, fmt.Errorf("nothing was done, because it cannot be recorded: %w", err)
		}
		result, err := verb(ctx, args)
		if record.Kind = audit.AdminDone; err != nil {
			record.Kind = audit.AdminFailed
		}
		// What was done stays done, and its record must not depend on a caller who waits no more.
		if recordErr := log.WriteSync(context.WithoutCancel(ctx), record); recordErr != nil && err == nil {
			return nil, fmt.Errorf("it was done, but the outcome cannot be recorded: %w", recordErr)
		}
		return result, err
	}
}

// An object is what the arguments of a verb say of whom it concerns. Nothing else of them is
// recorded: it may be a password. The decoder is the verbs' own, so that no spelling of a name means
// one thing to a verb and another one here.
type object struct {
	Account string `json:"account"`
	JID     string `json:"jid"`
	Contact string `json:"contact"`
	ID      string `json:"id"` // of a client
	Domain  string `json:"domain"`
	With    string `json:"with"`   // whose messages were read
	Before  string `json:"before"` // of messages that were removed
}

func named(args []byte) (o object) {
	_ = json.Unmarshal(args, &o) // a mistake elsewhere in the arguments is for the verb to find
	return o
}

func (o object) event(verb string) audit.Event {
	e := audit.Event{Account: o.Account, Detail: map[string]string{"verb": verb}}
	for name, value := range map[string]string{"jid": o.JID, "contact": o.Contact, "id": o.ID, "domain": o.Domain, "with": o.With, "before": o.Before} {
		if value != "" {
			e.Detail[name] = value
		}
	}
	if e.Account == "" {
		e.Account = o.JID
	}
	if j, err := jid.Parse(e.Account); err == nil {
		e.Account = j.Bare().String()
	}
	return e
}

// caller notes on whose behalf the calls of a connection are made.
func caller(ctx context.Context, c net.Conn) context.Context {
	by := "an unknown user"
	if uid, err := peerUser(c); err == nil {
		by = audit.User(uid)
	}
	return audit.WithActor(ctx, audit.Actor{By: by, Remote: "admin socket"})
}
