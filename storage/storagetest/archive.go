package storagetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

var noon = time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)

// archived is a message in archives.
func archived(text string, in ...storage.Archived) storage.Message {
	m := waits(jid.JID{}, text, 0)
	m.Archived = in
	return m
}

// entered is the id-th message of juliet's archive, which was sent id seconds after noon.
func entered(id uint64, with jid.JID) storage.Message {
	m := archived(fmt.Sprint(id), storage.Archived{Owner: juliet, ID: id, With: with})
	m.At = noon.Add(time.Duration(id) * time.Second)
	return m
}

func add(messages ...storage.Message) func(storage.Tx) error {
	return func(tx storage.Tx) error {
		for _, m := range messages {
			if err := tx.Messages().Add(m); err != nil {
				return err
			}
		}
		return nil
	}
}

func page(t *testing.T, s storage.Store, owner jid.JID, q storage.ArchiveQuery) (p storage.ArchivePage) {
	t.Helper()
	view(t, s, func(tx storage.Tx) (err error) { p, err = tx.Archive().Page(owner, q); return err })
	return p
}

func ids(messages []storage.ArchivedMessage) (list []uint64) {
	for _, m := range messages {
		list = append(list, m.ID)
	}
	return list
}

// testArchivePages pages through an archive in both directions.
func testArchivePages(t *testing.T, s storage.Store) {
	var want []storage.ArchivedMessage
	for id := uint64(3); id <= 30; id += 3 {
		m := entered(id, romeo)
		do(t, s, add(m))
		want = append(want, storage.ArchivedMessage{ID: id, At: m.At, With: romeo, Stanza: m.Stanza})
	}
	equal(t, "the whole", page(t, s, juliet, storage.ArchiveQuery{}),
		storage.ArchivePage{Messages: want, Complete: true, Count: 10})
	equal(t, "another's", page(t, s, juliet2, storage.ArchiveQuery{}), storage.ArchivePage{Complete: true})
	equal(t, "of a resource", page(t, s, jid.MustParse(juliet.String()+"/balcony"), storage.ArchiveQuery{}).Count, 10)

	var got []storage.ArchivedMessage
	for q := (storage.ArchiveQuery{Max: 4}); ; q.After = got[len(got)-1].ID {
		p := page(t, s, juliet, q)
		equal(t, "count", p.Count, 10)
		equal(t, "index", p.Index, len(got))
		equal(t, "complete", p.Complete, len(p.Messages) < 4)
		if got = append(got, p.Messages...); p.Complete {
			break
		}
	}
	equal(t, "forwards", got, want)

	got = nil
	for q := (storage.ArchiveQuery{Max: 4, Backwards: true}); ; q.Before = got[0].ID {
		p := page(t, s, juliet, q)
		equal(t, "count", p.Count, 10)
		equal(t, "index", p.Index, 10-len(got)-len(p.Messages))
		equal(t, "complete", p.Complete, len(p.Messages) < 4)
		if got = append(slices.Clone(p.Messages), got...); p.Complete {
			break
		}
	}
	equal(t, "backwards", got, want)

	// A page that ends with the selection is complete, though it is full.
	for _, q := range []storage.ArchiveQuery{{Max: 10}, {Max: 10, Backwards: true}, {Max: 3, After: 21}, {Max: 2, Before: 9, Backwards: true}} {
		if p := page(t, s, juliet, q); !p.Complete || len(p.Messages) != q.Max {
			t.Errorf("%+v: %d messages, complete: %v", q, len(p.Messages), p.Complete)
		}
	}
	// The newest and the oldest have nothing beyond.
	equal(t, "behind the newest", page(t, s, juliet, storage.ArchiveQuery{After: 30, Max: 5}),
		storage.ArchivePage{Complete: true, Count: 10})
	equal(t, "before the oldest", page(t, s, juliet, storage.ArchiveQuery{Before: 3, Backwards: true, Max: 5}),
		storage.ArchivePage{Complete: true, Count: 10})
}

// testArchiveQueries compares pages with what the words of the contract say about a list of all messages.
// Ids come out of order, and so do times.
func testArchiveQueries(t *testing.T, s storage.Store) {
	random := rand.New(rand.NewPCG(1, 2))
	contacts := []jid.JID{nurse, romeo, jid.MustParse(romeo.String() + "/a"), jid.MustParse(romeo.String() + "/b"), jid.MustParse("montague.example")}
	const n = 400
	order := make([]uint64, n)
	for i := range order {
		order[i] = uint64(2 * (i + 1))
	}
	for i := range order { // each a few places from where it belongs
		j := min(n-1, i+random.IntN(4))
		order[i], order[j] = order[j], order[i]
	}
	var all []storage.ArchivedMessage
	for batch := range slices.Chunk(order, 23) {
		do(t, s, func(tx storage.Tx) error {
			for _, id := range batch {
				m := entered(id, contacts[random.IntN(len(contacts))])
				m.At = noon.Add(time.Duration(int(id)+random.IntN(20)) * time.Second)
				if id%97 == 0 {
					m.At = noon.Add(time.Duration(random.IntN(3*n)-n) * time.Second) // the clock was wrong
				}
				m.Archived = append(m.Archived, storage.Archived{Owner: juliet2, ID: id + 1, With: juliet})
				all = append(all, storage.ArchivedMessage{ID: id, At: m.At, With: m.Archived[0].With, Stanza: m.Stanza})
				if err := add(m)(tx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	slices.SortFunc(all, func(a, b storage.ArchivedMessage) int { return int(a.ID) - int(b.ID) })

	anID := func() uint64 { return 2 * uint64(1+random.IntN(n)) }
	for i := range 600 {
		q := storage.ArchiveQuery{Backwards: i%2 == 0}
		if random.IntN(2) == 0 {
			q.Max = 1 + random.IntN(60)
		}
		if random.IntN(2) == 0 {
			q.With = contacts[random.IntN(len(contacts))]
		}
		if random.IntN(3) == 0 {
			q.Start = all[random.IntN(n)].At
		}
		if random.IntN(3) == 0 {
			q.End = all[random.IntN(n)].At
		}
		if random.IntN(3) == 0 {
			q.AfterID = anID()
		}
		if random.IntN(3) == 0 {
			q.BeforeID = anID()
		}
		if q.Backwards && random.IntN(2) == 0 {
			q.Before = anID()
		}
		if !q.Backwards && random.IntN(2) == 0 {
			q.After = anID()
		}
		if random.IntN(8) == 0 {
			for range 1 + random.IntN(9) {
				q.IDs = append(q.IDs, anID())
			}
		}
		want := pageOf(all, q)
		got := page(t, s, juliet, q)
		if got.Count < 0 {
			if q.With.IsBare() { // which is also what a zero JID is
				t.Errorf("%+v: no count", q)
			}
			want.Count = got.Count
		}
		if got.Index < 0 {
			if q.With.IsBare() {
				t.Errorf("%+v: no index", q)
			}
			want.Index = got.Index
		}
		equal(t, fmt.Sprintf("%+v", q), got, want)
		if t.Failed() {
			return
		}
	}
	equal(t, "the other archive", len(page(t, s, juliet2, storage.ArchiveQuery{With: juliet}).Messages), n)
}

// pageOf is what the contract says.
func pageOf(all []storage.ArchivedMessage, q storage.ArchiveQuery) (p storage.ArchivePage) {
	var selection []storage.ArchivedMessage
	for _, m := range all {
		inSelection := (q.With.IsZero() || m.With == q.With || m.With.Bare() == q.With) &&
			(q.Start.IsZero() || !m.At.Before(q.Start)) && (q.End.IsZero() || !m.At.After(q.End)) &&
			m.ID > q.AfterID && (q.BeforeID == 0 || m.ID < q.BeforeID)
		if q.IDs != nil {
			inSelection = slices.Contains(q.IDs, m.ID)
		}
		if inSelection {
			selection = append(selection, m)
		}
	}
	p.Count, p.Complete = len(selection), true
	for i, m := range selection {
		switch {
		case q.Backwards && q.Before != 0 && m.ID >= q.Before, !q.Backwards && m.ID <= q.After:
			continue
		case q.Max > 0 && len(p.Messages) == q.Max && !q.Backwards:
			p.Complete = false
			continue
		case q.Max > 0 && len(p.Messages) == q.Max:
			p.Complete = false
			p.Messages = p.Messages[1:]
			p.Index++
		case len(p.Messages) == 0:
			p.Index = i
		}
		p.Messages = append(p.Messages, m)
	}
	return p
}

func testArchiveUnknownIDs(t *testing.T, s storage.Store) {
	do(t, s, add(entered(10, romeo), entered(20, nurse), archived("", storage.Archived{Owner: juliet2, ID: 15, With: romeo})))
	for _, id := range []uint64{1, 15, 30, 1 << 63} {
		for _, q := range []storage.ArchiveQuery{
			{After: id}, {Before: id, Backwards: true}, {AfterID: id}, {BeforeID: id}, {IDs: []uint64{10, id}},
		} {
			err := s.View(func(tx storage.Tx) error { _, err := tx.Archive().Page(juliet, q); return err })
			wantErr(t, fmt.Sprintf("%+v", q), err, storage.ErrNotFound)
		}
	}
	// It only has to be in the archive.
	equal(t, "behind one of another contact", ids(page(t, s, juliet, storage.ArchiveQuery{With: nurse, After: 10}).Messages), []uint64{20})
	equal(t, "nothing", page(t, s, juliet, storage.ArchiveQuery{IDs: []uint64{}}), storage.ArchivePage{Complete: true})
	err := s.View(func(tx storage.Tx) error {
		_, err := tx.Archive().Page(romeo, storage.ArchiveQuery{After: 10})
		return err
	})
	wantErr(t, "no archive", err, storage.ErrNotFound)
}

func testArchiveBoundsAndStats(t *testing.T, s storage.Store) {
	bounds := func() (oldest, newest storage.ArchivedMessage, err error) {
		err = s.View(func(tx storage.Tx) (err error) { oldest, newest, err = tx.Archive().Bounds(juliet); return err })
		return oldest, newest, err
	}
	stats := func() (stats storage.ArchiveStats) {
		view(t, s, func(tx storage.Tx) (err error) { stats, err = tx.Archive().Stats(juliet); return err })
		return stats
	}
	_, _, err := bounds()
	wantErr(t, "empty", err, storage.ErrNotFound)
	equal(t, "empty", stats(), storage.ArchiveStats{})
	do(t, s, add(entered(8, romeo)))
	do(t, s, add(entered(9, nurse), entered(4, nurse)))
	oldest, newest, err := bounds()
	wantErr(t, "Bounds", err, nil)
	equal(t, "oldest", oldest, storage.ArchivedMessage{ID: 4, At: entered(4, nurse).At, With: nurse, Stanza: entered(4, nurse).Stanza})
	equal(t, "newest", newest, storage.ArchivedMessage{ID: 9, At: entered(9, nurse).At, With: nurse, Stanza: entered(9, nurse).Stanza})
	equal(t, "stats", stats(), storage.ArchiveStats{Messages: 3, Oldest: oldest.At, Newest: newest.At})
	do(t, s, func(tx storage.Tx) error { _, err := tx.Archive().Purge(juliet, noon.Add(time.Hour), 9); return err })
	_, _, err = bounds()
	wantErr(t, "purged", err, storage.ErrNotFound)
	equal(t, "purged", stats(), storage.ArchiveStats{})
}

// testArchiveOfDeletedAccount: nobody inherits a stranger's archive, and the other party keeps theirs.
func testArchiveOfDeletedAccount(t *testing.T, s storage.Store) {
	both := func(id uint64) storage.Message {
		return archived(fmt.Sprint(id), storage.Archived{Owner: juliet, ID: id, With: nurse},
			storage.Archived{Owner: nurse, ID: id + 1, With: juliet})
	}
	create := func(tx storage.Tx) error { return tx.Accounts().Create(account(juliet)) }
	do(t, s, create)
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: 7}) })
	for id := uint64(10); id <= 40; id += 10 {
		m := both(id)
		m.Waiting = []storage.Waiting{{Peer: 7, Number: id}}
		do(t, s, add(m))
	}
	do(t, s, func(tx storage.Tx) error {
		if err := tx.Accounts().Delete(juliet); err != nil {
			return err
		}
		p, err := tx.Archive().Page(juliet, storage.ArchiveQuery{})
		equal(t, "in the same operation", len(p.Messages), 0)
		return err
	})
	want := []uint64{11, 21, 31, 41}
	equal(t, "deleted", page(t, s, juliet, storage.ArchiveQuery{}), storage.ArchivePage{Complete: true})
	equal(t, "of the other", ids(page(t, s, nurse, storage.ArchiveQuery{}).Messages), want)
	do(t, s, add(both(50))) // late
	do(t, s, create)
	equal(t, "created again", page(t, s, juliet, storage.ArchiveQuery{}), storage.ArchivePage{Complete: true})
	_, err := find(s, juliet, 10)
	wantErr(t, "an old id", err, storage.ErrNotFound)
	equal(t, "of the other", ids(page(t, s, nurse, storage.ArchiveQuery{With: juliet}).Messages), append(want, 51))
	do(t, s, add(both(60)))
	equal(t, "a new one", ids(page(t, s, juliet, storage.ArchiveQuery{}).Messages), []uint64{60})
	view(t, s, func(tx storage.Tx) error {
		list, err := tx.Peers().Waiting(7)
		for _, u := range list {
			equal(t, "archived", u.Archived, []storage.Archived{{Owner: nurse, ID: u.Number + 1, With: juliet}})
		}
		equal(t, "waiting", len(list), 4)
		return err
	})
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Delete(juliet) })
	do(t, s, func(tx storage.Tx) error { _, err := tx.Archive().Purge(nurse, noon.Add(time.Hour), 99); return err })
	do(t, s, create)
	equal(t, "once more", page(t, s, juliet, storage.ArchiveQuery{}), storage.ArchivePage{Complete: true})
}

func find(s storage.Store, owner jid.JID, id uint64) (m storage.ArchivedMessage, err error) {
	err = s.View(func(tx storage.Tx) error {
		p, err := tx.Archive().Page(owner, storage.ArchiveQuery{IDs: []uint64{id}})
		if len(p.Messages) == 1 {
			m = p.Messages[0]
		}
		return err
	})
	return m, err
}

func testLastID(t *testing.T, s storage.Store) {
	last := func() (id uint64) {
		view(t, s, func(tx storage.Tx) (err error) { id, err = tx.Archive().LastID(); return err })
		return id
	}
	equal(t, "of nothing", last(), uint64(0))
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Create(account(juliet)) })
	do(t, s, add(entered(5, romeo), entered(3, romeo)))
	equal(t, "last", last(), uint64(5))
	do(t, s, add(archived("", storage.Archived{Owner: nurse, ID: 7, With: romeo}, storage.Archived{Owner: juliet, ID: 6, With: romeo})))
	equal(t, "of any", last(), uint64(7))
	do(t, s, func(tx storage.Tx) error { _, err := tx.Archive().Purge(nurse, noon.Add(time.Hour), 9); return err })
	equal(t, "after Purge", last(), uint64(7))
	do(t, s, add(entered(9, romeo)))
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Delete(juliet) })
	equal(t, "after Delete", last(), uint64(9))
	_ = try(t, s, func(tx storage.Tx) error {
		if err := add(entered(11, romeo))(tx); err != nil {
			return err
		}
		id, err := tx.Archive().LastID()
		equal(t, "in the same operation", id, uint64(11))
		if err != nil {
			return err
		}
		return errOops
	})
	equal(t, "after a failed operation", last(), uint64(9))
}

func purge(t *testing.T, s storage.Store, owner jid.JID, before time.Time, limit int) (n int) {
	t.Helper()
	do(t, s, func(tx storage.Tx) (err error) { n, err = tx.Archive().Purge(owner, before, limit); return err })
	return n
}

// testPurge removes messages in steps from two archives that share them.
func testPurge(t *testing.T, s storage.Store) {
	const n = 20
	for id := uint64(1); id <= n; id++ {
		m := entered(id, nurse)
		m.Archived = append(m.Archived, storage.Archived{Owner: nurse, ID: 100 + id, With: juliet})
		do(t, s, add(m))
	}
	before := noon.Add(11 * time.Second) // when the eleventh was sent
	first := func(owner jid.JID) uint64 { return page(t, s, owner, storage.ArchiveQuery{Max: 1}).Messages[0].ID }
	equal(t, "a step", purge(t, s, juliet, before, 4), 4)
	equal(t, "first left", first(juliet), uint64(5))
	equal(t, "of the other", first(nurse), uint64(101))
	equal(t, "a step of the other", purge(t, s, nurse, before, 7), 7)
	equal(t, "first left of the other", first(nurse), uint64(108))
	equal(t, "first left", first(juliet), uint64(5))
	equal(t, "a step", purge(t, s, juliet, before, 4), 4)
	equal(t, "the last step", purge(t, s, juliet, before, 4), 2)
	equal(t, "no step", purge(t, s, juliet, before, 4), 0)
	equal(t, "no archive", purge(t, s, romeo, before, 4), 0)
	p := page(t, s, juliet, storage.ArchiveQuery{})
	equal(t, "left", ids(p.Messages), []uint64{11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
	equal(t, "count", p.Count, 10)
	equal(t, "with the nurse", page(t, s, juliet, storage.ArchiveQuery{With: nurse, Max: 3}).Count, 10)
	_, err := find(s, juliet, 10)
	wantErr(t, "a purged id", err, storage.ErrNotFound)
	m, err := find(s, nurse, 110) // purged there
	wantErr(t, "in the other archive", err, nil)
	equal(t, "in the other archive", m.Stanza, entered(10, nurse).Stanza)
	equal(t, "all", purge(t, s, juliet, noon.Add(time.Hour), 99), 10)
	equal(t, "the rest of the other", purge(t, s, nurse, noon.Add(time.Hour), 99), 13)
	do(t, s, add(entered(30, romeo)))
	equal(t, "a new one", ids(page(t, s, juliet, storage.ArchiveQuery{}).Messages), []uint64{30})
}

// testPurgeNeeded: what waits for somebody is not harmed.
func testPurgeNeeded(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: 1}) })
	for id := uint64(1); id <= 3; id++ {
		m := entered(id, romeo)
		m.Waiting = []storage.Waiting{{Peer: 1, Number: id}}
		m.Offline = nurse
		do(t, s, add(m))
	}
	equal(t, "purged", purge(t, s, juliet, noon.Add(time.Hour), 9), 3)
	var want []string
	for id := uint64(1); id <= 3; id++ {
		want = append(want, entered(id, romeo).Stanza)
	}
	equal(t, "offline", texts(t, s, nurse), want)
	waiting := func() (list []string) {
		view(t, s, func(tx storage.Tx) error {
			all, err := tx.Peers().Waiting(1)
			for _, u := range all {
				equal(t, "archived", len(u.Archived), 0)
				list = append(list, u.Stanza)
			}
			return err
		})
		return list
	}
	equal(t, "waiting", waiting(), want)
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Acknowledged(1, 2) })
	equal(t, "waiting", waiting(), want[2:])
	equal(t, "offline", texts(t, s, nurse), want)
	do(t, s, func(tx storage.Tx) error { return tx.Offline().Delete(nurse, 1<<63) })
	equal(t, "waiting", waiting(), want[2:])
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Acknowledged(1, 3) })
	equal(t, "waiting", waiting(), []string(nil))
}

// testPurgeUnordered: a message that seems to be from the future stays, and holds up nothing.
func testPurgeUnordered(t *testing.T, s storage.Store) {
	for id := uint64(1); id <= 12; id++ {
		m := entered(id, romeo)
		if id%4 == 2 {
			m.At = m.At.Add(time.Hour)
		}
		do(t, s, add(m))
	}
	equal(t, "a step", purge(t, s, juliet, noon.Add(time.Minute), 4), 4)
	equal(t, "left", ids(page(t, s, juliet, storage.ArchiveQuery{}).Messages), []uint64{2, 6, 7, 8, 9, 10, 11, 12})
	equal(t, "a step", purge(t, s, juliet, noon.Add(time.Minute), 9), 5)
	for _, with := range []jid.JID{{}, romeo} {
		p := page(t, s, juliet, storage.ArchiveQuery{With: with})
		equal(t, "left", ids(p.Messages), []uint64{2, 6, 10})
		equal(t, "count", p.Count, 3)
	}
}

func testOfflineByReference(t *testing.T, s storage.Store) {
	own := archived("own", storage.Archived{Owner: juliet, ID: 1, With: romeo}, storage.Archived{Owner: romeo, ID: 2, With: juliet})
	others := archived("others", storage.Archived{Owner: romeo, ID: 3, With: juliet})
	purged := archived("purged", storage.Archived{Owner: juliet, ID: 4, With: romeo})
	purged.At = noon.Add(-time.Hour)
	kept := []storage.Message{own, waits(juliet, "nobody's", 0), others, purged}
	for _, m := range kept {
		m.Offline = juliet
		do(t, s, add(m))
	}
	list := func() (list []string) {
		view(t, s, func(tx storage.Tx) error {
			messages, err := tx.Offline().List(juliet, 0, 0)
			for _, m := range messages {
				text := strings.TrimSuffix(strings.TrimPrefix(m.Stanza, "<message><body>"), "</body></message>")
				list = append(list, fmt.Sprint(text, " ", m.ID, " ", m.Received.Sub(noon)))
			}
			if err != nil {
				return err
			}
			count, err := tx.Offline().Count(juliet)
			equal(t, "count", count, len(list))
			return err
		})
		return list
	}
	equal(t, "waiting", list(), []string{"own 1 0s", "nobody's 0 0s", "others 0 0s", "purged 4 -1h0m0s"})
	equal(t, "purged", purge(t, s, juliet, noon, 9), 1)
	equal(t, "after Purge", list(), []string{"own 1 0s", "nobody's 0 0s", "others 0 0s", "purged 0 -1h0m0s"})
	do(t, s, func(tx storage.Tx) error { return tx.Offline().DeleteArchived(juliet) })
	equal(t, "after DeleteArchived", list(), []string{"nobody's 0 0s", "others 0 0s", "purged 0 -1h0m0s"})
	do(t, s, func(tx storage.Tx) error { return tx.Offline().DeleteArchived(juliet) })
	do(t, s, func(tx storage.Tx) error { return tx.Offline().DeleteArchived(nurse) })
	equal(t, "once more", len(list()), 3)
	do(t, s, func(tx storage.Tx) error { return tx.Offline().Delete(juliet, 1<<63) })
	equal(t, "after Delete", list(), []string(nil))
	// None of this harms the archives.
	equal(t, "archive", ids(page(t, s, juliet, storage.ArchiveQuery{}).Messages), []uint64{1})
	equal(t, "the other archive", ids(page(t, s, romeo, storage.ArchiveQuery{}).Messages), []uint64{2, 3})
}

func testOfflineFullAndArchived(t *testing.T, s storage.Store) {
	m := func(id uint64, owner jid.JID) storage.Message {
		m := archived(fmt.Sprint(id), storage.Archived{Owner: owner, ID: id, With: romeo})
		m.Offline, m.OfflineMax = juliet, 1
		return m
	}
	do(t, s, add(m(1, juliet)))
	before := dump(t, s)
	wantErr(t, "archived for the same", try(t, s, add(m(2, juliet))), storage.ErrFull)
	wantErr(t, "archived for another", try(t, s, add(m(3, nurse))), storage.ErrFull)
	wantErr(t, "not archived", try(t, s, add(waits(juliet, "m", 1))), storage.ErrFull)
	equal(t, "state after that", dump(t, s), before)
	unkept := m(2, juliet)
	unkept.Offline = jid.JID{}
	do(t, s, add(unkept))
	again := storage.Message{Earlier: storage.Reference{Owner: juliet, ID: 2}, Offline: juliet, OfflineMax: 1}
	wantErr(t, "archived earlier", try(t, s, add(again)), storage.ErrFull)
	again.OfflineMax = 2
	do(t, s, add(again))
	equal(t, "waiting", texts(t, s, juliet), []string{m(1, juliet).Stanza, m(2, juliet).Stanza})
}

// testTaken: a message that waited for its account waits for a peer instead, and the other way round.
func testTaken(t *testing.T, s storage.Store) {
	number := func() (n uint64) {
		view(t, s, func(tx storage.Tx) error {
			list, err := tx.Offline().List(juliet, 0, 1)
			if len(list) == 1 {
				n = list[0].Number
			}
			return err
		})
		return n
	}
	for range 3 {
		do(t, s, add(waits(juliet, "m", 3)))
	}
	m := waits(juliet, "again", 3) // it takes a place that it makes free
	m.Taken = storage.Taken{Owner: juliet, Number: number()}
	do(t, s, add(m))
	equal(t, "waiting", texts(t, s, juliet), []string{waits(juliet, "m", 0).Stanza, waits(juliet, "m", 0).Stanza, m.Stanza})
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: 1}) })
	m = storage.Message{At: noon, Stanza: "<message/>", Taken: storage.Taken{Owner: juliet, Number: number()},
		Waiting: []storage.Waiting{{Peer: 1, Number: 1}}}
	do(t, s, add(m))
	equal(t, "waiting", len(texts(t, s, juliet)), 2)
	m.Taken.Number = 1 << 40 // not there
	m.Taken.Owner = nurse
	m.Waiting[0].Number++
	do(t, s, add(m))
	view(t, s, func(tx storage.Tx) error {
		list, err := tx.Peers().Waiting(1)
		equal(t, "waiting for the peer", len(list), 2)
		return err
	})
	// One that is archived, and waits on.
	m = entered(5, romeo)
	m.Offline = juliet
	do(t, s, func(tx storage.Tx) error { return tx.Offline().Delete(juliet, 1<<63) })
	do(t, s, add(m))
	do(t, s, add(storage.Message{Earlier: storage.Reference{Owner: juliet, ID: 5}, Offline: juliet,
		Taken: storage.Taken{Owner: juliet, Number: number()}}))
	equal(t, "waiting", texts(t, s, juliet), []string{m.Stanza})
	purge(t, s, juliet, noon.Add(time.Hour), 9)
	equal(t, "waiting", texts(t, s, juliet), []string{m.Stanza})
}

func testEarlier(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: 1}) })
	m := entered(5, romeo)
	do(t, s, add(m))
	earlier := storage.Message{Earlier: storage.Reference{Owner: juliet, ID: 5}, Offline: juliet,
		Waiting: []storage.Waiting{{Peer: 1, Number: 9}}}
	do(t, s, add(earlier))
	view(t, s, func(tx storage.Tx) error {
		list, err := tx.Offline().List(juliet, 0, 0)
		if len(list) != 1 || list[0].Stanza != m.Stanza || list[0].ID != 5 || !list[0].Received.Equal(m.At) {
			t.Errorf("offline: %+v", list)
		}
		if err != nil {
			return err
		}
		waiting, err := tx.Peers().Waiting(1)
		equal(t, "waiting", waiting, []storage.Unacknowledged{{Number: 9, At: m.At, Stanza: m.Stanza, Archived: m.Archived}})
		return err
	})
	before := dump(t, s)
	for _, ref := range []storage.Reference{{Owner: juliet, ID: 6}, {Owner: nurse, ID: 5}} {
		earlier.Earlier = ref
		wantErr(t, "not archived", try(t, s, add(earlier)), storage.ErrNotFound)
	}
	if try(t, s, add(archived("with nobody", storage.Archived{Owner: juliet, ID: 7}))) == nil {
		t.Error("a message without another party was archived")
	}
	equal(t, "state after that", dump(t, s), before)
}

// testEarlierPurged: a message that was archived, and is so no more when it is to wait, waits all the same.
func testEarlierPurged(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: 1}) })
	do(t, s, add(entered(5, romeo)))
	purge(t, s, juliet, noon.Add(time.Hour), 9)
	again := storage.Message{Earlier: storage.Reference{Owner: juliet, ID: 5}, At: noon, Stanza: "<message id='again'/>", Offline: juliet,
		Waiting: []storage.Waiting{{Peer: 1, Number: 9}}}
	do(t, s, add(again))
	waiting := func() (n int) {
		view(t, s, func(tx storage.Tx) error {
			list, err := tx.Peers().Waiting(1)
			for _, m := range list {
				if n++; m.Stanza != again.Stanza || m.Number != 9 || len(m.Archived) != 0 || !m.At.Equal(noon) {
					t.Errorf("waiting: %+v", m)
				}
			}
			return err
		})
		return n
	}
	equal(t, "offline", texts(t, s, juliet), []string{again.Stanza})
	equal(t, "waiting for the peer", waiting(), 1)
	equal(t, "archived", len(page(t, s, juliet, storage.ArchiveQuery{}).Messages), 0)
	do(t, s, func(tx storage.Tx) error { return tx.Offline().Delete(juliet, 1<<63) })
	equal(t, "waiting for the peer", waiting(), 1)
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Acknowledged(1, 9) })
	equal(t, "waiting for the peer", waiting(), 0)
}
