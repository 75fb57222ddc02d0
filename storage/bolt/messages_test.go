package bolt

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// TestFullQueueTakesNothing: an operation that goes on after ErrFull has written nothing of that message.
func TestFullQueueTakesNothing(t *testing.T) {
	long := "<message>" + strings.Repeat("x", short) + "</message>"
	for name, m := range map[string]storage.Message{
		"short":    {Stanza: "<message/>"},
		"long":     {Stanza: long},
		"archived": {Stanza: "<message/>", Archived: []storage.Archived{{Owner: juliet, ID: 9, With: jid.MustParse("romeo@montague.example")}}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tombolo.db")
			s, err := Open(path, Options{})
			must(t, err)
			m.At, m.Offline, m.OfflineMax = time.Now(), juliet, 1
			must(t, s.Submit(func(tx storage.Tx) error {
				if err := tx.Messages().Add(storage.Message{At: m.At, Stanza: "<message/>", Offline: juliet}); err != nil {
					return err
				}
				if err := tx.Messages().Add(m); !errors.Is(err, storage.ErrFull) {
					t.Errorf("second of one: %v", err)
				}
				return nil
			}).Wait(within(t)))
			must(t, s.View(func(tx storage.Tx) error {
				if stats, err := tx.Archive().Stats(juliet); err != nil || stats.Messages != 0 {
					t.Errorf("the archive has %+v, %v", stats, err)
				}
				return nil
			}))
			must(t, s.Close())
			must(t, Verify(path))
		})
	}
}

// TestStanzasOutliveTheStore: what was read is no memory of the file, which is unmapped when the store is closed.
func TestStanzasOutliveTheStore(t *testing.T) {
	s := openTest(t, Options{})
	var want []string
	must(t, s.Submit(func(tx storage.Tx) error {
		if err := tx.Peers().Put(storage.Peer{ID: 1, Kind: storage.ClientPeer}); err != nil {
			return err
		}
		for i := range uint64(100) { // of one page, bbolt keeps a copy
			stanza := fmt.Sprintf("<message id='%d'>%s</message>", i, strings.Repeat("x", 200))
			want = append(want, stanza)
			err := errors.Join(tx.Messages().Add(storage.Message{At: time.Now(), Stanza: stanza, Offline: juliet}),
				tx.Messages().Add(storage.Message{At: time.Now(), Stanza: stanza, Waiting: []storage.Waiting{{Peer: 1, Number: i + 1}}}))
			if err != nil {
				return err
			}
		}
		return nil
	}).Wait(within(t)))
	var offline, waiting []string
	must(t, s.View(func(tx storage.Tx) error {
		list, err := tx.Offline().List(juliet, 0, 0)
		for _, m := range list {
			offline = append(offline, m.Stanza)
		}
		sent, err2 := tx.Peers().Waiting(1)
		for _, u := range sent {
			waiting = append(waiting, u.Stanza)
		}
		return errors.Join(err, err2)
	}))
	must(t, s.Close())
	if !slices.Equal(offline, want) || !slices.Equal(waiting, want) {
		t.Errorf("%d and %d messages, want %d", len(offline), len(waiting), len(want))
	}
}

// TestStanzaIsKeptOnce, wherever it waits.
func TestStanzaIsKeptOnce(t *testing.T) {
	romeo := jid.MustParse("romeo@montague.example")
	waiting := []storage.Waiting{{Peer: 1, Number: 1}, {Peer: 2, Number: 1}}
	for _, tc := range []struct {
		name string
		m    storage.Message
		rows int // of messages
	}{
		{"one peer", storage.Message{Waiting: waiting[:1]}, 0},
		{"one peer, and one that is gone", storage.Message{Waiting: []storage.Waiting{waiting[0], {Peer: 3, Number: 1}}}, 0},
		{"two peers", storage.Message{Waiting: waiting}, 1},
		{"an account", storage.Message{Offline: juliet}, 0},
		{"an account and a peer", storage.Message{Offline: juliet, Waiting: waiting[:1]}, 1},
		{"a peer, archived", storage.Message{Waiting: waiting[:1], Archived: []storage.Archived{{Owner: juliet, ID: 1, With: romeo}}}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openTest(t, Options{})
			tc.m.At, tc.m.Stanza = time.Now(), "<message><body>once</body></message>"
			must(t, s.Submit(func(tx storage.Tx) error {
				return errors.Join(tx.Peers().Put(storage.Peer{ID: 1, Kind: storage.ClientPeer}),
					tx.Peers().Put(storage.Peer{ID: 2, Kind: storage.ClientPeer}), tx.Messages().Add(tc.m))
			}).Wait(within(t)))
			must(t, s.read(func(tx *bbolt.Tx) error {
				copies := 0
				for _, b := range buckets {
					must(t, tx.Bucket([]byte(b.name)).ForEach(func(_, value []byte) error {
						copies += strings.Count(string(value), "once")
						return nil
					}))
				}
				if rows := tx.Bucket([]byte("messages")).Stats().KeyN; rows != tc.rows || copies != 1 {
					t.Errorf("%d rows of messages, want %d; the stanza is there %d times", rows, tc.rows, copies)
				}
				return nil
			}))
		})
	}
}
