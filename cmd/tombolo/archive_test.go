package main

import (
	"encoding/json"
	"testing"
	"time"

	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/storage"
	"tombolo/storage/bolt"
	"tombolo/xmpp/archive"
	"tombolo/xmpp/jid"
)

// TestArchiveCommands works without a running server, on its database.
func TestArchiveCommands(t *testing.T) {
	file := newSite(t)
	tombolo := func(args ...string) result { return run(t, "secret", append([]string{"--config", file}, args...)...) }
	tombolo("user", "add", "--password-stdin", "juliet@a.test").want(t, 0, "", "")
	tombolo("archive", "stats").want(t, 0, "juliet@a.test  0         -       -       365d      always", "")
	tombolo("archive", "show", "juliet@a.test").want(t, 0, "no messages", "")

	store, err := bolt.Open(databaseOf(t, file), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	owner := jid.MustParse("juliet@a.test")
	for i, body := range []string{"old", "new"} {
		m := storage.Message{At: time.Now().Add(-time.Duration(48-47*i) * time.Hour),
			Stanza:   "<message from='romeo@b.test/x' to='juliet@a.test' type='chat'><body>" + body + "</body></message>",
			Archived: []storage.Archived{{Owner: owner, ID: uint64(i + 1), With: jid.MustParse("romeo@b.test/x")}}}
		ticket := store.Submit(func(tx storage.Tx) error { return tx.Messages().Add(m) })
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}

	tombolo("archive", "show", "juliet@a.test").want(t, 0, "romeo@b.test/x  juliet@a.test  old", "")
	var messages []archive.Message
	out := tombolo("archive", "show", "juliet@a.test", "--since", "24h", "--with", "romeo@b.test", "--output", "json").want(t, 0, "", "").out
	if err := json.Unmarshal([]byte(out), &messages); err != nil || len(messages) != 1 || messages[0].Body != "new" {
		t.Errorf("%v, %+v in %s", err, messages, out)
	}
	tombolo("archive", "show", "juliet@a.test", "--until", "24h", "--limit", "1").want(t, 0, "old", "")
	tombolo("archive", "show", "juliet@a.test", "--with", "nurse@b.test").want(t, 0, "no messages", "")
	tombolo("archive", "show", "juliet@a.test", "--until", "tomorrow").want(t, 2, "", "--until")
	tombolo("archive", "show", "nobody@a.test").want(t, 1, "", "not found")
	// Who reads what others wrote leaves a trace.
	tombolo("audit", "show", "--event", "admin").want(t, 0, "verb=archive.read with=romeo@b.test", "")

	tombolo("archive", "retain", "juliet@a.test", "30d").want(t, 0, "", "")
	tombolo("archive", "stats", "juliet@a.test").want(t, 0, "30d (own)", "")
	tombolo("archive", "retain", "juliet@a.test", "off").want(t, 0, "", "")
	tombolo("archive", "stats", "juliet@a.test").want(t, 0, "off (own)", "")
	tombolo("archive", "retain", "juliet@a.test", "default").want(t, 0, "", "")
	tombolo("archive", "stats", "juliet@a.test").want(t, 0, "365d", "")
	tombolo("archive", "retain", "juliet@a.test", "soon").want(t, 2, "", "is not a time")

	tombolo("archive", "purge", "juliet@a.test", "--yes").want(t, 2, "", "--before TIME or --all")
	tombolo("archive", "purge", "juliet@a.test", "--all").want(t, 2, "", "say --yes")
	tombolo("archive", "purge", "juliet@a.test", "--before", "24h", "--yes").want(t, 0, "1 message removed", "")
	tombolo("archive", "purge", "juliet@a.test", "--all", "--yes").want(t, 0, "1 message removed", "")
	tombolo("archive", "stats", "juliet@a.test").want(t, 0, "juliet@a.test  0 ", "")
}

func databaseOf(t *testing.T, file string) string {
	t.Helper()
	f, _, err := settings.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return f.Database()
}
