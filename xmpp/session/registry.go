// Package session is the registry of who is here: bare JID -> user -> bound resources. c2s binds
// and ends sessions in it, the router finds recipients in it, features keep what they know of a
// user in its slots.
//
// Start with Registry.Do: it is the only way to a user. It loads what the features need to know
// of the account before it takes the user's lock, runs a function under that lock, and then carries
// out the effects that the function left, in order. One user has one lock; two users' locks are
// never held together, and nothing under a lock waits (for disk, DNS, TLS, or another lock that
// could).
package session

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/stanza"
)

// A Registry holds the users that are in memory: those with a session, with an unfinished write,
// or that somebody is working on at this moment.
type Registry struct {
	// MaxSessions is how many sessions an account may have; 0: no limit. It is set before Start.
	MaxSessions int

	store   storage.Store
	now     func() time.Time
	hooks   *hook.Chain
	router  Router
	journal *journal.Journal
	loads   []func(storage.Tx, jid.JID) (any, error)
	seed    maphash.Seed
	shards  [64]shard
}

type shard struct {
	mu    sync.Mutex
	users map[jid.JID]*User
}

// New makes an empty registry. Slots are added next, then Start is called, then it may be used.
func New(store storage.Store, now func() time.Time) *Registry {
	r := &Registry{store: store, now: now, seed: maphash.MakeSeed()}
	for i := range r.shards {
		r.shards[i].users = make(map[jid.JID]*User)
	}
	return r
}

// A Router takes what users send and says what they get; package router is one.
type Router interface {
	// Forward sends a stanza on its way, and may change it. It is called without any lock.
	Forward(st *stanza.Stanza)
	// Receive takes a stanza for a user, under the user's lock: the Incoming hooks are asked, then it
	// is delivered.
	Receive(u *User, st stanza.Stanza)
	// Deliver hands a stanza to a user's sessions, under the user's lock.
	Deliver(u *User, st stanza.Stanza)
}

// Start gives the registry the hooks of all features, the router and the journal.
func (r *Registry) Start(hooks *hook.Chain, router Router, journal *journal.Journal) {
	r.hooks, r.router, r.journal = hooks, router, journal
}

// Do runs fn under the lock of an account, then carries out the effects. It returns an error
// that wraps storage.ErrNotFound where there is no such account.
func (r *Registry) Do(account jid.JID, fn func(*User)) error {
	u, err := r.pin(account)
	if err != nil {
		return err
	}
	defer r.unpin(u)
	u.mu.Lock()
	defer u.unlock()
	if u.gone {
		return fmt.Errorf("account %s: %w", account, storage.ErrNotFound)
	}
	fn(u)
	return nil
}

// DoIf is Do for a client that is about to get a session, for as long as it may: an error of valid, if
// that is set, is returned instead. valid may read the store: it is asked outside of the lock, and anew
// where the account's sessions are ended meanwhile. So whoever takes a client's permission away and then
// ends its sessions has ended also the one that it was about to get.
func (r *Registry) DoIf(account jid.JID, valid func() error, fn func(*User)) error {
	u, err := r.pin(account)
	if err != nil {
		return err
	}
	defer r.unpin(u) // until then u counts the times that sessions were ended
	for {
		asked := u.endings()
		if valid != nil {
			if err := valid(); err != nil {
				return err
			}
		}
		outdated := false
		err := r.Do(account, func(u *User) {
			if outdated = u.ended != asked; !outdated {
				fn(u)
			}
		})
		if err != nil || !outdated {
			return err
		}
	}
}

// A Binding is a session to be made.
type Binding struct {
	// Full is the account with the resource.
	Full jid.JID
	Sink Sink
	// Client names the installation that the client is of, where it says so (XEP-0388 section 2.3).
	// An earlier session of the same one is ended (XEP-0386 section 3.2).
	Client string
	// Valid, if set, says whether the client may still have a session, as for DoIf.
	Valid func() error
	// Announce tells the client that it is bound; it runs under the user's lock, before anything
	// else can be sent to the session.
	Announce func(*User, *Session)
}

// Bind makes a session. One that has the same resource is ended first and its stream closed with
// <conflict/> (RFC 6120 section 7.7.2.2). ErrTooMany says that the account has all the sessions that
// it may have; storage.ErrNotFound, that it is no more.
func (r *Registry) Bind(b Binding) (*Session, error) {
	s := &Session{full: b.Full.Clone(), client: strings.Clone(b.Client), sink: b.Sink, since: r.now()}
	s.keeper, _ = b.Sink.(Keeper)
	tooMany := false
	err := r.DoIf(s.full.Bare(), b.Valid, func(u *User) { tooMany = !u.bind(s, r.MaxSessions, b.Announce) })
	switch {
	case err != nil:
		return nil, err
	case tooMany:
		return nil, fmt.Errorf("account %s: %w", s.full.Bare(), ErrTooMany)
	}
	return s, nil
}

// A Remnant is what is left of a session after a restart.
type Remnant struct {
	Full       jid.JID
	Client     string
	Since      time.Time
	Sink       Keeper
	Presence   stanza.Stanza // zero: not available
	Ready      time.Time     // zero: not known, if available with a priority that is not negative
	Interested bool
	Enabled    []string
	Directed   []jid.JID
	// Found is called with the session under the user's lock.
	Found func(*User, *Session)
}

// Restore makes the session that there was. Nobody learns of it: to everybody else it has never ended.
func (r *Registry) Restore(old Remnant) error {
	return r.Do(old.Full.Bare(), func(u *User) {
		s := &Session{full: old.Full, client: old.Client, sink: old.Sink, keeper: old.Sink, user: u, since: old.Since,
			interested: old.Interested, enabled: old.Enabled}
		if !old.Presence.Element.IsZero() {
			s.SetPresence(old.Presence, cmp.Or(old.Ready, old.Since))
		}
		for _, entity := range old.Directed {
			if s.directed == nil {
				s.directed = make(hook.Directed)
			}
			s.directed[entity] = struct{}{}
		}
		r.repin(u, +1)
		u.sessions = append(u.sessions, s)
		old.Found(u, s)
	})
}

// Restored tells the features that the client of a session that was restored is back.
func (u *User) Restored(s *Session) { u.registry.hooks.SessionRestored(u, s) }

// ErrTooMany is Bind's refusal of one session more.
var ErrTooMany = errors.New("too many sessions")

// End ends a session, whose client becomes unavailable (RFC 6121 section 4.5.2); err, if not nil,
// is sent to the client. One that has ended before is left alone.
func (r *Registry) End(s *Session, err *stanza.StreamError) {
	// The account is in memory as long as the session is bound, so Do cannot fail for another
	// reason than that the session is gone with its account.
	_ = r.Do(s.full.Bare(), func(u *User) { u.End(s, err) })
}

// EndAll ends the sessions of an account that keep does not want to keep (nil: all).
func (r *Registry) EndAll(account jid.JID, err *stanza.StreamError, keep func(*Session) bool) error {
	return r.Do(account, func(u *User) { u.endAll(err, keep) })
}

// Remove ends all sessions of an account, tells the features, and then deletes it with all its
// rows. It does not wait: done is called once, when the deletion is durable or failed.
func (r *Registry) Remove(account jid.JID, err *stanza.StreamError, done func(error)) {
	doErr := r.Do(account, func(u *User) {
		u.endAll(err, nil)
		r.hooks.AccountRemoved(u)
		u.gone = true
		u.After(func() {
			u.Submit(func(tx storage.Tx) error { return tx.Accounts().Delete(u.account) }).Then(done)
		})
	})
	if doErr != nil {
		done(doErr)
	}
}

// Sessions yields a snapshot of all bound sessions with their users' state, under each user's
// lock in turn. It is meant for operators, not for routing.
func (r *Registry) Sessions() iter.Seq2[*User, *Session] {
	return func(yield func(*User, *Session) bool) {
		for i := range r.shards {
			sh := &r.shards[i]
			sh.mu.Lock()
			accounts := make([]jid.JID, 0, len(sh.users))
			for account := range sh.users {
				accounts = append(accounts, account)
			}
			sh.mu.Unlock()
			for _, account := range accounts {
				more := true
				_ = r.Do(account, func(u *User) { // an account removed meanwhile has no sessions
					for _, s := range u.sessions {
						if more = more && yield(u, s); !more {
							return
						}
					}
				})
				if !more {
					return
				}
			}
		}
	}
}

func (r *Registry) shard(account jid.JID) *shard {
	return &r.shards[maphash.Comparable(r.seed, account)%uint64(len(r.shards))]
}

// pin finds or loads a user and keeps it in memory until unpin.
func (r *Registry) pin(account jid.JID) (*User, error) {
	sh := r.shard(account)
	sh.mu.Lock()
	u := sh.users[account]
	if u == nil {
		owner := account.Clone()
		u = &User{registry: r, account: owner}
		u.load = sync.OnceValue(func() error { return r.read(u) })
		sh.users[owner] = u
	}
	u.pins++
	sh.mu.Unlock()
	if err := u.load(); err != nil {
		r.unpin(u)
		return nil, fmt.Errorf("account %s: %w", account, err)
	}
	return u, nil
}

// read loads what the registry and the features need to know of an account.
func (r *Registry) read(u *User) error {
	return r.store.View(func(tx storage.Tx) error {
		if _, err := tx.Accounts().Get(u.account); err != nil {
			return err
		}
		u.values = make([]any, len(r.loads))
		for i, load := range r.loads {
			v, err := load(tx, u.account)
			if err != nil {
				return err
			}
			u.values[i] = v
		}
		return nil
	})
}

func (r *Registry) unpin(u *User) { r.repin(u, -1) }

// repin counts the reasons for which a user stays in memory; the last one that goes takes the user
// with it.
func (r *Registry) repin(u *User, by int) {
	sh := r.shard(u.account)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if u.pins += by; u.pins == 0 && sh.users[u.account] == u {
		delete(sh.users, u.account)
	}
}

// A Slot is the place of one feature's state in every user, e.g. the roster.
type Slot[T any] struct{ index int }

// NewSlot adds a slot; load reads the state of an account from the store before the account is
// first used, in one transaction with all other slots.
func NewSlot[T any](r *Registry, load func(storage.Tx, jid.JID) (T, error)) Slot[T] {
	r.loads = append(r.loads, func(tx storage.Tx, owner jid.JID) (any, error) { return load(tx, owner) })
	return Slot[T]{len(r.loads) - 1}
}

// Get returns the state of a user; it is only called under the user's lock.
func (s Slot[T]) Get(u hook.User) T { return u.Value(s.index).(T) }

// Set replaces the state of a user, under the user's lock.
func (s Slot[T]) Set(u hook.User, v T) { u.SetValue(s.index, v) }

// A User is a local account in memory. It implements hook.User; all its methods are called under
// its lock, that is inside Registry.Do.
type User struct {
	registry *Registry
	account  jid.JID
	load     func() error // reads the account once
	pins     int          // guarded by the shard's lock

	mu         sync.Mutex
	sessions   []*Session
	recipients []hook.Session // made once, for Recipients
	values     []any
	gone       bool // the account is being removed
	ended      int  // how often sessions were ended for what the account or its clients lost

	agenda   *agenda // nil: there are no effects
	carrying bool    // somebody is carrying out effects and will find new ones
}

// An effect is a stanza to route or a function to run.
type effect struct {
	route stanza.Stanza
	run   func()
}

// An agenda is a list of effects. It is lent to a user who has some, and keeps its memory.
type agenda struct{ effects []effect }

var agendas = sync.Pool{New: func() any { return new(agenda) }}

// maxAgenda is the longest list that is worth keeping.
const maxAgenda = 256

// JID is the account's bare JID.
func (u *User) JID() jid.JID { return u.account }

// Bound are the account's sessions, oldest first.
func (u *User) Bound() []*Session { return u.sessions }

// Recipients is an empty list for those who get a message. There is one: it is for who holds the lock,
// until the message is delivered.
func (u *User) Recipients() []hook.Session {
	if u.recipients == nil {
		u.recipients = make([]hook.Session, 0, 8)
	}
	return u.recipients[:0]
}

// Sessions are the same as hooks see them.
func (u *User) Sessions() []hook.Session {
	list := make([]hook.Session, len(u.sessions))
	for i, s := range u.sessions {
		list[i] = s
	}
	return list
}

// Session finds a session by full JID.
func (u *User) Session(full jid.JID) hook.Session {
	if s := u.find(full); s != nil {
		return s
	}
	return nil
}

// Find finds a session by full JID, nil if there is none.
func (u *User) Find(full jid.JID) *Session { return u.find(full) }

// Route adds the routing of a stanza to the effects. Until then it is not acknowledged to its sender.
func (u *User) Route(st stanza.Stanza) {
	st.Hold()
	u.add().route = st
}

// Deliver applies the delivery rules to a stanza now.
func (u *User) Deliver(st stanza.Stanza) { u.registry.router.Deliver(u, st) }

// After adds a function to the effects.
func (u *User) After(run func()) { u.add().run = run }

// add makes room for an effect.
func (u *User) add() *effect {
	if u.agenda == nil {
		u.agenda = agendas.Get().(*agenda)
	}
	a := u.agenda
	a.effects = append(a.effects, effect{})
	return &a.effects[len(a.effects)-1]
}

// Submit queues a write and keeps the user in memory until it is done.
func (u *User) Submit(write func(storage.Tx) error) *storage.Ticket {
	u.registry.repin(u, +1)
	t := u.registry.store.Submit(write)
	t.Then(func(error) { u.registry.unpin(u) })
	return t
}

// Defer is Submit of what nobody waits for.
func (u *User) Defer(write func(storage.Tx) error) {
	u.registry.repin(u, +1)
	u.registry.store.Defer(write).Then(func(error) { u.registry.unpin(u) })
}

// Value is the state in a slot.
func (u *User) Value(slot int) any { return u.values[slot] }

// SetValue replaces the state in a slot.
func (u *User) SetValue(slot int, value any) { u.values[slot] = value }

// SetPresence gives a session its new presence and tells the features.
func (u *User) SetPresence(s *Session, st stanza.Stanza) {
	was := s.SetPresence(st, u.registry.now())
	u.registry.hooks.Presence(u, s, st, was)
}

func conflict(text string) *stanza.StreamError {
	return &stanza.StreamError{Condition: stanza.StreamConflict, Text: text}
}

// endings is u.ended for who does not hold the lock.
func (u *User) endings() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ended
}

// bind adds a session, unless there are max already, in place of those that it succeeds.
func (u *User) bind(s *Session, max int, announce func(*User, *Session)) bool {
	for _, old := range slices.Clone(u.sessions) {
		switch {
		case old.full == s.full:
			u.End(old, conflict("the same resource was bound by a newer stream"))
		case old.client == s.client && s.client != "":
			u.End(old, conflict("the same client has a newer stream"))
		}
	}
	if max > 0 && len(u.sessions) >= max && !u.makeRoom() {
		return false
	}
	s.user = u
	announce(u, s)
	u.registry.repin(u, +1)
	u.sessions = append(u.sessions, s)
	u.registry.hooks.SessionBound(u, s)
	return true
}

// makeRoom ends the oldest session that nobody uses, if there is one: a client that never comes back does not
// lock its user out.
func (u *User) makeRoom() bool {
	for _, s := range u.sessions {
		if s.keeper != nil && s.keeper.Parked() {
			u.End(s, nil)
			return true
		}
	}
	return false
}

func (u *User) find(full jid.JID) *Session {
	for _, s := range u.sessions {
		if s.full == full {
			return s
		}
	}
	return nil
}

func (u *User) endAll(err *stanza.StreamError, keep func(*Session) bool) {
	u.ended++
	for _, s := range slices.Clone(u.sessions) {
		if keep == nil || !keep(s) {
			u.End(s, err)
		}
	}
}

// End is Registry.End for who holds the lock: it takes a session out, makes it unavailable to those
// who could see it, and sends on what it did not get.
func (u *User) End(s *Session, err *stanza.StreamError) {
	i := slices.Index(u.sessions, s)
	if i < 0 {
		return
	}
	u.sessions = slices.Delete(u.sessions, i, i+1)
	if s.Available() || len(s.directed) > 0 {
		u.SetPresence(s, stanza.New(stanza.Presence, "unavailable", "", s.full, jid.JID{}))
	}
	s.sink.Close(err)
	if s.keeper != nil {
		u.settle(s.keeper)
	}
	u.registry.hooks.SessionEnded(u, s)
	u.registry.unpin(u)
}

// unlock releases the lock and carries out the effects, unless somebody is doing it already: that
// one will find what this function left. So a user's effects never overtake each other.
func (u *User) unlock() {
	defer u.mu.Unlock()
	for !u.carrying && u.agenda != nil {
		u.carry()
	}
}

// carry takes the effects that are there and carries them out without the lock; it is called and
// returns with the lock held, also when an effect panics.
func (u *User) carry() {
	todo := u.agenda
	u.agenda = nil
	u.carrying = true
	u.mu.Unlock()
	done := 0
	defer func() {
		u.mu.Lock()
		u.carrying = false
		u.resume(todo, done)
	}()
	for i := range todo.effects {
		e := &todo.effects[i]
		done++
		if e.run != nil {
			e.run()
		} else {
			u.registry.route(&e.route)
		}
	}
}

// resume puts what is not done of an agenda before all that has come since.
func (u *User) resume(a *agenda, done int) {
	if done < len(a.effects) {
		a.effects = a.effects[done:]
		if u.agenda != nil {
			a.effects = append(a.effects, u.agenda.effects...)
		}
		u.agenda = a
	} else if cap(a.effects) <= maxAgenda {
		clear(a.effects)
		a.effects = a.effects[:0]
		agendas.Put(a)
	}
}

func (r *Registry) route(st *stanza.Stanza) {
	defer st.Release()
	defer r.journal.Close(*st)
	r.router.Forward(st)
}
