package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// freePort is a port of 127.0.0.1 that nobody had a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func quickstartArgs(t *testing.T, dir string) []string {
	t.Helper()
	args := []string{"quickstart", "--check", "--dir", dir}
	for _, flag := range []string{"client-port", "client-tls-port", "server-port", "server-tls-port"} {
		args = append(args, fmt.Sprintf("--%s=%d", flag, freePort(t)))
	}
	return args
}

// quickstartDir is a name that is short enough for a socket below it.
func quickstartDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tbl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "quick")
}

func TestQuickstart(t *testing.T) {
	dir := quickstartDir(t)
	args := quickstartArgs(t, dir)
	first := run(t, "", args...).want(t, 0, "All is well", "")
	first.want(t, 0, "Made "+dir, "").want(t, 0, "direct TLS, TLS 1.3, SCRAM-SHA-256", "").want(t, 0, "alice subscribed to bob", "")
	for name, mode := range map[string]os.FileMode{"": 0o700, "tombolo.toml": 0o600, "server.key": 0o600, "passwords.json": 0o600, "data": 0o700} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, %v; want %v", name, info.Mode(), err, mode)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ca.key")); err == nil {
		t.Error("the CA's key was kept")
	}
	passwords, err := os.ReadFile(filepath.Join(dir, "passwords.json"))
	if err != nil {
		t.Fatal(err)
	}

	// Again: what was made is used, and the ports of the first time are in the configuration.
	second := run(t, "", args[:4]...).want(t, 0, "Using "+dir, "").want(t, 0, "All is well", "")
	if strings.Contains(second.out, "subscribed") {
		t.Error("the second time made the subscriptions again")
	}
	if again, _ := os.ReadFile(filepath.Join(dir, "passwords.json")); string(again) != string(passwords) {
		t.Error("the second time changed the passwords")
	}
	run(t, "", "--config", filepath.Join(dir, "tombolo.toml"), "config", "check").want(t, 0, "no mistakes", "")

	// A password that the check cannot prove is a failure, said as such.
	run(t, "other", "--config", filepath.Join(dir, "tombolo.toml"), "user", "passwd", "--password-stdin", "bob@localhost").want(t, 0, "", "")
	run(t, "", args[:4]...).want(t, 1, "", "the password is not the account's")
}

// TestQuickstartForeignDirectory: nothing is touched in a directory that quickstart did not make.
func TestQuickstartForeignDirectory(t *testing.T) {
	server := filepath.Dir(newSite(t)) // a configuration, but somebody else's
	run(t, "secret", "--config", filepath.Join(server, "tombolo.toml"), "user", "add", "--password-stdin", "alice@a.test").want(t, 0, "", "")
	certificates := quickstartDir(t)
	if err := os.Mkdir(certificates, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server.key", "server.crt", "ca.crt"} {
		if err := os.WriteFile(filepath.Join(certificates, name), []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{server, certificates} {
		before := snapshot(t, dir)
		run(t, "", quickstartArgs(t, dir)...).want(t, 1, "", dir+" holds files that quickstart did not make; name a new directory with --dir")
		if after := snapshot(t, dir); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	}
}

// snapshot is what a directory holds, with modes, sizes and times.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err == nil {
			fmt.Fprintln(&b, path, info.Mode(), info.Size(), info.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestQuickstartEmptyDirectory: one that the user made for it will do, with the mode that it has.
func TestQuickstartEmptyDirectory(t *testing.T) {
	dir := quickstartDir(t)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "", quickstartArgs(t, dir)...).want(t, 0, "All is well", "")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestQuickstartCannotMake: what fails leaves nothing.
func TestQuickstartCannotMake(t *testing.T) {
	parent := filepath.Dir(quickstartDir(t))
	dir := filepath.Join(parent, strings.Repeat("long", 30)) // no socket has such a name
	run(t, "", quickstartArgs(t, dir)...).want(t, 1, "", "a Unix socket may have")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "", quickstartArgs(t, dir)...).want(t, 1, "", "a Unix socket may have")
	if left := snapshot(t, parent); strings.Count(left, "\n") != 2 {
		t.Errorf("it left\n%s", left)
	}
}

func TestQuickstartTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := quickstartDir(t)
	args := quickstartArgs(t, dir)
	taken := l.Addr().(*net.TCPAddr)
	run(t, "", append(args, fmt.Sprintf("--client-port=%d", taken.Port))...).
		want(t, 1, "", taken.String()+" (clients, STARTTLS) is taken by another program; give it another port with --client-port")
	if _, err := os.Stat(dir); err == nil {
		t.Error("it made a directory all the same")
	}
}

func TestQuickstartOtherDomain(t *testing.T) {
	dir := quickstartDir(t)
	args := quickstartArgs(t, dir)
	run(t, "", append(args, "--domain", "Company.Example")...).want(t, 0, "All is well", "")
	run(t, "", append(args, "--domain", "company.example")...).want(t, 0, "All is well", "")
	run(t, "", args...).want(t, 0, "All is well", "")
	run(t, "", append(args, "--domain", "other.example")...).
		want(t, 1, "", dir+" was made for company.example; name a new directory for other.example with --dir")
	for domain, want := range map[string]string{
		"a@b": "not a domain name", "127.0.0.1": "is an IP address", "[::1]": "is an IP address",
	} {
		dir := quickstartDir(t)
		run(t, "", append(quickstartArgs(t, dir), "--domain", domain)...).want(t, 2, "", want)
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: it made a directory all the same", domain)
		}
	}
}

// TestQuickstartUnicodeDomain: addresses have U-labels (RFC 7622 section 3.2), certificates A-labels.
func TestQuickstartUnicodeDomain(t *testing.T) {
	args := append(quickstartArgs(t, quickstartDir(t)), "--domain", "münchen.test")
	run(t, "", args...).want(t, 0, "All is well", "").want(t, 0, "a certificate for münchen.test", "")
	run(t, "", args...).want(t, 0, "All is well", "")
}

func TestDemo(t *testing.T) {
	r := run(t, "", "demo").want(t, 0, "The end", "")
	r.want(t, 0, "stream from south.test, TLS 1.3", "").want(t, 0, "proved by EXTERNAL", "")
	run(t, "", "demo", "--check").want(t, 0, "demo: all is well", "")
}
