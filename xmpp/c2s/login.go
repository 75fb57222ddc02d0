package c2s

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/audit"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/sasl"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
	"tombolo/xmpp/transport"
)

// mechanisms are those of the passwords that are kept, in order of preference; those with channel
// binding first, because they alone notice a TLS peer in the middle (RFC 5802 section 6).
func (s *Server) mechanisms(st *stream.Stream) []string {
	_, exporter := st.Binding(sasl.TLSExporter)
	_, endPoint := st.Binding(sasl.TLSServerEndPoint)
	kept := s.Accounts.Mechanisms()
	var list []string
	for _, name := range sasl.Mechanisms() {
		base, plus := strings.CutSuffix(name, "-PLUS")
		if slices.Contains(kept, base) && (!plus || exporter || endPoint) || name == "PLAIN" && s.Plain {
			list = append(list, name)
		}
	}
	return list
}

// tokens are the mechanisms for who has a token (XEP-0484 section 3.1).
func (s *Server) tokens(st *stream.Stream) []string {
	if !s.Tokens {
		return nil
	}
	return slices.DeleteFunc(sasl.TokenMechanisms(), func(name string) bool {
		typ := sasl.TokenBinding(name)
		if typ == "" {
			return false
		}
		_, ok := st.Binding(typ)
		return !ok
	})
}

func (s *Server) attempt(st *stream.Stream) *sasl.Attempt {
	a, c := s.Accounts.Attempt(st.Local), clientOf(st)
	c.trying, c.guessing = "", false
	a.Binding = st.Binding
	credentials, verify := a.Credentials, a.Verify
	a.Credentials = func(user, mechanism string) (sasl.Credential, error) {
		if err := c.try(user); err != nil {
			return sasl.Credential{}, err
		}
		return credentials(user, mechanism)
	}
	a.Verify = func(user, password string) (string, bool, error) {
		if err := c.try(user); err != nil {
			return "", false, err
		}
		return verify(user, password)
	}
	return a
}

// try notes for whom the client wants to be taken by a password, and holds it up where somebody at its
// address has guessed that too often. Its error says that the time was too short for that: what the
// client proves is not looked at then.
func (c *client) try(user string) error {
	c.trying = user
	site, limited := transport.Site(c.stream.Conn().RemoteAddr(), c.server.Exempt)
	if !limited {
		return nil
	}
	c.guessing = c.server.throttle.admit(site, user+"@"+c.stream.Local, func(d time.Duration) bool {
		c.server.Counters.Hit("limit: failed logins")
		return c.stream.Pause(d)
	})
	if !c.guessing {
		return &sasl.Failure{Condition: sasl.TemporaryAuthFailure,
			Cause: errors.New("there were too many attempts from this address")}
	}
	return nil
}

// tried notes the outcome.
func (c *client) tried(good bool) {
	site, _ := transport.Site(c.stream.Conn().RemoteAddr(), c.server.Exempt)
	switch account := c.trying + "@" + c.stream.Local; {
	case !c.guessing:
	case good:
		c.server.throttle.succeeded(site, account)
	default:
		c.server.throttle.failed(site, account)
	}
}

// accepted ends a login of SASL; a resource is bound later.
func (s *Server) accepted(st *stream.Stream, x *sasl.Exchange) error {
	account, err := jid.New(x.Identity(), st.Local, "")
	if err != nil {
		return &sasl.Failure{Condition: sasl.NotAuthorized, Cause: err}
	}
	clientOf(st).authenticated(account, "", x)
	return nil
}

// authenticated is called when the client is about to be told of its success. agent is the installation
// that it says it is of.
func (c *client) authenticated(account jid.JID, agent string, x *sasl.Exchange) {
	c.account, c.agent, c.epoch = account, agent, x.Epoch()
	c.stream.Peer = account.String()
	c.pass.Known()
	c.tried(true)
	c.record(audit.Login, c.stream.Peer, "mechanism", x.Mechanism())
}

// failed is called when an attempt has failed.
func (s *Server) failed(st *stream.Stream, mechanism string, err error) {
	c := clientOf(st)
	c.tried(false)
	reason := sasl.TemporaryAuthFailure
	if f, ok := errors.AsType[*sasl.Failure](err); ok {
		reason = f.Condition
	}
	account := ""
	if c.trying != "" {
		account = c.trying + "@" + st.Local
	}
	c.record(audit.LoginFailed, account, "mechanism", mechanism, "reason", reason)
}

// record writes to the audit log what came of a login and where it comes from, with details as names
// and values.
func (c *client) record(kind audit.Kind, account string, details ...string) {
	e := audit.Event{Kind: kind, Account: account, Remote: c.stream.Conn().RemoteAddr().String(),
		Detail: make(map[string]string)}
	if state := c.stream.Conn().TLS(); state != nil {
		e.Detail["tls"] = tls.VersionName(state.Version)
	}
	for i := 0; i < len(details); i += 2 {
		if details[i+1] != "" {
			e.Detail[details[i]] = details[i+1]
		}
	}
	c.server.Audit.Write(e)
}

// open makes the session of a client whose login, of that epoch, still holds; else the error is a
// *sasl.Failure.
func (c *client) open(full jid.JID, agent, epoch string, announce func(*session.User, *session.Session)) error {
	o := c.server.newOutlet(c.stream)
	_, err := c.server.Users.Bind(session.Binding{
		Full: full, Sink: o, Client: agent,
		Announce: func(u *session.User, s *session.Session) {
			o.session, c.session, c.outlet = s, s, o
			announce(u, s)
		},
		Valid: func() error { return c.server.current(full.Bare(), epoch) },
	})
	switch {
	case errors.Is(err, storage.ErrNotFound): // deleted since it logged in
		return errOutdated
	case errors.Is(err, session.ErrTooMany):
		c.server.Counters.Hit("limit: sessions_per_account")
		return err
	case err != nil:
		return err
	}
	c.server.bound(c.stream)
	c.bound.Store(true)
	c.stream.Log().Debug("resource bound")
	return nil
}

// current is errOutdated where a login of that epoch does not hold any more.
func (s *Server) current(account jid.JID, epoch string) error {
	holds, err := s.Accounts.Current(account, epoch)
	if err == nil && !holds {
		err = errOutdated
	}
	return err
}

// errOutdated is the end of a login whose account or client lost its permission meanwhile.
var errOutdated error = &sasl.Failure{Condition: sasl.NotAuthorized, Cause: errors.New("it was revoked meanwhile")}

// bind is resource binding (RFC 6120 section 7).
func (s *Server) bind() stream.Feature {
	return stream.Feature{
		Name:    "resource binding",
		Needs:   stream.Secure | stream.Authenticated,
		Refuses: stream.Bound,
		Claims: func(e element.Element) bool {
			return e.Is("iq", ns.Client) && e.Payload().Is("bind", ns.Bind)
		},
		Offer: func(*stream.Stream) []element.Element {
			return []element.Element{element.Leaf("bind", ns.Bind, "")}
		},
		Handle: func(st *stream.Stream, e element.Element) (stream.Outcome, error) {
			return clientOf(st).bind(e)
		},
	}
}

// bind makes the session. A resource that the client asks for is taken if it can be one; else it is
// told so and may try again (RFC 6120 section 7.7.2).
func (c *client) bind(e element.Element) (stream.Outcome, error) {
	request, err := stanza.Parse(e)
	if err == nil && request.Type != "set" {
		err = stanza.BadRequest("a resource is bound by a set")
	}
	wanted := e.Payload().Child("resource", ns.Bind).Text()
	if wanted == "" {
		wanted = rand.Text()[:16]
	}
	full, jidErr := c.account.WithResource(wanted)
	if err == nil && jidErr != nil {
		err = stanza.BadRequest("the resource is not valid")
	}
	if err != nil {
		if answer, ok := request.ErrorReply(stanza.AsError(err)); ok {
			c.stream.Send(answer.Element)
		}
		return stream.Outcome{}, nil
	}
	err = c.open(full, c.agent, c.epoch, func(*session.User, *session.Session) {
		payload := element.Start("bind", ns.Bind).Leaf("jid", ns.Bind, full.String()).Element()
		c.stream.Send(request.Result(payload).Element)
	})
	switch {
	case errors.Is(err, errOutdated):
		return stream.Outcome{}, &stanza.StreamError{Condition: stanza.StreamNotAuthorized}
	case errors.Is(err, session.ErrTooMany): // RFC 6120 section 7.6.2.1
		if answer, ok := request.ErrorReply(stanza.ResourceConstraint("too many sessions")); ok {
			c.stream.Send(answer.Element)
		}
		return stream.Outcome{}, nil
	}
	return stream.Outcome{Gains: stream.Bound}, err
}

// announce offers elements that are information only, also to who has bound its resource with its
// login.
func announce(elements []element.Element) stream.Feature {
	return stream.Feature{
		Name:   "announcements",
		Needs:  stream.Secure | stream.Authenticated,
		Claims: func(element.Element) bool { return false },
		Offer:  func(*stream.Stream) []element.Element { return elements },
	}
}
