package mem

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

type accounts struct{ *txn }

func (a accounts) Get(account jid.JID) (storage.Account, error) {
	account = account.Bare()
	kept, ok := a.accounts[account]
	if !ok {
		return storage.Account{}, fmt.Errorf("get account %s: %w", account, storage.ErrNotFound)
	}
	return cloneAccount(kept), nil
}

func (a accounts) Create(account storage.Account) error {
	account = cloneAccount(account)
	if _, ok := a.accounts[account.JID]; ok {
		return fmt.Errorf("create account %s: %w", account.JID, storage.ErrExists)
	}
	if err := a.erase(account.JID); err != nil {
		return fmt.Errorf("create account %s: %w", account.JID, err)
	}
	return put(a.txn, a.accounts, account.JID, account)
}

func (a accounts) Update(account storage.Account) error {
	account = cloneAccount(account)
	if _, ok := a.accounts[account.JID]; !ok {
		return fmt.Errorf("update account %s: %w", account.JID, storage.ErrNotFound)
	}
	if err := put(a.txn, a.accounts, account.JID, account); err != nil {
		return fmt.Errorf("update account %s: %w", account.JID, err)
	}
	return nil
}

func (a accounts) Delete(account jid.JID) error {
	account = account.Bare()
	if _, ok := a.accounts[account]; !ok {
		return fmt.Errorf("delete account %s: %w", account, storage.ErrNotFound)
	}
	if err := a.erase(account); err != nil {
		return fmt.Errorf("delete account %s: %w", account, err)
	}
	return nil
}

func (a accounts) All(domain string) iter.Seq2[storage.Account, error] {
	return func(yield func(storage.Account, error) bool) {
		for _, account := range slices.SortedFunc(maps.Keys(a.accounts), compare) {
			kept, ok := a.accounts[account]
			if !ok || domain != "" && account.Domain() != domain {
				continue
			}
			if !yield(cloneAccount(kept), nil) {
				return
			}
		}
	}
}

// erase removes every row of an account.
func (tx *txn) erase(account jid.JID) error {
	for _, remove := range []func() error{
		func() error { return remove(tx, tx.accounts, account) },
		func() error { return remove(tx, tx.clients, account) },
		func() error { return remove(tx, tx.rosters, account) },
		func() error { return tx.eraseOffline(account) },
		func() error { return tx.eraseArchive(account) },
		func() error { return remove(tx, tx.presence, account) },
		func() error { return remove(tx, tx.blocked, account) },
		func() error { return remove(tx, tx.private, account) },
		func() error { return remove(tx, tx.vcards, account) },
		func() error { return remove(tx, tx.settings, account) },
	} {
		if err := remove(); err != nil {
			return err
		}
	}
	return nil
}

func cloneAccount(a storage.Account) storage.Account {
	a.JID = a.JID.Bare().Clone()
	a.Created = a.Created.UTC().Round(0)
	a.Credentials = slices.Clone(a.Credentials)
	for i := range a.Credentials {
		c := &a.Credentials[i]
		c.Salt, c.StoredKey, c.ServerKey = bytes.Clone(c.Salt), bytes.Clone(c.StoredKey), bytes.Clone(c.ServerKey)
	}
	return a
}

type clients struct{ *txn }

func (c clients) Get(owner jid.JID, id string) (storage.Client, error) {
	kept, ok := c.clients[owner.Bare()][id]
	if !ok {
		return storage.Client{}, fmt.Errorf("get client %q of %s: %w", id, owner, storage.ErrNotFound)
	}
	return cloneClient(kept), nil
}

func (c clients) Put(owner jid.JID, client storage.Client) error {
	fail := func(err error) error {
		return fmt.Errorf("put client %q of %s: %w", client.ID, owner, err)
	}
	if client.ID == "" || len(client.ID) > storage.MaxKey {
		return fail(storage.ErrFull)
	}
	rows := make(map[string]storage.Client)
	maps.Copy(rows, c.clients[owner.Bare()])
	rows[client.ID] = cloneClient(client)
	if err := put(c.txn, c.clients, owner.Bare().Clone(), rows); err != nil {
		return fail(err)
	}
	return nil
}

func (c clients) Delete(owner jid.JID, id string) error {
	fail := func(err error) error {
		return fmt.Errorf("delete client %q of %s: %w", id, owner, err)
	}
	if _, ok := c.clients[owner.Bare()][id]; !ok {
		return fail(storage.ErrNotFound)
	}
	rows := maps.Clone(c.clients[owner.Bare()])
	delete(rows, id)
	if err := put(c.txn, c.clients, owner.Bare().Clone(), rows); err != nil {
		return fail(err)
	}
	return nil
}

func (c clients) All(owner jid.JID) ([]storage.Client, error) {
	rows := c.clients[owner.Bare()]
	var list []storage.Client
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		list = append(list, cloneClient(rows[id]))
	}
	return list, nil
}

func cloneClient(c storage.Client) storage.Client {
	c.FirstSeen, c.LastSeen = c.FirstSeen.UTC().Round(0), c.LastSeen.UTC().Round(0)
	c.Current, c.New = cloneToken(c.Current), cloneToken(c.New)
	return c
}

func cloneToken(t storage.Token) storage.Token {
	t.Sealed = append([]byte(nil), t.Sealed...) // an empty one is none
	t.Expiry = t.Expiry.UTC().Round(0)
	return t
}

type rosters struct{ *txn }

func (r rosters) Get(owner jid.JID) (storage.Roster, error) {
	roster := r.rosters[owner.Bare()]
	roster.Items = slices.Clone(roster.Items)
	for i := range roster.Items {
		roster.Items[i] = cloneItem(roster.Items[i])
	}
	return roster, nil
}

func (r rosters) Put(owner jid.JID, item storage.RosterItem, version uint64) error {
	owner, item = owner.Bare().Clone(), cloneItem(item)
	roster := r.rosters[owner]
	roster.Version = version
	i, found := search(roster.Items, item.Contact)
	roster.Items = slices.Clone(roster.Items)
	if found {
		roster.Items[i] = item
	} else {
		roster.Items = slices.Insert(roster.Items, i, item)
	}
	if err := put(r.txn, r.rosters, owner, roster); err != nil {
		return fmt.Errorf("put roster item %s of %s: %w", item.Contact, owner, err)
	}
	return nil
}

func (r rosters) Delete(owner, contact jid.JID, version uint64) error {
	owner = owner.Bare().Clone()
	roster := r.rosters[owner]
	roster.Version = version
	i, found := search(roster.Items, contact)
	if !found {
		return fmt.Errorf("delete roster item %s of %s: %w", contact, owner, storage.ErrNotFound)
	}
	roster.Items = slices.Delete(slices.Clone(roster.Items), i, i+1)
	if err := put(r.txn, r.rosters, owner, roster); err != nil {
		return fmt.Errorf("delete roster item %s of %s: %w", contact, owner, err)
	}
	return nil
}

func search(items []storage.RosterItem, contact jid.JID) (int, bool) {
	return slices.BinarySearchFunc(items, contact, func(item storage.RosterItem, contact jid.JID) int {
		return compare(item.Contact, contact)
	})
}

func cloneItem(item storage.RosterItem) storage.RosterItem {
	item.Contact = item.Contact.Clone()
	item.Groups = slices.Clone(item.Groups)
	return item
}

type presence struct {
	stanza string
	at     time.Time
}

type lastPresence struct{ *txn }

func (l lastPresence) Get(owner jid.JID) (string, time.Time, error) {
	kept, ok := l.presence[owner.Bare()]
	if !ok {
		return "", time.Time{}, fmt.Errorf("get last presence of %s: %w", owner, storage.ErrNotFound)
	}
	return kept.stanza, kept.at, nil
}

func (l lastPresence) Put(owner jid.JID, stanza string, at time.Time) error {
	err := put(l.txn, l.presence, owner.Bare().Clone(), presence{stanza, at.UTC().Round(0)})
	if err != nil {
		return fmt.Errorf("put last presence of %s: %w", owner, err)
	}
	return nil
}

type blocklists struct{ *txn }

func (b blocklists) Get(owner jid.JID) ([]jid.JID, error) {
	return slices.Clone(b.blocked[owner.Bare()]), nil
}

func (b blocklists) Add(owner jid.JID, blocked ...jid.JID) error {
	list := slices.Clone(b.blocked[owner.Bare()])
	for _, j := range blocked {
		if i, found := slices.BinarySearchFunc(list, j, compare); !found {
			list = slices.Insert(list, i, j.Clone())
		}
	}
	if err := put(b.txn, b.blocked, owner.Bare().Clone(), list); err != nil {
		return fmt.Errorf("add to blocklist of %s: %w", owner, err)
	}
	return nil
}

func (b blocklists) Remove(owner jid.JID, blocked ...jid.JID) error {
	var list []jid.JID
	if len(blocked) > 0 {
		list = slices.DeleteFunc(slices.Clone(b.blocked[owner.Bare()]), func(j jid.JID) bool {
			return slices.Contains(blocked, j)
		})
	}
	if err := put(b.txn, b.blocked, owner.Bare().Clone(), list); err != nil {
		return fmt.Errorf("remove from blocklist of %s: %w", owner, err)
	}
	return nil
}

type documents struct {
	*txn
	rows map[jid.JID]map[string]string
	kind string
}

func (d documents) Get(owner jid.JID, key string) (string, error) {
	xml, ok := d.rows[owner.Bare()][key]
	if !ok {
		return "", fmt.Errorf("get %s %q of %s: %w", d.kind, key, owner, storage.ErrNotFound)
	}
	return xml, nil
}

func (d documents) Put(owner jid.JID, key, xml string, max int) error {
	fail := func(err error) error {
		return fmt.Errorf("put %s %q of %s: %w", d.kind, key, owner, err)
	}
	if len(key) > storage.MaxKey {
		return fail(storage.ErrFull)
	}
	rows := make(map[string]string)
	maps.Copy(rows, d.rows[owner.Bare()])
	rows[key] = xml
	if xml == "" {
		delete(rows, key)
	}
	total := 0
	for _, xml := range rows {
		total += len(xml)
	}
	if max > 0 && xml != "" && total > max {
		return fail(storage.ErrFull)
	}
	if err := put(d.txn, d.rows, owner.Bare().Clone(), rows); err != nil {
		return fail(err)
	}
	return nil
}

type secrets struct{ *txn }

func (s secrets) Get(name string) ([]byte, error) {
	value, ok := s.secrets[name]
	if !ok {
		return nil, fmt.Errorf("get secret %q: %w", name, storage.ErrNotFound)
	}
	return bytes.Clone(value), nil
}

func (s secrets) Put(name string, value []byte) error {
	if err := put(s.txn, s.secrets, name, bytes.Clone(value)); err != nil {
		return fmt.Errorf("put secret %q: %w", name, err)
	}
	return nil
}
