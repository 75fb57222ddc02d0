package bolt

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/jid"
)

var (
	agreeOwners = []jid.JID{juliet, jid.MustParse("juliet2@capulet.example"), jid.MustParse("nurse@capulet.example")}
	agreeWith   = []jid.JID{agreeOwners[2], jid.MustParse("romeo@montague.example/a"), jid.MustParse("romeo@montague.example/b"), jid.MustParse("romeo@montague.example")}
	agreePeers  = []uint64{1, 2, 3}
)

// agreeStart is when the messages of TestAgreesWithMem begin, one a second.
var agreeStart = time.Date(2024, 2, 29, 12, 0, 0, 5, time.UTC)

// A write is drawn once and runs on both stores.
type agreeWrite func(storage.Tx) error

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// drawWrite draws an operation. ids counts the ids that were given out.
func drawWrite(r *rand.Rand, ids *uint64) agreeWrite {
	owner, peer, through := pick(r, agreeOwners), pick(r, agreePeers), r.IntN(6)
	// nth is the number of a message that waits for owner, which differs between the stores.
	nth := func(tx storage.Tx) (uint64, error) {
		list, err := tx.Offline().List(owner, 0, 0)
		if len(list) == 0 || err != nil {
			return 0, err
		}
		return list[min(through, len(list)-1)].Number, nil
	}
	switch n := r.IntN(100); {
	case n < 60:
		*ids += 10
		id := *ids - uint64(r.IntN(60)) // out of order, and yet unique
		m := storage.Message{At: agreeStart.Add(time.Duration(id) * time.Second / 10), Stanza: fmt.Sprintf("<message id='%d'/>", id)}
		if r.IntN(4) == 0 {
			m.Stanza += strings.Repeat(" ", short) // too long for a row of offline or spool
		}
		if r.IntN(20) == 0 {
			m.At = m.At.Add(time.Hour)
		}
		likely := r.IntN(2)
		for i, o := range agreeOwners {
			if r.IntN(2) < likely {
				m.Archived = append(m.Archived, storage.Archived{Owner: o, ID: *ids*4 - uint64(r.IntN(6))*40 + uint64(i), With: pick(r, agreeWith)})
			}
		}
		for _, p := range agreePeers {
			if r.IntN(4) == 0 {
				m.Waiting = append(m.Waiting, storage.Waiting{Peer: p, Number: *ids, Form: storage.Form(r.IntN(3)), Copies: uint8(r.IntN(4))})
			}
		}
		if r.IntN(4) == 0 {
			m.Offline, m.OfflineMax = owner, 1+r.IntN(20)
		}
		m.Counted = storage.Counted{Peer: peer, Count: uint32(id)}
		earlier, taken, body, gone := r.IntN(6) == 0, r.IntN(6) == 0, r.IntN(2) == 0, uint64(r.IntN(2))
		return func(tx storage.Tx) error {
			m := m
			if taken {
				number, err := nth(tx)
				if err != nil {
					return err
				}
				m.Taken = storage.Taken{Owner: owner, Number: number}
			}
			if earlier {
				_, newest, err := tx.Archive().Bounds(owner)
				if err != nil {
					return err
				}
				m.Earlier, m.Archived = storage.Reference{Owner: owner, ID: newest.ID + gone}, nil
				if !body {
					m.Stanza = ""
				}
			}
			for _, a := range m.Archived {
				if _, err := tx.Archive().Page(a.Owner, storage.ArchiveQuery{IDs: []uint64{a.ID}}); err == nil {
					return storage.ErrExists // ids are unique
				}
			}
			return tx.Messages().Add(m)
		}
	case n < 68:
		before, limit := agreeStart.Add(time.Duration(*ids)*time.Second/10-time.Duration(r.IntN(60))*time.Second), r.IntN(30)
		return func(tx storage.Tx) error { _, err := tx.Archive().Purge(owner, before, limit); return err }
	case n < 76:
		number := *ids - min(*ids, uint64(r.IntN(200)))
		return func(tx storage.Tx) error { return tx.Peers().Acknowledged(peer, number) }
	case n < 78:
		number := *ids - min(*ids, uint64(r.IntN(200)))
		return func(tx storage.Tx) error {
			list, err := tx.Peers().Waiting(peer)
			for _, u := range list {
				err = errors.Join(err, tx.Peers().Lost(peer%3+1, []uint64{number}, []storage.Waiting{{Peer: peer, Number: u.Number}}))
			}
			return err
		}
	case n < 80:
		return func(tx storage.Tx) error {
			list, err := tx.Peers().Waiting(peer)
			var changes []storage.Renumbered
			for i, u := range list {
				changes = append(changes, storage.Renumbered{Old: u.Number, New: list[0].Number + uint64(i)})
			}
			return errors.Join(err, tx.Peers().Renumber(peer, changes))
		}
	case n < 83:
		return func(tx storage.Tx) error { return tx.Peers().Delete(peer) }
	case n < 87:
		return func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: peer, Kind: storage.ClientPeer}) }
	case n < 92:
		return func(tx storage.Tx) error {
			number, err := nth(tx)
			return errors.Join(err, tx.Offline().Delete(owner, number))
		}
	case n < 95:
		return func(tx storage.Tx) error { return tx.Offline().DeleteArchived(owner) }
	case n < 98:
		return func(tx storage.Tx) error { return tx.Accounts().Create(storage.Account{JID: owner}) }
	}
	return func(tx storage.Tx) error { return tx.Accounts().Delete(owner) }
}

// agreeDump is all that there is, without the numbers that each store chooses for itself.
func agreeDump(s storage.Store) (dump map[string]any, err error) {
	dump = make(map[string]any)
	err = s.View(func(tx storage.Tx) error {
		for _, owner := range agreeOwners {
			for _, with := range append([]jid.JID{{}}, agreeWith...) {
				for _, q := range []storage.ArchiveQuery{{With: with}, {With: with, Backwards: true, Max: 7}, {With: with, Start: agreeStart.Add(time.Minute), Max: 3}} {
					page, err := tx.Archive().Page(owner, q)
					if err != nil {
						return err
					}
					if with.IsZero() || with.IsBare() {
						dump[fmt.Sprintf("page %s %+v", owner, q)] = page
					} else {
						dump[fmt.Sprintf("page %s %+v", owner, q)] = page.Messages
					}
				}
			}
			stats, err := tx.Archive().Stats(owner)
			if err != nil {
				return err
			}
			dump["stats "+owner.String()] = stats
			offline, err := tx.Offline().List(owner, 0, 0)
			if err != nil {
				return err
			}
			count, err := tx.Offline().Count(owner)
			if err != nil || count != len(offline) {
				return fmt.Errorf("%d of %d messages wait for %s: %w", count, len(offline), owner, err)
			}
			for i := range offline {
				offline[i].Number = 0
			}
			dump["offline "+owner.String()] = offline
		}
		peers, err := tx.Peers().All()
		if err != nil {
			return err
		}
		dump["peers"] = peers
		for _, id := range agreePeers {
			if dump[fmt.Sprint("waiting ", id)], err = tx.Peers().Waiting(id); err != nil {
				return err
			}
		}
		dump["last id"], err = tx.Archive().LastID()
		return err
	})
	return dump, err
}

// TestAgreesWithMem runs the same operations, drawn by chance, on this store and on the one in memory, and
// then removes everything, which leaves nothing.
func TestAgreesWithMem(t *testing.T) {
	for name, sizes := range map[string]sizes{
		"usual":        usualSizes,
		"small":        {move: 1, quiet: 1, chunk: 4, slack: 1, clean: 2},
		"now and then": {move: 40, quiet: 1, chunk: 16, slack: 4, clean: 10},
	} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) { agree(t, sizes, seed) })
		}
	}
}

func agree(t *testing.T, sizes sizes, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	path := filepath.Join(t.TempDir(), "tombolo.db")
	reopen := func() *Store {
		s, err := Open(path, Options{sizes: sizes})
		must(t, err)
		return s
	}
	here, there := reopen(), mem.New(mem.Options{})
	defer func() { here.Close(); there.Close() }()
	ids := uint64(1000)
	for round := range 60 {
		var tickets [][2]*storage.Ticket
		for range 1 + r.IntN(40) {
			var writes []agreeWrite
			for range 1 + r.IntN(3) {
				writes = append(writes, drawWrite(r, &ids))
			}
			fails := r.IntN(8) == 0
			write := func(tx storage.Tx) error {
				for _, write := range writes {
					if err := write(tx); err != nil {
						return err
					}
				}
				if fails {
					return errors.New("oops")
				}
				return nil
			}
			tickets = append(tickets, [2]*storage.Ticket{here.Submit(write), there.Submit(write)})
		}
		for i, pair := range tickets {
			got, want := pair[0].Wait(within(t)), pair[1].Wait(within(t))
			for _, err := range []error{storage.ErrNotFound, storage.ErrExists, storage.ErrFull, nil} {
				if errors.Is(got, err) != errors.Is(want, err) {
					t.Fatalf("round %d, operation %d: %v, want %v", round, i, got, want)
				}
			}
		}
		if round%10 == 9 {
			must(t, here.Close())
			must(t, Verify(path))
			here = reopen()
		}
		got, err := agreeDump(here)
		must(t, err)
		want, err := agreeDump(there)
		must(t, err)
		for what := range want {
			if !reflect.DeepEqual(got[what], want[what]) {
				t.Fatalf("round %d, %s:\n got %+v\nwant %+v", round, what, got[what], want[what])
			}
		}
	}

	more := true
	for more { // in steps, as the store itself does
		must(t, here.Submit(func(tx storage.Tx) (err error) {
			for _, owner := range agreeOwners {
				_ = tx.Accounts().Create(storage.Account{JID: owner})
				must(t, tx.Accounts().Delete(owner))
			}
			for _, id := range agreePeers {
				must(t, tx.Peers().Delete(id))
			}
			if _, err := tx.(*txn).move(math.MaxInt); err != nil {
				return err
			}
			more, err = tx.(*txn).clean(100)
			return err
		}).Wait(within(t)))
	}
	must(t, here.read(func(tx *bbolt.Tx) error {
		for in, b := range buckets {
			if n := tx.Bucket([]byte(b.name)).Stats().KeyN; n > 0 && bucket(in) != inMarks {
				t.Errorf("%d rows are left in %s", n, b.name)
			}
		}
		return nil
	}))
}
