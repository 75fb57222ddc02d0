package bolt

import (
	"bytes"
	"iter"
	"slices"

	"go.etcd.io/bbolt"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// A txn is a bbolt transaction as storage sees it.
//
// bbolt can only forget a transaction as a whole, and here a transaction holds the operations of
// many callers. So a txn remembers what each write replaced, and rollback puts that back when an
// operation fails: the others need not run again, however many fail.
type txn struct {
	tx       *bbolt.Tx
	writable bool
	sizes    sizes
	tail     *tail                        // the store's; nil: none is kept
	durable  struct{ moved, last uint64 } // numbers of messages, when the transaction began
	archives map[jid.JID]uint64           // the store's memory of owners' archives; nil in a View
	added    int                          // messages
	retired  bool                         // an archive was
	buckets  [len(buckets)]*bbolt.Bucket  // opened so far
	undo     []write                      // of the operation at work, in order
}

// A write is a key that an operation wrote and the value it had before, nil for none. Both are
// bbolt's or the caller's memory, which does not change before the transaction ends.
type write struct {
	in       bucket
	key, old []byte
}

func (t *txn) Accounts() storage.Accounts         { return accounts{t} }
func (t *txn) Clients() storage.Clients           { return clients{t} }
func (t *txn) Rosters() storage.Rosters           { return rosters{t} }
func (t *txn) Messages() storage.Messages         { return messages{t} }
func (t *txn) Archive() storage.Archive           { return archive{t} }
func (t *txn) Offline() storage.Offline           { return offline{t} }
func (t *txn) Peers() storage.Peers               { return peers{t} }
func (t *txn) LastPresence() storage.LastPresence { return lastPresence{t} }
func (t *txn) Blocklists() storage.Blocklists     { return blocklists{t} }
func (t *txn) Private() storage.Documents         { return documents{t, inPrivate} }
func (t *txn) VCards() storage.Documents          { return documents{t, inVCards} }
func (t *txn) Settings() storage.Documents        { return documents{t, inSettings} }
func (t *txn) Secrets() storage.Secrets           { return secrets{t} }

func (t *txn) bucket(in bucket) *bbolt.Bucket {
	if t.buckets[in] == nil {
		t.buckets[in] = t.tx.Bucket([]byte(buckets[in].name))
	}
	return t.buckets[in]
}

// get returns the value of a key, nil when there is none. It lives as long as the transaction.
func (t *txn) get(in bucket, key []byte) []byte {
	return t.bucket(in).Get(key)
}

// put sets a key. Neither slice may be changed afterwards; value is never empty.
func (t *txn) put(in bucket, key, value []byte) error {
	if !t.writable {
		return storage.ErrReadOnly
	}
	return t.replace(in, key, t.get(in, key), value)
}

// replace is put where the value that the key has is known.
func (t *txn) replace(in bucket, key, old, value []byte) error {
	t.undo = append(t.undo, write{in, key, old})
	return t.bucket(in).Put(key, value)
}

// append sets a key that is not there and sorts behind all others.
func (t *txn) append(in bucket, key, value []byte) error {
	if !t.writable {
		return storage.ErrReadOnly
	}
	b := t.bucket(in)
	b.FillPercent = 1 // nothing will ever be put between
	t.undo = append(t.undo, write{in, key, nil})
	return b.Put(key, value)
}

// delete removes a key if it is there.
func (t *txn) delete(in bucket, key []byte) error {
	if !t.writable {
		return storage.ErrReadOnly
	}
	old := t.get(in, key)
	if old == nil {
		return nil
	}
	return t.deleteKnown(in, key, old)
}

// deleteKnown is delete where the value that the key has is known.
func (t *txn) deleteKnown(in bucket, key, old []byte) error {
	t.undo = append(t.undo, write{in, key, old})
	return t.bucket(in).Delete(key)
}

// deleteAll removes every key with a prefix.
func (t *txn) deleteAll(in bucket, prefix []byte) error {
	if !t.writable {
		return storage.ErrReadOnly
	}
	for key := range t.scan(in, prefix, prefix) {
		if err := t.delete(in, key); err != nil {
			return err
		}
	}
	return nil
}

// scan yields the keys that begin with prefix, in order, starting at from. The loop may write, but where that is
// most rows of it, it is cheaper to do so afterwards.
func (t *txn) scan(in bucket, prefix, from []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		c := t.bucket(in).Cursor()
		key, value := c.Seek(from)
		for key != nil && bytes.HasPrefix(key, prefix) {
			writes := len(t.undo)
			if !yield(key, value) {
				return
			}
			if len(t.undo) == writes {
				key, value = c.Next()
			} else { // a write leaves the cursor nowhere
				key, value = c.Seek(append(bytes.Clone(key), 0))
			}
		}
	}
}

// rollback takes back what the operation wrote, last first.
func (t *txn) rollback() error {
	clear(t.archives)
	for _, w := range slices.Backward(t.undo) {
		var err error
		if w.old == nil {
			err = t.bucket(w.in).Delete(w.key)
		} else {
			err = t.bucket(w.in).Put(w.key, w.old)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
