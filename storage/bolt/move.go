package bolt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// Messages are written at the end of one bucket, in order of the commits. That is cheap, and it is all that
// their senders wait for. Later they are moved, some thousands at once: entered in the lists of their
// archives. Until then whoever reads an archive looks at all that are not moved yet, which a mark tells,
// so every snapshot is exact by itself.

// sizes say how much is done at once.
type sizes struct {
	move  int // that many messages are moved at once
	quiet int // or that many, when nothing has been written for quietTime
	chunk int // postings in a chunk that is full
	slack int // more than that are in a head before it is split
	clean int // messages of a deleted account that are removed at once
}

var usualSizes = sizes{move: 4096, quiet: 512, chunk: 256, slack: 32, clean: 512}

const quietTime = 5 * time.Second

// A mover submits operations of the store's own.
type mover struct {
	sizes    sizes
	submit   func(func(storage.Tx) error) *storage.Ticket
	unmoved  atomic.Int64 // messages, about
	moving   atomic.Bool
	quiet    *time.Timer
	retired  atomic.Bool // there may be archives to clean
	cleaning atomic.Bool
}

func (m *mover) start(submit func(func(storage.Tx) error) *storage.Ticket) {
	m.submit = submit
	m.quiet = time.AfterFunc(quietTime, m.calm)
}

// unfinished says how many messages are not moved yet, about, and whether there are archives to clean.
func (t *txn) unfinished() (unmoved int, retired bool, err error) {
	moved, err := t.mark(movedMark)
	if last, _ := t.bucket(inMessages).Cursor().Last(); last != nil {
		unmoved = int(max(binary.BigEndian.Uint64(last), moved) - moved)
	}
	first, _ := t.bucket(inRetired).Cursor().First()
	return unmoved, first != nil, err
}

// committed is called after each commit.
func (m *mover) committed(added int, retired bool) {
	if added > 0 {
		if m.unmoved.Add(int64(added)) >= int64(m.sizes.move) {
			m.move()
		} else {
			m.quiet.Reset(quietTime)
		}
	}
	if retired {
		m.clean()
	}
}

func (m *mover) calm() {
	if m.unmoved.Load() >= int64(m.sizes.quiet) {
		m.move()
	}
}

func (m *mover) move() {
	if !m.moving.CompareAndSwap(false, true) {
		return
	}
	n := 0
	m.submit(func(tx storage.Tx) (err error) {
		n, err = tx.(*txn).move(2 * m.sizes.move)
		return err
	}).Then(func(err error) {
		if err == nil && n < 2*m.sizes.move {
			m.unmoved.Store(0) // what was added meanwhile is counted when it is committed
		} else if err == nil {
			m.unmoved.Add(-int64(n))
		}
		m.moving.Store(false)
	})
}

// clean removes what is left of deleted accounts.
func (m *mover) clean() {
	m.retired.Store(true)
	if m.cleaning.CompareAndSwap(false, true) {
		m.cleanStep()
	}
}

func (m *mover) cleanStep() {
	m.retired.Store(false)
	more := false
	m.submit(func(tx storage.Tx) (err error) {
		more, err = tx.(*txn).clean(m.sizes.clean)
		return err
	}).Then(func(err error) {
		if err == nil && (more || m.retired.Load()) {
			m.cleanStep()
		} else {
			m.cleaning.Store(false)
		}
	})
}

var (
	movedMark  = []byte("moved")   // the number of the last message that is
	lastIDMark = []byte("last id") // the greatest in messages that are moved
)

func (t *txn) mark(name []byte) (uint64, error) {
	value := t.get(inMarks, name)
	if value == nil {
		return 0, nil
	}
	n, err := decodeNumber(value)
	if err != nil {
		return 0, damaged(inMarks, name, err)
	}
	return n, nil
}

// move enters up to limit messages in the lists of their archives. It says how many it has looked at.
func (t *txn) move(limit int) (n int, err error) {
	moved, err := t.mark(movedMark)
	if err != nil {
		return 0, err
	}
	lastID, err := t.mark(lastIDMark)
	if err != nil {
		return 0, err
	}
	if err := t.countSpool(); err != nil {
		return 0, err
	}
	// The postings of a list are chained, newest first.
	type link struct {
		posting
		next int // 0: none
	}
	links := make([]link, 1, 1+4*min(limit, 2*t.sizes.move))
	lists := make(map[list]int)
	enter := func(l list, p posting) {
		links = append(links, link{p, lists[l]})
		lists[l] = len(links) - 1
	}
	live := make(map[uint64]bool) // by archive
	contacts := make(map[string]list)
	var places []place
	for k, value := range t.scan(inMessages, nil, key(moved+1)) {
		if n == limit {
			break
		}
		n++
		moved = binary.BigEndian.Uint64(k)
		m, err := peekInto(value, places)
		if err != nil {
			return 0, damaged(inMessages, k, err)
		}
		places = m.places
		needed := false
		for _, p := range m.places {
			lastID = max(lastID, p.id)
			is, known := live[p.archive]
			if !known {
				is = t.get(inOwners, key(p.archive)) != nil
				live[p.archive] = is
			}
			if !is {
				continue
			}
			needed = true
			posting := posting{p.id, moved, m.at.Unix()}
			bare, _, _ := strings.Cut(p.with, "/")
			contact, known := contacts[bare]
			if !known {
				with, err := jid.Parse(bare)
				if err != nil {
					return 0, damaged(inMessages, k, err)
				}
				contact = listOf(0, with)
				contacts[strings.Clone(bare)] = contact
			}
			binary.BigEndian.PutUint64(contact[:8], p.archive)
			enter(listOf(p.archive, jid.JID{}), posting)
			enter(contact, posting)
		}
		if !needed && t.get(inHeld, k) == nil {
			if err := t.delete(inMessages, k); err != nil {
				return 0, err
			}
		}
	}
	if n == 0 {
		return 0, nil
	}
	var postings []posting
	for _, l := range slices.SortedFunc(maps.Keys(lists), func(a, b list) int { return bytes.Compare(a[:], b[:]) }) {
		postings = postings[:0]
		for i := lists[l]; i != 0; i = links[i].next {
			postings = append(postings, links[i].posting)
		}
		slices.Reverse(postings)
		slices.SortFunc(postings, func(a, b posting) int { return cmp.Compare(a.id, b.id) })
		if err := t.insert(l, postings); err != nil {
			return 0, err
		}
	}
	if err := t.put(inMarks, movedMark, encodeNumber(moved)); err != nil {
		return 0, err
	}
	return n, t.put(inMarks, lastIDMark, encodeNumber(lastID))
}

// countSpool counts those rows of the spool that were left to archives.
func (t *txn) countSpool() error {
	for k, value := range t.scan(inSpool, nil, nil) {
		row, err := peekSpooled(value)
		if err != nil {
			return damaged(inSpool, k, err)
		}
		if row.counted {
			continue
		}
		row.counted = true
		if err := t.replace(inSpool, k, value, row.encode()); err != nil {
			return err
		}
		if err := t.hold(row.number, +1); err != nil {
			return err
		}
	}
	return nil
}

// An unmoved message of an archive.
type unmoved struct {
	posting
	with string
}

// A tail remembers what is not moved yet, so that readers need not look at all of it. It knows a part: rows of
// archives from the mark on, up to a number, in order. They do not change before they are moved, so what was
// once durable holds for every transaction with the same mark, up to the last number that this one has.
type tail struct {
	mu       sync.Mutex
	moved    uint64
	last     uint64
	archives map[uint64][]unmoved
}

// unmoved are the messages of an archive that are not in its lists yet, by id.
func (t *txn) unmoved(archive uint64) (list []unmoved, err error) {
	moved, err := t.mark(movedMark)
	if err != nil {
		return nil, err
	}
	from := moved
	if t.tail != nil && moved == t.durable.moved {
		t.tail.mu.Lock()
		defer t.tail.mu.Unlock()
		if moved > t.tail.moved || t.tail.archives == nil {
			t.tail.moved, t.tail.last, t.tail.archives = moved, moved, make(map[uint64][]unmoved)
		}
		if moved == t.tail.moved {
			if t.durable.last > t.tail.last {
				err := t.scanUnmoved(t.tail.last, t.durable.last, func(archive uint64, u unmoved) {
					u.with = strings.Clone(u.with)
					t.tail.archives[archive] = append(t.tail.archives[archive], u)
				})
				if err != nil {
					t.tail.archives = nil
					return nil, err
				}
				t.tail.last = t.durable.last
			}
			for _, u := range t.tail.archives[archive] {
				if u.number <= t.durable.last {
					list = append(list, u)
				}
			}
			from = t.durable.last
		}
	}
	err = t.scanUnmoved(from, math.MaxUint64, func(in uint64, u unmoved) {
		if in == archive {
			u.with = strings.Clone(u.with)
			list = append(list, u)
		}
	})
	slices.SortFunc(list, func(a, b unmoved) int { return cmp.Compare(a.id, b.id) })
	return list, err
}

// scanUnmoved yields the places of messages from one number, exclusive, to another.
func (t *txn) scanUnmoved(from, to uint64, yield func(archive uint64, u unmoved)) error {
	var places []place
	for k, value := range t.scan(inMessages, nil, key(from+1)) {
		number := binary.BigEndian.Uint64(k)
		if number > to {
			break
		}
		m, err := peekInto(value, places)
		if err != nil {
			return damaged(inMessages, k, err)
		}
		places = m.places
		for _, p := range places {
			yield(p.archive, unmoved{posting{p.id, number, m.at.Unix()}, p.with})
		}
	}
	return nil
}

// begin notes what is durable, before the transaction writes.
func (t *txn) begin() error {
	moved, err := t.mark(movedMark)
	t.durable.moved, t.durable.last = moved, moved
	if last, _ := t.bucket(inMessages).Cursor().Last(); last != nil {
		t.durable.last = max(moved, binary.BigEndian.Uint64(last))
	}
	return err
}

// retire makes an owner's archive nobody's. What it has is removed by clean.
func (t *txn) retire(owner []byte) error {
	archive, err := t.archiveOf(owner)
	if err != nil || archive == 0 {
		return err
	}
	if err := t.delete(inArchives, owner); err != nil {
		return err
	}
	if err := t.delete(inOwners, key(archive)); err != nil {
		return err
	}
	clear(t.archives)
	t.retired = true
	return t.put(inRetired, key(archive), encodeNumber(0))
}

// clean removes about limit rows of an archive that is nobody's, and says whether there is more to do.
func (t *txn) clean(limit int) (more bool, err error) {
	retired, _ := t.bucket(inRetired).Cursor().First()
	if retired == nil {
		return false, nil
	}
	archive := binary.BigEndian.Uint64(retired)
	all := listOf(archive, jid.JID{})
	done := 0
	for _, in := range []bucket{inChunks, inHeads} {
		for k, value := range t.scan(in, retired, retired) {
			if done >= limit {
				return true, nil
			}
			done++
			if err := t.delete(in, k); err != nil {
				return false, err
			}
			if list(k[:len(all)]) != all {
				continue
			}
			c, _, err := decodeChunk(value)
			if err != nil {
				return false, damaged(in, k, err)
			}
			postings, err := c.postings()
			if err != nil {
				return false, damaged(in, k, err)
			}
			for _, p := range postings {
				if err := t.release(p.number); err != nil {
					return false, err
				}
			}
			done += len(postings)
		}
	}
	return true, t.delete(inRetired, retired)
}
