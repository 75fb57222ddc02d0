package xmpp_test

import (
	"encoding/json"
	"strings"
	"testing"

	"tombolo/xmpp/ns"
)

// What an operator does to an account holds for a client that has logged in and not bound a resource
// yet as much as for a session: what it proved is no longer so.
func TestAccountChangesBetweenLoginAndBinding(t *testing.T) {
	g := newTarget(t, "limits.exempt = ['127.0.0.0/8']", "mallory", "juliet")
	call := func(t *testing.T, verb string, args map[string]string) {
		t.Helper()
		text, err := json.Marshal(args)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Call(t.Context(), verb, text); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(t *testing.T, account string){
		"disabled": func(t *testing.T, account string) { call(t, "user.disable", map[string]string{"account": account}) },
		"another password": func(t *testing.T, account string) {
			call(t, "user.passwd", map[string]string{"account": account, "password": "another one"})
		},
		"deleted": func(t *testing.T, account string) { call(t, "user.delete", map[string]string{"account": account}) },
		"deleted and made anew": func(t *testing.T, account string) {
			call(t, "user.delete", map[string]string{"account": account})
			call(t, "user.add", map[string]string{"account": account, "password": "another one"})
		},
		"disabled and enabled, with another password": func(t *testing.T, account string) {
			call(t, "user.disable", map[string]string{"account": account})
			call(t, "user.passwd", map[string]string{"account": account, "password": "another one"})
			call(t, "user.enable", map[string]string{"account": account})
		},
	} {
		t.Run(name, func(t *testing.T) {
			user := strings.ReplaceAll(strings.ReplaceAll(name, " ", ""), ",", "")
			if err := g.addAccount(user+"@a.test", "secret of "+user); err != nil {
				t.Fatal(err)
			}
			session := g.bound(t, user)
			between := g.authenticated(t, user)
			change(t, user+"@a.test")
			between.sendf("<iq type='set' id='bind'><bind xmlns='%s'/></iq>", ns.Bind)
			if got := between.rest(); strings.Contains(got, "<jid") || !strings.Contains(got, "<stream:error>") {
				t.Errorf("bound after that: %q", got)
			}
			if got := session.rest(); !strings.Contains(got, "<stream:error>") {
				t.Errorf("the session goes on: %q", got)
			}
		})
	}
	// Nobody else's session suffers.
	g.bound(t, "juliet").settled()
}
