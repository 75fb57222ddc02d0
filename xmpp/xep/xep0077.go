package xep

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"tombolo/storage"
	"tombolo/xmpp/audit"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/sasl"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
	"tombolo/xmpp/stream"
)

// RegistrationOptions say who may make accounts.
type RegistrationOptions struct {
	// Open lets anybody make an account before logging in.
	Open bool
	// PerMinute is how many attempts one IPv4 address or IPv6 /64 has in a minute; 0: no limit.
	PerMinute int
	// Exempt are the networks to which PerMinute does not apply.
	Exempt []netip.Prefix
}

// A Registration is in-band registration: clients make accounts before login where that is open
// (Early), and users change their password or remove their account after it.
type Registration struct {
	host  *module.Host
	open  bool
	rate  *rate
	turns chan struct{} // one for each password that may be worked on at the same time
}

// passwordsAtOnce bounds the processors that the derivation of keys can take from everybody else.
const passwordsAtOnce = 2

// NewRegistration makes the one Registration of a server, for Options and the client streams.
func NewRegistration(h *module.Host, o RegistrationOptions) *Registration {
	return &Registration{host: h, open: o.Open, rate: newRate(o.PerMinute, o.Exempt, h.Now),
		turns: make(chan struct{}, passwordsAtOnce)}
}

// feature is what users can ask for who have logged in.
func (r *Registration) feature(*module.Host) (module.Feature, error) {
	return module.Feature{
		Info:   module.Info{Spec: "XEP-0077", Name: "In-Band Registration", Version: "2.4", Status: "complete"},
		Server: []string{ns.IQRegister},
		IQ: []module.IQ{
			{Name: "query", NS: ns.IQRegister, Get: true, Scope: module.ToServer | module.ToSelf, Handle: r.registered},
			{Name: "query", NS: ns.IQRegister, Set: true, Scope: module.ToServer | module.ToSelf, Handle: r.change},
		},
	}, nil
}

// Early is the stream feature (XEP-0077 section 8) through which accounts are made, if that is open.
func (r *Registration) Early() []stream.Feature {
	if !r.open {
		return nil
	}
	return []stream.Feature{{
		Name:    "in-band registration",
		Needs:   stream.Secure,
		Refuses: stream.Authenticated,
		Claims: func(e element.Element) bool {
			return e.Is("iq", ns.Client) && e.Payload().Is("query", ns.IQRegister)
		},
		Offer: func(*stream.Stream) []element.Element {
			return []element.Element{element.Leaf("register", ns.Register, "")}
		},
		Handle: func(s *stream.Stream, e element.Element) (stream.Outcome, error) {
			r.early(s.Local, s.Conn().RemoteAddr(), e, s.Send)
			return stream.Outcome{}, nil
		},
	}}
}

// early answers one request of a client that has not logged in, on a stream for domain.
func (r *Registration) early(domain string, from net.Addr, e element.Element, send func(element.Element)) {
	request, err := stanza.Parse(e)
	answer := func(err error) {
		reply, ok := request.Result(), true
		if err != nil {
			reply, ok = request.ErrorReply(stanza.AsError(storeError(err)))
		}
		if ok {
			send(reply.Element)
		}
	}
	query := request.Payload()
	switch {
	case err != nil:
		answer(err)
	case !request.IsRequest(): // a reply to nothing
	case !request.To.IsZero() && request.To.String() != domain:
		answer(stanza.ServiceUnavailable(""))
	case request.Type == "get":
		send(request.Result(fields().Leaf("username", ns.IQRegister, "").
			Leaf("password", ns.IQRegister, "").Element()).Element)
	case !query.Child("remove", ns.IQRegister).IsZero():
		answer(stanza.UnexpectedRequest("log in first"))
	default:
		r.create(domain, from, query, answer)
	}
}

// create makes an account. An attempt counts against its address whether it succeeds or not, since
// a failed one tells which names are taken.
func (r *Registration) create(domain string, from net.Addr, query element.Element, answer func(error)) {
	username, password := credentials(query)
	if username == "" || password == "" {
		answer(stanza.NotAcceptable("username and password are needed"))
		return
	}
	account, err := jid.New(username, domain, "")
	if err != nil {
		answer(stanza.NotAcceptable("the username cannot be used"))
		return
	}
	if !r.rate.allows(from) {
		answer(&stanza.Error{Type: stanza.Wait, Condition: "not-acceptable",
			Text: "too many registrations from this address"})
		return
	}
	r.work(answer, func() error {
		err := r.host.Accounts.Create(context.Background(), account, password)
		switch {
		case errors.Is(err, storage.ErrExists):
			return stanza.Conflict("the username is taken")
		case err != nil:
			return r.refused(err)
		}
		r.host.Log.Info("account registered", "account", account, "remote", from.String())
		r.host.Audit.Write(audit.Event{Kind: audit.AccountCreated, Account: account.String(),
			By: account.String(), Remote: from.String(), Detail: map[string]string{"how": "registration"}})
		return nil
	})
}

// registered tells a user who has an account what is on file (section 3.1).
func (r *Registration) registered(q *module.Query) {
	if !ofOwnServer(q) {
		q.Fail(stanza.ServiceUnavailable(""))
		return
	}
	q.Result(fields().Leaf("registered", ns.IQRegister, "").
		Leaf("username", ns.IQRegister, q.From.Local()).Leaf("password", ns.IQRegister, "").Element())
}

func (r *Registration) change(q *module.Query) {
	query := q.Payload()
	switch {
	case !ofOwnServer(q):
		q.Fail(stanza.RegistrationRequired("your account is not here"))
	case !query.Child("remove", ns.IQRegister).IsZero():
		r.remove(q)
	default:
		r.setPassword(q)
	}
}

// setPassword changes a user's own password (section 3.3). Whoever had logged in with the old one is
// logged out, but for the session that asked.
func (r *Registration) setPassword(q *module.Query) {
	username, password := credentials(q.Payload())
	if username == "" || password == "" {
		q.Fail(stanza.BadRequest("username and password are needed"))
		return
	}
	account := q.From.Bare()
	if named, err := jid.New(username, account.Domain(), ""); err != nil || named != account {
		q.Fail(stanza.NotAcceptable("this is not the name of your account")) // a second one: section 3.1.1
		return
	}
	r.work(result(q), func() error {
		if err := r.host.Accounts.SetPassword(context.Background(), account, password); err != nil {
			return r.refused(err)
		}
		r.record(audit.PasswordChanged, q.From)
		return r.host.Users.EndAll(account, &stanza.StreamError{Condition: stanza.StreamNotAuthorized,
			Text: "the password was changed"},
			func(s *session.Session) bool { return s.JID() == q.From })
	})
}

// remove ends a user's account (section 3.2). The result is the last that the user gets, so it comes
// when the account cannot be used any more but still has its sessions.
func (r *Registration) remove(q *module.Query) {
	children := 0
	for range q.Payload().Children() {
		children++
	}
	if children != 1 {
		q.Fail(stanza.BadRequest("remove stands alone"))
		return
	}
	account := q.From.Bare()
	go func() {
		if err := r.host.Accounts.SetDisabled(context.Background(), account, true); err != nil {
			q.Fail(r.refused(err))
			return
		}
		q.Result()
		r.host.Users.Remove(account, &stanza.StreamError{Condition: stanza.StreamNotAuthorized,
			Text: "the account was removed"}, func(err error) {
			if err != nil {
				r.host.Log.Error("account is disabled but could not be removed", "account", account, "err", err)
				return
			}
			r.host.Log.Info("account removed by its user", "account", account)
			r.record(audit.AccountRemoved, q.From)
		})
	}()
}

// record notes what a user did to the account that it is logged in to.
func (r *Registration) record(kind audit.Kind, by jid.JID) {
	r.host.Audit.Write(audit.Event{Kind: kind, Account: by.Bare().String(), By: by.String()})
}

// work runs a job that derives keys from a password and waits for the store, both of which must not
// hold up a stream. Where too many do so already the client is asked to come again.
func (r *Registration) work(answer func(error), job func() error) {
	select {
	case r.turns <- struct{}{}:
	default:
		answer(stanza.ResourceConstraint("the server is busy"))
		return
	}
	go func() {
		err := job()
		<-r.turns
		answer(err)
	}()
}

// refused is what a client may know of an error of the accounts.
func (r *Registration) refused(err error) error {
	if errors.Is(err, sasl.ErrPassword) {
		return stanza.NotAcceptable("the password cannot be used")
	}
	known := storeError(err)
	if known == err {
		r.host.Log.Error("registration failed", "err", err)
	}
	return known
}

// ofOwnServer says whether a request comes from an account of the server that it is addressed to.
func ofOwnServer(q *module.Query) bool {
	return q.Local && q.From.Domain() == q.Target.Domain()
}

func credentials(query element.Element) (username, password string) {
	return query.Child("username", ns.IQRegister).Text(), query.Child("password", ns.IQRegister).Text()
}

func fields() *element.Writer {
	return element.Start("query", ns.IQRegister).
		Leaf("instructions", ns.IQRegister, "Choose a username and a password.")
}
