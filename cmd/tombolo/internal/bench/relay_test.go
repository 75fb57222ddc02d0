package bench

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"testing"
	"time"
)

// TestRun measures the relay, in this process.
func TestRun(t *testing.T) {
	for _, fan := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		relaying, stop := context.WithCancel(ctx)
		go func() { ended <- Relay(relaying, l) }()
		c := Config{Scenario: "relay", Fan: fan, Window: 3, Size: 300, Duration: 200 * time.Millisecond,
			Target: Target{Address: l.Addr().String(), Direct: true, TLS: &tls.Config{InsecureSkipVerify: true}, PID: os.Getpid()}}
		for range 4 {
			c.Target.Accounts = append(c.Target.Accounts, new(Account))
		}
		results, err := Run(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		r := results[0]
		if !r.Faultless() || r.Count == 0 || r.Received != r.Sent || r.Received < r.Count || r.Latency == nil || r.Latency.P50 > r.Latency.Max {
			t.Errorf("fan %v: %+v", fan, r)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
