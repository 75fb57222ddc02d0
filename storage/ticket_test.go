package storage

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

var errOops = errors.New("oops")

func isDone(t *Ticket) bool {
	select {
	case <-t.Done():
		return true
	default:
		return false
	}
}

func TestTicketOutcome(t *testing.T) {
	for _, want := range []error{nil, errOops} {
		for _, asked := range []bool{true, false} { // Done before Finish, or only afterwards
			ticket := new(Ticket)
			if asked && isDone(ticket) || ticket.Err() != nil {
				t.Fatal("a new ticket is done")
			}
			ticket.Finish(want)
			if !isDone(ticket) || ticket.Err() != want || ticket.Wait(t.Context()) != want {
				t.Errorf("finished with %v: done %v, Err %v", want, isDone(ticket), ticket.Err())
			}
		}
	}
}

func TestTicketWaitEndsWithItsContext(t *testing.T) {
	ticket := new(Ticket)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ticket.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
	ticket.Finish(nil)
	if err := ticket.Wait(ctx); err != nil {
		t.Errorf("Wait of a finished ticket with an ended context: %v", err)
	}
}

func TestTicketWaitIsWoken(t *testing.T) {
	ticket := new(Ticket)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	errs := make(chan error)
	for range 3 {
		go func() { errs <- ticket.Wait(ctx) }()
	}
	ticket.Finish(errOops)
	for range 3 {
		if err := <-errs; err != errOops {
			t.Errorf("Wait: %v", err)
		}
	}
}

// A function given while earlier ones run comes after them, from whatever goroutine.
func TestTicketThenKeepsOrder(t *testing.T) {
	ticket := new(Ticket)
	var got []int
	note := func(n int) func(error) { return func(error) { got = append(got, n) } }
	ticket.Then(func(error) {
		ticket.Then(note(3)) // from inside
		given := make(chan struct{})
		go func() { ticket.Then(note(4)); close(given) }() // from elsewhere, meanwhile
		<-given
		got = append(got, 1)
	})
	ticket.Then(note(2))
	ticket.Finish(nil)
	ticket.Then(note(5))
	for i, n := range got {
		if n != i+1 {
			t.Fatalf("order %v", got)
		}
	}
	if len(got) != 5 {
		t.Errorf("called %v", got)
	}
}

func TestTicketThenIsCalledOnce(t *testing.T) {
	for range 200 {
		ticket := new(Ticket)
		var mu sync.Mutex
		called := 0
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				ticket.Then(func(err error) {
					mu.Lock()
					defer mu.Unlock()
					called++
				})
			})
		}
		wg.Go(func() { ticket.Finish(nil) })
		wg.Wait()
		if called != 4 {
			t.Fatalf("called %d times", called)
		}
	}
}

func TestTicketFinishedTwicePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	ticket := new(Ticket)
	ticket.Finish(nil)
	ticket.Finish(nil)
}
