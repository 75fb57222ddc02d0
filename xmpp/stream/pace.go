package stream

import (
	"time"

	"tombolo/xmpp/stanza"
)

// burst is how far a peer may be ahead of its rate.
const burst = 5 * time.Second

// earlyWire is how many times its allowance a peer that is not logged in may send with what TLS adds,
// which is 22 bytes for each record (RFC 8446 section 5.2). Who puts eight bytes into each is still
// served; records with next to nothing in them only cost time and memory.
const earlyWire = 4

// spent is what a peer has sent: bytes on the wire, those that came out of TLS, and elements.
type spent struct{ wire, bytes, elements int }

// pace is the rate at which a peer that is logged in may send: paid is the time up to which it has
// used its allowance.
type pace struct{ paid time.Time }

// spend counts what has arrived: against the total that an unknown peer has (which nothing can turn
// off), or against the rate of one that we know.
func (s *Stream) spend(sent spent) error {
	l := &s.role.Limits
	if e := &s.early; !s.Ready() {
		e.wire += sent.wire
		e.bytes += sent.bytes
		e.elements += sent.elements
		if l.EarlyBytes > 0 && (e.wire > earlyWire*l.EarlyBytes || e.bytes > l.EarlyBytes || e.elements > l.EarlyElements) {
			s.role.Counters.Hit("limit: before login")
			return &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "too much before login"}
		}
		return nil
	}
	var cost time.Duration
	if l.Bytes > 0 {
		cost += time.Duration(sent.wire) * time.Second / time.Duration(l.Bytes)
	}
	if l.Stanzas > 0 {
		cost += time.Duration(sent.elements) * time.Second / time.Duration(l.Stanzas)
	}
	if cost > 0 {
		if earliest := time.Now().Add(-burst); s.pace.paid.Before(earliest) {
			s.pace.paid = earliest
		}
		s.pace.paid = s.pace.paid.Add(cost)
	}
	return nil
}

// arrived counts the n bytes that were read, with what they were on the wire.
func (s *Stream) arrived(n int) error {
	received := s.conn.Received()
	wire := int(received - s.received)
	s.received = received
	return s.spend(spent{wire: wire, bytes: n})
}

// keepPace does not read on before the peer's allowance covers what it has sent. Nothing is dropped:
// the connection fills up, and the peer has to wait.
func (s *Stream) keepPace() {
	if d := s.overdrawn(); d > 0 {
		s.role.Counters.Hit("limit: rate of a session")
		s.sleep(d, func() bool { return false })
	}
}

// overdrawn is how long it takes until what the peer has sent is paid for.
func (s *Stream) overdrawn() time.Duration {
	if s.pace.paid.IsZero() {
		return 0
	}
	return time.Until(s.pace.paid)
}

// Pause holds up this stream, and nothing else, while one of its elements is being handled. It reports
// whether it has done so for all of d: the peer may leave meanwhile, or the stream's time be over.
func (s *Stream) Pause(d time.Duration) bool {
	s.role.Flusher.End() // what is due to others does not wait for this one
	defer s.role.Flusher.Begin()
	return s.sleep(d, s.conn.Left)
}

// Await is Pause until done is closed, for not more than d; it reports whether done is.
func (s *Stream) Await(done <-chan struct{}, d time.Duration) bool {
	s.role.Flusher.End()
	defer s.role.Flusher.Begin()
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// sleep waits, not longer than until the stream is over, its deadline has passed or it need not be. It
// reports whether that was as long as d.
func (s *Stream) sleep(d time.Duration, needless func() bool) bool {
	const step = 200 * time.Millisecond
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		switch {
		case s.over() || !s.deadline.IsZero() && time.Now().After(s.deadline):
			return false
		case left <= 0:
			return true
		case needless():
			return false
		}
		time.Sleep(min(left, step))
	}
}
