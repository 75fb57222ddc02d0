package transport

import (
	"context"
	"errors"
	"net"
	"time"
)

// Serve accepts connections until the context ends or the listener fails, and hands each to handle on
// a goroutine of its own. Lack of descriptors is waited out: the connections that end give some back.
func Serve(ctx context.Context, l net.Listener, handle func(Socket)) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		sock, ok := c.(Socket)
		if !ok {
			c.Close()
			continue
		}
		go handle(sock)
	}
}
