package c2s

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/session"
)

// newRestorer is a server without streams whose store has the account a@a.test.
func newRestorer(t *testing.T, o mem.Options) *Server {
	t.Helper()
	store := mem.New(o)
	t.Cleanup(func() { store.Close() })
	users := session.New(store, time.Now)
	users.Start(hook.Join(), nil, nil)
	accounts, err := auth.NewAccounts(store, auth.Options{Iterations: 4096})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Store: store, Accounts: accounts, Users: users, Resume: time.Minute, Log: slog.New(slog.DiscardHandler)})
	write(t, s, func(tx storage.Tx) error {
		return tx.Accounts().Create(storage.Account{JID: jid.MustParse("a@a.test")})
	})
	return s
}

func write(t *testing.T, s *Server, fn func(storage.Tx) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Store.Submit(fn).Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func allPeers(t *testing.T, s *Server) (peers []storage.Peer) {
	t.Helper()
	err := s.Store.View(func(tx storage.Tx) (err error) {
		peers, err = tx.Peers().All()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return peers
}

// A record that is damaged costs its session, not the start of the server.
func TestRestoreDamagedRecord(t *testing.T) {
	for _, state := range []string{"", "{", "null", "{}", `{"Key":"AAAA","Full":"a@a.test/r"}`, `{"Full":"a@a.test/r"}`} {
		t.Run(state, func(t *testing.T) {
			s := newRestorer(t, mem.Options{})
			write(t, s, func(tx storage.Tx) error {
				return tx.Peers().Put(storage.Peer{ID: 7, Kind: storage.ClientPeer, State: []byte(state)})
			})
			if err := s.Restore(); err != nil {
				t.Fatal(err)
			}
			write(t, s, nil)
			if left := allPeers(t, s); len(left) != 0 {
				t.Errorf("it is there still: %v", left)
			}
		})
	}
}
