package transport

import (
	"sync"
	"syscall"
)

// A transfer is a system call on the descriptor of a connection, with what it has to do and what came of
// it. syscall.RawConn takes functions that would have to be made anew for each call; these are lent.
type transfer struct {
	p      []byte
	n      int
	err    error
	waited bool

	read, write, peek func(fd uintptr) bool
}

var transfers = sync.Pool{New: func() any {
	t := new(transfer)
	t.read, t.write, t.peek = t.readOnce, t.writeAll, t.peekOnce
	return t
}}

// readInto reads what is there, once.
func readInto(raw syscall.RawConn, p []byte) (n int, err error) {
	t := transfers.Get().(*transfer)
	t.p = p
	err = raw.Read(t.read)
	return t.done(err)
}

// writeFrom writes what the kernel takes without blocking.
func writeFrom(raw syscall.RawConn, p []byte) (n int, err error) {
	t := transfers.Get().(*transfer)
	t.p = p
	err = raw.Write(t.write)
	return t.done(err)
}

// awaitRead blocks until there is something to read, or nearly always so.
func awaitRead(raw syscall.RawConn) error {
	t := transfers.Get().(*transfer)
	err := raw.Read(t.peek)
	_, err = t.done(err)
	return err
}

// done returns the outcome and gives the transfer back. err is that of the descriptor, if it could not be used.
func (t *transfer) done(err error) (int, error) {
	n := t.n
	if err == nil {
		err = t.err
	}
	t.p, t.n, t.err, t.waited = nil, 0, nil, false
	transfers.Put(t)
	return n, err
}

func (t *transfer) readOnce(fd uintptr) bool {
	t.n, t.err = ignoringEINTR(syscall.Read, int(fd), t.p)
	return true
}

func (t *transfer) writeAll(fd uintptr) bool {
	for t.n < len(t.p) && t.err == nil {
		var n int
		if n, t.err = ignoringEINTR(syscall.Write, int(fd), t.p[t.n:]); n > 0 {
			t.n += n
		}
	}
	return true
}

// peekOnce is called before the wait and after it. It looks before, because the poller only reports
// changes; afterwards it takes the poller's word.
func (t *transfer) peekOnce(fd uintptr) bool {
	if t.waited {
		return true
	}
	t.waited = true
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return err != syscall.EAGAIN
}

func ignoringEINTR(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
