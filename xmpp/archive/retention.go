package archive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
)

// Old messages are removed a step at a time, with rests between the steps, so that nobody waits for it.
const (
	purgeStep = 200
	purgeRest = 20 * time.Millisecond
	purgeDay  = 24 * time.Hour
)

// retentionKey is the document in which an account's own retention is kept, retention its name.
const (
	retentionKey = "archive retention"
	retention    = "retention"
)

// retain removes what is too old, now and every day.
func (a *Archive) retain(ctx context.Context) error {
	for {
		if err := a.purgeAll(ctx); err != nil && ctx.Err() == nil {
			a.host.Log.Error("old messages could not be removed; this is tried again tomorrow", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(purgeDay):
		}
	}
}

// purgeAll goes through the archives of all accounts.
func (a *Archive) purgeAll(ctx context.Context) error {
	all, err := a.accounts("")
	if err != nil {
		return err
	}
	total := 0
	for _, owner := range all {
		if ctx.Err() != nil {
			return nil
		}
		kept, _, err := a.retention(owner)
		if err != nil {
			return err
		}
		if kept == 0 {
			continue
		}
		n, err := a.purge(ctx, owner, a.host.Now().Add(-kept))
		if err != nil {
			return fmt.Errorf("archive of %s: %w", owner, err)
		}
		total += n
	}
	if total > 0 {
		a.host.Log.Info("old messages removed", "messages", total)
	}
	return nil
}

func (a *Archive) accounts(domain string) (all []jid.JID, err error) {
	err = a.host.Store.View(func(tx storage.Tx) error {
		all = nil
		for account, err := range tx.Accounts().All(domain) {
			if err != nil {
				return err
			}
			all = append(all, account.JID)
		}
		return nil
	})
	return all, err
}

// purge removes what is older than a time from an archive, and says how many messages that were. They are not always
// those of the lowest ids: the clock may have been wrong.
func (a *Archive) purge(ctx context.Context, owner jid.JID, before time.Time) (total int, err error) {
	for ctx.Err() == nil {
		old := false
		err := a.host.Store.View(func(tx storage.Tx) error {
			page, err := tx.Archive().Page(owner, storage.ArchiveQuery{End: before.Add(-1), Max: 1})
			old = len(page.Messages) > 0
			return err
		})
		if err != nil {
			return total, err
		}
		if !old {
			break
		}
		n := 0
		err = a.host.Store.Submit(func(tx storage.Tx) (err error) {
			n, err = tx.Archive().Purge(owner, before, purgeStep)
			return err
		}).Wait(ctx)
		if err != nil {
			return total, err
		}
		if total += n; n < purgeStep {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(purgeRest):
		}
	}
	if total > 0 {
		err = a.shorten(owner, before)
	}
	return total, err
}

// shorten brings what is in memory of an archive in line with the store after a purge. What came since may
// not be on disk yet; then this waits for it.
func (a *Archive) shorten(owner jid.JID, before time.Time) error {
	for {
		if err := a.host.Journal.Barrier(); err != nil {
			return err
		}
		var oldest, newest mark
		err := a.host.Store.View(func(tx storage.Tx) (err error) {
			oldest, newest, err = readBounds(tx, owner)
			return err
		})
		if err != nil {
			return err
		}
		again := false
		err = a.host.Users.Do(owner, func(u *session.User) {
			b := a.boxes.Get(u)
			if oldest.id == 0 && !b.newest.at.Before(before) {
				again = true
				return
			}
			b.oldest = oldest
			if b.newest.at.Before(before) {
				b.newest = newest
			}
		})
		if errors.Is(err, storage.ErrNotFound) { // the account is gone
			return nil
		}
		if err != nil || !again {
			return err
		}
	}
}

// retention is how long an account's messages are kept, 0: for good; own says that the account has a
// retention of its own.
func (a *Archive) retention(owner jid.JID) (kept time.Duration, own bool, err error) {
	var document string
	err = a.host.Store.View(func(tx storage.Tx) (err error) {
		document, err = tx.Settings().Get(owner, retentionKey)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return a.options.Retention(owner.Domain()), false, nil
	}
	var e element.Element
	if err == nil {
		e, err = element.ParseOne(document, ns.Client)
	}
	if err == nil {
		kept, err = time.ParseDuration(e.Text())
	}
	if err != nil {
		return 0, false, fmt.Errorf("retention of %s: %w", owner, err)
	}
	return kept, true, nil
}

// setRetention gives an account a retention of its own, or with nil that of its domain.
func (a *Archive) setRetention(ctx context.Context, owner jid.JID, kept *time.Duration) error {
	document := ""
	if kept != nil {
		document = element.Leaf(retention, ns.MAM, kept.String()).String()
	}
	return a.host.Store.Submit(func(tx storage.Tx) error {
		if _, err := tx.Accounts().Get(owner); err != nil {
			return err
		}
		return tx.Settings().Put(owner, retentionKey, document, 0)
	}).Wait(ctx)
}
