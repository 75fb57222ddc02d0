package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tombolo/xmpp/module"
)

// A half is a stream that fails after some bytes.
type half struct {
	first string
	err   error
}

func (h half) WriteTo(w io.Writer) (int64, error) {
	n, _ := io.WriteString(w, h.first)
	return int64(n), h.err
}

var verbs = map[string]module.Verb{
	"test.echo": func(_ context.Context, args []byte) (any, error) { return json.RawMessage(args), nil },
	"test.fail": func(context.Context, []byte) (any, error) { return nil, errors.New("no such \"user\"") },
	"test.panic": func(context.Context, []byte) (any, error) {
		panic("oops")
	},
	"test.stream": func(context.Context, []byte) (any, error) {
		return strings.NewReader(strings.Repeat("0123456789", 10000)), nil
	},
	"test.none": func(context.Context, []byte) (any, error) { return half{"", errors.New("disk is gone")}, nil },
	"test.half": func(context.Context, []byte) (any, error) {
		return half{strings.Repeat("x", 100000), errors.New("disk is \"gone\"")}, nil
	},
	"test.wait": func(ctx context.Context, _ []byte) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	},
}

// serve runs a server for the test and waits until it takes calls; stop ends it and returns what
// Serve did.
func serve(t *testing.T, path string) (stop func() error) {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, verbs, slog.New(slog.DiscardHandler)) }()
	stopped := false
	stop = func() error {
		cancel()
		if stopped {
			return nil
		}
		stopped = true
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("Serve did not end")
		}
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "adm") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "admin.sock")
}

func TestCall(t *testing.T) {
	path := socketPath(t)
	serve(t, path)
	client, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	var echoed map[string]int
	if err := client.Call(t.Context(), "test.echo", map[string]int{"a": 7}, &echoed); err != nil || echoed["a"] != 7 {
		t.Errorf("echo: %v, %v", echoed, err)
	}
	for verb, want := range map[string]string{
		"test.fail":  `no such "user"`,
		"test.panic": "its log says more",
		"test.none":  "disk is gone",
		"test.other": `this server has no "test.other"`,
	} {
		if err := client.Call(t.Context(), verb, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", verb, err, want)
		}
	}
	var stream bytes.Buffer
	if err := client.Call(t.Context(), "test.stream", nil, &stream); err != nil || stream.Len() != 100000 {
		t.Errorf("stream: %d bytes, %v", stream.Len(), err)
	}
	if err := client.Call(t.Context(), "test.half", nil, io.Discard); err == nil || err.Error() != `disk is "gone"` {
		t.Errorf("a stream that broke off: error %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := client.Call(ctx, "test.wait", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call whose context ended: error %v", err)
	}
}

func TestSocketMode(t *testing.T) {
	path := socketPath(t)
	stop := serve(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if err := stop(); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there after the server ended: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := socketPath(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	if _, err := Dial(path); !errors.Is(err, ErrNoServer) {
		t.Errorf("Dial of a stale socket: %v, want ErrNoServer", err)
	}
	serve(t, path)
	client, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Call(t.Context(), "test.echo", 1, nil); err != nil {
		t.Error(err)
	}
}

func TestLiveSocketIsRefused(t *testing.T) {
	path := socketPath(t)
	serve(t, path)
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a second Listen: %v, want ErrInUse", err)
	}
	client, err := Dial(path)
	if err != nil {
		t.Fatalf("the first server lost its socket: %v", err)
	}
	_ = client.Close()
}

func TestFileInTheWay(t *testing.T) {
	path := socketPath(t)
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("a file that is not a socket was replaced")
	}
	if kept, _ := os.ReadFile(path); string(kept) != "mine" {
		t.Errorf("the file now holds %q", kept)
	}
}

func TestNoServer(t *testing.T) {
	if _, err := Dial(socketPath(t)); !errors.Is(err, ErrNoServer) {
		t.Errorf("Dial: %v, want ErrNoServer", err)
	}
}
