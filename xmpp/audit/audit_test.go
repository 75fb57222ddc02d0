package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 20 * time.Second

// place is the options of a log in a directory of its own.
func place(t testing.TB) Options {
	return Options{File: filepath.Join(t.TempDir(), "audit.log")}
}

func open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func (l *Log) mustClose(t testing.TB) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func (l *Log) mustWrite(t testing.TB, e Event) {
	t.Helper()
	if err := l.WriteSync(within(t), e); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, o Options, anchors ...string) (Report, []Record) {
	t.Helper()
	var records []Record
	report, err := Read(o, Query{Anchors: anchors, Each: func(r Record, _ []byte, _ bool) error {
		records = append(records, r)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return report, records
}

// sound reads a log with which nothing is wrong.
func sound(t testing.TB, o Options) (Report, []Record) {
	t.Helper()
	report, records := read(t, o)
	if len(report.Problems) > 0 {
		t.Fatalf("problems: %v", report.Problems)
	}
	for i, r := range records {
		if r.Seq != report.First+uint64(i) {
			t.Fatalf("record %d has number %d", i, r.Seq)
		}
	}
	return report, records
}

func kinds(records []Record) string {
	var names []string
	for _, r := range records {
		names = append(names, string(r.Kind))
	}
	return strings.Join(names, " ")
}

func TestRecords(t *testing.T) {
	o := place(t)
	o.Now = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.FixedZone("", 3600)) }
	l := open(t, o)
	l.Write(Event{Kind: Login, Account: "juliet@a.test", Remote: "192.0.2.7:4711", Detail: map[string]string{"mechanism": "SCRAM-SHA-256-PLUS"}})
	l.mustWrite(t, Event{Kind: Admin, By: "uid 0", Account: "romeo@a.test"})
	l.Write(Event{Kind: LoginFailed, Account: "<&\"\n\x00\xff\u2028 " + strings.Repeat("ж", 2000)})
	l.mustClose(t)
	report, records := sound(t, o)
	if got := kinds(records); got != "log-started login admin login-failed" {
		t.Fatalf("got %s", got)
	}
	r := records[1]
	if !r.Time.Equal(o.Now()) || r.Account != "juliet@a.test" || r.Remote != "192.0.2.7:4711" || r.Detail["mechanism"] != "SCRAM-SHA-256-PLUS" {
		t.Errorf("the login is %+v", r)
	}
	if got := records[3].Account; !strings.HasPrefix(got, "<&\"\n\x00\uFFFD\u2028 ж") || !strings.HasSuffix(got, "ж…") || len(got) > maxAccount+10 {
		t.Errorf("the claimed account is %q", got)
	}
	if report.Files != 1 || report.Last != 4 || report.Anchor != "4:"+records[3].MAC {
		t.Errorf("the report is %+v", report)
	}
	for _, name := range []string{o.File, o.File + ".state", filepath.Join(filepath.Dir(o.File), "audit.key")} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", name, info.Mode(), err)
		}
	}
	text, err := os.ReadFile(o.File)
	if err != nil || bytes.Count(text, []byte("\n")) != 4 {
		t.Errorf("the file has other lines than its records: %v\n%s", err, text)
	}
	for line := range bytes.Lines(text) {
		var object map[string]any
		if err := json.Unmarshal(line, &object); err != nil || object["mac"] == nil {
			t.Errorf("%v: %s", err, line)
		}
	}
}

// TestNil: parts of the server that are not audited have no log.
func TestNil(t *testing.T) {
	var l *Log
	l.Write(Event{Kind: Login})
	if err := errors.Join(l.WriteSync(t.Context(), Event{Kind: Admin}), l.Close()); err != nil {
		t.Error(err)
	}
}

func TestReopened(t *testing.T) {
	o := place(t)
	for i := range 3 {
		l := open(t, o)
		l.mustWrite(t, Event{Kind: Login, Account: fmt.Sprint(i)})
		l.mustClose(t)
		if err := l.WriteSync(within(t), Event{Kind: Login}); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		l.Write(Event{Kind: Login})
	}
	if _, records := sound(t, o); kinds(records) != "log-started login login login" {
		t.Errorf("got %s", kinds(records))
	}
}

func TestOneProcess(t *testing.T) {
	o := place(t)
	open(t, o)
	if _, err := Open(o); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
}

func TestRotation(t *testing.T) {
	o := place(t)
	o.RotateSize, o.Keep = 2000, 3
	l := open(t, o)
	var anchors []string
	for i := range 200 {
		l.mustWrite(t, Event{Kind: Login, Account: fmt.Sprint(i)})
		if i%50 == 0 {
			report, _ := sound(t, o) // while it is written
			anchors = append(anchors, report.Anchor)
		}
		if i%70 == 0 {
			l.mustClose(t)
			l = open(t, o)
		}
	}
	l.mustClose(t)
	report, records := sound(t, o)
	if report.Files != 4 || report.First == 1 || records[len(records)-1].Account != "199" {
		t.Errorf("kept: %+v", report)
	}
	list, err := parts(o.File)
	if err != nil || len(list) != 3 {
		t.Fatalf("older files: %v, %v", list, err)
	}
	for _, p := range append(list, part{path: o.File}) {
		text, err := os.ReadFile(p.path)
		if err != nil || len(text) > 2500 || !bytes.Contains(text[:bytes.IndexByte(text, '\n')], []byte(`"kind":"log-rotated","prev":"`)) {
			t.Errorf("%s, %d bytes, does not begin with the MAC before it: %v", p.path, len(text), err)
		}
	}
	last := records[len(records)-1]
	report, _ = read(t, o, anchors[0], fmt.Sprintf("%d:%s", last.Seq, last.MAC))
	if len(report.Problems) != 0 || len(report.Notes) != 1 || !strings.Contains(report.Notes[0].Text, "older than what is kept") {
		t.Errorf("anchors: %+v", report)
	}
	if report, _ = read(t, o, fmt.Sprintf("%d:%s", last.Seq-1, last.MAC)); len(report.Problems) != 1 {
		t.Errorf("a wrong anchor: %+v", report)
	}
	if _, err := Read(o, Query{Anchors: []string{"7"}}); err == nil {
		t.Error("an anchor without a MAC is taken")
	}
}

// TestReadWhileRotating: a log that is written is never reported as broken.
func TestReadWhileRotating(t *testing.T) {
	o := place(t)
	o.RotateSize, o.Keep = 1000, 5
	l := open(t, o)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					l.mustWrite(t, Event{Kind: Login, Account: fmt.Sprint(i)})
				}
			}
		})
	}
	for range 100 {
		sound(t, o)
	}
	close(stop)
	writers.Wait()
}

// TestLoginsAreSyncedTogether: nobody waits for a login's record, and a sync serves many.
func TestLoginsAreSyncedTogether(t *testing.T) {
	o := place(t)
	syncs := 0
	l := faulty(t, o, func(w *writer) {
		sync := w.sync
		w.sync = func(f *os.File) error { syncs++; return sync(f) }
	})
	for range 2000 {
		l.Write(Event{Kind: Login, Account: "juliet@a.test"})
	}
	l.mustClose(t)
	if report, _ := sound(t, o); report.Records != 2001 || syncs > 100 {
		t.Errorf("%d records, %d syncs", report.Records, syncs)
	}
}

// faulty opens a log whose writer is changed before it writes anything but its first record.
func faulty(t testing.TB, o Options, change func(*writer)) *Log {
	t.Helper()
	l := &Log{o: o.withDefaults(), wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.spared.init(time.Now())
	l.writer = writer{l: l, write: (*os.File).Write, sync: (*os.File).Sync}
	if err := l.writer.start(); err != nil {
		t.Fatal(err)
	}
	change(&l.writer)
	go l.writer.run()
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestFullDisk: commands fail, logins go on, and what was lost is told when there is space again.
func TestFullDisk(t *testing.T) {
	o := place(t)
	var mu sync.Mutex
	full := true
	l := faulty(t, o, func(w *writer) {
		w.write = func(f *os.File, p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if full {
				n, _ := f.Write(p[:len(p)/2])
				return n, syscall.ENOSPC
			}
			return f.Write(p)
		}
	})
	if err := l.WriteSync(within(t), Event{Kind: Admin}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a command on a full disk: %v", err)
	}
	for i := range maxWaiting + 300 {
		l.Write(Event{Kind: Login, Account: fmt.Sprint(i)})
	}
	if err := l.WriteSync(within(t), Event{Kind: Admin}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a command behind many logins: %v", err)
	}
	sound(t, o)
	mu.Lock()
	full = false
	mu.Unlock()
	l.mustWrite(t, Event{Kind: AdminDone})
	l.mustClose(t)
	report, records := sound(t, o)
	var gap Record
	logins := 0
	for _, r := range records {
		switch r.Kind {
		case LogGap:
			gap = r
		case Login:
			logins++
		case Admin:
			t.Error("a command that was refused is recorded")
		}
	}
	// The command may still have held one of the places. None is lost without being counted.
	if logins < maxWaiting-1 || gap.Detail["lost"] != fmt.Sprint(maxWaiting+300-logins) || len(report.Notes) != 1 {
		t.Errorf("%d logins, gap %+v, notes %v", logins, gap, report.Notes)
	}
}

// TestFailedSync: a sync is not tried again; until the next start nothing is believed to be recorded.
func TestFailedSync(t *testing.T) {
	o := place(t)
	broken := errors.New("broken")
	l := faulty(t, o, func(w *writer) { w.sync = func(*os.File) error { return broken } })
	for range 2 {
		if err := l.WriteSync(within(t), Event{Kind: Admin}); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}
	l.Write(Event{Kind: Login})
	if err := l.Close(); !errors.Is(err, broken) || !strings.Contains(err.Error(), "events were lost") {
		t.Errorf("Close: %v", err)
	}
}

// TestClosedOnAFullDisk: the server ends although its last records cannot be written.
func TestClosedOnAFullDisk(t *testing.T) {
	l := faulty(t, place(t), func(w *writer) {
		w.write = func(*os.File, []byte) (int, error) { return 0, syscall.ENOSPC }
	})
	l.Write(Event{Kind: ServerStopped})
	if err := l.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Close: %v", err)
	}
}

// TestStrangersCannotFillTheDisk: what they cause is counted beyond a rate, and hides nothing else.
func TestStrangersCannotFillTheDisk(t *testing.T) {
	o := place(t)
	l := open(t, o)
	for range 3 * throttleBurst {
		l.Write(Event{Kind: LoginFailed})
	}
	l.Write(Event{Kind: FederationRefused})
	l.mustWrite(t, Event{Kind: Login})
	l.mustClose(t)
	_, records := sound(t, o)
	n := make(map[Kind]int)
	for _, r := range records {
		n[r.Kind]++
	}
	var counted int
	_, _ = fmt.Sscan(records[len(records)-1].Detail["login-failed"], &counted)
	if n[LoginFailed] < throttleBurst || n[LoginFailed]+counted != 3*throttleBurst || counted < throttleBurst ||
		n[FederationRefused] != 1 || n[Login] != 1 || n[LogThrottled] != 1 {
		t.Errorf("recorded %v, counted %d", n, counted)
	}
}

// TestSyslog: each line goes to the log daemon as it is.
func TestSyslog(t *testing.T) {
	dir, err := os.MkdirTemp("", "tbl") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "log")
	daemon, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer daemon.Close()
	o := place(t)
	o.Copy = func() (io.WriteCloser, error) {
		return syslog.Dial("unixgram", path, syslog.LOG_AUTHPRIV|syslog.LOG_NOTICE, "tombolo")
	}
	l := open(t, o)
	l.mustWrite(t, Event{Kind: Login, Account: "juliet@a.test"})
	l.mustClose(t)
	text, err := os.ReadFile(o.File)
	if err != nil {
		t.Fatal(err)
	}
	_ = daemon.SetReadDeadline(time.Now().Add(patience))
	for line := range strings.Lines(string(text)) {
		message := make([]byte, 65536)
		n, err := daemon.Read(message)
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(message[:n])), strings.TrimSpace(line)) {
			t.Errorf("%v: the daemon got %q, the file has %q", err, message[:n], line)
		}
	}
}

// TestNoDaemon: the log does not depend on its copy.
func TestNoDaemon(t *testing.T) {
	o := place(t)
	o.Copy = func() (io.WriteCloser, error) { return nil, errors.New("nobody there") }
	l := open(t, o)
	l.mustWrite(t, Event{Kind: Login})
	l.mustClose(t)
	sound(t, o)
}

// BenchmarkWrite is what a login pays.
func BenchmarkWrite(b *testing.B) {
	l := open(b, place(b))
	b.ReportAllocs()
	for b.Loop() {
		l.Write(Event{Kind: Login, Account: "juliet@a.test", Remote: "192.0.2.7:4711", Detail: map[string]string{"mechanism": "SCRAM-SHA-256-PLUS", "tls": "TLS 1.3"}})
	}
}

// BenchmarkOpen is what each command without a running server pays, with a log of the size at which it
// is rotated by default.
func BenchmarkOpen(b *testing.B) {
	o := place(b)
	l := open(b, o)
	for range 40_000 {
		l.mustWriteSoon(b, Event{Kind: Login, Account: "juliet@a.test", Remote: "192.0.2.7:4711", Detail: map[string]string{"mechanism": "SCRAM-SHA-256-PLUS", "tls": "TLS 1.3"}})
	}
	l.mustClose(b)
	if info, err := os.Stat(o.File); err == nil {
		b.SetBytes(info.Size())
	}
	for b.Loop() {
		open(b, o).mustClose(b)
	}
}

// mustWriteSoon waits only where the log cannot keep up.
func (l *Log) mustWriteSoon(t testing.TB, e Event) {
	l.mu.Lock()
	full := len(l.waiting) > maxWaiting/2
	l.mu.Unlock()
	if full {
		l.mustWrite(t, e)
	} else {
		l.Write(e)
	}
}
