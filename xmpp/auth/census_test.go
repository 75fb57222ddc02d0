package auth

import (
	"bytes"
	"fmt"
	"testing"

	"tombolo/storage/mem"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/sasl"
)

// TestUnknownUsersHaveOldIterationsToo: the option was changed while there were accounts, and more than
// once. What a challenge says of somebody who does not exist it says of as many who do (RFC 6120 section
// 13.11).
func TestUnknownUsersHaveOldIterationsToo(t *testing.T) {
	store := newStore(t, mem.Options{})
	open := func(iterations int, mechanisms ...string) *Accounts {
		t.Helper()
		a, err := NewAccounts(store, Options{Iterations: iterations, Mechanisms: mechanisms})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	user := 0
	create := func(a *Accounts, n int) {
		t.Helper()
		for range n {
			user++
			if err := a.Create(t.Context(), jid.MustParse(fmt.Sprintf("u%d@example.com", user)), "pw"); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask := func(a *Accounts, user, mechanism string) sasl.Credential {
		t.Helper()
		c, err := a.Credentials("example.com")(user, mechanism)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const strangers = 1000
	// imagined counts strangers by their iterations of all mechanisms.
	imagined := func(a *Accounts) map[string]int {
		shares := make(map[string]int)
		for i := range strangers {
			var all string
			for _, m := range a.Mechanisms() {
				c := ask(a, fmt.Sprintf("nobody%d", i), m)
				if c.Known {
					t.Fatalf("nobody%d exists", i)
				}
				all += fmt.Sprintf("%d ", c.Iterations)
			}
			shares[all]++
		}
		return shares
	}
	want := func(what string, got map[string]int, percent map[string]int) {
		t.Helper()
		for all, n := range got {
			if d := n*100/strangers - percent[all]; d < -8 || d > 8 || percent[all] == 0 {
				t.Errorf("%s: %d of %d strangers have %q, want %d%%", what, n, strangers, all, percent[all])
			}
		}
		if len(got) != len(percent) {
			t.Errorf("%s: %v, want %v", what, got, percent)
		}
	}

	old := open(11, "SCRAM-SHA-1")
	want("no accounts", imagined(old), map[string]int{"11 ": 100})
	create(old, 10)
	raised := open(22, "SCRAM-SHA-1", "SCRAM-SHA-256")
	// Whoever lacks keys is asked for the iterations that he will have.
	want("raised", imagined(raised), map[string]int{"11 22 ": 100})
	before := ask(raised, "nobody1", "SCRAM-SHA-1")
	create(raised, 10)
	want("new accounts beside old ones", imagined(raised), map[string]int{"11 22 ": 50, "22 22 ": 50})
	want("the same after a restart", imagined(open(22, "SCRAM-SHA-1", "SCRAM-SHA-256")), map[string]int{"11 22 ": 50, "22 22 ": 50})
	for i := 1; i <= 10; i++ {
		if err := raised.SetPassword(t.Context(), jid.MustParse(fmt.Sprintf("u%d@example.com", i)), "another"); err != nil {
			t.Fatal(err)
		}
	}
	want("all passwords are set anew", imagined(raised), map[string]int{"22 22 ": 100})
	if after := ask(raised, "nobody1", "SCRAM-SHA-1"); bytes.Equal(after.Salt, before.Salt) {
		t.Error("a stranger whose password seems to be a new one has the old salt")
	}

	// An account with keys of one mechanism only is, by any other, like those that do not exist.
	create(open(22, "SCRAM-SHA-1"), 1)
	lacking := ask(raised, fmt.Sprintf("u%d", user), "SCRAM-SHA-256")
	if lacking.Known || lacking.Iterations != 22 || !bytes.Equal(lacking.Salt, ask(raised, fmt.Sprintf("u%d", user), "SCRAM-SHA-256").Salt) {
		t.Errorf("an account without these keys: %+v", lacking)
	}
}

func TestCensus(t *testing.T) {
	var c census
	if got := c.draw(0); got != nil {
		t.Errorf("an empty census has %v", got)
	}
	c.change([]int{1}, 3)
	c.change([]int{2}, 1)
	for place, want := range map[uint64]int{0: 2, 1<<62 - 1: 2, 1 << 62: 1, 1<<64 - 1: 1} {
		if got := c.draw(place); len(got) != 1 || got[0] != want {
			t.Errorf("at %x: %v, want %d", place, got, want)
		}
	}
	c.change([]int{2}, -1)
	if got := c.draw(0); len(got) != 1 || got[0] != 1 || len(c.groups) != 1 {
		t.Errorf("%v of %v", got, c.groups)
	}
}
