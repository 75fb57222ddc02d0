// Package transport carries bytes: TCP connections with or without TLS, and the certificates they
// are served with. Package stream reads and writes through Conn; c2s and federation accept with a
// Listener or dial and wrap what they got.
//
// Start with Conn. It differs from a net.Conn in two ways that the rest of the server relies on.
// Write never blocks, so that whoever fills a queue may write it at once, under no lock but its own:
// what the kernel does not take is kept and drained in the background, and Blocked tells. Read never
// blocks either; Wait does, and needs no buffer, so that an idle connection holds none.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// A Conn is a connection. Read, Wait and Handshake belong to one goroutine, Write to another at a
// time; Close may be called by anyone.
type Conn struct {
	socket *socket
	tls    *tls.Conn // nil in clear
}

// ErrWouldBlock is what Read returns when everything that has arrived has been read.
var ErrWouldBlock error = wouldBlock{}

// ErrUnread is the end of a connection whose peer makes TLS answer more than it reads.
var ErrUnread = errors.New("the peer does not read what TLS answers")

// wouldBlock is a temporary net.Error, which crypto/tls hands through and then can go on after.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "no data yet" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// A Socket is a connection with a file descriptor, such as *net.TCPConn.
type Socket interface {
	net.Conn
	syscall.Conn
}

// NewConn wraps a connected socket. drained is called, on another goroutine, whenever what Write had
// to keep has all been sent.
func NewConn(c Socket, drained func()) (*Conn, error) {
	s, err := newSocket(c, drained)
	if err != nil {
		return nil, err
	}
	return &Conn{socket: s}, nil
}

// Read reads what has arrived; ErrWouldBlock when that is nothing, and until the next Wait from then on.
func (c *Conn) Read(p []byte) (int, error) {
	if c.tls == nil {
		return c.socket.Read(p)
	}
	n, err := c.tls.Read(p)
	if err != nil && err != ErrWouldBlock && c.socket.unread() {
		err = ErrUnread // TLS has lost its keys over it, and would complain of those
	}
	return n, err
}

// Wait blocks until Read has something to say, or until the deadline, which is
// os.ErrDeadlineExceeded. The zero time means no deadline.
func (c *Conn) Wait(deadline time.Time) error {
	return c.socket.wait(deadline)
}

// Hurry bounds this and every later Wait; it may be called by anyone.
func (c *Conn) Hurry(deadline time.Time) { c.socket.hurry(deadline) }

// Received is how many bytes have been read from the connection itself, without handshakes: under TLS
// more than Read has returned, also while that returns none. For whoever calls Read.
func (c *Conn) Received() int64 { return c.socket.received }

// Left says whether the peer has closed its side, be there unread input or not; where the system cannot
// tell it is false.
func (c *Conn) Left() bool { return left(c.socket.raw) }

// Write takes all of p and never blocks. An error is that of an earlier write, too.
func (c *Conn) Write(p []byte) error {
	c.socket.expect(len(p))
	var err error
	if c.tls != nil {
		_, err = c.tls.Write(p)
	} else {
		_, err = c.socket.Write(p)
	}
	return err
}

// Blocked says that the peer does not read as fast as we write: bytes of earlier writes are still
// here. They are bounded by who asks this before each Write; what TLS adds to them by itself is bounded
// in any case, at the price of the connection.
func (c *Conn) Blocked() bool { return c.socket.blocked() }

// Idle says that the kernel has taken all that was written.
func (c *Conn) Idle() bool { return c.socket.isIdle() }

// Handshake puts TLS on the connection, as server or as client. expected is the domain that the
// stream header named, for clients that send no SNI. Blocking, bounded by ctx.
func (c *Conn) Handshake(ctx context.Context, config *tls.Config, server bool, expected string) error {
	if c.tls != nil {
		return errors.New("TLS is active already")
	}
	c.socket.expected = expected
	t := tls.Client(c.socket, config)
	if server {
		t = tls.Server(c.socket, config)
	}
	if err := c.socket.setWait(time.Time{}); err != nil { // the deadline of the last wait is not that of ctx
		return err
	}
	c.socket.blocking = true
	err := t.HandshakeContext(ctx)
	c.socket.blocking = false
	if err != nil {
		return err
	}
	c.tls = t
	return nil
}

// TLS is the state of the TLS layer, nil in clear.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	state := c.tls.ConnectionState()
	return &state
}

// Served is the leaf certificate that this very connection was served with (RFC 5929 section 4 needs
// it, whatever certificate new connections get by now); nil on the client's side.
func (c *Conn) Served() *x509.Certificate { return c.socket.served }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.socket.RemoteAddr() }

// LocalAddr is our address.
func (c *Conn) LocalAddr() net.Addr { return c.socket.LocalAddr() }

// Finish sends what is left and the TLS closure alert, gives the peer the time to read it, and closes
// the connection; it takes at most as long as patience.
func (c *Conn) Finish(patience time.Duration) {
	if c.tls != nil {
		_ = c.tls.CloseWrite() // the peer may be gone
	}
	c.socket.finish(patience)
}

// Close closes the connection at once.
func (c *Conn) Close() error { return c.socket.Close() }

// Abort resets the connection: what the kernel still has for a peer that does not read is thrown away,
// instead of being kept until the peer reads or times out.
func (c *Conn) Abort() { c.socket.abort() }

// Gone says whether an error of Read or Wait only means that the peer left or the deadline passed,
// which is nothing to report.
func Gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || isReset(err)
}
