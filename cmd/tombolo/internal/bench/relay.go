package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"
)

// Relay is the floor under every server: a program that knows no XMPP. Each TLS connection names a
// group in its first line; what it sends then goes to all others of that group, each read in one
// write. It runs until the context ends, in a process of its own, so that its cost can be told from
// that of the clients.
func Relay(ctx context.Context, l net.Listener) error {
	certificate, err := throwAway()
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	r := relay{groups: make(map[string]*group)}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		go r.serve(tls.Server(conn, config))
	}
}

type relay struct {
	mu     sync.Mutex
	groups map[string]*group
}

type group struct {
	mu      sync.RWMutex
	members []net.Conn
}

func (r *relay) serve(conn net.Conn) {
	defer conn.Close()
	buf := make([]byte, 16<<10) // a full TLS record
	n, err := conn.Read(buf)
	name, ok := strings.CutSuffix(string(buf[:n]), "\n")
	if err != nil || !ok {
		return
	}
	r.mu.Lock()
	g := r.groups[name]
	if g == nil {
		g = new(group)
		r.groups[name] = g
	}
	r.mu.Unlock()
	g.mu.Lock()
	g.members = append(g.members, conn)
	g.mu.Unlock()
	if _, err := conn.Write([]byte(joined)); err != nil {
		return
	}
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		g.mu.RLock()
		for _, other := range g.members {
			if other != conn {
				_, _ = other.Write(buf[:n]) // who is gone gets nothing
			}
		}
		g.mu.RUnlock()
	}
}

const joined = "<joined/>"

// join is what stands for a login at the relay: the account's name is that of the group.
func (s *session) join(a *Account) error {
	if err := s.send(a.Name + "\n"); err != nil {
		return err
	}
	s.jid, s.in.depth = a.Name, 1 // as if the stream were open
	el, err := s.read()
	if err == nil && string(el) != joined {
		err = fmt.Errorf("the relay answers %s", el)
	}
	return err
}

// throwAway is a certificate that nobody has a reason to trust.
func throwAway() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
