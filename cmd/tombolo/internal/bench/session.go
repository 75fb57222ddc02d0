package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A Target is a server, and how its users reach it.
type Target struct {
	Address   string // host and port
	Domain    string
	Direct    bool        // direct TLS instead of STARTTLS
	TLS       *tls.Config // whom to trust; ServerName is the domain if it is empty
	Mechanism string      // SCRAM-SHA-1 or SCRAM-SHA-256
	Accounts  []*Account
	PID       int // of the server, if it runs on this machine; else 0

	relay bool // not an XMPP server: see Relay
}

// An Account is a user of a Target. One session at a time logs in with it.
type Account struct {
	Name     string // the localpart
	Password string

	salted saltedPassword
}

// A session is one connection that is logged in.
type session struct {
	conn net.Conn
	in   splitter
	jid  string // full

	counting bool          // stream management is on
	handled  atomic.Uint32 // stanzas received since (XEP-0198 section 4)
	closing  atomic.Bool
	parted   atomic.Bool // the end of the stream is sent
	serving  atomic.Bool
	served   chan struct{} // closed when serve has returned
}

const resource = "bench"

// extras are what a session asks for beyond a resource.
type extras struct {
	available bool // ask for the roster and announce presence
	sm        bool // XEP-0198
	carbons   bool // XEP-0280
}

// login connects, authenticates and binds a resource. The context bounds it.
func (t *Target) login(ctx context.Context, a *Account, x extras) (*session, error) {
	s, err := t.connect(ctx)
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
		if t.relay {
			err = s.join(a)
		} else if err = s.authenticate(t, a); err == nil {
			err = s.settle(t, x)
		}
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			_ = s.conn.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("log in as %s@%s at %s: %w", a.Name, t.Domain, t.Address, err)
	}
	return s, nil
}

// connect gets as far as a stream over TLS, whose features are yet to be read.
func (t *Target) connect(ctx context.Context) (*session, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, served: make(chan struct{})}
	config := t.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName = t.Domain
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if t.Direct {
		config.NextProtos = []string{"xmpp-client"} // XEP-0368 section 3
	} else if err = s.startTLS(t.Domain); err != nil {
		_ = conn.Close()
		return nil, err
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	s.conn = secure
	return s, nil
}

func (s *session) startTLS(domain string) error {
	features, err := s.open(domain)
	if err != nil {
		return err
	}
	if _, ok := child(features, "starttls"); !ok {
		return errors.New("the server does not offer STARTTLS")
	}
	if err := s.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"); err != nil {
		return err
	}
	answer, err := s.read()
	if err != nil {
		return err
	}
	if !named(answer, "proceed") {
		return fmt.Errorf("the server answers STARTTLS with %s", answer)
	}
	return s.in.restart()
}

// open begins a stream and returns the server's features.
func (s *session) open(domain string) ([]byte, error) {
	if err := s.send("<?xml version='1.0'?><stream:stream to='" + html.EscapeString(domain) +
		"' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"); err != nil {
		return nil, err
	}
	features, err := s.read()
	if err != nil {
		return nil, err
	}
	if !named(features, "features") {
		return nil, fmt.Errorf("the server sends %s where its features belong", features)
	}
	return features, nil
}

// authenticate logs in with SCRAM (RFC 6120 section 6, RFC 5802).
func (s *session) authenticate(t *Target, a *Account) error {
	features, err := s.open(t.Domain)
	if err != nil {
		return err
	}
	if !bytes.Contains(features, []byte(">"+t.Mechanism+"<")) {
		return fmt.Errorf("the server does not offer %s", t.Mechanism)
	}
	exchange := scram{hash: mechanisms[t.Mechanism], account: a}
	const xmlns = " xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
	if err := s.send("<auth" + xmlns + " mechanism='" + t.Mechanism + "'>" + encode(exchange.first()) + "</auth>"); err != nil {
		return err
	}
	challenge, err := s.saslAnswer("challenge")
	if err != nil {
		return err
	}
	final, err := exchange.final(challenge)
	if err != nil {
		return err
	}
	if err := s.send("<response" + xmlns + ">" + encode(final) + "</response>"); err != nil {
		return err
	}
	success, err := s.saslAnswer("success")
	if err != nil {
		return err
	}
	if err := exchange.verify(success); err != nil {
		return err
	}
	return s.in.restart()
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func (s *session) saslAnswer(name string) (string, error) {
	el, err := s.read()
	if err != nil {
		return "", err
	}
	content, _ := text(el, name)
	if !named(el, name) {
		return "", fmt.Errorf("the server answers %s", el)
	}
	decoded, err := base64.StdEncoding.DecodeString(content)
	if err != nil {
		return "", fmt.Errorf("the server's %s: %w", name, err)
	}
	return string(decoded), nil
}

// settle binds the resource and asks for what a client asks for when it comes.
func (s *session) settle(t *Target, x extras) error {
	if _, err := s.open(t.Domain); err != nil {
		return err
	}
	bound, err := s.ask("", "set", "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>"+resource+"</resource></bind>")
	if err != nil {
		return err
	}
	full, ok := text(bound, "jid")
	if !ok {
		return fmt.Errorf("the server binds no address: %s", bound)
	}
	s.jid = full // as written, which is how it goes into attributes
	if x.sm {
		if err := s.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>"); err != nil {
			return err
		}
		el, err := s.read()
		if err != nil {
			return err
		}
		if !named(el, "enabled") {
			return fmt.Errorf("the server answers stream management with %s", el)
		}
		s.counting = true
		s.handled.Store(0)
	}
	if x.carbons {
		if _, err := s.ask("", "set", "<enable xmlns='urn:xmpp:carbons:2'/>"); err != nil {
			return err
		}
	}
	if !x.available {
		return nil
	}
	// The roster and the presence in one write, as a client that is in a hurry. Our own presence comes
	// back to us (RFC 6121 section 4.2.2), after which messages reach us.
	if err := s.send("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq><presence/>"); err != nil {
		return err
	}
	for roster, presence := false, false; !roster || !presence; {
		el, err := s.read()
		if err != nil {
			return err
		}
		switch {
		case named(el, "iq") && attribute(el, "id") == "roster":
			roster = true
		case named(el, "presence") && attribute(el, "from") == s.jid:
			presence = true
		}
	}
	return nil
}

// ask sends a request and returns the answer; what else comes meanwhile is dropped. to is an address
// or "" for the account itself.
func (s *session) ask(to, kind, payload string) ([]byte, error) {
	id := "q" + rand.Text()
	if to != "" {
		to = " to='" + to + "'"
	}
	if err := s.send("<iq type='" + kind + "' id='" + id + "'" + to + ">" + payload + "</iq>"); err != nil {
		return nil, err
	}
	for {
		el, err := s.read()
		if err != nil {
			return nil, err
		}
		if named(el, "iq") && attribute(el, "id") == id {
			if attribute(el, "type") != "result" {
				return nil, fmt.Errorf("the server refuses %s: %s", payload, el)
			}
			return el, nil
		}
	}
}

func (s *session) send(text string) error {
	_, err := io.WriteString(s.conn, text)
	return err
}

// read returns the next child of the stream, until the next read, and answers what only wants an
// answer.
func (s *session) read() ([]byte, error) {
	for {
		k, el, err := s.in.next()
		switch {
		case err != nil:
			return nil, err
		case k == end:
			return nil, io.EOF
		case k == nothing:
			if err := s.in.fill(s.conn); err != nil {
				return nil, err
			}
		case k == element && named(el, "error") && bytes.HasPrefix(el, []byte("<stream:")):
			return nil, fmt.Errorf("the server ends the stream: %s", el)
		case k == element:
			if reply := s.reply(nil, el); reply != nil {
				if _, err := s.conn.Write(reply); err != nil {
					return nil, err
				}
				continue
			}
			return el, nil
		}
	}
}

// reply appends the answer to what only wants an answer: a request for an acknowledgement, or one
// that we do not know. It appends nothing to everything else.
func (s *session) reply(out, el []byte) []byte {
	switch {
	case bytes.HasPrefix(el, []byte("<message")) || bytes.HasPrefix(el, []byte("<presence")):
		s.handled.Add(1)
	case s.counting && named(el, "r"):
		return s.acknowledge(out)
	case named(el, "iq"):
		s.handled.Add(1)
		if kind := attribute(el, "type"); kind == "get" || kind == "set" {
			to := attribute(el, "from")
			if to != "" {
				to = " to='" + to + "'"
			}
			return fmt.Appendf(out, "<iq type='error' id='%s'%s><error type='cancel'>"+
				"<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>", attribute(el, "id"), to)
		}
	}
	return out
}

// acknowledge appends what the session has got.
func (s *session) acknowledge(out []byte) []byte {
	return fmt.Appendf(out, "<a xmlns='urn:xmpp:sm:3' h='%d'/>", s.handled.Load())
}

// farewell is the end of the stream. What is not acknowledged before it comes again (XEP-0198 section 4).
func (s *session) farewell() string {
	const end = "</stream:stream>"
	if s.counting {
		return string(s.acknowledge(nil)) + end
	}
	return end
}

// serve reads until the session is closed. It calls each for every stanza, and batch when all that
// had come is read; what they append to the answers they get is written once, by then.
func (s *session) serve(each func(stanza []byte), batch func() error) error {
	s.serving.Store(true)
	defer close(s.served)
	var out []byte
	for {
		if err := s.in.fill(s.conn); err != nil {
			return s.ended(err)
		}
		for out = out[:0]; ; {
			k, el, err := s.in.next()
			if err != nil {
				return err
			}
			if k == end || k == element && bytes.HasPrefix(el, []byte("<stream:error")) {
				return s.ended(fmt.Errorf("the server ends the stream: %s", el))
			}
			if k == nothing {
				break
			}
			out = s.reply(out, el)
			each(el)
		}
		if len(out) > 0 {
			if _, err := s.conn.Write(out); err != nil {
				return s.ended(err)
			}
		}
		if err := batch(); err != nil {
			return s.ended(err)
		}
	}
}

// ended is the error of a connection that ended, unless we wanted it to.
func (s *session) ended(err error) error {
	if s.closing.Load() {
		return nil
	}
	return fmt.Errorf("the session of %s: %w", s.jid, err)
}

// hurry gives the end of the session a second, once.
func (s *session) hurry() {
	if !s.closing.Swap(true) {
		_ = s.conn.SetDeadline(time.Now().Add(time.Second))
	}
}

// part ends the stream, once.
func (s *session) part() error {
	if s.parted.Swap(true) {
		return nil
	}
	return s.send(s.farewell())
}

// close ends the stream and the connection. It waits for the server only with stream management: one that gets a reset
// in the place of the end keeps the session, for it to be resumed.
func (s *session) close() {
	s.hurry()
	_ = s.part()
	if s.counting && s.serving.Load() {
		<-s.served
	}
	_ = s.conn.Close()
}

// leave ends the stream and waits until the server has ended its side.
func (s *session) leave() error {
	s.closing.Store(true)
	if err := s.part(); err != nil {
		return err
	}
	for {
		if _, err := s.read(); err != nil {
			_ = s.conn.Close()
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// child finds the first tag of this name in an element.
func child(el []byte, name string) ([]byte, bool) {
	for rest := el; ; {
		i := bytes.IndexByte(rest, '<')
		if i < 0 {
			return nil, false
		}
		tag, _ := tagAt(rest[i:])
		if tag == nil {
			return nil, false
		}
		if named(tag, name) {
			return tag, true
		}
		rest = rest[i+len(tag):]
	}
}
