package transport

import (
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// drainStall is how long a peer may take nothing at all of what is being drained to it.
const drainStall = 30 * time.Second

// A socket is the net.Conn below TLS. It has two modes: during a handshake it blocks like any
// other, afterwards its Read reports ErrWouldBlock and its Write keeps what the kernel refuses.
type socket struct {
	net.Conn
	raw      syscall.RawConn
	blocking bool // owned by the reading goroutine

	expected string            // what the stream's header named; for the choice of the certificate
	served   *x509.Certificate // set by Certificates during the handshake

	mu      sync.Mutex
	kept    []byte // accepted by Write, not yet taken by the kernel
	busy    bool   // a goroutine drains kept
	err     error  // of the drain; sticky
	idle    sync.Cond
	latest  time.Time // no wait lasts longer; zero: no bound
	drained func()
}

func newSocket(c Socket, drained func()) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: c, raw: raw, drained: drained}
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
	ctlErr := s.raw.Read(func(fd uintptr) bool {
		n, err = ignoringEINTR(syscall.Read, int(fd), p)
		return true
	})
	switch {
	case ctlErr != nil:
		return 0, ctlErr
	case errors.Is(err, syscall.EAGAIN):
		return 0, ErrWouldBlock
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Addr: s.RemoteAddr(), Err: err}
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// wait blocks until the socket is readable. It peeks, because the poller only reports changes.
func (s *socket) wait(deadline time.Time) error {
	if err := s.setWait(deadline); err != nil {
		return err
	}
	var one [1]byte
	return s.raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
	})
}

func (s *socket) setWait(deadline time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.latest.IsZero() && (deadline.IsZero() || s.latest.Before(deadline)) {
		deadline = s.latest
	}
	return s.SetReadDeadline(deadline)
}

// hurry makes a wait that is under way, and all that follow, end at the deadline.
func (s *socket) hurry(deadline time.Time) {
	s.mu.Lock()
	s.latest = deadline
	s.mu.Unlock()
	_ = s.setWait(deadline) // a closed connection wakes its reader anyway
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
	ctlErr := s.raw.Write(func(fd uintptr) bool {
		for taken < len(p) && err == nil {
			var n int
			if n, err = ignoringEINTR(syscall.Write, int(fd), p[taken:]); n > 0 {
				taken += n
			}
		}
		return true
	})
	if ctlErr != nil {
		return taken, ctlErr
	}
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		return taken, &net.OpError{Op: "write", Net: "tcp", Addr: s.RemoteAddr(), Err: err}
	}
	return taken, nil
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
		s.err = err
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

func ignoringEINTR(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
