//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test's binary be the program, for tests that need a process.
func TestMain(m *testing.M) {
	if os.Getenv("TOMBOLO_TEST_AS_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

// An output collects what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		o.mu.Lock()
		all := o.b.String()
		o.mu.Unlock()
		if strings.Contains(all, text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %q in\n%s", text, all)
		}
	}
}

// TestSignals: SIGHUP reloads and keeps the old configuration on a mistake; SIGTERM ends with 0.
func TestSignals(t *testing.T) {
	file := newSite(t)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	log := new(output)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "--config", file, "serve")
	cmd.Env = append(os.Environ(), "TOMBOLO_TEST_AS_PROGRAM=1")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	log.await(t, "listening")

	hangUp := func(config string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	hangUp(string(good) + "[log]\nlevle = \"debug\"\n")
	log.await(t, "did you mean level?")
	run(t, "", "--config", file, "status").want(t, 0, "a.test", "did you mean level?")
	hangUp(strings.Replace(string(good), "iterations = 4096", "iterations = 5000", 1))
	log.await(t, "this change takes effect with the next start")
	log.await(t, "reloaded")

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("SIGTERM does not end it")
	}
}
