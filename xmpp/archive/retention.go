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

// purgeAll goes through the archives of all accounts. One that fails does not keep the others; the error is
// that of the first.
func (a *Archive) purgeAll(ctx context.Context) error {
	all, err := a.accounts("")
	if err != nil {
		return err
	}
	total, failed := 0, 0
	var first error
	for _, owner := range all {
		n, err := a.purgeOld(ctx, owner)
		total += n
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, storage.ErrClosed) {
			return err
		}
		if err != nil {
			if failed++; failed == 1 {
				first = fmt.Errorf("archive of %s: %w", owner, err)
			}
		}
	}
	if total > 0 {
		a.host.Log.Info("old messages removed", "messages", total)
	}
	if failed > 1 {
		return fmt.Errorf("%d archives, the first: %w", failed, first)
	}
	return first
}

// purgeOld removes what an account's retention does not keep.
func (a *Archive) purgeOld(ctx context.Context, owner jid.JID) (int, error) {
	kept, _, err := a.retention(owner)
	if err != nil || kept == 0 {
		return 0, err
	}
	return a.purge(ctx, owner, a.host.Now().Add(-kept))
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
		err = a.shorten(ctx, owner)
	}
	return total, err
}

// shorten brings what is in memory of an archive in line with the store after a purge. What has got an id by then is
// on disk when it is read, or could not be written and never will be; what gets one later is the newest.
func (a *Archive) shorten(ctx context.Context, owner jid.JID) error {
	for again := true; again; {
		horizon, err := a.settled(ctx, owner)
		var oldest, newest mark
		if err == nil {
			err = a.host.Store.View(func(tx storage.Tx) (err error) {
				oldest, newest, err = readBounds(tx, owner)
				return err
			})
		}
		if err == nil {
			err = a.host.Users.Do(owner, func(u *session.User) {
				b := a.boxes.Get(u)
				since := b.newest.id > horizon
				if again = since && oldest.id == 0; again {
					return // what came since may be all that there is
				}
				b.oldest = oldest
				if !since {
					b.newest = newest
				}
			})
		}
		if errors.Is(err, storage.ErrNotFound) { // the account is gone
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settled waits until all that is to enter an archive so far is on disk, or known not to be, and returns the
// newest id of that. What a user says has its id first and is submitted by the effects that follow.
func (a *Archive) settled(ctx context.Context, owner jid.JID) (horizon uint64, err error) {
	submitted := make(chan struct{})
	err = a.host.Users.Do(owner, func(u *session.User) {
		horizon = a.host.Journal.Last()
		u.After(func() { close(submitted) })
	})
	if err != nil {
		return 0, err
	}
	select {
	case <-submitted:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return horizon, a.host.Journal.Barrier()
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
