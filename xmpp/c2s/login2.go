package c2s

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"tombolo/xmpp/auth"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/sasl"
	"tombolo/xmpp/stream"
)

// login2 is what SASL2 offers to clients (XEP-0388): to bind a resource, to use and get tokens, and
// to add keys of further mechanisms to the account (XEP-0480), the same for everybody.
func (s *Server) login2() stream.Login2 {
	var upgrades []element.Element
	for _, task := range s.Accounts.Upgrades() {
		upgrades = append(upgrades, element.Leaf("upgrade", ns.Upgrade, task))
	}
	return stream.Login2{
		Tokens:  s.tokens,
		Inline:  []element.Element{s.inline(), element.Leaf("sm", ns.SM, "")},
		Further: upgrades,
		Request: func(st *stream.Stream, e element.Element) (stream.Request, error) {
			return newRequest(clientOf(st), e), nil
		},
	}
}

// A request is what a client asks for with <authenticate/>.
type request struct {
	client *client

	agent, software, device string // of the installation; agent is "" where it cannot be one
	bind, resume            element.Element
	fast                    element.Element
	wants                   string   // the mechanism for which a token is asked
	upgrades                []string // the tasks that the client can do

	exchange *sasl.Exchange // once done
	account  jid.JID        // that it proved
}

func newRequest(c *client, e element.Element) *request {
	agent := e.Child("user-agent", ns.SASL2)
	r := &request{
		client:   c,
		software: agent.Child("software", ns.SASL2).Text(),
		device:   agent.Child("device", ns.SASL2).Text(),
		bind:     e.Child("bind", ns.Bind2),
		resume:   e.Child("resume", ns.SM),
		fast:     e.Child("fast", ns.FAST),
		wants:    e.Child("request-token", ns.FAST).Attr("mechanism"),
	}
	if id := strings.ToLower(agent.Attr("id")); uuid.MatchString(id) {
		r.agent = id
	}
	for child := range e.Children() {
		if child.Is("upgrade", ns.Upgrade) && !slices.Contains(r.upgrades, child.Text()) {
			r.upgrades = append(r.upgrades, child.Text())
		}
	}
	return r
}

// uuid is what identifies an installation; version 4 is asked for (XEP-0388 section 2.3), but what
// counts is that it has the length of something that nobody else has.
var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Attempt has the tokens of the installation that the client says it is.
func (r *request) Attempt() *sasl.Attempt {
	a := r.client.server.attempt(r.client.stream)
	if r.agent == "" {
		return a
	}
	tokens := r.client.server.Accounts.Tokens(r.client.stream.Local, r.agent)
	a.Tokens = func(user, mechanism string) (sasl.Tokens, error) {
		r.client.trying = user
		return tokens(user, mechanism)
	}
	return a
}

// Token says whether the client means to log in with a token (XEP-0484 section 3.4).
func (r *request) Token() bool { return !r.fast.IsZero() }

// Proved finds the account and the tasks that it needs of those that the client can do. Nobody who
// comes with a token has to do any (XEP-0484 section 4.2).
func (r *request) Proved(x *sasl.Exchange) (tasks []stream.Task, err error) {
	st := r.client.stream
	if r.account, err = jid.New(x.Identity(), st.Local, ""); err != nil {
		return nil, &sasl.Failure{Condition: sasl.NotAuthorized, Cause: err}
	}
	// The from of the stream's header is only a claim, but one that has to be true now, as it would
	// have to be on the new stream of SASL (XEP-0388 section 4.4).
	if claimed, _ := jid.Parse(st.Peer); st.Peer != "" && claimed.Bare() != r.account {
		return nil, &sasl.Failure{Condition: sasl.InvalidAuthzid,
			Cause: fmt.Errorf("%s is not the from of the stream", r.account)}
	}
	r.exchange = x
	for _, name := range r.upgrades {
		upgrade, err := r.client.server.Accounts.BeginUpgrade(r.account, x, name)
		if err != nil {
			return nil, err
		}
		if upgrade != nil {
			tasks = append(tasks, stream.Task{Name: name, Step: scramUpgrade(r.client.server, upgrade)})
		}
	}
	return tasks, nil
}

// scramUpgrade gives the client the salt and takes the salted password (XEP-0480 section 3).
func scramUpgrade(s *Server, u *auth.Upgrade) func(element.Element) (element.Element, error) {
	return func(e element.Element) (element.Element, error) {
		if e.Name() == "next" {
			return element.Start("salt", ns.ScramUpgrade).Attr("iterations", strconv.Itoa(u.Iterations)).
				Text(base64.StdEncoding.EncodeToString(u.Salt)).Element(), nil
		}
		hash := e.Child("hash", ns.ScramUpgrade).Text()
		salted, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(hash))
		if err != nil {
			return element.Element{}, &sasl.Failure{Condition: sasl.IncorrectEncoding}
		}
		ctx, cancel := context.WithTimeout(context.Background(), storeTime)
		defer cancel()
		return element.Element{}, u.Finish(ctx, salted)
	}
}

// storeTime is how long a login waits for the store.
const storeTime = 10 * time.Second

// Grant keeps what the login changes, binds a resource where one is asked for, and lets the client
// in.
func (r *request) Grant(success stream.Success) error {
	c := r.client
	token, err := r.accept()
	if err != nil {
		return err
	}
	var further []element.Element
	if token != nil {
		further = []element.Element{element.Start("token", ns.FAST).Attr("token", token.Secret).
			Attr("expiry", token.Expiry.UTC().Format(time.RFC3339)).Element()}
	}
	if !r.resume.IsZero() { // which comes first, and leaves nothing to bind (XEP-0198 section 9.2)
		refused, err := r.resumeLogin(success, further)
		if err != nil || refused.IsZero() {
			return err
		}
		further = append(further, refused)
	}
	if r.bind.IsZero() {
		c.authenticated(r.account, r.agent, r.exchange)
		success(r.account.String(), 0, further...)
		return nil
	}
	return r.bindResource(func(full jid.JID, bound element.Element) {
		c.authenticated(r.account, r.agent, r.exchange)
		success(full.String(), stream.Bound, append([]element.Element{bound}, further...)...)
	})
}

// accept notes the login and returns the token that the client gets, nil for none.
func (r *request) accept() (*auth.Token, error) {
	st := r.client.stream
	login := auth.Login{
		Account: r.account, Exchange: r.exchange,
		Client: r.agent, Software: r.software, Device: r.device,
		Invalidate: isTrue(r.fast.Attr("invalidate")) && r.exchange.Token() != "",
	}
	if slices.Contains(r.client.server.tokens(st), r.wants) {
		login.RequestToken = r.wants
	}
	if host, _, err := net.SplitHostPort(st.Conn().RemoteAddr().String()); err == nil {
		login.Address = host
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	return r.client.server.Accounts.Accept(ctx, login)
}

// isTrue reads an xs:boolean.
func isTrue(value string) bool { return value == "true" || value == "1" }
