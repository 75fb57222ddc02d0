// Package router sends stanzas on their way: to an account here, to this server itself, or to another
// domain. c2s and federation hand it what they received, features what they make, all through Route.
//
// Start with Router.Route, which decides by the domain of the address, then Deliver, which applies
// RFC 6121 section 8 to a local account; its table of rules is in rules.go.
package router

import (
	"errors"
	"log/slog"
	"sync"

	"tombolo/storage"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/module"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// A Remote carries stanzas to other domains; package federation is one. Send never blocks.
type Remote interface{ Send(st stanza.Stanza) }

// maxUnanswered bounds the requests a client may be sent without answering any.
const maxUnanswered = 1000

// A Router knows where everything is. Its fields are set once, before the first stanza.
type Router struct {
	Users   *session.Registry
	Hooks   *hook.Chain
	Journal *journal.Journal
	IsLocal func(domain string) bool
	Remote  Remote
	Log     *slog.Logger

	requests map[request]module.IQ
	returns  fifo
}

// A fifo is stanzas that are to be routed, in order, by whoever does it at the moment.
type fifo struct {
	mu      sync.Mutex
	waiting []stanza.Stanza
	running bool
}

// request is what a handler is found by.
type request struct {
	name, ns string
	set      bool
	scope    module.Scope
}

// Handle registers the handlers of IQ requests; the first registration of a payload wins.
func (r *Router) Handle(handlers []module.IQ) {
	if r.requests == nil {
		r.requests = make(map[request]module.IQ)
	}
	for _, h := range handlers {
		for _, scope := range []module.Scope{module.ToServer, module.ToAccount, module.ToSelf} {
			for _, set := range []bool{false, true} {
				key := request{h.Name, h.NS, set, scope}
				if _, taken := r.requests[key]; h.Scope&scope != 0 && (set && h.Set || !set && h.Get) && !taken {
					r.requests[key] = h
				}
			}
		}
	}
}

// Route sends a stanza to the entity in its to. Its from has been verified or stamped by whoever
// calls. It is called without any lock and returns when the stanza is in a queue, stored, refused,
// or on somebody's list of effects.
func (r *Router) Route(st stanza.Stanza) { r.Forward(&st) }

// Forward is Route for who has no more use for the stanza. From here on it stays where it is: hooks may
// change it, so to hand it on would be to copy it to the heap.
func (r *Router) Forward(st *stanza.Stanza) {
	switch {
	case !r.IsLocal(st.To.Domain()):
		r.Remote.Send(*st)
	case st.To.Local() == "":
		r.server(*st)
	default:
		r.account(st)
	}
}

// account routes to a local account.
func (r *Router) account(st *stanza.Stanza) {
	err := r.Users.Do(st.To.Bare(), func(u *session.User) {
		r.receive(u, st)
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		r.stranger(*st)
	case err != nil:
		r.Log.Error("account could not be read", "account", st.To.Bare(), "err", err)
		r.reply(*st, stanza.InternalServerError(""))
	}
}

// Receive takes a stanza for an account, under its lock.
func (r *Router) Receive(u *session.User, st stanza.Stanza) { r.receive(u, &st) }

func (r *Router) receive(u *session.User, st *stanza.Stanza) {
	if v := r.Hooks.Incoming(u, st); v.Stops() {
		if v.Err() != nil {
			refuse(u, *st, v.Err())
		}
		return
	}
	r.deliver(u, st)
}

// Deliver hands a stanza to the sessions of an account by RFC 6121 section 8.5, under its lock.
func (r *Router) Deliver(u *session.User, st stanza.Stanza) { r.deliver(u, &st) }

func (r *Router) deliver(u *session.User, st *stanza.Stanza) {
	switch st.Kind {
	case stanza.Message:
		r.message(u, st)
	case stanza.Presence:
		presence(u, *st)
	case stanza.IQ:
		r.iq(u, *st)
	}
}

// message delivers or keeps a message. What is to be kept of it is written before anybody sees it, and
// before its sender is told that it has arrived (XEP-0198 section 4).
func (r *Router) message(u *session.User, st *stanza.Stanza) {
	match := u.Find(st.To)
	action := messageRule(situationOf(u), formOf(st.To, match != nil), st.Type)
	switch action {
	case silence:
		return
	case refusal:
		refuse(u, *st, stanza.ServiceUnavailable(""))
		return
	}
	if _, _, ok := st.Counted(); ok && st.Lasting() {
		*st, _ = r.Journal.Open(*st)
	}
	r.Hooks.Accepted(u, st)
	to, later := r.recipients(u, *st, action, match)
	kept := action == offline || later
	u.Pass(*st, to, r.Hooks.Copied(u, *st, to), kept)
	if kept {
		v := r.Hooks.Undelivered(u, st)
		if err := v.Err(); err != nil {
			refuse(u, *st, err)
		} else if !v.Stops() {
			refuse(u, *st, stanza.ServiceUnavailable(""))
		}
	}
	if e := journal.Of(*st); e != nil {
		e.Submit(*st, u.Submit)
	}
}

// recipients are the sessions that get a message now. Later says that it has to be kept besides, for
// one that is getting what was kept before.
func (r *Router) recipients(u *session.User, st stanza.Stanza, what action, match *session.Session) (to []hook.Session, later bool) {
	to = u.Recipients()
	for _, s := range u.Bound() {
		switch {
		case what == one && s != match, what == all && !(s.Available() && s.Priority() >= 0), what == offline:
		case r.Hooks.Postponed(u, st, s):
			later = true
		default:
			to = append(to, s)
		}
	}
	return to, later
}

// presence delivers available and unavailable presence and presence errors; the roster has taken
// the other types before (RFC 6121 sections 8.5.2.1.2 and 8.5.3.1).
func presence(u *session.User, st stanza.Stanza) {
	if st.To.IsBare() {
		for _, s := range u.Bound() {
			if s.Available() {
				s.Send(st.Element)
			}
		}
	} else if s := u.Find(st.To); s != nil {
		s.Send(st.Element)
	}
}

// iq delivers to a full JID and answers for a bare one (RFC 6121 sections 8.5.2.1.3, 8.5.3).
func (r *Router) iq(u *session.User, st stanza.Stanza) {
	if st.To.IsBare() {
		if st.IsRequest() {
			u.After(func() { r.ask(st) })
		}
		return // a result for a bare JID answers nothing that anybody asked
	}
	s := u.Find(st.To)
	switch {
	case s == nil && st.IsRequest():
		refuse(u, st, stanza.ServiceUnavailable(""))
	case s == nil:
	case !st.IsRequest():
		s.Send(st.Element)
	case s.Waiting() >= maxUnanswered:
		refuse(u, st, stanza.ResourceConstraint("too many requests wait for an answer"))
	default:
		s.Received(st)
		s.Send(st.Element)
	}
}

// NotKept returns a message to its sender that could not be written. It does not wait, and what it returns
// arrives in the order of the calls (RFC 6120 section 10.1).
func (r *Router) NotKept(st stanza.Stanza, err error) {
	switch {
	case errors.Is(err, storage.ErrClosed):
		return // the server ends; nobody was told that the message has arrived
	case errors.Is(err, storage.ErrFull): // XEP-0160 section 2
		err = stanza.ServiceUnavailable("too many messages wait for this user")
	case errors.Is(err, storage.ErrNoSpace):
		err = stanza.ResourceConstraint("the server has no space left")
	default:
		r.Log.Error("message could not be kept", "from", st.From, "to", st.To, "err", err)
	}
	if answer, ok := st.ErrorReply(stanza.AsError(err)); ok {
		r.later(answer)
	}
}

// later routes a stanza behind those that it was given before.
func (r *Router) later(st stanza.Stanza) {
	q := &r.returns
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting = append(q.waiting, st); !q.running {
		q.running = true
		go r.routeWaiting()
	}
}

func (r *Router) routeWaiting() {
	q := &r.returns
	for {
		q.mu.Lock()
		waiting := q.waiting
		q.waiting, q.running = nil, len(waiting) > 0
		q.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		for _, st := range waiting {
			r.Route(st)
		}
	}
}

// server takes what is addressed to one of our domains itself.
func (r *Router) server(st stanza.Stanza) {
	switch {
	case st.IsRequest():
		r.ask(st)
	case st.Kind == stanza.Message && st.Type != "headline":
		r.reply(st, stanza.ServiceUnavailable(""))
	}
}

// ask finds the handler of a request to the server or to an account's bare JID.
func (r *Router) ask(st stanza.Stanza) {
	local := r.IsLocal(st.From.Domain())
	q := module.NewQuery(st, st.To.Bare(), local, r.Route)
	payload := st.Payload()
	key := request{payload.Name(), payload.NS(), st.Type == "set", module.ToServer}
	scopes := []module.Scope{module.ToServer}
	if st.To.Local() != "" {
		scopes = []module.Scope{module.ToSelf, module.ToAccount}
		if !q.Self {
			scopes = scopes[1:]
		}
	}
	for _, key.scope = range scopes {
		if h, ok := r.requests[key]; ok {
			h.Handle(q)
			return
		}
	}
	q.Fail(stanza.ServiceUnavailable(""))
}

// stranger deals with a stanza to an account that does not exist (RFC 6121 section 8.5.1).
func (r *Router) stranger(st stanza.Stanza) {
	switch st.Kind {
	case stanza.Message:
		if messageRule(noAccount, formOf(st.To, false), st.Type) == refusal {
			r.reply(st, stanza.ServiceUnavailable(""))
		}
	case stanza.IQ:
		r.reply(st, stanza.ServiceUnavailable(""))
	case stanza.Presence:
		if st.Type == "probe" { // so that a subscription to who is gone ends (RFC 6121 section 4.3.2)
			r.Route(stanza.New(stanza.Presence, "unsubscribed", "", st.To.Bare(), st.From.Bare()))
		}
	}
}

// reply returns a stanza to its sender with an error, where it may be answered at all.
func (r *Router) reply(st stanza.Stanza, err *stanza.Error) {
	if answer, ok := st.ErrorReply(err); ok {
		r.Route(answer)
	}
}

// refuse is reply under a user's lock.
func refuse(u *session.User, st stanza.Stanza, err *stanza.Error) {
	if answer, ok := st.ErrorReply(err); ok {
		u.Route(answer)
	}
}

// OwnHooks are the router's: a request that a client received and did not answer before its session
// ended is answered for it, because every request is owed an answer (RFC 6120 section 8.2.3).
func OwnHooks() hook.Hooks {
	return hook.Hooks{SessionEnded: func(u hook.User, s hook.Session) {
		for request := range s.(*session.Session).Unanswered() {
			if answer, ok := request.ErrorReply(stanza.ServiceUnavailable("")); ok {
				u.Route(answer)
			}
		}
	}}
}

func situationOf(u *session.User) situation {
	best := noResources
	for _, s := range u.Bound() {
		switch {
		case !s.Available():
		case s.Priority() >= 0:
			return nonNegative
		default:
			best = negativeOnly
		}
	}
	return best
}

func formOf(to jid.JID, match bool) form {
	switch {
	case to.IsBare():
		return bare
	case match:
		return fullMatch
	}
	return fullNoMatch
}
