package federation

import (
	"strconv"
	"sync/atomic"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// An outbound is what a pair has to send, or has sent and does not know to have arrived. First it waits
// for a stream. With a peer that acknowledges (XEP-0198) it then is what that has not acknowledged, and where
// the peer lets the session be resumed it outlives the stream, and the server. With any other peer it is
// what was not written. The lock of its pair guards it.
type outbound struct {
	f *Federation
	Pair
	ledger *stream.Ledger
	acks   bool          // the peer acknowledges
	id     string        // with which the session can be resumed; "": it cannot
	grace  time.Duration // for how long the peer lets it be resumed, as far as we try; 0: it did not say

	peer    uint64      // as which what waits is in the store; 0: nothing is
	known   atomic.Bool // the store has it
	move    *move       // of what waited in an earlier one; nil: the store has done it
	last    uint64      // the number of the last stanza
	posted  uint64      // of the last one that was on a stream whose peer acknowledges
	through uint64      // of the last one that has arrived
	stored  uint64      // of the last one that the store knows to have arrived

	progress bool      // something has arrived since the stream is there
	heard    time.Time // when the peer last acknowledged, or something was sent to one that had acknowledged all
	asked    time.Time // when tend asked; zero: no answer is due
	lost     time.Time // when a stream ended, and nothing has arrived since; zero: there was none
}

// A letter is the note on what is in the ledger of an outbound.
type letter struct {
	stanza.Stanza
	number uint64 // where the ledger does not count
	kept   bool   // it is in the store
}

// agreement is what a stream and its peer agreed about acknowledgements.
type agreement struct {
	acks    bool
	id      string
	grace   time.Duration
	resumed bool // with handled, the session of before
	failed  bool // the session of before is over
	known   bool // handled is known of that
	handled uint32
}

// manage negotiates stream management once the pair is authorised, where the peer offers it: the former
// session if there is one, or another. A stream that is not for stanzas goes without.
func (o *outgoing) manage() {
	switch {
	case o.way == nil || o.s.Features().Child("sm", ns.SM).IsZero():
		o.succeed()
	case o.former != "":
		o.setResuming(true)
		o.s.Send(element.Start("resume", ns.SM).Attr("previd", o.former).Attr("h", "0").Element())
	default:
		o.enable()
	}
}

func (o *outgoing) enable() {
	o.s.Send(element.Start("enable", ns.SM).Attr("resume", "true").Element())
}

// managed takes what the peer says of stream management.
func (o *outgoing) managed(e element.Element) error {
	if o.wasReady() {
		return o.handled(e)
	}
	if o.self == "" || o.way == nil {
		return unexpected(e)
	}
	switch e.Name() {
	case "enabled":
		o.agreed.acks = true
		if isTrue(e.Attr("resume")) {
			o.agreed.id = e.Attr("id")
		}
		if seconds, err := strconv.ParseUint(e.Attr("max"), 10, 31); err == nil {
			o.agreed.grace = min(time.Duration(seconds)*time.Second, o.f.Resume)
		}
	case "resumed":
		h, err := count(e)
		if err != nil {
			return err
		}
		if o.former == "" || e.Attr("previd") != o.former || o.agreed.failed {
			return unexpected(e)
		}
		o.agreed.resumed, o.agreed.handled = true, h
	case "failed":
		if o.former == "" || o.agreed.failed {
			break // without
		}
		o.agreed.failed = true
		o.setResuming(false)
		if h, err := count(e); err == nil {
			o.agreed.known, o.agreed.handled = true, h
		}
		o.enable()
		return nil
	default:
		return unexpected(e)
	}
	o.succeed()
	return nil
}

// handled takes acknowledgements, and requests for ours: of stanzas, which do not come this way.
func (o *outgoing) handled(e element.Element) error {
	switch {
	case e.Name() == "r":
		o.s.SendRaw("<a xmlns='" + ns.SM + "' h='0'/>")
		return nil
	case e.Name() != "a" || !o.agreed.acks && !o.agreed.resumed:
		return unexpected(e)
	}
	h, err := count(e)
	if err != nil {
		return err
	}
	return o.way.acknowledged(o, h)
}

func unexpected(e element.Element) error {
	return &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "<" + e.Name() + "/> was not expected"}
}

// count reads h.
func count(e element.Element) (uint32, error) {
	h, err := strconv.ParseUint(e.Attr("h"), 10, 32)
	if err != nil {
		return 0, &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "h is not a count"}
	}
	return uint32(h), nil
}

// isTrue reads an xs:boolean.
func isTrue(value string) bool { return value == "true" || value == "1" }

// unlimited is for ledgers whose bounds are kept elsewhere.
const unlimited = 1 << 62

// draft makes an outbound that waits for its first stream.
func (f *Federation) draft(p Pair) *outbound {
	b := &outbound{f: f, Pair: p, ledger: stream.Restore(unlimited, f.Now, 0, nil, 0)}
	b.ledger.Renumbering(b.renumber)
	_, _, _ = b.ledger.Acknowledged(0) // there is nothing to number
	return b
}

// begin makes the outbound of a stream.
func begin(o *outgoing, now time.Time) *outbound {
	b := &outbound{f: o.f, Pair: o.Pair, ledger: stream.NewLedger(o.s, unlimited, o.f.Now), acks: o.agreed.acks,
		id: o.agreed.id, grace: o.agreed.grace, heard: now}
	b.ledger.Renumbering(b.renumber)
	if b.acks {
		b.ledger.Start(nil, func() {})
	}
	return b
}

// send hands a stanza to the stream, or keeps it for when there is one. Of a message that is to be kept it
// writes the entry; the message leaves when that is on disk.
func (b *outbound) send(st stanza.Stanza, now time.Time) {
	e := journal.Of(st)
	number := b.post(letter{Stanza: st.WithReceipt(nil, 0).WithCourse(nil), kept: e != nil}, e.Gate(), now)
	if e != nil {
		if b.peer == 0 {
			b.peer = newPeerID()
		}
		e.Wait(b.peer, number, storage.Plain, 1)
		e.Submit(st, b.submit)
	}
}

// post puts a letter into the ledger, and returns its number.
func (b *outbound) post(l letter, gate *stream.Gate, now time.Time) uint64 {
	if count, _ := b.waiting(); count == 0 {
		b.heard = now
	}
	l.number = b.last + 1
	open := b.ledger.Open()
	if b.last, _ = b.ledger.Send(l.Element, l, gate); b.last == 0 {
		b.last = l.number
	}
	if b.acks && open {
		b.posted = b.last
	}
	return b.last
}

// waiting is how much is not known to have arrived. Of none it is nothing.
func (b *outbound) waiting() (stanzas, bytes int) {
	if b == nil {
		return 0, 0
	}
	return b.ledger.Waiting()
}

// arrived notes what has.
func (b *outbound) arrived(parcels []stream.Parcel) {
	b.progress = b.progress || len(parcels) > 0
	if n := len(parcels); n > 0 && !b.acks {
		b.through = parcels[n-1].Note.(letter).number
	} else if b.acks {
		b.through = b.ledger.Acked()
	}
}

// acknowledge takes the peer's word for what it has got.
func (b *outbound) acknowledge(h uint32, now time.Time) error {
	arrived, err := b.ledger.Acknowledge(h)
	if err != nil {
		b.id = "" // nothing that such a peer says of this session is worth anything
		return err
	}
	b.arrived(arrived)
	b.heard, b.asked = now, time.Time{}
	return nil
}

// resume goes on on another stream, whose peer has got h.
func (b *outbound) resume(s *stream.Stream, h uint32, now time.Time) error {
	if !b.ledger.Known(h) {
		b.id = ""
		return &stanza.StreamError{Condition: stanza.StreamUndefinedCondition,
			Text: "you have acknowledged more than that before"}
	}
	arrived, changed, err := b.ledger.Acknowledged(h)
	if err != nil {
		b.id = ""
		return err
	}
	b.progress = false
	b.arrived(arrived)
	if len(changed) > 0 {
		b.last = changed[len(changed)-1].New
	}
	b.posted = b.last
	b.ledger.Resume(s, b.renumbered(changed), func(uint32) {})
	b.heard, b.asked = now, time.Time{}
	return nil
}

// end takes out what did not arrive, as far as that is known.
func (b *outbound) end() []stream.Parcel {
	written, lost := b.ledger.Settle()
	b.arrived(written)
	return lost
}

// tend asks a peer for a sign of life that has not acknowledged for half of patience or, where nothing is
// due, for quiet; and reports whether it has not given it.
func (b *outbound) tend(s *stream.Stream, now time.Time, quiet, patience time.Duration) (silent bool) {
	if count, _ := b.waiting(); count > 0 {
		quiet = min(quiet, patience/2)
	}
	switch {
	case !b.asked.IsZero():
		return now.Sub(b.asked) >= patience
	case now.Sub(b.heard) >= quiet:
		b.asked = now
		s.SendRaw("<r xmlns='" + ns.SM + "'/>")
	}
	return false
}

// kind says what an operator sees.
func (b *outbound) kind() string {
	switch {
	case b == nil || !b.acks:
		return "none"
	case b.id == "":
		return "acks"
	}
	return "resumable"
}

// again decides what becomes of what a peer was sent, may have got, and has not acknowledged in a
// session that is over: messages go again as they were, with the time at which they were sent (XEP-0203);
// so do replies. Requests are answered with an error, since to carry one out twice may be harm. Of
// presence only what holds now goes again; a request or an answer about a subscription may be repeated.
func again(lost []stream.Parcel, posted uint64) (resend []stream.Parcel, returned []stanza.Stanza) {
	type way struct{ from, to jid.JID }
	current := make(map[way]int) // the last one of each
	for i, p := range lost {
		if st := p.Note.(letter).Stanza; isState(st) {
			current[way{st.From, st.To}] = i
		}
	}
	for i, p := range lost {
		l := p.Note.(letter)
		switch {
		case isState(l.Stanza) && current[way{l.From, l.To}] != i:
			continue
		case p.Number == 0 || p.Number > posted: // it was on no stream
		case l.IsRequest():
			returned = append(returned, l.Stanza)
			continue
		case l.Kind == stanza.Message && l.Type != "error" && !stanza.Delayed(l.Element, l.From):
			l.Stanza = l.WithElement(stanza.Delay(l.Element, l.From.Server(), p.Sent))
			p.Element, p.Note = l.Element, l
		}
		resend = append(resend, p)
	}
	return resend, returned
}

// isState says whether a presence tells what somebody is, and the next one makes it stale.
func isState(st stanza.Stanza) bool {
	return st.Kind == stanza.Presence && (st.Type == "" || st.Type == "unavailable")
}
