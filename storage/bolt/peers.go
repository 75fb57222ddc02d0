package bolt

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

type peers struct{ *txn }

func (p peers) Put(peer storage.Peer) error {
	k := key(peer.ID)
	err := p.put(inPeers, k, encodePeer(peer))
	if err == nil && p.get(inCounts, k) == nil {
		err = p.put(inCounts, k, encodeNumber(uint64(peer.Count)))
	}
	if err != nil {
		return fmt.Errorf("put peer %d: %w", peer.ID, err)
	}
	return nil
}

func (p peers) Delete(id uint64) error {
	k := key(id)
	err := p.acknowledged(id, math.MaxUint64)
	if err == nil {
		err = p.delete(inCounts, k)
	}
	if err == nil {
		err = p.delete(inPeers, k)
	}
	if err != nil {
		return fmt.Errorf("delete peer %d: %w", id, err)
	}
	return nil
}

func (p peers) All() ([]storage.Peer, error) {
	var list []storage.Peer
	for k, value := range p.scan(inPeers, nil, nil) {
		peer, err := decodePeer(k, value)
		if err != nil {
			return nil, damaged(inPeers, k, err)
		}
		count, err := decodeNumber(p.get(inCounts, k))
		if err != nil {
			return nil, damaged(inCounts, k, err)
		}
		peer.Count = uint32(count)
		list = append(list, peer)
	}
	return list, nil
}

func (p peers) Count(c storage.Counted) error {
	if err := p.count(c); err != nil {
		return fmt.Errorf("count of peer %d: %w", c.Peer, err)
	}
	return nil
}

// count is Count; a peer that is not there has none.
func (p peers) count(c storage.Counted) error {
	if !p.writable {
		return storage.ErrReadOnly
	}
	if c.Peer == 0 {
		return nil
	}
	k := key(c.Peer)
	old := p.get(inCounts, k)
	if old == nil {
		return nil
	}
	count, err := decodeNumber(old)
	if err != nil {
		return damaged(inCounts, k, err)
	}
	if !c.After(uint32(count)) {
		return nil
	}
	return p.replace(inCounts, k, old, encodeNumber(uint64(c.Count)))
}

// kept says whether there is such a peer.
func (p peers) kept(id uint64) bool { return p.get(inCounts, key(id)) != nil }

// add lets a message wait for a peer. If counted, the caller holds it.
func (p peers) add(w storage.Waiting, h holding, counted bool) error {
	k := key(w.Peer, w.Number)
	if old := p.get(inSpool, k); old != nil {
		if err := p.drop(k, old); err != nil {
			return err
		}
	}
	return p.replace(inSpool, k, nil, spooled{h, w.Form, w.Copies, counted}.encode())
}

// drop removes a row of the spool.
func (p peers) drop(k, value []byte) error {
	row, err := peekSpooled(value)
	if err != nil {
		return damaged(inSpool, k, err)
	}
	if err := p.deleteKnown(inSpool, k, value); err != nil || !row.counted {
		return err
	}
	return p.hold(row.number, -1)
}

func (p peers) Waiting(id uint64) ([]storage.Unacknowledged, error) {
	var list []storage.Unacknowledged
	prefix := key(id)
	for k, value := range p.scan(inSpool, prefix, prefix) {
		u, err := p.unacknowledged(k, value)
		if err != nil {
			return nil, damaged(inSpool, k, err)
		}
		list = append(list, u)
	}
	return list, nil
}

func (p peers) unacknowledged(k, value []byte) (u storage.Unacknowledged, err error) {
	if len(k) != 16 {
		return u, errDamaged
	}
	u.Number = binary.BigEndian.Uint64(k[8:])
	row, err := peekSpooled(value)
	if err != nil {
		return u, err
	}
	u.Form, u.Copies, u.At, u.Stanza = row.form, row.copies, row.at, strings.Clone(row.stanza)
	if row.number == 0 {
		return u, nil
	}
	m, err := p.message(row.number)
	if err != nil {
		return u, err
	}
	u.At, u.Stanza = m.at, m.stanza
	for _, place := range m.places {
		has, err := p.has(place, row.number)
		if err != nil {
			return u, err
		}
		owner, live, err := p.owner(place.archive)
		if err != nil {
			return u, err
		}
		if !has || !live {
			continue
		}
		with, err := jid.Parse(place.with)
		if err != nil {
			return u, err
		}
		u.Archived = append(u.Archived, storage.Archived{Owner: owner, ID: place.id, With: with})
	}
	return u, nil
}

func (p peers) Acknowledged(id, through uint64) error {
	if err := p.acknowledged(id, through); err != nil {
		return fmt.Errorf("acknowledgement of peer %d: %w", id, err)
	}
	return nil
}

func (p peers) acknowledged(id, through uint64) error {
	if !p.writable {
		return storage.ErrReadOnly
	}
	prefix := key(id)
	type row struct{ key, value []byte }
	rows := make([]row, 0, 16)
	for k, value := range p.scan(inSpool, prefix, prefix) {
		if binary.BigEndian.Uint64(k[8:]) > through {
			break
		}
		rows = append(rows, row{k, value})
	}
	for _, r := range rows {
		if err := p.drop(r.key, r.value); err != nil {
			return err
		}
	}
	return nil
}

func (p peers) Lost(id uint64, numbers []uint64, others []storage.Waiting) error {
	if err := p.lost(id, numbers, others); err != nil {
		return fmt.Errorf("loss of peer %d: %w", id, err)
	}
	return nil
}

func (p peers) lost(id uint64, numbers []uint64, others []storage.Waiting) error {
	if !p.writable {
		return storage.ErrReadOnly
	}
	for _, number := range numbers {
		k := key(id, number)
		if value := p.get(inSpool, k); value != nil {
			if err := p.drop(k, value); err != nil {
				return err
			}
		}
	}
	for _, w := range others {
		k := key(w.Peer, w.Number)
		value := p.get(inSpool, k)
		if value == nil {
			continue
		}
		row, err := peekSpooled(value)
		if err != nil {
			return damaged(inSpool, k, err)
		}
		if row.copies > 0 {
			row.copies--
		}
		if err := p.replace(inSpool, k, value, row.encode()); err != nil {
			return err
		}
	}
	return nil
}

func (p peers) Renumber(id uint64, changes []storage.Renumbered) error {
	if err := p.renumber(id, changes); err != nil {
		return fmt.Errorf("renumber for peer %d: %w", id, err)
	}
	return nil
}

func (p peers) renumber(id uint64, changes []storage.Renumbered) error {
	if !p.writable {
		return storage.ErrReadOnly
	}
	for _, change := range changes {
		k := key(id, change.Old)
		value := p.get(inSpool, k)
		if value == nil || change.New == change.Old {
			continue
		}
		if err := p.delete(inSpool, k); err != nil {
			return err
		}
		if err := p.put(inSpool, key(id, change.New), value); err != nil {
			return err
		}
	}
	return nil
}

func encodePeer(peer storage.Peer) []byte {
	e := newRow(2 + len(peer.State))
	e.uint(uint64(peer.Kind))
	e.bytes(peer.State)
	return e
}

func decodePeer(key, value []byte) (peer storage.Peer, err error) {
	if len(key) != 8 {
		return peer, errDamaged
	}
	peer.ID = binary.BigEndian.Uint64(key)
	d := readRow(value)
	peer.Kind = storage.PeerKind(d.uint())
	if state := d.string(); state != "" {
		peer.State = []byte(state)
	}
	return peer, d.end()
}

// A spooled is a row of the spool.
type spooled struct {
	holding
	form    storage.Form
	copies  uint8
	counted bool // in held, or there is nothing to count; else the message is of an archive and not moved yet
}

func (s spooled) encode() []byte {
	if s.number == 0 {
		e := newRow(len(s.stanza))
		e[0] = spoolVersion
		e.uint(uint64(s.form))
		e.uint(uint64(s.copies))
		e.time(s.at)
		e.string(s.stanza)
		return e
	}
	e := newRow(0)
	e.flags(s.counted)
	e.uint(uint64(s.form))
	e.uint(uint64(s.copies))
	e.uint(s.number)
	return e
}

// peekSpooled reads a row without copying it: the stanza ends with the transaction.
func peekSpooled(value []byte) (s spooled, err error) {
	d, version := peekVersionedRow(value, spoolVersion)
	if version == spoolVersion {
		s.counted = true
		s.form = storage.Form(d.uint())
		s.copies = uint8(d.uint())
		s.at = d.time()
		s.stanza = d.string()
		return s, d.end()
	}
	d.flags(&s.counted)
	s.form = storage.Form(d.uint())
	s.copies = uint8(d.uint())
	if s.number = d.uint(); s.number == 0 {
		d.fail()
	}
	return s, d.end()
}

func checkPeer(key, value []byte) error {
	_, err := decodePeer(key, value)
	return err
}

func checkSpool(key, value []byte) error {
	if len(key) != 16 {
		return errDamaged
	}
	_, err := peekSpooled(value)
	return err
}
