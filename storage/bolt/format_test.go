package bolt

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

var juliet = jid.MustParse("juliet@capulet.example")

// next is a format after the current one, with a step that adds a bucket.
var next = format{migrations: append(current.migrations[:len(current.migrations):len(current.migrations)],
	func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("new"))
		return err
	})}

// fillStore makes a store with a row in it.
func fillStore(t *testing.T, path string) {
	t.Helper()
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Submit(func(tx storage.Tx) error {
		a := storage.Account{JID: juliet, Credentials: []storage.Credential{{Mechanism: "SCRAM-SHA-256", Salt: []byte("salt")}}}
		if err := tx.Accounts().Create(a); err != nil {
			return err
		}
		if err := tx.Blocklists().Add(juliet, jid.MustParse("romeo@montague.example")); err != nil {
			return err
		}
		long := "<message>" + strings.Repeat("x", short) + "</message>"
		return tx.Messages().Add(storage.Message{At: time.Now(), Stanza: long, Offline: juliet})
	}).Wait(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// checkFilled opens what fillStore made.
func checkFilled(t *testing.T, path string, f format) {
	t.Helper()
	s, err := open(path, Options{}, f)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.View(func(tx storage.Tx) error {
		_, err := tx.Accounts().Get(juliet)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tombolo.db")
	fillStore(t, path)
	checkFilled(t, path, current)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: others may read the credentials", info.Mode())
	}
}

func TestLocked(t *testing.T) {
	t.Parallel() // it waits more than it works
	path := filepath.Join(t.TempDir(), "tombolo.db")
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	start := time.Now()
	if second, err := Open(path, Options{}); !errors.Is(err, storage.ErrLocked) {
		t.Errorf("second Open: %v", err)
		if err == nil {
			second.Close()
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := Verify(path); !errors.Is(err, storage.ErrLocked) {
		t.Errorf("Verify: %v", err)
	}
}

func TestMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tombolo.db")
	fillStore(t, path)

	// A step that fails changes nothing, whatever the steps before it did.
	failing := format{migrations: append(slices.Clip(next.migrations), func(*bbolt.Tx) error { return errors.New("oops") })}
	if _, err := open(path, Options{}, failing); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("from format %d to %d: oops", next.version(), next.version()+1)) {
		t.Errorf("failing migration: %v", err)
	}
	checkFilled(t, path, current)

	checkFilled(t, path, next)
	checkFilled(t, path, next) // the second time there is nothing to do
	copied := fmt.Sprintf("%s.v%d", path, current.version())
	if err := Verify(copied); err != nil {
		t.Errorf("copy of the old file: %v", err)
	}
	checkFilled(t, copied, current)

	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(path, Options{})
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), fmt.Sprint("format ", next.version())) {
		t.Errorf("Open of a newer file: %v", err)
	}
	if err := Verify(path); !errors.Is(err, ErrNewer) {
		t.Errorf("Verify of a newer file: %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, before) {
		t.Errorf("the refused file changed, %v", err)
	}
}

// unpack makes a store of a file in testdata.
func unpack(t *testing.T, name string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "tombolo.db")
	packed, err := os.Open(filepath.Join("testdata", name))
	must(t, err)
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	must(t, err)
	old, err := io.ReadAll(unpacked)
	must(t, err)
	must(t, os.WriteFile(path, old, 0o600))
	must(t, Verify(path)) // as a copy that is to be restored
	return path
}

// TestFormat1 opens a file that the program wrote when its format was 1, before there were clients
// and generations.
func TestFormat1(t *testing.T) {
	path := unpack(t, "format1.db.gz")

	want := storage.Account{
		JID: juliet,
		Credentials: []storage.Credential{
			{Mechanism: "SCRAM-SHA-1", Salt: []byte("salt1"), Iterations: 4096, StoredKey: []byte("stored1"), ServerKey: []byte("server1")},
			{Mechanism: "SCRAM-SHA-256", Salt: []byte("salt2"), Iterations: 10000, StoredKey: []byte("stored2"), ServerKey: []byte("server2")},
		},
		Created: time.Unix(1e9, 5).UTC(),
	}
	client := storage.Client{ID: "phone", FirstSeen: time.Unix(1, 0).UTC(), LastSeen: time.Unix(2, 0).UTC()}
	for range 2 { // the second time there is nothing to migrate
		s, err := Open(path, Options{})
		must(t, err)
		must(t, s.View(func(tx storage.Tx) error {
			got, err := tx.Accounts().Get(juliet)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			return err
		}))
		want.Generation++
		must(t, s.Submit(func(tx storage.Tx) error {
			return errors.Join(tx.Accounts().Update(want), tx.Clients().Put(juliet, client))
		}).Wait(within(t)))
		must(t, s.View(func(tx storage.Tx) error {
			n := 0
			for _, err := range tx.Accounts().All("") { // one of them still as it was
				must(t, err)
				n++
			}
			messages, err := tx.Offline().Count(juliet)
			if n != 2 || messages != 1 || err != nil {
				t.Errorf("%d accounts, %d messages, %v", n, messages, err)
			}
			return nil
		}))
		must(t, s.Close())
		must(t, Verify(path))
	}
	must(t, Verify(path+".v1")) // the copy from before the migration
	must(t, readOnly(path+".v1", func(tx *bbolt.Tx) error {
		version, err := fileVersion(tx)
		if version != 1 || tx.Bucket([]byte("clients")) != nil {
			t.Errorf("it has version %d", version)
		}
		return err
	}))
}

// TestFormat2 opens a file that the program wrote when its format was 2, before there were archives: a message
// that waited was a row of its own. Those stay, and new ones wait behind them.
func TestFormat2(t *testing.T) {
	path := unpack(t, "format2.db.gz")
	old := func(id string, number uint64) storage.OfflineMessage {
		return storage.OfflineMessage{Number: number, Received: time.Unix(3, 4).UTC(), Stanza: "<message id='" + id + "'/>"}
	}
	list := func(s *Store) (list []storage.OfflineMessage) {
		t.Helper()
		must(t, s.View(func(tx storage.Tx) (err error) { list, err = tx.Offline().List(juliet, 0, 0); return err }))
		return list
	}
	s, err := Open(path, Options{})
	must(t, err)
	if got, want := list(s), []storage.OfflineMessage{old("two", 2), old("three", 3)}; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	must(t, s.Submit(func(tx storage.Tx) error {
		if _, err := tx.Clients().Get(juliet, "phone"); err != nil {
			return err
		}
		full := storage.Message{At: time.Unix(5, 6), Stanza: "<message id='new'/>", Offline: juliet, OfflineMax: 2}
		if err := tx.Messages().Add(full); !errors.Is(err, storage.ErrFull) {
			t.Errorf("third of two: %v", err)
		}
		full.OfflineMax = 3
		full.Archived = []storage.Archived{{Owner: juliet, ID: 9, With: jid.MustParse("romeo@montague.example")}}
		return errors.Join(tx.Messages().Add(full), tx.Settings().Put(juliet, "key", "<x/>", 0))
	}).Wait(within(t)))
	must(t, s.Close())
	must(t, Verify(path))
	s, err = Open(path, Options{}) // nothing to migrate
	must(t, err)
	defer s.Close()
	added := storage.OfflineMessage{Number: 5, Received: time.Unix(5, 6).UTC(), Stanza: "<message id='new'/>", ID: 9}
	if got, want := list(s), []storage.OfflineMessage{old("two", 2), old("three", 3), added}; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	must(t, s.Submit(func(tx storage.Tx) error { return tx.Offline().DeleteArchived(juliet) }).Wait(within(t)))
	must(t, s.Submit(func(tx storage.Tx) error { return tx.Offline().Delete(juliet, 2) }).Wait(within(t)))
	if got, want := list(s), []storage.OfflineMessage{old("three", 3)}; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	must(t, Verify(path+".v2")) // the copy from before the migration
}

// TestFormat3 opens a file that the program wrote when its format was 3: whatever waited for an account or a
// peer was a row of messages, and counted in held if no archive had it.
func TestFormat3(t *testing.T) {
	path := unpack(t, "format3.db.gz")
	at, romeo := time.Unix(3, 4).UTC(), jid.MustParse("romeo@montague.example")
	of := func(id uint64) []storage.Archived { return []storage.Archived{{Owner: juliet, ID: id, With: romeo}} }
	waits := []storage.OfflineMessage{
		{Number: 1, Received: at, Stanza: "<message id='waits'/>"},
		{Number: 2, Received: at, Stanza: "<message id='archived'/>", ID: 9},
	}
	sent := [][]storage.Unacknowledged{{
		{Number: 1, Copies: 1, At: at, Stanza: "<message id='sent'/>"},
		{Number: 2, Copies: 1, At: at, Stanza: "<message id='both'/>"},
		{Number: 3, Copies: 1, At: at, Stanza: "<message id='sent archived'/>", Archived: of(10)},
	}, {
		{Number: 1, Form: storage.CarbonReceived, At: at, Stanza: "<message id='both'/>"},
	}}
	check := func(s *Store, offline []storage.OfflineMessage, waiting [][]storage.Unacknowledged) {
		t.Helper()
		must(t, s.View(func(tx storage.Tx) error {
			if got, err := tx.Offline().List(juliet, 0, 0); err != nil || !reflect.DeepEqual(got, offline) {
				t.Errorf("offline, %v\ngot  %+v\nwant %+v", err, got, offline)
			}
			for i, want := range waiting {
				if got, err := tx.Peers().Waiting(uint64(i + 1)); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("peer %d, %v\ngot  %+v\nwant %+v", i+1, err, got, want)
				}
			}
			return nil
		}))
	}
	s, err := Open(path, Options{})
	must(t, err)
	check(s, waits, sent)
	// One of each kind goes and another comes.
	must(t, s.Submit(func(tx storage.Tx) error {
		return errors.Join(tx.Offline().Delete(juliet, 1), tx.Peers().Acknowledged(1, 2),
			tx.Messages().Add(storage.Message{At: at, Stanza: "<message id='new'/>", Offline: juliet}),
			tx.Messages().Add(storage.Message{At: at, Stanza: "<message id='new'/>", Waiting: []storage.Waiting{{Peer: 1, Number: 4, Copies: 1}}}))
	}).Wait(within(t)))
	must(t, s.Close())
	must(t, Verify(path))
	s, err = Open(path, Options{}) // nothing to migrate
	must(t, err)
	defer s.Close()
	check(s, append(waits[1:], storage.OfflineMessage{Number: 3, Received: at, Stanza: "<message id='new'/>"}), [][]storage.Unacknowledged{
		{sent[0][2], {Number: 4, Copies: 1, At: at, Stanza: "<message id='new'/>"}}, sent[1]})
	must(t, Verify(path+".v3")) // the copy from before the migration
}

// TestBackup copies a store while it is written to. The copy is complete up to some commit.
func TestBackup(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Options{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	stopped := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer stopped()
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := appendOne(s, strings.Repeat("x", rand.N(5000))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 3 {
		var before int
		err := s.View(func(tx storage.Tx) (err error) { before, err = tx.Offline().Count(crowded); return err })
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, fmt.Sprint("copy", i))
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := s.Backup(f)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(); err != nil || info.Size() != n {
			t.Errorf("wrote %d bytes, %v, %v", n, info, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Verify(path); err != nil {
			t.Error(err)
		}
		copied, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var have int
		err = copied.View(func(tx storage.Tx) (err error) { have, err = tx.Offline().Count(crowded); return err })
		if err != nil || have < before {
			t.Errorf("%d messages in the copy, %d before it, %v", have, before, err)
		}
		if err := holds(copied, have); err != nil {
			t.Error(err)
		}
		if err := copied.Close(); err != nil {
			t.Error(err)
		}
	}
	stopped()
}

// stuckWriter takes nothing until it is released.
type stuckWriter struct{ entered, release chan struct{} }

func (w stuckWriter) Write(b []byte) (int, error) {
	select {
	case <-w.entered:
	default:
		close(w.entered)
	}
	<-w.release
	return len(b), nil
}

// TestBackupHoldsNobodyUp: while a backup is stuck, the file grows far beyond what it was, which
// would wait for the backup if bbolt had to map the file anew.
func TestBackupHoldsNobodyUp(t *testing.T) {
	s := openTest(t, Options{})
	w := stuckWriter{make(chan struct{}), make(chan struct{})}
	release := sync.OnceFunc(func() { close(w.release) })
	defer release() // before the store is closed, which waits for the backup
	done := make(chan error, 1)
	go func() { _, err := s.Backup(w); done <- err }()
	<-w.entered
	large := strings.Repeat("large ", 1<<17)
	for i := range 40 { // 30 MiB
		if err := appendOne(s, large); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := holds(s, i+1); err != nil {
				t.Error(err)
			}
		}
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestDamaged: a damaged file is an error that says so, of Open where a quick look shows it and of
// Verify wherever it is.
func TestDamaged(t *testing.T) {
	page := os.Getpagesize()
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, path string)
		opens  bool
	}{
		{"cut short", func(t *testing.T, path string) {
			must(t, os.Truncate(path, int64(3*page)))
		}, false},
		{"cut to pieces", func(t *testing.T, path string) {
			must(t, os.Truncate(path, 100))
		}, false},
		{"something else", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, bytes.Repeat([]byte("hello, world\n"), 5000), 0o600))
		}, false},
		{"another program's", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			edit(t, path, func(tx *bbolt.Tx) error {
				_, err := tx.CreateBucket([]byte("accounts"))
				return err
			})
		}, false},
		{"without version", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Delete(versionKey) })
		}, false},
		{"without a bucket", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("rosters")) })
		}, false},
		{"with a broken row", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("accounts")).Put(ownerKey(juliet), []byte{rowVersion, 0, 0, 0, 9})
			})
		}, true},
		{"with a client that has no name", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("clients")).Put(ownerKey(juliet), encodeClient(storage.Client{}))
			})
		}, true},
		{"with an account of a later kind", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error {
				row := encodeAccount(storage.Account{})
				row[0] = accountVersion + 1
				return tx.Bucket([]byte("accounts")).Put(ownerKey(juliet), row)
			})
		}, true},
		{"with a row from nowhere", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("offline")).Put([]byte("no owner"), encodeNumber(1))
			})
		}, true},
		{"without a message that waits", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("messages")).Delete(key(1)) })
		}, true},
		{"with a message that nobody has", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("messages")).Put(key(2), message{}.encode()) })
		}, true},
		{"with a wrong count of references", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("held")).Put(key(1), encodeNumber(2)) })
		}, true},
		{"with a chunk out of order", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error {
				l := listOf(1, jid.JID{})
				return tx.Bucket([]byte("heads")).Put(l[:], chunk{}.encode(0, []posting{{id: 2, number: 1}, {id: 1, number: 1}}))
			})
		}, true},
		{"with a list that lacks a message", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error {
				l := listOf(1, jid.JID{})
				return tx.Bucket([]byte("heads")).Put(l[:], chunk{}.encode(0, []posting{{id: 2, number: 99}}))
			})
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tombolo.db")
			fillStore(t, path)
			tc.damage(t, path)
			s, err := Open(path, Options{})
			if err == nil {
				s.Close()
			}
			if (err == nil) != tc.opens {
				t.Errorf("Open: %v", err)
			}
			err = Verify(path)
			t.Log(err)
			if err == nil {
				t.Error("Verify found nothing")
			}
		})
	}
}

// TestVerifyZeroedPages: Verify answers, whichever page of the copy is lost.
func TestVerifyZeroedPages(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Options{})
	for i := range 300 {
		if err := appendOne(s, fmt.Sprint(i, strings.Repeat("x", 200))); err != nil {
			t.Fatal(err)
		}
	}
	var whole bytes.Buffer
	if _, err := s.Backup(&whole); err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	found := 0
	for at := 2 * page; at < whole.Len(); at += page {
		path := filepath.Join(dir, "copy")
		damaged := bytes.Clone(whole.Bytes())
		clear(damaged[at : at+page])
		must(t, os.WriteFile(path, damaged, 0o600))
		if Verify(path) != nil {
			found++
		}
	}
	if found == 0 {
		t.Error("Verify found nothing")
	}
	t.Logf("%d of %d pages are in use", found, whole.Len()/page-2)
}

// edit changes a file behind the store's back.
func edit(t *testing.T, path string, fn func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	must(t, db.Update(fn))
	must(t, db.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzCheckRow: no row makes a decoder panic or reserve more memory than the row is long.
func FuzzCheckRow(f *testing.F) {
	key := ownerKey(juliet)
	f.Add(uint8(inAccounts), key, encodeAccount(storage.Account{JID: juliet, Credentials: make([]storage.Credential, 2)}))
	f.Add(uint8(inRosters), key, encodeNumber(7))
	f.Add(uint8(inRosters), appendJID(key[:len(key):len(key)], juliet), encodeItem(storage.RosterItem{Groups: []string{"a"}}))
	f.Add(uint8(inOffline), numberKey(key, 1), encodeStanza(time.Now(), "<message/>"))
	f.Add(uint8(inOffline), numberKey(key, 1), encodeOffline(holding{number: 7}))
	one := binary.BigEndian.AppendUint64(nil, 1)
	f.Add(uint8(inMessages), one, message{at: time.Now(), places: []place{{1, 2, "romeo@montague.example/a"}}, stanza: "<message/>"}.encode())
	f.Add(uint8(inHeld), one, encodeNumber(2))
	f.Add(uint8(inArchives), key, encodeNumber(1))
	f.Add(uint8(inOwners), one, encodeBlob(string(key)))
	f.Add(uint8(inRetired), one, encodeNumber(0))
	postings := chunk{}.encode(3, []posting{{1, 2, 3}, {5, 1, -1}})
	l := listOf(1, juliet)
	f.Add(uint8(inHeads), l[:], postings)
	f.Add(uint8(inChunks), l.chunk(1), postings)
	f.Add(uint8(inPeers), one, encodePeer(storage.Peer{Kind: storage.ClientPeer, State: []byte("state")}))
	f.Add(uint8(inCounts), one, encodeNumber(1<<32-1))
	f.Add(uint8(inSpool), append(one, one...), spooled{holding{number: 1}, storage.CarbonSent, 3, true}.encode())
	f.Add(uint8(inSpool), append(one, one...), spooled{holding{at: time.Now(), stanza: "<message/>"}, storage.Plain, 1, true}.encode())
	f.Add(uint8(inMarks), movedMark, encodeNumber(1))
	f.Add(uint8(inPresence), key, encodeStanza(time.Now(), ""))
	f.Add(uint8(inBlocklists), appendJID(key[:len(key):len(key)], juliet), encodeBlob(""))
	f.Add(uint8(inSecrets), []byte("name"), encodeBlob("value"))
	f.Add(uint8(inClients), append(key[:len(key):len(key)], "phone"...), encodeClient(storage.Client{
		Software: "Gajim", New: storage.Token{Sealed: []byte("sealed")}}))
	f.Add(uint8(inAccounts), key, []byte{rowVersion, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, in uint8, key, value []byte) {
		_ = buckets[int(in)%len(buckets)].check(key, value)
	})
}
