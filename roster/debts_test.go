package roster

import (
	"fmt"
	"testing"

	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stream"
)

// A lasting sink outlives a restart. Its client acknowledges what it gets when the test says so.
type lasting struct {
	*sink
	parcels []stream.Parcel
}

func (l *lasting) Track(e element.Element, note any, _ *stream.Gate) uint64 {
	l.Send(e)
	l.parcels = append(l.parcels, stream.Parcel{Element: e, Note: note})
	return 0
}
func (l *lasting) Managed() bool                           { return true }
func (l *lasting) Parked() bool                            { return false }
func (l *lasting) Peer() uint64                            { return 7 }
func (l *lasting) Changed()                                {}
func (l *lasting) Numbers(func(any) bool) []uint64         { return nil }
func (l *lasting) Settle() (written, lost []stream.Parcel) { return nil, l.parcels }
func (l *lasting) Forget()                                 {}

var _ session.Keeper = (*lasting)(nil)

// Pushes that a session has not acknowledged are noted on it, before the change is written, and so it is told what is so
// after a restart: of each that changed, or of all on the list where that were too many.
func TestDebts(t *testing.T) {
	for _, changes := range []int{1, maxDebts, maxDebts + 50} {
		t.Run(fmt.Sprint(changes), func(t *testing.T) {
			s := newServer(t, Options{}, "juliet@a.test")
			c := &client{server: s}
			l := &lasting{sink: (*sink)(c)}
			var err error
			if c.s, err = s.users.Bind(session.Binding{Full: jid.MustParse("juliet@a.test/phone"), Sink: l,
				Announce: func(*session.User, *session.Session) {}}); err != nil {
				t.Fatal(err)
			}
			c.s.SetInterested()
			c.s.Enable(ns.Blocking, true)
			other := s.login("juliet@a.test/other")
			acknowledge := func() {
				s.under("juliet@a.test", func(u hook.User) {
					parcels := l.parcels
					l.parcels = nil
					u.(*session.User).Arrived(parcels)
				})
			}
			owes := func(when string, want int) {
				t.Helper()
				s.under("juliet@a.test", func(u hook.User) {
					if got := owed(c.s); len(got) != want {
						t.Errorf("%s: %d are owed, want %d", when, len(got), want)
					}
				})
			}
			s.fail.Store(true)
			other.sends(blockCommand("block", "romeo@b.test"))
			s.quiet()
			owes("after a change that could not be written", 0)
			s.fail.Store(false)
			for i := range changes {
				other.sends(fmt.Sprintf("<iq type='set' id='i'><query xmlns='jabber:iq:roster'><item jid='c%d@b.test'/></query></iq>", i))
			}
			s.quiet()
			owes("after the changes", min(changes, maxDebts+1))
			pushes := func() (n int) {
				seen := make(map[string]bool)
				for _, st := range c.take() {
					for item := range st.Payload().Children() {
						if seen[item.Attr("jid")] = true; st.Payload().Is("query", ns.Roster) {
							n++
						}
					}
				}
				if n != len(seen) {
					t.Errorf("%d pushes of %d contacts", n, len(seen))
				}
				return n
			}
			if n := pushes(); n != changes {
				t.Errorf("%d pushes", n)
			}
			l.parcels = nil // as in a restart
			clear(s.contacts.Get(userOf(t, s)).debts)
			s.under("juliet@a.test", func(u hook.User) { s.restored(u, c.s) })
			if n := pushes(); n < changes {
				t.Errorf("%d pushes after the restart", n)
			}
			owes("until it has got them", min(changes, maxDebts+1))
			acknowledge()
			owes("when it has got them", 0)
			if n := len(s.contacts.Get(userOf(t, s)).debts); n != 0 {
				t.Errorf("%d debts are left", n)
			}
		})
	}
}

func userOf(t *testing.T, s *server) (u hook.User) {
	t.Helper()
	s.under("juliet@a.test", func(user hook.User) { u = user })
	return u
}
