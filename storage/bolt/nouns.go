package bolt

import (
	"fmt"
	"iter"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

type accounts struct{ *txn }

func (a accounts) Get(account jid.JID) (storage.Account, error) {
	key := ownerKey(account)
	value := a.get(inAccounts, key)
	if value == nil {
		return storage.Account{}, fmt.Errorf("get account %s: %w", account, storage.ErrNotFound)
	}
	kept, err := decodeAccount(key, value)
	if err != nil {
		return storage.Account{}, damaged(inAccounts, key, err)
	}
	return kept, nil
}

func (a accounts) Create(account storage.Account) error {
	key := ownerKey(account.JID)
	err := error(storage.ErrExists)
	if a.get(inAccounts, key) == nil {
		if err = a.erase(key); err == nil {
			err = a.put(inAccounts, key, encodeAccount(account))
		}
	}
	if err != nil {
		return fmt.Errorf("create account %s: %w", account.JID, err)
	}
	return nil
}

func (a accounts) Update(account storage.Account) error {
	key := ownerKey(account.JID)
	err := error(storage.ErrNotFound)
	if a.get(inAccounts, key) != nil {
		err = a.put(inAccounts, key, encodeAccount(account))
	}
	if err != nil {
		return fmt.Errorf("update account %s: %w", account.JID, err)
	}
	return nil
}

func (a accounts) Delete(account jid.JID) error {
	key := ownerKey(account)
	err := error(storage.ErrNotFound)
	if a.get(inAccounts, key) != nil {
		err = a.erase(key)
	}
	if err != nil {
		return fmt.Errorf("delete account %s: %w", account, err)
	}
	return nil
}

// erase removes every row of an owner.
func (t *txn) erase(owner []byte) error {
	if err := t.eraseOffline(owner); err != nil {
		return err
	}
	if err := t.retire(owner); err != nil {
		return err
	}
	for in := range buckets {
		if !buckets[in].owned {
			continue
		}
		if err := t.deleteAll(bucket(in), owner); err != nil {
			return err
		}
	}
	return nil
}

func (a accounts) All(domain string) iter.Seq2[storage.Account, error] {
	return func(yield func(storage.Account, error) bool) {
		var prefix []byte
		if domain != "" {
			prefix = append([]byte(domain), 0)
		}
		for key, value := range a.scan(inAccounts, prefix, prefix) {
			account, err := decodeAccount(key, value)
			if err != nil {
				err = damaged(inAccounts, key, err)
			}
			if !yield(account, err) {
				return
			}
		}
	}
}

type clients struct{ *txn }

func (c clients) Get(owner jid.JID, id string) (storage.Client, error) {
	key := append(ownerKey(owner), id...)
	value := c.get(inClients, key)
	if value == nil || id == "" {
		return storage.Client{}, fmt.Errorf("get client %q of %s: %w", id, owner, storage.ErrNotFound)
	}
	client, err := decodeClient([]byte(id), value)
	if err != nil {
		return storage.Client{}, damaged(inClients, key, err)
	}
	return client, nil
}

func (c clients) Put(owner jid.JID, client storage.Client) error {
	err := error(storage.ErrFull)
	if client.ID != "" && len(client.ID) <= storage.MaxKey {
		err = c.put(inClients, append(ownerKey(owner), client.ID...), encodeClient(client))
	}
	if err != nil {
		return fmt.Errorf("put client %q of %s: %w", client.ID, owner, err)
	}
	return nil
}

func (c clients) Delete(owner jid.JID, id string) error {
	key := append(ownerKey(owner), id...)
	err := error(storage.ErrNotFound)
	if c.get(inClients, key) != nil {
		err = c.delete(inClients, key)
	}
	if err != nil {
		return fmt.Errorf("delete client %q of %s: %w", id, owner, err)
	}
	return nil
}

func (c clients) All(owner jid.JID) ([]storage.Client, error) {
	var list []storage.Client
	key := ownerKey(owner)
	for k, value := range c.scan(inClients, key, key) {
		client, err := decodeClient(k[len(key):], value)
		if err != nil {
			return nil, damaged(inClients, k, err)
		}
		list = append(list, client)
	}
	return list, nil
}

type rosters struct{ *txn }

func (r rosters) Get(owner jid.JID) (roster storage.Roster, err error) {
	key := ownerKey(owner)
	for k, value := range r.scan(inRosters, key, key) {
		if contact := k[len(key):]; len(contact) == 0 {
			roster.Version, err = decodeNumber(value)
		} else {
			var item storage.RosterItem
			item, err = decodeItem(contact, value)
			roster.Items = append(roster.Items, item)
		}
		if err != nil {
			return storage.Roster{}, damaged(inRosters, k, err)
		}
	}
	return roster, nil
}

func (r rosters) Put(owner jid.JID, item storage.RosterItem, version uint64) error {
	key := ownerKey(owner)
	err := r.put(inRosters, key, encodeNumber(version))
	if err == nil {
		err = r.put(inRosters, appendJID(key, item.Contact), encodeItem(item))
	}
	if err != nil {
		return fmt.Errorf("put roster item %s of %s: %w", item.Contact, owner, err)
	}
	return nil
}

func (r rosters) Delete(owner, contact jid.JID, version uint64) error {
	key := ownerKey(owner)
	item := appendJID(key, contact)
	err := error(storage.ErrNotFound)
	if r.get(inRosters, item) != nil {
		if err = r.delete(inRosters, item); err == nil {
			err = r.put(inRosters, key, encodeNumber(version))
		}
	}
	if err != nil {
		return fmt.Errorf("delete roster item %s of %s: %w", contact, owner, err)
	}
	return nil
}

type lastPresence struct{ *txn }

func (l lastPresence) Get(owner jid.JID) (string, time.Time, error) {
	key := ownerKey(owner)
	value := l.get(inPresence, key)
	if value == nil {
		return "", time.Time{}, fmt.Errorf("get last presence of %s: %w", owner, storage.ErrNotFound)
	}
	at, stanza, err := decodeStanza(value)
	if err != nil {
		return "", time.Time{}, damaged(inPresence, key, err)
	}
	return stanza, at, nil
}

func (l lastPresence) Put(owner jid.JID, stanza string, at time.Time) error {
	if err := l.put(inPresence, ownerKey(owner), encodeStanza(at, stanza)); err != nil {
		return fmt.Errorf("put last presence of %s: %w", owner, err)
	}
	return nil
}

type blocklists struct{ *txn }

func (b blocklists) Get(owner jid.JID) ([]jid.JID, error) {
	var list []jid.JID
	key := ownerKey(owner)
	for k := range b.scan(inBlocklists, key, key) {
		blocked, err := parseJID(k[len(key):])
		if err != nil {
			return nil, damaged(inBlocklists, k, err)
		}
		list = append(list, blocked)
	}
	return list, nil
}

func (b blocklists) Add(owner jid.JID, blocked ...jid.JID) error {
	for _, j := range blocked {
		if err := b.put(inBlocklists, appendJID(ownerKey(owner), j), encodeBlob("")); err != nil {
			return fmt.Errorf("add %s to blocklist of %s: %w", j, owner, err)
		}
	}
	return nil
}

func (b blocklists) Remove(owner jid.JID, blocked ...jid.JID) error {
	key := ownerKey(owner)
	if len(blocked) == 0 {
		if err := b.deleteAll(inBlocklists, key); err != nil {
			return fmt.Errorf("clear blocklist of %s: %w", owner, err)
		}
	}
	for _, j := range blocked {
		if err := b.delete(inBlocklists, appendJID(ownerKey(owner), j)); err != nil {
			return fmt.Errorf("remove %s from blocklist of %s: %w", j, owner, err)
		}
	}
	return nil
}

type documents struct {
	*txn
	in bucket
}

func (d documents) Get(owner jid.JID, key string) (string, error) {
	k := append(ownerKey(owner), key...)
	value := d.get(d.in, k)
	if value == nil {
		return "", fmt.Errorf("get %s %q of %s: %w", buckets[d.in].noun, key, owner, storage.ErrNotFound)
	}
	xml, err := decodeBlob(value)
	if err != nil {
		return "", damaged(d.in, k, err)
	}
	return xml, nil
}

func (d documents) Put(owner jid.JID, key, xml string, max int) error {
	if err := d.replace(ownerKey(owner), key, xml, max); err != nil {
		return fmt.Errorf("put %s %q of %s: %w", buckets[d.in].noun, key, owner, err)
	}
	return nil
}

func (d documents) replace(owner []byte, key, xml string, max int) error {
	if len(key) > storage.MaxKey {
		return storage.ErrFull
	}
	k := append(owner, key...)
	if xml == "" {
		return d.delete(d.in, k)
	}
	if max > 0 {
		overhead := len(encodeBlob(""))
		total := len(xml)
		for other, value := range d.scan(d.in, owner, owner) {
			if string(other) != string(k) {
				total += len(value) - overhead
			}
		}
		if total > max {
			return storage.ErrFull
		}
	}
	return d.put(d.in, k, encodeBlob(xml))
}

type secrets struct{ *txn }

func (s secrets) Get(name string) ([]byte, error) {
	value := s.get(inSecrets, []byte(name))
	if value == nil {
		return nil, fmt.Errorf("get secret %q: %w", name, storage.ErrNotFound)
	}
	secret, err := decodeBlob(value)
	if err != nil {
		return nil, damaged(inSecrets, []byte(name), err)
	}
	return []byte(secret), nil
}

func (s secrets) Put(name string, value []byte) error {
	if err := s.put(inSecrets, []byte(name), encodeBlob(string(value))); err != nil {
		return fmt.Errorf("put secret %q: %w", name, err)
	}
	return nil
}
