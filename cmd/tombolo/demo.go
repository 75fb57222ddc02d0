package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	mellium "mellium.im/xmpp/jid"
	"mellium.im/xmpp/stanza"

	"tombolo/cmd/tombolo/internal/lab"
	"tombolo/federation"
	"tombolo/xmpp"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/jid"
)

func (a *app) demoCommand() *cobra.Command {
	check := false
	cmd := &cobra.Command{
		Use: "demo", Short: "Watch two servers federate in this process",
		Long: `Run two servers for two domains in this process, which find each other as partners do and prove their
domains with certificates over TLS, and let alice@north.test meet bob@south.test. Nothing is left behind.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			out := cmd.OutOrStdout()
			if check {
				out = io.Discard
			}
			if err := demo(ctx, out, cmd.ErrOrStderr()); err != nil {
				return fmt.Errorf("demo: %w", err)
			}
			if check {
				fmt.Fprintln(cmd.OutOrStdout(), "demo: all is well")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "print only whether it went well")
	return cmd
}

// A site is one of the demo's servers, with its user.
type site struct {
	domain, user, password string
	host                   string // its address
	server                 string // host and port for other servers
	*xmpp.Server
	stop func() error
}

func demo(ctx context.Context, out, errOut io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "tombolo-demo")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	north := &site{domain: "north.test", user: "alice", host: "127.0.0.2"}
	south := &site{domain: "south.test", user: "bob", host: "127.0.0.3"}
	sites := []*site{north, south}
	authority, err := lab.NewAuthority("Tombolo demo", north.domain, south.domain)
	if err != nil {
		return err
	}
	ca := filepath.Join(dir, "ca.crt")
	if err := authority.Write(ca); err != nil {
		return err
	}
	for _, s := range sites {
		if err := s.choose(); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "Two servers in one process: %s at %s and %s at %s.\n", north.domain, north.server, south.domain, south.server)
	for i, s := range sites {
		log := newLog(xmpp.Log{Level: "error", Format: "text"}, errOut)
		if err := s.start(ctx, filepath.Join(dir, s.domain), authority, ca, sites[1-i], log); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
	}

	t := newTranscript(out, "What happens:")
	alice, err := north.login(ctx, t, authority)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, alice.Close()) }()
	bob, err := south.login(ctx, t, authority)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bob.Close()) }()
	if err := meet(ctx, t, alice, bob, south.domain); err != nil {
		return err
	}
	for _, s := range sites {
		if err := s.streams(ctx, t); err != nil {
			return err
		}
	}
	t.end("The end")
	return nil
}

// choose finds addresses that are free. Where the system has no 127.0.0.2, as macOS, it is 127.0.0.1.
func (s *site) choose() error {
	l, err := net.Listen("tcp", net.JoinHostPort(s.host, "0"))
	if err != nil {
		s.host = "127.0.0.1"
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	s.server = l.Addr().String()
	return l.Close()
}

func (s *site) start(ctx context.Context, dir string, authority *lab.Authority, ca string, partner *site, log *logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cfg := xmpp.Defaults()
	cfg.DataDir = dir
	d := xmpp.Domain{Name: s.domain, Certificate: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key")}
	if err := authority.Issue(s.domain, d.Certificate, d.Key); err != nil {
		return err
	}
	cfg.Domain = []xmpp.Domain{d}
	cfg.Listen = xmpp.Listen{Client: []string{net.JoinHostPort(s.host, "0")}, Server: []string{s.server}, Admin: "admin.sock"}
	cfg.Federation.Policy = "partners"
	cfg.Federation.CAFile = ca
	cfg.Federation.Partner = []xmpp.Partner{{Domain: partner.domain, Address: partner.server, Authentication: "certificate"}}
	for _, p := range cfg.Validate(time.Now()) {
		return fmt.Errorf("configuration of %s: %s: %s", s.domain, p.Key, p.Text)
	}
	server, err := xmpp.New(cfg, xmpp.Options{Log: log.With("server", s.domain), Version: version(),
		LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.host)}})
	if err != nil {
		return err
	}
	s.password = rand.Text()
	who, err := jid.New(s.user, s.domain, "")
	if err == nil {
		err = callServer(ctx, server, "user.add", c2s.UserRequest{Account: who, Password: s.password}, nil)
	}
	if err == nil {
		err = server.Listen()
	}
	if err != nil {
		return errors.Join(err, server.Close())
	}
	running, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(running) }()
	s.Server, s.stop = server, func() error { cancel(); return <-ended }
	return nil
}

func (s *site) login(ctx context.Context, t *transcript, authority *lab.Authority) (*lab.Client, error) {
	c, err := lab.Login(ctx, lab.Account{JID: s.user + "@" + s.domain, Password: s.password,
		Address: s.Addresses()["client"][0], Roots: authority.Pool()})
	if err != nil {
		return nil, err
	}
	t.step("%s logs in to %s: %s, %s", s.user, s.domain, c.TLS(), lab.Mechanism)
	if _, err := c.Roster(ctx); err != nil {
		return nil, err
	}
	return c, c.Announce(ctx, 0, "")
}

// meet is the conversation; each step waits until the other side has seen it.
func meet(ctx context.Context, t *transcript, alice, bob *lab.Client, south string) error {
	for _, pair := range [][2]*lab.Client{{alice, bob}, {bob, alice}} {
		me, other := pair[0], pair[1]
		if err := me.Presence(ctx, other.JID().Bare(), stanza.SubscribePresence); err != nil {
			return err
		}
		t.step("%s -> %s   may I see your presence?", name(me), name(other))
		if _, err := other.Await(ctx, "the request of "+name(me), subscription(me, stanza.SubscribePresence)); err != nil {
			return err
		}
		if err := other.Presence(ctx, me.JID().Bare(), stanza.SubscribedPresence); err != nil {
			return err
		}
		if _, err := me.Await(ctx, "the consent of "+name(other), subscription(other, stanza.SubscribedPresence)); err != nil {
			return err
		}
		t.step("%s -> %s   yes", name(other), name(me))
		_, err := me.Await(ctx, "the presence of "+name(other), func(e lab.Event) bool {
			return !e.Message && e.From.Equal(other.JID()) && e.Type == ""
		})
		if err != nil {
			return err
		}
		t.step("%s sees that %s is available", name(me), name(other))
	}
	for _, line := range []struct {
		from, to *lab.Client
		body     string
	}{
		{alice, bob, "Hello Bob! The sand has dried: we can walk over."},
		{bob, alice, "Hello Alice! I am on my way."},
	} {
		if err := line.from.Say(ctx, line.to.JID().Bare(), line.body); err != nil {
			return err
		}
		_, err := line.to.Await(ctx, "a message from "+name(line.from), func(e lab.Event) bool {
			return e.Message && e.From.Equal(line.from.JID()) && e.Body == line.body
		})
		if err != nil {
			return err
		}
		t.step("%s -> %s   %q", name(line.from), name(line.to), line.body)
	}
	if err := bob.Announce(ctx, 0, "walking"); err != nil {
		return err
	}
	_, err := alice.Await(ctx, "the new presence of bob", func(e lab.Event) bool {
		return !e.Message && e.From.Equal(bob.JID()) && e.Status == "walking"
	})
	if err != nil {
		return err
	}
	t.step("alice sees that bob is %q", "walking")
	return bounce(ctx, t, alice, south)
}

// bounce writes to somebody who does not exist.
func bounce(ctx context.Context, t *transcript, alice *lab.Client, domain string) error {
	nobody, err := mellium.New("nobody", domain, "")
	if err != nil {
		return err
	}
	if err := alice.Say(ctx, nobody, "Is anybody there?"); err != nil {
		return err
	}
	_, err = alice.Await(ctx, "the error for a message to nobody", func(e lab.Event) bool {
		return e.Message && e.From.Equal(nobody) && e.Type == string(stanza.ErrorMessage)
	})
	if err != nil {
		return err
	}
	t.step("alice -> nobody@%s   comes back as an error, as it should", domain)
	return nil
}

// streams tells how a server knows the other one.
func (s *site) streams(ctx context.Context, t *transcript) error {
	var list []federation.StreamInfo
	if err := callServer(ctx, s.Server, "federation.list", nil, &list); err != nil {
		return err
	}
	for _, f := range list {
		proof := f.Authenticated
		if f.Direction == "out" {
			proof = f.Peer
		}
		t.step("%s: stream %s %s, %s, proved by %s", s.domain, map[string]string{"in": "from", "out": "to"}[f.Direction], f.Remote, f.TLS, proof)
	}
	return nil
}
