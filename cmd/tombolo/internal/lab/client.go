// Package lab has what quickstart and demo try the server with: certificates of a throw-away
// authority, and a client on mellium.im/xmpp, an implementation of XMPP that is not ours. The
// commands of package main call it.
//
// Start with Login; a Client says, announces and asks, and Await waits for what comes.
package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"mellium.im/sasl"
	"mellium.im/xmlstream"
	"mellium.im/xmpp"
	"mellium.im/xmpp/jid"
	"mellium.im/xmpp/mux"
	"mellium.im/xmpp/roster"
	"mellium.im/xmpp/stanza"

	own "tombolo/xmpp/jid"
)

// Mechanism is the one with which clients log in.
const Mechanism = "SCRAM-SHA-256"

// Account is who logs in, and where.
type Account struct {
	JID      string // bare
	Password string
	Address  string // host and port of the server
	Direct   bool   // direct TLS instead of STARTTLS
	Roots    *x509.CertPool
}

// A Client is a session that is logged in.
type Client struct {
	session *xmpp.Session
	domain  string

	mu      sync.Mutex
	arrived chan struct{} // closed and replaced when an event comes
	events  []Event
	ended   error // why nothing comes any more
	done    chan struct{}
}

// An Event is a message or a presence that came.
type Event struct {
	Message  bool
	From     jid.JID
	Type     string
	Body     string // of a message
	Status   string // of a presence
	Received time.Time
}

// Login connects, checks the certificate for the account's domain, logs in and binds a resource.
func Login(ctx context.Context, a Account) (*Client, error) {
	c, err := login(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("log in as %s at %s: %w", a.JID, a.Address, err)
	}
	return c, nil
}

func login(ctx context.Context, a Account) (*Client, error) {
	who, err := jid.Parse(a.JID)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", a.Address)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // mellium looks at the context only now and then
	}
	// Certificates have A-labels (RFC 6125 section 6.4.2).
	config := &tls.Config{ServerName: own.ASCIIDomain(who.Domainpart()), RootCAs: a.Roots, MinVersion: tls.VersionTLS12}
	features := []xmpp.StreamFeature{xmpp.SASL("", a.Password, sasl.ScramSha256), xmpp.BindResource()}
	state := xmpp.SessionState(0)
	if a.Direct {
		config.NextProtos = []string{"xmpp-client"} // XEP-0368 section 3
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		conn, state = secure, xmpp.Secure
	} else {
		features = append(features, xmpp.StartTLS(config))
	}
	session, err := xmpp.NewSession(ctx, who.Domain(), who, conn, state,
		xmpp.NewNegotiator(func(*xmpp.Session, *xmpp.StreamConfig) xmpp.StreamConfig {
			return xmpp.StreamConfig{Features: features}
		}))
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	c := &Client{session: session, domain: who.Domainpart(), arrived: make(chan struct{}), done: make(chan struct{})}
	go c.serve()
	return c, nil
}

func (c *Client) serve() {
	defer close(c.done)
	requests := mux.New(stanza.NSClient, roster.Handle(roster.Handler{Push: func(string, roster.Item) error { return nil }}))
	err := c.session.Serve(xmpp.HandlerFunc(func(t xmlstream.TokenReadEncoder, start *xml.StartElement) error {
		if start.Name.Local == "iq" {
			return requests.HandleXMPP(t, start)
		}
		return c.receive(t, start)
	}))
	if err == nil {
		err = io.EOF
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = err
	close(c.arrived)
}

// receive notes a message or a presence.
func (c *Client) receive(t xml.TokenReader, start *xml.StartElement) error {
	var content struct {
		From   jid.JID `xml:"from,attr"`
		Type   string  `xml:"type,attr"`
		Body   string  `xml:"body"`
		Status string  `xml:"status"`
	}
	if err := xml.NewTokenDecoder(xmlstream.MultiReader(xmlstream.Token(*start), t)).Decode(&content); err != nil {
		return err
	}
	c.add(Event{Message: start.Name.Local == "message", From: content.From, Type: content.Type,
		Body: content.Body, Status: content.Status})
	return nil
}

func (c *Client) add(e Event) {
	e.Received = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
	close(c.arrived)
	c.arrived = make(chan struct{})
}

// Await returns the first event that matches, and takes it from those that have come. what names it
// for the error when the context ends first.
func (c *Client) Await(ctx context.Context, what string, match func(Event) bool) (Event, error) {
	for {
		c.mu.Lock()
		for i, e := range c.events {
			if match(e) {
				c.events = append(c.events[:i:i], c.events[i+1:]...)
				c.mu.Unlock()
				return e, nil
			}
		}
		arrived, ended := c.arrived, c.ended
		c.mu.Unlock()
		if ended != nil {
			return Event{}, fmt.Errorf("%s waited for %s, but the connection ended: %w", c.JID().Localpart(), what, ended)
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return Event{}, fmt.Errorf("%s waited for %s: %w", c.JID().Localpart(), what, ctx.Err())
		}
	}
}

// JID is the full address of the session.
func (c *Client) JID() jid.JID { return c.session.LocalAddr() }

// TLS says how the connection is protected.
func (c *Client) TLS() string { return tls.VersionName(c.session.ConnectionState().Version) }

// Roster asks for the contacts.
func (c *Client) Roster(ctx context.Context) ([]roster.Item, error) {
	var items []roster.Item
	list := roster.Fetch(ctx, c.session)
	for list.Next() {
		items = append(items, list.Item())
	}
	if err := errors.Join(list.Err(), list.Close()); err != nil {
		return nil, fmt.Errorf("ask for the roster of %s: %w", c.JID().Bare(), err)
	}
	return items, nil
}

// Announce sends presence to the server, for all who may see it. With a negative priority the
// session gets no messages that are meant for the account.
func (c *Client) Announce(ctx context.Context, priority int, status string) error {
	return c.send(ctx, struct { // stanza.Presence would have an empty to
		XMLName  xml.Name `xml:"presence"`
		Priority int      `xml:"priority"`
		Status   string   `xml:"status,omitempty"`
	}{Priority: priority, Status: status})
}

// Presence sends a presence of a type, such as a request to subscribe, to somebody.
func (c *Client) Presence(ctx context.Context, to jid.JID, t stanza.PresenceType) error {
	return c.send(ctx, stanza.Presence{To: to, Type: t})
}

// Say sends a chat message.
func (c *Client) Say(ctx context.Context, to jid.JID, body string) error {
	return c.send(ctx, struct {
		stanza.Message
		Body string `xml:"body"`
	}{stanza.Message{To: to, Type: stanza.ChatMessage}, body})
}

func (c *Client) send(ctx context.Context, v any) error {
	if err := c.session.Encode(ctx, v); err != nil {
		return fmt.Errorf("send as %s: %w", c.JID(), err)
	}
	return nil
}

// Close ends the stream and waits, but not for long, until the server has ended its side.
func (c *Client) Close() error {
	_ = c.session.Conn().SetDeadline(time.Now().Add(2 * time.Second))
	err := c.session.Close()
	select {
	case <-c.done:
	case <-time.After(2 * time.Second):
	}
	if closeErr := c.session.Conn().Close(); err == nil && !errors.Is(closeErr, net.ErrClosed) {
		err = closeErr
	}
	return err
}

// Explain adds to an error of Login what an operator can do about it.
func Explain(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; the server's certificate is not of the CA in this directory", err)
	case errors.As(err, &name):
		return fmt.Errorf("%w; the server's certificate is for another domain", err)
	case strings.Contains(err.Error(), "not-authorized"): // mellium keeps the type to itself
		return fmt.Errorf("%w; the password is not the account's", err)
	}
	return err
}
