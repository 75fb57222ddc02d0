package session_test

import (
	"context"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// A gone keeper is that of a session that has not got something.
type gone struct {
	end
	peer   uint64
	lost   []stream.Parcel
	forget func()
}

func (*gone) Track(element.Element, any, *stream.Gate) uint64 { return 0 }
func (*gone) Managed() bool                                   { return true }
func (*gone) Parked() bool                                    { return false }
func (g *gone) Peer() uint64                                  { return g.peer }
func (*gone) Numbers(func(any) bool) []uint64                 { return nil }
func (*gone) Changed()                                        {}
func (g *gone) Settle() (written, lost []stream.Parcel)       { return nil, g.lost }
func (g *gone) Forget()                                       { g.forget() }

// waits is a Router that keeps what it gets for the account.
type waits struct {
	silent
	journal *journal.Journal
}

func (w waits) Receive(u *session.User, st stanza.Stanza) {
	st, entry := w.journal.Open(st)
	entry.Offline(u.JID(), 0)
	entry.Submit(st, u.Submit)
}

// What a session loses with its end waits for others in the same transaction in which it does no more
// for that session, and that one is forgotten after: a crash finds each message once.
func TestLostMessagesMove(t *testing.T) {
	store := mem.New(mem.Options{})
	defer store.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	juliet := jid.MustParse("juliet@a.test")
	j, err := journal.New(store, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	r := session.New(store, time.Now)
	r.Start(hook.Join(), waits{journal: j}, j)
	var lost []stream.Parcel
	err = store.Submit(func(tx storage.Tx) error {
		if err := tx.Accounts().Create(storage.Account{JID: juliet}); err != nil {
			return err
		}
		if err := tx.Peers().Put(storage.Peer{ID: 7, Kind: storage.ClientPeer}); err != nil {
			return err
		}
		for n := uint64(3); n < 6; n++ {
			text := "<message from='romeo@a.test/x' to='juliet@a.test' type='chat'><body>x</body></message>"
			e, err := element.ParseOne(text, ns.Client)
			if err != nil {
				return err
			}
			lost = append(lost, stream.Parcel{Element: e, Number: n, Sent: time.Now()})
			if err := tx.Messages().Add(storage.Message{At: time.Now(), Stanza: text, Waiting: []storage.Waiting{{Peer: 7, Number: n}}}); err != nil {
				return err
			}
		}
		return nil
	}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var offline []storage.OfflineMessage
	var spool []storage.Unacknowledged
	var forgotten *storage.Ticket
	s, err := r.Bind(session.Binding{Full: jid.MustParse("juliet@a.test/x"), Announce: func(*session.User, *session.Session) {},
		Sink: &gone{peer: 7, lost: lost, forget: func() {
			forgotten = store.Submit(func(tx storage.Tx) (err error) {
				if offline, err = tx.Offline().List(juliet, 0, 0); err == nil {
					spool, err = tx.Peers().Waiting(7)
				}
				return err
			})
		}}})
	if err != nil {
		t.Fatal(err)
	}
	r.End(s, &stanza.StreamError{Condition: stanza.StreamReset})
	if forgotten == nil {
		t.Fatal("the session is not forgotten")
	}
	if err := forgotten.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if len(offline) != 3 || len(spool) != 0 {
		t.Errorf("when the session is forgotten %d of 3 wait for others, and %d for it", len(offline), len(spool))
	}
}
