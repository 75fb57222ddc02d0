package bolt

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

type archive struct{ *txn }

// A posting says where in messages a message of an archive is.
type posting struct {
	id, number uint64
}

func (a archive) Page(owner jid.JID, q storage.ArchiveQuery) (storage.ArchivePage, error) {
	archive, all, err := a.all(owner)
	if err != nil {
		return storage.ArchivePage{}, err
	}
	for _, id := range append([]uint64{q.AfterID, q.BeforeID, q.After, q.Before}, q.IDs...) {
		if _, found := search(all, id); !found && id != 0 {
			return storage.ArchivePage{}, fmt.Errorf("message %d of the archive of %s: %w", id, owner, storage.ErrNotFound)
		}
	}
	var selection []storage.ArchivedMessage
	for _, p := range all {
		m, err := a.archived(archive, p)
		if err != nil {
			return storage.ArchivePage{}, err
		}
		if selected(m, q) {
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

func search(list []posting, id uint64) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(p posting, id uint64) int { return cmp.Compare(p.id, id) })
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

// archived reads a message as an archive has it.
func (a archive) archived(archive uint64, p posting) (m storage.ArchivedMessage, err error) {
	row, err := a.message(p.number)
	if err != nil {
		return m, err
	}
	m = storage.ArchivedMessage{ID: p.id, At: row.at, Stanza: row.stanza}
	for _, place := range row.places {
		if place.archive == archive && place.id == p.id {
			m.With, err = jid.Parse(place.with)
		}
	}
	return m, err
}

func (a archive) Bounds(owner jid.JID) (oldest, newest storage.ArchivedMessage, err error) {
	archive, all, err := a.all(owner)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("archive of %s is empty: %w", owner, storage.ErrNotFound)
	}
	if err == nil {
		oldest, err = a.archived(archive, all[0])
	}
	if err == nil {
		newest, err = a.archived(archive, all[len(all)-1])
	}
	return oldest, newest, err
}

func (a archive) LastID() (uint64, error) {
	value := a.get(inMarks, []byte("last id"))
	if value == nil {
		return 0, nil
	}
	return decodeNumber(value)
}

func (a archive) Purge(owner jid.JID, before time.Time, limit int) (int, error) {
	if !a.writable {
		return 0, storage.ErrReadOnly
	}
	archive, all, err := a.all(owner)
	if err != nil {
		return 0, err
	}
	purged := 0
	for _, p := range all {
		if purged == limit {
			break
		}
		m, err := a.archived(archive, p)
		if err != nil {
			return 0, err
		}
		if !m.At.Before(before) {
			continue
		}
		if err := a.leave(archive, p); err != nil {
			return 0, fmt.Errorf("purge archive of %s: %w", owner, err)
		}
		purged++
	}
	return purged, nil
}

func (a archive) Stats(owner jid.JID) (storage.ArchiveStats, error) {
	archive, all, err := a.all(owner)
	stats := storage.ArchiveStats{Messages: len(all)}
	if err != nil || len(all) == 0 {
		return stats, err
	}
	oldest, err := a.archived(archive, all[0])
	if err != nil {
		return stats, err
	}
	newest, err := a.archived(archive, all[len(all)-1])
	stats.Oldest, stats.Newest = oldest.At, newest.At
	return stats, err
}

func (a archive) all(owner jid.JID) (archive uint64, list []posting, err error) {
	if archive, err = a.archiveOf(ownerKey(owner)); err == nil && archive != 0 {
		list, err = a.postings(archive)
	}
	return archive, list, err
}

// retire removes the archive of an owner.
func (t *txn) retire(owner []byte) error {
	archive, err := t.archiveOf(owner)
	if err != nil || archive == 0 {
		return err
	}
	list, err := t.postings(archive)
	if err != nil {
		return err
	}
	for _, p := range list {
		if err := t.leave(archive, p); err != nil {
			return err
		}
	}
	if err := t.delete(inArchives, owner); err != nil {
		return err
	}
	return t.delete(inOwners, key(archive))
}

// leave removes a message from an archive.
func (t *txn) leave(archive uint64, p posting) error {
	m, err := t.message(p.number)
	if err != nil {
		return err
	}
	m.places = slices.DeleteFunc(m.places, func(place place) bool { return place.archive == archive && place.id == p.id })
	if err := t.put(inMessages, key(p.number), m.encode()); err != nil {
		return err
	}
	return t.release(p.number)
}

// has says whether an archive has a message still.
func (t *txn) has(p place, number uint64) (bool, error) {
	return t.get(inOwners, key(p.archive)) != nil, nil
}

// idIn is the id of a message in an archive, 0 if it is not there.
func (t *txn) idIn(archive, number uint64, places []place) (uint64, error) {
	for _, p := range places {
		if p.archive == archive {
			if has, err := t.has(p, number); has || err != nil {
				return p.id, err
			}
		}
	}
	return 0, nil
}

// find is the number of a message in an archive.
func (t *txn) find(archive, id uint64) (number uint64, err error) {
	list, err := t.postings(archive)
	if err != nil {
		return 0, err
	}
	i, found := search(list, id)
	if !found {
		return 0, storage.ErrNotFound
	}
	return list[i].number, nil
}

// postings are those of an archive, by id.
func (t *txn) postings(archive uint64) (list []posting, err error) {
	for k, value := range t.scan(inMessages, nil, nil) {
		m, err := peekMessage(value)
		if err != nil {
			return nil, damaged(inMessages, k, err)
		}
		for _, p := range m.places {
			if p.archive == archive {
				list = append(list, posting{p.id, binary.BigEndian.Uint64(k)})
			}
		}
	}
	slices.SortFunc(list, func(a, b posting) int { return cmp.Compare(a.id, b.id) })
	return list, nil
}
