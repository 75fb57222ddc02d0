package audit

import (
	"bytes"
	"io"
	"log/slog"
	"log/syslog"
	"time"
)

// Syslog connects to this machine's log daemon, for Options.Copy.
func Syslog() (io.WriteCloser, error) {
	return syslog.New(syslog.LOG_AUTHPRIV|syslog.LOG_NOTICE, "tombolo")
}

// A copier sends lines to a second place. The log does not wait for it, and does not fail with it.
type copier struct {
	dial  func() (io.WriteCloser, error)
	log   *slog.Logger
	lines chan []byte
	done  chan struct{}
}

const (
	// maxCopies is how many batches may wait for the second place.
	maxCopies = 1024
	// copyPatience is how long Close waits for what it does not take.
	copyPatience = time.Second
)

func startCopier(dial func() (io.WriteCloser, error), log *slog.Logger) *copier {
	c := &copier{dial, log, make(chan []byte, maxCopies), make(chan struct{})}
	go c.run()
	return c
}

// send never blocks; what finds no room is missing from the copy, and its number shows that.
func (c *copier) send(lines []byte) {
	select {
	case c.lines <- lines:
	default:
	}
}

func (c *copier) run() {
	defer close(c.done)
	var to io.WriteCloser
	failing := false
	report := func(err error) {
		if err != nil && !failing {
			c.log.Warn("the copy of the audit log is not taken", "err", err)
		}
		failing = err != nil
	}
	for lines := range c.lines {
		for line := range bytes.Lines(lines) {
			if to == nil {
				var err error
				if to, err = c.dial(); err != nil {
					to = nil
					report(err)
					break
				}
			}
			_, err := to.Write(bytes.TrimSuffix(line, []byte("\n")))
			report(err)
		}
	}
	if to != nil {
		_ = to.Close()
	}
}

func (c *copier) close() {
	close(c.lines)
	select {
	case <-c.done:
	case <-time.After(copyPatience):
	}
}
