package sasl

import (
	"crypto/pbkdf2"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// credential is what a server keeps for a password.
func credential(t testing.TB, mechanism, password, salt string, iterations int) Credential {
	t.Helper()
	c := Credential{Salt: unbase64(t, salt), Iterations: iterations, Known: true}
	var err error
	if c.StoredKey, c.ServerKey, err = Derive(mechanism, password, c.Salt, iterations); err != nil {
		t.Fatal(err)
	}
	return c
}

// The example exchanges of the RFCs. The servers there have nonces that ours would not make, so
// the second step starts from what their first step said.
func TestRFCVectors(t *testing.T) {
	for _, tc := range []struct {
		rfc, mechanism, first, salt, serverFirst, nonce, final, serverFinal string
	}{
		{
			rfc: "RFC 5802 section 5", mechanism: "SCRAM-SHA-1",
			first:       "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
			salt:        "QSXCR+Q6sek8bf92",
			nonce:       "fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j",
			final:       "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
			serverFinal: "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
		},
		{
			rfc: "RFC 7677 section 3", mechanism: "SCRAM-SHA-256",
			first:       "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
			salt:        "W22ZaJ0SNY7soEsUEjb6gQ==",
			nonce:       "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
			final:       "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			serverFinal: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
		},
	} {
		t.Run(tc.rfc, func(t *testing.T) {
			first, err := parseClientFirst(tc.first)
			if err != nil {
				t.Fatal(err)
			}
			s := &scramState{
				first:       first,
				serverFirst: "r=" + tc.nonce + ",s=" + tc.salt + ",i=4096",
				nonce:       tc.nonce,
				user:        "user",
				credential:  credential(t, tc.mechanism, "pencil", tc.salt, 4096),
			}
			x := &Exchange{mechanism: tc.mechanism, attempt: &Attempt{}}
			got, err := x.scramFinal(s, tc.final)
			if err != nil || string(got) != tc.serverFinal {
				t.Errorf("server-final-message %q, %v, want %q", got, err, tc.serverFinal)
			}
			s.credential = credential(t, tc.mechanism, "pen", tc.salt, 4096)
			_, err = x.scramFinal(s, tc.final)
			wantCondition(t, "the keys of another password", err, NotAuthorized)
		})
	}
}

// The expected keys come from Python's hashlib; the password is prepared by OpaqueString: its
// decomposed letter is composed and its no-break space becomes a space (RFC 8265 section 4.2.2).
func TestDerive(t *testing.T) {
	salt := unbase64(t, "QSXCR+Q6sek8bf92")
	stored, server, err := Derive("SCRAM-SHA-512-PLUS", "pe\u0301ncil\u00a0x", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	const wantStored = "sFbvwIbSGRf6fphZFzD4CTl3msWcTflAvoScAWbXg7zlFXOv+ke2+AkPBg2mHpoDgrwbLaNKnc/xwO2y2Se6vA=="
	const wantServer = "zSqyqMzF+dsfv/ee+sDLefAHMD0vMP7ucwDQSGYiiMDtNK+47NeynJ7RA7zSeBDiZ8Gjmk5GKE/CxDgmjWo7Cg=="
	if got := base64.StdEncoding.EncodeToString(stored); got != wantStored {
		t.Errorf("stored key %s", got)
	}
	if got := base64.StdEncoding.EncodeToString(server); got != wantServer {
		t.Errorf("server key %s", got)
	}
	for _, password := range []string{"", "\x00", "a\u200bb", "\xff"} {
		if _, _, err := Derive("SCRAM-SHA-1", password, salt, 1); !errors.Is(err, ErrPassword) {
			t.Errorf("the password %q: %v", password, err)
		}
	}
	if _, _, err := Derive("PLAIN", "x", salt, 1); err == nil || errors.Is(err, ErrPassword) {
		t.Errorf("keys for PLAIN: %v", err)
	}
}

// keeper answers for one account, juliet with the password r0m30, and counts what it is asked.
type keeper struct {
	t     testing.TB
	asked []string
	// changed is applied to the credential of juliet.
	changed func(*Credential)
}

func (k *keeper) credentials(user, mechanism string) (Credential, error) {
	k.asked = append(k.asked, user+" "+mechanism)
	c := credential(k.t, mechanism, "r0m30", "QSXCR+Q6sek8bf92", 64)
	if user != "juliet" {
		c.Known = false // with keys that a client could even prove
	}
	if k.changed != nil {
		k.changed(&c)
	}
	return c, nil
}

func (k *keeper) verify(user, password string) (string, bool, error) {
	k.asked = append(k.asked, user+" PLAIN")
	return "epoch", user == "juliet" && password == "r0m30", nil
}

func (k *keeper) attempt(offered ...string) *Attempt {
	return &Attempt{
		Credentials: k.credentials,
		Verify:      k.verify,
		Offered:     offered,
		Binding: func(typ string) ([]byte, bool) {
			return []byte("data of " + typ), typ == TLSExporter || typ == TLSServerEndPoint
		},
	}
}

// clientFinalMessage makes the client's final message for a server's first, as RFC 5802 section 3
// says.
func clientFinalMessage(t testing.TB, mechanism, first, serverFirst, password string, binding []byte) string {
	t.Helper()
	parsed, err := parseClientFirst(first)
	if err != nil {
		t.Fatal(err)
	}
	nonce, _, _ := strings.Cut(serverFirst, ",")
	without := "c=" + base64.StdEncoding.EncodeToString(append([]byte(parsed.gs2), binding...)) + "," + nonce
	return prove(t, mechanism, parsed.bare, serverFirst, without, password)
}

// prove completes a client's final message with the proof over it.
func prove(t testing.TB, mechanism, bare, serverFirst, without, password string) string {
	t.Helper()
	fields := strings.Split(serverFirst, ",")
	var iterations int
	if _, err := fmt.Sscanf(fields[2], "i=%d", &iterations); err != nil {
		t.Fatal(err)
	}
	h := hashOf(mechanism)
	salted, err := pbkdf2.Key(h, password, unbase64(t, fields[1][2:]), iterations, h().Size())
	if err != nil {
		t.Fatal(err)
	}
	proof := mac(h, salted, "Client Key")
	subtle.XORBytes(proof, proof, mac(h, digest(h, proof), bare+","+serverFirst+","+without))
	return without + ",p=" + base64.StdEncoding.EncodeToString(proof)
}

func begin(t testing.TB, mechanism string, a *Attempt) *Exchange {
	t.Helper()
	x, err := Server(mechanism, a)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// converse runs a SCRAM exchange to its end, with edit applied to the final message.
func converse(t testing.TB, mechanism string, a *Attempt, first, password string, binding []byte,
	edit func(final string) string) (*Exchange, string, error) {
	t.Helper()
	x := begin(t, mechanism, a)
	challenge, done, err := x.Step([]byte(first))
	if err != nil {
		return x, "", err
	}
	if done || x.Identity() != "" {
		t.Fatal("authenticated by the first message")
	}
	final := clientFinalMessage(t, mechanism, first, string(challenge), password, binding)
	if edit != nil {
		final = edit(final)
	}
	data, done, err := x.Step([]byte(final))
	if err == nil && !done {
		t.Fatal("SCRAM goes on after the second message")
	}
	if (err == nil) != (x.Identity() != "") {
		t.Errorf("identity %q with the error %v", x.Identity(), err)
	}
	return x, string(data), err
}

func wantCondition(t testing.TB, what string, err error, condition string) {
	t.Helper()
	if !errors.Is(err, &Failure{Condition: condition}) {
		t.Errorf("%s: %v, want %s", what, err, condition)
	}
	var f *Failure
	if err != nil && !errors.As(err, &f) {
		t.Errorf("%s: %T is no *Failure", what, err)
	}
}

func TestSCRAM(t *testing.T) {
	for _, base := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		for name, tc := range map[string]struct {
			suffix, first string
			binding       string
		}{
			"no binding":            {"", "n,,n=juliet,r=abc", ""},
			"binding not offered":   {"", "y,,n=juliet,r=abc", ""},
			"tls-exporter":          {plusSuffix, "p=tls-exporter,,n=juliet,r=abc", "data of tls-exporter"},
			"tls-server-end-point":  {plusSuffix, "p=tls-server-end-point,,n=juliet,r=abc", "data of tls-server-end-point"},
			"user in capitals":      {"", "n,,n=Juliet,r=abc", ""},
			"authzid":               {"", "n,a=juliet,n=juliet,r=abc", ""},
			"optional extensions":   {"", "n,,n=juliet,r=abc,x=1,y=\u00fc=", ""},
			"all characters nonced": {"", "n,,n=juliet,r=!\"#$%&'()*+-./:;<=>?@[\\]^_`{|}~", ""},
		} {
			t.Run(base+tc.suffix+" "+name, func(t *testing.T) {
				k := &keeper{t: t}
				mechanism := base + tc.suffix
				x, data, err := converse(t, mechanism, k.attempt(mechanism), tc.first, "r0m30", []byte(tc.binding), nil)
				if err != nil {
					t.Fatal(err)
				}
				if x.Identity() != "juliet" || x.Mechanism() != mechanism {
					t.Errorf("%q by %q", x.Identity(), x.Mechanism())
				}
				if !strings.HasPrefix(data, "v=") {
					t.Errorf("additional data %q", data)
				}
				if want := []string{"juliet " + base}; !slices.Equal(k.asked, want) {
					t.Errorf("asked for %q, want %q", k.asked, want)
				}
				if _, _, err := x.Step([]byte("again")); err == nil {
					t.Error("a step after the end")
				}
			})
		}
	}
}

// RFC 5802 section 7: every way in which the first message can be wrong.
func TestSCRAMFirstRefused(t *testing.T) {
	const mechanism = "SCRAM-SHA-256"
	for _, tc := range []struct{ first, condition string }{
		{"", MalformedRequest},
		{"n", MalformedRequest},
		{"n,", MalformedRequest},
		{"n,,", MalformedRequest},
		{"n,n=juliet,r=abc", MalformedRequest},
		{"x,,n=juliet,r=abc", MalformedRequest},
		{"N,,n=juliet,r=abc", MalformedRequest},
		{"nn,,n=juliet,r=abc", MalformedRequest},
		{"p,,n=juliet,r=abc", MalformedRequest},
		{"p=,,n=juliet,r=abc", MalformedRequest},
		{"p=tls_exporter,,n=juliet,r=abc", MalformedRequest},
		{"p=tls-exporter,,n=juliet,r=abc", MalformedRequest}, // without -PLUS
		{"n,juliet,n=juliet,r=abc", MalformedRequest},
		{"n,a=,n=juliet,r=abc", MalformedRequest},
		{"n,a=x=y,n=juliet,r=abc", MalformedRequest},
		{"n,a=x\x00,n=juliet,r=abc", MalformedRequest},
		{"n,,n=juliet", MalformedRequest},
		{"n,,r=abc,n=juliet", MalformedRequest},
		{"n,,n=,r=abc", MalformedRequest},
		{"n,,u=juliet,r=abc", MalformedRequest},
		{"n,,n=juliet,r=", MalformedRequest},
		{"n,,n=juliet,r=a b", MalformedRequest},
		{"n,,n=juliet,r=a\u00fc", MalformedRequest},
		{"n,,n=juliet,r=a\x7f", MalformedRequest},
		{"n,,n=juliet,r=abc,", MalformedRequest},
		{"n,,n=juliet,r=abc,x", MalformedRequest},
		{"n,,n=juliet,r=abc,x=", MalformedRequest},
		{"n,,n=juliet,r=abc,1=2", MalformedRequest},
		{"n,,n=juliet,r=abc,x=\xff", MalformedRequest},
		{"n,,n=juliet,r=abc,n=romeo", MalformedRequest},
		{"n,,n=juliet,r=abc,m=1", MalformedRequest},
		{"n,,m=1,n=juliet,r=abc", MalformedRequest},
		{"n,,n=jul=iet,r=abc", MalformedRequest},
		{"n,,n=jul=2,r=abc", MalformedRequest},
		{"n,,n=jul=2c,r=abc", MalformedRequest},
		{"n,,n=juliet=,r=abc", MalformedRequest},
		{"n,,n=jul\xffiet,r=abc", MalformedRequest},
		{"n,,n=juliet\x00,r=abc", MalformedRequest},
		{"n,,n=juliet@example.com,r=abc", NotAuthorized}, // no localpart
		{"n,,n=jul iet,r=abc", NotAuthorized},
		{"n,,n=\u265a,r=abc", NotAuthorized},
	} {
		k := &keeper{t: t}
		x := begin(t, mechanism, k.attempt(mechanism))
		_, _, err := x.Step([]byte(tc.first))
		wantCondition(t, fmt.Sprintf("%q", tc.first), err, tc.condition)
		if len(k.asked) > 0 {
			t.Errorf("%q: asked for %q", tc.first, k.asked)
		}
		if _, _, err := x.Step([]byte("n,,n=juliet,r=abc")); err == nil {
			t.Errorf("%q: the exchange goes on after it", tc.first)
		}
	}
}

// RFC 5802 section 6: what protects against a downgrade.
func TestSCRAMChannelBinding(t *testing.T) {
	const base, plus = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
	for name, tc := range map[string]struct {
		mechanism string
		offered   []string
		first     string
		binding   string
		condition string
	}{
		"y though -PLUS was offered":         {base, []string{base, plus}, "y,,n=juliet,r=abc", "", NotAuthorized},
		"y though another -PLUS was offered": {base, []string{base, "SCRAM-SHA-1-PLUS"}, "y,,n=juliet,r=abc", "", NotAuthorized},
		"y with -PLUS":                       {plus, []string{plus}, "y,,n=juliet,r=abc", "", MalformedRequest},
		"n with -PLUS":                       {plus, []string{plus}, "n,,n=juliet,r=abc", "", MalformedRequest},
		"p without -PLUS":                    {base, []string{base, plus}, "p=tls-exporter,,n=juliet,r=abc", "", MalformedRequest},
		"tls-unique":                         {plus, []string{plus}, "p=tls-unique,,n=juliet,r=abc", "", NotAuthorized},
		"unknown type":                       {plus, []string{plus}, "p=x,,n=juliet,r=abc", "", NotAuthorized},
		"data of another connection":         {plus, []string{plus}, "p=tls-exporter,,n=juliet,r=abc", "data of a thief", NotAuthorized},
		"data of another type":               {plus, []string{plus}, "p=tls-exporter,,n=juliet,r=abc", "data of tls-server-end-point", NotAuthorized},
		"no data":                            {plus, []string{plus}, "p=tls-exporter,,n=juliet,r=abc", "", NotAuthorized},
		"data without -PLUS":                 {base, []string{base}, "n,,n=juliet,r=abc", "data of tls-exporter", NotAuthorized},
	} {
		k := &keeper{t: t}
		_, _, err := converse(t, tc.mechanism, k.attempt(tc.offered...), tc.first, "r0m30", []byte(tc.binding), nil)
		wantCondition(t, name, err, tc.condition)
	}
	// n is fine even though -PLUS was offered: a client may have no channel binding.
	k := &keeper{t: t}
	if _, _, err := converse(t, base, k.attempt(base, plus), "n,,n=juliet,r=abc", "r0m30", nil, nil); err != nil {
		t.Errorf("n beside -PLUS: %v", err)
	}
	a := k.attempt(plus)
	a.Binding = nil
	_, _, err := converse(t, plus, a, "p=tls-exporter,,n=juliet,r=abc", "r0m30", nil, nil)
	wantCondition(t, "no binding at all", err, NotAuthorized)
}

// TestSCRAMUnbindable plays a client that binds to tls-unique under TLS 1.3 and falls back to y, and
// those who would like to pass for it.
func TestSCRAMUnbindable(t *testing.T) {
	const base, plus, wish = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "p=tls-unique,,n=juliet,r=abc"
	k := &keeper{t: t}
	attempt := func() *Attempt {
		a := k.attempt(base, plus)
		a.TLSVersion = tls.VersionTLS13
		return a
	}
	finished := make([]byte, 32)
	after := func(what string, x *Exchange, err error, unbindable string) error {
		t.Helper()
		wantCondition(t, what, err, NotAuthorized)
		if x.Unbindable() != unbindable {
			t.Errorf("%s: unbindable is %q, want %q", what, x.Unbindable(), unbindable)
		}
		a := attempt()
		a.Unbindable = x.Unbindable()
		_, _, err = converse(t, base, a, "y,,n=juliet,r=abc", "r0m30", nil, nil)
		return err
	}

	x, _, err := converse(t, plus, attempt(), wish, "r0m30", finished, nil)
	if err := after("the user's own client", x, err, "juliet"); err != nil {
		t.Errorf("y after the user's own attempt to bind: %v", err)
	}
	for _, size := range []int{0, 12, 31, 33, 36, 64} {
		x, _, err = converse(t, plus, attempt(), wish, "r0m30", make([]byte, size), nil)
		what := fmt.Sprintf("y after a proof over %d bytes, which are no Finished of TLS 1.3", size)
		wantCondition(t, what, after(what, x, err, ""), NotAuthorized)
	}
	x, _, err = converse(t, plus, attempt(), wish, "r0m30", make([]byte, 48), nil)
	if err := after("SHA-384", x, err, "juliet"); err != nil {
		t.Errorf("y after an attempt to bind to 48 bytes: %v", err)
	}
	old := attempt() // TLS 1.2 has tls-unique, unless it is not safe there (RFC 7627)
	old.TLSVersion = tls.VersionTLS12
	x, _, err = converse(t, plus, old, wish, "r0m30", finished, nil)
	wantCondition(t, "y under TLS 1.2", after("TLS 1.2", x, err, ""), NotAuthorized)
	x, _, err = converse(t, plus, attempt(), wish, "wrong", finished, nil)
	wantCondition(t, "y after an attempt without the password", after("no password", x, err, ""), NotAuthorized)

	// The client sent y, because the list that it saw had no -PLUS; who stands between turned that
	// into an attempt to bind. The proof is the user's, but it is over the y.
	x = begin(t, plus, attempt())
	challenge, _, err := x.Step([]byte(wish))
	if err != nil {
		t.Fatal(err)
	}
	final := clientFinalMessage(t, base, "y,,n=juliet,r=abc", string(challenge), "r0m30", nil)
	_, _, err = x.Step([]byte(final))
	wantCondition(t, "y after a forged attempt to bind", after("forged", x, err, ""), NotAuthorized)

	a := attempt()
	a.Unbindable = "romeo"
	_, _, err = converse(t, base, a, "y,,n=juliet,r=abc", "r0m30", nil, nil)
	wantCondition(t, "y after another user's attempt to bind", err, NotAuthorized)
}

func TestSCRAMFinalRefused(t *testing.T) {
	const mechanism, first = "SCRAM-SHA-256", "n,,n=juliet,r=abc"
	replace := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("%q is not in %q", old, s)
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	proofOf := func(f func(proof string) string) func(string) string {
		return func(s string) string {
			before, proof, _ := strings.Cut(s, ",p=")
			return before + ",p=" + f(proof)
		}
	}
	for name, tc := range map[string]struct {
		edit      func(string) string
		condition string
	}{
		"empty":              {func(string) string { return "" }, MalformedRequest},
		"no proof":           {func(s string) string { return s[:strings.Index(s, ",p=")] }, MalformedRequest},
		"proof is not last":  {func(s string) string { return s + ",x=1" }, MalformedRequest},
		"proof twice":        {func(s string) string { return s + s[strings.Index(s, ",p="):] }, MalformedRequest},
		"no channel binding": {replace("c=biws,", ""), MalformedRequest},
		"attributes in another order": {func(s string) string {
			f := strings.Split(s, ",")
			return f[1] + "," + f[0] + "," + f[2]
		}, MalformedRequest},
		"mandatory extension": {replace(",p=", ",m=1,p="), MalformedRequest},
		"bad extension":       {replace(",p=", ",x,p="), MalformedRequest},
		"bad nonce":           {replace("r=abc", "r=a\x01bc"), MalformedRequest},
		"other nonce":         {replace("r=abc", "r=xyz"), NotAuthorized},
		"nonce cut":           {func(s string) string { return s[:strings.Index(s, ",p=")-1] + s[strings.Index(s, ",p="):] }, NotAuthorized},
		"other header":        {replace("c=biws", "c=eSws"), NotAuthorized}, // y,,
		"header not base64":   {replace("c=biws", "c=n,,"), MalformedRequest},
		"proof empty":         {proofOf(func(string) string { return "" }), MalformedRequest},
		"proof not base64":    {proofOf(func(string) string { return "!" }), MalformedRequest},
		"proof short":         {proofOf(func(string) string { return "AAAA" }), MalformedRequest},
		"proof of another hash": {proofOf(func(string) string {
			return base64.StdEncoding.EncodeToString(make([]byte, 20))
		}), MalformedRequest},
		"proof with a line break": {proofOf(func(p string) string { return p[:4] + "\n" + p[4:] }), MalformedRequest},
		"proof without padding":   {proofOf(func(p string) string { return strings.TrimRight(p, "=") }), MalformedRequest},
		"proof wrong": {proofOf(func(string) string {
			return base64.StdEncoding.EncodeToString(make([]byte, 32))
		}), NotAuthorized},
		// An extension is part of what the proof signs.
		"extension slipped in": {replace(",p=", ",x=1,p="), NotAuthorized},
	} {
		k := &keeper{t: t}
		_, _, err := converse(t, mechanism, k.attempt(mechanism), first, "r0m30", nil, tc.edit)
		wantCondition(t, name, err, tc.condition)
	}
}

// RFC 5802 section 5.1: the nonce must be the one that the server sent, even under a good proof.
func TestSCRAMNonce(t *testing.T) {
	const mechanism = "SCRAM-SHA-256"
	for name, edit := range map[string]func(nonce string) string{
		"":             func(nonce string) string { return nonce },
		"client's own": func(string) string { return "abc" },
		"another":      func(nonce string) string { return "abd" + nonce[3:] },
		"longer":       func(nonce string) string { return nonce + "x" },
	} {
		x := begin(t, mechanism, (&keeper{t: t}).attempt(mechanism))
		challenge, _, err := x.Step([]byte("n,,n=juliet,r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		nonce, _, _ := strings.Cut(strings.TrimPrefix(string(challenge), "r="), ",")
		final := prove(t, mechanism, "n=juliet,r=abc", string(challenge), "c=biws,r="+edit(nonce), "r0m30")
		_, _, err = x.Step([]byte(final))
		if name != "" {
			wantCondition(t, name, err, NotAuthorized)
		} else if err != nil {
			t.Error(err)
		}
	}
}

func TestSCRAMOutcomes(t *testing.T) {
	const mechanism = "SCRAM-SHA-256"
	for name, tc := range map[string]struct {
		first, password string
		changed         func(*Credential)
		authorize       func(authcid, authzid string) bool
		condition       string // empty: success
	}{
		"wrong password":              {first: "n,,n=juliet,r=abc", password: "x", condition: NotAuthorized},
		"unknown user":                {first: "n,,n=romeo,r=abc", password: "r0m30", condition: NotAuthorized},
		"disabled":                    {first: "n,,n=juliet,r=abc", password: "r0m30", changed: func(c *Credential) { c.Disabled = true }, condition: AccountDisabled},
		"disabled and wrong password": {first: "n,,n=juliet,r=abc", password: "x", changed: func(c *Credential) { c.Disabled = true }, condition: NotAuthorized},
		"escapes":                     {first: "n,a=j=2C=3Dt,n=juliet,r=abc", password: "r0m30", authorize: func(c, z string) bool { return c == "juliet" && z == "j,=t" }},
		"to act as another":           {first: "n,a=romeo,n=juliet,r=abc", password: "r0m30", condition: InvalidAuthzid},
		"refused by policy":           {first: "n,a=juliet,n=juliet,r=abc", password: "r0m30", authorize: func(string, string) bool { return false }, condition: InvalidAuthzid},
		"no authzid, no policy asked": {first: "n,,n=juliet,r=abc", password: "r0m30", authorize: func(string, string) bool { return false }},
		// Who has not proved anything learns nothing of the policy.
		"another and wrong password": {first: "n,a=romeo,n=juliet,r=abc", password: "x", condition: NotAuthorized},
	} {
		k := &keeper{t: t, changed: tc.changed}
		a := k.attempt(mechanism)
		a.Authorize = tc.authorize
		_, _, err := converse(t, mechanism, a, tc.first, tc.password, nil, nil)
		if tc.condition == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		wantCondition(t, name, err, tc.condition)
	}
}

// What a stranger can see and what the server does are the same for a user that exists and one
// that does not: one call, and a challenge of the same shape.
func TestUnknownUserLooksKnown(t *testing.T) {
	const mechanism = "SCRAM-SHA-256"
	type seen struct {
		calls     int
		challenge string
		condition string
	}
	look := func(user string) seen {
		k := &keeper{t: t}
		a := k.attempt(mechanism)
		a.Random = strings.NewReader(strings.Repeat("x", 18))
		x := begin(t, mechanism, a)
		first := "n,,n=" + user + ",r=abc"
		challenge, _, err := x.Step([]byte(first))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = x.Step([]byte(clientFinalMessage(t, mechanism, first, string(challenge), "wrong", nil)))
		var f *Failure
		if !errors.As(err, &f) {
			t.Fatalf("%s with a wrong password: %v", user, err)
		}
		return seen{len(k.asked), string(challenge), err.Error()}
	}
	if known, unknown := look("juliet"), look("romeo"); known != unknown {
		t.Errorf("known %+v, unknown %+v", known, unknown)
	}
}

func TestErrorsOfCallbacks(t *testing.T) {
	const mechanism = "SCRAM-SHA-256"
	disk := errors.New("disk on fire")
	for name, tc := range map[string]struct {
		err       error
		condition string
	}{
		"any":       {disk, TemporaryAuthFailure},
		"a failure": {fmt.Errorf("wrapped: %w", &Failure{CredentialsExpired, disk}), CredentialsExpired},
	} {
		a := &Attempt{
			Offered:     []string{mechanism, "PLAIN"},
			Credentials: func(string, string) (Credential, error) { return Credential{}, tc.err },
			Verify:      func(string, string) (string, bool, error) { return "", false, tc.err },
		}
		_, _, err := begin(t, mechanism, a).Step([]byte("n,,n=juliet,r=abc"))
		wantCondition(t, name, err, tc.condition)
		if !errors.Is(err, disk) {
			t.Errorf("%s: %v has lost its cause", name, err)
		}
		_, _, err = begin(t, "PLAIN", a).Step([]byte("\x00juliet\x00x"))
		wantCondition(t, name+" by PLAIN", err, tc.condition)
	}
	a := (&keeper{t: t}).attempt(mechanism)
	a.Random = strings.NewReader("short")
	_, _, err := begin(t, mechanism, a).Step([]byte("n,,n=juliet,r=abc"))
	wantCondition(t, "no randomness", err, TemporaryAuthFailure)
}

func TestNonces(t *testing.T) {
	const mechanism = "SCRAM-SHA-256"
	seen := map[string]bool{}
	for range 20 {
		challenge, _, err := begin(t, mechanism, (&keeper{t: t}).attempt(mechanism)).Step([]byte("n,,n=juliet,r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		nonce, _, _ := strings.Cut(string(challenge), ",")
		if !strings.HasPrefix(nonce, "r=abc") || len(nonce) != len("r=abc")+24 || seen[nonce] {
			t.Errorf("nonce %q", nonce)
		}
		seen[nonce] = true
	}
}

func FuzzSCRAM(f *testing.F) {
	f.Add("n,,n=juliet,r=abc", "c=biws,r=abc,p=AAAA")
	f.Add("y,a=x=2Cy,n=jul=3Diet,r=abc,x=1", "c=,r=a,x=1,p=")
	f.Add("p=tls-exporter,,n=\u00fc,r=!", "c=biws,r=abc,m=1,p=AAAA")
	f.Add("n,,m=1,n=u,r=a", ",p=")
	escape := strings.NewReplacer(",", "=2C", "=", "=3D").Replace
	f.Fuzz(func(t *testing.T, first, final string) {
		if m, err := parseClientFirst(first); err == nil {
			flag, authzid := string(m.flag), ""
			if m.flag == 'p' {
				flag += "=" + m.binding
			}
			if m.authzid != "" {
				authzid = "a=" + escape(m.authzid)
			}
			gs2, bare := flag+","+authzid+",", "n="+escape(m.user)+",r="+m.nonce
			if m.gs2 != gs2 || m.gs2+m.bare != first || m.bare != bare && !strings.HasPrefix(m.bare, bare+",") {
				t.Errorf("%q was read as %+v", first, m)
			}
		}
		if m, err := parseClientFinal(final); err == nil {
			start := "c=" + m.binding + ",r=" + m.nonce
			if m.withoutProof+",p="+m.proof != final ||
				m.withoutProof != start && !strings.HasPrefix(m.withoutProof, start+",") {
				t.Errorf("%q was read as %+v", final, m)
			}
		}
		for _, mechanism := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "PLAIN"} {
			x := begin(t, mechanism, (&keeper{t: t}).attempt(mechanism))
			for _, message := range []string{first, final} {
				if _, done, err := x.Step([]byte(message)); done && mechanism != "PLAIN" {
					t.Errorf("%s: %q, %q is a good proof", mechanism, first, final)
				} else if err != nil && !errors.As(err, new(*Failure)) {
					t.Errorf("%s: %q: %v is no *Failure", mechanism, message, err)
				}
			}
		}
	})
}
