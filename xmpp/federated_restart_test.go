package xmpp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"tombolo/storage/bolt"
	"tombolo/xmpp"
	"tombolo/xmpp/jid"
)

// processVar makes this test binary a server; it names the file with its configuration.
const processVar = "TOMBOLO_TEST_SERVER"

func TestMain(m *testing.M) {
	file, ok := os.LookupEnv(processVar)
	if !ok {
		os.Exit(m.Run())
	}
	if err := serveProcess(file); err != nil {
		fmt.Fprintln(os.Stderr, "level=ERROR", err)
		os.Exit(1)
	}
}

// serveProcess is a server in a process of its own. It writes a line when it listens, and ends by SIGTERM
// or with the test.
func serveProcess(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	cfg := xmpp.Defaults()
	if err := toml.Unmarshal(text, &cfg); err != nil {
		return err
	}
	for i := range cfg.Federation.Partner {
		cfg.Federation.Partner[i].Authentication = "certificate"
	}
	host, _, err := net.SplitHostPort(cfg.Listen.Server[0])
	if err != nil {
		return err
	}
	server, err := xmpp.New(cfg, xmpp.Options{Version: "test", LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))})
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

// A process is a server that can be killed.
type process struct {
	domain         string
	dir            string
	client, direct string
	server         string
	way            *cutter // to server, for other servers
	log            logs
	cmd            *exec.Cmd
	ended          chan struct{}
}

// newProcess finds addresses for the server of a domain.
func newProcess(t *testing.T, domain, address string) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "fed") // for a Unix socket, whose path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ports := freePorts(t, address, 3)
	p := &process{domain: domain, dir: dir, client: net.JoinHostPort(address, ports[0]),
		direct: net.JoinHostPort(address, ports[1]), server: net.JoinHostPort(address, ports[2])}
	p.way = newCutter(t, address, p.server)
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill(syscall.SIGKILL)
		}
		p.log.judge(t, domain)
	})
	return p
}

// configure writes the configuration, and makes the accounts.
func (p *process) configure(t *testing.T, l *lab, partner *process, devices []*device) {
	t.Helper()
	cert, key, err := l.certificate(p.domain)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`data_dir = %q
auth.plain = true
limits.exempt = ["127.0.0.0/8"]
[listen]
client = [%q]
client_tls = [%q]
server = [%q]
server_tls = []
admin = "admin.sock"
[federation]
ca_file = %q
policy = "partners"
queue = "64MB"
[[federation.partner]]
domain = %q
address = %q
[[domain]]
name = %q
certificate = %q
key = %q
`, p.dir, p.client, p.direct, p.server, l.caFile(), partner.domain, partner.way.Addr(), p.domain, cert, key)
	if err := os.WriteFile(p.file(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &host{}
	if h.store, err = bolt.Open((&xmpp.Config{DataDir: p.dir}).Database(), bolt.Options{}); err != nil {
		t.Fatal(err)
	}
	defer h.store.Close()
	for _, d := range devices {
		if j := jid.MustParse(d.name); j.Domain() == p.domain {
			if err := h.addAccount(j.Bare().String(), "secret"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (p *process) file() string { return filepath.Join(p.dir, "tombolo.toml") }

// start returns when the server listens.
func (p *process) start(t *testing.T) {
	t.Helper()
	p.cmd, p.ended = exec.Command(os.Args[0]), make(chan struct{})
	p.cmd.Env = append(os.Environ(), processVar+"="+p.file())
	p.cmd.Stderr = &p.log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = p.cmd.StdinPipe(); err != nil { // it ends with this process
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(childPatience, func() { _ = p.cmd.Process.Kill() })
	defer stop.Stop()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	cmd, ended := p.cmd, p.ended
	go func() { _ = cmd.Wait(); close(ended) }()
	if err != nil {
		t.Fatalf("%s does not start: %q, %v", p.domain, line, err)
	}
}

// kill ends the process.
func (p *process) kill(signal syscall.Signal) {
	_ = p.cmd.Process.Signal(signal)
	select {
	case <-p.ended:
	case <-time.After(childPatience):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	p.cmd = nil
}

// TestFederatedServersAreKilled has users of two servers write to each other while one server, the
// other or both are killed, and started again, and the connections between them are cut: whatever dies, between the
// two nothing is lost, doubled or put into another order. TOMBOLO_KILLS says how often, ten times unless it does.
func TestFederatedServersAreKilled(t *testing.T) {
	kills := 10
	if n, err := strconv.Atoi(os.Getenv("TOMBOLO_KILLS")); err == nil {
		kills = n
	}
	const (
		users    = 4
		underWay = 10000 // messages at most, or a slow machine would have more of them to deliver at the end than it has time for
	)
	seed := rand.Uint64()
	chance := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	l := newLab(t)
	north, south := newProcess(t, "north.test", "127.0.14.1"), newProcess(t, "south.test", "127.0.14.2")
	var devices []*device
	for i := range users {
		for _, p := range []*process{north, south} {
			devices = append(devices, &device{name: fmt.Sprintf("user%d@%s/x", i, p.domain), config: l.clientTLS(p.domain),
				starttls: p.client, direct: p.direct, next: make(map[string]int), last: make(map[string]int)})
		}
	}
	north.configure(t, l, south, devices)
	south.configure(t, l, north, devices)
	north.start(t)
	south.start(t)

	ctx, end := context.WithTimeout(t.Context(), time.Duration(kills)*10*time.Second+time.Minute)
	defer end()
	var lives, writers sync.WaitGroup
	for _, d := range devices {
		lives.Go(func() { d.live(ctx) })
	}
	defer lives.Wait()
	defer end()
	for _, d := range devices {
		until(t, d.name+" is there", func() bool { return d.bound.Load() || d.err() != nil })
	}
	sums := func() (sent, arrived int) {
		for _, d := range devices {
			s, a := d.sums()
			sent, arrived = sent+s, arrived+a
		}
		return sent, arrived
	}
	still := make(chan struct{})
	for i, d := range devices {
		writers.Go(func() {
			for {
				select {
				case <-still:
					return
				case <-time.After(time.Duration(rand.IntN(8000)) * time.Microsecond):
					if sent, arrived := sums(); sent-arrived >= underWay {
						continue
					}
					d.write(devices[(i+1+2*rand.IntN(users))%len(devices)].name) // of the other domain
				}
			}
		})
	}
	failure := func() error {
		for _, d := range devices {
			if err := d.err(); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
		}
		return nil
	}
	for _, d := range devices { // who was never reached has nothing to resume: what is for him is returned
		until(t, d.name+" hears from the other domain", func() bool {
			_, arrived := d.sums()
			return arrived > 0 || d.err() != nil
		})
	}
	killed, cuts, down := 0, 0, time.Duration(0)
	for ; killed < kills && failure() == nil; killed++ {
		for range 3 {
			time.Sleep(time.Duration(100+chance.IntN(300)) * time.Millisecond) // of traffic
			if way := []*cutter{north.way, south.way}[chance.IntN(2)]; way.cut() {
				cuts++
			}
		}
		victims, signal := []*process{north, south}, syscall.SIGKILL
		if only := chance.IntN(5); only < 4 { // now and then both
			victims = victims[only/2 : only/2+1]
		}
		if killed%5 == 4 {
			signal = syscall.SIGTERM
		}
		at := time.Now()
		for _, victim := range victims {
			victim.kill(signal)
		}
		time.Sleep(time.Duration(chance.IntN(300)) * time.Millisecond)
		for _, victim := range victims {
			victim.start(t)
		}
		down += time.Since(at)
	}
	close(still)
	writers.Wait()
	sent, arrived := 0, 0
	complete := func() bool {
		sent, arrived = sums()
		return sent == arrived || failure() != nil
	}
	settled, cancel := context.WithTimeout(ctx, childPatience)
	defer cancel()
	for !complete() && pause(settled) == nil {
	}
	if err := failure(); err != nil {
		t.Error(err)
	}
	resumed, delayed := 0, 0
	for _, d := range devices {
		resumed += int(d.resumed.Load())
		d.mu.Lock()
		delayed += d.delayed
		if sent != arrived {
			t.Logf("%s wrote %v and saw %v", d.name, d.next, d.last)
		}
		d.mu.Unlock()
	}
	again := strings.Count(north.log.String()+south.log.String(), "what another server may have got is sent again")
	t.Logf("%d messages sent, %d arrived in order; %d kills, %v without one server, %d cuts; %d resumptions by clients; %d messages late, %d times sent again",
		sent, arrived, killed, down.Round(time.Millisecond), cuts, resumed, delayed, again)
	if sent != arrived {
		t.Error("something was lost")
	}
	if again > 0 {
		t.Error("the servers have lost a session")
	}
}
