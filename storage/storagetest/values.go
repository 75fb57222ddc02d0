package storagetest

import (
	"strings"
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

func testResourceOfOwner(t *testing.T, s storage.Store) {
	balcony := jid.MustParse(juliet.String() + "/balcony")
	do(t, s, func(tx storage.Tx) error { return fill(tx, balcony) })
	view(t, s, func(tx storage.Tx) error {
		a, err := tx.Accounts().Get(balcony)
		equal(t, "account", a.JID, juliet)
		return err
	})
	bare := rows(t, s, juliet)
	equal(t, "rows", len(bare), everything)
	for i, row := range rows(t, s, balcony) {
		equal(t, "row", strings.TrimPrefix(row, balcony.String()), strings.TrimPrefix(bare[i], juliet.String()))
	}
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Delete(balcony) })
	equal(t, "rows after Delete", rows(t, s, juliet), []string(nil))
}

// testResultsAreTheCallers: changing what was given or returned changes nothing that is kept.
func testResultsAreTheCallers(t *testing.T, s storage.Store) {
	given := account(juliet)
	item := storage.RosterItem{Contact: romeo, Groups: []string{"a", "b"}}
	phone := client("phone")
	secret := []byte("secret")
	do(t, s, func(tx storage.Tx) error {
		if err := tx.Accounts().Create(given); err != nil {
			return err
		}
		if err := tx.Clients().Put(juliet, phone); err != nil {
			return err
		}
		if err := tx.Rosters().Put(juliet, item, 1); err != nil {
			return err
		}
		if err := tx.Blocklists().Add(juliet, romeo, nurse); err != nil {
			return err
		}
		return tx.Secrets().Put("key", secret)
	})
	before := dump(t, s)
	given.Credentials[0].Salt[0]++
	item.Groups[0] = "changed"
	phone.New.Sealed[0]++
	secret[0]++
	equal(t, "after the arguments changed", dump(t, s), before)
	view(t, s, func(tx storage.Tx) error {
		a, _ := tx.Accounts().Get(juliet)
		a.Credentials[0].Salt[0]++
		a.Credentials[1].Mechanism = ""
		for a := range tx.Accounts().All("") {
			a.Credentials[0].StoredKey[0]++
		}
		c, _ := tx.Clients().Get(juliet, "phone")
		c.Current.Sealed[0]++
		clients, _ := tx.Clients().All(juliet)
		clients[0].New.Sealed[0]++
		clients[0].Device = "changed"
		roster, _ := tx.Rosters().Get(juliet)
		roster.Items[0].Groups[0] = "changed"
		roster.Items[0].Name = "changed"
		blocked, _ := tx.Blocklists().Get(juliet)
		blocked[0] = odysseus
		value, _ := tx.Secrets().Get("key")
		value[0]++
		return nil
	})
	equal(t, "after the results changed", dump(t, s), before)
}

func testLargeValues(t *testing.T, s storage.Store) {
	large := strings.Repeat("Romeo, Romeo! ", 1<<17) // 1.75 MiB
	do(t, s, func(tx storage.Tx) error {
		if err := tx.Private().Put(juliet, "large", large, len(large)); err != nil {
			return err
		}
		if err := tx.Rosters().Put(juliet, storage.RosterItem{Contact: romeo, Name: large}, 1); err != nil {
			return err
		}
		return tx.Messages().Add(storage.Message{Stanza: large, Offline: juliet})
	})
	view(t, s, func(tx storage.Tx) error {
		xml, err := tx.Private().Get(juliet, "large")
		if err != nil {
			return err
		}
		roster, err := tx.Rosters().Get(juliet)
		if err != nil {
			return err
		}
		messages, err := tx.Offline().List(juliet, 0, 0)
		if err != nil {
			return err
		}
		if xml != large || roster.Items[0].Name != large || messages[0].Stanza != large {
			t.Error("a large value came back changed")
		}
		return nil
	})

	// The longest JID: three parts of 1023 bytes, of which a domain allows 253.
	label := strings.Repeat("d", 61)
	long := jid.MustParse(strings.Repeat("l", 1023) + "@" + strings.Join([]string{label, label, label, label}, ".") +
		"/" + strings.Repeat("r", 1023))
	do(t, s, func(tx storage.Tx) error {
		if err := tx.Rosters().Put(long, storage.RosterItem{Contact: long}, 1); err != nil {
			return err
		}
		return tx.Blocklists().Add(long, long)
	})
	view(t, s, func(tx storage.Tx) error {
		roster, err := tx.Rosters().Get(long)
		if err == nil && (len(roster.Items) != 1 || roster.Items[0].Contact != long) {
			t.Errorf("roster: %+v", roster)
		}
		return err
	})
}
