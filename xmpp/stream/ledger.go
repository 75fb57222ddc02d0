package stream

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// A Parcel is a stanza that was sent and is not known to have arrived. Number is its place among what
// the peer was sent and counts, from 1; 0: it was sent before the peer counted. Note is what its sender wrote on it.
type Parcel struct {
	Element element.Element
	Sent    time.Time
	Number  uint64
	Note    any
	Gate    *Gate // nil: it could leave at once

	span // without a Number: where it is in what the stream writes
}

// A Ledger is one end of stream management (XEP-0198): what the peer was sent and has not
// acknowledged, and how much of what it has sent is handled. It outlives its stream: between two it
// collects. Before Start nothing counts, and a parcel with a note has arrived when it is written; or when the peer
// says anything of what counts, for that is behind it.
//
// Numbers are of 64 bits, so they do not wrap within reach; what the peer says of them is of 32.
//
// Its lock comes before that of a stream's queue. Nothing that it does waits. Who carries the ledger
// changes under a lock of its owner, as does what Acknowledge, Written and Settle take out.
type Ledger struct {
	limit int
	now   func() time.Time

	mu       sync.Mutex
	stream   *Stream // that carries it; nil: none
	counting bool

	sent       uint64   // the greatest number
	acked      uint64   // the peer's h
	kept       []Parcel // behind it, oldest first
	restored   bool     // kept is from before a restart: sent is not known, and there may be gaps
	reach      uint64   // what sent was then, at most; 0: not known
	renumbered *Gate    // of the numbers that kept got instead; nil: they are as they were
	bytes      int      // of kept
	full       bool     // there was too much, and the owner knows

	received uint32  // stanzas of the peer
	open     []int32 // how often the last len(open) of these are held
	asked    bool    // the peer waits for an answer
	overdue  bool    // it has waited long enough
	awaited  uint32  // what it knows to have sent
	late     *time.Timer
	settled  chan struct{} // closed when nothing is open, and on disk where it has to be; nil: nobody waits

	peer    uint64                              // as which the count is on disk; 0: it need not be
	durable uint32                              // the count that is on disk
	keep    func(count uint32, done func(bool)) // brings it there
	keeping bool

	renumber func([]storage.Renumbered) // of what is kept, on disk as well; nil: it is not there
}

// patience is how long an answer may wait for what came before its request.
const patience = 20 * time.Millisecond

// NewLedger makes a ledger that is carried by a stream. More than limit bytes of stanzas without
// acknowledgement are too much.
func NewLedger(s *Stream, limit int, now func() time.Time) *Ledger {
	return &Ledger{stream: s, limit: limit, now: now}
}

// Restore makes a ledger as it was before a restart, without a stream: the peer had acknowledged acked
// stanzas, may not have got those kept, whose Numbers rise, and had sent received.
func Restore(limit int, now func() time.Time, acked uint64, kept []Parcel, received uint32) *Ledger {
	l := &Ledger{limit: limit, now: now, counting: true, acked: acked, sent: acked, kept: kept, restored: true,
		received: received, durable: received}
	for _, p := range kept {
		l.bytes += len(p.Element.String())
		l.sent = p.Number
	}
	if len(kept) > 0 {
		l.reach = l.sent + min(uint64(limit/smallest+lately), 1<<31)
	}
	l.sent += 1 << 31 // what else the peer was sent had numbers, too; none of them is used again
	return l
}

// How much a peer can have been sent behind the last stanza that waits on disk, and be of a kind that does not wait
// there: as much as it may leave unacknowledged, and what it got between an acknowledgement of that stanza and its removal.
const (
	smallest = 16      // bytes of a stanza, at least
	lately   = 1 << 16 // stanzas
)

// Persist makes the ledger tell the peer only what is on disk, as the count of that peer of the store.
// keep brings a count there; it does not wait, and calls done, with false if it failed. Receipts that
// are kept elsewhere (Kept) are on disk as well.
func (l *Ledger) Persist(peer uint64, keep func(count uint32, done func(bool))) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peer, l.keep = peer, keep
}

// Durable is how much of what the peer has sent it may have been told is handled.
func (l *Ledger) Durable() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Renumbering says who gives what waits on disk other numbers, when something before it could not be kept.
// renumber does not wait.
func (l *Ledger) Renumbering(renumber func([]storage.Renumbered)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renumber = renumber
}

// Carrier is the stream that carries the ledger now, nil for none.
func (l *Ledger) Carrier() *Stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream
}

// Open says whether there is a stream that takes stanzas.
func (l *Ledger) Open() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream != nil && !l.stream.closed()
}

// Counts says whether stream management is enabled.
func (l *Ledger) Counts() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counting
}

// Start enables stream management: announce tells the peer, and the next stanza is the first. It learns of
// that, and gets anything more, when the gate, if not nil, is open.
func (l *Ledger) Start(gate *Gate, announce func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if gate != nil {
		l.stream.queue.hold(gate)
	}
	announce()
	l.counting = true
}

// Send enqueues a stanza to the peer, or keeps it for when there is a stream again. It leaves when the
// gate, if not nil, is open. Send returns the stanza's number, 0 where it does not count, and reports
// false once, when there is too much that the peer has not acknowledged.
func (l *Ledger) Send(e element.Element, note any, gate *Gate) (number uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.counting {
		l.post(e, note, gate)
		return 0, true
	}
	l.sent++
	l.kept = append(l.kept, Parcel{Element: e, Sent: l.now(), Number: l.sent, Note: note, Gate: gate})
	l.bytes += len(e.String())
	if l.stream != nil && !l.stream.closed() {
		l.stream.queue.add(e, "", counted, gate)
	}
	if l.bytes > l.limit && !l.full {
		l.full = true
		return l.sent, false
	}
	return l.sent, true
}

// post is Send without stream management.
func (l *Ledger) post(e element.Element, note any, gate *Gate) {
	place, ok := l.stream.post(e, gate)
	if note != nil {
		if !ok {
			place = span{1<<63 - 1, 1<<63 - 1}
		}
		l.kept = append(l.kept, Parcel{Element: e, Sent: l.now(), Note: note, Gate: gate, span: place})
		l.bytes += len(e.String())
		if ok && len(l.kept) == 1 {
			l.stream.queue.await(place.end)
		}
	}
}

// Written takes out what was written without stream management.
func (l *Ledger) Written() (written []Parcel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream == nil {
		return nil
	}
	l.forgetFailed()
	written = l.drop(l.written())
	if l.uncounted() > 0 {
		l.stream.queue.await(l.kept[0].end)
	}
	return written
}

// written is how many parcels the kernel has.
func (l *Ledger) written() (n int) {
	passed := l.stream.queue.written()
	for most := l.uncounted(); n < most && l.kept[n].end <= passed; n++ {
	}
	return n
}

// uncounted is how many parcels have no number: the oldest.
func (l *Ledger) uncounted() (n int) {
	for n < len(l.kept) && l.kept[n].Number == 0 {
		n++
	}
	return n
}

// drop takes out the oldest parcels, and returns those with notes.
func (l *Ledger) drop(n int) (noted []Parcel) {
	for _, p := range l.kept[:n] {
		l.bytes -= len(p.Element.String())
		if p.Note != nil {
			noted = append(noted, p)
		}
	}
	rest := copy(l.kept, l.kept[n:])
	clear(l.kept[rest:])
	l.kept = l.kept[:rest]
	if rest == 0 && cap(l.kept) > keepParcels {
		l.kept = nil
	}
	return noted
}

// keepParcels is the largest list that an idle ledger holds on to.
const keepParcels = 8

// Acknowledge takes the peer's word for what has arrived, takes it out, and returns what of it has
// notes. What the peer has said before is no news. To acknowledge what was not sent is a *stanza.StreamError (section 6).
func (l *Ledger) Acknowledge(h uint32) ([]Parcel, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	arrived, err := l.acknowledge(h)
	if err == nil && l.stream != nil {
		l.stream.queue.answered(len(l.kept) > 0)
	}
	return arrived, err
}

// acknowledge counts modulo 2^32: h is taken for behind acked where that is nearer than ahead.
func (l *Ledger) acknowledge(h uint32) ([]Parcel, error) {
	l.forgetFailed()
	ahead := int32(h - uint32(l.acked))
	if ahead < 0 {
		return nil, nil
	}
	acked := l.acked + uint64(ahead)
	most := l.sent
	if l.restored {
		most = cmp.Or(l.reach, acked)
	}
	if acked > most {
		return nil, &stanza.StreamError{Condition: stanza.StreamUndefinedCondition,
			Text: fmt.Sprintf("you acknowledged %d stanzas, but were sent %d so far", h, uint32(most)),
			App: element.Start("handled-count-too-high", ns.SM).Attr("h", number(h)).
				Attr("send-count", number(uint32(most))).Element()}
	}
	n := 0
	for n < len(l.kept) && l.kept[n].Number <= acked {
		n++
	}
	l.acked, l.sent = acked, max(l.sent, acked)
	return l.drop(n), nil
}

// forgetFailed takes out what never left because it could not be kept: the peer does not count it.
func (l *Ledger) forgetFailed() {
	some, failed := false, 0
	var changed []storage.Renumbered
	for i := range l.kept {
		p := &l.kept[i]
		if p.Gate.failed() {
			some = true
			if p.Number > 0 {
				failed++
			}
			l.bytes -= len(p.Element.String())
		} else if failed > 0 {
			changed = append(changed, storage.Renumbered{Old: p.Number, New: p.Number - uint64(failed)})
			p.Number -= uint64(failed)
		}
	}
	if len(changed) > 0 && l.renumber != nil {
		l.renumber(changed)
	}
	if some {
		l.kept = slices.DeleteFunc(l.kept, func(p Parcel) bool { return p.Gate.failed() })
		l.sent -= uint64(failed)
	}
}

// Acked is how many stanzas the peer has acknowledged.
func (l *Ledger) Acked() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// Waiting is how much was sent and is not known to have arrived.
func (l *Ledger) Waiting() (stanzas, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.kept), l.bytes
}

// Numbers are those of what is not acknowledged whose notes are of a kind.
func (l *Ledger) Numbers(of func(note any) bool) (list []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.kept {
		if of(p.Note) {
			list = append(list, p.Number)
		}
	}
	return list
}

// Park takes the ledger off its stream.
func (l *Ledger) Park() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stream = nil
}

// Known says whether a peer that has got h stanzas can go on where it was: it has not said before
// that it has got more.
func (l *Ledger) Known(h uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int32(h-uint32(l.acked)) >= 0
}

// Acknowledged is Acknowledge for a ledger without a stream. In one that is restored, what is left gets
// new numbers, from the peer's count on; it returns which.
func (l *Ledger) Acknowledged(h uint32) (arrived []Parcel, changed []storage.Renumbered, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	arrived, err = l.acknowledge(h)
	if err != nil || !l.restored {
		return arrived, nil, err
	}
	l.restored = false
	for i := range l.kept {
		p := &l.kept[i]
		number := l.acked + 1 + uint64(i)
		changed = append(changed, storage.Renumbered{Old: p.Number, New: number})
		p.Number = number
	}
	l.sent = l.acked + uint64(len(l.kept))
	return arrived, changed, nil
}

// Unwritten are those of the changes that Acknowledged has just returned of which there is no row yet.
func (l *Ledger) Unwritten(changed []storage.Renumbered) (list []storage.Renumbered) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range changed {
		if l.kept[i].Gate.closed() {
			list = append(list, c)
		}
	}
	return list
}

// Resume puts the ledger on a new stream, after Acknowledged: announce tells the peer how many of its
// own are handled, and what it has not got goes again, in order, when the gate is open.
func (l *Ledger) Resume(s *Stream, gate *Gate, announce func(handled uint32)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	announce(l.handled())
	l.stream, l.asked = s, false
	if gate != nil {
		l.renumbered = gate
	}
	if s.closed() {
		return // the peer was not told either
	}
	if l.renumbered != nil {
		s.queue.hold(l.renumbered) // what came since the restart has a gate of its own, and had another number
	}
	s.queue.spare(l.bytes)
	for _, p := range l.kept {
		s.queue.add(p.Element, "", counted, p.Gate)
	}
}

// Settle ends the ledger: it takes out what was written after all, and what is lost. Of that the stream writes no
// more than it has begun with. What the peer has sent may still be handled; it is nothing that waits on disk.
func (l *Ledger) Settle() (written, lost []Parcel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetFailed()
	if l.stream != nil {
		written = l.drop(l.written())
		l.stream.queue.retract(l.kept[:l.uncounted()])
	}
	if l.counting {
		l.stream, l.keep = nil, nil
	}
	lost, l.kept, l.bytes = l.kept, nil, 0
	return written, lost
}

// Receive counts a stanza of the peer. It is held once, for who handles it.
func (l *Ledger) Receive() (number uint32, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.counting {
		return 0, false
	}
	l.received++
	l.open = append(l.open, 1)
	return l.received, true
}

// Hold implements stanza.Receipts.
func (l *Ledger) Hold(number uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.index(number); i >= 0 {
		l.open[i]++
	}
}

// Release implements stanza.Receipts. Whoever waits for an acknowledgement gets it.
func (l *Ledger) Release(number uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.index(number)
	if i < 0 {
		return
	}
	if l.open[i]--; i > 0 {
		return
	}
	n := 0
	for n < len(l.open) && l.open[n] == 0 {
		n++
	}
	l.open = append(l.open[:0], l.open[n:]...)
	l.progress()
}

// Peer implements stanza.Receipts.
func (l *Ledger) Peer() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peer
}

// Kept implements stanza.Receipts.
func (l *Ledger) Kept(count uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int32(count-l.durable) > 0 {
		l.durable = count
	}
	l.progress()
}

// index finds a stanza among those that are open, -1 if it is handled.
func (l *Ledger) index(number uint32) int {
	i := number - l.handled() - 1
	if i >= uint32(len(l.open)) {
		return -1
	}
	return int(i)
}

// handled is the number of stanzas all of which are handled.
func (l *Ledger) handled() uint32 { return l.received - uint32(len(l.open)) }

// tellable is how much of what is handled the peer may be told.
func (l *Ledger) tellable() uint32 {
	if h := l.handled(); l.keep == nil || int32(l.durable-h) > 0 {
		return h
	}
	return l.durable
}

// Handled is the peer's stanzas that are handled, and Open a channel that is closed when all are, and
// that is on disk where it has to be; nil if it is so already.
func (l *Ledger) Handled() (h uint32, open <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h = l.handled(); len(l.open) > 0 || l.tellable() != h {
		if l.settled == nil {
			l.settled = make(chan struct{})
		}
		open = l.settled
		l.progress()
	}
	return h, open
}

// Asked answers a request for acknowledgement: at once if all that came before is handled, otherwise
// as soon as it is, and in any case after patience with what is handled by then.
func (l *Ledger) Asked() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked, l.awaited = true, l.received
	l.progress()
	if l.asked && l.late == nil {
		l.late = time.AfterFunc(patience, l.answerLate)
	}
}

// progress does what is due when more is handled, or on disk: it brings the count there if somebody
// waits for that, and answers.
func (l *Ledger) progress() {
	h := l.handled()
	if l.settled != nil && len(l.open) == 0 && l.tellable() == h {
		close(l.settled)
		l.settled = nil
	}
	reached := int32(h-l.awaited) >= 0
	if !l.asked && l.settled == nil || l.asked && !reached && !l.overdue {
		return
	}
	if l.tellable() != h && !l.keeping {
		l.keeping = true
		l.keep(h, func(ok bool) { go l.brought(h, ok) }) // it may be called at once, and we hold the lock
	}
	if told := l.tellable(); l.asked && (int32(told-l.awaited) >= 0 || l.overdue) {
		l.asked = int32(told-l.awaited) < 0
		l.overdue = false
		if l.stream != nil {
			l.stream.SendRaw("<a xmlns='" + ns.SM + "' h='" + number(told) + "'/>")
		}
	}
}

// brought learns that a count is on disk, or could not be brought there.
func (l *Ledger) brought(count uint32, ok bool) {
	l.mu.Lock()
	l.keeping = false
	l.mu.Unlock()
	if ok {
		l.Kept(count)
	}
}

// answerLate says what is handled so far; the rest is said when it is.
func (l *Ledger) answerLate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = nil
	if l.asked {
		l.overdue = true
		l.progress()
	}
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
