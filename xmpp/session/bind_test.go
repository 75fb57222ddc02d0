package session_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/mem"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// end is a sink that notes with what it was closed.
type end struct{ condition string }

func (*end) Send(element.Element)            {}
func (e *end) Close(err *stanza.StreamError) { e.condition = err.Condition }

// silent is a Router of nothing.
type silent struct{}

func (silent) Forward(*stanza.Stanza)               {}
func (silent) Deliver(*session.User, stanza.Stanza) {}
func (silent) Receive(*session.User, stanza.Stanza) {}

func registry(t *testing.T, accounts ...string) *session.Registry {
	t.Helper()
	store := mem.New(mem.Options{})
	t.Cleanup(func() { store.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, account := range accounts {
		if err := store.Submit(func(tx storage.Tx) error {
			return tx.Accounts().Create(storage.Account{JID: jid.MustParse(account)})
		}).Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	r := session.New(store, time.Now)
	r.Start(hook.Join(), silent{}, nil)
	return r
}

func bound(t *testing.T, r *session.Registry, account string) (list []string) {
	t.Helper()
	if err := r.Do(jid.MustParse(account), func(u *session.User) {
		for _, s := range u.Bound() {
			list = append(list, s.JID().Resource())
		}
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestNoGapBeforeBind: between the question whether a client may bind and its session, its
// permission may go. Who takes it finds no session to end then, so the question is asked again.
func TestNoGapBeforeBind(t *testing.T) {
	juliet := jid.MustParse("juliet@a.test")
	for name, test := range map[string]struct {
		meanwhile func(r *session.Registry)
		asked     int
		refused   bool
	}{
		"nothing happens":     {func(*session.Registry) {}, 1, false},
		"sessions are ended":  {func(r *session.Registry) { r.EndAll(juliet, nil, nil) }, 2, true},
		"of others":           {func(r *session.Registry) { r.EndAll(jid.MustParse("romeo@a.test"), nil, nil) }, 1, false},
		"the account is gone": {func(r *session.Registry) { r.Remove(juliet, nil, func(error) {}) }, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := registry(t, "juliet@a.test", "romeo@a.test")
			refusal := errors.New("not any more")
			asked, announced := 0, 0
			_, err := r.Bind(session.Binding{
				Full: jid.MustParse("juliet@a.test/balcony"), Sink: new(end),
				Valid: func() error {
					if asked++; asked > 1 {
						return refusal
					}
					test.meanwhile(r)
					return nil
				},
				Announce: func(*session.User, *session.Session) { announced++ },
			})
			if asked != test.asked || (err != nil) != test.refused || announced == 1 == test.refused {
				t.Errorf("asked %d times, announced %d times, %v", asked, announced, err)
			}
			if asked > 1 && !errors.Is(err, refusal) {
				t.Errorf("refused with %v", err)
			}
		})
	}
}

// TestOneSessionOfAClient: XEP-0386 section 3.2, RFC 6120 section 7.7.2.2, and the limit after both.
func TestOneSessionOfAClient(t *testing.T) {
	r := registry(t, "juliet@a.test")
	r.MaxSessions = 3
	bind := func(resource, client string) (*end, error) {
		sink := new(end)
		_, err := r.Bind(session.Binding{Full: jid.MustParse("juliet@a.test/" + resource), Client: client, Sink: sink,
			Announce: func(_ *session.User, s *session.Session) {
				if s.Client() != client {
					t.Errorf("client %q", s.Client())
				}
			}})
		return sink, err
	}
	first, _ := bind("1", "phone")
	second, _ := bind("2", "")
	third, _ := bind("3", "")
	for _, s := range []*end{first, second, third} {
		if s.condition != "" {
			t.Errorf("ended: %s", s.condition)
		}
	}
	if _, err := bind("4", "laptop"); !errors.Is(err, session.ErrTooMany) {
		t.Errorf("a session too many: %v", err)
	}
	if _, err := bind("5", "phone"); err != nil || first.condition != stanza.StreamConflict {
		t.Errorf("the client again: %v, its old session ended with %q", err, first.condition)
	}
	if _, err := bind("2", "laptop"); err != nil || second.condition != stanza.StreamConflict {
		t.Errorf("the resource again: %v, its old session ended with %q", err, second.condition)
	}
	if got := bound(t, r, "juliet@a.test"); !slices.Equal(got, []string{"3", "5", "2"}) {
		t.Errorf("bound: %q", got)
	}
}
