package bolt

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"math"
	"slices"

	"tombolo/xmpp/jid"
)

// An archive is two kinds of lists of postings, in order of the ids: one of all its messages, and one for
// each contact. A list is kept in chunks, because a posting by itself would be more key than value. Its
// newest chunk, to which postings are added, is in heads; those that are full are in chunks. So what is
// written again and again is close together, however large the archives are.

// A posting says where in messages a message of an archive is.
type posting struct {
	id, number uint64
	second     int64 // in which it was sent, since 1970
}

func byID(p posting, id uint64) int { return cmp.Compare(p.id, id) }

// A list is the key of a list in heads, and the beginning of its keys in chunks.
type list [16]byte

// listOf is an archive's list of all messages, or of those with a contact. What stands for the contact may
// stand for another one too, if somebody spends 2^32 hashes on it, so the messages are looked at as well.
func listOf(archive uint64, with jid.JID) (l list) {
	binary.BigEndian.PutUint64(l[:8], archive)
	if !with.IsZero() {
		sum := sha256.Sum256([]byte(with.Bare().String()))
		copy(l[8:], sum[:])
	}
	return l
}

func (l list) chunk(first uint64) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(l[:]), first)
}

// A chunk is part of a list. Each number is written as the difference to the one before it.
type chunk struct {
	n     int
	start int64 // the seconds in which they were sent
	end   int64
	last  posting
	rest  string // the postings, encoded
}

func (c *chunk) add(p posting) {
	if c.n == 0 {
		c.start, c.end = p.second, p.second
	}
	c.n++
	c.start, c.end = min(c.start, p.second), max(c.end, p.second)
}

func (c chunk) encode(sealed uint64, more []posting) []byte {
	for _, p := range more {
		c.add(p)
	}
	e := newRow(64 + len(c.rest) + 8*len(more))
	last := c.last
	if len(more) > 0 {
		last = more[len(more)-1]
	}
	e.uint(sealed)
	e.uint(uint64(c.n))
	e.int(c.start)
	e.int(c.end)
	e.uint(last.id)
	e.uint(last.number)
	e.int(last.second)
	e = append(e, c.rest...)
	for _, p := range more {
		e.uint(p.id - c.last.id)
		e.int(int64(p.number - c.last.number))
		e.int(p.second - c.last.second)
		c.last = p
	}
	return e
}

// decodeChunk reads a row of heads or chunks; sealed is how many postings of the list of a head are in chunks.
// The chunk ends with the transaction.
func decodeChunk(value []byte) (c chunk, sealed uint64, err error) {
	d := peekRow(value)
	sealed = d.uint()
	c.n = d.count()
	c.start, c.end = d.int(), d.int()
	c.last.id = d.uint()
	c.last.number = d.uint()
	c.last.second = d.int()
	c.rest = d.rest
	return c, sealed, d.err
}

func (c chunk) postings() ([]posting, error) {
	d := decoder{rest: c.rest}
	list := make([]posting, c.n)
	var p posting
	for i := range list {
		p.id += d.uint()
		p.number += uint64(d.int())
		p.second += d.int()
		list[i] = p
	}
	return list, d.end()
}

// from is the first posting with that id or a greater one.
func (c chunk) from(id uint64) (p posting, err error) {
	d := decoder{rest: c.rest}
	for p.id < id && d.err == nil {
		p.id += d.uint()
		p.number += uint64(d.int())
		p.second += d.int()
	}
	return p, d.err
}

func (c chunk) first() uint64 {
	d := decoder{rest: c.rest}
	return d.uint()
}

// head is the newest chunk of a list, and how many postings are in the others.
func (t *txn) head(l list) (c chunk, sealed uint64, err error) {
	value := t.get(inHeads, l[:])
	if value == nil {
		return c, 0, nil
	}
	if c, sealed, err = decodeChunk(value); err != nil {
		err = damaged(inHeads, l[:], err)
	}
	return c, sealed, err
}

// putHead makes postings the head of a list.
func (t *txn) putHead(l list, sealed uint64, postings []posting) error {
	if sealed == 0 && len(postings) == 0 {
		return t.delete(inHeads, l[:])
	}
	return t.put(inHeads, l[:], chunk{}.encode(sealed, postings))
}

// insert adds postings, in order of the ids, to a list.
func (t *txn) insert(l list, postings []posting) error {
	head, sealed, err := t.head(l)
	if err != nil {
		return err
	}
	if sealed > 0 && postings[0].id < head.first() {
		// A message that took long.
		late, _ := slices.BinarySearchFunc(postings, head.first(), byID)
		if err := t.insertLate(l, postings[:late]); err != nil {
			return err
		}
		sealed += uint64(late)
		postings = postings[late:]
	}
	full := t.sizes.chunk + t.sizes.slack
	if (len(postings) == 0 || postings[0].id > head.last.id) && head.n+len(postings) < full {
		return t.put(inHeads, l[:], head.encode(sealed, postings))
	}
	all, err := head.postings()
	if err != nil {
		return damaged(inHeads, l[:], err)
	}
	all = append(all, postings...)
	slices.SortFunc(all, func(a, b posting) int { return cmp.Compare(a.id, b.id) })
	for len(all) >= full {
		// The last few stay, so that ids that come a little out of order find the head.
		seal := all[:t.sizes.chunk]
		if err := t.put(inChunks, l.chunk(seal[0].id), chunk{}.encode(0, seal)); err != nil {
			return err
		}
		sealed += uint64(len(seal))
		all = all[len(seal):]
	}
	return t.putHead(l, sealed, all)
}

// insertLate adds postings to those that are in chunks.
func (t *txn) insertLate(l list, postings []posting) error {
	for len(postings) > 0 {
		key, here, next, err := t.covering(l, postings[0].id)
		if err != nil {
			return err
		}
		n, _ := slices.BinarySearchFunc(postings, next, byID)
		here = append(here, postings[:n]...)
		slices.SortFunc(here, func(a, b posting) int { return cmp.Compare(a.id, b.id) })
		if err := t.delete(inChunks, key); err != nil {
			return err
		}
		parts := 1 + len(here)/(2*t.sizes.chunk)
		for part := range slices.Chunk(here, (len(here)+parts-1)/parts) {
			if err := t.put(inChunks, l.chunk(part[0].id), chunk{}.encode(0, part)); err != nil {
				return err
			}
		}
		postings = postings[n:]
	}
	return nil
}

// covering is the chunk of a list in which an id is or would be, which has one at least, and the first id
// that belongs to the chunk behind it.
func (t *txn) covering(l list, id uint64) (key []byte, postings []posting, next uint64, err error) {
	next = math.MaxUint64
	var value []byte
	c := t.bucket(inChunks).Cursor()
	behind, _ := c.Seek(l.chunk(id))
	if bytes.Equal(behind, l.chunk(id)) {
		key, value = c.Seek(behind)
		behind, _ = c.Next()
	} else if key, value = c.Prev(); !bytes.HasPrefix(key, l[:]) {
		key, value = c.Seek(l[:])
		behind, _ = c.Next()
	}
	if !bytes.HasPrefix(key, l[:]) {
		return nil, nil, 0, damaged(inChunks, l[:], errDamaged)
	}
	if bytes.HasPrefix(behind, l[:]) {
		next = binary.BigEndian.Uint64(behind[len(l):])
	}
	chunk, _, err := decodeChunk(value)
	if err == nil {
		postings, err = chunk.postings()
	}
	if err != nil {
		err = damaged(inChunks, key, err)
	}
	return key, postings, next, err
}

// remove removes postings, by ids in order, from a list that has them.
func (t *txn) remove(l list, ids []uint64) error {
	head, sealed, err := t.head(l)
	if err != nil {
		return err
	}
	without := func(postings []posting) []posting {
		return slices.DeleteFunc(postings, func(p posting) bool {
			_, found := slices.BinarySearch(ids, p.id)
			return found
		})
	}
	first := uint64(0)
	if sealed > 0 {
		first = head.first()
	}
	for rest := ids; len(rest) > 0 && rest[0] < first; {
		key, postings, next, err := t.covering(l, rest[0])
		if err != nil {
			return err
		}
		left := without(slices.Clone(postings))
		sealed -= uint64(len(postings) - len(left))
		if err := t.delete(inChunks, key); err != nil {
			return err
		}
		if len(left) > 0 {
			if err := t.put(inChunks, l.chunk(left[0].id), chunk{}.encode(0, left)); err != nil {
				return err
			}
		}
		n, _ := slices.BinarySearch(rest, min(next, first))
		rest = rest[n:]
	}
	postings, err := head.postings()
	if err != nil {
		return damaged(inHeads, l[:], err)
	}
	postings = without(postings)
	if len(postings) == 0 && sealed > 0 {
		// A list that has chunks has a head, so that it is known which ids belong there.
		key, last, _, err := t.covering(l, math.MaxUint64)
		if err == nil {
			err = t.delete(inChunks, key)
		}
		if err != nil {
			return err
		}
		postings, sealed = last, sealed-uint64(len(last))
	}
	return t.putHead(l, sealed, postings)
}

// find is the number of the message with an id.
func (t *txn) find(l list, id uint64) (number uint64, found bool, err error) {
	for c, err := range t.chunks(l, id, false) {
		if err != nil {
			return 0, false, err
		}
		if c.last.id < id {
			continue
		}
		p, err := c.from(id)
		if err != nil {
			return 0, false, damaged(inChunks, l[:], err)
		}
		return p.number, p.id == id, nil
	}
	return 0, false, nil
}

// chunks yields the chunks of a list from the one that has an id, or would have it, on.
func (t *txn) chunks(l list, id uint64, backwards bool) iter.Seq2[chunk, error] {
	return func(yield func(chunk, error) bool) {
		head, sealed, err := t.head(l)
		if err != nil {
			yield(chunk{}, err)
			return
		}
		if backwards && head.n > 0 && head.first() <= id && !yield(head, nil) {
			return
		}
		if sealed > 0 {
			c := t.bucket(inChunks).Cursor()
			key, value := c.Seek(l.chunk(id))
			if !bytes.Equal(key, l.chunk(id)) {
				if key, value = c.Prev(); !bytes.HasPrefix(key, l[:]) && !backwards {
					key, value = c.Seek(l[:])
				}
			}
			for bytes.HasPrefix(key, l[:]) {
				one, _, err := decodeChunk(value)
				if err != nil {
					err = damaged(inChunks, key, err)
				}
				if !yield(one, err) || err != nil {
					return
				}
				if backwards {
					key, value = c.Prev()
				} else {
					key, value = c.Next()
				}
			}
		}
		if !backwards && head.n > 0 {
			yield(head, nil)
		}
	}
}

func checkHead(key, value []byte) error {
	if len(key) != len(list{}) {
		return errDamaged
	}
	return checkPostings(value)
}

func checkChunk(key, value []byte) error {
	if len(key) != len(list{})+8 {
		return errDamaged
	}
	if err := checkPostings(value); err != nil {
		return err
	}
	c, _, _ := decodeChunk(value)
	if c.n == 0 || c.first() != binary.BigEndian.Uint64(key[len(list{}):]) {
		return errDamaged
	}
	return nil
}

func checkPostings(value []byte) error {
	c, _, err := decodeChunk(value)
	if err != nil {
		return err
	}
	postings, err := c.postings()
	if err != nil {
		return err
	}
	for i, p := range postings {
		if i > 0 && p.id <= postings[i-1].id || p.second < c.start || p.second > c.end {
			return errDamaged
		}
	}
	if c.n > 0 && postings[c.n-1] != c.last {
		return errDamaged
	}
	return nil
}
