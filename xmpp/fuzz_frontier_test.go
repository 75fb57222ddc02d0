package xmpp_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/xmpp/ns"
)

// The servers that ours connects to in FuzzServer.

// A frontier is where the servers of a domain and those below it are, when ours connects to them.
type frontier struct {
	lab      *lab
	parent   string
	listener net.Listener
	mu       sync.Mutex
	game     *game // nil: nobody is at home
	random   *rand.Rand
	open     []net.Conn
}

func newFrontier(f *testing.F, l *lab, parent string) *frontier {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	fr := &frontier{lab: l, parent: parent, listener: listener}
	fr.lab.keyPair(f, "*."+parent)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fr.accept(conn.(*net.TCPConn))
		}
	}()
	f.Cleanup(func() { listener.Close(); <-done })
	return fr
}

func (f *frontier) admit(g *game, seed uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.game, f.random = g, rand.New(rand.NewPCG(seed, 1))
}

func (f *frontier) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.game = nil
	for _, c := range f.open {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	f.open = nil
}

func (f *frontier) accept(conn *net.TCPConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.game == nil {
		conn.SetLinger(0)
		conn.Close()
		return
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	f.open = append(f.open, conn)
	p := &pilot{g: f.game, domain: f.parent, tcp: conn, conn: conn, random: rand.New(rand.NewPCG(f.random.Uint64(), 2)),
		parts: [][]byte{nil}, done: make(chan struct{})}
	f.game.mu.Lock()
	f.game.pilots = append(f.game.pilots, p)
	f.game.mu.Unlock()
	go p.fly()
}

// A pilot is the server that ours connected to. Mostly it does what it should, and sometimes not.
type pilot struct {
	g      *game
	domain string // of the frontier
	tcp    net.Conn
	conn   net.Conn
	random *rand.Rand
	right  atomic.Bool // it showed the certificate of its domain
	parts  [][]byte
	taken  int
	done   chan struct{}
}

func (p *pilot) say(format string, args ...any) bool {
	text := fmt.Sprintf(format, args...)
	p.g.note("the server of %s says %q", p.domain, text)
	_, err := io.WriteString(p.conn, text)
	return err == nil
}

// next waits for the next tag that matters, and returns it.
func (p *pilot) next() string {
	buf := make([]byte, 4096)
	for {
		last := len(p.parts) - 1
		text := string(p.parts[last][p.taken:])
		if m := tagsOfServers.FindStringIndex(text); m != nil {
			p.taken += m[1]
			return text[m[0]:m[1]]
		}
		n, err := p.conn.Read(buf)
		p.parts[last] = append(p.parts[last], buf[:n]...)
		if err != nil {
			return ""
		}
	}
}

var tagsOfServers = regexp.MustCompile(`<stream:stream [^>]*>|<starttls [^>]*>|<auth [^>]*>|<db:result [^>]*>|<db:verify [^>]*>|</stream:stream>|<message [^>]*>|<iq [^>]*>`)

// odd says that this time it does something else.
func (p *pilot) odd() bool { return p.random.IntN(12) == 0 }

func (p *pilot) fly() {
	defer close(p.done)
	defer p.tcp.Close()
	far := p.g.far + "." + p.domain
	secure, authenticated := false, false
	for {
		tag := p.next()
		if p.odd() {
			switch p.random.IntN(5) {
			case 0:
				return
			case 1:
				p.say("%s", broken[p.random.IntN(len(broken))])
			case 2:
				p.say("<message from='u@%s' to='juliet@a.test' id='%s'/>", far, p.g.id(0))
			case 3:
				p.say("<db:result from='%s' to='a.test' type='valid'/><db:verify from='%s' to='a.test' id='x' type='valid'/>", far, far)
			case 4:
				continue // silence
			}
		}
		switch {
		case tag == "" || tag == closing:
			return
		case strings.HasPrefix(tag, "<stream:stream"):
			p.say("<?xml version='1.0'?><stream:stream xmlns='%s' xmlns:stream='%s' xmlns:db='%s' from='%s' to='a.test' id='%d' version='1.0'>",
				ns.Server, ns.Stream, ns.Dialback, far, p.random.IntN(1000))
			features := "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"
			if !secure && !p.odd() {
				features = streamTLS
			} else if !authenticated && p.random.IntN(2) == 0 {
				features += "<mechanisms xmlns='" + ns.SASL + "'><mechanism>EXTERNAL</mechanism></mechanisms>"
			}
			p.say("<stream:features>%s</stream:features>", features)
		case strings.HasPrefix(tag, "<starttls"):
			p.say("<proceed xmlns='%s'/>", ns.StartTLS)
			if p.odd() {
				p.say("<db:result from='%s' to='a.test' type='valid'/>", far)
			}
			name := "*." + p.domain
			if p.random.IntN(3) == 0 {
				name = map[string]string{"b.test": "*.s.test", "s.test": "*.b.test"}[p.domain]
			} else {
				p.right.Store(true)
			}
			secured := tls.Server(p.conn, &tls.Config{Certificates: []tls.Certificate{p.g.lab.keyPair(p.g.t, name)}, ClientAuth: tls.RequestClientCert})
			if secured.Handshake() != nil {
				return
			}
			p.conn, secure = secured, true
			p.parts, p.taken = append(p.parts, nil), 0
		case strings.HasPrefix(tag, "<auth"):
			if p.odd() {
				p.say("<failure xmlns='%s'><not-authorized/></failure>", ns.SASL)
				continue
			}
			authenticated = true
			p.say("<success xmlns='%s'/>", ns.SASL)
		case strings.HasPrefix(tag, "<db:result"):
			p.say("<db:result from='%s' to='a.test' type='%s'/>", far, p.verdict())
		case strings.HasPrefix(tag, "<db:verify"):
			verdict := p.verdict()
			if verdict == "valid" {
				p.g.mu.Lock()
				p.g.vouched = true
				p.g.mu.Unlock()
			}
			id := regexp.MustCompile(` id='([^']*)'`).FindStringSubmatch(tag)
			if id == nil {
				return
			}
			p.say("<db:verify from='%s' to='a.test' id='%s' type='%s'/>", far, id[1], verdict)
		}
	}
}

func (p *pilot) verdict() string {
	if p.odd() {
		return "invalid"
	}
	return "valid"
}
