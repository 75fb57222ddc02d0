package sasl

import (
	"crypto/tls"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
)

const token = "WXZzciBwYmFmdmZnZiBqdmd1IGp2eXFhcmZm"

// tokenKeeper answers for the client of juliet, and counts what it is asked.
type tokenKeeper struct {
	asked  []string
	tokens Tokens
}

func (k *tokenKeeper) attempt(mechanisms ...string) *Attempt {
	return &Attempt{
		OfferedTokens: mechanisms,
		Binding: func(typ string) ([]byte, bool) {
			return []byte("binding"), typ != TLSUnique
		},
		Tokens: func(user, mechanism string) (Tokens, error) {
			k.asked = append(k.asked, user+" "+mechanism)
			return k.tokens, nil
		},
	}
}

// twoTokens has the token in the current slot and another in the new one.
func twoTokens() Tokens {
	return Tokens{
		Current: Token{Name: "current", Secret: []byte(token), Known: true},
		New:     Token{Name: "new", Secret: []byte("another"), Known: true},
		Epoch:   "epoch",
	}
}

// tokenMessage is what a client sends.
func tokenMessage(user, secret, binding string) []byte {
	return append([]byte(user+"\x00"), mac(hashOf("SCRAM-SHA-256"), []byte(secret), "Initiator"+binding)...)
}

// draft-schmaus-kitten-sasl-ht sections 3.1 and 3.2. The MACs come from Python's hmac.
func TestHashedToken(t *testing.T) {
	for _, tc := range []struct{ mechanism, initiator, responder string }{
		{"HT-SHA-256-NONE", "9097787461a184e0fa84ec00c1381190b6c4d16a8ec4453c7b2ac5e7fcf935ed",
			"4e513409631474863b986c9f3e8c1e27ca29d1d7ab9ed4097e7afd6007bf9c62"},
		{"HT-SHA-256-ENDP", "bdf42937505d2c88db1f78a7f780393bbe11be10553c2904446ef8a03fb23ccb",
			"d4329602b9b5cde9ca63ff862d04b1583a8fd7a706a584b09494d5ad9149a146"},
		{"HT-SHA-256-EXPR", "bdf42937505d2c88db1f78a7f780393bbe11be10553c2904446ef8a03fb23ccb",
			"d4329602b9b5cde9ca63ff862d04b1583a8fd7a706a584b09494d5ad9149a146"},
	} {
		proof, err := hex.DecodeString(tc.initiator)
		if err != nil {
			t.Fatal(err)
		}
		k := &tokenKeeper{tokens: twoTokens()}
		x := begin(t, tc.mechanism, k.attempt(tc.mechanism))
		if x.Identity() != "" || x.Epoch() != "" || x.Token() != "" {
			t.Error("somebody is authenticated before the proof")
		}
		answer, done, err := x.Step(append([]byte("Juliet\x00"), proof...))
		if err != nil || !done || hex.EncodeToString(answer) != tc.responder {
			t.Errorf("%s: %x, done %v, %v", tc.mechanism, answer, done, err)
		}
		if x.Identity() != "juliet" || x.Epoch() != "epoch" || x.Token() != "current" || x.Mechanism() != tc.mechanism {
			t.Errorf("%s: %q, epoch %q, token %q, by %s", tc.mechanism, x.Identity(), x.Epoch(), x.Token(), x.Mechanism())
		}
		if want := []string{"juliet " + tc.mechanism}; !slices.Equal(k.asked, want) {
			t.Errorf("asked %q, want %q", k.asked, want)
		}
		if _, _, err := x.Step(append([]byte("juliet\x00"), proof...)); err == nil {
			t.Error("a step after the end")
		}
	}
}

// XEP-0484 section 5.1: either slot, each answered with its own token.
func TestTokenSlots(t *testing.T) {
	const mechanism = "HT-SHA-256-NONE"
	for name, tc := range map[string]struct {
		change           func(*Tokens)
		secret           string
		token, condition string
	}{
		"current":                     {nil, token, "current", ""},
		"new":                         {nil, "another", "new", ""},
		"neither":                     {nil, "a third", "", NotAuthorized},
		"empty token":                 {nil, "", "", NotAuthorized},
		"the same in both":            {func(k *Tokens) { k.New.Secret = k.Current.Secret }, token, "new", ""},
		"only current":                {func(k *Tokens) { k.New.Known = false }, token, "current", ""},
		"only new":                    {func(k *Tokens) { k.Current.Known = false }, "another", "new", ""},
		"current is nobody's":         {func(k *Tokens) { k.Current.Known = false }, token, "", NotAuthorized},
		"new is nobody's":             {func(k *Tokens) { k.New.Known = false }, "another", "", NotAuthorized},
		"current has expired":         {func(k *Tokens) { k.Current.Expired = true }, token, "", CredentialsExpired},
		"new has expired":             {func(k *Tokens) { k.New.Expired = true }, "another", "", CredentialsExpired},
		"the other has expired":       {func(k *Tokens) { k.New.Expired = true }, token, "current", ""},
		"expired and wrong":           {func(k *Tokens) { k.New.Expired, k.Current.Expired = true, true }, "x", "", NotAuthorized},
		"expired and nobody's":        {func(k *Tokens) { k.Current.Expired, k.Current.Known = true, false }, token, "", NotAuthorized},
		"disabled":                    {func(k *Tokens) { k.Disabled = true }, token, "", AccountDisabled},
		"disabled, wrong token":       {func(k *Tokens) { k.Disabled = true }, "x", "", NotAuthorized},
		"disabled, token has expired": {func(k *Tokens) { k.Disabled, k.Current.Expired = true, true }, token, "", AccountDisabled},
	} {
		k := &tokenKeeper{tokens: twoTokens()}
		if tc.change != nil {
			tc.change(&k.tokens)
		}
		x := begin(t, mechanism, k.attempt(mechanism))
		answer, done, err := x.Step(tokenMessage("juliet", tc.secret, ""))
		if tc.condition != "" {
			wantCondition(t, name, err, tc.condition)
			if done || answer != nil || x.Identity() != "" || x.Epoch() != "" {
				t.Errorf("%s: answer %x, done %v, identity %q, epoch %q", name, answer, done, x.Identity(), x.Epoch())
			}
		} else if want := mac(hashOf("SCRAM-SHA-256"), []byte(tc.secret), "Responder"); err != nil || string(answer) != string(want) {
			t.Errorf("%s: answer %x, want %x, %v", name, answer, want, err)
		}
		if x.Token() != tc.token {
			t.Errorf("%s: token %q, want %q", name, x.Token(), tc.token)
		}
		if len(k.asked) != 1 {
			t.Errorf("%s: asked %q", name, k.asked)
		}
	}
}

func TestHashedTokenMalformed(t *testing.T) {
	const mechanism = "HT-SHA-256-NONE"
	proof := strings.Repeat("p", 32)
	for _, tc := range []struct{ message, condition string }{
		{"", MalformedRequest},
		{"\x00", MalformedRequest},
		{proof, MalformedRequest},
		{"juliet", MalformedRequest},
		{"juliet\x00", MalformedRequest},
		{"\x00" + proof, MalformedRequest},
		{"juliet\x00" + proof[1:], MalformedRequest},
		{"juliet\x00" + proof + "p", MalformedRequest},
		{"juliet\x00\x00" + proof, MalformedRequest},
		{"juliet\x00values\x00" + proof, MalformedRequest}, // HT2
		{"juli\xffet\x00" + proof, MalformedRequest},
		{"\x00juliet" + proof, MalformedRequest},
		{"juliet@example.com\x00" + proof, NotAuthorized},
		{"jul iet\x00" + proof, NotAuthorized},
		{strings.Repeat("j", 1024) + "\x00" + proof, NotAuthorized},
	} {
		k := &tokenKeeper{tokens: twoTokens()}
		_, _, err := begin(t, mechanism, k.attempt(mechanism)).Step([]byte(tc.message))
		wantCondition(t, tc.message, err, tc.condition)
		if len(k.asked) > 0 {
			t.Errorf("%q: asked %q", tc.message, k.asked)
		}
	}

	// 255 octets must be accepted (section 3.1).
	long := strings.Repeat("j", 255)
	k := &tokenKeeper{tokens: twoTokens()}
	x := begin(t, mechanism, k.attempt(mechanism))
	if _, _, err := x.Step(tokenMessage(long, token, "")); err != nil || x.Identity() != long {
		t.Errorf("a long name: %v, %q", err, x.Identity())
	}

	// A proof may hold any byte, NUL too.
	for i := range 2000 {
		secret := strings.Repeat("s", i)
		message := tokenMessage("juliet", secret, "")
		if !strings.Contains(string(message[len("juliet\x00"):]), "\x00") {
			continue
		}
		k := &tokenKeeper{tokens: Tokens{Current: Token{Name: "current", Secret: []byte(secret), Known: true}}}
		if _, _, err := begin(t, mechanism, k.attempt(mechanism)).Step(message); err != nil {
			t.Errorf("%x: %v", message, err)
		}
		break
	}
}

// XEP-0484 section 3.1: the mechanisms for tokens are announced apart from the others.
func TestTokensAreOfferedApart(t *testing.T) {
	both := []string{"HT-SHA-256-NONE", "PLAIN"}
	for _, tc := range []struct {
		mechanism string
		attempt   Attempt
		fine      bool
	}{
		{"HT-SHA-256-NONE", Attempt{OfferedTokens: both}, true},
		{"HT-SHA-256-NONE", Attempt{Offered: both}, false},
		{"PLAIN", Attempt{Offered: both}, true},
		{"PLAIN", Attempt{OfferedTokens: both}, false},
		{"HT-SHA-256-ENDP", Attempt{OfferedTokens: both}, false},
		{"HT-SHA-512-NONE", Attempt{OfferedTokens: []string{"HT-SHA-512-NONE"}}, false},
	} {
		if _, err := Server(tc.mechanism, &tc.attempt); tc.fine != (err == nil) {
			t.Errorf("%s of %q and %q: %v", tc.mechanism, tc.attempt.Offered, tc.attempt.OfferedTokens, err)
		}
	}
	want := []string{"HT-SHA-256-EXPR", "HT-SHA-256-UNIQ", "HT-SHA-256-ENDP", "HT-SHA-256-NONE"}
	if got := TokenMechanisms(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for i, want := range []string{TLSExporter, TLSUnique, TLSServerEndPoint, ""} {
		if got := TokenBinding(TokenMechanisms()[i]); got != want {
			t.Errorf("%s binds to %q", TokenMechanisms()[i], got)
		}
	}
}

func TestTokensWithoutAnswer(t *testing.T) {
	const mechanism = "HT-SHA-256-NONE"
	message := tokenMessage("juliet", token, "")
	a := (&tokenKeeper{}).attempt(mechanism)
	a.Tokens = nil // the client did not say who it is
	_, _, err := begin(t, mechanism, a).Step(message)
	wantCondition(t, "no name", err, NotAuthorized)

	disk := errors.New("disk on fire")
	a.Tokens = func(string, string) (Tokens, error) { return twoTokens(), disk }
	_, _, err = begin(t, mechanism, a).Step(message)
	wantCondition(t, "an error", err, TemporaryAuthFailure)
	if !errors.Is(err, disk) {
		t.Errorf("%v has lost its cause", err)
	}
}

// The bindings of real connections: a token proof made for one is worth nothing on another, nor by
// another mechanism.
func TestTokenBindings(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		here, elsewhere := handshake(t, version), handshake(t, version)
		for _, mechanism := range TokenMechanisms() {
			typ := TokenBinding(mechanism)
			try := func(binding string) error {
				a := (&tokenKeeper{tokens: twoTokens()}).attempt(mechanism)
				a.Binding = func(typ string) ([]byte, bool) { return TLSBinding(&here.server, here.leaf, typ) }
				_, _, err := begin(t, mechanism, a).Step(tokenMessage("juliet", token, binding))
				return err
			}
			ours, ok := TLSBinding(&here.client, here.leaf, typ)
			if typ != "" && ok != (typ != TLSUnique || version == tls.VersionTLS12) {
				t.Errorf("%s has %s: %v", tls.VersionName(version), typ, ok)
			}
			if typ != "" && !ok {
				wantCondition(t, mechanism+" where there is no such binding", try(""), NotAuthorized)
				continue
			}
			if err := try(string(ours)); err != nil {
				t.Errorf("%s: %v", mechanism, err)
			}
			if typ == "" {
				continue
			}
			theirs, _ := TLSBinding(&elsewhere.client, elsewhere.leaf, typ)
			wantCondition(t, mechanism+" with the binding of another connection", try(string(theirs)), NotAuthorized)
			wantCondition(t, mechanism+" without binding", try(""), NotAuthorized)
		}
		a := (&tokenKeeper{tokens: twoTokens()}).attempt("HT-SHA-256-EXPR")
		a.Binding = nil
		_, _, err := begin(t, "HT-SHA-256-EXPR", a).Step(tokenMessage("juliet", token, ""))
		wantCondition(t, "no bindings at all", err, NotAuthorized)
	}
}

// RFC 5929 section 3: both ends of a TLS 1.2 connection know it, and no other connection has it.
func TestTLSUnique(t *testing.T) {
	conn, other := handshake(t, tls.VersionTLS12), handshake(t, tls.VersionTLS12)
	ours, ok := TLSBinding(&conn.server, conn.leaf, TLSUnique)
	theirs, _ := TLSBinding(&conn.client, nil, TLSUnique)
	foreign, _ := TLSBinding(&other.server, other.leaf, TLSUnique)
	if !ok || len(ours) != 12 || string(ours) != string(theirs) || string(ours) == string(foreign) {
		t.Errorf("%x %v, the client has %x, another connection %x", ours, ok, theirs, foreign)
	}
}

func FuzzHashedToken(f *testing.F) {
	f.Add([]byte("juliet\x00"))
	f.Add(tokenMessage("juliet", "guessed", ""))
	f.Add([]byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, message []byte) {
		const mechanism = "HT-SHA-256-NONE"
		k := &tokenKeeper{tokens: twoTokens()}
		_, done, err := begin(t, mechanism, k.attempt(mechanism)).Step(message)
		if done || message != nil && !errors.As(err, new(*Failure)) {
			t.Errorf("%q: done %v, %v", message, done, err)
		}
	})
}
