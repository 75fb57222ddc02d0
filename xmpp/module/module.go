// Package module is where features and server meet: Host is what a feature sees of the server,
// Feature is what it says of itself. The assembly in package xmpp builds the Host, calls each
// feature's constructor (type New) once, and wires what the Features ask for.
//
// A feature is a function of type New and returns data; see package xep for small ones.
package module

import (
	"context"
	"log/slog"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/audit"
	"tombolo/xmpp/auth"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// A Host is the server as its features see it. Its fields do not change after assembly.
type Host struct {
	Store    storage.Store
	Users    *session.Registry
	Accounts *auth.Accounts
	Journal  *journal.Journal
	Log      *slog.Logger
	Now      func() time.Time
	Started  time.Time
	Audit    *audit.Log // nil: none

	// IsLocal says whether a domain is one of the server's own.
	IsLocal func(domain string) bool
	// Domains are the server's own domains.
	Domains func() []Domain
	// Route sends a stanza on its way; its from is an entity of this server. It is never called
	// under a user's lock (use hook.User.Route there).
	Route func(stanza.Stanza)
	// Features are all features of the server, for those that describe it (service discovery).
	Features func() []Feature
}

// A Domain is one virtual host, as configured.
type Domain struct {
	Name   string
	Admins []jid.JID
	// Contacts are addresses for service discovery by role, e.g. "abuse-addresses" (XEP-0157).
	Contacts map[string][]string
}

// New constructs a feature; it is called before anybody can connect.
type New func(*Host) (Feature, error)

// A Feature is what one part of the server adds to it.
type Feature struct {
	Info Info

	// Serves says whether a domain has the feature; nil: all have it. It concerns what is announced.
	Serves func(domain string) bool

	// Server and Account are the service discovery features (XEP-0030 section 3) that the
	// server's domains and its accounts' bare JIDs announce for this feature.
	Server, Account []string

	// IQ are the requests that the feature answers.
	IQ []IQ

	// Stream are elements announced in <stream:features/> to clients that have logged in.
	Stream []element.Element

	// Inline are what clients can enable while they bind a resource with SASL2.
	Inline []Inline

	// Hooks are the points at which the feature wants to be called.
	Hooks hook.Hooks

	// Verbs are what operators can ask of the feature, by name ("roster.list").
	Verbs map[string]Verb

	// Run, if set, works in the background until its context ends; the server waits for it.
	Run func(context.Context) error
}

// Info is what the README's table and the DOAP file say of a feature.
type Info struct {
	Spec    string // "XEP-0199", or "RFC 6121"
	Name    string
	Version string // of the XEP
	Status  string // "complete", "partial"
	Note    string
}

// An Inline is something of a session that a client can ask for while it binds (XEP-0386 section 3.1).
type Inline struct {
	// NS is the namespace by which it is announced, and that of the client's request.
	NS string
	// Enable enables it for a session that is about to be announced, under the user's lock. What it
	// returns becomes part of <bound/>.
	Enable func(u hook.User, s hook.Session, request element.Element) element.Element
	// Always lets Enable be called where the client has not asked, without a request.
	Always bool
}

// Scope says to whom a request is addressed.
type Scope uint8

// A request without a to is for the sender's own account (RFC 6120 section 8.1.1.1 for clients).
const (
	ToServer  Scope = 1 << iota // a domain of this server
	ToAccount                   // the bare JID of an account, from whomever
	ToSelf                      // the sender's own account, implied or named
)

// An IQ is the registration of a handler for one payload.
type IQ struct {
	Name, NS string // of the payload
	Get, Set bool
	Scope    Scope
	Handle   func(*Query)
}

// A Verb is an operator's request. The result is marshalled to JSON; args come from it. A call is
// recorded in the audit log, unless the verb's name ends in list, show, status or check, as it may
// where nothing is changed.
type Verb func(ctx context.Context, args []byte) (result any, err error)

// A Query is an IQ request in the hands of its handler, which must answer it exactly once with
// Result or Fail, at once or later, from any goroutine that holds no user's lock.
type Query struct {
	stanza.Stanza
	// Target is the account that is asked, or the domain.
	Target jid.JID
	// Local says that the sender is an account of this server; Self, that it is Target itself.
	Local, Self bool

	answer func(stanza.Stanza)
}

// NewQuery is called by the router; answer routes the reply.
func NewQuery(st stanza.Stanza, target jid.JID, local bool, answer func(stanza.Stanza)) *Query {
	return &Query{Stanza: st, Target: target, Local: local,
		Self: local && st.From.Bare() == target, answer: answer}
}

// Result answers with success.
func (q *Query) Result(payload ...element.Element) { q.answer(q.Stanza.Result(payload...)) }

// Fail answers with an error; one that is not a *stanza.Error becomes <internal-server-error/>
// without its text, which is for the log only.
func (q *Query) Fail(err error) {
	if reply, ok := q.ErrorReply(stanza.AsError(err)); ok {
		q.answer(reply)
	}
}
