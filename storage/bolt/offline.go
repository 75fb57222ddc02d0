package bolt

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

type offline struct{ *txn }

// add lets a message wait, which the caller holds. ErrFull.
func (o offline) add(owner []byte, h holding, max int) error {
	count, counter, err := o.count(owner)
	if err != nil {
		return err
	}
	if max > 0 && count >= uint64(max) {
		return storage.ErrFull
	}
	// A number taken by an operation that then fails is skipped.
	number, err := o.bucket(inOffline).NextSequence()
	if err != nil {
		return err
	}
	if err := o.replace(inOffline, owner, counter, encodeNumber(count+1)); err != nil {
		return err
	}
	return o.replace(inOffline, numberKey(owner, number), nil, encodeOffline(h))
}

func (o offline) List(owner jid.JID, after uint64, limit int) ([]storage.OfflineMessage, error) {
	var list []storage.OfflineMessage
	if after == math.MaxUint64 {
		return nil, nil
	}
	key := ownerKey(owner)
	account, err := o.archiveOf(key)
	if err != nil {
		return nil, err
	}
	for k, value := range o.scan(inOffline, key, numberKey(key, after+1)) {
		m := storage.OfflineMessage{Number: binary.BigEndian.Uint64(k[len(key):])}
		h, err := peekOffline(value)
		m.Received, m.Stanza = h.at, strings.Clone(h.stanza)
		if err == nil && h.number != 0 {
			var row message
			row, err = o.message(h.number)
			m.Received, m.Stanza = row.at, row.stanza
			if err == nil {
				m.ID, err = o.idIn(account, h.number, row.places)
			}
		}
		if err != nil {
			return nil, damaged(inOffline, k, err)
		}
		if list = append(list, m); len(list) == limit {
			break
		}
	}
	return list, nil
}

// deleteOne removes a message if it is there.
func (o offline) deleteOne(owner []byte, number uint64) error {
	return o.deleteIf(owner, number, func(n, _ uint64) (gone, more bool, err error) {
		return n == number, false, nil
	})
}

func (o offline) Delete(owner jid.JID, through uint64) error {
	err := o.deleteIf(ownerKey(owner), 0, func(number, _ uint64) (gone, more bool, err error) {
		return number <= through, number < through, nil
	})
	if err != nil {
		return fmt.Errorf("delete offline messages of %s: %w", owner, err)
	}
	return nil
}

func (o offline) DeleteArchived(owner jid.JID) error {
	key := ownerKey(owner)
	account, err := o.archiveOf(key)
	if err == nil {
		err = o.deleteIf(key, 0, func(_, number uint64) (gone, more bool, err error) {
			if number == 0 || account == 0 {
				return false, true, nil
			}
			row, err := o.message(number)
			if err != nil {
				return false, false, err
			}
			id, err := o.idIn(account, number, row.places)
			return id != 0, true, err
		})
	}
	if err != nil {
		return fmt.Errorf("delete archived offline messages of %s: %w", owner, err)
	}
	return nil
}

func (t *txn) eraseOffline(owner []byte) error {
	return offline{t}.deleteIf(owner, 0, func(uint64, uint64) (gone, more bool, err error) { return true, true, nil })
}

// deleteIf removes those messages of an owner, from a number on, that judge says are gone. It is given the
// number in the queue and that in messages, 0 for none.
func (o offline) deleteIf(owner []byte, from uint64, judge func(number, message uint64) (gone, more bool, err error)) error {
	if !o.writable {
		return storage.ErrReadOnly
	}
	count, counter, err := o.count(owner)
	if err != nil || count == 0 {
		return err
	}
	type row struct {
		key, value []byte
		message    uint64
	}
	rows := make([]row, 0, min(count, 256))
	for k, value := range o.scan(inOffline, owner, numberKey(owner, from)) {
		h, err := peekOffline(value)
		if err != nil {
			return damaged(inOffline, k, err)
		}
		gone, more, err := judge(binary.BigEndian.Uint64(k[len(owner):]), h.number)
		if err != nil {
			return err
		}
		if gone {
			rows = append(rows, row{k, value, h.number})
		}
		if !more {
			break
		}
	}
	for _, r := range rows {
		if err := o.deleteKnown(inOffline, r.key, r.value); err != nil {
			return err
		}
		if err := o.hold(r.message, -1); err != nil {
			return err
		}
	}
	switch uint64(len(rows)) {
	case 0:
		return nil
	case count:
		return o.deleteKnown(inOffline, owner, counter)
	}
	return o.replace(inOffline, owner, counter, encodeNumber(count-uint64(len(rows))))
}

func (o offline) Count(owner jid.JID) (int, error) {
	n, _, err := o.count(ownerKey(owner))
	if err != nil {
		return 0, fmt.Errorf("count offline messages of %s: %w", owner, err)
	}
	return int(n), nil
}

// count reads how many messages an owner has, which a row says, nil if there are none: counting them would
// make each append as slow as the queue is long.
func (o offline) count(owner []byte) (n uint64, row []byte, err error) {
	row = o.get(inOffline, owner)
	if row == nil {
		return 0, nil, nil
	}
	if n, err = decodeNumber(row); err != nil {
		return 0, nil, damaged(inOffline, owner, err)
	}
	return n, row, nil
}
