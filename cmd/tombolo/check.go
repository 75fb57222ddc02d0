package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"mellium.im/xmpp/stanza"

	"tombolo/cmd/tombolo/internal/lab"
	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/xmpp"
)

// try makes the accounts, logs in as both and sees whether they find each other.
func (q *quickstart) try(ctx context.Context, file *settings.File, s *xmpp.Server) (err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	domain := file.Domain[0].Name
	kept, err := q.accounts(ctx, domain, s)
	if err != nil {
		return err
	}
	roots, err := q.trusted(file)
	if err != nil {
		return err
	}
	listeners := s.Addresses()
	t := newTranscript(q.out, "Checking it as two clients:")
	login := func(name string, prefer ...string) (*lab.Client, error) {
		for _, key := range prefer {
			if len(listeners[key]) == 0 {
				continue
			}
			who := lab.Account{JID: name + "@" + domain, Password: kept[name+"@"+domain],
				Address: listeners[key][0], Direct: key == "client_tls", Roots: roots}
			client, err := lab.Login(ctx, who)
			if err != nil {
				return nil, lab.Explain(err)
			}
			way := "STARTTLS"
			if who.Direct {
				way = "direct TLS"
			}
			t.step("%s logged in at %s: %s, %s, %s", name, who.Address, way, client.TLS(), lab.Mechanism)
			return client, nil
		}
		return nil, errors.New("there is no listener for clients")
	}
	alice, err := login("alice", "client", "client_tls")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, alice.Close()) }()
	bob, err := login("bob", "client_tls", "client")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bob.Close()) }()
	return converse(ctx, t, alice, bob)
}

// converse has two accounts of one server see each other's roster entry and presence and exchange a
// message each way. Priorities are negative and addresses full, so that whoever is logged in as alice
// or bob with a client of their own gets none of it.
func converse(ctx context.Context, t *transcript, alice, bob *lab.Client) error {
	for _, pair := range [][2]*lab.Client{{alice, bob}, {bob, alice}} {
		if _, err := pair[0].Roster(ctx); err != nil {
			return err
		}
		if err := pair[0].Announce(ctx, -1, "trying tombolo"); err != nil {
			return err
		}
	}
	for _, pair := range [][2]*lab.Client{{alice, bob}, {bob, alice}} {
		me, other := pair[0], pair[1]
		if err := subscribe(ctx, t, me, other); err != nil {
			return err
		}
		items, err := me.Roster(ctx)
		if err != nil {
			return err
		}
		t.step("%s's roster has %d contact(s), %s among them", name(me), len(items), name(other))
	}
	for _, pair := range [][2]*lab.Client{{alice, bob}, {bob, alice}} {
		me, other := pair[0], pair[1]
		_, err := me.Await(ctx, "the presence of "+name(other), func(e lab.Event) bool {
			return !e.Message && e.From.Equal(other.JID()) && e.Type == ""
		})
		if err != nil {
			return err
		}
		t.step("%s sees that %s is available", name(me), name(other))
	}
	for _, pair := range [][2]*lab.Client{{alice, bob}, {bob, alice}} {
		me, other := pair[0], pair[1]
		body := "Are you there? " + rand.Text()
		if err := me.Say(ctx, other.JID(), body); err != nil {
			return err
		}
		_, err := other.Await(ctx, "a message from "+name(me), func(e lab.Event) bool {
			return e.Message && e.From.Equal(me.JID()) && e.Body == body
		})
		if err != nil {
			return err
		}
		t.step("a message from %s reached %s", name(me), name(other))
	}
	t.end("All is well")
	return nil
}

// subscribe lets me see other's presence, unless it does already.
func subscribe(ctx context.Context, t *transcript, me, other *lab.Client) error {
	items, err := me.Roster(ctx)
	if err != nil {
		return err
	}
	theirs := other.JID().Bare()
	for _, item := range items {
		if item.JID.Equal(theirs) && slices.Contains([]string{"to", "both"}, item.Subscription) {
			return nil
		}
	}
	if err := me.Presence(ctx, theirs, stanza.SubscribePresence); err != nil {
		return err
	}
	if _, err := other.Await(ctx, "a request of "+name(me), subscription(me, stanza.SubscribePresence)); err != nil {
		return err
	}
	if err := other.Presence(ctx, me.JID().Bare(), stanza.SubscribedPresence); err != nil {
		return err
	}
	if _, err := me.Await(ctx, "the consent of "+name(other), subscription(other, stanza.SubscribedPresence)); err != nil {
		return err
	}
	t.step("%s subscribed to %s", name(me), name(other))
	return nil
}

// subscription matches a presence of a type from the account of a client.
func subscription(from *lab.Client, kind stanza.PresenceType) func(lab.Event) bool {
	return func(e lab.Event) bool {
		return !e.Message && e.From.Bare().Equal(from.JID().Bare()) && e.Type == string(kind)
	}
}

func name(c *lab.Client) string { return c.JID().Localpart() }

// A transcript prints what happened, with the time since it began.
type transcript struct {
	out   io.Writer
	begun time.Time
}

func newTranscript(out io.Writer, title string) *transcript {
	fmt.Fprintf(out, "\n%s\n", title)
	return &transcript{out, time.Now()}
}

func (t *transcript) step(format string, args ...any) {
	fmt.Fprintf(t.out, "%6d ms  %s\n", time.Since(t.begun).Milliseconds(), printable(fmt.Sprintf(format, args...)))
}

func (t *transcript) end(text string) {
	fmt.Fprintf(t.out, "%s: %d ms.\n", text, time.Since(t.begun).Milliseconds())
}
