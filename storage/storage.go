// Package storage says what the server keeps, by noun: accounts, rosters, offline messages and so
// on, and how writes become durable. The features of the server call it; storage/bolt and
// storage/mem implement it; storage/storagetest is the one suite that every backend passes.
//
// Start with Store. Reads run in View. Writes are functions handed to Submit: they run, in the
// order of their submission, inside the next transaction of the one committer, and the Ticket
// that Submit returns tells when that transaction has reached the disk. Submit never blocks, so
// it may be called under a lock; Ticket.Wait may not. What announces a change to anybody (a push,
// a presence, an acknowledgement) leaves after its ticket is done.
package storage

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"tombolo/xmpp/jid"
)

// Errors that every backend returns, wrapped with the operation.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrFull     = errors.New("quota reached")           // of an account, e.g. its offline queue
	ErrNoSpace  = errors.New("no space left on device") // read-only until space returns
	ErrReadOnly = errors.New("write in a read transaction")
	ErrClosed   = errors.New("store is closed")
	ErrLocked   = errors.New("store is in use by another process")
)

// Deferral is how long a deferred write waits at most until its transaction begins.
const Deferral = time.Second

// A Store keeps the server's state.
type Store interface {
	// View runs fn on a consistent snapshot of what is durable. Writes through its Tx fail with
	// ErrReadOnly. fn must be short: it never waits for the network, for a Ticket or for
	// another View. Its Tx ends with it. Once the store has failed View does too, since what it
	// would show may not outlive the process.
	View(fn func(Tx) error) error

	// Submit queues fn for the committer's next transaction and returns at once. fn sees what
	// the operations before it wrote. It runs on the committer's goroutine, so it must be short,
	// and it may run more than once, so its only effects are those on the Tx and on variables
	// that it sets anew each time, which are read after the ticket is done. The error of fn, or
	// its panic as an error, becomes the ticket's, and then nothing of fn is kept; operations
	// submitted beside it are not harmed. A nil fn writes nothing: its ticket is done when those of all
	// operations before it are.
	Submit(fn func(Tx) error) *Ticket

	// Defer is Submit of what nobody waits for, and what may be lost if the process is killed: it is written
	// together with what else there is, within Deferral.
	Defer(fn func(Tx) error) *Ticket

	// Admit blocks while the committer's queue is over its mark. A reader of a connection
	// calls it before it takes the next stanza; never call it under a lock.
	Admit(ctx context.Context) error

	// Failed is closed when a commit or a sync failed for a reason other than a lack of space:
	// from then on nothing is durable, and the process must log Err and end.
	Failed() <-chan struct{}
	Err() error

	// Stats says how busy the committer is.
	Stats() Stats

	// Backup writes a consistent copy while the store is in use, and returns its bytes.
	// errors.ErrUnsupported from a backend that has nothing to copy.
	Backup(w io.Writer) (int64, error)

	// Close commits what has been submitted and releases the store. Afterwards everything
	// answers ErrClosed. It waits for the Views that run. A second call does nothing.
	Close() error
}

// Stats are counters of a store's committer since the store was opened.
type Stats struct {
	Pending    int    // operations that were submitted and are not finished
	Operations uint64 // finished
	Commits    uint64 // transactions that had them
	Last       time.Duration
	Longest    time.Duration
	Total      time.Duration // of all commits
}

// Average is how long a commit took.
func (s Stats) Average() time.Duration {
	if s.Commits == 0 {
		return 0
	}
	return s.Total / time.Duration(s.Commits)
}

// MaxKey is how many bytes the key of a document may have.
const MaxKey = 4096

// A Tx is the state as one transaction sees it, by noun, for the duration of the function that it
// was given to. It belongs to that function's goroutine. What it returns is the caller's to keep
// and to change.
//
// An owner or account is meant by its bare JID: a resource is ignored. Times come back in UTC, to
// the nanosecond. JID order is by domain, then local part, then resource, each byte by byte.
type Tx interface {
	Accounts() Accounts
	Clients() Clients
	Rosters() Rosters
	Messages() Messages
	Archive() Archive
	Offline() Offline
	Peers() Peers
	LastPresence() LastPresence
	Blocklists() Blocklists
	Private() Documents  // XEP-0049
	VCards() Documents   // XEP-0054
	Settings() Documents // of features, such as XEP-0441
	Secrets() Secrets
}

// Accounts are the local users, by bare JID.
type Accounts interface {
	Get(account jid.JID) (Account, error) // ErrNotFound
	// Create adds an account, and removes what a late write may have left behind for a deleted
	// one of the same name: nobody inherits a stranger's messages. ErrExists.
	Create(Account) error
	Update(Account) error // ErrNotFound
	// Delete removes the account and everything that any noun keeps for it. ErrNotFound.
	Delete(account jid.JID) error
	// All yields the accounts of a domain ("" means every domain) in JID order.
	All(domain string) iter.Seq2[Account, error]
}

// An Account is a local user. No password and no salted password is ever kept.
type Account struct {
	JID         jid.JID
	Credentials []Credential
	Disabled    bool
	Created     time.Time
	// Generation is another number whenever what was proved before counts no more: after a new
	// password, after the account was disabled. The caller chooses it.
	Generation uint64
}

// A Credential is what SCRAM (RFC 5802 section 3) needs to verify a user with one hash.
type Credential struct {
	Mechanism  string // "SCRAM-SHA-256"; the -PLUS form uses the same one
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// Clients are the programs and devices that may log in to an account, by the identifier that each
// chose for itself (the user-agent of XEP-0388).
type Clients interface {
	Get(owner jid.JID, id string) (Client, error) // ErrNotFound
	// Put stores a client in place of the one with that identifier. ErrFull for an empty
	// identifier and for one above MaxKey.
	Put(owner jid.JID, client Client) error
	Delete(owner jid.JID, id string) error // ErrNotFound
	// All returns the clients of an account in order of their identifiers, byte by byte; none is
	// not an error.
	All(owner jid.JID) ([]Client, error)
}

// A Client is what is known of one (XEP-0494). One with neither Password nor a token has no access.
type Client struct {
	ID        string
	Software  string
	Device    string
	FirstSeen time.Time
	LastSeen  time.Time
	Mechanism string // of its latest login
	Address   string // that it came from; empty where that is not kept
	Password  bool   // it has proved the password that the account has now
	// Generation is another number whenever what the client proved with a token counts no more.
	// The caller chooses it.
	Generation uint64
	// The two slots of XEP-0484 section 5.1.
	Current Token
	New     Token
}

// A Token lets a client log in without the password (XEP-0484), by one mechanism and until it
// expires. The zero Token is an empty slot.
type Token struct {
	Sealed    []byte // encrypted by the caller, with a key that is not in the store
	Mechanism string
	Expiry    time.Time
}

// Rosters are the contacts and subscriptions of each account (RFC 6121 section 2).
type Rosters interface {
	// Get returns the roster of an account; one that has none is empty, not an error.
	Get(owner jid.JID) (Roster, error)
	// Put stores an item, in place of one for the same contact, and makes version the roster's.
	// The caller chooses versions; that they rise is its business.
	Put(owner jid.JID, item RosterItem, version uint64) error
	// Delete removes an item and makes version the roster's. ErrNotFound, and then the version
	// stays.
	Delete(owner, contact jid.JID, version uint64) error
}

// A Roster is one account's list, items in JID order.
type Roster struct {
	Version uint64
	Items   []RosterItem
}

// A RosterItem is the owner's relation to one contact. One that is only a pending request from
// the contact (PendingIn, no Subscription, not Listed) is kept but never shown to clients.
type RosterItem struct {
	Contact  jid.JID
	Name     string
	Groups   []string
	Listed   bool // the owner's clients see it: false for a mere pending-in or pre-approval state
	To       bool // the owner receives the contact's presence
	From     bool // the contact receives the owner's presence
	Ask      bool // pending out: the owner's request is not answered yet
	Approved bool // pre-approval (RFC 6121 section 3.4)
	// PendingIn is the contact's request as received, one <presence/> element, kept until
	// the owner answers it (RFC 6121 section 3.1.3). Empty: no request pending.
	PendingIn string
}

// Offline holds, in order of arrival, the messages that wait for an account (XEP-0160). Messages adds them.
type Offline interface {
	// List returns up to limit messages (0: all) with a number above after.
	List(owner jid.JID, after uint64, limit int) ([]OfflineMessage, error)
	// Delete removes the messages up to and including the number through.
	Delete(owner jid.JID, through uint64) error
	// DeleteArchived removes the messages that are in the archive of the account.
	DeleteArchived(owner jid.JID) error
	Count(owner jid.JID) (int, error)
}

// An OfflineMessage is a message as it will be delivered, without its delay element.
type OfflineMessage struct {
	Number   uint64 // rising per store, never used twice
	Received time.Time
	Stanza   string
	ID       uint64 // in the archive of the account; 0: it is not there
}

// LastPresence keeps the last unavailable presence of each account and when it was sent, for
// probes that find nobody (RFC 6121 section 4.3.2) and for XEP-0012.
type LastPresence interface {
	Get(owner jid.JID) (stanza string, at time.Time, err error) // ErrNotFound
	Put(owner jid.JID, stanza string, at time.Time) error
}

// Blocklists are the JIDs that an account has blocked (XEP-0191).
type Blocklists interface {
	Get(owner jid.JID) ([]jid.JID, error) // in JID order; none is not an error
	Add(owner jid.JID, blocked ...jid.JID) error
	Remove(owner jid.JID, blocked ...jid.JID) error // no JIDs: all
}

// Documents hold one XML element per account and key.
type Documents interface {
	Get(owner jid.JID, key string) (string, error) // ErrNotFound
	// Put stores a document in place of the one under that key; an empty xml removes it.
	// ErrFull when the documents of the account would exceed max bytes (0: no limit), and for a
	// key above MaxKey.
	Put(owner jid.JID, key, xml string, max int) error
}

// Secrets are random values that the server made for itself and must find again after a restart,
// such as the key of dialback (XEP-0185) and the one behind the salts of unknown users.
type Secrets interface {
	Get(name string) ([]byte, error) // ErrNotFound
	Put(name string, value []byte) error
}
