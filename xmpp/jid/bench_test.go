package jid

import (
	"testing"

	reference "mellium.im/xmpp/jid"
)

func BenchmarkParseASCII(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("romeo@montague.example.net/orchard"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseUnicode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("rom\u00e9o@b\u00fccher.example/\u265a"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReferenceASCII is what the fast path saves.
func BenchmarkReferenceASCII(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reference.Parse("romeo@montague.example.net/orchard"); err != nil {
			b.Fatal(err)
		}
	}
}
