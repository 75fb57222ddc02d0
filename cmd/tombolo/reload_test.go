package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tombolo/cmd/tombolo/internal/lab"
	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/xmpp"
)

// TestReloadSaysWhatWaits: a reload takes over certificates with other names, and tells its own caller
// what it does not take over; config show goes by the server, not by the file.
func TestReloadSaysWhatWaits(t *testing.T) {
	file := newSite(t)
	dir := filepath.Dir(file)
	run(t, "secret", "--config", file, "user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
	if r := run(t, "", "--config", file, "config", "show").want(t, 0, "plain = false", "no server is running"); strings.Contains(r.out, "running server") {
		t.Errorf("without a server:\n%s", r.out)
	}
	serveSite(t, file)
	if r := run(t, "", "--config", file, "config", "show"); r.code != 0 || r.err != "" || strings.Contains(r.out, "running server") {
		t.Errorf("where file and server agree: %+v", r)
	}
	if r := run(t, "", "--config", file, "reload"); r.code != 0 || r.out != "reloaded\n" {
		t.Errorf("nothing has changed: %+v", r)
	}

	authority, err := lab.NewAuthority("another", "a.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue("a.test", filepath.Join(dir, "new.crt"), filepath.Join(dir, "new.key")); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("a.crt", "new.crt", "a.key", "new.key", "[auth]", "[auth]\nplain = true").Replace(string(good)) +
		"[limits]\nidle = \"7m\"\n[log]\nlevel = \"warn\"\n[federation]\npolicy = \"partners\"\n[[federation.partner]]\ndomain = \"b.test\"\n"
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "--config", file, "config", "show").want(t, 0, `policy = "open"`, "does not go by what "+file+" says of domain[0].certificate, ")
	for range 2 { // what waits goes on waiting
		if r := run(t, "", "--config", file, "reload"); r.code != 0 || r.out != "reloaded; these changes wait for a restart: auth.plain, limits.idle\n" {
			t.Errorf("%+v", r)
		}
	}

	var status xmpp.Status
	if err := json.Unmarshal([]byte(run(t, "", "--config", file, "status", "--output", "json").out), &status); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := lab.Login(ctx, lab.Account{JID: "juliet@a.test", Password: "secret", Address: status.Listeners["client"][0], Roots: authority.Pool()})
	if err != nil {
		t.Fatalf("the certificate is not the new one: %v", err)
	}
	_ = c.Close()

	show := run(t, "", "--config", file, "config", "show").want(t, 0, `policy = "partners"`, "says of auth.plain, limits.idle;")
	show.want(t, 0, "the running server, not "+file+":15", "")
	var values []settings.Value
	if err := json.Unmarshal([]byte(run(t, "", "--config", file, "config", "show", "--output", "json").out), &values); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]any)
	for _, v := range values {
		got[v.Key] = v.Value
	}
	for key, want := range map[string]any{
		"auth.plain": false, "limits.idle": "5m", "log.level": "warn", "federation.policy": "partners",
		"federation.partner[0].domain": "b.test", "domain[0].key": filepath.Join(dir, "new.key"),
	} {
		if got[key] != want {
			t.Errorf("%s is shown as %v, want %v", key, got[key], want)
		}
	}
	// A mistake in the file does not hide what the server goes by.
	if err := os.WriteFile(file, []byte(changed+"[bogus]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "--config", file, "config", "show").want(t, 0, "plain = false", "old configuration")
}
