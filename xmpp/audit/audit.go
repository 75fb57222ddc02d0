// Package audit is the server's audit log: who logged in, how and from where, who failed to, what
// became of accounts, which domains were refused, and what operators did. It never holds a secret or
// the text of a message.
//
// The log is a file of JSON lines that is only ever appended to. Each record ends in a MAC over
// itself and over the MAC of the record before it, under a key in a file of its own, so that whoever
// has the log but not the key cannot change, remove, insert or exchange records without being found
// out; a small state file says where the log ends. docs/audit.md tells operators what that does and
// does not show.
//
// The assembly in package xmpp opens the log (Open); what is worth a record writes it: Write where
// nobody may be held up, WriteSync where nothing may go on without the record. The command line
// reads it with Read, on its own and not through the server that is being audited. Start with Log;
// record.go is the form of a record, files.go what is on disk, writer.go the one goroutine that
// writes.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A Kind says what happened.
type Kind string

// What the server records. LoginFailed and FederationRefused are what strangers can cause at will;
// beyond a rate that no operator reads they are only counted, see LogThrottled.
const (
	Login             Kind = "login"
	LoginFailed       Kind = "login-failed"
	AccountCreated    Kind = "account-created"
	AccountRemoved    Kind = "account-removed"
	AccountDisabled   Kind = "account-disabled"
	AccountEnabled    Kind = "account-enabled"
	PasswordChanged   Kind = "password-changed"
	ClientRevoked     Kind = "client-revoked" // one of an account's clients may not log in any more
	FederationRefused Kind = "federation-refused"
	Admin             Kind = "admin"        // a command begins
	AdminDone         Kind = "admin-done"   // it was carried out
	AdminFailed       Kind = "admin-failed" // it was not, or not wholly
	ServerStarted     Kind = "server-started"
	ServerStopped     Kind = "server-stopped"
)

// What the log records of itself. The first three begin a file.
const (
	LogStarted   Kind = "log-started"
	LogRotated   Kind = "log-rotated"
	LogDamaged   Kind = "log-damaged"   // the file before this one is not as it was written
	LogRecovered Kind = "log-recovered" // a line that was being written in a crash was removed
	LogGap       Kind = "log-gap"       // events could not be written
	LogThrottled Kind = "log-throttled" // events were only counted
)

// Kinds are all kinds.
func Kinds() []Kind {
	return []Kind{Login, LoginFailed, AccountCreated, AccountRemoved, AccountDisabled, AccountEnabled, PasswordChanged,
		ClientRevoked, FederationRefused, Admin, AdminDone, AdminFailed, ServerStarted, ServerStopped,
		LogStarted, LogRotated, LogDamaged, LogRecovered, LogGap, LogThrottled}
}

// An Event is what is to be recorded. Long values are cut.
type Event struct {
	Time time.Time // zero: now
	Kind Kind
	// Account is whose account it concerns: a bare JID; for a failed login the one claimed.
	Account string
	// By is who did it, where that is not the account: an operator, as "uid 1000", or a JID.
	By string
	// Remote is the network address it came from.
	Remote string
	Detail map[string]string
}

// Options say where the log is and how long it is kept.
type Options struct {
	// File is the log. Older parts are beside it, under its name and the number of their first
	// record, and so is the state file.
	File string
	// Key is the file of the key, made if there is none and no log; "": audit.key beside File.
	Key string
	// RotateSize is the size in bytes at which a file is followed by another one; 0: never.
	RotateSize int64
	// Keep is how many older files are kept; 0: all.
	Keep int
	// Copy, if set, connects to what gets a copy of each line; Syslog does.
	Copy func() (io.WriteCloser, error)
	// Log is told of the log's own troubles; nil: nobody.
	Log *slog.Logger
	// Now is the clock of records; nil: time.Now.
	Now func() time.Time
}

// The errors of WriteSync, beside those of the file system.
var (
	ErrClosed = errors.New("the audit log is closed")
	ErrFull   = errors.New("the audit log cannot keep up")
)

// ErrInUse is Open's answer while another process has the log.
var ErrInUse = errors.New("the audit log is in use by another process")

// maxWaiting is how many events may wait to be written. What a full disk holds up waits here.
const maxWaiting = 4096

// A Log is an open audit log. All its methods work on a nil one, and do nothing.
type Log struct {
	o      Options
	keys   keys
	wake   chan struct{} // there is something to do
	done   chan struct{} // the writer has ended
	copies *copier

	mu      sync.Mutex
	waiting []entry
	urgent  int // of waiting: with somebody who waits
	lost    lost
	spared  spared
	closing bool

	writer writer
	err    error // of Close; valid after done
}

// An entry is an event on its way; done, where somebody waits, gets the outcome once. lost is what it
// tells of, where it is a LogGap.
type entry struct {
	Event
	done chan error
	lost lost
}

// lost is what found no room.
type lost struct {
	n     uint64
	since time.Time
}

// Open opens the log, or begins it, and starts its writer. Where the log is not as it was left it
// says so in its next record and to Options.Log, keeps what it found, and goes on. It fails while
// another process has the log (ErrInUse), and where there is a log but not its key.
func Open(o Options) (*Log, error) {
	l := &Log{o: o.withDefaults(), wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.spared.init(time.Now())
	l.writer = writer{l: l, write: (*os.File).Write, sync: (*os.File).Sync}
	if o.Copy != nil {
		l.copies = startCopier(o.Copy, l.o.Log)
	}
	if err := l.writer.start(); err != nil {
		l.writer.release()
		return nil, fmt.Errorf("audit log: %w", err)
	}
	go l.writer.run()
	return l, nil
}

func (o Options) withDefaults() Options {
	if o.Key == "" {
		o.Key = filepath.Join(filepath.Dir(o.File), "audit.key")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Write records an event soon, and never blocks. The event is written at once and synced within a
// fraction of a second. While nothing can be written, because the disk is full for example, events
// wait; those that find no room are counted, and the log says later how many there were.
func (l *Log) Write(e Event) {
	if l == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = l.o.Now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.spared.allows(e.Kind, time.Now()):
	case l.closing || len(l.waiting) >= maxWaiting:
		l.lose(e.Time)
	default:
		l.waiting = append(l.waiting, entry{Event: e})
	}
	l.rouse()
}

// WriteSync records an event and returns when the record, and all before it, are on the disk. On an
// error they may not be, and what was to be recorded must not happen.
func (l *Log) WriteSync(ctx context.Context, e Event) error {
	if l == nil {
		return nil
	}
	if e.Time.IsZero() {
		e.Time = l.o.Now()
	}
	done := make(chan error, 1)
	l.mu.Lock()
	switch {
	case l.closing:
		l.mu.Unlock()
		return fmt.Errorf("record %s: %w", e.Kind, ErrClosed)
	case l.urgent >= maxWaiting: // those without a waiter do not keep an operator out
		l.mu.Unlock()
		return fmt.Errorf("record %s: %w", e.Kind, ErrFull)
	}
	l.waiting = append(l.waiting, entry{Event: e, done: done})
	l.urgent++
	l.rouse()
	l.mu.Unlock()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("record %s: %w", e.Kind, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("record %s: %w", e.Kind, ctx.Err())
	}
}

// Close writes what waits, syncs and closes the log.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	l.closing = true
	l.rouse()
	l.mu.Unlock()
	<-l.done
	return l.err
}

// lose counts an event that cannot be kept. The caller has the lock.
func (l *Log) lose(at time.Time) {
	if l.lost.n++; l.lost.n == 1 {
		l.lost.since = at
	}
}

// rouse wakes the writer, if it sleeps.
func (l *Log) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// An Actor is who does something, for records that are made far from where that is known.
type Actor struct{ By, Remote string }

type actorKey struct{}

// WithActor gives a context the one on whose behalf what follows is done.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf is the one in a context, or else the user that this process runs as.
func ActorOf(ctx context.Context) Actor {
	if a, ok := ctx.Value(actorKey{}).(Actor); ok {
		return a
	}
	return Actor{By: User(os.Getuid())}
}

// User is how an Actor names a user of this machine.
func User(uid int) string { return fmt.Sprintf("uid %d", uid) }
