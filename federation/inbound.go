package federation

import (
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// An inbound counts what another server has sent, for acknowledgements and for resumption (XEP-0198). It
// belongs to the pair that enabled it, and is gone on with only on a stream that has proved that pair
// anew: the identifier alone opens nothing.
type inbound struct {
	Pair
	id     key    // of resumption; zero: it cannot be resumed
	owner  string // of the remote domain, as in registered, if it can be
	peer   uint64 // the same in the store
	ledger *stream.Ledger

	// mu guards which stream carries it. Only what comes on that one is handled and counted.
	mu    sync.Mutex
	since time.Time // without a stream
}

// A key is what is kept of the identifier that a peer resumes with: who reads our memory or our store
// cannot resume with it.
type key [sha256.Size]byte

func keyOf(identifier string) key { return sha256.Sum256([]byte(identifier)) }

// Bounds of what can be resumed. A server that goes on with a stream needs one for a pair; one that loses
// several at a time has them found again. Where there are more, the oldest of whoever has most are forgotten.
const (
	maxInbound    = 10_000
	maxParkedPair = 8
)

// inboundTime is how long a session is found, however soon we ask to be back: it holds nothing but a count, and
// without it a server that was down for long would have to send again what we have got.
const inboundTime = 24 * time.Hour

// resumeTime bounds how long a resumption waits for what the earlier stream brought to be handled.
const resumeTime = 30 * time.Second

// offerManagement announces stream management with dialback: a pair that is authorised by it sees no
// features after these. It cannot be used before.
func (in *incoming) offerManagement() []element.Element {
	if in.managed.Load() != nil || in.offerDialback() == nil {
		return nil
	}
	return []element.Element{element.Leaf("sm", ns.SM, "")}
}

// manage takes the elements of stream management.
func (in *incoming) manage(e element.Element) error {
	b := in.managed.Load()
	switch {
	case e.Name() == "enable" && b == nil && in.open.Load():
		in.enable(e)
	case e.Name() == "resume" && b == nil && in.open.Load():
		return in.resume(e)
	case e.Name() == "r" && b != nil:
		b.ask(in.s)
	case e.Name() == "a" && b != nil:
		h, err := count(e)
		if err == nil {
			_, err = b.ledger.Acknowledge(h) // we send nothing on this stream
		}
		return err
	case e.Name() == "enable" && b != nil:
		in.s.Send(failed(stanza.UnexpectedRequest("")))
		return &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "stream management is enabled already"}
	default:
		in.s.Send(failed(stanza.UnexpectedRequest("")))
	}
	return nil
}

// failed says that stream management cannot be had (section 6).
func failed(err *stanza.Error) element.Element {
	return element.Start("failed", ns.SM).Leaf(err.Condition, ns.StanzaErr, "").Element()
}

// enable starts the count (section 3).
func (in *incoming) enable(e element.Element) {
	b := &inbound{Pair: in.owner(), ledger: stream.NewLedger(in.s, unlimited, in.f.Now)}
	enabled := element.Start("enabled", ns.SM)
	if grace := in.f.Resume; grace > 0 && isTrue(e.Attr("resume")) {
		identifier := rand.Text()
		b.id = keyOf(identifier)
		in.f.remember(b)
		b.keep(in.f)
		enabled.Attr("id", identifier).Attr("resume", "true").
			Attr("max", strconv.Itoa(max(1, int(grace/time.Second))))
	}
	b.ledger.Start(nil, func() { in.s.Send(enabled.Element()) })
	in.managed.Store(b)
}

// owner is the pair that a session on this stream is for: that of the header, where it is authorised.
func (in *incoming) owner() Pair {
	in.mu.Lock()
	defer in.mu.Unlock()
	header := Pair{in.s.Local, in.s.Peer}
	if a := in.pairs[header]; a != nil && a.by != "" {
		return header
	}
	var owner Pair
	var since time.Time
	for p, a := range in.pairs {
		if a.by != "" && (owner == Pair{} || a.since.Before(since)) {
			owner, since = p, a.since
		}
	}
	return Pair{clone(owner.Local), clone(owner.Remote)}
}

// resume puts a session on this stream (section 5).
func (in *incoming) resume(e element.Element) error {
	h, err := count(e)
	if err != nil {
		return err
	}
	previd := e.Attr("previd")
	b := in.f.recall(keyOf(previd))
	if b == nil || !in.admits(b.Pair) || !b.ledger.Known(h) {
		in.s.Send(failed(stanza.ItemNotFound("")))
		return nil
	}
	for deadline := time.Now().Add(resumeTime); ; {
		handled, err := b.adopt(in.s, in.f.Now(), h, func(handled uint32) {
			in.managed.Store(b)
			in.s.Send(element.Start("resumed", ns.SM).Attr("previd", previd).
				Attr("h", strconv.FormatUint(uint64(handled), 10)).Element())
		})
		switch {
		case handled || err != nil:
			return err
		case time.Now().After(deadline):
			return &stanza.StreamError{Condition: stanza.StreamResourceConstraint,
				Text: "what was sent before is not stored yet"}
		}
		// The peer will send again what is not counted, so what is under way must be over.
		in.s.Pause(2 * time.Millisecond)
	}
}

// adopt makes a stream carry the session, unless something of what has come is still being handled. From
// here on nothing that another stream still brings counts.
func (b *inbound) adopt(s *stream.Stream, now time.Time, h uint32, announce func(handled uint32)) (handled bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.ledger.Carrier(); old != nil && old != s {
		b.ledger.Park()
		b.since = now
		old.Close(&stanza.StreamError{Condition: stanza.StreamConflict, Text: "the session was resumed"})
	}
	if _, open := b.ledger.Handled(); open != nil {
		return false, nil
	}
	if _, _, err = b.ledger.Acknowledged(h); err == nil { // we send nothing on these streams
		b.ledger.Resume(s, nil, announce)
	}
	return true, err
}

// receive counts a stanza that came on a stream; false if that does not carry the session any more.
func (b *inbound) receive(s *stream.Stream, st stanza.Stanza) (stanza.Stanza, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ledger.Carrier() != s {
		return st, false
	}
	number, _ := b.ledger.Receive()
	return st.WithReceipt(b.ledger, number), true
}

// ask answers a request for acknowledgement.
func (b *inbound) ask(s *stream.Stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ledger.Carrier() == s {
		b.ledger.Asked()
	}
}

// ended ends what is done for a stream that is over, and parks its session, unless the peer or we meant it
// to end. A server that goes down means to come back.
func (in *incoming) ended() {
	in.end()
	b := in.managed.Load()
	if b == nil {
		return
	}
	b.mu.Lock()
	carried := b.ledger.Carrier() == in.s
	if carried {
		b.ledger.Park()
		b.since = in.f.Now()
	}
	b.mu.Unlock()
	if carried && !in.s.Broken() && in.s.RemoteError() == nil && !in.f.isClosing() {
		in.f.forget(b)
	}
}

// kind says what an operator sees.
func (b *inbound) kind() string {
	switch {
	case b == nil:
		return "none"
	case b.id == key{}:
		return "acks"
	}
	return "resumable"
}

// remember makes a session be found, if need be in place of another one.
func (f *Federation) remember(b *inbound) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b.owner = registered(b.Remote)
	var parked []*inbound
	for _, other := range f.inbound {
		if other.Pair == b.Pair && other.ledger.Carrier() == nil {
			parked = append(parked, other)
		}
	}
	if len(parked) >= maxParkedPair {
		f.evict(parked)
	}
	if len(f.inbound) >= maxInbound {
		f.evict(f.crowd())
	}
	f.inbound[b.id] = b
}

// crowd is the sessions of those who have most. Whoever owns a domain has as many below it as they like,
// so these count as one, and nobody's many cost others theirs.
func (f *Federation) crowd() []*inbound {
	most, owned := 0, make(map[string]int)
	for _, b := range f.inbound {
		owned[b.owner]++
		most = max(most, owned[b.owner])
	}
	crowd := make([]*inbound, 0, most)
	for _, b := range f.inbound {
		if owned[b.owner] == most {
			crowd = append(crowd, b)
		}
	}
	return crowd
}

// evict forgets the one of some sessions that has waited longest, or one that has a stream if none waits.
func (f *Federation) evict(among []*inbound) {
	oldest := slices.MinFunc(among, func(x, y *inbound) int {
		switch carried := x.ledger.Carrier() != nil; {
		case carried == (y.ledger.Carrier() != nil):
			return x.parked().Compare(y.parked())
		case carried:
			return 1
		}
		return -1
	})
	delete(f.inbound, oldest.id)
	f.erase(oldest)
}

// registered is the part of a domain that its owner has registered, as far as the list of public suffixes knows.
func registered(domain string) string {
	if owned, err := publicsuffix.EffectiveTLDPlusOne(jid.ASCIIDomain(domain)); err == nil {
		return owned
	}
	return domain
}

func (f *Federation) recall(id key) *inbound {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inbound[id]
}

func (f *Federation) forget(b *inbound) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.inbound, b.id)
	f.erase(b)
}

// expire forgets the sessions that nobody has resumed in time.
func (f *Federation) expire(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, b := range f.inbound {
		if b.ledger.Carrier() == nil && now.Sub(b.parked()) > max(f.Resume, inboundTime) {
			delete(f.inbound, id)
			f.erase(b)
		}
	}
}

// parked is since when there is no stream.
func (b *inbound) parked() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since
}

func (f *Federation) isClosing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closing
}
