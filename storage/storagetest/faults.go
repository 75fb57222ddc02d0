package storagetest

import "sync"

// Faults makes the commits of a store stall or fail. Its BeforeCommit goes into the Options of
// the backend. The zero Faults do nothing.
type Faults struct {
	mu      sync.Mutex
	stall   chan struct{}
	stalled chan struct{}
	next    []error
}

// BeforeCommit is what the backend calls before each commit.
func (f *Faults) BeforeCommit() error {
	f.mu.Lock()
	stall := f.stall
	if stall != nil {
		select {
		case <-f.stalled:
		default:
			close(f.stalled)
		}
	}
	f.mu.Unlock()
	if stall != nil {
		<-stall
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) == 0 {
		return nil
	}
	err := f.next[0]
	f.next = f.next[1:]
	return err
}

// Stall makes commits wait until release is called. stalled is closed when one does.
func (f *Faults) Stall() (stalled <-chan struct{}, release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stall := make(chan struct{})
	f.stall, f.stalled = stall, make(chan struct{})
	return f.stalled, sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stall = nil
		close(stall)
	})
}

// FailNext makes the next commit fail with err, the one after it with the error of the next call
// and so on. One that wraps storage.ErrNoSpace passes; any other ends the store.
func (f *Faults) FailNext(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = append(f.next, err)
}

// Pending is how many errors of FailNext are left.
func (f *Faults) Pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.next)
}
