package c2s

import (
	"crypto/sha256"
	"sync/atomic"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// An outlet is the sink of a session: the way to its client, on whatever stream that is, or on none
// while the session waits to be resumed (XEP-0198 section 5). What is not said to be otherwise is
// guarded by the lock of the session's user.
type outlet struct {
	server  *Server
	ledger  *stream.Ledger // has a lock of its own
	session *session.Session

	asked bool          // for stream management
	id    key           // of resumption; zero: it cannot be resumed
	peer  uint64        // the session in the store, since its client acknowledges
	old   bool          // from before a restart, and not resumed since
	grace time.Duration // how long the session lives without a stream
	gone  bool          // the store has been told to forget it

	unkept atomic.Pointer[[]byte] // the newest record, if the store has not taken it; a write will
	stale  atomic.Bool            // a record could not be written

	since time.Time // without a stream; zero: there is one. Guarded by the lock of server.parking
}

// A key is what is kept of the secret that a client resumes with: who reads our memory or our store
// cannot resume with it.
type key [sha256.Size]byte

func keyOf(secret string) key { return sha256.Sum256([]byte(secret)) }

func (s *Server) newOutlet(st *stream.Stream) *outlet {
	return &outlet{server: s, ledger: stream.NewLedger(st, s.Limits.Queue*3/4, time.Now)}
}

var _ session.Keeper = (*outlet)(nil) // which a session looks for in its sink

// Send enqueues a stanza to the client.
func (o *outlet) Send(e element.Element) { o.Track(e, nil, nil) }

// Track implements session.Keeper.
func (o *outlet) Track(e element.Element, note any, gate *stream.Gate) uint64 {
	if gate != nil && o.stale.Load() {
		o.record() // what is about to wait for the session is kept only if that is
	}
	number, ok := o.ledger.Send(e, note, gate)
	if !ok {
		o.server.Counters.Hit("limit: unacknowledged stanzas")
		go o.server.Users.End(o.session, &stanza.StreamError{Condition: stanza.StreamPolicyViolation,
			Text: "too much is not acknowledged"}) // here its user is locked
	}
	return number
}

// Peer implements session.Keeper.
func (o *outlet) Peer() uint64 { return o.peer }

// Managed implements session.Keeper.
func (o *outlet) Managed() bool { return o.ledger.Counts() }

// Parked implements session.Keeper.
func (o *outlet) Parked() bool { return o.ledger.Carrier() == nil }

// Numbers implements session.Keeper.
func (o *outlet) Numbers(of func(note any) bool) []uint64 { return o.ledger.Numbers(of) }

// Close ends the stream, if there is one, and all hope for another.
func (o *outlet) Close(err *stanza.StreamError) {
	o.server.parking.leave(o)
	if st := o.ledger.Carrier(); st != nil {
		st.Close(err)
	}
}

// Settle implements session.Keeper.
func (o *outlet) Settle() (written, lost []stream.Parcel) { return o.ledger.Settle() }
