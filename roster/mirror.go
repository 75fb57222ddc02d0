package roster

import (
	"iter"

	"tombolo/xmpp/jid"
)

// A mirror is a table of one user in memory, with the writes to it that are on their way to the
// store. kept is what is announced to others; latest is what the next change is made from. A write
// that fails leaves kept as it was, and takes what it had put ahead with it. It is made with kept.
type mirror[V any] struct {
	kept  map[jid.JID]V
	ahead map[jid.JID]*ahead[V]
}

// ahead is the newest value on its way for a key.
type ahead[V any] struct {
	value  V
	exists bool
	writes int // how many are on their way
}

// latest is the value as it will be.
func (m *mirror[V]) latest(key jid.JID) (value V, exists bool) {
	if a := m.ahead[key]; a != nil {
		return a.value, a.exists
	}
	value, exists = m.kept[key]
	return value, exists
}

// all yields the latest values, in no order.
func (m *mirror[V]) all() iter.Seq2[jid.JID, V] {
	return func(yield func(jid.JID, V) bool) {
		for key, value := range m.kept {
			if m.ahead[key] == nil && !yield(key, value) {
				return
			}
		}
		for key, a := range m.ahead {
			if a.exists && !yield(key, a.value) {
				return
			}
		}
	}
}

// size is how many latest values there are.
func (m *mirror[V]) size() int {
	n := 0
	for range m.all() {
		n++
	}
	return n
}

// put notes that a write of value, or the deletion of the key, was submitted. The function that it
// returns is called once, in the order of the writes, with the outcome.
func (m *mirror[V]) put(key jid.JID, value V, exists bool) (settle func(error)) {
	if m.ahead == nil {
		m.ahead = make(map[jid.JID]*ahead[V])
	}
	a := m.ahead[key]
	if a == nil {
		a = new(ahead[V])
		m.ahead[key] = a
	}
	a.value, a.exists = value, exists
	a.writes++
	return func(err error) {
		switch {
		case err != nil:
		case exists:
			m.kept[key] = value
		default:
			delete(m.kept, key)
		}
		if a.writes--; a.writes == 0 {
			delete(m.ahead, key)
		}
	}
}
