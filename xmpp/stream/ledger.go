package stream

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// A Parcel is a stanza that was sent and is not known to have arrived. Note is what its sender wrote
// on it.
type Parcel struct {
	Element element.Element
	Sent    time.Time
	Note    any

	end int64 // not counting: where it ends in what the stream has written
}

// A Ledger is one end of stream management (XEP-0198): what the peer was sent and has not
// acknowledged, and how much of what it has sent is handled. It outlives its stream: between two it
// collects. Before Start nothing counts, and a parcel with a note has arrived when it is written.
//
// Its lock comes before that of a stream's queue. Nothing that it does waits. Who carries the ledger
// changes under a lock of its owner, as does what Acknowledge, Written and Settle take out.
type Ledger struct {
	limit int
	now   func() time.Time

	mu       sync.Mutex
	stream   *Stream // that carries it; nil: none
	counting bool

	acked uint32   // the peer's h
	kept  []Parcel // behind it, oldest first
	bytes int      // of kept
	full  bool     // there was too much, and the owner knows

	received uint32  // stanzas of the peer
	open     []int32 // how often the last len(open) of these are held
	asked    bool    // the peer waits for an answer
	awaited  uint32  // what it knows to have sent
	late     *time.Timer
	settled  chan struct{} // closed when nothing is open; nil: nobody waits
}

// patience is how long an answer may wait for what came before its request.
const patience = 20 * time.Millisecond

// NewLedger makes a ledger that is carried by a stream. More than limit bytes of stanzas without
// acknowledgement are too much.
func NewLedger(s *Stream, limit int, now func() time.Time) *Ledger {
	return &Ledger{stream: s, limit: limit, now: now}
}

// Carrier is the stream that carries the ledger now, nil for none.
func (l *Ledger) Carrier() *Stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream
}

// Counts says whether stream management is enabled.
func (l *Ledger) Counts() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counting
}

// Start enables stream management: announce tells the peer, and the next stanza is the first.
func (l *Ledger) Start(announce func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	announce()
	l.counting = true
}

// Send enqueues a stanza to the peer, or keeps it for when there is a stream again. It reports false
// once, when there is too much that the peer has not acknowledged.
func (l *Ledger) Send(e element.Element, note any) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.counting {
		return l.post(e, note)
	}
	l.kept = append(l.kept, Parcel{Element: e, Sent: l.now(), Note: note})
	l.bytes += len(e.String())
	if l.stream != nil && !l.stream.closed() {
		l.stream.queue.add(e, "", counted)
	}
	if l.bytes > l.limit && !l.full {
		l.full = true
		return false
	}
	return true
}

// post is Send without stream management.
func (l *Ledger) post(e element.Element, note any) bool {
	end, ok := l.stream.Post(e)
	if note != nil {
		if !ok {
			end = 1<<63 - 1
		}
		l.kept = append(l.kept, Parcel{Element: e, Sent: l.now(), Note: note, end: end})
		l.bytes += len(e.String())
		if ok && len(l.kept) == 1 {
			l.stream.queue.await(end)
		}
	}
	return true
}

// Written takes out what was written without stream management.
func (l *Ledger) Written() (written []Parcel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counting {
		return nil
	}
	written = l.drop(l.written())
	if len(l.kept) > 0 {
		l.stream.queue.await(l.kept[0].end)
	}
	return written
}

// written is how many parcels the stream has handed over.
func (l *Ledger) written() (n int) {
	taken := l.stream.Written()
	for n < len(l.kept) && l.kept[n].end <= taken {
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
	n := h - l.acked
	if n > uint32(len(l.kept)) {
		if int32(n) < 0 {
			return nil, nil
		}
		sent := l.acked + uint32(len(l.kept))
		return nil, &stanza.StreamError{Condition: stanza.StreamUndefinedCondition,
			Text: fmt.Sprintf("you acknowledged %d stanzas, but were sent %d so far", h, sent),
			App: element.Start("handled-count-too-high", ns.SM).Attr("h", number(h)).
				Attr("send-count", number(sent)).Element()}
	}
	l.acked = h
	return l.drop(int(n)), nil
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
	return int32(h-l.acked) >= 0
}

// Resume puts the ledger on a new stream, whose peer has got h stanzas: announce tells it how many of
// its own are handled, and what it has not got goes again, in order.
func (l *Ledger) Resume(s *Stream, h uint32, announce func(handled uint32)) ([]Parcel, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	arrived, err := l.acknowledge(h)
	if err != nil {
		return nil, err
	}
	announce(l.handled())
	l.stream, l.asked = s, false
	for _, p := range l.kept {
		s.queue.add(p.Element, "", counted)
	}
	return arrived, nil
}

// Settle ends the ledger: it takes out what was written after all, and what is lost.
func (l *Ledger) Settle() (written, lost []Parcel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.counting {
		written = l.drop(l.written())
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
	if l.asked && int32(l.handled()-l.awaited) >= 0 {
		l.answer()
	}
	if len(l.open) == 0 && l.settled != nil {
		close(l.settled)
		l.settled = nil
	}
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

// Handled is the peer's stanzas that are handled, and Open a channel that is closed when all are; nil
// if they are already.
func (l *Ledger) Handled() (h uint32, open <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) > 0 {
		if l.settled == nil {
			l.settled = make(chan struct{})
		}
		open = l.settled
	}
	return l.handled(), open
}

// Asked answers a request for acknowledgement: at once if all that came before is handled, otherwise
// as soon as it is, and in any case after patience with what is handled by then.
func (l *Ledger) Asked() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked, l.awaited = true, l.received
	if len(l.open) == 0 {
		l.answer()
	} else if l.late == nil {
		l.late = time.AfterFunc(patience, l.answerLate)
	}
}

func (l *Ledger) answer() {
	l.asked = false
	if l.stream != nil {
		l.stream.SendRaw("<a xmlns='" + ns.SM + "' h='" + number(l.handled()) + "'/>")
	}
}

// answerLate says what is handled so far; the rest is said when it is.
func (l *Ledger) answerLate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = nil
	if l.asked {
		l.answer()
		l.asked = len(l.open) > 0
	}
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
