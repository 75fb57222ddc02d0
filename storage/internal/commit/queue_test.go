package commit

import (
	"testing"
	"time"

	"tombolo/storage"
)

// TestDeferBehindALateTimer: a timer that fires when what it was for is written already makes nothing later wait.
func TestDeferBehindALateTimer(t *testing.T) {
	q := New(0, func([]Op) error { return nil })
	defer q.Close()
	q.mu.Lock()
	q.hurry()
	q.mu.Unlock()
	for deadline := time.Now().Add(10 * time.Second); len(q.wake) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody wakes")
		}
	}
	select {
	case <-q.Defer(func(storage.Tx) error { return nil }).Done():
	case <-time.After(10 * storage.Deferral):
		t.Error("it is not written")
	}
}
