package mem

import (
	"fmt"
	"slices"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

type archive struct{ *txn }

func (a archive) Page(owner jid.JID, q storage.ArchiveQuery) (storage.ArchivePage, error) {
	owner = owner.Bare()
	all := a.archives[owner]
	for _, id := range append([]uint64{q.AfterID, q.BeforeID, q.After, q.Before}, q.IDs...) {
		if _, found := slices.BinarySearchFunc(all, id, byNumber); !found && id != 0 {
			return storage.ArchivePage{}, fmt.Errorf("message %d of the archive of %s: %w", id, owner, storage.ErrNotFound)
		}
	}
	var selection []storage.ArchivedMessage
	for _, r := range all {
		if m := a.message(owner, r); selected(m, q) {
			selection = append(selection, m)
		}
	}
	page := storage.ArchivePage{Messages: selection, Count: len(selection)}
	beyond := func(m storage.ArchivedMessage) bool { return m.ID <= q.After }
	if q.Backwards {
		beyond = func(m storage.ArchivedMessage) bool { return q.Before != 0 && m.ID >= q.Before }
	}
	page.Messages = slices.DeleteFunc(slices.Clone(selection), beyond)
	if page.Complete = q.Max <= 0 || len(page.Messages) <= q.Max; !page.Complete {
		if q.Backwards {
			page.Messages = page.Messages[len(page.Messages)-q.Max:]
		} else {
			page.Messages = page.Messages[:q.Max]
		}
	}
	if len(page.Messages) == 0 {
		page.Messages = nil
	} else {
		page.Index = slices.Index(selection, page.Messages[0])
	}
	return page, nil
}

func (a archive) message(owner jid.JID, r ref) storage.ArchivedMessage {
	m := a.txn.messages[r.row]
	kept := storage.ArchivedMessage{ID: r.number, At: m.at, Stanza: m.stanza}
	for _, archived := range m.archived {
		if archived.Owner == owner {
			kept.With = archived.With
		}
	}
	return kept
}

func selected(m storage.ArchivedMessage, q storage.ArchiveQuery) bool {
	switch {
	case q.IDs != nil:
		return slices.Contains(q.IDs, m.ID)
	case q.AfterID != 0 && m.ID <= q.AfterID, q.BeforeID != 0 && m.ID >= q.BeforeID:
	case !q.Start.IsZero() && m.At.Before(q.Start), !q.End.IsZero() && m.At.After(q.End):
	case q.With.IsZero(), q.With == m.With, q.With == m.With.Bare():
		return true
	}
	return false
}

func (a archive) Bounds(owner jid.JID) (oldest, newest storage.ArchivedMessage, err error) {
	owner = owner.Bare()
	all := a.archives[owner]
	if len(all) == 0 {
		return oldest, newest, fmt.Errorf("archive of %s is empty: %w", owner, storage.ErrNotFound)
	}
	return a.message(owner, all[0]), a.message(owner, all[len(all)-1]), nil
}

func (a archive) LastID() (uint64, error) { return a.last[lastID], nil }

func (a archive) Purge(owner jid.JID, before time.Time, limit int) (int, error) {
	owner = owner.Bare()
	purged := 0
	err := a.purge(owner, func(r ref) bool {
		if purged == limit || !a.txn.messages[r.row].at.Before(before) {
			return false
		}
		purged++
		return true
	})
	if err != nil {
		return 0, fmt.Errorf("purge archive of %s: %w", owner, err)
	}
	return purged, nil
}

func (tx *txn) eraseArchive(account jid.JID) error {
	return tx.purge(account, func(ref) bool { return true })
}

// purge removes what is gone from an archive.
func (tx *txn) purge(owner jid.JID, gone func(ref) bool) error {
	if !tx.writable {
		return storage.ErrReadOnly
	}
	var left []ref
	for _, r := range tx.archives[owner] {
		if !gone(r) {
			left = append(left, r)
			continue
		}
		m := tx.messages[r.row]
		m.archived = slices.DeleteFunc(slices.Clone(m.archived), func(a storage.Archived) bool {
			return a.Owner == owner && a.ID == r.number
		})
		if err := tx.keep(r.row, m); err != nil {
			return err
		}
	}
	if len(left) == 0 {
		return remove(tx, tx.archives, owner)
	}
	return put(tx, tx.archives, owner, left)
}

func (a archive) Stats(owner jid.JID) (storage.ArchiveStats, error) {
	all := a.archives[owner.Bare()]
	stats := storage.ArchiveStats{Messages: len(all)}
	if len(all) > 0 {
		stats.Oldest = a.txn.messages[all[0].row].at
		stats.Newest = a.txn.messages[all[len(all)-1].row].at
	}
	return stats, nil
}
