package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// A bucket is one of the file's few. All rows of a kind share one, ordered by owner, so what
// belongs to an account is one range of keys in each.
type bucket int

const (
	inAccounts bucket = iota
	inRosters
	inOffline
	inPresence
	inBlocklists
	inPrivate
	inVCards
	inSecrets
	inClients
	inSettings
	inMessages
	inHeld
	inArchives
	inOwners
	inRetired
	inHeads
	inChunks
	inPeers
	inCounts
	inSpool
	inMarks
)

// buckets are the names in the file, what each says in an error, whether its keys begin with an
// owner, and how a row is checked.
var buckets = [...]struct {
	name, noun string
	owned      bool
	check      func(key, value []byte) error
}{
	inAccounts:   {"accounts", "account", true, checkAccount},
	inRosters:    {"rosters", "roster", true, checkRoster},
	inOffline:    {"offline", "offline message", true, checkOffline},
	inPresence:   {"last presence", "last presence", true, checkPresence},
	inBlocklists: {"blocklists", "blocklist", true, checkBlocked},
	inPrivate:    {"private", "private XML", true, checkDocument},
	inVCards:     {"vcards", "vCard", true, checkDocument},
	inSecrets:    {"secrets", "secret", false, checkSecret},
	inClients:    {"clients", "client", true, checkClient},
	inSettings:   {"settings", "settings", true, checkDocument},
	inMessages:   {"messages", "message", false, checkMessage},
	inHeld:       {"held", "references to message", false, checkNumbered},
	inArchives:   {"archives", "archive", true, checkArchive},
	inOwners:     {"owners", "owner of archive", false, checkOwner},
	inRetired:    {"retired", "retired archive", false, checkNumbered},
	inHeads:      {"heads", "head of list", false, checkHead},
	inChunks:     {"chunks", "chunk of list", false, checkChunk},
	inPeers:      {"peers", "peer", false, checkPeer},
	inCounts:     {"counts", "count of peer", false, checkNumbered},
	inSpool:      {"spool", "spooled message", false, checkSpool},
	inMarks:      {"marks", "mark", false, checkMark},
}

// Keys.
//
//	account, last presence   owner
//	roster                   owner: its version; owner contact: an item
//	offline                  owner: how many; owner number: a message, or the number of one in messages
//	blocklist                owner blocked
//	private, vcards, settings  owner key
//	clients                  owner identifier
//	secrets                  name
//	messages                 number: a message (see messages.go)
//	held                     number of a message: how many rows of offline and spool refer to it
//	archives                 owner: the number of the archive
//	owners                   number of an archive: its owner
//	retired                  number of an archive that has no owner any more
//	heads                    number of an archive, contact (8 bytes): the newest postings (see lists.go)
//	chunks                   number of an archive, contact, id of the first one: postings
//	peers                    number: a peer
//	counts                   number of a peer: how many of its stanzas are handled
//	spool                    number of a peer, number of the stanza: as in offline, and its form
//	marks                    name: a number
//
// A number is 8 bytes, big-endian.
//
// An owner is domain NUL local NUL, any other JID domain NUL local NUL resource. No part of a JID
// holds NUL (RFC 7622), so no owner's key is a prefix of another's, and keys are in JID order.

func ownerKey(owner jid.JID) []byte {
	return appendJID(nil, owner.Bare())
}

func appendJID(key []byte, j jid.JID) []byte {
	key = append(append(key, j.Domain()...), 0)
	key = append(append(key, j.Local()...), 0)
	return append(key, j.Resource()...)
}

// cutJID splits a key after the domain and the local part that it begins with.
func cutJID(key []byte) (domain, local, rest []byte, err error) {
	i := bytes.IndexByte(key, 0)
	j := bytes.IndexByte(key[i+1:], 0) + i + 1
	if i < 0 || j == i {
		return nil, nil, nil, errDamaged
	}
	return key[:i], key[i+1 : j], key[j+1:], nil
}

// parseJID reads a JID that fills the rest of a key.
func parseJID(key []byte) (jid.JID, error) {
	domain, local, resource, err := cutJID(key)
	if err != nil {
		return jid.JID{}, err
	}
	// The string form first, then Parse: one allocation where New would need four.
	form := make([]byte, 0, 128)
	if len(local) > 0 {
		form = append(append(form, local...), '@')
	}
	form = append(form, domain...)
	if len(resource) > 0 {
		form = append(append(form, '/'), resource...)
	}
	return jid.Parse(string(form))
}

// key is a key of numbers.
func key(numbers ...uint64) []byte {
	k := make([]byte, 0, 8*len(numbers))
	for _, n := range numbers {
		k = binary.BigEndian.AppendUint64(k, n)
	}
	return k
}

// numberKey is the key of an owner's offline message. Big-endian: in order of number.
func numberKey(owner []byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(owner), number)
}

// Values. The first byte is the version of the row's encoding, so that one kind of row can change
// without a migration of the whole file. Then numbers are varints, strings are preceded by their
// length, times are seconds and nanoseconds since 1970.

const (
	rowVersion     = 1
	accountVersion = 2 // with a generation; in rows of version 1 it is 0
	offlineVersion = 2 // refers to a message; rows of version 1 are one
	spoolVersion   = 2 // is a message; rows of version 1 refer to one
)

var errDamaged = errors.New("row is damaged")

type encoder []byte

func newRow(size int) encoder { return append(make(encoder, 0, size+16), rowVersion) }

func (e *encoder) uint(n uint64)   { *e = binary.AppendUvarint(*e, n) }
func (e *encoder) int(n int64)     { *e = binary.AppendVarint(*e, n) }
func (e *encoder) string(s string) { e.uint(uint64(len(s))); *e = append(*e, s...) }
func (e *encoder) bytes(b []byte)  { e.uint(uint64(len(b))); *e = append(*e, b...) }
func (e *encoder) time(t time.Time) {
	e.uint(uint64(t.Unix()))
	e.uint(uint64(t.Nanosecond()))
}

// flags writes up to eight booleans.
func (e *encoder) flags(flags ...bool) {
	var b byte
	for i, set := range flags {
		if set {
			b |= 1 << i
		}
	}
	*e = append(*e, b)
}

// A decoder reads a row. Its first error sticks; end returns it. The strings that it returns
// are parts of the row: of a copy of it, since bbolt's memory ends with the transaction, unless it is to peek.
type decoder struct {
	rest string
	err  error
}

func readRow(value []byte) *decoder {
	d, _ := readVersionedRow(value, rowVersion)
	return d
}

// readVersionedRow is readRow for a kind of row that exists in all versions up to newest.
func readVersionedRow(value []byte, newest byte) (d *decoder, version byte) {
	peek, version := peekVersionedRow(value, newest)
	peek.rest = strings.Clone(peek.rest)
	return &peek, version
}

// peekRow is readRow without the copy: what it reads ends with the transaction.
func peekRow(value []byte) decoder {
	d, _ := peekVersionedRow(value, rowVersion)
	return d
}

func peekVersionedRow(value []byte, newest byte) (d decoder, version byte) {
	if len(value) == 0 || value[0] < rowVersion || value[0] > newest {
		return decoder{err: errDamaged}, 0
	}
	return decoder{rest: unsafe.String(unsafe.SliceData(value), len(value))[1:]}, value[0]
}

func (d *decoder) fail() {
	d.rest, d.err = "", errDamaged
}

func (d *decoder) uint() uint64 {
	if len(d.rest) > 0 && d.rest[0] < 0x80 { // most are small
		n := uint64(d.rest[0])
		d.rest = d.rest[1:]
		return n
	}
	return d.long()
}

func (d *decoder) long() (n uint64) {
	for i := 0; i < len(d.rest) && i < binary.MaxVarintLen64; i++ {
		b := d.rest[i]
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			d.rest = d.rest[i+1:]
			return n
		}
	}
	d.fail()
	return 0
}

// int reads what encoder.int wrote (binary.AppendVarint).
func (d *decoder) int() int64 {
	n := d.uint()
	return int64(n>>1) ^ -int64(n&1)
}

// count reads how many elements follow, each of at least one byte.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.rest)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) string() string {
	n := d.count()
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) bytes() []byte { return []byte(d.string()) }

func (d *decoder) time() time.Time {
	seconds := d.uint()
	nanoseconds := d.uint()
	return time.Unix(int64(seconds), int64(nanoseconds)).UTC()
}

func (d *decoder) flags(flags ...*bool) {
	if len(d.rest) == 0 {
		d.fail()
		return
	}
	for i, set := range flags {
		*set = d.rest[0]&(1<<i) != 0
	}
	d.rest = d.rest[1:]
}

func (d *decoder) end() error {
	if d.err == nil && len(d.rest) > 0 {
		d.fail()
	}
	return d.err
}

func encodeAccount(a storage.Account) []byte {
	e := newRow(160 * (1 + len(a.Credentials)))
	e[0] = accountVersion
	e.flags(a.Disabled)
	e.time(a.Created)
	e.uint(uint64(len(a.Credentials)))
	for _, c := range a.Credentials {
		e.string(c.Mechanism)
		e.bytes(c.Salt)
		e.uint(uint64(c.Iterations))
		e.bytes(c.StoredKey)
		e.bytes(c.ServerKey)
	}
	e.uint(a.Generation)
	return e
}

func decodeAccount(key, value []byte) (a storage.Account, err error) {
	if a.JID, err = parseJID(key); err != nil {
		return a, err
	}
	d, version := readVersionedRow(value, accountVersion)
	d.flags(&a.Disabled)
	a.Created = d.time()
	if n := d.count(); n > 0 {
		a.Credentials = make([]storage.Credential, n)
	}
	for i := range a.Credentials {
		c := &a.Credentials[i]
		c.Mechanism = d.string()
		c.Salt = d.bytes()
		c.Iterations = int(d.uint())
		c.StoredKey = d.bytes()
		c.ServerKey = d.bytes()
	}
	if version >= accountVersion {
		a.Generation = d.uint()
	}
	return a, d.end()
}

func encodeClient(c storage.Client) []byte {
	e := newRow(96 + len(c.Software) + len(c.Device) + len(c.Current.Sealed) + len(c.New.Sealed))
	e.flags(c.Password)
	e.string(c.Software)
	e.string(c.Device)
	e.time(c.FirstSeen)
	e.time(c.LastSeen)
	e.string(c.Mechanism)
	e.string(c.Address)
	e.uint(c.Generation)
	for _, t := range []storage.Token{c.Current, c.New} {
		e.bytes(t.Sealed)
		e.string(t.Mechanism)
		e.time(t.Expiry)
	}
	return e
}

// decodeClient reads a row whose key was id after its owner.
func decodeClient(id, value []byte) (storage.Client, error) {
	c := storage.Client{ID: string(id)}
	d := readRow(value)
	d.flags(&c.Password)
	c.Software = d.string()
	c.Device = d.string()
	c.FirstSeen = d.time()
	c.LastSeen = d.time()
	c.Mechanism = d.string()
	c.Address = d.string()
	c.Generation = d.uint()
	for _, t := range []*storage.Token{&c.Current, &c.New} {
		if t.Sealed = d.bytes(); len(t.Sealed) == 0 {
			t.Sealed = nil
		}
		t.Mechanism = d.string()
		t.Expiry = d.time()
	}
	return c, d.end()
}

func encodeNumber(n uint64) []byte {
	e := newRow(0)
	e.uint(n)
	return e
}

func decodeNumber(value []byte) (uint64, error) {
	d := peekRow(value)
	n := d.uint()
	return n, d.end()
}

func encodeItem(item storage.RosterItem) []byte {
	e := newRow(64 + len(item.Name) + len(item.PendingIn))
	e.flags(item.Listed, item.To, item.From, item.Ask, item.Approved)
	e.string(item.Name)
	e.uint(uint64(len(item.Groups)))
	for _, group := range item.Groups {
		e.string(group)
	}
	e.string(item.PendingIn)
	return e
}

// decodeItem reads a row whose key was contact after its owner.
func decodeItem(contact, value []byte) (item storage.RosterItem, err error) {
	if item.Contact, err = parseJID(contact); err != nil {
		return item, err
	}
	d := readRow(value)
	d.flags(&item.Listed, &item.To, &item.From, &item.Ask, &item.Approved)
	item.Name = d.string()
	if n := d.count(); n > 0 {
		item.Groups = make([]string, n)
	}
	for i := range item.Groups {
		item.Groups[i] = d.string()
	}
	item.PendingIn = d.string()
	return item, d.end()
}

// encodeStanza is an offline message or a last presence.
func encodeStanza(at time.Time, stanza string) []byte {
	e := newRow(len(stanza))
	e.time(at)
	e.string(stanza)
	return e
}

func decodeStanza(value []byte) (at time.Time, stanza string, err error) {
	d := readRow(value)
	at = d.time()
	stanza = d.string()
	return at, stanza, d.end()
}

// encodeOffline is a row of version 1 if it is the message itself.
func encodeOffline(h holding) []byte {
	if h.number == 0 {
		return encodeStanza(h.at, h.stanza)
	}
	e := newRow(0)
	e[0] = offlineVersion
	e.uint(h.number)
	return e
}

// peekOffline reads a row without copying it: the stanza ends with the transaction.
func peekOffline(value []byte) (h holding, err error) {
	d, version := peekVersionedRow(value, offlineVersion)
	if version == offlineVersion {
		if h.number = d.uint(); h.number == 0 {
			d.fail()
		}
		return h, d.end()
	}
	h.at = d.time()
	h.stanza = d.string()
	return h, d.end()
}

// A blob is a value with nothing to it: a document, a secret, or (empty) a mere entry.

func encodeBlob(blob string) []byte { return append(newRow(len(blob)), blob...) }

func decodeBlob(value []byte) (string, error) {
	d := readRow(value)
	return d.rest, d.err
}

func checkAccount(key, value []byte) error {
	_, err := decodeAccount(key, value)
	return err
}

func checkClient(key, value []byte) error {
	_, _, id, err := cutJID(key)
	if err != nil {
		return err
	}
	if len(id) == 0 {
		return errDamaged
	}
	_, err = decodeClient(id, value)
	return err
}

func checkRoster(key, value []byte) error {
	_, _, contact, err := cutJID(key)
	if err != nil {
		return err
	}
	if len(contact) == 0 {
		_, err = decodeNumber(value)
	} else {
		_, err = decodeItem(contact, value)
	}
	return err
}

func checkOffline(key, value []byte) error {
	_, _, number, err := cutJID(key)
	if err != nil {
		return err
	}
	switch len(number) {
	case 0:
		_, err = decodeNumber(value)
	case 8:
		_, err = peekOffline(value)
	default:
		err = errDamaged
	}
	return err
}

func checkPresence(key, value []byte) error {
	if _, err := parseJID(key); err != nil {
		return err
	}
	_, _, err := decodeStanza(value)
	return err
}

func checkBlocked(key, value []byte) error {
	_, _, blocked, err := cutJID(key)
	if err != nil {
		return err
	}
	if _, err := parseJID(blocked); err != nil {
		return err
	}
	_, err = decodeBlob(value)
	return err
}

func checkDocument(key, value []byte) error {
	if _, _, _, err := cutJID(key); err != nil {
		return err
	}
	_, err := decodeBlob(value)
	return err
}

func checkSecret(_, value []byte) error {
	_, err := decodeBlob(value)
	return err
}

// damaged names the row that could not be read.
func damaged(in bucket, key []byte, err error) error {
	return fmt.Errorf("%s %q: %w", buckets[in].noun, key, err)
}
