package xmpp_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/template"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// childPatience is how long a step with a program that is not ours may take.
const childPatience = 30 * time.Second

// need finds a program that a test runs. Without it the test is skipped, but with CI=true, where
// .ci/run installs it, the test fails.
func need(t *testing.T, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil { // where Debian has what is meant for administrators
		path, err = exec.LookPath("/usr/sbin/" + program)
	}
	if err != nil {
		missing(t, program, pkg)
	}
	return path
}

// missing ends a test that lacks something.
func missing(t *testing.T, what, pkg string) {
	t.Helper()
	text := fmt.Sprintf("there is no %s here; on Debian: apt-get install %s", what, pkg)
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

// A child is a program that runs beside the test.
type child struct {
	name   string
	output logs
	ended  chan struct{}
}

// start runs a program until the end of the test, with a directory for its files as HOME and env
// besides the environment of the test. It dies with the test, whatever becomes of that: its guardian
// kills the process group when its standard input ends.
func start(t *testing.T, dir string, env []string, program string, args ...string) *child {
	t.Helper()
	guarded := []string{"-c", `{ "$@"; echo "$1 ends with status $?"; } & read -r _; kill -KILL 0`, "sh", program}
	cmd := exec.Command("/bin/sh", append(guarded, args...)...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "HOME="+dir), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c := &child{name: filepath.Base(program), ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &c.output, &c.output
	lifeline, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait() // always "killed"
		close(c.ended)
	}()
	t.Cleanup(func() {
		lifeline.Close()
		select {
		case <-c.ended:
		case <-time.After(childPatience):
			t.Errorf("%s does not end", c.name)
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", c.name, c.output.String())
		}
	})
	return c
}

// says waits until the output contains a text.
func (c *child) says(t *testing.T, text string) {
	t.Helper()
	until(t, fmt.Sprintf("%s says %q", c.name, text), func() bool { return strings.Contains(c.output.String(), text) })
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), childPatience)
	defer cancel()
	for !ok() {
		if pause(ctx) != nil {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// listens waits until somebody accepts connections.
func (c *child) listens(t *testing.T, address string) {
	t.Helper()
	until(t, c.name+" listens at "+address, func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// String is what has been written so far.
func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// freePorts are ports of an address that nobody listens on, for a child that cannot choose for itself.
func freePorts(t *testing.T, address string, n int) []string {
	t.Helper()
	var ports []string
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // only when all are chosen
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}

// fill writes a file of testdata/peers with its blanks filled in.
func fill(t *testing.T, file, name string, values any) {
	t.Helper()
	form, err := template.New(name).Option("missingkey=error").ParseFiles(filepath.Join("../testdata/peers", name))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := form.Execute(&b, values); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// home is where our own servers are in tests with others. An SRV record says "localhost" for it, which
// is known to those who ask the C library for the addresses of hosts, as ejabberd does.
const home = "127.0.0.1"

// A zone is the DNS as the servers of a test see it.
type zone struct {
	server string // host and port
	mu     sync.Mutex
	srv    map[string]dnsmessage.SRVResource
	a      map[string]dnsmessage.AResource
}

// newZone serves DNS over UDP until the end of the test.
func newZone(t *testing.T, address string) *zone {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{server: conn.LocalAddr().String(),
		srv: make(map[string]dnsmessage.SRVResource), a: make(map[string]dnsmessage.AResource)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		query := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(query)
			if err != nil {
				return
			}
			if answer, err := z.answer(query[:n]); err == nil {
				conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return z
}

// add publishes where a domain is served; service is "xmpp-server" or "xmpps-server".
func (z *zone) add(t *testing.T, service, domain, address string) {
	t.Helper()
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	target := "xmpp." + domain + "."
	if at.Addr().String() == home {
		target = "localhost."
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.srv["_"+service+"._tcp."+domain+"."] = dnsmessage.SRVResource{
		Priority: 1, Weight: 1, Port: at.Port(), Target: dnsmessage.MustNewName(target),
	}
	z.a[target] = dnsmessage.AResource{A: at.Addr().As4()}
}

// forget takes a domain out again.
func (z *zone) forget(domain string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, service := range []string{"xmpp-server", "xmpps-server"} {
		delete(z.srv, "_"+service+"._tcp."+domain+".")
	}
}

// answer answers a question. A name that is not there is one without records.
func (z *zone) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true,
	})
	name := strings.ToLower(q.Name.String())
	resource := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
	z.mu.Lock()
	srv, isService := z.srv[name]
	a, isHost := z.a[name]
	z.mu.Unlock()
	err = firstError(b.StartQuestions(), b.Question(q), b.StartAnswers())
	switch {
	case err != nil:
	case q.Type == dnsmessage.TypeSRV && isService:
		err = b.SRVResource(resource, srv)
	case q.Type == dnsmessage.TypeA && isHost:
		err = b.AResource(resource, a)
	}
	if err != nil {
		return nil, err
	}
	return b.Finish()
}
