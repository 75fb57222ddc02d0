package xmpp_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/jid"
)

// A lab is what servers under test share: one CA, with a certificate for each domain on request.
type lab struct {
	dir    string
	roots  *x509.CertPool
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	mu     sync.Mutex
	serial int64
	issued map[string]bool
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir(), roots: x509.NewCertPool(), issued: make(map[string]bool)}
	var err error
	if l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, l.key.Public(), l.key)
	if err != nil {
		t.Fatal(err)
	}
	if l.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	l.roots.AddCert(l.ca)
	if err := writePEM(l.caFile(), "CERTIFICATE", der); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) caFile() string { return filepath.Join(l.dir, "ca.pem") }

// certificate makes the files for a domain. Like those of public CAs, it is for servers only.
func (l *lab) certificate(domain string) (cert, key string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	cert, key = filepath.Join(l.dir, domain+".crt"), filepath.Join(l.dir, domain+".key")
	if l.issued[domain] {
		return cert, key, nil
	}
	l.issued[domain] = true
	l.serial++
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(l.serial + 1), DNSNames: []string{domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, l.ca, private.Public(), l.key)
	if err != nil {
		return "", "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	return cert, key, errors.Join(writePEM(cert, "CERTIFICATE", der), writePEM(key, "PRIVATE KEY", pkcs8))
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// clientTLS is the configuration of a client of a domain.
func (l *lab) clientTLS(domain string) *tls.Config {
	return &tls.Config{ServerName: domain, RootCAs: l.roots, MinVersion: tls.VersionTLS12}
}

// A host is one server under test.
type host struct {
	*xmpp.Server
	domains []string
	config  xmpp.Config
	store   storage.Store
	log     logs
	stop    context.CancelFunc
	stopped chan error
	// stopping is set by a play that stops its server.
	stopping bool
}

// prepare makes a server on a loopback address of its own, listening but not running yet. settings
// are TOML on top of the defaults.
func (l *lab) prepare(t testing.TB, address string, domains []string, settings string, store storage.Store) (*host, error) {
	h := &host{domains: domains, config: xmpp.Defaults(), store: store, stopped: make(chan error, 1)}
	if h.store == nil {
		h.store = mem.New(mem.Options{})
	}
	cfg := &h.config
	cfg.Auth.Iterations = 4096
	cfg.Limits.Shutdown = xmpp.Duration(time.Second)
	cfg.Federation.CAFile = l.caFile()
	if err := toml.Unmarshal([]byte(settings), cfg); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	for _, name := range domains {
		i := 0
		for i < len(cfg.Domain) && cfg.Domain[i].Name != name {
			i++
		}
		if i == len(cfg.Domain) {
			cfg.Domain = append(cfg.Domain, xmpp.Domain{Name: name})
		}
		var err error
		if cfg.Domain[i].Certificate, cfg.Domain[i].Key, err = l.certificate(name); err != nil {
			return nil, err
		}
	}
	free := []string{net.JoinHostPort(address, "0")}
	cfg.Listen = xmpp.Listen{Client: free, ClientTLS: free, Server: free, ServerTLS: free, Admin: "admin.sock"}
	// Not t.TempDir: the path of a Unix socket may have a hundred bytes only.
	dir, err := os.MkdirTemp("", "play")
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg.DataDir = dir
	h.Server, err = xmpp.New(*cfg, xmpp.Options{
		Log: slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "test",
		Store: h.store, LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)},
	})
	if err != nil {
		return nil, err
	}
	return h, h.Listen()
}

// federate makes partners of servers that listen, whose addresses are known only now.
func federate(hosts []*host) error {
	for _, h := range hosts {
		for _, other := range hosts {
			for _, domain := range other.domains {
				if h != other && !slices.Contains(h.config.Federation.Deny, domain) {
					h.partner(domain).Address = other.Addresses()["server"][0]
				}
			}
		}
		for _, p := range h.config.Validate(time.Now()) {
			if !p.Warning {
				return fmt.Errorf("configuration of %s: %s: %s", h.domains[0], p.Key, p.Text)
			}
		}
		if _, err := h.Reload(h.config); err != nil {
			return err
		}
	}
	return nil
}

// partner is the entry for a domain, one that the settings have or a new one.
func (h *host) partner(domain string) *xmpp.Partner {
	list := &h.config.Federation.Partner
	for i := range *list {
		if (*list)[i].Domain == domain {
			return &(*list)[i]
		}
	}
	*list = append(*list, xmpp.Partner{Domain: domain, Authentication: "certificate"})
	return &(*list)[len(*list)-1]
}

// run starts the server; it ends with the test.
func (h *host) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	go func() { h.stopped <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-h.stopped:
			if err != nil {
				t.Errorf("%s: %v", h.domains[0], err)
			}
		case <-time.After(2 * patience):
			t.Errorf("%s does not stop", h.domains[0])
		}
		h.log.judge(t, h.domains[0])
	})
}

// addAccount makes an account with the password.
func (h *host) addAccount(account, password string) error {
	j, err := jid.Parse(account)
	if err != nil {
		return err
	}
	credentials, err := credentialsOf(password)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return h.store.Submit(func(tx storage.Tx) error {
		return tx.Accounts().Create(storage.Account{JID: j, Credentials: credentials, Created: time.Now()})
	}).Wait(ctx)
}

// credentialsOf derives what is kept of a password. Nearly all accounts under test have the same one,
// and to derive it for each would take most of the time.
func credentialsOf(password string) ([]storage.Credential, error) {
	if password == "secret" {
		return secret()
	}
	return derive(password)
}

var secret = sync.OnceValues(func() ([]storage.Credential, error) { return derive("secret") })

func derive(password string) ([]storage.Credential, error) {
	store := mem.New(mem.Options{})
	defer store.Close()
	accounts, err := auth.NewAccounts(store, auth.Options{Iterations: 4096})
	if err != nil {
		return nil, err
	}
	somebody := jid.MustParse("somebody@a.test")
	if err := accounts.Create(context.Background(), somebody, password); err != nil {
		return nil, err
	}
	var kept storage.Account
	err = store.View(func(tx storage.Tx) (err error) {
		kept, err = tx.Accounts().Get(somebody)
		return err
	})
	return kept.Credentials, err
}

// logs keep what a server said, for the case that something failed.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// judge fails the test if the server had to report an error, such as a panic, and shows the log of a
// test that failed.
func (l *logs) judge(t testing.TB, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.Contains(l.text.Bytes(), []byte("level=ERROR")) {
		t.Errorf("%s logged an error", name)
	}
	if t.Failed() {
		t.Logf("log of %s:\n%s", name, l.text.String())
	}
}

// pause is the time between two looks at a condition.
func pause(ctx context.Context) error {
	select {
	case <-time.After(2 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readRoots reads the CA of a lab in another process.
func readRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s", file)
	}
	return pool, nil
}
