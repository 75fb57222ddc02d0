// Package stream is the one machine behind every XML stream (RFC 6120 section 4): client in, server
// in, server out. The roles differ by the features they offer or use and by what they do with
// stanzas; all of that is data in a Role. Package c2s and federation make Roles and run Streams.
//
// Start with Role, then Stream.Live, which is the whole life of a stream on one goroutine at a time: wait,
// read what is there, hand each top-level element on, write what that caused, wait again. Send may be
// called by anyone at any time and never blocks.
//
// What keeps a stream safe is decided here and nowhere else: limits act while bytes are read, a
// feature is reachable only while it is offered, and it is offered only in the states that it names;
// nothing but features is reachable before the Role says that the stream is ready.
package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/meter"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/transport"
)

// A State is a set of facts about a stream; features name those they need and those they end with.
type State uint8

// Each fact is set by the feature that establishes it and is never taken back.
const (
	Secure        State = 1 << iota // under TLS
	Authenticated                   // the peer has proved an identity
	Bound                           // a resource is bound (c2s)
	Resumed                         // together with the state of an earlier stream (XEP-0198 section 5)
)

// A Role is what makes a stream a client's or a server's. It is shared by all streams of that
// role and does not change while they run.
type Role struct {
	// Content is the content namespace on the wire, ns.Client or ns.Server.
	Content string
	// Initiates is set for the side that opens the stream.
	Initiates bool
	// Prefixes are further declarations on our header, such as dialback's.
	Prefixes []Prefix
	// Features in the order of their offer, or in the order in which the initiator tries them.
	Features []Feature

	// Opened judges each header that the peer sends, before ours is sent in answer. It finds the
	// local domain, sets Local, and may refuse with a *stanza.StreamError.
	Opened func(s *Stream, h Header) error
	// Ready says whether elements that belong to no feature may reach Handle.
	Ready func(s *Stream) bool
	// Negotiated is called on the initiating side when no feature wants anything more.
	Negotiated func(s *Stream) error
	// Handle takes one top-level element. A *stanza.StreamError ends the stream with that error.
	Handle func(s *Stream, e element.Element) error
	// Ended is called once when the stream is over; its last bytes may still be on their way.
	Ended func(s *Stream, err error)
	// Quiet is called when nothing has arrived for Timing.Quiet; it probes the peer. Nil: the peer
	// has nothing to say on this stream, and its silence means nothing.
	Quiet func(s *Stream)
	// Written is called when the kernel has what a Ledger waits for, by whoever wrote it, without locks. It is set
	// where ledgers are used.
	Written func(s *Stream)
	// Admit, if set, may hold up the reading of the next bytes (for the store, say).
	Admit func(ctx context.Context) error

	// Handshake, if set, waits for this stream's turn to carry out a TLS handshake.
	Handshake func(ctx context.Context, s *Stream) (done func(), err error)

	Limits   Limits
	Timing   Timing
	Flusher  *Flusher
	Counters *meter.Counters
	Log      *slog.Logger
	// Attributes, if set, says who the peer is in the log, besides its address. Whoever sends to the stream may
	// call it, under locks of his own: it takes none, and reads what does not change once the stream is known.
	Attributes func(s *Stream) []any
}

// A Prefix is a namespace declaration on the stream's header.
type Prefix struct{ Name, NS string }

// Limits bound what a stream may cost.
type Limits struct {
	// Before and After are the parser's limits before and after authentication.
	Before, After element.Limits
	// Queue is how many bytes may wait for a peer that does not read before it is cut off, besides what
	// waited before the stream (Spare). While more than a quarter of it waits, we do not read from the peer.
	Queue int
	// EarlyBytes and EarlyElements are how much a peer may send in all before the stream is ready.
	EarlyBytes, EarlyElements int
	// Bytes and Stanzas are how much a peer may send in a second once it is ready, on average; we
	// read no faster. 0: no limit.
	Bytes, Stanzas int
}

// Timing bounds how long a stream may take.
type Timing struct {
	Login  time.Duration // until Ready
	Quiet  time.Duration // silence after which the peer is probed
	Answer time.Duration // silence after a probe that ends the stream
	Finish time.Duration // for the peer to close its side, and for our last bytes
	// Ask is the least time between two requests for acknowledgement (XEP-0198): an answer costs the peer and us as
	// much as a stanza, so who is in the middle of something is asked once for all of it.
	Ask time.Duration
}

// A Header is what a peer's <stream:stream> tag says.
type Header struct {
	To, From, ID, Lang, Version string
}

// A Stream is one XML stream over one connection, through all its restarts.
type Stream struct {
	// ID is ours as receiving entity; as initiator it is the one that the peer chose.
	ID string
	// Local is the domain we speak for, Peer the domain or the client's JID that is proved or
	// claimed; the Role sets both. Data is the Role's own.
	Local, Peer string
	Data        any
	// Lang is the xml:lang of the peer's header, for stanzas that have none; "" if it is no language tag.
	Lang string
	// Started is when the connection was accepted or made.
	Started time.Time

	role     *Role
	conn     *transport.Conn
	parser   *element.Parser
	state    State
	offered  []bool // by index of the role's features, in the last <features/>
	trying   int    // initiator: the feature that is being negotiated, -1 for none
	upgrade  func(context.Context) error
	headers  bool // our header of this (re)start is sent
	finished bool // nothing more is read: </stream> came, or the XML is beyond repair
	left     bool // </stream> came
	features element.Element
	remote   *stanza.StreamError
	deadline time.Time
	probed   bool
	restAt   time.Time // zero: it rests
	active   bool      // something has arrived since restAt was set
	drained  bool      // nothing was left to read; what TLS holds does not make the socket readable
	received int64     // of what the connection has read, as far as it is spent
	early    spent     // before the stream was ready
	pace     pace

	queue   queue
	dropped atomic.Bool
	ending  atomic.Pointer[ending]
	login   login
}

// ending is the first reason for which a stream was closed; nil inside means an orderly end. Until then
// the peer may close its side.
type ending struct {
	err   *stanza.StreamError
	until time.Time
}

// New makes a stream over an accepted or dialled socket. Direct TLS is put on it by a Role whose
// caller calls Secure first.
func New(role *Role, c transport.Socket) (*Stream, error) {
	s := &Stream{
		role: role, trying: -1, Started: time.Now(),
		parser: element.NewParser(role.Limits.Before),
	}
	s.queue.init(s)
	conn, err := transport.NewConn(c, s.queue.drained)
	if err != nil {
		return nil, fmt.Errorf("stream: %w", err)
	}
	s.conn = conn
	return s, nil
}

// State is what is established.
func (s *Stream) State() State { return s.state }

// Role is the role that the stream was made with.
func (s *Stream) Role() *Role { return s.role }

// Conn is the connection, for its TLS state and addresses.
func (s *Stream) Conn() *transport.Conn { return s.conn }

// Log is the log for what happens to this stream. It is made when it is needed: streams that have nothing to say
// are most of what there is.
func (s *Stream) Log() *slog.Logger {
	attributes := []any{"remote", s.conn.RemoteAddr().String()}
	if s.role.Attributes != nil {
		attributes = append(attributes, s.role.Attributes(s)...)
	}
	return s.role.Log.With(attributes...)
}

// Secure puts TLS on the connection before the stream starts (XEP-0368).
func (s *Stream) Secure(ctx context.Context, config *tls.Config) error {
	if s.role.Handshake != nil {
		done, err := s.role.Handshake(ctx, s)
		if err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		defer done()
	}
	if err := s.conn.Handshake(ctx, config, !s.role.Initiates, s.Local); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	s.state |= Secure
	return nil
}

// Run lives the stream until it is over and returns why; nil means that both sides closed it. It
// calls Ended before it returns. A panic ends this stream only.
func (s *Stream) Run(ctx context.Context) error {
	over := make(chan error, 1)
	s.Live(ctx, func(err error) { over <- err })
	return <-over
}

// Live is Run for who does not wait: it returns at once, and over is called with what Run would return.
func (s *Stream) Live(ctx context.Context, over func(error)) {
	s.deadline = s.Started.Add(s.role.Timing.Login)
	s.restAt = time.Now().Add(restAfter)
	go s.live(ctx, s.role.Initiates, over)
}

// restAfter is how long a stream is silent, at the least, before it waits on a fresh goroutine. The stack of a
// goroutine that has handled something stays as large as that took; of what an idle session costs it would be a
// tenth.
const restAfter = 2 * time.Second

// live lives the stream until it is over, or until it is time to go on with a smaller stack. A stream that
// opens sends its header first.
func (s *Stream) live(ctx context.Context, opens bool, over func(error)) {
	rests, err := s.read(ctx, opens)
	if rests {
		go s.live(ctx, false, over)
		return
	}
	if cause := s.cause(); cause != nil {
		err = cause
	}
	s.ending.CompareAndSwap(nil, &ending{until: time.Now().Add(s.role.Timing.Finish)})
	// Whoever writes now is done before we leave; how long the peer takes to leave is then of no
	// interest to others.
	_ = s.queue.exclusively(func() error { return nil })
	if !s.Broken() {
		s.queue.waitGates(s.role.Timing.Finish)
	}
	s.role.Ended(s, err)
	s.conn.Finish(s.patience())
	s.queue.close()
	over(err)
}

// patience is what a peer has left of Timing.Finish since we closed our side. One that was dropped has nothing
// to say to that; it gets the time to read what was sent last.
func (s *Stream) patience() time.Duration {
	if s.dropped.Load() {
		return s.role.Timing.Finish / 10
	}
	return time.Until(s.ending.Load().until)
}

// read is the loop: wait without a buffer, then take all that is there in one turn.
func (s *Stream) read(ctx context.Context, opens bool) (rests bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Log().Error("panic in a stream", "panic", p, "stack", string(debug.Stack()))
			s.fail(&stanza.StreamError{Condition: stanza.StreamInternalServerError})
			rests, err = false, fmt.Errorf("panic: %v", p)
		}
	}()
	if opens {
		s.sendHeader()
		s.queue.flush()
	}
	for !s.finished && !s.over() {
		if s.role.Admit != nil && s.Ready() {
			if err := s.role.Admit(ctx); err != nil {
				return false, err
			}
		}
		s.keepPace()
		s.queue.waitRoom()
		if s.drained {
			err := s.conn.Wait(s.next())
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if rests, err := s.waited(); rests || err != nil {
					return rests, err
				}
				continue
			}
			if err != nil {
				return false, err
			}
		}
		if err := s.turn(); err != nil {
			s.fail(err)
			return false, err
		}
		if s.upgrade != nil {
			if err := s.secureNow(ctx); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// next is when the stream has something to do even if nothing arrives; zero: never.
func (s *Stream) next() time.Time {
	if s.deadline.IsZero() || !s.restAt.IsZero() && s.restAt.Before(s.deadline) {
		return s.restAt
	}
	return s.deadline
}

// waited deals with that, or with the end of Timing.Finish, and says whether it is time to rest.
func (s *Stream) waited() (rests bool, err error) {
	now := time.Now()
	switch {
	case s.restAt.IsZero() || !s.deadline.IsZero() && !now.Before(s.deadline):
		return false, s.late()
	case s.active:
		s.active, s.restAt = false, now.Add(restAfter)
		return false, nil
	}
	s.restAt = time.Time{}
	return true, nil
}

// buffers are lent to streams for one turn, which reads a few of them at most: what one peer floods us
// with must not keep what it caused for others waiting.
var buffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

const maxReads = 8

// turn reads and handles what has arrived; what that caused is written at its end.
func (s *Stream) turn() error {
	buf := buffers.Get().(*[16 << 10]byte)
	defer buffers.Put(buf)
	s.role.Flusher.Begin()
	defer s.role.Flusher.End()
	s.drained = false
	for reads := 0; reads < maxReads && !s.finished && !s.over() && s.upgrade == nil; reads++ {
		n, err := s.conn.Read(buf[:])
		if err := s.arrived(n); err != nil {
			return err
		}
		if n > 0 {
			if err := s.feed(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, transport.ErrWouldBlock) {
			s.drained = true
			break
		}
		if err != nil {
			return err
		}
		if s.queue.full() || s.overdrawn() > 0 {
			break // answers to its own requests must not overflow, and nobody reads ahead of the pace
		}
	}
	s.parser.Idle()
	return nil
}

// feed hands the top-level elements in p on, one at a time.
func (s *Stream) feed(p []byte) error {
	s.probed, s.active = false, true
	if s.restAt.IsZero() {
		s.restAt = time.Now().Add(restAfter)
	}
	if s.Ready() {
		// A timer that is moved for each stanza costs more than a probe that comes a little early.
		quiet := s.role.Timing.Quiet
		if left := time.Until(s.deadline); left < quiet-quiet/8 || left > quiet {
			s.deadline = time.Now().Add(quiet)
		}
		s.parser.SetLimits(s.role.Limits.After) // by dialback, which no feature's Outcome tells of
	}
	for len(p) > 0 && !s.finished {
		if s.login.exclusive() && p[0] != '<' && s.parser.Idle() { // white space, which no token tells of
			return errUnderWay
		}
		n, tok, err := s.parser.Parse(p)
		if err != nil {
			return err
		}
		p = p[n:]
		switch tok.Kind {
		case element.Header:
			err = s.opened(tok.Element)
		case element.Top:
			if s.over() {
				return nil
			}
			if err = s.spend(spent{wire: tok.Grown, bytes: tok.Grown, elements: 1}); err == nil {
				err = s.dispatch(tok.Element)
			}
		case element.End:
			s.finished, s.left = true, true
			s.Close(nil)
		}
		if err != nil {
			return err
		}
		if s.upgrade != nil && len(p) > 0 {
			// Bytes behind <starttls/> or <proceed/> came in clear; to take them as if they had
			// come under TLS is command injection (RFC 6120 section 5.3.1, CVE-2011-0411).
			return &stanza.StreamError{Condition: stanza.StreamPolicyViolation,
				Text: "data sent in clear behind STARTTLS"}
		}
	}
	return nil
}

// secureNow carries out the handshake that a feature asked for, then starts the stream anew.
func (s *Stream) secureNow(ctx context.Context) error {
	s.queue.flush()
	ctx, cancel := context.WithDeadline(ctx, s.deadline)
	defer cancel()
	upgrade := s.upgrade
	s.upgrade = nil
	if err := s.queue.exclusively(func() error { return upgrade(ctx) }); err != nil {
		return err
	}
	s.restart()
	s.queue.flush()
	return nil
}

// late deals with a deadline that passed: the login took too long, the peer did not close its side,
// or it was silent, first for Quiet, then in spite of a probe (RFC 6120 section 4.6.4).
func (s *Stream) late() error {
	switch {
	case s.closed():
		s.finished = true // the peer does not close its side; ours may have been without an error
		return s.cause()
	case s.Ready() && s.role.Quiet == nil:
		s.deadline = time.Time{}
		return nil
	case s.Ready() && !s.probed:
		s.probed = true
		s.deadline = time.Now().Add(s.role.Timing.Answer)
		s.role.Quiet(s)
		return nil
	}
	s.fail(&stanza.StreamError{Condition: stanza.StreamConnectionTimeout})
	return s.cause()
}

// Ready says whether stanzas may flow.
func (s *Stream) Ready() bool { return s.role.Ready(s) }

// Send enqueues an element in the stream's content namespace. It never blocks; a peer whose queue
// overflows is cut off. After Close it does nothing.
func (s *Stream) Send(e element.Element) {
	s.post(e, nil)
}

// post is Send for who wants to know what became of the element: ok is false if the stream was closed before.
func (s *Stream) post(e element.Element, gate *Gate) (place span, ok bool) {
	if s.closed() {
		return span{}, false
	}
	return s.queue.add(e, "", plain, gate)
}

// SendRaw enqueues what is not an element in the content namespace: white space, or an element
// with a prefix declared on our header.
func (s *Stream) SendRaw(text string) {
	if !s.closed() {
		s.queue.add(element.Element{}, text, plain, nil)
	}
}

// Pending is how many bytes wait in the queue.
func (s *Stream) Pending() int { return s.queue.pending() }

// Close ends the stream, with an error if err is not nil (RFC 6120 sections 4.4 and 4.9). The peer
// gets Timing.Finish to close its side. It may be called by anyone, and does not wait.
func (s *Stream) Close(err *stanza.StreamError) {
	until := time.Now().Add(s.role.Timing.Finish)
	if !s.ending.CompareAndSwap(nil, &ending{err, until}) {
		return
	}
	s.queue.add(element.Element{}, streamError(err)+"</stream:stream>", last, nil)
	s.conn.Hurry(until)
}

// Broken says of a stream that has ended that neither side has meant it to: the connection was lost or
// the peer fell silent. It is called by Role.Ended.
func (s *Stream) Broken() bool {
	e := s.ending.Load()
	return s.dropped.Load() || !s.left && s.remote == nil && (e.err == nil || e.err.Condition == stanza.StreamConnectionTimeout ||
		e.err.Condition == stanza.StreamInternalServerError)
}

// Spare keeps the bytes that are sent next from counting towards Limits.Queue: they waited before the stream was there,
// and however fast its peer reads, they are handed over faster.
func (s *Stream) Spare(bytes int) { s.queue.spare(bytes) }

// Drop ends the stream as if the connection had been lost, after what is in its queue. Some clients give up
// a session that ends in another way.
func (s *Stream) Drop() {
	s.dropped.Store(true)
	now := time.Now()
	if s.ending.CompareAndSwap(nil, &ending{until: now}) {
		s.conn.Hurry(now)
	}
}

// Abort resets the connection, for who cannot wait for the peer.
func (s *Stream) Abort() { s.conn.Abort() }

func (s *Stream) closed() bool { return s.ending.Load() != nil }

// over says that nothing more of what the peer sends is looked at: it does not count, or the peer has had
// its time to close its side. What it goes on to send is thrown away unread (transport.Conn.Finish).
func (s *Stream) over() bool {
	e := s.ending.Load()
	return e != nil && (!s.listening() || !time.Now().Before(e.until))
}

// listening says whether what the peer sends still counts after we have closed our side: it may not
// know yet, and unless it did something wrong it may finish what it was sending (RFC 6120 section
// 4.4).
func (s *Stream) listening() bool {
	err := s.ending.Load().err
	return s.Ready() && (err == nil || err.Condition == stanza.StreamSystemShutdown)
}

// cause is the stream error that we closed with, or nil.
func (s *Stream) cause() error {
	if e := s.ending.Load(); e != nil && e.err != nil {
		return e.err
	}
	return nil
}

// fail closes the stream for an error of ours or the peer's, where its text may tell that. Nothing is
// read after it: RFC 6120 section 4.9.1.1 has no way on from an error.
func (s *Stream) fail(err error) {
	var known *stanza.StreamError
	var bad *element.Error
	switch {
	case errors.As(err, &known):
	case errors.As(err, &bad):
		known = &stanza.StreamError{Condition: bad.Condition, Text: bad.Text}
	default:
		return
	}
	if !s.headers && !s.role.Initiates {
		s.sendHeader() // RFC 6120 section 4.9.1.2: an error needs an open stream
	}
	s.Close(known)
}
