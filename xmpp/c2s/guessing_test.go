package c2s_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"tombolo/xmpp/c2s"
	"tombolo/xmpp/meter"
	"tombolo/xmpp/ns"
)

const throttled = "limit: failed logins"

// guess tries a wrong password of romeo; it returns what the server says to that.
func guess(w *wire) string {
	return w.ask(authenticate("PLAIN", []byte("\x00romeo\x00wrong"), ""), "</failure>")
}

// TestTokensAreNotThrottled: who shares an address with somebody who guesses passwords may have to wait
// with a password, not with a token, which nobody guesses.
func TestTokensAreNotThrottled(t *testing.T) {
	counters := new(meter.Counters)
	s := serve(t, func(c *c2s.Config) { c.Tokens, c.Plain, c.Counters = true, true, counters })
	w, _ := s.dial(t, nil)
	got := w.ask(authenticate("PLAIN", []byte(plain("romeo")), "<request-token xmlns='"+ns.FAST+"' mechanism='HT-SHA-256-NONE'/>"), "</success>")
	token := attribute(t, got, "token")

	for range 2 {
		w, _ := s.dial(t, nil)
		guess(w)
		guess(w)
	}
	before := counters.All()[throttled]
	if before == 0 {
		t.Fatal("nobody was held up")
	}
	w, _ = s.dial(t, nil)
	fast := "<fast xmlns='" + ns.FAST + "'/>"
	for range 2 {
		w.ask(authenticate("HT-SHA-256-NONE", hashedToken("romeo", "stolen", nil), fast), "<not-authorized")
	}
	w.ask(authenticate("HT-SHA-256-NONE", hashedToken("romeo", token, nil), fast), "</success>")
	if now := counters.All()[throttled]; now != before {
		t.Errorf("somebody with a token was held up %d times", now-before)
	}
	// The guesser is not forgiven for it; who knows the password gets in.
	w, _ = s.dial(t, nil)
	w.ask(authenticate("PLAIN", []byte(plain("romeo")), ""), "</success>")
	if counters.All()[throttled] == before {
		t.Error("a token has made the guesses be forgotten")
	}
}

// TestGuessesBeyondTheDeadline has many connections guess at once, for which there are not enough turns
// before their time to log in is over: the others are refused, and nobody looks at what they sent.
func TestGuessesBeyondTheDeadline(t *testing.T) {
	const connections, login = 20, 6 * time.Second
	s := serve(t, func(c *c2s.Config) { c.Plain, c.Timing.Login, c.LoginTries = true, login, 10 })
	w, _ := s.dial(t, nil)
	for range 3 {
		guess(w)
	}
	var wires []*wire
	for range connections {
		w, _ := s.dial(t, nil)
		wires = append(wires, w)
	}
	var all sync.WaitGroup
	answers := make(chan string, connections)
	start := time.Now()
	for _, w := range wires {
		all.Go(func() { answers <- guess(w) })
	}
	all.Wait()
	turns := int(time.Since(start)/(login/6)) + 1
	close(answers)
	looked, refused := 0, 0
	for answer := range answers {
		switch {
		case strings.Contains(answer, "<not-authorized"):
			looked++
		case strings.Contains(answer, "<temporary-auth-failure"):
			refused++
		default:
			t.Errorf("a guess is answered by %s", answer)
		}
	}
	if looked > turns || refused == 0 {
		t.Errorf("in %d turns %d of %d guesses were looked at, and %d refused", turns, looked, connections, refused)
	}
}
