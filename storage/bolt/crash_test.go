package bolt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tombolo/storage"
)

// A reported message is one that the child was told is durable.
type reported struct {
	writer, pid, i int
	id             uint64 // in an archive
}

// TestKilled kills a process that writes at random moments: every message whose Wait had returned
// is there afterwards, and nothing is there in part.
func TestKilled(t *testing.T) { testKilled(t, "append", Options{}, checkReported) }

// TestKilledWithArchives is TestKilled for messages that are in archives and wait for peers, while archives
// are purged and accounts deleted. Verify finds what does not fit together.
func TestKilledWithArchives(t *testing.T) {
	testKilled(t, "archive", Options{sizes: crashSizes}, checkArchived)
}

func testKilled(t *testing.T, job string, o Options, check func(*testing.T, *Store, []reported)) {
	rounds, longest := 12, 250*time.Millisecond
	if testing.Short() {
		rounds = 3
	}
	path := filepath.Join(t.TempDir(), "tombolo.db")
	var all []reported
	for round := range rounds {
		got := killOnce(t, job, path, rand.N(longest))
		all = append(all, got...)
		s, err := Open(path, o)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		check(t, s, all)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Verify(path); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	t.Logf("%d rounds, %d messages reported", rounds, len(all))
	if len(all) < rounds {
		t.Errorf("only %d messages were reported: nothing was tested", len(all))
	}
}

// killOnce runs the child, kills it some time after its first report and returns its reports.
func killOnce(t *testing.T, job, path string, after time.Duration) (got []reported) {
	cmd := child(within(t), job, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var r reported
		if _, err := fmt.Sscan(lines.Text(), &r.writer, &r.pid, &r.i, &r.id); err != nil {
			t.Errorf("report %q: %v", lines.Text(), err)
		}
		if got = append(got, r); len(got) == 1 {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
	}
	if err := cmd.Wait(); !wasKilled(err) {
		t.Fatalf("the child ended by itself: %v\n%s", err, &stderr)
	}
	return got
}

func wasKilled(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == -1
}

func checkReported(t *testing.T, s *Store, all []reported) {
	t.Helper()
	err := s.View(func(tx storage.Tx) error {
		for w := range crashWriters {
			list, err := tx.Offline().List(crashOwner(w), 0, 0)
			if err != nil {
				return err
			}
			count, err := tx.Offline().Count(crashOwner(w))
			if err != nil {
				return err
			}
			if count != len(list) {
				t.Errorf("writer %d: %d messages, counted %d", w, len(list), count)
			}
			kept := make(map[string]int)
			for _, m := range list {
				kept[m.Stanza]++
			}
			for _, r := range all {
				if n := kept[crashStanza(r.pid, r.writer, r.i)]; r.writer == w && n != 1 {
					t.Errorf("message %+v was reported durable and is there %d times", r, n)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkArchived(t *testing.T, s *Store, all []reported) {
	t.Helper()
	counts := make([]uint64, crashWriters)
	archives := make([]map[uint64]string, crashWriters)
	err := s.View(func(tx storage.Tx) error {
		for w := range archives {
			page, err := tx.Archive().Page(crashOwner(w), storage.ArchiveQuery{})
			if err != nil {
				return err
			}
			archives[w] = make(map[uint64]string)
			for _, m := range page.Messages {
				archives[w][m.ID] = m.Stanza
			}
		}
		for _, r := range all {
			m := crashMessage(r.pid, r.writer, r.i, r.id)
			next := (r.writer + 1) % crashWriters
			if archives[r.writer][r.id] != m.Stanza || archives[next][r.id+1] != m.Stanza {
				t.Errorf("message %+v was reported durable and is now %q and %q", r, archives[r.writer][r.id], archives[next][r.id+1])
			}
			counts[r.writer] = max(counts[r.writer], r.id)
		}
		peers, err := tx.Peers().All()
		for i, peer := range peers {
			waiting, err := tx.Peers().Waiting(peer.ID)
			if err != nil {
				return err
			}
			if peer.ID != uint64(i+1) || uint64(peer.Count) < counts[i] {
				t.Errorf("peer %d counted %d of %d", peer.ID, peer.Count, counts[i])
			}
			if counts[i] > 0 && !slices.ContainsFunc(waiting, func(u storage.Unacknowledged) bool { return u.Number >= counts[i] }) {
				t.Errorf("peer %d: message %d does not wait", peer.ID, counts[i])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// strace runs a job under strace and returns the trace. It skips where that cannot be done, but
// not with CI=true.
func strace(t *testing.T, job, path string, options ...string) []syscallEvent {
	t.Helper()
	unable := func(why string) {
		t.Helper()
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	program, err := exec.LookPath("strace")
	if err != nil {
		unable("strace is not installed (Debian: apt install strace)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, "-f", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		unable(fmt.Sprintf("strace may not trace here (ptrace refused?): %v: %s", err, out))
	}
	trace := filepath.Join(t.TempDir(), "trace")
	args := append([]string{program, "-f", "-o", trace, "-s", "20000", "-e", "trace=fdatasync,fsync,pwrite64,write"}, options...)
	if out, err := child(within(t), job, path, args...).CombinedOutput(); err != nil {
		t.Fatalf("under strace: %v\n%s", err, out)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	return parseTrace(string(text))
}

// A syscallEvent is one call in a trace: when it was entered and left, as line numbers.
type syscallEvent struct {
	name, args, result string
	entered, left      int
}

var (
	callLine    = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (.*)$`)
	enteredLine = regexp.MustCompile(`^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$`)
	leftLine    = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (.*)$`)
)

func parseTrace(text string) (events []syscallEvent) {
	open := make(map[string]int) // by thread, an index into events
	for n, line := range strings.Split(text, "\n") {
		if m := enteredLine.FindStringSubmatch(line); m != nil {
			open[m[1]] = len(events)
			events = append(events, syscallEvent{name: m[2], args: m[3], entered: n, left: -1})
		} else if m := leftLine.FindStringSubmatch(line); m != nil {
			e := &events[open[m[1]]]
			e.args, e.result, e.left = e.args+m[3], m[4], n
		} else if m := callLine.FindStringSubmatch(line); m != nil {
			events = append(events, syscallEvent{m[2], m[3], m[4], n, n})
		}
	}
	return events
}

// after finds the first event that was entered after line and satisfies is.
func after(events []syscallEvent, line int, is func(syscallEvent) bool) (syscallEvent, bool) {
	i := slices.IndexFunc(events, func(e syscallEvent) bool { return e.entered > line && e.left >= 0 && is(e) })
	if i < 0 {
		return syscallEvent{}, false
	}
	return events[i], true
}

// TestSyncBeforeReport: SIGKILL leaves the page cache alone, so TestKilled says nothing about a
// power cut. Here the trace of system calls shows, for each message, that the page with its row
// was written, then synced, then the meta page that makes it part of the store was written, then
// synced, and only then the message was reported.
func TestSyncBeforeReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tombolo.db")
	events := strace(t, "report", path)
	synced := func(e syscallEvent) bool { return e.name == "fdatasync" && e.result == "0" }
	for i := range 3 {
		line := -1
		for _, step := range []struct {
			what string
			is   func(syscallEvent) bool
		}{
			{"write of the row", func(e syscallEvent) bool {
				return e.name == "pwrite64" && strings.Contains(e.args, fmt.Sprintf("row-%d'", i))
			}},
			{"sync of the row", synced},
			{"write of the meta page", func(e syscallEvent) bool {
				return e.name == "pwrite64" && metaOffset(e.args)
			}},
			{"sync of the meta page", synced},
		} {
			e, ok := after(events, line, step.is)
			if !ok {
				t.Fatalf("message %d: no %s in the trace", i, step.what)
			}
			line = e.left
		}
		isReport := func(e syscallEvent) bool {
			return e.name == "write" && strings.Contains(e.args, fmt.Sprintf("report-%d", i))
		}
		report, ok := after(events, -1, isReport)
		if !ok {
			t.Fatalf("message %d: no report in the trace", i)
		}
		if report.entered < line {
			t.Errorf("message %d was reported at line %d of the trace, synced at line %d", i, report.entered, line)
		}
	}
}

// metaOffset reports that a pwrite64 goes to one of the two meta pages, the first of the file.
func metaOffset(args string) bool {
	offset, err := strconv.Atoi(args[strings.LastIndex(args, " ")+1:])
	return err == nil && (offset == 0 || offset == os.Getpagesize())
}

// TestNothingSeenBeforeItsSync delays the last sync of a commit, while Views go on.
func TestNothingSeenBeforeItsSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tombolo.db")
	fillStore(t, path)
	// The first commit syncs twice; the fourth sync is of the second one's meta page.
	strace(t, "slow", path, "-e", fmt.Sprintf("inject=fdatasync:delay_enter=%d:when=4", slowSync.Microseconds()))
}

// TestFailedSync makes a single sync fail: nothing is tried again, and what was reported durable
// before is there afterwards. ENOSPC from a sync is no exception: those pages were accepted.
func TestFailedSync(t *testing.T) {
	for _, errno := range []string{"EIO", "ENOSPC"} {
		for which, sync := range map[string]int{"of the pages": 3, "of the meta page": 4} {
			t.Run(errno+" "+which, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "tombolo.db")
				s, err := Open(path, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				events := strace(t, "sync", path, "-e", fmt.Sprintf("inject=fdatasync:error=%s:when=%d", errno, sync))
				syncs := 0
				for _, e := range events {
					if e.name == "fdatasync" || e.name == "fsync" {
						syncs++
					}
				}
				if syncs != sync {
					t.Errorf("%d syncs, want none after number %d", syncs, sync)
				}
				s, err = Open(path, Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				err = s.View(func(tx storage.Tx) error {
					list, err := tx.Offline().List(crowded, 0, 0)
					if len(list) == 0 || list[0].Stanza != "<message id='kept'/>" {
						t.Errorf("messages after reopening: %+v", list)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
}
