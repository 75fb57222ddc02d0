package bolt

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

type archive struct{ *txn }

func (a archive) Page(owner jid.JID, q storage.ArchiveQuery) (storage.ArchivePage, error) {
	page, err := a.page(owner, q)
	if err != nil {
		return storage.ArchivePage{}, fmt.Errorf("page of the archive of %s: %w", owner, err)
	}
	return page, nil
}

func (a archive) page(owner jid.JID, q storage.ArchiveQuery) (page storage.ArchivePage, err error) {
	v, err := a.view(owner)
	if err != nil {
		return page, err
	}
	for _, id := range append([]uint64{q.AfterID, q.BeforeID, q.After, q.Before}, q.IDs...) {
		if id == 0 {
			continue
		}
		if _, found, err := v.find(id); err != nil {
			return page, err
		} else if !found {
			return page, fmt.Errorf("message %d: %w", id, storage.ErrNotFound)
		}
	}
	sel := selection{view: v, after: q.AfterID, before: q.BeforeID - 1, with: q.With, start: q.Start, end: q.End}
	if q.IDs != nil {
		sel = selection{view: v, before: math.MaxUint64, ids: append([]uint64{0}, q.IDs...)}
		slices.Sort(sel.ids)
	}
	part := sel
	if q.Backwards {
		part.before = min(part.before, q.Before-1)
	} else {
		part.after = max(part.after, q.After)
	}
	page.Complete = true
	for m, err := range part.messages(q.Backwards) {
		if err != nil {
			return page, err
		}
		if q.Max > 0 && len(page.Messages) == q.Max {
			page.Complete = false
			break
		}
		page.Messages = append(page.Messages, m)
	}
	if q.Backwards {
		slices.Reverse(page.Messages)
	}

	switch {
	case page.Complete && part.after == sel.after && part.before == sel.before:
		page.Count = len(page.Messages)
		return page, nil
	case !sel.with.IsBare() && !sel.with.IsZero():
		page.Count = -1
		if len(page.Messages) > 0 {
			page.Index = -1
		}
		return page, nil
	}
	if page.Count, err = sel.count(); err != nil || len(page.Messages) == 0 {
		return page, err
	}
	switch {
	case q.Backwards && part.before == sel.before:
		page.Index = page.Count - len(page.Messages)
	case q.Backwards || part.after != sel.after:
		sel.before = page.Messages[0].ID - 1
		page.Index, err = sel.count()
	}
	return page, err
}

// A view is an archive as a transaction sees it.
type view struct {
	*txn
	archive uint64
	unmoved []unmoved
}

func (t *txn) view(owner jid.JID) (v view, err error) {
	v.txn = t
	if v.archive, err = t.archiveOf(ownerKey(owner)); err == nil && v.archive != 0 {
		v.unmoved, err = t.unmoved(v.archive)
	}
	return v, err
}

// find is the number of the message with an id.
func (v view) find(id uint64) (number uint64, found bool, err error) {
	i, found := slices.BinarySearchFunc(v.unmoved, id, func(u unmoved, id uint64) int { return cmp.Compare(u.id, id) })
	if found {
		return v.unmoved[i].number, true, nil
	}
	return v.txn.find(listOf(v.archive, jid.JID{}), id)
}

// A selection is part of an archive: from one id to another, by the other party and by time.
type selection struct {
	view
	after, before uint64 // ids; before is inclusive
	with          jid.JID
	start, end    time.Time
	ids           []uint64 // if not nil, those only, in order
}

// postings yields what may be of the selection, by id.
func (s selection) postings(backwards bool) iter.Seq2[posting, error] {
	return func(yield func(posting, error) bool) {
		var tail []posting
		for _, u := range s.unmoved {
			if s.within(u.posting) && s.isWith(u.with) {
				tail = append(tail, u.posting)
			}
		}
		from := s.after + 1
		if backwards {
			slices.Reverse(tail)
			from = s.before
		}
		for c, err := range s.chunks(s.list(), from, backwards) {
			if err != nil {
				yield(posting{}, err)
				return
			}
			if backwards && c.last.id <= s.after || !backwards && c.first() > s.before {
				break
			}
			if s.misses(c) {
				continue
			}
			postings, err := c.postings()
			if err != nil {
				yield(posting{}, err)
				return
			}
			if backwards {
				slices.Reverse(postings)
			}
			for _, p := range postings {
				for len(tail) > 0 && tail[0].id < p.id != backwards {
					if !yield(tail[0], nil) {
						return
					}
					tail = tail[1:]
				}
				if s.within(p) && !yield(p, nil) {
					return
				}
			}
		}
		for _, p := range tail {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func (s selection) list() list { return listOf(s.archive, s.with) }

// within says whether a message may be of the selection, by its id and its second.
func (s selection) within(p posting) bool {
	if p.id <= s.after || p.id > s.before ||
		!s.start.IsZero() && p.second < s.start.Unix() || !s.end.IsZero() && p.second > s.end.Unix() {
		return false
	}
	if s.ids == nil {
		return true
	}
	_, found := slices.BinarySearch(s.ids, p.id)
	return found
}

// isWith says whether the other party is one that is asked for.
func (s selection) isWith(with string) bool {
	if s.with.IsZero() {
		return true
	}
	rest, ok := strings.CutPrefix(with, s.with.String())
	return ok && (rest == "" || s.with.IsBare() && rest[0] == '/')
}

// misses says that nothing in a chunk can be of the selection.
func (s selection) misses(c chunk) bool {
	if !s.start.IsZero() && c.end < s.start.Unix() || !s.end.IsZero() && c.start > s.end.Unix() {
		return true
	}
	if s.ids == nil {
		return false
	}
	i, _ := slices.BinarySearch(s.ids, c.first())
	return i == len(s.ids) || s.ids[i] > c.last.id
}

// covers says that everything in a chunk is of the selection.
func (s selection) covers(c chunk) bool {
	return s.ids == nil && c.first() > s.after && c.last.id <= s.before &&
		(s.start.IsZero() || c.start > s.start.Unix()) && (s.end.IsZero() || c.end < s.end.Unix())
}

// messages yields the selection, by id.
func (s selection) messages(backwards bool) iter.Seq2[storage.ArchivedMessage, error] {
	return func(yield func(storage.ArchivedMessage, error) bool) {
		for p, err := range s.postings(backwards) {
			var m storage.ArchivedMessage
			ok := true
			if err == nil {
				m, ok, err = s.read(p)
			}
			if ok && (!yield(m, err) || err != nil) {
				return
			}
		}
	}
}

// read reads a message, and says whether it is of the selection.
func (s selection) read(p posting) (m storage.ArchivedMessage, ok bool, err error) {
	k := key(p.number)
	row, err := peekMessage(s.get(inMessages, k))
	if err != nil {
		return m, true, damaged(inMessages, k, err)
	}
	i := slices.IndexFunc(row.places, func(place place) bool { return place.archive == s.archive && place.id == p.id })
	if i < 0 {
		return m, true, damaged(inMessages, k, errDamaged)
	}
	if !s.isWith(row.places[i].with) || !s.start.IsZero() && row.at.Before(s.start) || !s.end.IsZero() && row.at.After(s.end) {
		return m, false, nil
	}
	m = storage.ArchivedMessage{ID: p.id, At: row.at, Stanza: strings.Clone(row.stanza)}
	m.With, err = jid.Parse(strings.Clone(row.places[i].with))
	return m, true, err
}

// count counts the selection, looking only at those messages that are at its edges.
func (s selection) count() (n int, err error) {
	head, sealed, err := s.head(s.list())
	if err != nil {
		return 0, err
	}
	some := s
	some.unmoved = nil
	for _, u := range s.unmoved {
		if s.isWith(u.with) {
			some.unmoved = append(some.unmoved, u)
		}
	}
	if s.after == 0 && s.before == math.MaxUint64 && s.start.IsZero() && s.end.IsZero() && s.ids == nil {
		return head.n + int(sealed) + len(some.unmoved), nil
	}
	exact := func(p posting) error {
		if !some.within(p) {
			return nil
		}
		ok := true
		if !s.start.IsZero() && p.second == s.start.Unix() || !s.end.IsZero() && p.second == s.end.Unix() {
			_, ok, err = s.read(p)
		}
		if ok {
			n++
		}
		return err
	}
	for c, err := range s.chunks(s.list(), s.after+1, false) {
		if err != nil {
			return 0, err
		}
		if c.first() > s.before {
			break
		}
		if s.covers(c) {
			n += c.n
			continue
		}
		if s.misses(c) {
			continue
		}
		postings, err := c.postings()
		if err != nil {
			return 0, err
		}
		for _, p := range postings {
			if err := exact(p); err != nil {
				return 0, err
			}
		}
	}
	for _, u := range some.unmoved {
		if err := exact(u.posting); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (a archive) Bounds(owner jid.JID) (oldest, newest storage.ArchivedMessage, err error) {
	v, err := a.view(owner)
	if err == nil {
		oldest, newest, err = v.bounds()
	}
	if err != nil {
		err = fmt.Errorf("bounds of the archive of %s: %w", owner, err)
	}
	return oldest, newest, err
}

func (v view) bounds() (oldest, newest storage.ArchivedMessage, err error) {
	err = storage.ErrNotFound
	all := selection{view: v, before: math.MaxUint64}
	for oldest, err = range all.messages(false) {
		break
	}
	if err == nil {
		for newest, err = range all.messages(true) {
			break
		}
	}
	return oldest, newest, err
}

func (a archive) LastID() (uint64, error) {
	last, err := a.mark(lastIDMark)
	if err != nil {
		return 0, err
	}
	moved, err := a.mark(movedMark)
	if err != nil {
		return 0, err
	}
	err = a.scanUnmoved(moved, math.MaxUint64, func(_ uint64, u unmoved) { last = max(last, u.id) })
	return last, err
}

func (a archive) Purge(owner jid.JID, before time.Time, limit int) (int, error) {
	n, err := a.purge(owner, before, limit)
	if err != nil {
		return 0, fmt.Errorf("purge archive of %s: %w", owner, err)
	}
	return n, nil
}

func (a archive) purge(owner jid.JID, before time.Time, limit int) (int, error) {
	if !a.writable {
		return 0, storage.ErrReadOnly
	}
	v, err := a.view(owner)
	if err != nil {
		return 0, err
	}
	if slices.ContainsFunc(v.unmoved, func(u unmoved) bool { return u.second <= before.Unix() }) {
		if _, err := a.move(math.MaxInt); err != nil {
			return 0, err
		}
		v.unmoved = nil
	}
	var ids, numbers []uint64
	contacts := make(map[jid.JID][]uint64)
	old := selection{view: v, before: math.MaxUint64, end: before}
	for p, err := range old.postings(false) {
		if err != nil {
			return 0, err
		}
		if len(ids) == limit {
			break
		}
		m, ok, err := old.read(p)
		if err != nil {
			return 0, err
		}
		if !ok || !m.At.Before(before) {
			continue
		}
		ids, numbers = append(ids, p.id), append(numbers, p.number)
		contacts[m.With.Bare()] = append(contacts[m.With.Bare()], p.id)
	}
	if len(ids) == 0 {
		return 0, nil
	}
	if err := a.remove(listOf(v.archive, jid.JID{}), ids); err != nil {
		return 0, err
	}
	for with, ids := range contacts {
		if err := a.remove(listOf(v.archive, with), ids); err != nil {
			return 0, err
		}
	}
	for _, number := range numbers {
		if err := a.release(number); err != nil {
			return 0, err
		}
	}
	return len(ids), nil
}

func (a archive) Stats(owner jid.JID) (stats storage.ArchiveStats, err error) {
	v, err := a.view(owner)
	if err == nil {
		stats.Messages, err = selection{view: v, before: math.MaxUint64}.count()
	}
	if err == nil && stats.Messages > 0 {
		var oldest, newest storage.ArchivedMessage
		oldest, newest, err = v.bounds()
		stats.Oldest, stats.Newest = oldest.At, newest.At
	}
	if err != nil {
		return stats, fmt.Errorf("stats of the archive of %s: %w", owner, err)
	}
	return stats, nil
}

// has says whether an archive has a message still.
func (t *txn) has(p place, number uint64) (bool, error) {
	if t.get(inOwners, key(p.archive)) == nil {
		return false, nil
	}
	moved, err := t.mark(movedMark)
	if err != nil || number > moved {
		return err == nil, err
	}
	_, found, err := t.find(listOf(p.archive, jid.JID{}), p.id)
	return found, err
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
