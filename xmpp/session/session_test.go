package session_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// iq is one as it is read from a stream.
func iq(t *testing.T, typ, id, from, to, payload string) stanza.Stanza {
	t.Helper()
	e, err := element.ParseOne(fmt.Sprintf("<iq type='%s' id='%s' from='%s' to='%s'><query xmlns='x'>%s</query></iq>",
		typ, id, from, to, payload), ns.Client)
	if err != nil {
		t.Fatal(err)
	}
	st, err := stanza.Parse(e)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

const romeo, juliet = "romeo@a.test/orchard", "juliet@a.test/balcony"

func bind(t *testing.T) *session.Session {
	t.Helper()
	s, err := registry(t, "juliet@a.test").Bind(session.Binding{Full: jid.MustParse(juliet), Sink: new(end),
		Announce: func(*session.User, *session.Session) {}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestUnansweredRequestsAreSmall: a client that answers nothing makes the server remember who asked, and
// not what (RFC 6120 sections 8.2.3 and 13.12). Each is answered once for as often as it came.
func TestUnansweredRequestsAreSmall(t *testing.T) {
	const count, size = 100, 250_000
	s := bind(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range count {
		r := iq(t, "set", fmt.Sprint(i), romeo, juliet, strings.Repeat("y", size))
		for range 3 {
			s.Received(r)
		}
		s.Answered(iq(t, "result", fmt.Sprint(i), juliet, romeo, strings.Repeat("y", size)))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > count*size/10 {
		t.Errorf("%d requests of %d bytes take %d bytes", count, size, grown)
	}
	if s.Waiting() != 2*count {
		t.Errorf("%d wait", s.Waiting())
	}
	owed := make(map[string]int)
	for r := range s.Unanswered() {
		answer, ok := r.ErrorReply(stanza.ServiceUnavailable(""))
		if !ok || answer.To.String() != romeo || answer.From != s.JID() {
			t.Fatalf("the answer is %s", answer.Element)
		}
		owed[answer.ID]++
	}
	for i := range count {
		if owed[fmt.Sprint(i)] != 2 {
			t.Errorf("request %d is owed %d answers", i, owed[fmt.Sprint(i)])
		}
	}
}

// TestLongIDsCountAsSeveral: what is remembered of a request is bounded in bytes, too.
func TestLongIDsCountAsSeveral(t *testing.T) {
	s := bind(t)
	var list []stanza.Stanza
	for i := 0; s.Waiting() < 1000; i++ {
		r := iq(t, "get", fmt.Sprint(i, strings.Repeat("y", 10_000)), romeo, juliet, "")
		list = append(list, r)
		s.Received(r)
	}
	if len(list) > 60 {
		t.Errorf("%d ids of 10,000 bytes", len(list))
	}
	for _, r := range list {
		if answer := r.Result(); !s.Answered(answer) || s.Answered(answer) {
			t.Fatal("each is answered once")
		}
	}
	if s.Waiting() != 0 {
		t.Errorf("%d wait", s.Waiting())
	}
}
