package transport

import (
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// drainStall is how long a peer may take nothing at all of what is being drained to it.
const drainStall = 30 * time.Second

// ownWords is how much may wait for the peer beside what Conn.Write was given: TLS answers by itself, for
// example each KeyUpdate (RFC 8446 section 4.6.3), and elsewhere that is held up with the connection. We
// never ask for one, so who lets two thousand answers lie does not mean well.
const ownWords = 64 << 10

// A socket is the net.Conn below TLS. It has two modes: during a handshake it blocks like any
// other, afterwards its Read reports ErrWouldBlock and its Write keeps what the kernel refuses.
type socket struct {
	net.Conn
	raw      syscall.RawConn
	blocking bool  // this, dry and received are owned by the reading goroutine
	dry      bool  // everything that had arrived was read; until the next wait
	received int64 // in all, without handshakes

	expected string            // what the stream's header named; for the choice of the certificate
	served   *x509.Certificate // set by Certificates during the handshake

	mu      sync.Mutex
	kept    []byte // accepted by Write, not yet taken by the kernel
	held    int    // its size, with what is being drained
	most    int    // that held may be
	busy    bool   // a goroutine drains kept
	err     error  // of the drain; sticky
	idle    sync.Cond
	latest  time.Time // no wait lasts longer; zero: no bound
	until   time.Time // the deadline that the connection has
	drained func()
}

func newSocket(c Socket, drained func()) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: c, raw: raw, most: ownWords, drained: drained}
	s.idle.L = &s.mu
	return s, nil
}

func (s *socket) Read(p []byte) (n int, err error) {
	if s.blocking {
		return s.Conn.Read(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if s.dry {
		return 0, ErrWouldBlock
	}
	n, err = readInto(s.raw, p)
	if errors.Is(err, os.ErrDeadlineExceeded) && s.setWait(time.Time{}) == nil {
		n, err = readInto(s.raw, p) // it was that of a wait which is over
	}
	s.received += int64(max(n, 0))
	// Less than there was room for is all that there was: what comes later is a change to the poller.
	s.dry = n < len(p)
	switch {
	case err == syscall.EAGAIN:
		return 0, ErrWouldBlock
	case isErrno(err):
		return 0, &net.OpError{Op: "read", Net: "tcp", Addr: s.RemoteAddr(), Err: err}
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// wait blocks until the socket is readable.
func (s *socket) wait(deadline time.Time) error {
	if err := s.setWait(deadline); err != nil {
		return err
	}
	err := awaitRead(s.raw)
	s.dry = err != nil
	return err
}

func (s *socket) setWait(deadline time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.latest.IsZero() && (deadline.IsZero() || s.latest.Before(deadline)) {
		deadline = s.latest
	}
	if deadline == s.until {
		return nil
	}
	s.until = deadline
	return s.SetReadDeadline(deadline)
}

// hurry makes a wait that is under way, and all that follow, end at the deadline.
func (s *socket) hurry(deadline time.Time) {
	s.mu.Lock()
	s.latest = deadline
	s.mu.Unlock()
	_ = s.setWait(deadline) // a closed connection wakes its reader anyway
}

// expect makes room for n bytes that Conn.Write was given, with what TLS puts around them, and for what
// TLS says by itself until the next ones.
func (s *socket) expect(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = s.held + n + n/8 + ownWords
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	taken := 0
	if !s.busy {
		var err error
		if taken, err = s.try(p); err != nil {
			s.err = err
			return 0, err
		}
	}
	if taken < len(p) {
		if s.held += len(p) - taken; s.held > s.most {
			s.err, s.kept = ErrUnread, nil
			s.abort()
			return 0, s.err
		}
		s.kept = append(s.kept, p[taken:]...)
		if !s.busy {
			s.busy = true
			go s.drain()
		}
	}
	return len(p), nil
}

// try writes what the kernel takes without blocking.
func (s *socket) try(p []byte) (taken int, err error) {
	taken, err = writeFrom(s.raw, p)
	switch {
	case err == syscall.EAGAIN:
		return taken, nil
	case isErrno(err):
		return taken, &net.OpError{Op: "write", Net: "tcp", Addr: s.RemoteAddr(), Err: err}
	}
	return taken, err
}

// drain writes what was kept, until there is nothing left.
func (s *socket) drain() {
	s.mu.Lock()
	for len(s.kept) > 0 && s.err == nil {
		out := s.kept
		s.kept = nil
		s.mu.Unlock()
		err := s.push(out)
		s.mu.Lock()
		s.held -= len(out)
		if s.err == nil {
			s.err = err
		}
	}
	s.busy = false
	if s.err != nil {
		s.kept = nil
		s.abort() // wakes the reader, which ends the stream
	}
	s.idle.Broadcast()
	s.mu.Unlock()
	s.drained()
}

// push writes all of p, in pieces, each of which must make progress within drainStall.
func (s *socket) push(p []byte) error {
	const piece = 64 << 10
	for len(p) > 0 {
		if err := s.SetWriteDeadline(time.Now().Add(drainStall)); err != nil {
			return err
		}
		n, err := s.Conn.Write(p[:min(piece, len(p))])
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return s.SetWriteDeadline(time.Time{})
}

// abort closes without sending what the kernel still has.
func (s *socket) abort() {
	if tcp, ok := s.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a connection that is gone needs none
	}
	s.Conn.Close()
}

func (s *socket) blocked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}

func (s *socket) isIdle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.busy && s.err == nil
}

// unread says whether the connection was cut for what the peer has not read.
func (s *socket) unread() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == ErrUnread
}

// finish waits until everything is sent and the peer has closed its side, at most as long as
// patience, and closes. Closing with unread input would make the kernel send a reset, which
// overtakes our last words.
func (s *socket) finish(patience time.Duration) {
	stop := time.AfterFunc(patience, func() { s.Conn.Close() }) // ends the drain and the read
	defer stop.Stop()
	s.mu.Lock()
	for s.busy {
		s.idle.Wait()
	}
	s.mu.Unlock()
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		if s.SetReadDeadline(time.Now().Add(patience)) == nil {
			_, _ = io.CopyN(io.Discard, s.Conn, maxDiscard) // any outcome is the end
		}
	}
	s.Conn.Close()
}

// maxDiscard bounds what is read from a peer only to throw it away.
const maxDiscard = 1 << 20

// isErrno tells a failed system call from a descriptor that could not be used, which says more itself.
func isErrno(err error) bool {
	_, ok := err.(syscall.Errno)
	return ok
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
