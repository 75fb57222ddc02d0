package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"tombolo/xmpp/jid"
)

// checkReferences checks that messages, archives, offline and spool agree, each row of which is sound.
func (t *txn) checkReferences() error {
	moved, err := t.mark(movedMark)
	if err != nil {
		return err
	}
	if err := t.checkHeld(moved); err != nil {
		return err
	}
	for k, value := range t.scan(inMessages, nil, nil) {
		needed, err := t.needed(k, value, moved)
		if err != nil {
			return err
		}
		if !needed {
			return damaged(inMessages, k, fmt.Errorf("nobody has it: %w", errDamaged))
		}
	}
	return t.checkLists(moved)
}

// checkHeld checks who waits for messages, and that they are counted.
func (t *txn) checkHeld(moved uint64) error {
	holders := make(map[uint64]uint64)
	hold := func(in bucket, k []byte, message uint64) error {
		holders[message]++
		if t.get(inMessages, key(message)) == nil {
			return damaged(in, k, fmt.Errorf("message %d is missing: %w", message, errDamaged))
		}
		return nil
	}
	for k, value := range t.scan(inOffline, nil, nil) {
		if _, _, number, _ := cutJID(k); len(number) == 0 {
			continue
		}
		h, err := peekOffline(value)
		if err == nil && h.number != 0 {
			err = hold(inOffline, k, h.number)
		}
		if err != nil {
			return err
		}
	}
	for k, value := range t.scan(inSpool, nil, nil) {
		row, err := peekSpooled(value)
		if err == nil && row.number != 0 {
			err = hold(inSpool, k, row.number)
		}
		if err != nil {
			return err
		}
		if !row.counted {
			if holders[row.number]--; holders[row.number] == 0 {
				delete(holders, row.number)
			}
			if row.number <= moved {
				return damaged(inSpool, k, fmt.Errorf("not counted: %w", errDamaged))
			}
		}
	}
	for k, value := range t.scan(inHeld, nil, nil) {
		message := binary.BigEndian.Uint64(k)
		n, err := decodeNumber(value)
		if err == nil && n != holders[message] {
			err = fmt.Errorf("it says %d instead of %d: %w", n, holders[message], errDamaged)
		}
		if err != nil {
			return damaged(inHeld, k, err)
		}
		delete(holders, message)
	}
	if len(holders) > 0 {
		return fmt.Errorf("%d messages that are waited for are not counted: %w", len(holders), errDamaged)
	}
	return nil
}

// needed says whether anybody has a message, or did until the account was deleted.
func (t *txn) needed(k, value []byte, moved uint64) (bool, error) {
	if t.get(inHeld, k) != nil {
		return true, nil
	}
	number := binary.BigEndian.Uint64(k)
	m, err := peekMessage(value)
	if err != nil {
		return false, damaged(inMessages, k, err)
	}
	if len(m.places) > 0 && number > moved {
		return true, nil
	}
	for _, p := range m.places {
		if t.get(inRetired, key(p.archive)) != nil {
			return true, nil
		}
		if has, err := t.has(p, number); has || err != nil {
			return has, err
		}
	}
	return false, nil
}

// checkLists checks that each list has messages that are its own, and how many.
func (t *txn) checkLists(moved uint64) error {
	inAll, withContact := make(map[uint64]int), make(map[uint64]int) // by archive
	inList := make(map[list]uint64)
	for _, in := range []bucket{inChunks, inHeads} {
		for k, value := range t.scan(in, nil, nil) {
			l := list(k[:len(list{})])
			archive := binary.BigEndian.Uint64(k)
			if t.get(inRetired, key(archive)) != nil {
				continue
			}
			c, sealed, err := decodeChunk(value)
			if err != nil {
				return damaged(in, k, err)
			}
			if in == inChunks {
				inList[l] += uint64(c.n)
			} else if inList[l] != sealed {
				return damaged(in, k, fmt.Errorf("it says %d instead of %d: %w", sealed, inList[l], errDamaged))
			} else {
				delete(inList, l)
			}
			everybody := l == listOf(archive, jid.JID{})
			if everybody {
				inAll[archive] += c.n
			} else {
				withContact[archive] += c.n
			}
			postings, err := c.postings()
			if err != nil {
				return damaged(in, k, err)
			}
			for _, p := range postings {
				m, err := peekMessage(t.get(inMessages, key(p.number)))
				if err != nil {
					return damaged(in, k, fmt.Errorf("message %d: %w", p.number, err))
				}
				ok := p.number <= moved && p.second == m.at.Unix() && slices.ContainsFunc(m.places, func(place place) bool {
					with, err := jid.Parse(place.with)
					return err == nil && place.archive == archive && place.id == p.id && (everybody || listOf(archive, with) == l)
				})
				if !ok {
					return damaged(in, k, fmt.Errorf("message %d does not belong there: %w", p.number, errDamaged))
				}
			}
		}
	}
	if len(inList) > 0 {
		return fmt.Errorf("%d lists have no head: %w", len(inList), errDamaged)
	}
	for archive, n := range inAll {
		if withContact[archive] != n {
			return fmt.Errorf("archive %d has %d messages, with its contacts %d: %w", archive, n, withContact[archive], errDamaged)
		}
	}
	for k, value := range t.scan(inArchives, nil, nil) {
		number, err := decodeNumber(value)
		if err != nil {
			return damaged(inArchives, k, err)
		}
		owner, err := decodeBlob(t.get(inOwners, key(number)))
		if err != nil || !bytes.Equal([]byte(owner), k) {
			return damaged(inArchives, k, fmt.Errorf("it is of %q: %w", owner, errDamaged))
		}
	}
	return nil
}
