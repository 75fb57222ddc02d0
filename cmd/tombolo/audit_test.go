package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tombolo/xmpp"
	"tombolo/xmpp/audit"
)

// TestAudit runs commands without and with a server, looks at what the log says of them, and changes it.
func TestAudit(t *testing.T) {
	file := newSite(t)
	tombolo := func(stdin string, args ...string) result {
		t.Helper()
		return run(t, stdin, append([]string{"--config", file}, args...)...)
	}
	secrets := []string{"FirstSecret", "SecondSecret"}
	tombolo("", "audit", "verify").want(t, 1, "", "key of the audit log")
	tombolo(secrets[0], "user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
	stop := serveSite(t, file)
	var status xmpp.Status
	if err := json.Unmarshal([]byte(tombolo("", "status", "--output", "json").out), &status); err != nil {
		t.Fatal(err)
	}
	login(t, file, status.Listeners["client"][0], "juliet", secrets[0])
	tombolo(secrets[1], "user", "passwd", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
	tombolo("", "audit", "verify").want(t, 0, "anchor: ", "") // while it runs
	backup := filepath.Join(filepath.Dir(file), "backup.db")
	tombolo("", "backup", backup).want(t, 0, "", "")
	stop()
	tombolo("", "restore", backup).want(t, 0, "", "")

	shown := tombolo("", "audit", "show").want(t, 0, "account-created", "")
	user := audit.User(os.Getuid())
	for _, words := range []string{
		"admin juliet@a.test " + user + " verb=user.add",
		"account-created juliet@a.test " + user,
		"server-started " + user,
		"login juliet@a.test 127.0.0.1",
		"admin-done juliet@a.test " + user + " admin socket verb=user.passwd",
		"password-changed juliet@a.test " + user + " admin socket",
		"admin-done " + user + " admin socket verb=server.backup",
		"server-stopped",
		"admin-done " + user + " verb=server.restore",
	} {
		if !hasLine(shown.out, strings.Fields(words)) {
			t.Errorf("no line has %q", words)
		}
	}
	if t.Failed() {
		t.Log(shown.out)
	}
	var records []struct {
		audit.Record
		Genuine bool
	}
	filtered := tombolo("", "audit", "show", "--output", "json", "--account", "Juliet@a.test", "--event", "login,password-changed", "--since", "1h")
	if err := json.Unmarshal([]byte(filtered.out), &records); err != nil || len(records) != 2 || !records[0].Genuine || records[0].Detail["mechanism"] == "" {
		t.Errorf("%v: %s", err, filtered.out)
	}
	tombolo("", "audit", "show", "--since", time.Now().Add(time.Hour).Format(time.RFC3339)).want(t, 0, "no records", "")
	tombolo("", "audit", "show", "--since", "yesterday").want(t, 2, "", "neither a time")
	tombolo("", "audit", "show", "--event", "logins").want(t, 2, "", "there is no event")
	tombolo("", "audit", "show", "--account", "a@@b").want(t, 2, "", "--account")

	data := filepath.Join(filepath.Dir(file), "data")
	log := filepath.Join(data, "audit.log")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("the log holds the password %s", secret)
		}
	}
	export := filepath.Join(filepath.Dir(file), "export.jsonl")
	tombolo("", "audit", "export", export).want(t, 0, "records", "")
	tombolo("", "audit", "export", export).want(t, 1, "", "exists; choose another name")
	tombolo("", "audit", "export", "--force", export).want(t, 0, "records", "")
	if copied, err := os.ReadFile(export); err != nil || !bytes.Equal(copied, text) || tombolo("", "audit", "export", "-").out != string(text) {
		t.Errorf("the export is not the log: %v", err)
	}
	tombolo("", "audit", "verify", export).want(t, 0, "note: records that may follow", "")
	run(t, "", "audit", "verify", export, "--key", filepath.Join(data, "audit.key")).want(t, 0, "anchor: ", "")

	var report audit.Report
	if err := json.Unmarshal([]byte(tombolo("", "audit", "verify", "--output", "json").out), &report); err != nil || report.Problems != nil || report.Records == 0 {
		t.Fatalf("%v: %+v", err, report)
	}
	tombolo("", "audit", "verify", "--anchor", report.Anchor).want(t, 0, "", "")
	tombolo("", "audit", "verify", "--anchor", "999"+report.Anchor).want(t, 1, "wrong: ", "not as the server wrote it")

	if err := os.WriteFile(log, bytes.Replace(text, []byte("password-changed"), []byte("login"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	tombolo("", "audit", "verify").want(t, 1, "was changed", "not as the server wrote it")
	tombolo("", "audit", "show").want(t, 0, "!", "see tombolo audit verify")
	tombolo("", "audit", "export", "-").want(t, 1, "\"mac\"", "not as the server wrote it")
}

// hasLine says whether a line of text has all the words.
func hasLine(text string, words []string) bool {
	for line := range strings.Lines(text) {
		fields := " " + strings.Join(strings.Fields(line), " ")
		all := true
		for _, w := range words {
			all = all && strings.Contains(fields, " "+w)
		}
		if all {
			return true
		}
	}
	return false
}

// TestAuditWithoutItsKey: a server that could not continue its log does not start.
func TestAuditWithoutItsKey(t *testing.T) {
	file := newSite(t)
	run(t, "secret", "--config", file, "user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
	if err := os.Remove(filepath.Join(filepath.Dir(file), "data", "audit.key")); err != nil {
		t.Fatal(err)
	}
	run(t, "", "--config", file, "serve").want(t, 1, "", "audit log: its key")
}
