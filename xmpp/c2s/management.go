package c2s

import (
	"crypto/rand"
	"errors"
	"strconv"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// management is stream management (XEP-0198). Acknowledgements need a resource; a session is resumed
// in the place of binding one.
func (s *Server) management() stream.Feature {
	return stream.Feature{
		Name:    "stream management",
		Needs:   stream.Secure | stream.Authenticated,
		Quietly: true,
		Claims:  func(e element.Element) bool { return e.NS() == ns.SM },
		Offer: func(st *stream.Stream) []element.Element {
			if o := clientOf(st).outlet; o != nil && o.asked {
				return nil // enabled with Bind 2; @xmpp/client would do it again
			}
			return []element.Element{element.Leaf("sm", ns.SM, "")}
		},
		Handle: func(st *stream.Stream, e element.Element) (stream.Outcome, error) {
			c := clientOf(st)
			switch {
			case e.Name() == "resume" && st.State()&stream.Bound == 0:
				return c.resume(e)
			case e.Name() == "enable" && c.outlet != nil:
				return stream.Outcome{}, c.enable(e)
			case e.Name() == "r" && c.outlet != nil && c.outlet.Managed():
				if c.outlet.ledger.Carrier() == st {
					c.outlet.ledger.Asked()
				}
				return stream.Outcome{}, nil
			case e.Name() == "a" && c.outlet != nil && c.outlet.Managed():
				return stream.Outcome{}, c.acknowledged(e)
			}
			st.Send(failed(stanza.UnexpectedRequest("")))
			return stream.Outcome{}, nil
		},
	}
}

// askPause is how long a client in the middle of something goes on before it is asked again what it has got. What it
// has not said is all that may come twice if its session is lost.
const askPause = 50 * time.Millisecond

// failed says that stream management cannot be had (section 6).
func failed(err *stanza.Error) element.Element {
	return element.Start("failed", ns.SM).Leaf(err.Condition, ns.StanzaErr, "").Element()
}

// enable starts the counts (section 3).
func (c *client) enable(e element.Element) error {
	twice := false
	err := c.server.Users.Do(c.account, func(u *session.User) {
		switch {
		case !c.current(u):
		case c.outlet.Managed():
			twice = true
		default:
			enabled := c.outlet.enabled(e)
			c.outlet.ledger.Start(c.outlet.recorded(), func() { c.stream.Send(enabled) })
		}
	})
	if twice {
		c.stream.Send(failed(stanza.UnexpectedRequest("")))
		return &stanza.StreamError{Condition: stanza.StreamPolicyViolation,
			Text: "stream management is enabled already"}
	}
	return err
}

// enabled answers <enable/>, and lets the session be resumed if the client wants that.
func (o *outlet) enabled(enable element.Element) element.Element {
	o.asked = true
	w := element.Start("enabled", ns.SM)
	if o.server.Resume > 0 && isTrue(enable.Attr("resume")) {
		secret := rand.Text()
		o.id, o.grace = keyOf(secret), o.server.Resume
		if wish, err := strconv.ParseUint(enable.Attr("max"), 10, 31); err == nil && wish > 0 {
			o.grace = min(o.grace, time.Duration(wish)*time.Second)
		}
		o.server.parking.enter(o)
		w.Attr("id", secret).Attr("resume", "true").
			Attr("max", strconv.Itoa(max(1, int(o.grace/time.Second))))
	}
	o.found()
	return w.Element()
}

// current says whether the session is still the client's: not ended, and not resumed by another.
func (c *client) current(u *session.User) bool {
	return u.Find(c.session.JID()) == c.session && c.outlet.ledger.Carrier() == c.stream
}

// acknowledged takes the client's word for what has arrived (section 4).
func (c *client) acknowledged(e element.Element) error {
	h, err := count(e)
	if err != nil {
		return err
	}
	var refused error
	err = c.server.Users.Do(c.account, func(u *session.User) {
		if !c.current(u) {
			return
		}
		arrived, err := c.outlet.ledger.Acknowledge(h)
		u.Arrived(arrived)
		if c.outlet.peer != 0 {
			c.server.parking.noteAcked(c.outlet)
		}
		refused = err
	})
	if refused != nil {
		err = refused
	}
	return err
}

// count reads h.
func count(e element.Element) (uint32, error) {
	h, err := strconv.ParseUint(e.Attr("h"), 10, 32)
	if err != nil {
		return 0, &stanza.StreamError{Condition: stanza.StreamPolicyViolation, Text: "h is not a count"}
	}
	return uint32(h), nil
}

// resume puts the client's earlier session on this stream (section 5).
func (c *client) resume(e element.Element) (stream.Outcome, error) {
	refused, err := c.takeOver(e, func(handled uint32) { c.stream.Send(resumed(e, handled)) })
	switch {
	case errors.Is(err, errOutdated):
		return stream.Outcome{}, &stanza.StreamError{Condition: stanza.StreamNotAuthorized}
	case err != nil:
		return stream.Outcome{}, err
	case !refused.IsZero():
		c.stream.Send(refused)
		return stream.Outcome{}, nil
	}
	return stream.Outcome{Gains: stream.Bound | stream.Resumed}, nil
}

func resumed(resume element.Element, handled uint32) element.Element {
	return element.Start("resumed", ns.SM).Attr("previd", resume.Attr("previd")).
		Attr("h", strconv.FormatUint(uint64(handled), 10)).Element()
}

// takeOver makes the session that <resume/> names this stream's. announce tells the client, before
// what it has not got is sent again. Whatever is wrong with the request is answered with <failed/>, which
// it returns, and the client may bind a resource instead (sections 6 and 9.2.1). Its error is errOutdated where
// the login does not hold any more.
func (c *client) takeOver(e element.Element, announce func(handled uint32)) (refused element.Element, err error) {
	h, malformed := count(e)
	if malformed != nil {
		return failed(stanza.BadRequest("")), nil
	}
	id := keyOf(e.Attr("previd"))
	o := c.server.parking.find(id, c.account)
	if o == nil {
		return c.notFound(id), nil
	}
	valid := func() error { return c.server.current(c.account, c.epoch) }
	for deadline := time.Now().Add(storeTime); ; {
		// From here on nothing that the old stream still brings counts.
		var unhandled <-chan struct{}
		err := c.server.Users.DoIf(c.account, valid, func(u *session.User) {
			if u.Find(o.session.JID()) != o.session || !o.ledger.Known(h) {
				refused = c.notFound(id)
				return
			}
			c.displace(u, o)
			if _, unhandled = o.ledger.Handled(); unhandled == nil && c.adopt(u, o, h, announce) != nil {
				refused = failed(stanza.BadRequest("")) // more than it was sent
			}
		})
		switch {
		case errors.Is(err, storage.ErrNotFound): // deleted since it logged in
			return element.Element{}, errOutdated
		case err != nil || unhandled == nil:
			return refused, err
		}
		// The client will send again what is not counted, so what is under way must be over.
		if !c.stream.Await(unhandled, time.Until(deadline)) {
			return failed(stanza.ResourceConstraint("")), nil
		}
	}
}

// notFound is the answer where a session has ended, or sessions are never resumed; it has the count if
// that is still known (section 5).
func (c *client) notFound(id key) element.Element {
	answer := failed(stanza.ItemNotFound(""))
	if c.server.Resume <= 0 {
		answer = failed(stanza.FeatureNotImplemented(""))
	}
	if handled, ok := c.server.parking.handled(id, c.account); ok {
		answer = answer.WithAttr("h", strconv.FormatUint(uint64(handled), 10))
	}
	return answer
}

// displace takes the session off a stream of which its client does not know whether it lives.
func (c *client) displace(u *session.User, o *outlet) {
	old := o.ledger.Carrier()
	if old == nil || old == c.stream {
		return
	}
	u.Arrived(o.ledger.Written())
	o.ledger.Park()
	o.server.parking.wait(o, time.Now())
	old.Close(&stanza.StreamError{Condition: stanza.StreamConflict, Text: "the session was resumed"})
}

// adopt makes a session without a stream this client's: who may have it is from now on decided by this
// login, and not by the one that bound it (XEP-0494 section 5).
func (c *client) adopt(u *session.User, o *outlet, h uint32, announce func(uint32)) error {
	arrived, changed, err := o.ledger.Acknowledged(h)
	if err != nil {
		return err
	}
	c.session, c.outlet = o.session, o
	c.session.SetClient(c.agent)
	u.Arrived(arrived)
	o.ledger.Resume(c.stream, o.renumbered(o.ledger.Acked(), changed), announce)
	c.server.parking.wait(o, time.Time{})
	c.server.parking.noteAcked(o)
	if o.old {
		o.old = false
		u.Restored(o.session)
	}
	c.bound.Store(true)
	c.stream.Log().Debug("session resumed")
	return nil
}

// over deals with the session of a stream that has ended, however it ended: one that can be resumed
// waits for that if nobody meant it to end (section 7). The end of the server is not the session's, though its
// client may have asked for resumption too late to be spared the error.
func (s *Server) over(st *stream.Stream, err error) {
	c := clientOf(st)
	if c.session == nil {
		return
	}
	var cause *stanza.StreamError
	spared := st.Broken() || errors.As(err, &cause) && cause.Condition == stanza.StreamSystemShutdown
	_ = s.Users.Do(c.account, func(u *session.User) { // an account that is gone has no sessions
		switch {
		case !c.current(u):
		case c.outlet.id != key{} && spared:
			u.Arrived(c.outlet.ledger.Written())
			c.outlet.ledger.Park()
			s.parking.wait(c.outlet, time.Now())
			st.Log().Debug("session waits to be resumed")
		default:
			u.End(c.session, nil)
		}
	})
}

// written tells who sent something that it has been handed to the connection of a client that does not
// acknowledge.
func (c *client) written() {
	_ = c.server.Users.Do(c.account, func(u *session.User) {
		if c.current(u) {
			u.Arrived(c.outlet.ledger.Written())
		}
	})
}

// resumeLogin is resumption with the login (section 9.2).
func (r *request) resumeLogin(success stream.Success, further []element.Element) (refused element.Element, err error) {
	c := r.client
	c.account, c.agent, c.epoch = r.account, r.agent, r.exchange.Epoch()
	refused, err = c.takeOver(r.resume, func(handled uint32) {
		c.authenticated(r.account, r.agent, r.exchange)
		success(c.session.JID().String(), stream.Bound|stream.Resumed,
			append([]element.Element{resumed(r.resume, handled)}, further...)...)
	})
	if err != nil {
		c.account = jid.JID{} // the login does not hold
	}
	return refused, err
}
