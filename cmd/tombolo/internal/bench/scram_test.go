package bench

import (
	"crypto/sha1"
	"crypto/sha256"
	"hash"
	"testing"
)

// TestScram plays the exchanges of RFC 5802 section 5 and RFC 7677 section 3.
func TestScram(t *testing.T) {
	for _, c := range []struct {
		name                    string
		hash                    func() hash.Hash
		nonce, challenge, final string
		server                  string
	}{
		{"RFC 5802 section 5", sha1.New, "fyko+d2lbbFgONRv9qkxdawL",
			"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
			"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
			"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="},
		{"RFC 7677 section 3", sha256.New, "rOprNGfwEbeRWgbNEkqO",
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
			"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &Account{Name: "user", Password: "pencil"}
			for range 2 { // the second time with the salted password of the first
				s := scram{hash: c.hash, account: a, bare: "n=user,r=" + c.nonce}
				final, err := s.final(c.challenge)
				if err != nil || final != c.final {
					t.Fatalf("%q, %v; want %q", final, err, c.final)
				}
				if err := s.verify(c.server); err != nil {
					t.Error(err)
				}
				if s.verify("v="+c.nonce) == nil || s.verify("") == nil {
					t.Error("a server without the keys is believed")
				}
			}
			s := scram{hash: c.hash, account: a, bare: "n=user,r=other"}
			if _, err := s.final(c.challenge); err == nil {
				t.Error("a challenge for another attempt is answered")
			}
		})
	}
}
