package lab

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
)

func leaf(t *testing.T, a *Authority, domain string) *x509.Certificate {
	t.Helper()
	dir := t.TempDir()
	if err := a.Issue(domain, filepath.Join(dir, "crt"), filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAuthority: a user who trusts the CA trusts it for its domain and for nothing else.
func TestAuthority(t *testing.T) {
	a, err := NewAuthority("test", "a.test")
	if err != nil {
		t.Fatal(err)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		options := x509.VerifyOptions{DNSName: "a.test", Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{use}}
		if _, err := leaf(t, a, "a.test").Verify(options); err != nil {
			t.Errorf("usage %v: %v", use, err)
		}
	}
	if _, err := leaf(t, a, "bank.example").Verify(x509.VerifyOptions{DNSName: "bank.example", Roots: a.Pool()}); err == nil {
		t.Error("the CA is believed for a domain that is not its own")
	}
}
