package mem

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// A row is a message, which is kept while anybody refers to it.
type row struct {
	at       time.Time
	stanza   string
	archived []storage.Archived // where it is still
	others   int                // references from offline and spool
}

// A ref is a message's place in an archive, an offline queue or a spool, each sorted by number.
type ref struct {
	number uint64
	row    uint64
	form   storage.Form
	copies uint8
}

func byNumber(a ref, number uint64) int { return cmp.Compare(a.number, number) }

// insert adds r to list, which may be in use as it was.
func insert(list []ref, r ref) []ref {
	i, found := slices.BinarySearchFunc(list, r.number, byNumber)
	if i == len(list) {
		return append(list, r)
	}
	list = slices.Clone(list)
	if found {
		list[i] = r
		return list
	}
	return slices.Insert(list, i, r)
}

// next returns the next value of a counter.
func (tx *txn) next(c counter) (uint64, error) {
	n := tx.last[c] + 1
	return n, put(tx, tx.last, c, n)
}

// hold changes by how many places outside archives a message is referred to. The last reference
// takes the message with it.
func (tx *txn) hold(number uint64, by int) error {
	m := tx.messages[number]
	m.others += by
	return tx.keep(number, m)
}

func (tx *txn) keep(number uint64, m row) error {
	if m.others == 0 && len(m.archived) == 0 {
		return remove(tx, tx.messages, number)
	}
	return put(tx, tx.messages, number, m)
}

type messages struct{ *txn }

func (m messages) Add(message storage.Message) error {
	if err := m.add(message); err != nil {
		return fmt.Errorf("add message: %w", err)
	}
	return nil
}

func (m messages) add(message storage.Message) error {
	if !m.writable {
		return storage.ErrReadOnly
	}
	var number uint64
	var kept row
	list := m.archives[message.Earlier.Owner.Bare()]
	if i, found := slices.BinarySearchFunc(list, message.Earlier.ID, byNumber); found {
		number = list[i].row
		kept = m.txn.messages[number]
	} else {
		if message.Earlier.ID != 0 && message.Stanza == "" {
			return fmt.Errorf("message %d of %s: %w", message.Earlier.ID, message.Earlier.Owner, storage.ErrNotFound)
		}
		var err error
		if number, err = m.next(lastRow); err != nil {
			return err
		}
		kept = row{at: message.At.UTC().Round(0), stanza: message.Stanza}
		for _, a := range message.Archived {
			if a.With.IsZero() {
				return fmt.Errorf("archive of %s: the message has no other party", a.Owner)
			}
			a.Owner, a.With = a.Owner.Bare().Clone(), a.With.Clone()
			kept.archived = append(kept.archived, a)
			list := insert(m.archives[a.Owner], ref{number: a.ID, row: number})
			if err := put(m.txn, m.archives, a.Owner, list); err != nil {
				return err
			}
			if err := put(m.txn, m.last, lastID, max(m.last[lastID], a.ID)); err != nil {
				return err
			}
		}
	}
	if taken := message.Taken; taken.Number != 0 {
		err := offline(m).delete(taken.Owner.Bare(), func(r ref) bool { return r.number == taken.Number })
		if err != nil {
			return err
		}
	}
	if !message.Offline.IsZero() {
		owner := message.Offline.Bare().Clone()
		queue := m.offline[owner]
		if message.OfflineMax > 0 && len(queue) >= message.OfflineMax {
			return storage.ErrFull
		}
		n, err := m.next(lastOffline)
		if err != nil {
			return err
		}
		if err := put(m.txn, m.offline, owner, insert(queue, ref{number: n, row: number})); err != nil {
			return err
		}
		kept.others++
	}
	if err := put(m.txn, m.txn.messages, number, kept); err != nil {
		return err
	}
	for _, w := range message.Waiting {
		if _, ok := m.peers[w.Peer]; !ok {
			continue
		}
		list := m.spool[w.Peer]
		if i, found := slices.BinarySearchFunc(list, w.Number, byNumber); found {
			if err := m.hold(list[i].row, -1); err != nil {
				return err
			}
		}
		if err := put(m.txn, m.spool, w.Peer, insert(list, ref{w.Number, number, w.Form, w.Copies})); err != nil {
			return err
		}
		if err := m.hold(number, +1); err != nil {
			return err
		}
	}
	if err := m.hold(number, 0); err != nil {
		return err
	}
	return peers(m).count(message.Counted)
}

// idFor is the id of a message in the archive of owner, 0 if it is not there.
func (r row) idFor(owner jid.JID) uint64 {
	for _, a := range r.archived {
		if a.Owner == owner {
			return a.ID
		}
	}
	return 0
}

type offline struct{ *txn }

func (o offline) List(owner jid.JID, after uint64, limit int) ([]storage.OfflineMessage, error) {
	owner = owner.Bare()
	var list []storage.OfflineMessage
	for _, r := range o.txn.offline[owner] {
		if r.number <= after {
			continue
		}
		m := o.txn.messages[r.row]
		list = append(list, storage.OfflineMessage{Number: r.number, Received: m.at, Stanza: m.stanza, ID: m.idFor(owner)})
		if len(list) == limit {
			break
		}
	}
	return list, nil
}

func (o offline) Delete(owner jid.JID, through uint64) error {
	return o.delete(owner.Bare(), func(r ref) bool { return r.number <= through })
}

func (o offline) DeleteArchived(owner jid.JID) error {
	owner = owner.Bare()
	return o.delete(owner, func(r ref) bool { return o.txn.messages[r.row].idFor(owner) != 0 })
}

func (o offline) delete(owner jid.JID, gone func(ref) bool) error {
	if err := deleteRefs(o.txn, o.txn.offline, owner, gone); err != nil {
		return fmt.Errorf("delete offline messages of %s: %w", owner, err)
	}
	return nil
}

func (o offline) Count(owner jid.JID) (int, error) { return len(o.txn.offline[owner.Bare()]), nil }

func (tx *txn) eraseOffline(account jid.JID) error {
	return deleteRefs(tx, tx.offline, account, func(ref) bool { return true })
}

type peers struct{ *txn }

func (p peers) Put(peer storage.Peer) error {
	if old, ok := p.txn.peers[peer.ID]; ok {
		peer.Count = old.Count
	}
	peer.State = append([]byte(nil), peer.State...) // an empty one is none
	if err := put(p.txn, p.txn.peers, peer.ID, peer); err != nil {
		return fmt.Errorf("put peer %d: %w", peer.ID, err)
	}
	return nil
}

func (p peers) Delete(id uint64) error {
	err := remove(p.txn, p.txn.peers, id)
	if err == nil {
		err = deleteRefs(p.txn, p.spool, id, func(ref) bool { return true })
	}
	if err != nil {
		return fmt.Errorf("delete peer %d: %w", id, err)
	}
	return nil
}

func (p peers) All() ([]storage.Peer, error) {
	var list []storage.Peer
	for _, id := range slices.Sorted(maps.Keys(p.txn.peers)) {
		peer := p.txn.peers[id]
		peer.State = append([]byte(nil), peer.State...) // an empty one is none
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

func (p peers) count(c storage.Counted) error {
	if !p.writable {
		return storage.ErrReadOnly
	}
	peer, ok := p.txn.peers[c.Peer]
	if !ok || !c.After(peer.Count) {
		return nil
	}
	peer.Count = c.Count
	return put(p.txn, p.txn.peers, c.Peer, peer)
}

func (p peers) Waiting(id uint64) ([]storage.Unacknowledged, error) {
	var list []storage.Unacknowledged
	for _, r := range p.spool[id] {
		m := p.messages[r.row]
		list = append(list, storage.Unacknowledged{
			Number: r.number, Form: r.form, Copies: r.copies, At: m.at, Stanza: m.stanza,
			Archived: append([]storage.Archived(nil), m.archived...), // none is nil
		})
	}
	return list, nil
}

func (p peers) Acknowledged(id, through uint64) error {
	if err := deleteRefs(p.txn, p.spool, id, func(r ref) bool { return r.number <= through }); err != nil {
		return fmt.Errorf("acknowledgement of peer %d: %w", id, err)
	}
	return nil
}

func (p peers) Lost(id uint64, numbers []uint64, others []storage.Waiting) error {
	err := deleteRefs(p.txn, p.spool, id, func(r ref) bool { return slices.Contains(numbers, r.number) })
	for _, w := range others {
		list := slices.Clone(p.spool[w.Peer])
		i, found := slices.BinarySearchFunc(list, w.Number, byNumber)
		if err != nil || !found {
			continue
		}
		if list[i].copies > 0 {
			list[i].copies--
		}
		err = put(p.txn, p.spool, w.Peer, list)
	}
	if err != nil {
		return fmt.Errorf("loss of peer %d: %w", id, err)
	}
	return nil
}

func (p peers) Renumber(id uint64, changes []storage.Renumbered) error {
	list := slices.Clone(p.spool[id])
	for _, change := range changes {
		if i, found := slices.BinarySearchFunc(list, change.Old, byNumber); found {
			list[i].number = change.New // in the same order, so list stays sorted
		}
	}
	var err error
	if len(list) == 0 {
		err = remove(p.txn, p.spool, id)
	} else {
		err = put(p.txn, p.spool, id, list)
	}
	if err != nil {
		return fmt.Errorf("renumber for peer %d: %w", id, err)
	}
	return nil
}

// deleteRefs removes references to messages from outside of archives.
func deleteRefs[K comparable](tx *txn, lists map[K][]ref, key K, gone func(ref) bool) error {
	if !tx.writable {
		return storage.ErrReadOnly
	}
	var left []ref
	for _, r := range lists[key] {
		if !gone(r) {
			left = append(left, r)
		} else if err := tx.hold(r.row, -1); err != nil {
			return err
		}
	}
	if len(left) == 0 {
		return remove(tx, lists, key)
	}
	return put(tx, lists, key, left)
}
