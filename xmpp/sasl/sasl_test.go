package sasl

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestServerRefuses(t *testing.T) {
	for _, tc := range []struct {
		mechanism string
		offered   []string
	}{
		{"SCRAM-SHA-1", nil},
		{"SCRAM-SHA-1", []string{"SCRAM-SHA-1-PLUS", "SCRAM-SHA-256"}},
		{"PLAIN", []string{"SCRAM-SHA-1"}},
		{"plain", []string{"PLAIN"}},
		{"", []string{"PLAIN"}},
		{"X-UNHEARD-OF", []string{"X-UNHEARD-OF"}},
	} {
		x, err := Server(tc.mechanism, &Attempt{Offered: tc.offered})
		if x != nil || !errors.Is(err, ErrInvalidMechanism) {
			t.Errorf("%q of %q: %v, %v", tc.mechanism, tc.offered, x, err)
		}
		wantCondition(t, tc.mechanism, err, InvalidMechanism)
	}
	names := Mechanisms()
	for i, name := range names {
		begin(t, name, &Attempt{Offered: names, OfferedTokens: names})
		if slices.Index(names, name) != i {
			t.Errorf("%s is in the table twice", name)
		}
	}
}

// RFC 4616 section 2.
func TestPlain(t *testing.T) {
	for _, tc := range []struct{ message, identity, condition string }{
		{"\x00juliet\x00r0m30", "juliet", ""},
		{"\x00Juliet\x00r0m30", "juliet", ""},
		{"juliet\x00juliet\x00r0m30", "juliet", ""},
		{"romeo\x00juliet\x00r0m30", "", InvalidAuthzid},
		{"\x00juliet\x00r0m3", "", NotAuthorized},
		{"\x00romeo\x00r0m30", "", NotAuthorized},
		{"\x00ju liet\x00r0m30", "", NotAuthorized},
		{"\x00juliet@example.com\x00r0m30", "", NotAuthorized},
		{"", "", MalformedRequest},
		{"juliet", "", MalformedRequest},
		{"juliet\x00r0m30", "", MalformedRequest},
		{"\x00juliet\x00", "", MalformedRequest},
		{"\x00\x00r0m30", "", MalformedRequest},
		{"\x00juliet\x00r0m30\x00", "", MalformedRequest},
		{"\x00juliet\x00r0m30\xff", "", MalformedRequest},
	} {
		k := &keeper{t: t}
		x := begin(t, "PLAIN", k.attempt("PLAIN"))
		challenge, done, err := x.Step([]byte(tc.message))
		if tc.condition != "" {
			wantCondition(t, strings.ReplaceAll(tc.message, "\x00", "|"), err, tc.condition)
		} else if err != nil || !done || len(challenge) > 0 {
			t.Errorf("%q: challenge %q, done %v, %v", tc.message, challenge, done, err)
		}
		if x.Identity() != tc.identity {
			t.Errorf("%q: identity %q", tc.message, x.Identity())
		}
		if len(k.asked) > 1 {
			t.Errorf("%q: asked %q", tc.message, k.asked)
		}
	}
}

// RFC 4422 appendix A, XEP-0178.
func TestExternal(t *testing.T) {
	denied := errors.New("another name is in the certificate")
	prove := func(authzid string) (string, error) {
		switch authzid {
		case "", "example.com":
			return "example.com", nil
		case "nobody":
			return "", nil
		case "forbidden":
			return "", &Failure{Condition: InvalidAuthzid}
		}
		return "", denied
	}
	for _, tc := range []struct{ message, identity, condition string }{
		{"", "example.com", ""},
		{"example.com", "example.com", ""},
		{"example.net", "", NotAuthorized},
		{"nobody", "", NotAuthorized},
		{"forbidden", "", InvalidAuthzid},
		{"a\x00b", "", MalformedRequest},
		{"\xff", "", MalformedRequest},
	} {
		x := begin(t, "EXTERNAL", &Attempt{Offered: []string{"EXTERNAL"}, External: prove})
		challenge, done, err := x.Step([]byte(tc.message))
		if tc.condition != "" {
			wantCondition(t, tc.message, err, tc.condition)
		} else if err != nil || !done || len(challenge) > 0 {
			t.Errorf("%q: challenge %q, done %v, %v", tc.message, challenge, done, err)
		}
		if x.Identity() != tc.identity {
			t.Errorf("%q: identity %q", tc.message, x.Identity())
		}
	}
}

// RFC 6120 section 6.4.2: without an initial response the server asks with an empty challenge, and
// an initial response of no bytes is one.
func TestNoInitialResponse(t *testing.T) {
	x := begin(t, "PLAIN", (&keeper{t: t}).attempt("PLAIN"))
	challenge, done, err := x.Step(nil)
	if err != nil || done || challenge == nil || len(challenge) > 0 {
		t.Fatalf("challenge %#v, done %v, %v", challenge, done, err)
	}
	if _, done, err = x.Step([]byte("\x00juliet\x00r0m30")); err != nil || !done || x.Identity() != "juliet" {
		t.Errorf("done %v, %v, identity %q", done, err, x.Identity())
	}

	x = begin(t, "PLAIN", (&keeper{t: t}).attempt("PLAIN"))
	x.Step(nil)
	_, _, err = x.Step(nil)
	wantCondition(t, "silent twice", err, MalformedRequest)

	external := func(string) (string, error) { return "example.com", nil }
	x = begin(t, "EXTERNAL", &Attempt{Offered: []string{"EXTERNAL"}, External: external})
	if _, done, err := x.Step([]byte{}); err != nil || !done {
		t.Errorf("an empty initial response: done %v, %v", done, err)
	}
}

func TestFailure(t *testing.T) {
	cause := errors.New("cause")
	f := &Failure{NotAuthorized, cause}
	if !errors.Is(f, cause) || !errors.Is(f, &Failure{Condition: NotAuthorized}) || errors.Is(f, ErrInvalidMechanism) {
		t.Error("errors.Is on a failure")
	}
	if got := f.Error(); got != "sasl: not-authorized: cause" {
		t.Error(got)
	}
}
