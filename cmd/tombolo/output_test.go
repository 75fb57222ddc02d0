package main

import (
	"strings"
	"testing"
	"time"

	"tombolo/federation"
)

func TestCount(t *testing.T) {
	for n, want := range []string{"0 sessions", "1 session", "2 sessions"} {
		if got := count(n, "session"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestReportNamesStreams: a pair that cannot be reached has a reason and no age.
func TestReportNamesStreams(t *testing.T) {
	var b strings.Builder
	err := printReport(&b, &federation.Report{Local: "a.test", Domain: "b.test", Streams: []federation.StreamInfo{
		{Direction: "in", State: "open", Since: time.Now().Add(-5 * time.Minute)},
		{Direction: "out", State: "failed", Error: "it refuses us"},
	}})
	if want := "From a.test to b.test\nAt present: in, open, for 5m\nAt present: out, failed: it refuses us\n"; err != nil || b.String() != want {
		t.Errorf("got\n%s(%v), want\n%s", b.String(), err, want)
	}
}
