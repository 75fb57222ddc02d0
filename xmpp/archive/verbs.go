package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
)

// Request is the argument of the verbs of archives.
type Request struct {
	Account jid.JID `json:"account"`
	// Of archive.stats, where there is no account; none: all.
	Domain string `json:"domain,omitempty"`

	// Of archive.read: what with whom, from when to when, and how many of the newest; 0: 50.
	With  jid.JID   `json:"with,omitzero"`
	Start time.Time `json:"start,omitzero"`
	End   time.Time `json:"end,omitzero"`
	Limit int       `json:"limit,omitempty"`

	// Of archive.purge: what is older than that.
	Before time.Time `json:"before,omitzero"`

	// Of archive.retain: seconds, 0 for good; absent: that of the domain.
	Retention *int64 `json:"retention,omitempty"`
}

// Message is what archive.read tells of one message.
type Message struct {
	ID     string    `json:"id"`
	At     time.Time `json:"at"`
	From   string    `json:"from"`
	To     string    `json:"to"`
	Body   string    `json:"body,omitempty"`
	Stanza string    `json:"stanza"`
}

// Stats are what archive.stats tells of one archive.
type Stats struct {
	Account     jid.JID   `json:"account"`
	Messages    int       `json:"messages"`
	Oldest      time.Time `json:"oldest,omitzero"`
	Newest      time.Time `json:"newest,omitzero"`
	Retention   int64     `json:"retention"` // seconds; 0: for good
	Own         bool      `json:"own"`       // the retention is the account's own
	Preferences string    `json:"preferences"`
}

// Purged is the result of archive.purge.
type Purged struct {
	Messages int `json:"messages"`
}

// maxRead bounds archive.read.
const maxRead = 1000

// verbs are the operator's. The name of archive.read is not one of those that leave no trace in the audit
// log: who reads what others wrote is recorded.
func (a *Archive) verbs() map[string]module.Verb {
	return map[string]module.Verb{
		"archive.read":   verb("archive read", a.verbRead),
		"archive.purge":  verb("archive purge", a.verbPurge),
		"archive.retain": verb("archive retain", a.verbRetain),
		"archive.stats":  verb("archive stats", a.verbStats),
	}
}

func verb[Result any](name string, do func(context.Context, Request) (Result, error)) module.Verb {
	return func(ctx context.Context, args []byte) (any, error) {
		var q Request
		err := json.Unmarshal(args, &q)
		var result Result
		if err == nil {
			result, err = do(ctx, q)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return result, nil
	}
}

// exists demands that a request names an account that there is.
func (a *Archive) exists(q Request) error {
	if !q.Account.IsAccount() {
		return fmt.Errorf("account %q: write user@domain", q.Account)
	}
	return a.host.Store.View(func(tx storage.Tx) error {
		_, err := tx.Accounts().Get(q.Account)
		return err
	})
}

func (a *Archive) verbRead(_ context.Context, q Request) ([]Message, error) {
	if err := a.exists(q); err != nil {
		return nil, err
	}
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	r := request{max: min(q.Limit, maxRead)}
	r.With, r.Start, r.End, r.Backwards = q.With, q.Start, q.End, true
	horizon := a.host.Journal.Last()
	list := []Message{} // newest first, until all are there
	for r.max > 0 {     // a page has as many bytes as clients get at once
		page, err := a.read(q.Account, r, horizon)
		if err != nil {
			return nil, err
		}
		for _, m := range slices.Backward(page.messages) {
			e, err := element.ParseOne(m.Stanza, ns.Client)
			if err != nil {
				return nil, err
			}
			list = append(list, Message{ID: a.host.Journal.StanzaID(q.Account, m.ID), At: m.At, From: e.Attr("from"), To: e.Attr("to"),
				Body: e.Child("body", ns.Client).Text(), Stanza: m.Stanza})
			r.Before = m.ID
		}
		if r.max -= len(page.messages); page.complete || len(page.messages) == 0 {
			break
		}
	}
	slices.Reverse(list)
	return list, nil
}

func (a *Archive) verbPurge(ctx context.Context, q Request) (p Purged, err error) {
	if q.Before.IsZero() {
		return p, errors.New("before is missing: what is older than that is removed")
	}
	if err := a.exists(q); err != nil {
		return p, err
	}
	if _, err := a.settled(ctx, q.Account); err != nil { // what is on its way to the store is older, too
		return p, err
	}
	p.Messages, err = a.purge(ctx, q.Account, q.Before)
	return p, err
}

func (a *Archive) verbRetain(ctx context.Context, q Request) (any, error) {
	if err := a.exists(q); err != nil {
		return nil, err
	}
	if q.Retention == nil {
		return nil, a.setRetention(ctx, q.Account, nil)
	}
	kept := time.Duration(*q.Retention) * time.Second
	if *q.Retention < 0 || kept < 0 || kept/time.Second != time.Duration(*q.Retention) {
		return nil, fmt.Errorf("%d is not a number of seconds", *q.Retention)
	}
	return nil, a.setRetention(ctx, q.Account, &kept)
}

func (a *Archive) verbStats(_ context.Context, q Request) ([]Stats, error) {
	all := []jid.JID{q.Account}
	var err error
	if q.Account.IsZero() {
		all, err = a.accounts(q.Domain)
	} else {
		err = a.exists(q)
	}
	if err != nil {
		return nil, err
	}
	list := make([]Stats, 0, len(all))
	for _, account := range all {
		s := Stats{Account: account}
		err := a.host.Store.View(func(tx storage.Tx) error {
			stats, err := tx.Archive().Stats(account)
			if err != nil {
				return err
			}
			s.Messages, s.Oldest, s.Newest = stats.Messages, stats.Oldest, stats.Newest
			p, err := readPreferences(tx, account)
			if err == nil {
				s.Preferences = p.rule
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		kept, own, err := a.retention(account)
		if err != nil {
			return nil, err
		}
		s.Retention, s.Own = int64(kept/time.Second), own
		list = append(list, s)
	}
	return list, nil
}
