package roster

import (
	"context"
	"encoding/json"
	"testing"
	"time"
)

// Operators change a roster the way its owner's client does.
func TestVerbs(t *testing.T) {
	s := newServer(t, Options{MaxItems: 2}, "romeo@a.test")
	s.befriends("romeo@a.test", "x@b.test", "both")
	c := s.login("romeo@a.test/home")
	c.sends(rosterGet)
	s.quiet()
	c.take()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	call := func(verb, args string) (string, error) {
		result, err := s.verbs()[verb](ctx, []byte(args))
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(result)
		return string(text), err
	}
	if _, err := call("roster.add", `{"account":"romeo@a.test","contact":"Y@b.test/r","name":"Y","groups":["g"]}`); err != nil {
		t.Fatal(err)
	}
	c.gets("iq push query: <item jid='y@b.test' name='Y' subscription='none'><group>g</group></item>")
	got, err := call("roster.list", `{"account":"romeo@a.test"}`)
	want := `[{"jid":"x@b.test","subscription":"both","listed":true},` +
		`{"jid":"y@b.test","name":"Y","groups":["g"],"subscription":"none","listed":true}]`
	if err != nil || got != want {
		t.Errorf("list: %s, %v", got, err)
	}
	for _, args := range []string{
		`{"account":"romeo@a.test","contact":"z@b.test"}`,
		`{"account":"romeo@a.test","contact":"y@b.test","groups":["g","g"]}`,
		`{"account":"romeo@a.test","contact":"romeo@a.test"}`,
		`{"account":"romeo@a.test"}`,
		`{"account":"nobody@a.test","contact":"y@b.test"}`,
		`{"account":"@","contact":"y@b.test"}`,
	} {
		if _, err := call("roster.add", args); err == nil {
			t.Errorf("add %s: no error", args)
		}
	}
	if _, err := call("roster.remove", `{"account":"romeo@a.test","contact":"x@b.test"}`); err != nil {
		t.Fatal(err)
	}
	c.gets("iq push query: <item jid='x@b.test' subscription='remove'/>")
	s.routed("presence unsubscribe romeo@a.test > x@b.test", "presence unsubscribed romeo@a.test > x@b.test")
	if _, err := call("roster.remove", `{"account":"romeo@a.test","contact":"x@b.test"}`); err == nil {
		t.Error("removed twice")
	}
	if _, err := call("roster.list", `{"account":"nobody@a.test"}`); err == nil {
		t.Error("listed a roster of nobody")
	}
}
