//go:build !race

package jid

import "testing"

// The race detector's own allocations would be counted.
func TestParseASCIIDoesNotAllocate(t *testing.T) {
	other := MustParse("romeo@example.net/garden")
	if n := testing.AllocsPerRun(100, func() {
		j, err := Parse("romeo@example.net/orchard")
		if err != nil || j == other || j.Bare() != other.Bare() || j.Server().String() != "example.net" ||
			j.Local() != "romeo" || j.Domain() != "example.net" || j.Resource() != "orchard" ||
			ASCIIDomain(j.Domain()) != "example.net" {
			t.Fatal("parsed wrongly")
		}
	}); n != 0 {
		t.Errorf("%v allocations to parse and take apart a canonical address", n)
	}
}
