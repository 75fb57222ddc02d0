package sasl

import (
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

// The example exchanges of XEP-0474 section 6.3 and XEP-0515 section 4.3, from the mechanisms and
// binding types that their stream features announce.
func TestDowngradeProtectionExamples(t *testing.T) {
	const (
		mechanism = "SCRAM-SHA-1-PLUS"
		nonce     = "12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6a09117a6-ac50-4f2f-93f1-93799c2bddf6"
		fakeData  = "THIS IS FAKE CB DATA"
	)
	for _, tc := range []struct {
		xep               string
		version           uint16
		extensions        string
		final, finalReply string
	}{
		{
			xep: "XEP-0474", extensions: ",h=G6k/rBLDqgOhRRaCuuatSDFkJ08=",
			final: "c=cD10bHMtZXhwb3J0ZXIsLFRISVMgSVMgRkFLRSBDQiBEQVRB,r=" + nonce +
				",x=19C6532F-1CF4-4A27-A18D-DC9CEA41BBB3,p=M/SIDjT+dfcxUh89jZEypRvFxB4=",
			finalReply: "v=MQrMPvv7yv4x4Cq4W4Ih25EqS2c=",
		},
		{
			xep: "XEP-0515", version: 0x0304, extensions: ",h=G6k/rBLDqgOhRRaCuuatSDFkJ08=,t=0304",
			final:      "c=cD10bHMtZXhwb3J0ZXIsLFRISVMgSVMgRkFLRSBDQiBEQVRB,r=" + nonce + ",p=KHUfN8dSy1K95crT4D5y1ItLJfs=",
			finalReply: "v=3w34ZIMVRkx2f2Ozb3/ecRPVdv4=",
		},
	} {
		t.Run(tc.xep, func(t *testing.T) {
			x := &Exchange{mechanism: mechanism, attempt: &Attempt{
				Offered:         []string{"SCRAM-SHA-1", "SCRAM-SHA-1-PLUS"},
				OfferedBindings: []string{"tls-server-end-point", "tls-exporter"},
				TLSVersion:      tc.version,
				Binding:         func(typ string) ([]byte, bool) { return []byte(fakeData), typ == TLSExporter },
			}}
			extensions := x.downgradeProtection()
			if extensions != tc.extensions {
				t.Fatalf("%q, want %q", extensions, tc.extensions)
			}
			first, err := parseClientFirst("p=tls-exporter,,n=user,r=12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6")
			if err != nil {
				t.Fatal(err)
			}
			s := &scramState{
				first:       first,
				serverFirst: "r=" + nonce + ",s=QSXCR+Q6sek8bf92,i=4096" + extensions,
				nonce:       nonce,
				user:        "user",
				credential:  credential(t, mechanism, "pencil", "QSXCR+Q6sek8bf92", 4096),
			}
			got, err := x.scramFinal(s, tc.final)
			if err != nil || string(got) != tc.finalReply {
				t.Errorf("%q, %v, want %q", got, err, tc.finalReply)
			}
			// Whoever takes the extensions out, or changes them, has spoilt the proof.
			for _, changed := range []string{"", strings.Replace(extensions, "G6k", "G6j", 1)} {
				s.serverFirst = "r=" + nonce + ",s=QSXCR+Q6sek8bf92,i=4096" + changed
				_, err = x.scramFinal(s, tc.final)
				wantCondition(t, "extensions "+changed, err, NotAuthorized)
			}
		})
	}
}

// XEP-0474 section 6.1: what is hashed, in which order, by which hash; XEP-0515 section 4.1.
func TestDowngradeProtection(t *testing.T) {
	of1, of256 := func(s string) string {
		sum := sha1.Sum([]byte(s))
		return ",h=" + base64.StdEncoding.EncodeToString(sum[:])
	}, func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return ",h=" + base64.StdEncoding.EncodeToString(sum[:])
	}
	for name, tc := range map[string]struct {
		mechanism string
		attempt   Attempt
		want      string
	}{
		"one mechanism": {"SCRAM-SHA-1", Attempt{Offered: []string{"SCRAM-SHA-1"}}, of1("SCRAM-SHA-1")},
		"no bindings": {"SCRAM-SHA-1", Attempt{Offered: []string{"SCRAM-SHA-256", "PLAIN", "SCRAM-SHA-1"}},
			of1("PLAIN\x1eSCRAM-SHA-1\x1eSCRAM-SHA-256")},
		"the mechanism's hash": {"SCRAM-SHA-256-PLUS", Attempt{Offered: []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"},
			OfferedBindings: []string{"tls-unique", "tls-exporter"}, TLSVersion: 0x0303},
			of256("SCRAM-SHA-256\x1eSCRAM-SHA-256-PLUS\x1ftls-exporter\x1etls-unique") + ",t=0303"},
		"by octets": {"SCRAM-SHA-1", Attempt{Offered: []string{"a", "B", "A-", "A", "SCRAM-SHA-1"}},
			of1("A\x1eA-\x1eB\x1eSCRAM-SHA-1\x1ea")},
		"tokens are not in it": {"SCRAM-SHA-1", Attempt{Offered: []string{"SCRAM-SHA-1"}, OfferedTokens: []string{"HT-SHA-256-NONE"}},
			of1("SCRAM-SHA-1")},
	} {
		if got := (&Exchange{mechanism: tc.mechanism, attempt: &tc.attempt}).downgradeProtection(); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}

	// On the wire, after what every client expects, and without a change to the list offered.
	k := &keeper{t: t}
	a := k.attempt("SCRAM-SHA-512", "SCRAM-SHA-1")
	a.TLSVersion = 0x0304
	challenge, _, err := begin(t, "SCRAM-SHA-1", a).Step([]byte("n,,n=juliet,r=abc"))
	if err != nil || !strings.HasSuffix(string(challenge), ",i=64"+of1("SCRAM-SHA-1\x1eSCRAM-SHA-512")+",t=0304") {
		t.Errorf("%q, %v", challenge, err)
	}
	if a.Offered[0] != "SCRAM-SHA-512" {
		t.Error("the list of the caller was sorted")
	}
}

// XEP-0480 section 3: from the SaltedPassword follow the keys that follow from the password.
func TestDeriveSalted(t *testing.T) {
	salt := []byte("A_SXCRXQ6sek8bf_Z")
	for _, mechanism := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		h := hashOf(mechanism)
		salted, err := pbkdf2.Key(h, "pencil", salt, 4096, h().Size())
		if err != nil {
			t.Fatal(err)
		}
		wantStored, wantServer, _ := Derive(mechanism, "pencil", salt, 4096)
		stored, server, err := DeriveSalted(mechanism, salted)
		if err != nil || string(stored) != string(wantStored) || string(server) != string(wantServer) {
			t.Errorf("%s: %x, %x, %v", mechanism, stored, server, err)
		}
		for _, wrong := range [][]byte{nil, salted[1:], append(salted, 0)} {
			if _, _, err := DeriveSalted(mechanism, wrong); !errors.Is(err, ErrPassword) {
				t.Errorf("%s: %d bytes: %v", mechanism, len(wrong), err)
			}
		}
	}
	if _, _, err := DeriveSalted("PLAIN", make([]byte, 32)); err == nil {
		t.Error("keys for PLAIN")
	}
}

// What was proved travels with the exchange, and only with a good one.
func TestEpoch(t *testing.T) {
	k := &keeper{t: t, changed: func(c *Credential) { c.Epoch = "epoch" }}
	x, _, err := converse(t, "SCRAM-SHA-1", k.attempt("SCRAM-SHA-1"), "n,,n=juliet,r=abc", "r0m30", nil, nil)
	if err != nil || x.Epoch() != "epoch" || x.Token() != "" {
		t.Errorf("epoch %q, token %q, %v", x.Epoch(), x.Token(), err)
	}
	x, _, err = converse(t, "SCRAM-SHA-1", k.attempt("SCRAM-SHA-1"), "n,a=romeo,n=juliet,r=abc", "r0m30", nil, nil)
	if wantCondition(t, "as another", err, InvalidAuthzid); x.Epoch() != "" {
		t.Errorf("epoch %q of a failure", x.Epoch())
	}
	for password, want := range map[string]string{"r0m30": "epoch", "x": ""} {
		x = begin(t, "PLAIN", k.attempt("PLAIN"))
		if x.Step([]byte("\x00juliet\x00" + password)); x.Epoch() != want {
			t.Errorf("PLAIN with %s: epoch %q", password, x.Epoch())
		}
	}
}
