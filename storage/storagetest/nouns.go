package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

func account(j jid.JID) storage.Account {
	return storage.Account{
		JID:     j,
		Created: time.Date(2024, 2, 29, 12, 0, 0, 987654321, time.UTC),
		Credentials: []storage.Credential{
			{Mechanism: "SCRAM-SHA-1", Salt: []byte{1, 0, 2}, Iterations: 10000, StoredKey: []byte("s1"), ServerKey: []byte("k1")},
			{Mechanism: "SCRAM-SHA-256", Salt: []byte{255}, Iterations: 1 << 20, StoredKey: []byte("s2"), ServerKey: []byte("k2")},
		},
	}
}

// client is one with all there is.
func client(id string) storage.Client {
	return storage.Client{
		ID: id, Software: "Gajim", Device: "Juliet's phone",
		FirstSeen: time.Date(2024, 2, 29, 12, 0, 0, 1, time.UTC),
		LastSeen:  time.Date(2024, 2, 29, 13, 0, 0, 2, time.UTC),
		Mechanism: "HT-SHA-256-EXPR", Address: "127.0.0.1", Password: true, Generation: 1 << 63,
		Current: storage.Token{
			Sealed: []byte{0, 1, 255}, Mechanism: "HT-SHA-256-EXPR", Expiry: time.Date(2024, 3, 29, 12, 0, 0, 3, time.UTC),
		},
		New: storage.Token{
			Sealed: []byte{2}, Mechanism: "HT-SHA-256-NONE", Expiry: time.Date(2024, 4, 29, 12, 0, 0, 4, time.UTC),
		},
	}
}

// everything is how many rows fill makes, as func rows counts them.
const everything = 15

// fill gives an account, new or not, a row in every noun, and changes a secret.
func fill(tx storage.Tx, j jid.JID) error {
	if _, err := tx.Accounts().Get(j); err != nil {
		if err := tx.Accounts().Create(account(j)); err != nil {
			return err
		}
	}
	if err := write(tx, j); err != nil {
		return err
	}
	return tx.Secrets().Put("key", []byte("of "+j.String()))
}

// write gives an owner rows in every noun but the account itself.
func write(tx storage.Tx, j jid.JID) error {
	if err := tx.Clients().Put(j, client("phone")); err != nil {
		return err
	}
	for _, contact := range []jid.JID{nurse, romeo} {
		if err := tx.Rosters().Put(j, storage.RosterItem{Contact: contact, Name: "N", To: true}, 7); err != nil {
			return err
		}
	}
	for _, text := range []string{"one", "two"} {
		if err := tx.Messages().Add(waits(j, text, 0)); err != nil {
			return err
		}
	}
	if err := tx.LastPresence().Put(j, "<presence type='unavailable'/>", time.Unix(1, 0)); err != nil {
		return err
	}
	if err := tx.Blocklists().Add(j, romeo, nurse); err != nil {
		return err
	}
	last, err := tx.Archive().LastID()
	if err != nil {
		return err
	}
	for id := last + 1; id <= last+2; id++ {
		m := archived(fmt.Sprint("archived ", id), storage.Archived{Owner: j, ID: id, With: romeo})
		m.Offline = j
		if err := tx.Messages().Add(m); err != nil {
			return err
		}
	}
	for _, documents := range []storage.Documents{tx.Private(), tx.VCards(), tx.Settings()} {
		for _, key := range []string{"", "key"} {
			if err := documents.Put(j, key, "<x xmlns='"+key+"'/>", 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// rows is what every noun keeps for an owner, as text.
func rows(t *testing.T, s storage.Store, owner jid.JID) []string {
	t.Helper()
	var list []string
	add := func(what string, v any) { list = append(list, fmt.Sprintf("%s %s: %+v", owner, what, v)) }
	view(t, s, func(tx storage.Tx) error {
		if a, err := tx.Accounts().Get(owner); err == nil {
			add("account", a)
		}
		clients, err := tx.Clients().All(owner)
		if err != nil {
			return err
		}
		if len(clients) > 0 {
			add("clients", clients)
		}
		roster, err := tx.Rosters().Get(owner)
		if err != nil {
			return err
		}
		if roster.Version != 0 || len(roster.Items) > 0 {
			add("roster", roster)
		}
		messages, err := tx.Offline().List(owner, 0, 0)
		if err != nil {
			return err
		}
		if len(messages) > 0 {
			add("offline", messages)
		}
		count, err := tx.Offline().Count(owner)
		if err != nil {
			return err
		}
		if count > 0 {
			add("count", count)
		}
		page, err := tx.Archive().Page(owner, storage.ArchiveQuery{})
		if err != nil {
			return err
		}
		if page.Count != 0 {
			add("archive", page)
		}
		stats, err := tx.Archive().Stats(owner)
		if err != nil {
			return err
		}
		if stats.Messages != 0 {
			add("archive", stats)
		}
		if stanza, at, err := tx.LastPresence().Get(owner); err == nil {
			add("last presence", stanza+at.String())
		}
		blocked, err := tx.Blocklists().Get(owner)
		if err != nil {
			return err
		}
		if len(blocked) > 0 {
			add("blocklist", blocked)
		}
		for what, documents := range []storage.Documents{tx.Private(), tx.VCards(), tx.Settings()} {
			for _, key := range []string{"", "key"} {
				if xml, err := documents.Get(owner, key); err == nil {
					add(fmt.Sprint("document ", what, key), xml)
				}
			}
		}
		return nil
	})
	return list
}

// dump is the rows of everybody in this suite, and what belongs to nobody.
func dump(t *testing.T, s storage.Store) []string {
	t.Helper()
	var list []string
	for _, j := range append([]jid.JID{juliet}, neighbours...) {
		list = append(list, rows(t, s, j)...)
	}
	view(t, s, func(tx storage.Tx) error {
		if secret, err := tx.Secrets().Get("key"); err == nil {
			list = append(list, "secret: "+string(secret))
		}
		peers, err := tx.Peers().All()
		for _, peer := range peers {
			waiting, err := tx.Peers().Waiting(peer.ID)
			if err != nil {
				return err
			}
			list = append(list, fmt.Sprintf("peer: %+v %+v", peer, waiting))
		}
		return err
	})
	return list
}

func testAccounts(t *testing.T, s storage.Store) {
	want := account(juliet)
	wantErr(t, "Update", try(t, s, func(tx storage.Tx) error { return tx.Accounts().Update(want) }), storage.ErrNotFound)
	wantErr(t, "Delete", try(t, s, func(tx storage.Tx) error { return tx.Accounts().Delete(juliet) }), storage.ErrNotFound)
	wantErr(t, "Get", s.View(func(tx storage.Tx) error { _, err := tx.Accounts().Get(juliet); return err }), storage.ErrNotFound)

	get := func() (a storage.Account) {
		view(t, s, func(tx storage.Tx) (err error) { a, err = tx.Accounts().Get(juliet); return err })
		return a
	}
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Create(want) })
	equal(t, "created", get(), want)
	wantErr(t, "Create again", try(t, s, func(tx storage.Tx) error { return tx.Accounts().Create(want) }), storage.ErrExists)

	want.Disabled = true
	want.Credentials = want.Credentials[:1]
	want.Created = time.Time{}
	want.Generation = 1<<64 - 1
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Update(want) })
	equal(t, "updated", get(), want)

	want.Credentials = nil
	want.Created = time.Date(2024, 1, 1, 2, 0, 0, 0, time.FixedZone("", 7200))
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Update(want) })
	want.Created = want.Created.UTC()
	equal(t, "updated, without credentials", get(), want)

	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Delete(juliet) })
	wantErr(t, "Get", s.View(func(tx storage.Tx) error { _, err := tx.Accounts().Get(juliet); return err }), storage.ErrNotFound)
}

func testAccountsInOrder(t *testing.T, s storage.Store) {
	list := func(domain string) (got []string) {
		view(t, s, func(tx storage.Tx) error {
			for a, err := range tx.Accounts().All(domain) {
				if err != nil {
					return err
				}
				got = append(got, a.JID.String())
			}
			return nil
		})
		return got
	}
	equal(t, "none", list(""), []string(nil))

	// In JID order: domain, then local part. "-" sorts below "@", and "." below "a".
	want := []string{
		"z@a.example", "a@a.example.org", "a@aa.example", "a@bücher.example", "a@capulet.example",
		"julie@capulet.example", "juliet@capulet.example", "juliet-2@capulet.example",
		"juliet2@capulet.example", "ὀδυσσεύς@capulet.example",
	}
	for _, j := range slices.Backward(want) {
		do(t, s, func(tx storage.Tx) error { return tx.Accounts().Create(account(jid.MustParse(j))) })
	}
	byBytes := slices.Clone(want)
	slices.SortFunc(byBytes, func(a, b string) int {
		x, y := jid.MustParse(a), jid.MustParse(b)
		if c := strings.Compare(x.Domain(), y.Domain()); c != 0 {
			return c
		}
		return strings.Compare(x.Local(), y.Local())
	})
	equal(t, "all", list(""), byBytes)
	equal(t, "a.example", list("a.example"), []string{"z@a.example"})
	equal(t, "bücher.example", list("bücher.example"), []string{"a@bücher.example"})
	equal(t, "unknown domain", list("a"), []string(nil))
	equal(t, "capulet.example", len(list("capulet.example")), 6)

	view(t, s, func(tx storage.Tx) error {
		n := 0
		for range tx.Accounts().All("") {
			if n++; n == 2 {
				break
			}
		}
		equal(t, "accounts before break", n, 2)
		return nil
	})
}

// testAccountsChangedWhileIterating changes and deletes accounts as All yields them: those that
// were durable before, and those that the same operation made.
func testAccountsChangedWhileIterating(t *testing.T, s storage.Store) {
	const n = 50
	create := func(tx storage.Tx) error {
		for i := range n {
			if err := tx.Accounts().Create(account(jid.MustParse(fmt.Sprintf("user%02d@capulet.example", i)))); err != nil {
				return err
			}
		}
		return nil
	}
	seen := 0
	change := func(tx storage.Tx) error {
		seen = 0
		for a, err := range tx.Accounts().All("capulet.example") {
			if err != nil {
				return err
			}
			seen++
			if seen%2 == 0 {
				err = tx.Accounts().Delete(a.JID)
			} else {
				a.Disabled = true
				err = tx.Accounts().Update(a)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	check := func() {
		t.Helper()
		equal(t, "accounts seen", seen, n)
		left := 0
		view(t, s, func(tx storage.Tx) error {
			for a := range tx.Accounts().All("") {
				left++
				if !a.Disabled {
					t.Errorf("%s was not updated", a.JID)
				}
			}
			return nil
		})
		equal(t, "accounts left", left, n/2)
	}
	do(t, s, create)
	do(t, s, change)
	check()
	do(t, s, func(tx storage.Tx) error {
		for a := range tx.Accounts().All("") {
			if err := tx.Accounts().Delete(a.JID); err != nil {
				return err
			}
		}
		return errors.Join(create(tx), change(tx))
	})
	check()
}

func testDeleteAccountRemovesAll(t *testing.T, s storage.Store) {
	for _, j := range neighbours {
		do(t, s, func(tx storage.Tx) error { return fill(tx, j) })
	}
	before := dump(t, s)
	do(t, s, func(tx storage.Tx) error { return write(tx, juliet) })
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Create(account(juliet)) })
	do(t, s, func(tx storage.Tx) error { return write(tx, juliet) })
	if len(rows(t, s, juliet)) != everything {
		t.Fatalf("juliet's rows: %q", rows(t, s, juliet))
	}
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Delete(juliet) })
	equal(t, "rows of others", dump(t, s), before)
}

func testCreateAccountInheritsNothing(t *testing.T, s storage.Store) {
	do(t, s, func(tx storage.Tx) error { return fill(tx, nurse) })
	want := dump(t, s)
	do(t, s, func(tx storage.Tx) error { return write(tx, juliet) }) // late, for a deleted account
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Create(account(juliet)) })
	equal(t, "rows of the new account", len(rows(t, s, juliet)), 1)
	do(t, s, func(tx storage.Tx) error { return tx.Accounts().Delete(juliet) })
	equal(t, "rows of others", dump(t, s), want)
}

func testClients(t *testing.T, s storage.Store) {
	get := func(id string) (c storage.Client, err error) {
		err = s.View(func(tx storage.Tx) (err error) { c, err = tx.Clients().Get(juliet, id); return err })
		return c, err
	}
	all := func(owner jid.JID) (ids []string) {
		view(t, s, func(tx storage.Tx) error {
			clients, err := tx.Clients().All(owner)
			for _, c := range clients {
				ids = append(ids, c.ID)
				one, err := tx.Clients().Get(owner, c.ID)
				equal(t, "in All and alone", c, one)
				if err != nil {
					return err
				}
			}
			return err
		})
		return ids
	}
	put := func(c storage.Client) error {
		return try(t, s, func(tx storage.Tx) error { return tx.Clients().Put(juliet, c) })
	}
	remove := func(id string) error {
		return try(t, s, func(tx storage.Tx) error { return tx.Clients().Delete(juliet, id) })
	}
	_, err := get("phone")
	wantErr(t, "Get", err, storage.ErrNotFound)
	_, err = get("")
	wantErr(t, "Get of no name", err, storage.ErrNotFound)
	wantErr(t, "Delete", remove("phone"), storage.ErrNotFound)
	wantErr(t, "Delete of no name", remove(""), storage.ErrNotFound)
	equal(t, "none", all(juliet), []string(nil))

	want := client("phone")
	wantErr(t, "Put", put(want), nil)
	got, err := get("phone")
	equal(t, "put", got, want)
	wantErr(t, "Get", err, nil)

	want = storage.Client{ID: "phone"}
	empty := storage.Client{ID: "phone", Current: storage.Token{Sealed: []byte{}}}
	empty.FirstSeen = time.Time{}.In(time.FixedZone("", 3600))
	wantErr(t, "Put", put(empty), nil)
	got, err = get("phone")
	equal(t, "replaced", got, want)
	wantErr(t, "Get", err, nil)

	for _, id := range []string{"z", "phone\x00", "phon", "phone2", "Phone", "\xff"} {
		wantErr(t, "Put", put(client(id)), nil)
	}
	do(t, s, func(tx storage.Tx) error { return tx.Clients().Put(juliet2, client("phone3")) })
	equal(t, "in order", all(juliet), []string{"Phone", "phon", "phone", "phone\x00", "phone2", "z", "\xff"})
	wantErr(t, "Delete", remove("phone"), nil)
	wantErr(t, "Delete again", remove("phone"), storage.ErrNotFound)
	equal(t, "after Delete", all(juliet), []string{"Phone", "phon", "phone\x00", "phone2", "z", "\xff"})
	equal(t, "of another", all(juliet2), []string{"phone3"})

	wantErr(t, "no name", put(client("")), storage.ErrFull)
	wantErr(t, "long name", put(client(strings.Repeat("n", storage.MaxKey+1))), storage.ErrFull)
	wantErr(t, "longest name", put(client(strings.Repeat("n", storage.MaxKey))), nil)
}

func testRosters(t *testing.T, s storage.Store) {
	get := func() (r storage.Roster) {
		view(t, s, func(tx storage.Tx) (err error) { r, err = tx.Rosters().Get(juliet); return err })
		return r
	}
	equal(t, "roster of nobody", get(), storage.Roster{})
	item := storage.RosterItem{
		Contact: romeo, Name: "Roméo \x00 & <co>", Groups: []string{"Friends", "", "Feinde"},
		Listed: true, To: true, From: false, Ask: true, Approved: true,
		PendingIn: "<presence from='romeo@montague.example' type='subscribe'/>",
	}
	do(t, s, func(tx storage.Tx) error { return tx.Rosters().Put(juliet, item, 41) })
	equal(t, "put", get(), storage.Roster{Version: 41, Items: []storage.RosterItem{item}})

	item = storage.RosterItem{Contact: romeo, From: true}
	do(t, s, func(tx storage.Tx) error { return tx.Rosters().Put(juliet, item, 1<<63) })
	equal(t, "replaced", get(), storage.Roster{Version: 1 << 63, Items: []storage.RosterItem{item}})

	err := try(t, s, func(tx storage.Tx) error { return tx.Rosters().Delete(juliet, nurse, 50) })
	wantErr(t, "Delete of no contact", err, storage.ErrNotFound)
	equal(t, "version after that", get().Version, uint64(1<<63))

	// Versions are the caller's: one that falls is kept as given.
	do(t, s, func(tx storage.Tx) error { return tx.Rosters().Delete(juliet, romeo, 42) })
	got := get()
	equal(t, "version after Delete", got.Version, uint64(42))
	equal(t, "items after Delete", len(got.Items), 0)
}

func testRosterInOrder(t *testing.T, s storage.Store) {
	want := []string{
		"capulet.example", "julie@capulet.example", "juliet@capulet.example",
		"juliet@capulet.example/balcony", "juliet@capulet.example/balcony 2",
		"juliet-2@capulet.example", "juliet@capulet.example.org",
		"romeo@montague.example", "ὀδυσσεύς@ithaki.example",
	}
	slices.SortFunc(want, func(a, b string) int {
		x, y := jid.MustParse(a), jid.MustParse(b)
		return slices.Compare(
			[]string{x.Domain(), x.Local(), x.Resource()},
			[]string{y.Domain(), y.Local(), y.Resource()})
	})
	for _, contact := range slices.Backward(want) {
		do(t, s, func(tx storage.Tx) error {
			return tx.Rosters().Put(nurse, storage.RosterItem{Contact: jid.MustParse(contact)}, 1)
		})
	}
	var got []string
	view(t, s, func(tx storage.Tx) error {
		roster, err := tx.Rosters().Get(nurse)
		for _, item := range roster.Items {
			got = append(got, item.Contact.String())
		}
		return err
	})
	equal(t, "contacts", got, want)
}

func testOffline(t *testing.T, s storage.Store) {
	for i := range 10 {
		for _, owner := range []jid.JID{juliet, juliet2} {
			do(t, s, func(tx storage.Tx) error { return tx.Messages().Add(waits(owner, fmt.Sprint(i), 0)) })
		}
	}
	var numbers []uint64
	view(t, s, func(tx storage.Tx) error {
		messages, err := tx.Offline().List(juliet, 0, 0)
		for _, m := range messages {
			numbers = append(numbers, m.Number)
		}
		return err
	})
	equal(t, "messages", len(numbers), 10)
	list := func(after uint64, limit int) (got []string) {
		view(t, s, func(tx storage.Tx) error {
			messages, err := tx.Offline().List(juliet, after, limit)
			for _, m := range messages {
				got = append(got, strings.Trim(m.Stanza, "</>abdegmosy"))
				if !m.Received.Equal(waits(juliet, "", 0).At) || m.Received.Location() != time.UTC {
					t.Errorf("received %v", m.Received)
				}
				if !slices.Contains(numbers, m.Number) {
					t.Errorf("number %d is new", m.Number)
				}
			}
			return err
		})
		return got
	}
	count := func() (n int) {
		view(t, s, func(tx storage.Tx) (err error) { n, err = tx.Offline().Count(juliet); return err })
		return n
	}
	equal(t, "all", list(0, 0), strings.Split("0123456789", ""))
	equal(t, "first three", list(0, 3), strings.Split("012", ""))
	equal(t, "next three", list(numbers[2], 3), strings.Split("345", ""))
	equal(t, "rest", list(numbers[7], 100), strings.Split("89", ""))
	equal(t, "beyond", list(numbers[9], 0), []string(nil))
	equal(t, "far beyond", list(1<<64-1, 0), []string(nil))
	equal(t, "count", count(), 10)

	do(t, s, func(tx storage.Tx) error { return tx.Offline().Delete(juliet, numbers[3]) })
	equal(t, "after Delete", list(0, 0), strings.Split("456789", ""))
	equal(t, "count", count(), 6)
	do(t, s, func(tx storage.Tx) error { return tx.Offline().Delete(juliet, numbers[3]) })
	equal(t, "count after Delete of nothing", count(), 6)
	do(t, s, func(tx storage.Tx) error { return tx.Offline().Delete(juliet, 1<<64-1) })
	equal(t, "after Delete of all", list(0, 0), []string(nil))
	equal(t, "count", count(), 0)
	equal(t, "messages of another", len(texts(t, s, juliet2)), 10)
}

func testOfflineFull(t *testing.T, s storage.Store) {
	add := func(max int) error {
		return try(t, s, func(tx storage.Tx) error {
			return tx.Messages().Add(waits(juliet, "m", max))
		})
	}
	for i := range 3 {
		if err := add(3); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	wantErr(t, "fourth of three", add(3), storage.ErrFull)
	wantErr(t, "after the limit fell", add(1), storage.ErrFull)
	if err := add(0); err != nil {
		t.Errorf("without limit: %v", err)
	}
	equal(t, "messages", len(texts(t, s, juliet)), 4)
	do(t, s, func(tx storage.Tx) error { return tx.Offline().Delete(juliet, 1<<63) })
	if err := add(3); err != nil {
		t.Errorf("after Delete: %v", err)
	}
}

// testOfflineNumbers: a number is used once in a store, also after the message is gone.
func testOfflineNumbers(t *testing.T, s storage.Store) {
	var last uint64
	for i := range 20 {
		owner := []jid.JID{juliet, nurse}[i%2]
		var n uint64
		do(t, s, func(tx storage.Tx) (err error) {
			if err := tx.Messages().Add(waits(owner, "m", 0)); err != nil {
				return err
			}
			list, err := tx.Offline().List(owner, 0, 0)
			if err != nil || len(list) != 1 {
				return fmt.Errorf("%d messages, %w", len(list), err)
			}
			n = list[0].Number
			return tx.Offline().Delete(owner, n)
		})
		if n <= last {
			t.Fatalf("number %d after %d", n, last)
		}
		last = n
	}
}

func testLastPresence(t *testing.T, s storage.Store) {
	get := func() (stanza string, at time.Time, err error) {
		err = s.View(func(tx storage.Tx) error {
			stanza, at, err = tx.LastPresence().Get(juliet)
			return err
		})
		return stanza, at, err
	}
	_, _, err := get()
	wantErr(t, "Get", err, storage.ErrNotFound)
	at := time.Date(2024, 2, 29, 12, 0, 0, 5, time.FixedZone("", 3600))
	for _, want := range []string{"<presence type='unavailable'/>", ""} {
		do(t, s, func(tx storage.Tx) error { return tx.LastPresence().Put(juliet, want, at) })
		stanza, kept, err := get()
		if stanza != want || kept != at.UTC() || err != nil {
			t.Errorf("got %q at %v, %v", stanza, kept, err)
		}
		at = at.Add(time.Hour)
	}
}

func testBlocklists(t *testing.T, s storage.Store) {
	get := func(owner jid.JID) (list []string) {
		view(t, s, func(tx storage.Tx) error {
			blocked, err := tx.Blocklists().Get(owner)
			for _, j := range blocked {
				list = append(list, j.String())
			}
			return err
		})
		return list
	}
	phone := jid.MustParse("romeo@montague.example/phone")
	server := jid.MustParse("montague.example")
	wall := jid.MustParse("montague.example/wall")
	equal(t, "none", get(juliet), []string(nil))
	do(t, s, func(tx storage.Tx) error { return tx.Blocklists().Add(juliet, phone, romeo, wall) })
	do(t, s, func(tx storage.Tx) error { return tx.Blocklists().Add(juliet, server, romeo) })
	do(t, s, func(tx storage.Tx) error { return tx.Blocklists().Add(juliet2, romeo) })
	do(t, s, func(tx storage.Tx) error { return tx.Blocklists().Add(juliet) })
	equal(t, "in order", get(juliet), []string{
		"montague.example", "montague.example/wall", "romeo@montague.example", "romeo@montague.example/phone",
	})
	do(t, s, func(tx storage.Tx) error { return tx.Blocklists().Remove(juliet, wall, romeo, nurse) })
	equal(t, "after Remove", get(juliet), []string{"montague.example", "romeo@montague.example/phone"})
	do(t, s, func(tx storage.Tx) error { return tx.Blocklists().Remove(juliet) })
	equal(t, "after Remove of all", get(juliet), []string(nil))
	equal(t, "of another", get(juliet2), []string{"romeo@montague.example"})
}

func testDocuments(t *testing.T, s storage.Store, noun, other func(storage.Tx) storage.Documents) {
	get := func(key string) (xml string, err error) {
		err = s.View(func(tx storage.Tx) (err error) { xml, err = noun(tx).Get(juliet, key); return err })
		return xml, err
	}
	put := func(key, xml string, max int) error {
		return try(t, s, func(tx storage.Tx) error { return noun(tx).Put(juliet, key, xml, max) })
	}
	want := func(key, want string) {
		t.Helper()
		if xml, err := get(key); xml != want || err != nil {
			t.Errorf("document %q: %q, %v, want %q", key, xml, err, want)
		}
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	_, err := get("a")
	wantErr(t, "Get", err, storage.ErrNotFound)
	ok(put("a", "<a/>", 10))
	ok(put("a b", "<a>1</a>", 0))
	ok(put("", "<none/>", 0))
	want("a", "<a/>")
	want("a b", "<a>1</a>")
	want("", "<none/>")
	ok(put("", "", 0))
	ok(put("a b", "", 1)) // removing is never too much
	ok(put("never", "", 0))
	_, err = get("")
	wantErr(t, "Get of a removed document", err, storage.ErrNotFound)

	// The limit is for all documents of one account, in this noun.
	do(t, s, func(tx storage.Tx) error { return other(tx).Put(juliet, "a", "0123456789", 10) })
	do(t, s, func(tx storage.Tx) error { return noun(tx).Put(juliet2, "a", "0123456789", 10) })
	ok(put("b", "123456", 10))
	wantErr(t, "eleventh byte of ten", put("b", "1234567", 10), storage.ErrFull)
	wantErr(t, "another document", put("c", "1", 10), storage.ErrFull)
	want("b", "123456")
	ok(put("b", "1234567", 11))
	ok(put("b", "1", 11))
	ok(put("c", "123456", 11))

	wantErr(t, "long key", put(strings.Repeat("k", storage.MaxKey+1), "<a/>", 0), storage.ErrFull)
	long := strings.Repeat("k", storage.MaxKey)
	ok(put(long, "<a/>", 0))
	want(long, "<a/>")
}

func testSecrets(t *testing.T, s storage.Store) {
	get := func(name string) (value []byte, err error) {
		err = s.View(func(tx storage.Tx) (err error) { value, err = tx.Secrets().Get(name); return err })
		return value, err
	}
	_, err := get("dialback")
	wantErr(t, "Get", err, storage.ErrNotFound)
	for _, want := range []string{"\x00\x01\xff", "changed", ""} {
		do(t, s, func(tx storage.Tx) error { return tx.Secrets().Put("dialback", []byte(want)) })
		value, err := get("dialback")
		if string(value) != want || err != nil {
			t.Errorf("secret %q, %v, want %q", value, err, want)
		}
	}
	_, err = get("dial")
	wantErr(t, "Get of another name", err, storage.ErrNotFound)
}
