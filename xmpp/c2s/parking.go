package c2s

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"tombolo/xmpp/jid"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stream"
)

// A parking is where sessions that can be resumed are found, while they have a stream and for as long
// as they may be without. Of those that have ended the count of handled stanzas is remembered for a
// while (XEP-0198 section 5); some may be handled, or stored, after the end.
type parking struct {
	mu      sync.Mutex
	outlets map[key]*outlet
	ended   map[jid.JID][]endedSession // by account, oldest first
	count   int                        // of them
	acked   map[*outlet]struct{}       // what their clients acknowledged is in the store still
}

type endedSession struct {
	id     key
	ledger *stream.Ledger
	at     time.Time
}

// Bounds of what is remembered of sessions that have ended: of all, of those of one account, which is not to
// take the place of the others, and for how long.
const (
	remembered      = 10_000
	rememberedOfOne = 10
	rememberedTime  = time.Hour
)

// enter makes an outlet be found.
func (p *parking) enter(o *outlet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outlets[o.id] = o
}

// find returns the outlet of an account's session, nil where there is none.
func (p *parking) find(id key, account jid.JID) *outlet {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o := p.outlets[id]; o != nil && o.session.JID().Bare() == account {
		return o
	}
	return nil
}

// handled is how many stanzas are handled of those that an account's session got before it ended. It is not ok if
// that is not remembered, or not known yet: what the client then takes for unhandled would come twice.
func (p *parking) handled(id key, account jid.JID) (count uint32, ok bool) {
	p.mu.Lock()
	ended := p.ended[account]
	i := slices.IndexFunc(ended, func(e endedSession) bool { return e.id == id })
	if i < 0 {
		p.mu.Unlock()
		return 0, false
	}
	ledger := ended[i].ledger
	p.mu.Unlock()
	count, open := ledger.Handled()
	return count, open == nil
}

// all are the outlets whose sessions can be resumed.
func (p *parking) all() []*outlet {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.outlets))
}

// has says whether the session of an outlet can be resumed.
func (p *parking) has(o *outlet) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outlets[o.id] == o
}

// noteAcked notes that a client has acknowledged something.
func (p *parking) noteAcked(o *outlet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked[o] = struct{}{}
}

// takeAcked are the outlets whose clients have acknowledged something since it was last called.
func (p *parking) takeAcked() (list []*outlet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for o := range p.acked {
		list = append(list, o)
	}
	clear(p.acked)
	return list
}

// wait notes that an outlet has no stream since then, or has one for the zero time.
func (p *parking) wait(o *outlet, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.since = since
}

// leave notes that the session of an outlet has ended.
func (p *parking) leave(o *outlet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outlets[o.id] != o {
		return
	}
	delete(p.outlets, o.id)
	delete(p.acked, o)
	p.remember(o.session.JID().Bare(), endedSession{o.id, o.ledger, time.Now()})
}

// remember notes a session of an account that has ended, in the place of an older one if there are too many.
func (p *parking) remember(account jid.JID, e endedSession) {
	if len(p.ended[account]) == rememberedOfOne {
		p.forget(account, 1)
	}
	for other := range p.ended { // in no order: nobody can choose whose it is
		if p.count < remembered {
			break
		}
		p.forget(other, 1)
	}
	p.ended[account] = append(p.ended[account], e)
	p.count++
}

// forget drops the oldest sessions that are remembered of an account.
func (p *parking) forget(account jid.JID, count int) {
	p.count -= count
	if rest := slices.Delete(p.ended[account], 0, count); len(rest) > 0 {
		p.ended[account] = rest
	} else {
		delete(p.ended, account)
	}
}

// late are the outlets that have had no stream for longer than their grace.
func (p *parking) late(now time.Time) (late []*outlet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.outlets {
		if !o.since.IsZero() && now.Sub(o.since) > o.grace {
			late = append(late, o)
		}
	}
	for account, list := range p.ended {
		old := 0
		for old < len(list) && now.Sub(list[old].at) > rememberedTime {
			old++
		}
		p.forget(account, old)
	}
	return late
}

// Unacknowledged is how many sessions have no stream, and how much clients of sessions that can be resumed
// have not acknowledged.
func (s *Server) Unacknowledged() (parked, stanzas, bytes int) {
	for _, o := range s.parking.all() {
		if o.ledger.Carrier() == nil {
			parked++
		}
		n, size := o.ledger.Waiting()
		stanzas += n
		bytes += size
	}
	return parked, stanzas, bytes
}

// Run ends sessions that nobody has resumed in time, and lets go what was acknowledged, until the context
// ends. One clock serves all.
func (s *Server) Run(ctx context.Context) error {
	late := time.NewTicker(min(max(s.Resume/16, 20*time.Millisecond), 5*time.Second))
	defer late.Stop()
	release := time.NewTicker(releaseTime)
	defer release.Stop()
	s.endParked() // of those that a restart has found some cannot be resumed
	for {
		select {
		case <-late.C:
			s.endParked()
		case <-release.C:
			s.release()
		case <-ctx.Done():
			return nil
		}
	}
}

// releaseTime is how long what a client has acknowledged may stay in the store.
const releaseTime = 250 * time.Millisecond

// endParked ends the sessions that have waited too long for a stream.
func (s *Server) endParked() {
	for _, o := range s.parking.late(time.Now()) {
		_ = s.Users.Do(o.session.JID().Bare(), func(u *session.User) { // a removed account has no sessions
			if o.ledger.Carrier() == nil {
				u.End(o.session, nil)
			}
		})
	}
}
