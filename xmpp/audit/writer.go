package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// syncWithin is how long a record that nobody waits for may be unsynced.
	syncWithin = 200 * time.Millisecond
	// retryAfter is how long events wait when they could not be written.
	retryAfter = time.Second
	// lockWithin is how long Open waits for another process to let go of the log.
	lockWithin = time.Second
)

// A writer is the one goroutine that touches the files of an open log, from start to release.
type writer struct {
	l      *Log
	end    position // of the last record written
	oldest uint64   // first record of the oldest file that is kept
	begins uint64   // first record of the file

	file  *os.File
	size  int64
	state *os.File

	dirty time.Time // since when something is written and not synced; zero: nothing is
	retry time.Time // no attempt to write before, unless somebody waits
	dead  error     // a sync failed: what is on the disk is not known, and nothing is written any more

	// Faults for tests: they stand for the calls of the same name.
	write func(*os.File, []byte) (int, error)
	sync  func(*os.File) error
}

// start makes the log ready for its first record.
func (w *writer) start() error {
	o := &w.l.o
	if err := os.MkdirAll(filepath.Dir(o.File), 0o700); err != nil {
		return err
	}
	if err := w.openState(); err != nil {
		return err
	}
	secret, err := readKey(o.Key)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		if w.began() {
			return fmt.Errorf("its key %s is missing; restore it, or move the log and its state file away to begin anew", o.Key)
		}
		secret, err = makeKey(o.Key)
	}
	if err != nil {
		return err
	}
	if info, err := os.Stat(o.Key); err == nil && info.Mode().Perm()&0o077 != 0 {
		o.Log.Warn("others can read the key of the audit log; run: chmod 600 "+o.Key, "mode", info.Mode().Perm().String())
	}
	w.l.keys = newKeys(secret)
	if fresh {
		return w.begin(LogStarted, nil)
	}
	known, err := w.l.keys.readState(o.File)
	if err != nil {
		return w.resume(nil, err)
	}
	w.oldest = known.oldest
	return w.resume(&known.position, nil)
}

// began says whether there is something of a log already.
func (w *writer) began() bool {
	list, err := parts(w.l.o.File)
	info, statErr := os.Stat(w.l.o.File)
	state, stateErr := w.state.Stat()
	return err != nil || len(list) > 0 || statErr == nil && info.Size() > 0 || stateErr != nil || state.Size() > 0
}

// openState opens the state file and with it takes the log for this process.
func (w *writer) openState() error {
	f, err := os.OpenFile(statePath(w.l.o.File), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(lockWithin); ; time.Sleep(lockWithin / 20) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			w.state = f
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			_ = f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = ErrInUse
			}
			return err
		}
	}
}

// resume goes on with a log that is known to have ended at known; nil, and why, where that is not
// known. A line that a crash left in part is removed. A log that does not end there is set aside as
// it is, and the next file says so.
func (w *writer) resume(known *position, why error) error {
	var at position
	if known != nil {
		at = *known
	}
	current, end, found, err := w.l.keys.readEndings(w.l.o.File, at)
	if err != nil {
		return err
	}
	switch {
	case known == nil:
		return w.setAside(end.genuine, fmt.Sprintf("where the log ends is not known: %v", why))
	case !found:
		return w.setAside(at, fmt.Sprintf("the log is gone; record %d was its last", at.seq))
	case !end.sound && end.last.seq < at.seq:
		return w.setAside(at, fmt.Sprintf("the log ended with record %d instead of %d", end.last.seq, at.seq))
	case !end.sound:
		return w.setAside(at, "the end of the log was changed")
	case current.records == 0: // a crash came between two files
		w.end = end.last
		if current.torn > 0 {
			if err := os.Truncate(w.l.o.File, 0); err != nil {
				return err
			}
		}
		return w.begin(LogRotated, nil)
	}
	f, err := os.OpenFile(w.l.o.File, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	w.file, w.size, w.end, w.begins = f, current.size, current.last, current.begins
	if current.torn == 0 {
		return nil
	}
	if err := f.Truncate(w.size); err != nil {
		return err
	}
	w.l.o.Log.Warn("a line of the audit log was cut off by a crash and is removed", "bytes", current.torn)
	return w.put([]Event{{Kind: LogRecovered, Detail: map[string]string{"bytes": strconv.FormatInt(current.torn, 10)}}})
}

// setAside keeps a file that is not as it was left, and begins one that continues what is known.
func (w *writer) setAside(at position, reason string) error {
	w.l.o.Log.Error("the audit log is not as it was left", "reason", reason)
	w.end = at
	aside := oldName(w.l.o.File, at.seq+1) + damagedSuffix
	if err := os.Rename(w.l.o.File, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return w.begin(LogDamaged, map[string]string{"reason": reason})
}

// begin makes a new file with its first record, which carries the chain on.
func (w *writer) begin(kind Kind, detail map[string]string) error {
	f, err := os.OpenFile(w.l.o.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	w.file, w.size, w.begins = f, 0, w.end.seq+1
	if w.oldest == 0 {
		w.oldest = w.begins
	}
	at := w.end
	line := w.l.keys.append(nil, &at, Event{Kind: kind, Detail: detail, Time: w.l.o.Now()}, true)
	err = w.writeLines(line, at)
	if err == nil {
		err = syncDir(filepath.Dir(w.l.o.File))
	}
	if err == nil {
		err = errors.Join(w.settle(), w.state.Sync())
	}
	if err != nil {
		w.closeFile()
	}
	return err
}

// rotate gives the file its old name and begins another one. The state is on the disk before that: a
// crash in between must find where the old file ends.
func (w *writer) rotate() error {
	if err := errors.Join(w.settle(), w.state.Sync()); err != nil {
		return err
	}
	w.closeFile()
	if err := os.Rename(w.l.o.File, oldName(w.l.o.File, w.begins)); err != nil {
		return err
	}
	if err := w.begin(LogRotated, nil); err != nil {
		return err
	}
	if err := w.prune(); err != nil {
		w.l.o.Log.Warn("old files of the audit log could not be removed", "err", err)
	}
	return nil
}

// prune removes the files that are too many. The state forgets a file before it goes.
func (w *writer) prune() error {
	list, err := parts(w.l.o.File)
	if err != nil || w.l.o.Keep == 0 {
		return err
	}
	oldest, drop := w.begins, len(list)
	for kept := 0; drop > 0 && kept < w.l.o.Keep; {
		if drop--; !list[drop].damaged {
			oldest = list[drop].number
			kept++
		}
	}
	if drop == 0 {
		return nil
	}
	w.oldest = oldest
	if err := errors.Join(w.noteEnd(), w.state.Sync()); err != nil {
		return err
	}
	for _, p := range list[:drop] {
		err = errors.Join(err, os.Remove(p.path))
	}
	return err
}

// run writes what comes until the log is closed.
func (w *writer) run() {
	defer close(w.l.done)
	for {
		batch, next, closing := w.take(time.Now())
		switch {
		case len(batch) > 0:
			w.record(batch, closing)
		case !w.dirty.IsZero() && (closing || time.Since(w.dirty) >= syncWithin):
			_ = w.settle() // it has told the operator, and what comes later is refused
		case closing:
			w.finish()
			return
		default:
			w.sleep(next)
		}
	}
}

// take returns what is to be written now, or when there may be something; zero: when somebody says so.
func (w *writer) take(now time.Time) (batch []entry, next time.Time, closing bool) {
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.dead != nil {
		w.refuse(w.dead)
		return nil, time.Time{}, l.closing
	}
	if !w.dirty.IsZero() {
		next = w.dirty.Add(syncWithin)
	}
	due := l.spared.due()
	counts := !due.IsZero() && (l.closing || !now.Before(due))
	wanted := len(l.waiting) > 0 || l.lost.n > 0 || counts
	if wanted && l.urgent == 0 && !l.closing && now.Before(w.retry) {
		return nil, sooner(next, w.retry), false
	} else if !wanted {
		return nil, sooner(next, due), l.closing
	}
	if l.lost.n > 0 {
		batch = append(batch, entry{Event: Event{Kind: LogGap, Time: l.o.Now(), Detail: map[string]string{
			"lost": strconv.FormatUint(l.lost.n, 10), "since": l.lost.since.UTC().Format(time.RFC3339)}}, lost: l.lost})
	}
	batch = append(batch, l.waiting...)
	if counts {
		e := l.spared.take(now)
		e.Time = l.o.Now()
		batch = append(batch, entry{Event: e})
	}
	l.waiting, l.urgent, l.lost = nil, 0, lost{}
	return batch, time.Time{}, l.closing
}

// sooner is the earlier of two times, of which zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// record writes a batch, and syncs it where somebody waits.
func (w *writer) record(batch []entry, closing bool) {
	events, wait := make([]Event, len(batch)), false
	for i, e := range batch {
		events[i], wait = e.Event, wait || e.done != nil
	}
	written := w.put(events)
	err := written
	if err == nil && wait {
		err = w.settle()
	}
	for _, e := range batch {
		if e.done != nil {
			e.done <- err
		}
	}
	if written != nil {
		w.l.o.Log.Error("the audit log cannot be written", "err", written)
		w.retry = time.Now().Add(retryAfter)
		if closing {
			w.dead = written
		}
		w.putBack(batch)
	}
}

// putBack keeps what nobody waits for until it can be written, as far as there is room.
func (w *writer) putBack(batch []entry) {
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	var kept []entry
	for _, e := range batch {
		switch {
		case e.done != nil:
		case e.lost.n > 0:
			e.lost.n += l.lost.n
			l.lost = e.lost
		case len(kept)+len(l.waiting) >= maxWaiting && e.Kind != LogThrottled:
			l.lose(e.Time)
		default:
			kept = append(kept, e)
		}
	}
	l.waiting = append(kept, l.waiting...)
}

// refuse ends what waits. The caller has the lock.
func (w *writer) refuse(err error) {
	for _, e := range w.l.waiting {
		if e.done != nil {
			e.done <- err
		} else {
			w.l.lose(e.Time)
		}
	}
	w.l.waiting, w.l.urgent = nil, 0
}

// put writes records. Either all of them are in the file afterwards, or none.
func (w *writer) put(events []Event) error {
	if err := w.inspect(); err != nil {
		return err
	}
	if limit := w.l.o.RotateSize; limit > 0 && w.size >= limit {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	var lines []byte
	at := w.end
	for _, e := range events {
		if e.Time.IsZero() {
			e.Time = w.l.o.Now()
		}
		lines = w.l.keys.append(lines, &at, e, false)
	}
	return w.writeLines(lines, at)
}

// inspect makes sure that the files are still those that this writer left, and goes on with new ones
// where they are not: what somebody moved or cut must not swallow what is written next.
func (w *writer) inspect() error {
	if !same(w.state, statePath(w.l.o.File), -1) {
		w.l.o.Log.Warn("the state file of the audit log was taken away", "file", statePath(w.l.o.File))
		_ = w.state.Close()
		if err := w.openState(); err != nil {
			return err
		}
		if err := w.noteEnd(); err != nil {
			return err
		}
	}
	if w.file != nil && same(w.file, w.l.o.File, w.size) {
		return nil
	}
	w.closeFile()
	known := w.end
	return w.resume(&known, nil)
}

// same says whether an open file still has its name, and its size unless that is negative.
func same(f *os.File, path string, size int64) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(ours, named) && (size < 0 || named.Size() == size)
}

// writeLines appends lines after which the chain is at end. What was written only in part is taken
// back; where that fails too the next attempt finds it as after a crash.
func (w *writer) writeLines(lines []byte, end position) error {
	if _, err := w.write(w.file, lines); err != nil {
		if truncateErr := w.file.Truncate(w.size); truncateErr != nil {
			w.closeFile()
		}
		return err
	}
	w.size += int64(len(lines))
	w.end = end
	if w.dirty.IsZero() {
		w.dirty = time.Now()
	}
	if w.l.copies != nil {
		w.l.copies.send(lines)
	}
	return nil
}

// settle syncs what is written and notes where the log ends. After a sync that failed nobody knows
// what is on the disk, so that nothing more is written: what follows could not be chained to it.
func (w *writer) settle() error {
	if w.dirty.IsZero() {
		return nil
	}
	if err := w.sync(w.file); err != nil {
		w.dead = fmt.Errorf("sync: %w", err)
		w.dirty = time.Time{}
		w.l.o.Log.Error("the audit log has failed: nothing is recorded until the server is started again", "err", err)
		return w.dead
	}
	w.dirty = time.Time{}
	return w.noteEnd()
}

// noteEnd brings the state up to date.
func (w *writer) noteEnd() error {
	_, err := w.state.WriteAt(w.l.keys.formatState(state{w.end, w.oldest}), 0)
	return err
}

// sleep waits for something to do, until next at the latest unless that is zero.
func (w *writer) sleep(next time.Time) {
	if next.IsZero() {
		<-w.l.wake
		return
	}
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	select {
	case <-w.l.wake:
	case <-timer.C:
	}
}

// finish is the end of run.
func (w *writer) finish() {
	w.l.mu.Lock()
	lost := w.l.lost.n
	w.l.mu.Unlock()
	err := w.dead
	if lost > 0 {
		err = errors.Join(err, errors.New("events were lost"))
	}
	if err = errors.Join(err, w.state.Sync()); err != nil {
		w.l.err = fmt.Errorf("audit log: %w", err)
	}
	w.release()
}

func (w *writer) closeFile() {
	if w.file != nil {
		_ = w.settle() // it tells the operator
		_ = w.file.Close()
		w.file = nil
	}
}

// release lets go of the files and of the copy.
func (w *writer) release() {
	w.closeFile()
	if w.l.copies != nil {
		w.l.copies.close()
	}
	if w.state != nil {
		_ = w.state.Close()
	}
}
