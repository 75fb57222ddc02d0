package session

import (
	"iter"
	"slices"
	"strings"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/stanza"
)

// A Sink is the way to a session's client; c2s implements it with a stream.
type Sink interface {
	// Send enqueues a stanza and never blocks. After the stream has ended it does nothing.
	Send(e element.Element)
	// Close ends the stream with the error, nil for none, and does not wait for it.
	Close(err *stanza.StreamError)
}

// A Session is one bound resource. It implements hook.Session; everything in it but its JID and
// its sink is guarded by its user's lock.
type Session struct {
	full   jid.JID
	client string
	sink   Sink
	keeper Keeper // the sink, if it is one
	user   *User  // once bound
	since  time.Time

	presence   stanza.Stanza
	priority   int
	ready      time.Time
	interested bool
	enabled    []string // namespaces
	directed   hook.Directed
	pending    map[Request]int // how often it came, each of which is owed an answer
	unanswered int             // the cost of all of them
}

// A Request identifies an IQ get or set that this session has received and not answered yet.
type Request struct {
	From jid.JID
	ID   string
}

// JID is the full JID that was bound.
func (s *Session) JID() jid.JID { return s.full }

// Client names the installation that the session's client is of, "" where it did not say.
func (s *Session) Client() string { return s.client }

// SetClient names the installation whose client has the session now: another one may have resumed it.
func (s *Session) SetClient(client string) {
	if s.client != client {
		s.client = strings.Clone(client)
		s.Changed()
	}
}

// Since is when the session was bound.
func (s *Session) Since() time.Time { return s.since }

// Send enqueues a stanza to the client.
func (s *Session) Send(e element.Element) { s.sink.Send(e) }

// Presence is the last presence that the client broadcast, zero while it is not available.
func (s *Session) Presence() stanza.Stanza { return s.presence }

// Available says whether the client has sent initial presence and no unavailable one since.
func (s *Session) Available() bool { return !s.presence.Element.IsZero() }

// Priority is the priority of the last presence (RFC 6121 section 4.7.2.3), 0 if not available.
func (s *Session) Priority() int { return s.priority }

// Ready is since when the session gets messages for the bare JID: it is available, with a priority that is
// not negative (RFC 6121 section 8.5.2.1.1). It is zero while it does not.
func (s *Session) Ready() time.Time { return s.ready }

// SetPresence makes st the session's presence; one that is not of the available type makes it
// unavailable. It returns the presence that was.
func (s *Session) SetPresence(st stanza.Stanza, now time.Time) (was stanza.Stanza) {
	was = s.presence
	if st.Type == "" {
		s.presence, s.priority = st, priority(st)
	} else {
		s.presence, s.priority = stanza.Stanza{}, 0
	}
	switch {
	case !s.Available() || s.priority < 0:
		s.ready = time.Time{}
	case s.ready.IsZero():
		s.ready = now
	}
	return was
}

// Interested says whether the client has asked for the roster.
func (s *Session) Interested() bool { return s.interested }

// SetInterested marks the client as one that gets roster pushes.
func (s *Session) SetInterested() {
	s.interested = true
	s.Changed()
}

// Enable turns something on or off that the client has asked for, by its namespace.
func (s *Session) Enable(ns string, on bool) {
	if on == s.Enabled(ns) {
		return
	}
	if on {
		s.enabled = append(s.enabled, ns)
	} else {
		s.enabled = slices.DeleteFunc(s.enabled, func(other string) bool { return other == ns })
	}
	s.Changed()
}

// Enabled says whether something is on.
func (s *Session) Enabled(ns string) bool { return slices.Contains(s.enabled, ns) }

// AllEnabled is all that is on.
func (s *Session) AllEnabled() []string { return s.enabled }

// Changed is called when the session is not any more as it was, in a way that is to outlive a restart.
func (s *Session) Changed() {
	if s.keeper != nil {
		s.keeper.Changed()
	}
}

// Directed are the entities that got directed presence from this session.
func (s *Session) Directed() *hook.Directed { return &s.directed }

// Received notes an IQ request that is handed to the client, so that it can be answered for it
// should the session end first. Its payload is not needed for that.
func (s *Session) Received(request stanza.Stanza) {
	if s.pending == nil {
		s.pending = make(map[Request]int)
	}
	key := Request{request.From, request.ID}
	s.pending[key.clone()]++
	s.unanswered += key.cost()
}

// Answered says whether the client had received such a request, and forgets it.
func (s *Session) Answered(reply stanza.Stanza) bool {
	key := Request{reply.To, reply.ID}
	switch s.pending[key] {
	case 0:
		return false
	case 1:
		delete(s.pending, key)
	default:
		s.pending[key.clone()]--
	}
	s.unanswered -= key.cost()
	return true
}

// clone has memory of its own: a map takes over the key that it is given, which else holds a whole stanza.
func (r Request) clone() Request { return Request{r.From.Clone(), strings.Clone(r.ID)} }

// cost is 1, and more for a long id or address: what bounds the number of requests bounds their memory.
func (r Request) cost() int {
	const size = 512 // of few addresses and of no id that a client makes
	return 1 + (len(r.From.String())+len(r.ID))/size
}

// Waiting is how many requests the client has not answered yet. One that is long to remember counts as
// several.
func (s *Session) Waiting() int { return s.unanswered }

// Unanswered are the requests that the client left without a reply, with what it takes to answer them.
func (s *Session) Unanswered() iter.Seq[stanza.Stanza] {
	return func(yield func(stanza.Stanza) bool) {
		for key, times := range s.pending {
			for range times {
				if !yield(stanza.New(stanza.IQ, "get", key.ID, key.From, s.full)) {
					return
				}
			}
		}
	}
}
