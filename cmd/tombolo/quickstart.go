package main

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tombolo/cmd/tombolo/internal/lab"
	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/xmpp"
	"tombolo/xmpp/admin"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/jid"
)

// A quickstart is a directory with all that a server on this machine needs.
type quickstart struct {
	out    io.Writer
	dir    string
	domain string
	named  bool // --domain was given
	ports  []portFlag
}

// A portFlag is a listener, and the flag that gives it another port.
type portFlag struct {
	flag, key, use string
	port           int
	set            bool
}

// checkTime is how long the self-check may take.
const checkTime = 30 * time.Second

func (a *app) quickstartCommand() *cobra.Command {
	q := quickstart{ports: []portFlag{
		{flag: "client-port", key: "client", port: 5222, use: "clients, STARTTLS"},
		{flag: "client-tls-port", key: "client_tls", port: 5223, use: "clients, direct TLS"},
		{flag: "server-port", key: "server", port: 5269, use: "other servers, STARTTLS"},
		{flag: "server-tls-port", key: "server_tls", port: 5270, use: "other servers, direct TLS"},
	}}
	check := false
	cmd := &cobra.Command{
		Use: "quickstart", Short: "Make a server with two accounts on this machine, run it and try it",
		Long: `Make a directory with a commented configuration, a certificate authority and a certificate, and the
accounts alice and bob; run the server on the loopback interface; log in as both with a client that is another
implementation of XMPP, look at rosters and presence and send a message each way; then say how to log in with
your own client, and serve until Ctrl-C. Run again it uses what it made; it refuses a directory that holds
anything else.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q.out = cmd.OutOrStdout()
			q.named = cmd.Flags().Changed("domain")
			for i := range q.ports {
				q.ports[i].set = cmd.Flags().Changed(q.ports[i].flag)
			}
			return q.run(cmd.Context(), cmd.ErrOrStderr(), check)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&q.domain, "domain", "localhost", "the `domain` of the accounts, when the directory is made")
	flags.StringVar(&q.dir, "dir", "tombolo-quickstart", "the `directory`")
	flags.BoolVar(&check, "check", false, "end after the check; exit with 1 when it failed")
	for i := range q.ports {
		flags.IntVar(&q.ports[i].port, q.ports[i].flag, q.ports[i].port, "`port` for "+q.ports[i].use)
	}
	return cmd
}

func (q *quickstart) run(ctx context.Context, errOut io.Writer, check bool) error {
	dir, err := filepath.Abs(q.dir)
	if err != nil {
		return err
	}
	q.dir = dir
	j, err := jid.Parse(q.domain)
	if err != nil || !j.IsServer() {
		return usagef("--domain %s is not a domain name", q.domain)
	}
	if _, err := netip.ParseAddr(strings.Trim(j.Domain(), "[]")); err == nil {
		return usagef("--domain %s is an IP address; the certificate would need a name, such as localhost", q.domain)
	}
	q.domain = j.Domain()
	file, err := q.prepare()
	if err != nil {
		return err
	}
	log := newLog(xmpp.Log{Level: "error", Format: file.Log.Format}, errOut)
	var failed error
	served := serve(ctx, file, log, func(ctx context.Context, s *xmpp.Server) bool {
		if failed = q.try(ctx, file, s); failed != nil {
			failed = fmt.Errorf("the check failed: %w", failed)
			if !check {
				fmt.Fprintf(errOut, "tombolo: %v\n", failed)
			}
		}
		if check || ctx.Err() != nil {
			return false
		}
		q.explain(file)
		log.adjust(file.Log)
		return true
	})
	if !check {
		failed = nil // it was told, and the operator has ended the server
	}
	return errors.Join(failed, served)
}

// prepare makes the directory unless it was made before, and reads its configuration.
func (q *quickstart) prepare() (*settings.File, error) {
	path := q.path("tombolo.toml")
	switch made, err := q.made(); {
	case err != nil:
		return nil, err
	case made:
		fmt.Fprintf(q.out, "Using %s.\n", q.dir)
	default:
		if err := q.freePorts(q.standardListen()); err != nil {
			return nil, err
		}
		if err := q.make(path); err != nil {
			return nil, fmt.Errorf("make %s: %w", q.dir, err)
		}
	}
	file, _, err := settings.Load(path)
	if err != nil {
		return nil, fmt.Errorf("%w\nmend it, or remove %s to start anew", mistakes(err), q.dir)
	}
	if d := file.Domain[0].Name; q.named && d != q.domain {
		return nil, fmt.Errorf("%s was made for %s; name a new directory for %s with --dir", q.dir, d, q.domain)
	}
	if c, err := admin.Dial(file.AdminSocket()); err == nil {
		return nil, errors.Join(fmt.Errorf("a server is already running in %s", q.dir), c.Close())
	}
	if err := q.renew(file); err != nil {
		return nil, err
	}
	for _, p := range q.ports {
		if p.set {
			*listener(&file.Listen, p.key) = []string{p.address()}
		}
	}
	return file, q.freePorts(file.Listen)
}

func (q *quickstart) path(name string) string { return filepath.Join(q.dir, name) }

func (p portFlag) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

func listener(l *xmpp.Listen, key string) *[]string {
	return map[string]*[]string{"client": &l.Client, "client_tls": &l.ClientTLS,
		"server": &l.Server, "server_tls": &l.ServerTLS}[key]
}

func (q *quickstart) standardListen() (l xmpp.Listen) {
	for _, p := range q.ports {
		*listener(&l, p.key) = []string{p.address()}
	}
	return l
}

// freePorts names a port that another program has, and the flag that changes it.
func (q *quickstart) freePorts(l xmpp.Listen) error {
	var taken []error
	for _, p := range q.ports {
		for _, address := range *listener(&l, p.key) {
			ln, err := net.Listen("tcp", address)
			switch {
			case err == nil:
				_ = ln.Close()
			case errors.Is(err, syscall.EADDRINUSE):
				taken = append(taken, fmt.Errorf("%s (%s) is taken by another program; give it another port with --%s, such as --%[3]s %d",
					address, p.use, p.flag, 10000+p.port%10000))
			default:
				taken = append(taken, fmt.Errorf("%w; give it another port with --%s", err, p.flag))
			}
		}
	}
	return errors.Join(taken...)
}

// authorityName begins the name of a CA that quickstart made, and so tells a directory that it made.
const authorityName = "Tombolo quickstart for "

// made says whether an earlier quickstart made the directory. One that holds anything else is refused:
// its files, its mode, and the accounts of its server are not ours to change.
func (q *quickstart) made() (bool, error) {
	entries, err := os.ReadDir(q.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil || len(entries) == 0:
		return false, err
	}
	ca, err := certificate(q.path("ca.crt"))
	if err == nil && strings.HasPrefix(ca.Subject.CommonName, authorityName) {
		_, err = os.Stat(q.path("tombolo.toml"))
		if err == nil {
			return true, nil
		}
	}
	return false, fmt.Errorf("%s holds files that quickstart did not make; name a new directory with --dir", q.dir)
}

// make makes everything that is kept in files; the configuration comes last, so that a directory
// that has one is whole. When it fails it leaves nothing.
func (q *quickstart) make(path string) (err error) {
	_, missing := os.Stat(q.dir)
	if err := os.MkdirAll(q.dir, 0o700); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		for _, name := range []string{"ca.crt", "server.crt", "server.key", "tombolo.toml"} {
			_ = os.Remove(q.path(name)) // the directory was empty
		}
		if missing != nil {
			_ = os.Remove(q.dir)
		}
	}()
	if err := q.certify(q.domain); err != nil {
		return err
	}
	set := map[string]string{
		"data_dir": `"data"`, "domain.name": settings.TOML(q.domain),
		"domain.certificate": `"server.crt"`, "domain.key": `"server.key"`,
		"listen.http": `["127.0.0.1:5443"]`,
	}
	for _, p := range q.ports {
		set["listen."+p.key] = settings.TOML([]string{p.address()})
	}
	var text strings.Builder
	if err := settings.Example(&text, set); err != nil {
		return err
	}
	if err := lab.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return err
	}
	if _, _, err := settings.Load(path); err != nil { // such as a name too long for the admin socket
		return mistakes(err)
	}
	fmt.Fprintf(q.out, "Made %s: the configuration tombolo.toml, the CA ca.crt, a certificate for %s.\n", q.dir, q.domain)
	return nil
}

// certify makes a CA and a certificate of it.
func (q *quickstart) certify(domain string) error {
	authority, err := lab.NewAuthority(authorityName+domain, jid.ASCIIDomain(domain))
	if err != nil {
		return err
	}
	if err := authority.Issue(jid.ASCIIDomain(domain), q.path("server.crt"), q.path("server.key")); err != nil {
		return err
	}
	return authority.Write(q.path("ca.crt"))
}

// renew replaces the certificates that it made when they are about to expire.
func (q *quickstart) renew(file *settings.File) error {
	d := file.Domain[0]
	if d.Certificate != q.path("server.crt") || d.Key != q.path("server.key") {
		return nil // the user's own
	}
	leaf, err := certificate(d.Certificate)
	if err != nil || time.Until(leaf.NotAfter) > 7*24*time.Hour {
		return err
	}
	if ca, err := certificate(q.path("ca.crt")); err != nil || leaf.CheckSignatureFrom(ca) != nil {
		return err // the user's own under our names
	}
	fmt.Fprintf(q.out, "The certificate expires on %s: made a new one, and a new CA that your client must trust.\n", leaf.NotAfter.Format(time.DateOnly))
	return q.certify(d.Name)
}

func certificate(file string) (*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

// passwords are those of the accounts that it made, kept so that they can be printed again.
type passwords map[string]string

// accounts makes alice and bob where they do not exist, and returns their passwords.
func (q *quickstart) accounts(ctx context.Context, domain string, s *xmpp.Server) (passwords, error) {
	kept := make(passwords)
	path := q.path("passwords.json")
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var users []c2s.UserInfo
	if err := callServer(ctx, s, "user.list", c2s.UserRequest{Domain: domain}, &users); err != nil {
		return nil, err
	}
	for _, name := range []string{"alice", "bob"} {
		who, err := jid.New(name, domain, "")
		if err != nil {
			return nil, err
		}
		exists := slices.ContainsFunc(users, func(u c2s.UserInfo) bool { return u.Account == who })
		password, known := kept[who.String()]
		if !known {
			password = rand.Text()[:16]
			kept[who.String()] = password
			if data, err = json.MarshalIndent(kept, "", "  "); err == nil {
				err = lab.WriteFile(path, append(data, '\n'), 0o600)
			}
			if err != nil {
				return nil, err
			}
		}
		switch {
		case !exists:
			err = callServer(ctx, s, "user.add", c2s.UserRequest{Account: who, Password: password}, nil)
		case !known:
			err = callServer(ctx, s, "user.passwd", c2s.UserRequest{Account: who, Password: password}, nil)
		}
		if err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// explain says how to log in with one's own client.
func (q *quickstart) explain(file *settings.File) {
	d := file.Domain[0]
	plain, direct := first(file.Listen.Client), first(file.Listen.ClientTLS)
	kept := make(passwords)
	if data, err := os.ReadFile(q.path("passwords.json")); err == nil {
		_ = json.Unmarshal(data, &kept) // accounts has just read it
	}
	fmt.Fprintf(q.out, `
Log in with the XMPP client you like:
  address   alice@%[1]s   password  %[2]s
  address   bob@%[1]s     password  %[3]s
  server    host %[4]s, port %[5]s (STARTTLS)%[6]s
`, d.Name, kept["alice@"+d.Name], kept["bob@"+d.Name], plain.host, plain.port, direct.also())
	fmt.Fprintf(q.out, "  CA        %s\n", q.path("ca.crt"))
	if leaf, err := certificate(d.Certificate); err == nil {
		fmt.Fprintf(q.out, "  SHA-256   %s\n  SHA-1     %s\n", fingerprint(sha256Sum(leaf.Raw)), fingerprint(sha1Sum(leaf.Raw)))
	}
	fmt.Fprintf(q.out, `
Gajim: add the account, open "Advanced settings", set host and port; when it asks about the certificate,
compare the SHA-256 above and accept.
Pidgin: add an XMPP account; on the tab "Advanced" set the port and the connect server; when it asks about
the certificate, compare the SHA-1 above and accept.
README.md has every step.

Administer it:  tombolo --config %s status
Serving until Ctrl-C.
`, file.Path)
}

type endpoint struct{ host, port string }

func first(addresses []string) (e endpoint) {
	if len(addresses) > 0 {
		e.host, e.port, _ = net.SplitHostPort(addresses[0]) // Validate has seen it
	}
	return e
}

func (e endpoint) also() string {
	if e.port == "" {
		return ""
	}
	return " or " + e.port + " (direct TLS)"
}

func sha256Sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
func sha1Sum(b []byte) []byte   { s := sha1.Sum(b); return s[:] } // only to compare with what Pidgin shows

func fingerprint(sum []byte) string {
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

// trusted is the pool that trusts the quickstart's CA only.
func (q *quickstart) trusted(file *settings.File) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	name := q.path("ca.crt")
	if file.Domain[0].Certificate != q.path("server.crt") {
		var err error
		if pool, err = x509.SystemCertPool(); err != nil {
			return nil, err
		}
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate", name)
	}
	return pool, nil
}
