package xmpp_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"tombolo/storage/bolt"
	"tombolo/xmpp"
	"tombolo/xmpp/jid"
)

// TestResumptionAcrossRestarts has a server end and start again under devices that write to each other:
// none of them loses its session, and each message arrives exactly once and in order.
func TestResumptionAcrossRestarts(t *testing.T) {
	t.Parallel()
	const count = 6
	restarts := 3
	if os.Getenv("CI") == "true" {
		restarts = 10
	}
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, "auth.plain = true", nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := h.config
	if err := h.Close(); err != nil { // only the database in its directory outlives a server
		t.Fatal(err)
	}
	serve := func() (*host, func()) {
		h := &host{domains: h.domains, config: cfg, stopped: make(chan error, 1)}
		var err error
		logger := slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		if h.Server, err = xmpp.New(cfg, xmpp.Options{Log: logger, Version: "test"}); err != nil {
			t.Fatal(err)
		}
		if err := h.Listen(); err != nil {
			t.Fatal(err)
		}
		at := h.Addresses() // and there it stays
		cfg.Listen.Client, cfg.Listen.ClientTLS = at["client"], at["client_tls"]
		cfg.Listen.Server, cfg.Listen.ServerTLS = at["server"], at["server_tls"]
		ctx, stop := context.WithCancel(context.Background())
		go func() { h.stopped <- h.Run(ctx) }()
		return h, func() {
			stop()
			select {
			case err := <-h.stopped:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(3 * patience):
				t.Fatal("the server does not end")
			}
			if t.Failed() {
				t.Logf("log:\n%s", h.log.String())
			}
		}
	}
	if h.store, err = bolt.Open(cfg.Database(), bolt.Options{}); err != nil {
		t.Fatal(err)
	}
	var devices []*device
	for i := range count {
		d := &device{name: fmt.Sprintf("user%d@a.test/x", i), config: l.clientTLS("a.test"), next: make(map[string]int), last: make(map[string]int)}
		if err := h.addAccount(jid.MustParse(d.name).Bare().String(), "secret"); err != nil {
			t.Fatal(err)
		}
		devices = append(devices, d)
	}
	if err := h.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, stop := serve()
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	var lives, writers sync.WaitGroup
	for _, d := range devices {
		d.starttls, d.direct = cfg.Listen.Client[0], cfg.Listen.ClientTLS[0]
		lives.Go(func() { d.live(ctx) })
		until(t, d.name+" is there", func() bool { return d.bound.Load() || d.err() != nil })
	}
	still := make(chan struct{})
	for _, d := range devices {
		writers.Go(func() {
			for {
				select {
				case <-still:
					return
				case <-time.After(time.Duration(rand.IntN(8000)) * time.Microsecond):
					d.write(devices[rand.IntN(count)].name)
				}
			}
		})
	}
	for n := range restarts {
		time.Sleep(time.Duration(100+rand.IntN(200)) * time.Millisecond) // of traffic
		stop()
		_, stop = serve()
		for _, d := range devices {
			until(t, d.name+" has resumed", func() bool { return d.resumed.Load() > int32(n) || d.err() != nil })
		}
	}
	close(still)
	writers.Wait()
	sent, arrived := 0, 0
	complete := func() bool {
		sent, arrived = 0, 0
		failed := false
		for _, d := range devices {
			s, a := d.sums()
			sent, arrived, failed = sent+s, arrived+a, failed || d.err() != nil
		}
		return sent == arrived || failed
	}
	for !complete() && pause(ctx) == nil {
	}
	resumed := 0
	for _, d := range devices {
		if err := d.err(); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
		resumed += int(d.resumed.Load())
	}
	t.Logf("%d messages sent, %d arrived; %d restarts, %d resumptions", sent, arrived, restarts, resumed)
	if sent != arrived || resumed < count*restarts {
		t.Error("something was lost")
	}
	end()
	lives.Wait()
	stop()
}
