package c2s

import (
	"context"
	"sync"
	"time"

	"tombolo/xmpp/jid"
	"tombolo/xmpp/session"
)

// A parking is where sessions that can be resumed are found, while they have a stream and for as long
// as they may be without. Of those that have ended the count of handled stanzas is remembered for a
// while (XEP-0198 section 5).
type parking struct {
	mu      sync.Mutex
	outlets map[key]*outlet
	ended   map[key]endedSession
}

type endedSession struct {
	account jid.JID
	handled uint32 // of the client's stanzas
	at      time.Time
}

// Bounds of what is remembered of sessions that have ended.
const (
	remembered     = 10_000
	rememberedTime = time.Hour
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

// handled is what is remembered of an account's session that has ended.
func (p *parking) handled(id key, account jid.JID) (count uint32, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.ended[id]
	return e.handled, ok && e.account == account
}

// wait notes that an outlet has no stream since then, or has one for the zero time.
func (p *parking) wait(o *outlet, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.since = since
}

// leave notes that the session of an outlet has ended.
func (p *parking) leave(o *outlet) {
	handled, _ := o.ledger.Handled()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outlets[o.id] != o {
		return
	}
	delete(p.outlets, o.id)
	if len(p.ended) < remembered {
		p.ended[o.id] = endedSession{o.session.JID().Bare(), handled, time.Now()}
	}
}

// late are the outlets that have no stream, for longer than their grace or, where all is set, at all.
func (p *parking) late(now time.Time, all bool) (late []*outlet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.outlets {
		if !o.since.IsZero() && (all || now.Sub(o.since) > o.grace) {
			late = append(late, o)
		}
	}
	for id, e := range p.ended {
		if now.Sub(e.at) > rememberedTime {
			delete(p.ended, id)
		}
	}
	return late
}

// Run ends sessions that nobody has resumed in time, until the context ends. One clock serves all.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(min(max(s.Resume/16, 20*time.Millisecond), 5*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.endParked(false)
		case <-ctx.Done():
			return nil
		}
	}
}

// endParked ends the sessions that have waited too long for a stream, or all that wait.
func (s *Server) endParked(all bool) {
	for _, o := range s.parking.late(time.Now(), all) {
		_ = s.Users.Do(o.session.JID().Bare(), func(u *session.User) { // a removed account has no sessions
			if o.ledger.Carrier() == nil {
				u.End(o.session, nil)
			}
		})
	}
}
