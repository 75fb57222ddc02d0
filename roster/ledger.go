package roster

import (
	"log/slog"
	"runtime/debug"
	"sync"

	"tombolo/storage"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/session"
)

// A ledger holds back what announces a change until the change is kept, and lets each user's
// announcements go in the order in which they were entered.
//
// It is not part of a user's state, since a user without sessions leaves memory when its write is
// done, perhaps before the announcement has run.
type ledger struct {
	users *session.Registry
	log   *slog.Logger

	mu      sync.Mutex // innermost: nothing is called while it is held
	entries map[jid.JID][]entry
}

type entry struct {
	ticket   *storage.Ticket // nil where nothing was written
	announce func(hook.User, error)
}

// after calls announce under the user's lock when the ticket is done, with its error, and when
// everything entered before has been announced: at once if there is no ticket and nothing to wait
// for. It is called under the user's lock.
func (l *ledger) after(u hook.User, ticket *storage.Ticket, announce func(hook.User, error)) {
	account := u.JID()
	l.mu.Lock()
	waits := len(l.entries[account]) > 0 || ticket != nil
	if waits {
		if l.entries == nil {
			l.entries = make(map[jid.JID][]entry)
		}
		l.entries[account] = append(l.entries[account], entry{ticket, announce})
	}
	l.mu.Unlock()
	switch {
	case !waits:
		announce(u, nil)
	case ticket != nil:
		// The committer must not wait for a user's lock.
		ticket.Then(func(error) { go l.settle(account) })
	}
}

// settle announces what no longer waits. Tickets are done in the order of submission, so whoever
// comes here for one finds those before it done.
func (l *ledger) settle(account jid.JID) {
	defer func() { // no connection is above this to take the blame
		if p := recover(); p != nil {
			l.log.Error("panic", "announcing a change of", account, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	err := l.users.Do(account, func(u *session.User) {
		for e, ok := l.next(account); ok; e, ok = l.next(account) {
			var err error
			if e.ticket != nil {
				err = e.ticket.Err()
			}
			e.announce(u, err)
		}
	})
	if err != nil { // the account is gone, and nobody is left to be told
		l.mu.Lock()
		delete(l.entries, account)
		l.mu.Unlock()
	}
}

// next takes the first entry if its ticket is done.
func (l *ledger) next(account jid.JID) (entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := l.entries[account]
	if len(waiting) == 0 {
		return entry{}, false
	}
	first := waiting[0]
	if first.ticket != nil {
		select {
		case <-first.ticket.Done():
		default:
			return entry{}, false
		}
	}
	if len(waiting) == 1 {
		delete(l.entries, account)
	} else {
		l.entries[account] = waiting[1:]
	}
	return first, true
}
