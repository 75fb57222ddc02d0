package c2s

import (
	"crypto/rand"
	"sync/atomic"

	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
)

// A client is what this package keeps of a stream.
type client struct {
	server   *Server
	stream   *stream.Stream
	pass     *transport.Pass
	trying   string           // for whom the client wants to be taken
	guessing bool             // by a password, under the throttle
	account  jid.JID          // once authenticated
	epoch    string           // of that login, for auth.Accounts.Current
	agent    string           // the installation that logged in; "" where it did not say
	session  *session.Session // once bound
	outlet   *outlet          // of the session
	bound    atomic.Bool      // the login that the session came with is in the log
}

func clientOf(st *stream.Stream) *client { return st.Data.(*client) }

// attributes are for the log.
func (c *client) attributes() (list []any) {
	if !c.account.IsZero() {
		list = append(list, "account", c.account.String())
	}
	if c.bound.Load() {
		list = append(list, "resource", c.session.JID().Resource())
	}
	return list
}

// handle takes one stanza of a client that has bound a resource.
func (c *client) handle(e element.Element) error {
	if e.NS() != ns.Client {
		return &stanza.StreamError{Condition: stanza.StreamUnsupportedStanzaType}
	}
	st, err := stanza.Parse(e)
	refused, _ := err.(*stanza.Error)
	if err != nil && refused == nil {
		return &stanza.StreamError{Condition: stanza.StreamUnsupportedStanzaType}
	}
	// A from is not needed, but one that is not the client's is an attempt to speak for somebody
	// else (RFC 6120 section 8.1.2.1).
	if st.From != c.session.JID() && st.From != c.account && (!st.From.IsZero() || refused != nil && e.Attr("from") != "") {
		return &stanza.StreamError{Condition: stanza.StreamInvalidFrom}
	}
	st = c.clean(st).WithFrom(c.session.JID())
	if !st.To.IsZero() {
		st = st.WithTo(st.To) // in its normal form
	}
	return c.server.Users.Do(c.account, func(u *session.User) {
		if !c.current(u) {
			return // ended, or resumed on another stream: this one is closing
		}
		if number, ok := c.outlet.ledger.Receive(); ok {
			st = st.WithReceipt(c.outlet.ledger, number)
			defer st.Release()
		}
		if refused != nil {
			c.refuse(st, hook.Refuse(refused))
			return
		}
		c.outgoing(u, &st)
		if st.Kind == stanza.Presence {
			c.session.Changed()
		}
	})
}

// clean takes out what only the server may say, for the sender and for a recipient who is local, and
// gives the stanza the stream's language where it has none of its own (RFC 6120 section 8.1.5).
func (c *client) clean(st stanza.Stanza) stanza.Stanza {
	to := c.account
	if c.server.IsLocal(st.To.Domain()) {
		to = st.To
	}
	e := stanza.StripClaims(st.Element, c.account, to)
	if c.stream.Lang != "" && e.Lang() == "" {
		e = e.WithAttr("xml:lang", c.stream.Lang)
	}
	return st.WithElement(e)
}

// outgoing sends a stanza on, under the lock of its sender.
func (c *client) outgoing(u *session.User, st *stanza.Stanza) {
	if st.Kind == stanza.IQ && !st.IsRequest() && !c.session.Answered(*st) {
		return // a reply to nothing that this client was asked
	}
	if st.To.IsZero() {
		if st.Kind == stanza.Presence {
			c.presence(u, *st)
			return
		}
		*st = st.WithTo(c.account) // RFC 6120 sections 10.3.1 and 10.3.3
	}
	if v := c.server.Hooks.Outgoing(u, c.session, st); v.Stops() {
		c.server.Journal.Close(*st) // a hook before may have begun to keep it
		if st.Kind == stanza.IQ && !st.IsRequest() {
			// Who asked, and was blocked since, is owed an answer all the same.
			u.Route(stanza.New(stanza.IQ, "error", st.ID, st.From, st.To, stanza.ServiceUnavailable("").Element()))
			return
		}
		c.refuse(*st, v)
		return
	}
	u.Route(*st)
}

// presence takes a presence without a to: the client's own (RFC 6121 sections 4.2, 4.4, 4.5).
func (c *client) presence(u *session.User, st stanza.Stanza) {
	switch st.Type {
	case "", "unavailable":
		u.SetPresence(c.session, st)
	case "error":
	default:
		c.refuse(st, hook.Refuse(stanza.BadRequest("a presence of this type needs a to")))
	}
}

// refuse answers the client itself with a hook's error.
func (c *client) refuse(st stanza.Stanza, v hook.Verdict) {
	if v.Err() == nil {
		return
	}
	if answer, ok := st.ErrorReply(v.Err()); ok {
		c.outlet.Send(answer.Element)
	}
}

// ping asks a silent client whether it is there (XEP-0199 section 4.1); any bytes are an answer.
func (c *client) ping() {
	server := jid.MustParse(c.stream.Local)
	ping := stanza.New(stanza.IQ, "get", "ping-"+rand.Text()[:8], server, c.session.JID(), element.Leaf("ping", ns.Ping, ""))
	_ = c.server.Users.Do(c.account, func(u *session.User) { // an account that is gone has no sessions
		if c.current(u) {
			c.outlet.Send(ping.Element)
		}
	})
}
