package xmpp_test

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
	"mellium.im/xmpp"
	melliumjid "mellium.im/xmpp/jid"
	melliumstream "mellium.im/xmpp/stream"

	"tombolo/xmpp/ns"
)

// patience is how long a step of a play may take.
const patience = 5 * time.Second

// An event is what a peer can receive.
type event struct {
	kind eventKind
	tree *tree // an element; of a header, the start tag
	err  error // why the connection is gone
}

type eventKind uint8

const (
	gotElement eventKind = iota
	gotHeader            // <stream:stream>
	gotEnd               // </stream:stream>
	gotGone              // the connection is closed
)

func (e event) String() string {
	switch e.kind {
	case gotEnd:
		return "\tthe end of the stream"
	case gotGone:
		return "\tthe end of the connection: " + e.err.Error()
	}
	return e.tree.String()
}

// A peer is one connection to a server: a client that logs in with mellium's implementation, or a raw
// one that does everything by hand.
type peer struct {
	tcp  *net.TCPConn
	conn net.Conn // tcp, or TLS on it; what is written goes here
	raw  bool

	mu      sync.Mutex
	events  []event
	answers map[string]bool // to questions of settle
	news    chan struct{}   // one slot
	paused  bool            // a raw reader that got <proceed/> waits for goOn
	goOn    chan net.Conn   // where it reads on: TLS, or nil for more in clear
}

func newPeer(tcp net.Conn) *peer {
	return &peer{tcp: tcp.(*net.TCPConn), conn: tcp, answers: make(map[string]bool),
		news: make(chan struct{}, 1), goOn: make(chan net.Conn, 1)}
}

func dialTCP(ctx context.Context, address string) (*peer, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return newPeer(conn), nil
}

// A login is how a client connects.
type login struct {
	address  string // host and port
	direct   bool   // direct TLS
	jid      string // full
	password string
	roots    *x509.CertPool
}

// connect logs in and binds a resource with mellium's client.
func connect(ctx context.Context, l login) (*peer, error) {
	p, session, err := negotiate(ctx, l)
	if err != nil {
		return nil, err
	}
	go p.read(session.TokenReader().Token)
	return p, nil
}

// negotiate is connect for those who read from the connection themselves.
func negotiate(ctx context.Context, l login) (*peer, *xmpp.Session, error) {
	origin, err := melliumjid.Parse(l.jid)
	if err != nil {
		return nil, nil, err
	}
	p, err := dialTCP(ctx, l.address)
	if err != nil {
		return nil, nil, err
	}
	config := &tls.Config{ServerName: origin.Domainpart(), RootCAs: l.roots, MinVersion: tls.VersionTLS12}
	if l.direct {
		config.NextProtos = []string{"xmpp-client"}
		p.conn = tls.Client(p.tcp, config)
	}
	session, err := xmpp.NewClientSession(ctx, origin, p.conn, xmpp.StartTLS(config),
		xmpp.SASL("", l.password, sasl.ScramSha256Plus, sasl.ScramSha256, sasl.ScramSha1), bindResource(origin))
	if err != nil {
		p.cut()
		return nil, nil, err
	}
	p.conn = session.Conn()
	return p, session, nil
}

// bindResource is resource binding as RFC 6120 section 7.7 has it. mellium's own sends an empty
// <resource/> (v0.23.0), whatever it was asked for.
func bindResource(full melliumjid.JID) xmpp.StreamFeature {
	feature := xmpp.BindResource()
	feature.Negotiate = func(ctx context.Context, s *xmpp.Session, _ any) (xmpp.SessionState, io.ReadWriter, error) {
		r := s.TokenReader()
		defer r.Close()
		if _, err := fmt.Fprintf(s.Conn(), "<iq type='set' id='bind'><bind xmlns='%s'><resource>%s</resource></bind></iq>",
			ns.Bind, escaper.Replace(full.Resourcepart())); err != nil {
			return 0, nil, err
		}
		token, err := r.Token()
		if err != nil {
			return 0, nil, err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			return 0, nil, fmt.Errorf("%T in answer to <bind/>", token)
		}
		answer, err := readTree(r.Token, start)
		if err != nil {
			return 0, nil, err
		}
		want, err := parseTrees(fmt.Sprintf("<iq type='result' id='bind'><bind xmlns='%s'><jid>%s</jid></bind></iq>", ns.Bind, escaper.Replace(full.String())))
		if err == nil {
			err = want[0].match(answer, nil)
		}
		if err != nil {
			return 0, nil, fmt.Errorf("binding %s: %w, got:\n%s", full, err, answer)
		}
		return xmpp.Ready, nil, nil
	}
	return feature
}

// open starts a raw connection.
func open(ctx context.Context, address string, config *tls.Config) (*peer, error) {
	p, err := dialTCP(ctx, address)
	if err != nil {
		return nil, err
	}
	p.raw = true
	if config != nil {
		t := tls.Client(p.tcp, config)
		if err := t.HandshakeContext(ctx); err != nil {
			p.cut()
			return nil, err
		}
		p.conn = t
	}
	go p.read(xml.NewDecoder(p.conn).Token)
	return p, nil
}

// secure puts TLS on a raw connection that has got <proceed/>.
func (p *peer) secure(ctx context.Context, config *tls.Config) error {
	t := tls.Client(p.tcp, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	p.conn = t
	p.resume(t)
	return nil
}

// resume lets a reader go on that has got <proceed/>.
func (p *peer) resume(secured net.Conn) {
	p.mu.Lock()
	paused := p.paused
	p.paused = false
	p.mu.Unlock()
	if paused {
		p.goOn <- secured
	}
}

// read turns tokens into events until the connection is gone.
func (p *peer) read(next func() (xml.Token, error)) {
	ended := false
	for {
		token, err := next()
		var streamErr melliumstream.Error
		switch {
		case errors.As(err, &streamErr):
			condition := &tree{name: xml.Name{Space: ns.StreamErr, Local: streamErr.Err}}
			p.add(event{tree: &tree{name: xml.Name{Space: ns.Stream, Local: "error"}, content: []any{condition}}})
			continue
		case errors.Is(err, io.EOF) && !p.raw && !ended:
			ended = true // mellium's reader says so for </stream:stream>
			p.add(event{kind: gotEnd})
			continue
		case err != nil:
			p.add(event{kind: gotGone, err: err})
			return
		}
		switch token := token.(type) {
		case xml.StartElement:
			if token.Name == (xml.Name{Space: ns.Stream, Local: "stream"}) {
				p.add(event{kind: gotHeader, tree: newTree(token)})
				continue
			}
			t, err := readTree(next, token)
			if err != nil {
				p.add(event{kind: gotGone, err: fmt.Errorf("in the middle of an element: %w", err)})
				return
			}
			if id := t.attr("id"); strings.HasPrefix(id, settlePrefix) {
				p.answer(id)
				continue
			}
			pause := p.raw && t.name == (xml.Name{Space: ns.StartTLS, Local: "proceed"})
			p.mu.Lock()
			p.paused = pause
			p.mu.Unlock()
			p.add(event{tree: t})
			if pause {
				if secured := <-p.goOn; secured != nil {
					next = xml.NewDecoder(secured).Token
				}
			}
		case xml.EndElement:
			p.add(event{kind: gotEnd})
		case xml.CharData:
			if strings.TrimSpace(string(token)) != "" {
				p.add(event{kind: gotGone, err: fmt.Errorf("text between elements: %q", token)})
				return
			}
		}
	}
}

func (p *peer) add(e event) {
	p.mu.Lock()
	p.events = append(p.events, e)
	p.mu.Unlock()
	p.wake()
}

func (p *peer) answer(id string) {
	p.mu.Lock()
	p.answers[id] = true
	p.mu.Unlock()
	p.wake()
}

func (p *peer) wake() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// wait calls ready, with the lock held, until it is true or ctx ends.
func (p *peer) wait(ctx context.Context, ready func() bool) error {
	for {
		p.mu.Lock()
		ok := ready()
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-p.news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take removes and returns the next event.
func (p *peer) take(ctx context.Context) (e event, err error) {
	if len(p.pending()) == 0 {
		p.resume(nil)
	}
	err = p.wait(ctx, func() bool {
		if len(p.events) == 0 {
			return false
		}
		e, p.events = p.events[0], p.events[1:]
		return true
	})
	return e, err
}

// takeIf removes and returns the first event that is wanted, whatever came before it.
func (p *peer) takeIf(ctx context.Context, wanted func(event) bool) (e event, err error) {
	err = p.wait(ctx, func() bool {
		for i := range p.events {
			if wanted(p.events[i]) || p.events[i].kind == gotGone {
				e = p.events[i]
				p.events = append(p.events[:i:i], p.events[i+1:]...)
				return true
			}
		}
		return false
	})
	if err == nil && e.kind == gotGone {
		err = e.err
	}
	return e, err
}

// pending are the events that nobody has taken.
func (p *peer) pending() []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]event(nil), p.events...)
}

func (p *peer) send(text string) error {
	p.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := io.WriteString(p.conn, text)
	return err
}

// settlePrefix marks the ids of questions that are not part of a play.
const settlePrefix = "settle-"

// ask sends a ping and waits for the answer, whatever it is: everything that was sent to or by this
// peer before has been dealt with by then.
func (p *peer) ask(ctx context.Context, domain string, number int) error {
	id := fmt.Sprintf("%s%d", settlePrefix, number)
	if err := p.send(fmt.Sprintf("<iq type='get' id='%s' to='%s'><ping xmlns='%s'/></iq>", id, domain, ns.Ping)); err != nil {
		return err
	}
	gone := false
	err := p.wait(ctx, func() bool {
		gone = len(p.events) > 0 && p.events[len(p.events)-1].kind == gotGone
		return p.answers[id] || gone
	})
	if gone {
		return errors.New("the connection is gone")
	}
	return err
}

// cut ends the connection with a reset.
func (p *peer) cut() {
	p.tcp.SetLinger(0)
	p.tcp.Close()
}
