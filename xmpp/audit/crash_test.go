package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The crash test runs this test binary again, to be killed, on the log at this path.
const childVar = "TOMBOLO_AUDIT_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVar); path != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeUntilKilled reports each event once its record is on the disk.
func writeUntilKilled(path string) error {
	l, err := Open(Options{File: path, RotateSize: 20_000})
	if err != nil {
		return err
	}
	errs := make(chan error)
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				l.Write(Event{Kind: Login})
				name := fmt.Sprintf("%d/%d/%d", os.Getpid(), w, i)
				err := l.WriteSync(context.Background(), Event{Kind: Admin, Account: name})
				if err == nil {
					_, err = fmt.Println(name) // one write(2)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// TestKilled kills a process that writes at random moments: each record that it was told is synced is
// there, and nothing looks like tampering.
func TestKilled(t *testing.T) {
	o := place(t)
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	reported := make(map[string]bool)
	for range rounds {
		for _, name := range killOnce(t, o.File, rand.N(200*time.Millisecond)) {
			reported[name] = true
		}
		// By a reader before the next start, and by that start.
		_, records := sound(t, o)
		kept := make(map[string]bool)
		for _, r := range records {
			kept[r.Account] = true
		}
		for name := range reported {
			if !kept[name] {
				t.Errorf("%s was reported and is not in the log", name)
			}
		}
		open(t, o).mustClose(t)
		sound(t, o)
	}
	t.Logf("%d rounds, %d reported", rounds, len(reported))
	if len(reported) < rounds {
		t.Error("nothing was tested")
	}
}

func killOnce(t *testing.T, path string, after time.Duration) (names []string) {
	t.Helper()
	cmd := exec.CommandContext(within(t), os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if names = append(names, lines.Text()); len(names) == 1 {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the child ended by itself: %v\n%s", err, &stderr)
	}
	return names
}

// TestCrash: what a crash can leave at each point is gone on with, and is no sign of tampering.
func TestCrash(t *testing.T) {
	// leave makes the files of a crash from those before and after the last record or rotation.
	for name, c := range map[string]struct {
		leave func(t *testing.T, o Options, before, after snapshot)
		kinds string // of the records after the third
	}{
		"before the state": {func(t *testing.T, o Options, before, after snapshot) {
			rewrite(t, statePath(o.File), before["audit.log.state"])
		}, "login"},
		"within a line": {func(t *testing.T, o Options, before, after snapshot) {
			rewrite(t, statePath(o.File), before["audit.log.state"])
			whole := after["audit.log"]
			rewrite(t, o.File, whole[:len(whole)-30])
		}, "log-recovered"},
		"before its newline": {func(t *testing.T, o Options, before, after snapshot) {
			rewrite(t, statePath(o.File), before["audit.log.state"])
			rewrite(t, o.File, bytes.TrimSuffix(after["audit.log"], []byte("\n")))
		}, "log-recovered"},
		"rotation, before the new file": {func(t *testing.T, o Options, before, after snapshot) {
			putBack(t, o.File, oldName(o.File, 1))
		}, "login log-rotated"},
		"rotation, new file empty": {func(t *testing.T, o Options, before, after snapshot) {
			putBack(t, o.File, oldName(o.File, 1))
			rewrite(t, o.File)
		}, "login log-rotated"},
		"rotation, new file torn": {func(t *testing.T, o Options, before, after snapshot) {
			putBack(t, o.File, oldName(o.File, 1))
			rewrite(t, o.File, []byte(`{"seq":5,"ti`))
		}, "login log-rotated"},
		"rotation, before the new file, old state": {func(t *testing.T, o Options, before, after snapshot) {
			putBack(t, o.File, oldName(o.File, 1))
			rewrite(t, statePath(o.File), before["audit.log.state"])
		}, "login log-rotated"},
		"rotation, before the state": {func(t *testing.T, o Options, before, after snapshot) {
			o.RotateSize = 1
			l := open(t, o)
			l.mustWrite(t, Event{Kind: Login})
			l.mustClose(t)
			rewrite(t, o.File, lines(t, o.File)[0])
			rewrite(t, statePath(o.File), after["audit.log.state"])
		}, "login log-rotated"},
	} {
		t.Run(name, func(t *testing.T) {
			o := place(t)
			l := open(t, o)
			l.mustWrite(t, Event{Kind: Login})
			l.mustWrite(t, Event{Kind: Login})
			l.mustClose(t)
			before := save(t, o)
			l = open(t, o)
			l.mustWrite(t, Event{Kind: Login})
			l.mustClose(t)
			c.leave(t, o, before, save(t, o))
			sound(t, o)
			l = open(t, o)
			l.mustWrite(t, Event{Kind: Admin})
			l.mustClose(t)
			if _, records := sound(t, o); kinds(records[3:]) != c.kinds+" admin" {
				t.Errorf("got %s, want %s admin", kinds(records[3:]), c.kinds)
			}
		})
	}
}
