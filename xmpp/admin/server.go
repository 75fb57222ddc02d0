// Package admin is the one way for operators into a running server: HTTP and JSON on a Unix socket
// that only the server's own user can open. A POST to /NAME calls the verb of that name with the
// body as its arguments; the answer is the verb's result, or {"error": "..."} with a status of 4xx
// or 5xx. A result that is an io.WriterTo (a backup) is streamed as it is written.
//
// Package xmpp calls Listen and Serve with the verbs of all features; the command line calls Dial and
// Client.Call. What a verb means is known to the feature that has it and to whoever calls it, not
// here. Start with Serve.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"tombolo/xmpp/module"
)

const (
	// maxArgs bounds the arguments of a verb.
	maxArgs = 1 << 20
	// patience is how long verbs at work may go on when the server stops.
	patience = 3 * time.Second
	// probe is how long a socket's owner has to take a connection.
	probe = time.Second
	// failed is the trailer that tells of an error in the middle of a stream.
	failed = "Tombolo-Error"
)

// ErrInUse is what Listen answers when another server listens on the socket.
var ErrInUse = errors.New("another server listens on this socket")

// Listen binds a Unix socket at path. One that a dead server left behind is replaced, a live one is
// ErrInUse. The socket has mode 0600 from its first moment, and goes when the listener is closed.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	return l, nil
}

// Serve answers calls until ctx ends, and then closes the listener; verbs at work have a moment more.
func Serve(ctx context.Context, l net.Listener, verbs map[string]module.Verb, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler(verbs, log),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext:       caller,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if !stop() {
		<-stopped
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

// A socket is a listener at a path in the file system, as long as the file there is its own.
type socket struct {
	*net.UnixListener
	path string
	file fs.FileInfo
}

func (s *socket) Close() error {
	if now, err := os.Stat(s.path); err == nil && os.SameFile(s.file, now) {
		_ = os.Remove(s.path)
	}
	return s.UnixListener.Close()
}

// listen binds beside path, restricts the socket, and moves it into place, so that nobody can
// connect in between.
func listen(path string) (net.Listener, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, errors.New("there is a file of this name that is not a socket; remove it or set listen.admin")
	default:
		if c, err := net.DialTimeout("unix", path, probe); err == nil {
			_ = c.Close()
			return nil, ErrInUse
		}
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // its name changes now
	s := &socket{UnixListener: l, path: path}
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		s.file, err = os.Stat(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(fresh)
		return nil, err
	}
	return s, nil
}

func handler(verbs map[string]module.Verb, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Path[1:]
		verb, ok := verbs[name]
		switch {
		case r.Method != http.MethodPost:
			refuse(w, http.StatusMethodNotAllowed, errors.New("verbs are called with POST"))
			return
		case !ok:
			refuse(w, http.StatusNotFound, fmt.Errorf("this server has no %q", name))
			return
		}
		args, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxArgs))
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		result, err := guard(r.Context(), verb, args, func(problem any) {
			log.Error("panic in an admin verb", "verb", name, "panic", problem, "stack", string(debug.Stack()))
		})
		if err != nil {
			refuse(w, http.StatusUnprocessableEntity, err)
			return
		}
		if stream, ok := result.(io.WriterTo); ok {
			sendStream(w, stream)
			return
		}
		send(w, http.StatusOK, result)
	})
}

// guard calls a verb; its panic ends the call and not the server.
func guard(ctx context.Context, verb module.Verb, args []byte, report func(any)) (result any, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			report(problem)
			err = errors.New("the server failed at this; its log says more")
		}
	}()
	return verb(ctx, args)
}

func refuse(w http.ResponseWriter, status int, err error) {
	send(w, status, failure{err.Error()})
}

// failure is how an error crosses.
type failure struct {
	Error string `json:"error"`
}

func send(w http.ResponseWriter, status int, result any) {
	body, err := json.Marshal(result)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error": "the result has no JSON form"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone needs no answer
}

// sendStream streams a result. An error before its first byte is an ordinary one; a later one
// travels in a trailer.
func sendStream(w http.ResponseWriter, stream io.WriterTo) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", failed)
	n, err := stream.WriteTo(body{w})
	switch {
	case err == nil:
	case n == 0:
		w.Header().Del("Trailer")
		refuse(w, http.StatusUnprocessableEntity, err)
	default:
		w.Header().Set(failed, fmt.Sprintf("%q", err.Error()))
	}
}

// body leaves out empty writes, which would already send the header.
type body struct{ http.ResponseWriter }

func (b body) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return b.ResponseWriter.Write(p)
}
