package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tombolo/cmd/tombolo/internal/bench"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/jid"
)

// A benchRun is the flags of tombolo bench.
type benchRun struct {
	bench.Config
	users        int
	userFile     string
	peerUserFile string
	make         string // "", "register" or "admin"
	ca           string
	insecure     bool
	compare      bool
}

func (a *app) benchCommand() *cobra.Command {
	b := new(benchRun)
	var names []string
	var list strings.Builder
	for _, s := range bench.Scenarios {
		names = append(names, s.Name)
		fmt.Fprintf(&list, "\n    %-11s %s", s.Name, s.Short)
	}
	cmd := a.reading(&cobra.Command{
		Use: "bench SCENARIO | bench --compare BEFORE.json AFTER.json", Short: "Measure what an XMPP server costs",
		Long: `Play the clients of an XMPP server, this one or another, and print what it did: how much, how fast, whether
anything was lost, doubled or out of order, and with --server-pid what that cost in processor time and memory. Of
these figures the processor time is the one to trust where clients and server share a machine. Scenarios:
` + list.String() + `

Accounts come from --user-file, one "NAME PASSWORD" a line. With --make they are made first: with passwords of
their own, deleted at the end, or, with --user-file, written to that new file and kept. The server's limits for one
address hold for the clients, too: exempt them, and lift limits.stanzas_per_second.`,
		Example: `  tombolo bench pairs --server 127.0.0.1:5222 --domain example.org --make admin --server-pid $(pidof tombolo)
  tombolo bench fairness --flood presence --users 1003 ...
  tombolo bench relay --window 20`,
		Args: func(cmd *cobra.Command, args []string) error {
			if b.compare {
				return cobra.ExactArgs(2)(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			if b.compare {
				return compareReports(cmd, args[0], args[1])
			}
			if !slices.Contains(names, args[0]) {
				return usagef("there is no scenario %q; there are %s", args[0], strings.Join(names, ", "))
			}
			b.Scenario = args[0]
			return a.bench(cmd, b)
		},
	})
	f := cmd.Flags()
	f.BoolVar(&b.compare, "compare", false, "compare two reports of --output json")
	f.StringVar(&b.Target.Address, "server", "127.0.0.1:5222", "`host:port` of the server")
	f.StringVar(&b.Target.Domain, "domain", "localhost", "the `domain` of the users")
	f.IntVar(&b.Target.PID, "server-pid", 0, "process `id` of the server on this machine, for its processor time and memory")
	f.StringVar(&b.Peer.Address, "peer-server", "", "`host:port` of the recipients' server, for federation")
	f.StringVar(&b.Peer.Domain, "peer-domain", "", "the `domain` of the recipients")
	f.IntVar(&b.Peer.PID, "peer-pid", 0, "process `id` of the recipients' server")
	f.BoolVar(&b.Target.Direct, "direct-tls", false, "direct TLS instead of STARTTLS")
	f.StringVar(&b.ca, "ca", "", "PEM `file` of the authority of the server's certificate")
	f.BoolVar(&b.insecure, "insecure", false, "accept any certificate")
	f.StringVar(&b.Target.Mechanism, "mechanism", "SCRAM-SHA-1", "SASL `mechanism`: SCRAM-SHA-1 or SCRAM-SHA-256")
	f.IntVar(&b.users, "users", 200, "`number` of users; with federation, on each side half of them")
	f.StringVar(&b.userFile, "user-file", "", "`file` with the accounts")
	f.StringVar(&b.peerUserFile, "peer-user-file", "", "`file` with the recipients' accounts, for federation")
	f.StringVar(&b.make, "make", "", "make the accounts: register (in-band registration) or admin (the admin socket of --config)")
	f.IntVar(&b.Idle, "idle", 0, "`number` of further users who are logged in and silent")
	f.IntVar(&b.Window, "window", 1, "`number` of stanzas in flight for each pair, or logins at a time")
	f.Float64Var(&b.Rate, "rate", 0, "at most so `many` messages a second for each pair; 0 for no limit, with fairness for 50")
	f.IntVar(&b.Size, "size", 242, "`bytes` of a stanza as it is sent")
	f.IntVar(&b.Messages, "messages", 100, "offline, archive: `number` of messages for each recipient; archive has whole pages of 50")
	f.DurationVar(&b.Duration, "duration", 10*time.Second, "`time` that is measured")
	f.DurationVar(&b.WarmUp, "warm-up", 2*time.Second, "`time` before that")
	f.BoolVar(&b.SM, "sm", false, "turn on stream management with resumption (XEP-0198)")
	f.BoolVar(&b.Carbons, "carbons", false, "turn on message carbons (XEP-0280)")
	f.BoolVar(&b.Fan, "fan", false, "relay: from one user to all others, as presence")
	f.StringVar(&b.Flood, "flood", "", "fairness, relay: what goes on beside the first two users: session (one writes to another as fast as it "+
		"can), federation (the other is at --peer-server) or presence (one changes presence whenever all others have seen the last change)")
	f.Float64Var(&b.FloodRate, "flood-rate", 0, "so `many` messages, or changes of presence, a second in the flood; 0 for as fast as it goes")
	cmd.AddCommand(relayCommand())
	return cmd
}

func compareReports(cmd *cobra.Command, before, after string) error {
	a, err := bench.ReadReport(before)
	if err != nil {
		return err
	}
	b, err := bench.ReadReport(after)
	if err != nil {
		return err
	}
	return bench.Compare(cmd.OutOrStdout(), a, b)
}

// bench prepares accounts, or the relay, runs a scenario and prints its results. What was lost makes
// it fail after that.
func (a *app) bench(cmd *cobra.Command, b *benchRun) (err error) {
	if err := b.check(); err != nil {
		return err
	}
	// All servers exchange keys in the same way, though some know a newer one that costs more and keeps more memory.
	trust := &tls.Config{InsecureSkipVerify: b.insecure, MinVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.X25519}}
	if b.ca != "" {
		pem, err := os.ReadFile(b.ca)
		if err != nil {
			return err
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s has no certificate in PEM", b.ca)
		}
	}
	b.Target.TLS, b.Peer.TLS = trust, trust
	b.Peer.Direct, b.Peer.Mechanism = b.Target.Direct, b.Target.Mechanism
	if e, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(e.Fd())) {
		b.Progress = e
	}

	if b.Flood == "session" || b.Flood == "federation" {
		b.users = 4 // all others would only watch
	}
	ctx := cmd.Context()
	if b.Scenario == "relay" {
		stop, err := b.startRelay(ctx)
		if err != nil {
			return err
		}
		defer stop()
	} else {
		remove, err := a.benchAccounts(cmd, b)
		defer func() { err = errors.Join(err, remove()) }()
		if err != nil {
			return err
		}
	}
	results, err := bench.Run(ctx, b.Config)
	if err != nil {
		return err
	}
	if a.output == "json" {
		err = printJSON(cmd, bench.NewReport(results))
	} else {
		for _, r := range results {
			err = errors.Join(err, r.Text(cmd.OutOrStdout()))
		}
	}
	for _, r := range results {
		if !r.Faultless() {
			err = errors.Join(err, fmt.Errorf("%s: %d lost, %d doubled, %d reordered, %d errors", r.Scenario, r.Lost, r.Doubled, r.Reordered, r.Errors))
		}
	}
	return err
}

// check finds flags that make no sense.
func (b *benchRun) check() error {
	switch {
	case b.users < 2:
		return usagef("--users must be 2 at least")
	case b.Window < 1 || b.Messages < 1:
		return usagef("--window and --messages must be 1 at least")
	case b.Size < 0 || b.Size > 1<<16:
		return usagef("--size must be at most %d", 1<<16)
	case b.Scenario == "archive" && b.Size > 4096:
		return usagef("--size must be at most 4096 for archive: servers bound the bytes of a page, too")
	case b.Rate < 0 || b.Rate > 1e5 || b.FloodRate < 0:
		return usagef("--rate must be at most 100000, and neither it nor --flood-rate less than 0")
	case b.Idle < 0:
		return usagef("--idle must be 0 at least")
	case !slices.Contains([]string{"", "session", "presence", "federation"}, b.Flood):
		return usagef("--flood is session, presence or federation, not %q", b.Flood)
	case b.Scenario == "fairness" && b.Flood == "":
		return usagef("fairness needs --flood")
	case b.Flood != "" && (b.Scenario != "fairness" && b.Scenario != "relay" || b.Fan):
		return usagef("--flood is for fairness, and for relay without --fan")
	case b.Flood == "federation" && b.Scenario == "relay":
		return usagef("the relay has no peer: compare with --flood session")
	case b.FloodRate > 0 && b.Flood == "":
		return usagef("--flood-rate needs --flood")
	case b.Flood != "" && b.users < 4:
		return usagef("--users must be 4 at least with --flood: two of them are the quiet pair")
	case b.Duration <= 0 || b.WarmUp < 0:
		return usagef("--duration must be more than nothing, and --warm-up not less")
	case !slices.Contains([]string{"SCRAM-SHA-1", "SCRAM-SHA-256"}, b.Target.Mechanism):
		return usagef("--mechanism is SCRAM-SHA-1 or SCRAM-SHA-256, not %q", b.Target.Mechanism)
	case !slices.Contains([]string{"", "register", "admin"}, b.make):
		return usagef("--make is register or admin, not %q", b.make)
	case b.federates() && (b.Peer.Address == "" || b.Peer.Domain == ""):
		return usagef("federation needs --peer-server and --peer-domain")
	case b.federates() && b.make == "" && b.peerUserFile == "":
		return usagef("federation needs --peer-user-file, or --make")
	case b.federates() && b.make == "admin":
		return usagef("--make admin knows one server only; make the accounts of both before")
	case b.Scenario != "relay" && b.make == "" && b.userFile == "":
		return usagef("there are no accounts: give --user-file, or --make")
	}
	return nil
}

// federates says whether there are recipients at another server.
func (b *benchRun) federates() bool { return b.Scenario == "federation" || b.Flood == "federation" }

// benchAccounts reads the accounts, or makes them. What it returns removes those that nobody can use
// afterwards.
func (a *app) benchAccounts(cmd *cobra.Command, b *benchRun) (remove func() error, err error) {
	remove = func() error { return nil }
	sides := []struct {
		*bench.Target
		file  string
		users int
	}{{&b.Target, b.userFile, b.users}}
	if b.federates() {
		recipients := 1
		if b.Scenario == "federation" {
			recipients = b.users / 2
			sides[0].users = recipients
		}
		sides = append(sides, sides[0])
		sides[1].Target, sides[1].file, sides[1].users = &b.Peer, b.peerUserFile, recipients
	}
	sides[0].users += b.Idle
	for _, side := range sides {
		if b.make == "" {
			if side.Accounts, err = readUserFile(side.file, side.users); err != nil {
				return remove, err
			}
			continue
		}
		undo, err := a.makeAccounts(cmd, b, side.Target, side.file, side.users)
		others := remove
		remove = func() error { return errors.Join(undo(), others()) }
		if err != nil {
			return remove, err
		}
	}
	return remove, nil
}

// readUserFile reads the first n accounts of a file.
func readUserFile(file string, n int) ([]*bench.Account, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var accounts []*bench.Account
	for line := range strings.Lines(string(text)) {
		name, password, ok := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case name == "":
			continue
		case !ok:
			return nil, fmt.Errorf("%s: a line is a name, a space and a password, not %q", file, name)
		}
		if name, _, _ = strings.Cut(name, "@"); len(accounts) < n {
			accounts = append(accounts, &bench.Account{Name: name, Password: password})
		}
	}
	if len(accounts) < n {
		return nil, fmt.Errorf("%s has %d accounts; --users wants %d", file, len(accounts), n)
	}
	return accounts, nil
}

// makeAccounts makes accounts, and writes them to a new file if there is a name for it.
func (a *app) makeAccounts(cmd *cobra.Command, b *benchRun, t *bench.Target, file string, n int) (undo func() error, err error) {
	undo = func() error { return nil }
	add, drop := t.Register, t.Unregister
	if b.make == "admin" {
		_, server, err := a.dial(cmd)
		if err != nil {
			return undo, err
		}
		undo = server.Close
		call := func(verb string) func(context.Context, *bench.Account) error {
			return func(ctx context.Context, who *bench.Account) error {
				id, err := jid.Parse(who.Name + "@" + t.Domain)
				if err != nil {
					return err
				}
				return server.Call(ctx, verb, c2s.UserRequest{Account: id, Password: who.Password}, nil)
			}
		}
		add, drop = call("user.add"), call("user.delete")
	}
	var keep io.Writer
	if file != "" {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return undo, err
		}
		keep = f
		closeServer := undo
		undo = func() error { return errors.Join(f.Close(), closeServer()) }
	} else {
		closeServer := undo
		undo = func() error {
			// The context of the command may have ended: that is when there is most to remove.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), time.Minute)
			defer cancel()
			var failed error
			for _, who := range t.Accounts {
				if failed = drop(ctx, who); failed != nil {
					break
				}
			}
			return errors.Join(failed, closeServer())
		}
	}
	series := strings.ToLower(rand.Text()[:6]) // nobody's account is taken for one of ours
	for i := range n {
		who := &bench.Account{Name: fmt.Sprintf("bench-%s-%d", series, i), Password: rand.Text()}
		if err := add(cmd.Context(), who); err != nil {
			return undo, err
		}
		t.Accounts = append(t.Accounts, who)
		if keep != nil {
			if _, err := fmt.Fprintf(keep, "%s %s\n", who.Name, who.Password); err != nil {
				return undo, err
			}
		}
	}
	return undo, nil
}

// startRelay runs the relay in a process of its own.
func (b *benchRun) startRelay(ctx context.Context) (stop func(), err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	child := exec.CommandContext(ctx, program, "bench", "relay-server")
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start the relay: %w", err)
	}
	stop = func() {
		cancel()
		_ = child.Wait() // it was killed
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return nil, fmt.Errorf("start the relay: %w", err)
	}
	b.Target.Address, b.Target.Direct, b.Target.PID = strings.TrimSpace(address), true, child.Process.Pid
	b.Target.TLS = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} // our own child on loopback
	for range b.users + b.Idle {
		b.Target.Accounts = append(b.Target.Accounts, new(bench.Account))
	}
	return stop, nil
}

// relayCommand is the other process of the scenario relay.
func relayCommand() *cobra.Command {
	return &cobra.Command{
		Use: "relay-server", Hidden: true, Args: cobra.NoArgs, Short: "Copy bytes between TLS connections",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), l.Addr())
			return bench.Relay(cmd.Context(), l)
		},
	}
}
