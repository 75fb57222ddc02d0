package xmpp_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// A domain that has proved itself speaks for itself, on this stream, to the domain that it connected
// to; who EXTERNAL has authenticated is nobody else.
func TestExternalAsOneStanzasAsAnother(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "romeo")
	romeo := g.online(t, "romeo")
	for _, from := range []string{"u@c.test", "u@x.b.test", "u@test", "romeo@a.test", "a.test", "u@b.test.c.test", "u@bb.test", "b.test@c.test", "u@b.test@c.test", "c.test/b.test", "u@c.test/u@b.test"} {
		for _, stanza := range []string{"<message from='%s' to='romeo@a.test'><body>x</body></message>", "<presence from='%s' to='romeo@a.test' type='subscribe'/>",
			"<presence from='%s' to='romeo@a.test'/>", "<iq from='%s' to='romeo@a.test/x' type='get' id='1'><query xmlns='jabber:iq:version'/></iq>"} {
			w := g.server(t, "b.test")
			w.sendf(stanza, from)
			w.refused("invalid-from", "improper-addressing")
		}
	}
	for _, authzid := range []string{"c.test", "a.test", "romeo@a.test", "u@b.test", "x.b.test"} {
		w := g.dial(t, "server")
		w.serverHeader("b.test")
		w.expect(endOfFeatures)
		w.send(streamTLS)
		w.expect("<proceed xmlns='" + ns.StartTLS + "'/>")
		cert := g.lab.keyPair(t, "b.test")
		w.secure(g.lab, &cert)
		w.serverHeader("b.test")
		w.expect(endOfFeatures)
		w.sendf("<auth xmlns='%s' mechanism='EXTERNAL'>%s</auth>", ns.SASL, base64.StdEncoding.EncodeToString([]byte(authzid)))
		if got := w.expect(">"); !strings.HasPrefix(got, "<failure") {
			t.Errorf("EXTERNAL as %s: %s", authzid, got)
		}
	}
	if got := romeo.settled(); got != "" {
		t.Errorf("romeo got %q", got)
	}
}

// Somebody elsewhere with the name of somebody here is somebody else: also where that one may do what
// others may not.
func TestRemoteUserNamedLikeALocalOne(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']\n[[domain]]\nname = 'a.test'\nadmins = ['root@a.test']", "root", "romeo")
	root := g.online(t, "root")
	b := g.server(t, "b.test")
	for i, request := range []string{
		"set><query xmlns='jabber:iq:roster'><item jid='mallory@b.test'/></query>", "get><query xmlns='jabber:iq:roster'/>",
		"set><vCard xmlns='vcard-temp'><FN>x</FN></vCard>", "get><query xmlns='jabber:iq:private'><a xmlns='urn:a'/></query>",
		"set><block xmlns='urn:xmpp:blocking'><item jid='romeo@a.test'/></block>", "get><blocklist xmlns='urn:xmpp:blocking'/>",
		"set><query xmlns='jabber:iq:register'><username>root</username><password>x</password></query>", "set><query xmlns='jabber:iq:register'><remove/></query>",
		"get><list xmlns='urn:xmpp:cam:0'/>", "set><revoke xmlns='urn:xmpp:cam:0' id='x'/>", "get><query xmlns='jabber:iq:last'/>",
		"set><command xmlns='http://jabber.org/protocol/commands' node='http://jabber.org/protocol/admin#add-user' action='execute'/>",
	} {
		typ, payload, _ := strings.Cut(request, ">")
		for _, to := range []string{"root@a.test", "a.test"} {
			b.sendf("<iq from='root@b.test/x' to='%s' id='%d' type='%s'>%s</iq>", to, i, typ, payload)
		}
	}
	b.send(closing)
	if got := b.rest(); strings.Contains(got, "<stream:error>") {
		t.Errorf("b.test got %q", got) // so all have been read
	}
	account, items := g.accountOf(t, "root")
	if account.Disabled || len(items) != 0 {
		t.Errorf("%+v, %+v", account, items)
	}
	again := g.authenticated(t, "root") // the password is the old one
	again.bind("y")
	if got := root.settled(); got != "" {
		t.Errorf("root got %q", got)
	}
}

// An address that its own server takes for another one than we do is who it is here, or nobody: it is
// never taken for a contact that it is not, nor let through in a form that a client might do so with.
func TestAddressesInAnotherNormalForm(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "romeo", "mallory")
	romeo := g.online(t, "romeo")
	owner, contact := jid.MustParse("romeo@a.test"), jid.MustParse("juliet@b.test")
	ctx := t.Context()
	if err := g.store.Submit(func(tx storage.Tx) error {
		return tx.Rosters().Put(owner, storage.RosterItem{Contact: contact, Listed: true, To: true, From: true}, 1)
	}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for _, local := range []string{"juliet", "JULIET", "Juliet", "ｊｕｌｉｅｔ", "jul\u00adiet", "jul\u200diet", "julıet", "julİet", "júliet", "ju\u0301liet", "jul iet",
		"julⅰet", "𝐣uliet", "juliet\u00a0", "juliet.", "juliet\\20", "ᴊuliet", "julie\u0442", "\u212aa", "ka", "straße", "STRASSE", "ﬁ", "fi", "ﬀ", "σς", "ΣΣ", "\u202ejuliet", "\U000e0041juliet"} {
		for _, domain := range []string{"b.test", "B.TEST", "b.test.", "ｂ.test", "b。test", "b.te\u00adst"} {
			sent := local + "@" + domain
			want, err := jid.Parse(sent)
			w := g.server(t, "b.test")
			w.sendf("<message from='%s' to='romeo@a.test' id='m'><body>x</body></message>", sent)
			w.sendf("<presence from='%s' to='romeo@a.test' type='unavailable'/>", sent)
			if err != nil || want != contact {
				w.sendf("<presence from='%s' to='romeo@a.test' type='unsubscribed'/>", sent)
				w.sendf("<presence from='%s' to='romeo@a.test' type='unsubscribe'/>", sent)
			}
			w.send(closing)
			w.rest()
			for _, e := range elements(t, romeo.settled()) {
				from := e.attr("from")
				got, parseErr := jid.Parse(from)
				switch {
				case err != nil:
					t.Errorf("from %q, which is no address: romeo got %s", sent, e)
				case parseErr != nil || got.String() != from:
					t.Errorf("from %q: romeo got one from %q, whose normal form is %q (%v)", sent, from, got, parseErr)
				case got.Bare() != want.Bare() && e.name.Local != "iq":
					t.Errorf("from %q: romeo got one from %q, want %q", sent, from, want)
				}
			}
			if _, items := g.accountOf(t, "romeo"); len(items) != 1 || !items[0].To || !items[0].From || items[0].Contact != contact {
				t.Fatalf("from %q: the roster is %+v", sent, items)
			}
		}
	}
	// The other way round, a recipient is found by our normal form.
	for to, here := range map[string]bool{"ROMEO@A.TEST": true, "ｒｏｍｅｏ@a.test": true, "romeo@ａ.test": true, "rom eo@a.test": false, "roméo@a.test": false} {
		w := g.server(t, "b.test")
		w.sendf("<message from='juliet@b.test' to='%s' id='m'><body>x</body></message>", to)
		w.send(closing)
		w.rest()
		list := elements(t, romeo.settled())
		if (len(list) == 1) != here || here && list[0].attr("to") != "romeo@a.test" {
			t.Errorf("to %q: romeo got %v", to, list)
		}
		w = g.bound(t, "mallory")
		w.sendf("<message to='%s' id='m'><body>x</body></message>", to)
		w.settled()
		list = elements(t, romeo.settled())
		if (len(list) == 1) != here || here && list[0].attr("to") != "romeo@a.test" {
			t.Errorf("to %q by a user: romeo got %v", to, list)
		}
	}
}

func (g *target) accountOf(t testing.TB, name string) (account storage.Account, items []storage.RosterItem) {
	t.Helper()
	owner := jid.MustParse(name + "@a.test")
	err := g.store.View(func(tx storage.Tx) error {
		var err error
		if account, err = tx.Accounts().Get(owner); err != nil {
			return err
		}
		r, err := tx.Rosters().Get(owner)
		items = r.Items
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return account, items
}
