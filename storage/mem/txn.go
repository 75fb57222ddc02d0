package mem

import (
	"cmp"
	"slices"
	"strings"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// state is everything that is kept. Values are never changed in place, only replaced (but for
// appending to a slice beyond its length), so that the value from before is enough to undo.
type state struct {
	accounts map[jid.JID]storage.Account
	clients  map[jid.JID]map[string]storage.Client
	rosters  map[jid.JID]storage.Roster
	messages map[uint64]row
	archives map[jid.JID][]ref // by id
	offline  map[jid.JID][]ref // by number
	peers    map[uint64]storage.Peer
	spool    map[uint64][]ref // of a peer, by number
	presence map[jid.JID]presence
	blocked  map[jid.JID][]jid.JID
	private  map[jid.JID]map[string]string
	vcards   map[jid.JID]map[string]string
	settings map[jid.JID]map[string]string
	secrets  map[string][]byte
	last     map[counter]uint64 // a few rows, kept like the others
}

func newState() *state {
	return &state{
		accounts: make(map[jid.JID]storage.Account),
		clients:  make(map[jid.JID]map[string]storage.Client),
		rosters:  make(map[jid.JID]storage.Roster),
		messages: make(map[uint64]row),
		archives: make(map[jid.JID][]ref),
		offline:  make(map[jid.JID][]ref),
		peers:    make(map[uint64]storage.Peer),
		spool:    make(map[uint64][]ref),
		presence: make(map[jid.JID]presence),
		blocked:  make(map[jid.JID][]jid.JID),
		private:  make(map[jid.JID]map[string]string),
		vcards:   make(map[jid.JID]map[string]string),
		settings: make(map[jid.JID]map[string]string),
		secrets:  make(map[string][]byte),
		last:     make(map[counter]uint64),
	}
}

// A counter is what counts upwards and never uses a value twice.
type counter string

const (
	lastRow     counter = "row"
	lastOffline counter = "offline message"
	lastID      counter = "id in an archive"
)

// A txn is the state as a View or one operation sees it.
type txn struct {
	*state
	writable bool
	undo     []func()
}

func (tx *txn) Accounts() storage.Accounts         { return accounts{tx} }
func (tx *txn) Clients() storage.Clients           { return clients{tx} }
func (tx *txn) Rosters() storage.Rosters           { return rosters{tx} }
func (tx *txn) Messages() storage.Messages         { return messages{tx} }
func (tx *txn) Archive() storage.Archive           { return archive{tx} }
func (tx *txn) Offline() storage.Offline           { return offline{tx} }
func (tx *txn) Peers() storage.Peers               { return peers{tx} }
func (tx *txn) LastPresence() storage.LastPresence { return lastPresence{tx} }
func (tx *txn) Blocklists() storage.Blocklists     { return blocklists{tx} }
func (tx *txn) Private() storage.Documents         { return documents{tx, tx.private, "private"} }
func (tx *txn) VCards() storage.Documents          { return documents{tx, tx.vcards, "vcard"} }
func (tx *txn) Settings() storage.Documents        { return documents{tx, tx.settings, "settings"} }
func (tx *txn) Secrets() storage.Secrets           { return secrets{tx} }

// put sets m[key], a map of tx's state.
func put[K comparable, V any](tx *txn, m map[K]V, key K, value V) error {
	if !tx.writable {
		return storage.ErrReadOnly
	}
	remember(tx, m, key)
	m[key] = value
	return nil
}

// remove deletes m[key], a map of tx's state.
func remove[K comparable, V any](tx *txn, m map[K]V, key K) error {
	if !tx.writable {
		return storage.ErrReadOnly
	}
	remember(tx, m, key)
	delete(m, key)
	return nil
}

func remember[K comparable, V any](tx *txn, m map[K]V, key K) {
	old, had := m[key]
	tx.undo = append(tx.undo, func() {
		if had {
			m[key] = old
		} else {
			delete(m, key)
		}
	})
}

// rollback takes back what the operation wrote, last first.
func (tx *txn) rollback() {
	for _, undo := range slices.Backward(tx.undo) {
		undo()
	}
}

// compare is JID order (see storage.Tx).
func compare(a, b jid.JID) int {
	return cmp.Or(
		strings.Compare(a.Domain(), b.Domain()),
		strings.Compare(a.Local(), b.Local()),
		strings.Compare(a.Resource(), b.Resource()),
	)
}
