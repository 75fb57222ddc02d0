package admin

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peerUser is the user at the other end of a Unix socket, by the kernel's word (SO_PEERCRED, unix(7)).
func peerUser(c net.Conn) (uid int, err error) {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%T has no user", c)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil {
		err = controlErr
	}
	if err != nil {
		return 0, err
	}
	return int(credentials.Uid), nil
}
