package federation

import (
	"strconv"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// An outbound is what a pair sent on a stream and does not know to have arrived. With a peer that
// acknowledges (XEP-0198) that is what it has not acknowledged, and where the peer lets the session be
// resumed it outlives the stream; with any other peer it is what was not written. The lock of its pair
// guards it.
type outbound struct {
	ledger *stream.Ledger
	acks   bool          // the peer acknowledges
	id     string        // with which the session can be resumed; "": it cannot
	grace  time.Duration // for how long the peer lets it be resumed; 0: it did not say

	count, bytes int       // of stanzas in the ledger
	progress     bool      // something has arrived since the stream is there
	heard        time.Time // when the peer last acknowledged, or something was sent to one that had acknowledged all
	asked        time.Time // when tend asked; zero: no answer is due
	lost         time.Time // when there was no stream any more, and nothing has arrived since
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
			o.agreed.grace = time.Duration(seconds) * time.Second
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

// begin makes the outbound of a stream.
func begin(o *outgoing, now time.Time) *outbound {
	b := &outbound{ledger: stream.NewLedger(o.s, 1<<62, o.f.Now), acks: o.agreed.acks, id: o.agreed.id,
		grace: o.agreed.grace, heard: now}
	if b.acks {
		b.ledger.Start(func() {})
	}
	return b
}

// send hands a stanza to the stream, or keeps it for when there is one again.
func (b *outbound) send(st stanza.Stanza, now time.Time) {
	if b.count == 0 {
		b.heard = now
	}
	b.count++
	b.bytes += len(st.Element.String())
	b.ledger.Send(st.Element, st)
}

// arrived notes what has.
func (b *outbound) arrived(parcels []stream.Parcel) {
	for _, p := range parcels {
		b.bytes -= len(p.Element.String())
	}
	b.count -= len(parcels)
	b.progress = b.progress || len(parcels) > 0
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
	arrived, err := b.ledger.Resume(s, h, func(uint32) {})
	if err != nil {
		b.id = ""
		return err
	}
	b.progress = false
	b.arrived(arrived)
	b.heard, b.asked = now, time.Time{}
	return nil
}

// park takes what is sent off a stream that has ended.
func (b *outbound) park(now time.Time) {
	b.ledger.Park()
	if b.progress || b.lost.IsZero() {
		b.lost = now
	}
}

// end takes out what did not arrive, as far as that is known.
func (b *outbound) end() []stream.Parcel {
	written, lost := b.ledger.Settle()
	b.arrived(written)
	b.count, b.bytes = 0, 0
	return lost
}

// tend asks a peer for a sign of life that has not acknowledged for half of patience or, where nothing is
// due, for quiet; and reports whether it has not given it.
func (b *outbound) tend(s *stream.Stream, now time.Time, quiet, patience time.Duration) (silent bool) {
	if b.count > 0 {
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
func again(lost []stream.Parcel, waiting []stanza.Stanza) (resend, returned []stanza.Stanza) {
	type way struct{ from, to jid.JID }
	current := make(map[way]int) // the last one of each, by its place in lost; -1: it waits
	for i, p := range lost {
		if st := p.Note.(stanza.Stanza); isState(st) {
			current[way{st.From, st.To}] = i
		}
	}
	for _, st := range waiting {
		if isState(st) {
			current[way{st.From, st.To}] = -1
		}
	}
	for i, p := range lost {
		st := p.Note.(stanza.Stanza)
		switch {
		case st.IsRequest():
			returned = append(returned, st)
			continue
		case isState(st) && current[way{st.From, st.To}] != i:
			continue
		case st.Kind == stanza.Message && st.Type != "error" && !stanza.Delayed(st.Element, st.From):
			st = st.WithElement(stanza.Delay(st.Element, st.From.Server(), p.Sent))
		}
		resend = append(resend, st)
	}
	return resend, returned
}

// isState says whether a presence tells what somebody is, and the next one makes it stale.
func isState(st stanza.Stanza) bool {
	return st.Kind == stanza.Presence && (st.Type == "" || st.Type == "unavailable")
}
