package chaos

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/bolt"
	"tombolo/xmpp"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/jid"
)

const (
	domain   = "a.test"
	password = "secret"
	// window is how long a session waits to be resumed.
	window = 30 * time.Second
)

// settingsVar makes this test binary a server; it has the settings as JSON.
const settingsVar = "TOMBOLO_CHAOS_SERVER"

// settings are what the process of the server is told. It has the same addresses each time.
type settings struct {
	Dir                 string
	StartTLS, DirectTLS string        // addresses
	Stall               time.Duration // how long a commit stalls now and then; 0: none does
}

func (s *settings) file(name string) string { return filepath.Join(s.Dir, name) }

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(settingsVar); ok {
		var s settings
		err := json.Unmarshal([]byte(text), &s)
		if err == nil {
			err = s.serve()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "level=ERROR", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve is the process of the server. It writes a line when it listens, and ends by SIGTERM, or when
// the test has ended without a word.
func (s *settings) serve() error {
	cfg := xmpp.Defaults()
	cfg.DataDir = s.Dir
	cfg.Domain = []xmpp.Domain{{Name: domain, Certificate: s.file("crt.pem"), Key: s.file("key.pem")}}
	cfg.Listen = xmpp.Listen{Client: []string{s.StartTLS}, ClientTLS: []string{s.DirectTLS}, Admin: "admin.sock"}
	cfg.Limits.Resume = xmpp.Duration(window)
	cfg.Limits.Exempt = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	store, err := bolt.Open(cfg.Database(), bolt.Options{BeforeCommit: stalls(s.Stall)})
	if err != nil {
		return err
	}
	server, err := xmpp.New(cfg, xmpp.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Version: "chaos", Store: store})
	if err != nil {
		return err
	}
	if err := server.Listen(); err != nil {
		return errors.Join(err, server.Close())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(3)
	}()
	fmt.Println("listening")
	return server.Run(ctx)
}

// stalls is a disk that hangs every few seconds.
func stalls(length time.Duration) func() error {
	if length == 0 {
		return nil
	}
	next := time.Now().Add(length / 2)
	return func() error {
		if time.Now().After(next) {
			time.Sleep(length)
			next = time.Now().Add(2 * length)
		}
		return nil
	}
}

// A server is the process under test, in all its lives.
type server struct {
	settings
	tls *tls.Config // of its clients
	log output

	mu      sync.Mutex
	cmd     *exec.Cmd
	lives   int
	started time.Time // of the present life
}

// newServer makes the accounts and all that a server needs to start.
func newServer(t *testing.T, accounts []*account) *server {
	t.Helper()
	// Not t.TempDir: the path of a Unix socket may have a hundred bytes only.
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{settings: settings{Dir: dir, StartTLS: freeAddress(t), DirectTLS: freeAddress(t)}}
	t.Cleanup(func() {
		if s.cmd != nil && s.cmd.ProcessState == nil { // the test has failed
			_ = s.end(context.Background(), syscall.SIGKILL)
		}
	})
	s.certify(t)
	store, err := bolt.Open((&xmpp.Config{DataDir: dir}).Database(), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := addAccounts(t.Context(), store, accounts); err != nil {
		t.Fatal(err)
	}
	return s
}

// addAccounts makes accounts that share their password and its salt.
func addAccounts(ctx context.Context, store storage.Store, accounts []*account) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	users, err := auth.NewAccounts(store, auth.Options{Iterations: 4096, Mechanisms: []string{"SCRAM-SHA-1"}})
	if err != nil {
		return err
	}
	first := jid.MustParse(accounts[0].address())
	if err := users.Create(ctx, first, password); err != nil {
		return err
	}
	return store.Submit(func(tx storage.Tx) error {
		one, err := tx.Accounts().Get(first)
		for _, a := range accounts[1:] {
			if err == nil {
				one.JID = jid.MustParse(a.address())
				err = tx.Accounts().Create(one)
			}
		}
		return err
	}).Wait(ctx)
}

// freeAddress is on a loopback address that no other test uses, so that a port that was free still
// is when the server starts again.
func freeAddress(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.13.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// certify makes a certificate that is its own authority.
func (s *server) certify(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"crt.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(s.file(name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	s.tls = &tls.Config{ServerName: domain, RootCAs: roots}
}

// start begins a life, and returns when the server listens.
func (s *server) start(ctx context.Context) error {
	told, err := json.Marshal(&s.settings)
	if err != nil {
		return err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), settingsVar+"="+string(told))
	cmd.Stderr = &s.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if _, err := cmd.StdinPipe(); err != nil { // ends with this process
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cmd, s.started = cmd, time.Now()
	s.lives++
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return fmt.Errorf("the server does not start: %q, %w, %v", line, err, cmd.Wait())
	}
	return nil
}

// life is the number of the present life and when it began.
func (s *server) life() (number int, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lives, s.started
}

// end ends a life with a signal.
func (s *server) end(ctx context.Context, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.cmd.Process.Signal(syscall.SIGQUIT) }) // says where it hangs
	defer stop()
	if err := s.cmd.Process.Signal(sig); err != nil {
		return err
	}
	err := s.cmd.Wait()
	if sig == syscall.SIGKILL {
		return nil
	}
	return err
}

// An output keeps what the server says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// judge fails the test for what the server should not have said, and shows the end of it.
func (o *output) judge(t *testing.T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := o.text.Bytes()
	for _, bad := range []string{"level=ERROR", "DATA RACE", "panic:", "SIGQUIT"} {
		if i := bytes.Index(text, []byte(bad)); i >= 0 {
			t.Errorf("the server said:\n%s", text[i:min(len(text), i+6000)])
		}
	}
	if t.Failed() {
		t.Logf("the server's last words:\n%s", text[max(0, len(text)-4000):])
	}
}
