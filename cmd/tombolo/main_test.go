package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tombolo/cmd/tombolo/internal/lab"
	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/storage"
	"tombolo/storage/bolt"
	"tombolo/xmpp"
	"tombolo/xmpp/xep"
)

var update = flag.Bool("update", false, "write the generated parts of the documentation")

// A result is how a command line ended.
type result struct {
	code     int
	out, err string
}

func run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	code := execute(ctx, args, strings.NewReader(stdin), &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

func (r result) want(t *testing.T, code int, out, err string) result {
	t.Helper()
	if r.code != code || !strings.Contains(r.out, out) || !strings.Contains(r.err, err) {
		t.Errorf("exit code %d, standard output:\n%s\nstandard error:\n%s\nwant %d, %q, %q", r.code, r.out, r.err, code, out, err)
	}
	return r
}

// site makes a directory with a configuration for a.test on free ports, and returns the file's name.
func newSite(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tbl") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	authority, err := lab.NewAuthority("test", "a.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue("a.test", filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "tombolo.toml")
	text := `[[domain]]
name = "a.test"
certificate = "a.crt"
key = "a.key"
[listen]
client = ["127.0.0.1:0"]
client_tls = []
server = []
server_tls = []
http = []
[auth]
iterations = 4096
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// serveSite runs a server until the test ends or stop is called, which returns what serve did.
func serveSite(t *testing.T, file string) (stop func() result) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var out, errOut bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, []string{"--config", file, "serve"}, strings.NewReader(""), &out, &errOut)
	}()
	var last *result
	stop = func() result {
		cancel()
		if last == nil {
			select {
			case code := <-ended:
				last = &result{code, out.String(), errOut.String()}
			case <-time.After(20 * time.Second):
				t.Fatal("serve does not end")
			}
		}
		return *last
	}
	t.Cleanup(func() { stop() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if run(t, "", "--config", file, "status").code == 0 {
			return stop
		}
		select {
		case code := <-ended:
			ended <- code
			t.Fatalf("serve ended: %+v", stop())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not answer")
		}
	}
}

// TestUsage: what cannot be carried out as it stands exits with 2, and what fails with 1.
func TestUsage(t *testing.T) {
	file := newSite(t)
	for _, row := range []struct {
		code int
		err  string
		args []string
	}{
		{0, "", []string{"--help"}},
		{0, "", []string{"user"}},
		{0, "", []string{"version"}},
		{2, `unknown command "bogus"`, []string{"bogus"}},
		{2, `unknown command "bogus"`, []string{"user", "bogus"}},
		{2, "unknown flag: --bogus", []string{"status", "--bogus"}},
		{2, "accepts 1 arg(s), received 0", []string{"user", "add"}},
		{2, "--output is text or json", []string{"status", "--output", "xml"}},
		{2, `"a.test" is not an account`, []string{"--config", file, "user", "show", "a.test"}},
		{2, "malformed", []string{"--config", file, "roster", "list", "a@@a.test"}},
		{1, "no server is running", []string{"--config", file, "status"}},
		{1, "no server is running", []string{"--config", file, "reload"}},
		{1, "no server is running", []string{"--config", file, "session", "list"}},
		{1, "no such file", []string{"--config", file + ".none", "status"}},
	} {
		t.Run(strings.Join(row.args[max(0, len(row.args)-2):], " "), func(t *testing.T) {
			run(t, "", row.args...).want(t, row.code, "", row.err)
		})
	}
}

func TestConfigPlaces(t *testing.T) {
	file := newSite(t)
	t.Chdir(filepath.Dir(file))
	run(t, "", "config", "check").want(t, 0, "tombolo.toml: no mistakes", "")
	t.Chdir(t.TempDir())
	run(t, "", "config", "check").want(t, 1, "", "there is no configuration")
	run(t, "", "config", "check", file).want(t, 0, file+": no mistakes", "")
	t.Setenv("TOMBOLO_CONFIG", file)
	run(t, "", "config", "check").want(t, 0, file+": no mistakes", "")
	run(t, "", "--config", "other.toml", "config", "check").want(t, 1, "", "other.toml")
}

func TestConfigShow(t *testing.T) {
	file := newSite(t)
	run(t, "", "--config", file, "config", "show").want(t, 0, "name = \"a.test\"", "").want(t, 0, "# "+file+":2", "")
	var values []settings.Value
	if err := json.Unmarshal([]byte(run(t, "", "--config", file, "config", "show", "--output", "json").out), &values); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if v.Key == "listen.client" && v.Source != file+":6" {
			t.Errorf("listen.client is said to come from %s", v.Source)
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	file := newSite(t)
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("iteration = 7\n[log]\nlevel = 3\n"); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	r := run(t, "", "--config", file, "serve").want(t, 1, "", "2 mistakes in the configuration:\n")
	r.want(t, 1, "", file+":13:1: there is no auth.iteration; did you mean iterations?")
	r.want(t, 1, "", file+":15:9: log.level is a number here; write level = \"...\"")
}

// TestReadingInJSON: every command that reads has --output json, those without a server too.
func TestReadingInJSON(t *testing.T) {
	file := newSite(t)
	var v struct{ Version string }
	if r := run(t, "", "version", "--output", "json"); r.code != 0 || json.Unmarshal([]byte(r.out), &v) != nil || v.Version != version() {
		t.Errorf("%+v", r)
	}
	check := func(code int) (problems settings.Problems) {
		t.Helper()
		r := run(t, "", "config", "check", file, "--output", "json")
		if err := json.Unmarshal([]byte(r.out), &problems); r.code != code || problems == nil || err != nil {
			t.Errorf("%+v: %v, %v", r, problems, err)
		}
		return problems
	}
	if got := check(0); len(got) != 0 {
		t.Errorf("no mistakes: %v", got)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(good, "[federation]\npolicy = \"partners\"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := check(0); len(got) != 1 || !got[0].Warning || got[0].Line != 14 {
		t.Errorf("a warning: %v", got)
	}
	if err := os.WriteFile(file, append(good, "[log]\nlevle = 1\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := check(1); len(got) != 1 || got[0].Warning || got[0].File != file || got[0].Line != 14 || got[0].Column != 1 {
		t.Errorf("a mistake: %v", got)
	}
}

// TestUsers runs the same commands without and with a running server.
func TestUsers(t *testing.T) {
	for name, running := range map[string]bool{"without a server": false, "with a server": true} {
		t.Run(name, func(t *testing.T) {
			file := newSite(t)
			if running {
				serveSite(t, file)
			}
			tombolo := func(stdin string, args ...string) result {
				t.Helper()
				return run(t, stdin, append([]string{"--config", file}, args...)...)
			}
			tombolo("", "user", "list").want(t, 0, "no accounts", "")
			tombolo("secret\n", "user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
			tombolo("secret\n", "user", "add", "--password-stdin", "juliet@a.test").want(t, 1, "", "tombolo: user add: create account juliet@a.test: already exists\n")
			tombolo("secret\n", "user", "add", "--password-stdin", "juliet@b.test").want(t, 1, "", "b.test")
			tombolo("\n", "user", "add", "--password-stdin", "romeo@a.test").want(t, 1, "", "no password")
			tombolo("secret", "user", "add", "--password-stdin", "romeo@a.test").want(t, 0, "", "")
			tombolo("", "user", "list").want(t, 0, "romeo@a.test", "")
			tombolo("", "user", "show", "juliet@a.test").want(t, 0, "SCRAM-SHA-256", "")
			tombolo("new\n", "user", "passwd", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
			tombolo("", "user", "disable", "juliet@a.test").want(t, 0, "", "")
			tombolo("", "user", "list").want(t, 0, "disabled", "")
			tombolo("", "user", "enable", "juliet@a.test").want(t, 0, "", "")
			tombolo("", "user", "show", "nurse@a.test").want(t, 1, "", "tombolo: user show: get account nurse@a.test: not found\n")
			tombolo("", "roster", "add", "juliet@a.test", "nurse@a.test", "--name", "Nurse\x1b[2J", "--group", "Home").want(t, 0, "", "")
			list := tombolo("", "roster", "list", "juliet@a.test").want(t, 0, "nurse@a.test", "")
			list.want(t, 0, "Home", "")
			if strings.Contains(list.out, "\x1b") {
				t.Error("a contact's name reaches the terminal with control characters")
			}
			var contacts []map[string]any
			if err := json.Unmarshal([]byte(tombolo("", "roster", "list", "juliet@a.test", "--output", "json").out), &contacts); err != nil || len(contacts) != 1 {
				t.Errorf("contacts in JSON: %v, %v", contacts, err)
			}
			tombolo("", "roster", "remove", "juliet@a.test", "nurse@a.test").want(t, 0, "", "")
			tombolo("", "roster", "list", "juliet@a.test").want(t, 0, "no contacts", "")
			tombolo("", "user", "delete", "--yes", "juliet@a.test").want(t, 0, "", "")
			tombolo("", "user", "show", "juliet@a.test").want(t, 1, "", "juliet@a.test")
		})
	}
}

// TestMissingDatabase: a data_dir that is wrong is told, and only an account that is added makes a
// database there.
func TestMissingDatabase(t *testing.T) {
	file := newSite(t)
	data := filepath.Join(filepath.Dir(file), "data")
	scratch := t.TempDir()
	t.Setenv("TMPDIR", scratch)
	const missing = "there is no database "
	for _, row := range []struct {
		code int
		args []string
	}{
		{0, []string{"user", "list"}},
		{1, []string{"user", "show", "juliet@a.test"}},
		{1, []string{"user", "delete", "--yes", "juliet@a.test"}},
		{1, []string{"roster", "list", "juliet@a.test"}},
		{1, []string{"roster", "add", "juliet@a.test", "romeo@a.test"}},
		{0, []string{"archive", "stats"}},
		{1, []string{"federation", "check", "a.test"}},
		{1, []string{"backup", filepath.Join(filepath.Dir(file), "backup.db")}},
	} {
		run(t, "", append([]string{"--config", file}, row.args...)...).want(t, row.code, "", missing+filepath.Join(data, "tombolo.db"))
		if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 3 {
			t.Fatalf("%s left %v, %v", row.args, entries, err)
		}
		if entries, err := os.ReadDir(scratch); err != nil || len(entries) != 0 {
			t.Fatalf("%s left %v, %v", row.args, entries, err)
		}
	}
	run(t, "secret", "--config", file, "user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", missing+filepath.Join(data, "tombolo.db")+", which is made now")
	if r := run(t, "", "--config", file, "user", "list").want(t, 0, "juliet@a.test", ""); r.err != "" {
		t.Errorf("with a database: %s", r.err)
	}
}

func TestServe(t *testing.T) {
	file := newSite(t)
	run(t, "secret", "--config", file, "user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
	stop := serveSite(t, file)
	var status xmpp.Status
	if err := json.Unmarshal([]byte(run(t, "", "--config", file, "status", "--output", "json").out), &status); err != nil {
		t.Fatal(err)
	}
	login(t, file, status.Listeners["client"][0], "juliet", "secret")
	run(t, "", "--config", file, "session", "list").want(t, 0, "juliet@a.test/", "")
	run(t, "", "--config", file, "status").want(t, 0, "1, of which 0 wait for their clients", "")
	run(t, "", "--config", file, "status").want(t, 0, "commit times", "")
	run(t, "", "--config", file, "session", "kick", "juliet@a.test").want(t, 0, "1 session ended\n", "")
	run(t, "", "--config", file, "session", "list").want(t, 0, "nobody is logged in", "")
	run(t, "", "--config", file, "federation", "list").want(t, 0, "no streams", "")
	run(t, "", "--config", file, "reload").want(t, 0, "reloaded", "")

	// A mistake in the file neither ends the server nor keeps the operator away from it.
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(good, "[log]\nlevle = 1\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "--config", file, "reload").want(t, 1, "", "did you mean level?")
	run(t, "", "--config", file, "status").want(t, 0, "a.test", "did you mean level?")
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}

	// While it runs nobody else gets at the store.
	began := time.Now()
	run(t, "", "--config", file, "serve").want(t, 1, "", "in use by another process")
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("a second server was refused after %v, want a second or so", d)
	}
	if r := stop(); r.code != 0 {
		t.Errorf("serve ended with %d:\n%s", r.code, r.err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(file), "data", "admin.sock")); err == nil {
		t.Error("the admin socket is still there")
	}
}

// login logs in once as a user of a.test; the connection ends with the test.
func login(t *testing.T, file, address, user, password string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	leaf, err := certificate(filepath.Join(filepath.Dir(file), "a.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := (&lab.Authority{Certificate: leaf}).Pool()
	c, err := lab.Login(ctx, lab.Account{JID: user + "@a.test", Password: password, Address: address, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
}

func TestBackupAndRestore(t *testing.T) {
	file := newSite(t)
	backup := filepath.Join(filepath.Dir(file), "backup.db")
	run(t, "secret", "--config", file, "user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
	stop := serveSite(t, file)
	run(t, "", "--config", file, "backup", backup).want(t, 0, "bytes, checked", "")
	run(t, "", "--config", file, "backup", backup).want(t, 1, "", "exists; choose another name")
	run(t, "", "--config", file, "backup", "--force", backup).want(t, 0, "checked", "")
	if err := bolt.Verify(backup); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup has mode %v, %v", info.Mode(), err)
	}
	run(t, "secret", "--config", file, "user", "add", "--password-stdin", "romeo@a.test").want(t, 0, "", "")
	run(t, "", "--config", file, "restore", backup).want(t, 1, "", "a server is running; stop it first")
	stop()
	run(t, "", "--config", file, "user", "list").want(t, 0, "romeo@a.test", "")
	run(t, "", "--config", file, "restore", backup).want(t, 0, "the one before is ", "")
	list := run(t, "", "--config", file, "user", "list").want(t, 0, "juliet@a.test", "")
	if strings.Contains(list.out, "romeo") {
		t.Error("an account made after the backup is still there")
	}
	if err := os.WriteFile(backup, []byte("no store"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "--config", file, "restore", backup).want(t, 1, "", "restore: ")
	run(t, "", "--config", file, "user", "list").want(t, 0, "juliet@a.test", "")
}

// TestCopyOverOwnFiles: no copy takes the place of a file that the server has, with --force or
// without, under its own name or another one.
func TestCopyOverOwnFiles(t *testing.T) {
	file := newSite(t)
	dir := filepath.Dir(file)
	data := filepath.Join(dir, "data")
	run(t, "secret", "--config", file, "user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink(filepath.Join(data, "tombolo.db"), link); err != nil {
		t.Fatal(err)
	}
	stop := serveSite(t, file)
	for _, target := range []string{
		filepath.Join(data, "tombolo.db"), link, filepath.Join(data, "tombolo.db.v1"), filepath.Join(data, "tokens.key"),
		filepath.Join(data, "admin.sock"), filepath.Join(data, "audit.log"), filepath.Join(data, "audit.log.state"),
		filepath.Join(data, "audit.key"), file, filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key"),
	} {
		before, _ := os.Lstat(target)
		for _, command := range [][]string{{"backup"}, {"audit", "export"}} {
			args := append([]string{"--config", file}, command...)
			r := run(t, "", append(args, "--force", target)...).want(t, 1, "", "belongs to the server's own file")
			if strings.Contains(r.err, "--force") {
				t.Errorf("the way out that is offered is --force:\n%s", r.err)
			}
			if after, _ := os.Lstat(target); (before == nil) != (after == nil) || before != nil && !os.SameFile(before, after) {
				t.Errorf("%s replaced %s", command, target)
			}
		}
	}
	run(t, "secret", "--config", file, "user", "add", "--password-stdin", "romeo@a.test").want(t, 0, "", "")
	stop()
	run(t, "", "--config", file, "user", "list").want(t, 0, "romeo@a.test", "")
	run(t, "", "--config", file, "backup", "--force", filepath.Join(data, "tombolo.db")).want(t, 1, "", "belongs to the server's own file")
}

// TestRestoreOverDamage: a damaged database can be replaced, which is when one needs it most.
func TestRestoreOverDamage(t *testing.T) {
	file := newSite(t)
	backup := filepath.Join(filepath.Dir(file), "backup.db")
	run(t, "secret", "--config", file, "user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
	run(t, "", "--config", file, "backup", backup).want(t, 0, "checked", "")
	store := filepath.Join(filepath.Dir(file), "data", "tombolo.db")
	if err := os.WriteFile(store, []byte(strings.Repeat("damage", 10000)), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "--config", file, "user", "list").want(t, 1, "", "tombolo.db")
	run(t, "", "--config", file, "restore", backup).want(t, 0, "is now the database", "")
	run(t, "", "--config", file, "user", "list").want(t, 0, "juliet@a.test", "")
}

// TestRestoreTwice: what a restore replaced is kept, however many follow in the same second.
func TestRestoreTwice(t *testing.T) {
	file := newSite(t)
	database := filepath.Join(filepath.Dir(file), "data", "tombolo.db")
	copies := make([]string, 3) // with one, two and three accounts
	for i := range copies {
		copies[i] = filepath.Join(filepath.Dir(file), fmt.Sprintf("backup%d.db", i))
		run(t, "secret", "--config", file, "user", "add", "--password-stdin", fmt.Sprintf("juliet%d@a.test", i)).want(t, 0, "", "")
		run(t, "", "--config", file, "backup", copies[i]).want(t, 0, "checked", "")
	}
	var kept []string
	moment := time.Now()
	for _, backup := range copies {
		name, err := restore(backup, database, moment)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, name)
	}
	// The first took the place of the database with all three accounts, each other that of the one before.
	for i, want := range []int{3, 1, 2} {
		if got := accountsIn(t, kept[i]); got != want {
			t.Errorf("the database that restore %d replaced has %d accounts, want %d", i, got, want)
		}
	}
}

func accountsIn(t *testing.T, database string) (n int) {
	t.Helper()
	store, err := bolt.Open(database, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	err = store.View(func(tx storage.Tx) error {
		for _, err := range tx.Accounts().All("") {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDocs holds what is generated in the documentation in step with the program.
func TestDocs(t *testing.T) {
	var configuration bytes.Buffer
	if err := settings.Manual(&configuration); err != nil {
		t.Fatal(err)
	}
	document(t, "../../docs/configuration.md", configuration.Bytes())
	commands, err := cliReference()
	if err != nil {
		t.Fatal(err)
	}
	document(t, "../../docs/commands.md", commands)

	file, _, err := settings.Load(newSite(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := xmpp.New(file.Config, xmpp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var table bytes.Buffer
	if err := xep.WriteTable(&table, s.Features()); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- specifications: made from the features, do not edit -->\n", "<!-- end of specifications -->\n"
	before, rest, ok1 := strings.Cut(string(readme), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("README.md has no %q and %q", begin, end)
	}
	document(t, "../../README.md", []byte(before+begin+table.String()+end+after))
}

func document(t *testing.T, name string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the program says (%v); run: go test ./cmd/tombolo -run TestDocs -update", filepath.Base(name), err)
	}
}

func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	run(t, "", "man", dir).want(t, 0, "manual pages written", "")
	page, err := os.ReadFile(filepath.Join(dir, "tombolo-user-add.1"))
	if err != nil || !strings.Contains(string(page), "password\\-stdin") && !strings.Contains(string(page), "password-stdin") {
		t.Errorf("tombolo-user-add(1): %v\n%s", err, page)
	}
}

func TestCompletion(t *testing.T) {
	run(t, "", "completion", "bash").want(t, 0, "tombolo", "")
	run(t, "", "__complete", "user", "").want(t, 0, "passwd", "")
}
