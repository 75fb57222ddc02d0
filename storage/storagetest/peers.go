package storagetest

import (
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// spool gives a peer a count and three messages that wait for it.
func spool(tx storage.Tx, peer uint64) error {
	if err := tx.Peers().Put(storage.Peer{ID: peer, Kind: storage.ClientPeer, State: []byte("state")}); err != nil {
		return err
	}
	for number := uint64(1); number <= 3; number++ {
		m := waits(jid.JID{}, "spooled", 0)
		m.Waiting = []storage.Waiting{{Peer: peer, Number: number}}
		m.Counted = storage.Counted{Peer: peer, Count: uint32(number)}
		if err := tx.Messages().Add(m); err != nil {
			return err
		}
	}
	return nil
}

func allPeers(t *testing.T, s storage.Store) (list []storage.Peer) {
	t.Helper()
	view(t, s, func(tx storage.Tx) (err error) { list, err = tx.Peers().All(); return err })
	return list
}

func unacknowledged(t *testing.T, s storage.Store, peer uint64) (list []storage.Unacknowledged) {
	t.Helper()
	view(t, s, func(tx storage.Tx) (err error) { list, err = tx.Peers().Waiting(peer); return err })
	return list
}

func numbers(list []storage.Unacknowledged) (numbers []uint64) {
	for _, u := range list {
		numbers = append(numbers, u.Number)
	}
	return numbers
}

func testPeers(t *testing.T, s storage.Store) {
	equal(t, "none", allPeers(t, s), []storage.Peer(nil))
	put := func(p storage.Peer) { do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(p) }) }
	count := func(id uint64, n uint32) {
		do(t, s, func(tx storage.Tx) error { return tx.Peers().Count(storage.Counted{Peer: id, Count: n}) })
	}
	state := []byte("state")
	put(storage.Peer{ID: 1<<64 - 1, Kind: storage.OutgoingPeer, State: state, Count: 99})
	put(storage.Peer{ID: 1, Kind: storage.IncomingPeer})
	put(storage.Peer{ID: 256, Kind: storage.ClientPeer, State: []byte{}})
	state[0] = 'S'
	equal(t, "in order", allPeers(t, s), []storage.Peer{
		{ID: 1, Kind: storage.IncomingPeer}, {ID: 256, Kind: storage.ClientPeer},
		{ID: 1<<64 - 1, Kind: storage.OutgoingPeer, State: []byte("state"), Count: 99},
	})
	for _, n := range []uint32{1<<31 - 1, 1<<31 - 2, 1<<32 - 2, 1<<32 - 1, 1<<32 - 2} { // it does not go back
		count(256, n)
	}
	count(1, 7)
	do(t, s, add(storage.Message{Counted: storage.Counted{Peer: 1, Count: 8}}))
	put(storage.Peer{ID: 256, Kind: storage.ClientPeer, State: []byte("new"), Count: 1<<31 + 5}) // its count stays
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Delete(1<<64 - 1) })
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Delete(5) })
	equal(t, "counted", allPeers(t, s), []storage.Peer{
		{ID: 1, Kind: storage.IncomingPeer, Count: 8}, {ID: 256, Kind: storage.ClientPeer, Count: 1<<32 - 1, State: []byte("new")},
	})
	count(256, 0) // it wraps
	count(256, 1<<32-1)
	equal(t, "wrapped", allPeers(t, s)[1].Count, uint32(0))
	got := allPeers(t, s)
	got[1].State[0]++
	equal(t, "after the result changed", string(allPeers(t, s)[1].State), "new")
}

// testPeersGone: a late write for a peer that is gone leaves nothing behind.
func testPeersGone(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return spool(tx, 1) })
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Delete(1) })
	equal(t, "waiting", len(unacknowledged(t, s, 1)), 0)
	m := entered(1, romeo)
	m.Waiting = []storage.Waiting{{Peer: 1, Number: 4}}
	m.Counted = storage.Counted{Peer: 1, Count: 4}
	do(t, s, add(m))
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Count(storage.Counted{Peer: 1, Count: 5}) })
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Acknowledged(1, 5) })
	equal(t, "peers", len(allPeers(t, s)), 0)
	equal(t, "archived", len(page(t, s, juliet, storage.ArchiveQuery{}).Messages), 1)
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: 1}) })
	equal(t, "count of a new one", allPeers(t, s)[0].Count, uint32(0))
	equal(t, "waiting for a new one", len(unacknowledged(t, s, 1)), 0)
}

func testWaiting(t *testing.T, s storage.Store) {
	for _, id := range []uint64{1, 2} {
		do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: id}) })
	}
	m := entered(1, romeo)
	m.Archived = append(m.Archived, storage.Archived{Owner: romeo, ID: 2, With: juliet})
	m.Waiting = []storage.Waiting{
		{Peer: 1, Number: 1 << 40, Form: storage.CarbonSent, Copies: 255}, {Peer: 2, Number: 3},
		{Peer: 1, Number: 1<<40 + 1, Form: storage.CarbonReceived},
	}
	do(t, s, add(m))
	plain := waits(jid.JID{}, "plain", 0)
	plain.Waiting = []storage.Waiting{{Peer: 1, Number: 7, Copies: 2}}
	do(t, s, add(plain))
	want := []storage.Unacknowledged{
		{Number: 7, Copies: 2, At: plain.At, Stanza: plain.Stanza},
		{Number: 1 << 40, Form: storage.CarbonSent, Copies: 255, At: m.At, Stanza: m.Stanza, Archived: m.Archived},
		{Number: 1<<40 + 1, Form: storage.CarbonReceived, At: m.At, Stanza: m.Stanza, Archived: m.Archived},
	}
	equal(t, "waiting", unacknowledged(t, s, 1), want)
	acknowledged := func(id, through uint64) {
		do(t, s, func(tx storage.Tx) error { return tx.Peers().Acknowledged(id, through) })
	}
	acknowledged(1, 6)
	acknowledged(3, 6)
	equal(t, "waiting", unacknowledged(t, s, 1), want)
	acknowledged(1, 1<<40)
	equal(t, "waiting", unacknowledged(t, s, 1), want[2:])
	acknowledged(1, 1<<64-1)
	equal(t, "waiting", unacknowledged(t, s, 1), []storage.Unacknowledged(nil))
	equal(t, "waiting for another", numbers(unacknowledged(t, s, 2)), []uint64{3})
	// In the place of another.
	plain.Waiting = []storage.Waiting{{Peer: 2, Number: 3}}
	do(t, s, add(plain))
	equal(t, "waiting for another", unacknowledged(t, s, 2)[0].Stanza, plain.Stanza)
}

// testLost: what one of several peers will never get is a copy less for the others.
func testLost(t *testing.T, s storage.Store) {
	for _, id := range []uint64{1, 2, 3} {
		do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: id}) })
	}
	for number := uint64(1); number <= 3; number++ {
		m := waits(jid.JID{}, "shared", 0)
		for _, id := range []uint64{1, 2, 3} {
			m.Waiting = append(m.Waiting, storage.Waiting{Peer: id, Number: number + id, Form: storage.Form(id % 2), Copies: 3})
		}
		do(t, s, add(m))
	}
	lost := func(id uint64, numbers []uint64, others ...storage.Waiting) {
		do(t, s, func(tx storage.Tx) error { return tx.Peers().Lost(id, numbers, others) })
	}
	state := func(id uint64) (list [][3]uint64) {
		for _, u := range unacknowledged(t, s, id) {
			list = append(list, [3]uint64{u.Number, uint64(u.Copies), uint64(u.Form)})
		}
		return list
	}
	lost(1, []uint64{3, 4, 9}, storage.Waiting{Peer: 2, Number: 4}, storage.Waiting{Peer: 3, Number: 5}, storage.Waiting{Peer: 2, Number: 5},
		storage.Waiting{Peer: 3, Number: 9}, storage.Waiting{Peer: 4, Number: 4})
	equal(t, "of the one that lost them", state(1), [][3]uint64{{2, 3, 1}})
	equal(t, "of another", state(2), [][3]uint64{{3, 3, 0}, {4, 2, 0}, {5, 2, 0}})
	equal(t, "of a third", state(3), [][3]uint64{{4, 3, 1}, {5, 2, 1}, {6, 3, 1}})
	lost(0, nil, storage.Waiting{Peer: 2, Number: 4}, storage.Waiting{Peer: 2, Number: 4}, storage.Waiting{Peer: 2, Number: 4})
	equal(t, "below nothing", state(2), [][3]uint64{{3, 3, 0}, {4, 0, 0}, {5, 2, 0}})
	lost(2, []uint64{3, 4, 5})
	lost(3, []uint64{4, 5, 6})
	lost(1, []uint64{2})
	equal(t, "in the end", len(state(1))+len(state(2))+len(state(3)), 0)
}

func testRenumber(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: 1}) })
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Put(storage.Peer{ID: 2}) })
	stanzas := make(map[uint64]string)
	for _, number := range []uint64{3, 4, 8, 9} {
		m := entered(number, romeo)
		m.Waiting = []storage.Waiting{{Peer: 1, Number: number}, {Peer: 2, Number: number}}
		do(t, s, add(m))
		stanzas[number] = m.Stanza
	}
	do(t, s, func(tx storage.Tx) error {
		return tx.Peers().Renumber(1, []storage.Renumbered{{Old: 3, New: 1}, {Old: 4, New: 4}, {Old: 6, New: 5}, {Old: 8, New: 6}, {Old: 9, New: 8}})
	})
	list := unacknowledged(t, s, 1)
	equal(t, "numbers", numbers(list), []uint64{1, 4, 6, 8})
	for i, number := range []uint64{3, 4, 8, 9} {
		equal(t, "stanza", list[i].Stanza, stanzas[number])
	}
	equal(t, "of another", numbers(unacknowledged(t, s, 2)), []uint64{3, 4, 8, 9})
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Acknowledged(1, 6) })
	equal(t, "numbers", numbers(unacknowledged(t, s, 1)), []uint64{8})
	do(t, s, func(tx storage.Tx) error { return tx.Peers().Renumber(3, []storage.Renumbered{{Old: 8, New: 1}}) })
}

// testFailedAdd: what Add refuses, and an operation that fails behind Add, leave nothing.
func testFailedAdd(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return spool(tx, 1) })
	do(t, s, add(waits(nurse, "m", 0)))
	before := dump(t, s)
	m := entered(9, romeo)
	m.Archived = append(m.Archived, storage.Archived{Owner: romeo, ID: 10, With: juliet})
	m.Waiting = []storage.Waiting{{Peer: 1, Number: 2}, {Peer: 1, Number: 9}}
	m.Counted = storage.Counted{Peer: 1, Count: 9}
	m.Offline, m.OfflineMax = nurse, 1
	errs := together(t, s, add(m), func(tx storage.Tx) error {
		m.OfflineMax = 0
		if err := tx.Messages().Add(m); err != nil {
			return err
		}
		return errOops
	})
	wantErr(t, "full", errs[0], storage.ErrFull)
	wantErr(t, "failing operation", errs[1], errOops)
	equal(t, "state", dump(t, s), before)
	do(t, s, add(m))
	equal(t, "waiting", numbers(unacknowledged(t, s, 1)), []uint64{1, 2, 3, 9})
	equal(t, "archived", ids(page(t, s, romeo, storage.ArchiveQuery{}).Messages), []uint64{10})
}
