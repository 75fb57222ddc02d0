package transport

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// left asks for the end of the peer's side, which reading finds only behind everything else.
func left(raw syscall.RawConn) bool {
	gone := true // as is a descriptor that cannot be used any more
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		_, err := unix.Poll(fds, 0)
		gone = err == nil && fds[0].Revents != 0 // with POLLERR and POLLHUP, which need not be asked for
	})
	return gone
}
