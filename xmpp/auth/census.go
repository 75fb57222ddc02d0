package auth

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

// A census says how many accounts have keys of how many iterations. Passwords keep those with which they
// were set when the option changes, and every challenge tells them: so that nobody learns by them who
// exists, unknown users have them in the same proportions. Accounts that are deleted are counted until the
// next start.
type census struct {
	mu     sync.Mutex
	groups []group // those with more iterations first: when passwords are set anew, unknown users seem to follow
}

// A group are the accounts with the same iterations of each mechanism, in the order of the options; 0
// where they have no keys.
type group struct {
	iterations []int
	accounts   int
}

// change adds accounts to a group, or takes them out.
func (c *census) change(iterations []int, by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, found := slices.BinarySearchFunc(c.groups, iterations, func(g group, sought []int) int {
		return slices.Compare(sought, g.iterations)
	})
	if !found {
		c.groups = slices.Insert(c.groups, i, group{iterations: iterations})
	}
	if c.groups[i].accounts += by; c.groups[i].accounts <= 0 {
		c.groups = slices.Delete(c.groups, i, i+1)
	}
}

// draw returns the iterations of the account at a place among all, the fraction place/2^64; nil where
// there are no accounts.
func (c *census) draw(place uint64) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := 0
	for _, g := range c.groups {
		all += g.accounts
	}
	nth, _ := bits.Mul64(place, uint64(all))
	for _, g := range c.groups {
		if nth < uint64(g.accounts) {
			return g.iterations
		}
		nth -= uint64(g.accounts)
	}
	return nil
}

// drawn are the iterations that an account would have if it existed, always the same ones while the
// proportions are.
func (a *Accounts) drawn(account jid.JID) []int {
	iterations := a.census.draw(binary.BigEndian.Uint64(a.fromSecret("iterations", "", account)))
	if iterations == nil { // what the first account will have
		iterations = slices.Repeat([]int{a.opts.Iterations}, len(a.opts.Mechanisms))
	}
	return iterations
}

// iterationsOf makes the group of an account with these credentials.
func (a *Accounts) iterationsOf(credentials []storage.Credential) []int {
	iterations := make([]int, len(a.opts.Mechanisms))
	for _, c := range credentials {
		if i := slices.Index(a.opts.Mechanisms, c.Mechanism); i >= 0 {
			iterations[i] = c.Iterations
		}
	}
	return iterations
}

// moved counts an account whose credentials were replaced; it had none if it is new.
func (a *Accounts) moved(before, after []storage.Credential) {
	if before != nil {
		a.census.change(a.iterationsOf(before), -1)
	}
	a.census.change(a.iterationsOf(after), 1)
}
