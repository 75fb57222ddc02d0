package xmpp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"tombolo/xmpp/ns"
)

// What the players of FuzzServer can do.

// A player is one connection of a game.
type player struct {
	*wire
	g       *game
	n       int
	server  bool // speaks as another server
	secure  bool
	cert    bool     // showed the certificate of its domain
	proved  []string // bare JIDs or domains that it has sent proof of
	opened  bool     // has sent a header
	gone    bool     // we closed or cut it
	tainted bool     // has sent what may hide what follows
	split   int      // how many bytes go out at a time; 0: all

	mu    sync.Mutex
	parts [][]byte // what came: in clear, and under TLS
	news  chan struct{}
	ended bool
	done  chan struct{}
}

// step is mostly something that leads somewhere, since what is not ends a stream.
func (g *game) step() {
	kind := g.pick(100)
	here := slices.DeleteFunc(slices.Clone(g.players), (*player).over)
	if len(here) == 0 || kind < 10 && len(here) < maxPlayers {
		g.login(oneOf(g, users...), oneOf(g, "x", "y"))
		return
	}
	if len(here) < maxPlayers {
		switch {
		case kind < 15:
			g.serverLogin()
			return
		case kind < 20:
			g.connect(g.pick(6))
			return
		}
	}
	p := here[g.pick(len(here))]
	switch {
	case kind < 70:
		if ready := slices.DeleteFunc(here, func(p *player) bool { return !p.ready() }); len(ready) > 0 {
			p = ready[g.pick(len(ready))]
		}
		talk[g.pick(len(talk))](p)
	case kind < 90:
		p.goOn()
	default:
		chaos[g.pick(len(chaos))](p)
	}
}

// talk is what those say who are logged in, and others try to.
var talk = []func(*player){
	func(p *player) { p.message(p.g.pick(4)) },
	func(p *player) { p.message(p.g.pick(4)) },
	func(p *player) { p.presence(p.g.pick(9)) },
	func(p *player) { p.ask(p.g.pick(8)) },
	func(p *player) { p.ask(p.g.pick(8)) },
	(*player).again,
	func(p *player) { p.answers(p.g.pick(8)) },
	func(p *player) { p.say(oneOf(p.g, queries...)) },
	(*player).again,
	func(p *player) {
		if p.server {
			p.dialback(p.g.pick(2))
		} else {
			p.ask(p.g.pick(8))
		}
	},
}

// goOn is the next step of a connection that does as it should.
func (p *player) goOn() {
	text := p.text()
	switch headers := strings.Count(text, endOfFeatures); {
	case headers == 0 || strings.Contains(text, "<success xmlns='"+ns.SASL+"'") && headers == 1:
		p.header(7)
	case !p.secure:
		p.startTLS(3)
	case p.server && p.cert && headers == 1:
		p.auth(5)
	case p.server:
		p.dialback(0)
	case headers == 1:
		p.auth(11)
	case !p.isBound():
		p.bind(oneOf(p.g, "x", "y"))
	default:
		p.say("<presence/>")
	}
}

// chaos is everything else.
var chaos = []func(*player){
	func(p *player) { p.header(p.g.pick(8)) },
	func(p *player) { p.startTLS(p.g.pick(4)) },
	func(p *player) { p.auth(p.g.pick(12)) },
	func(p *player) { p.auth(p.g.pick(12)) },
	func(p *player) { p.authenticate(p.g.pick(6)) },
	func(p *player) { p.bind(oneOf(p.g, "x", "y", "", "\u0001", "a b")) },
	func(p *player) { p.say(oneOf(p.g, whole...)) },
	func(p *player) { p.dialback(p.g.pick(6)) },
	func(p *player) { p.split = p.g.pick(9) },
	func(p *player) { p.split = 1 },
	func(p *player) { p.say(closing) },
	func(p *player) { p.leave() },
	func(p *player) {
		p.g.note("%d closes its side", p.n)
		p.tainted = true
		_ = p.tcp.CloseWrite()
	},
	func(p *player) {
		p.tainted = true
		p.say(oneOf(p.g, broken...))
	},
	func(p *player) {
		account := oneOf(p.g, users...) + "@a.test"
		p.g.note("the operator kicks %s", account)
		_, _ = p.g.Call(context.Background(), "session.kick", fmt.Appendf(nil, `{"jid": "%s"}`, account)) // or nobody
	},
}

// leave cuts a connection.
func (p *player) leave() {
	p.g.note("%d cuts", p.n)
	p.gone = true
	p.tcp.SetLinger(0)
	p.tcp.Close()
	<-p.done
}

// over says that a connection leads nowhere any more.
func (p *player) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone || p.ended || bytes.Contains(p.parts[len(p.parts)-1], []byte(closing))
}

// ready says that a connection may send stanzas.
func (p *player) ready() bool {
	return p.isBound() || p.server && strings.Contains(p.text(), "<success ")
}

// queries are what those who are logged in may send at any time.
var queries = []string{
	" ", "\n",
	"<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>",
	"<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='juliet@a.test'/></query></iq>",
	"<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='juliet@a.test' subscription='remove'/></query></iq>",
	"<iq type='set' id='r'><block xmlns='urn:xmpp:blocking'><item jid='mallory@a.test'/></block></iq>",
	"<iq type='set' id='r'><unblock xmlns='urn:xmpp:blocking'/></iq>",
	"<iq type='set' id='r'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>",
	"<iq type='get' id='r' to='a.test'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>",
	"<iq type='set' id='r'><vCard xmlns='vcard-temp'><FN>x</FN></vCard></iq>",
	"<iq type='result' id='nothing' to='juliet@a.test/x'/>", "<iq type='get'/>", "<iq/>", "<message/>", "<presence/>",
	"<presence type='unavailable'/>", "<presence><priority>-1</priority></presence>", "<presence type='subscribe' to='juliet@a.test'/>",
	"<presence type='subscribed' to='romeo@a.test'/>",
	"<message to='juliet@a.test'><x xmlns='urn:x'><message xmlns='jabber:client'/></x></message>",
}

// whole are elements that anybody may send, and most are refused.
var whole = []string{
	"<iq type='set' id='r'><query xmlns='jabber:iq:auth'><username>juliet</username><password>secret of juliet</password></query></iq>",
	"<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
	"<stream:features/>", "<stream:stream/>", "<proceed xmlns='" + ns.StartTLS + "'/>", "<success xmlns='" + ns.SASL + "'/>",
	"<failure xmlns='" + ns.SASL + "'/>", "<abort xmlns='" + ns.SASL + "'/>", "<response xmlns='" + ns.SASL + "'>AA==</response>",
	"<enable xmlns='urn:xmpp:sm:3' resume='1'/>", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>", "<r xmlns='urn:xmpp:sm:3'/>",
	"<a:b xmlns:a='urn:a'/>",
	"<abort xmlns='urn:xmpp:sasl:2'/>", "<response xmlns='urn:xmpp:sasl:2'>AA==</response>", "<next xmlns='urn:xmpp:sasl:2' task='UPGR-SCRAM-SHA-256'/>",
}

// broken is what no element is, or the beginning of one that may not end.
var broken = []string{
	"<", "<a", "<a>", "</a>", "&", "\x00", "\xff", "<!DOCTYPE x>", "<!-- -->", "<?x ?>", "x", "<a b='1' b='2'/>", "<p:a/>",
	"<message to='juliet@a.test'><body>", "<a xmlns:p=''/>", "<![CDATA[x]]>", "<a><![CDATA[", "</stream:stream", "<stream:stream>",
	"\x16\x03\x01\x00\x01\x01", "<message to='juliet@a.test'></presence>",
}

func (g *game) connect(kind int) *player {
	key := []string{"client", "client", "client_tls", "server", "server", "server_tls"}[kind]
	conn, err := net.Dial("tcp", g.Addresses()[key][0])
	if err != nil {
		g.t.Fatal(err)
	}
	w := &player{wire: &wire{t: g.t, tcp: conn.(*net.TCPConn), conn: conn, to: "a.test"}, g: g, n: len(g.players),
		server: strings.HasPrefix(key, "server"), parts: [][]byte{nil}, news: make(chan struct{}, 1), done: make(chan struct{})}
	w.limit(time.Minute)
	g.players = append(g.players, w)
	g.note("%d connects, %s", w.n, key)
	if strings.HasSuffix(key, "_tls") {
		w.handshake(g.pick(3))
	}
	go w.reader(w.conn, w.done)
	return w
}

// reader keeps what comes until the connection ends, or TLS begins.
func (p *player) reader(conn net.Conn, done chan struct{}) {
	defer close(done)
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		p.mu.Lock()
		last := len(p.parts) - 1
		p.parts[last] = append(p.parts[last], buf[:n]...)
		// A client stops reading in clear where TLS begins.
		proceed := !p.secure && bytes.Contains(p.parts[last], []byte("<proceed "))
		p.ended = p.ended || err != nil
		p.mu.Unlock()
		select {
		case p.news <- struct{}{}:
		default:
		}
		if err != nil || proceed {
			return
		}
	}
}

// text is what came on the current layer.
func (p *player) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.parts[len(p.parts)-1])
}

// await waits until one of the texts came behind from, or nothing more can come.
func (p *player) await(from int, texts ...string) bool {
	deadline := time.After(100 * time.Millisecond)
	if p.tainted || p.gone {
		deadline = time.After(time.Millisecond)
	}
	for {
		p.mu.Lock()
		got, ended := string(p.parts[len(p.parts)-1]), p.ended
		p.mu.Unlock()
		for _, text := range texts {
			if strings.Contains(got[min(from, len(got)):], text) {
				return true
			}
		}
		if ended || strings.Contains(got, closing) {
			return false
		}
		select {
		case <-p.news:
		case <-deadline:
			return false
		}
	}
}

func (p *player) say(text string) {
	if p.gone {
		return
	}
	p.g.note("%d says %q", p.n, text)
	p.g.blocked = p.g.blocked || strings.Contains(text, "<block ")
	if p.split == 0 {
		p.send(text)
		return
	}
	for len(text) > 0 {
		n := min(p.split, len(text))
		p.send(text[:n])
		text = text[n:]
	}
}

// does says something and waits for one of the answers, or the end of the stream.
func (p *player) does(text string, answers ...string) bool {
	from := len(p.text())
	p.say(text)
	return p.await(from, append(answers, closing)...)
}

func (p *player) domain() string { return p.g.far + ".b.test" }

func (p *player) header(kind int) {
	content, from, to := ns.Client, "", "a.test"
	if p.server {
		content, from = ns.Server, p.domain()
	}
	switch kind {
	case 0:
		to = "b.test"
	case 1:
		from = oneOf(p.g, "c.test", "a.test", "juliet@a.test", "mallory@a.test", p.g.far+".s.test")
	case 2:
		content = oneOf(p.g, ns.Client, ns.Server)
	}
	p.opened = true
	if from != "" {
		from = " from='" + from + "'"
	}
	p.does(fmt.Sprintf("<?xml version='1.0'?><stream:stream xmlns='%s' xmlns:stream='%s' xmlns:db='%s'%s to='%s' version='1.0'>",
		content, ns.Stream, ns.Dialback, from, to), endOfFeatures)
}

func (p *player) startTLS(kind int) {
	if kind == 0 {
		p.tainted = true
		p.say(streamTLS + oneOf(p.g, " ", "<a/>", plain("", "juliet", "secret of juliet"), "\x16\x03"))
		return
	}
	if p.secure || p.server && !p.opened {
		p.say(streamTLS)
		return
	}
	if p.does(streamTLS, "<proceed xmlns='"+ns.StartTLS+"'/>") && strings.Contains(p.text(), "<proceed ") && !p.gone {
		<-p.done // the reader has stopped behind <proceed/>
		p.handshake(kind)
		done := make(chan struct{})
		p.done = done
		go p.reader(p.conn, done)
	}
}

// handshake puts TLS on a connection; a server's shows a certificate, or another one, or none.
func (p *player) handshake(kind int) {
	config := p.g.lab.clientTLS("a.test")
	if p.server && kind > 0 {
		name := "*.b.test"
		if kind == 2 {
			name = "*.s.test"
		}
		config.Certificates = []tls.Certificate{p.g.lab.keyPair(p.g.t, name)}
		p.cert = kind == 1 || kind == 3
	}
	secured := tls.Client(p.tcp, config)
	p.tcp.SetDeadline(time.Now().Add(time.Second))
	err := secured.Handshake()
	p.limit(time.Minute)
	p.g.note("%d TLS %v", p.n, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.gone = true
		p.tcp.Close()
		return
	}
	p.conn, p.secure = secured, true
	p.parts = append(p.parts, nil)
}

// auth is SASL.
func (p *player) auth(kind int) {
	g := p.g
	user := oneOf(g, users...)
	switch kind {
	case 0:
		p.does(plain("", user, "secret of somebody"), "</failure>")
	case 1:
		p.does(plain(oneOf(g, "juliet", "juliet@a.test", "a.test"), "mallory", "secret of mallory"), "</failure>", "<success")
		// PLAIN with an authzid for oneself would be good, but these are for somebody else.
	case 2:
		p.does("<auth xmlns='"+ns.SASL+"' mechanism='"+oneOf(g, "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "EXTERNAL", "ANONYMOUS", "HT-SHA-256-NONE", "")+"'>"+
			base64.StdEncoding.EncodeToString([]byte(oneOf(g, "n,,n=juliet,r=abc", "n,a=juliet,n=mallory,r=abc", "", "y,,n=juliet,r=abc")))+"</auth>", "</failure>", "<challenge")
	case 3:
		p.does("<auth xmlns='"+ns.SASL+"' mechanism='PLAIN'/>", "<challenge", "</failure>")
	case 4:
		p.does("<response xmlns='"+ns.SASL+"'>"+base64.StdEncoding.EncodeToString([]byte("\x00juliet\x00secret of mallory"))+"</response>", "</failure>")
	case 5, 6:
		if p.server && p.cert && p.secure {
			p.prove(p.domain())
		}
		p.does("<auth xmlns='"+ns.SASL+"' mechanism='EXTERNAL'>"+oneOf(g, "=", base64.StdEncoding.EncodeToString([]byte(p.domain())),
			base64.StdEncoding.EncodeToString([]byte("c.test")))+"</auth>", "<success", "</failure>")
	default:
		if p.secure && !p.server {
			p.prove(user + "@a.test")
		}
		p.does(plain("", user, "secret of "+user), "<success", "</failure>")
	}
}

func (p *player) prove(identity string) { p.proved = append(p.proved, identity) }

// authenticate is SASL2 (XEP-0388), with and without Bind 2 (XEP-0386).
func (p *player) authenticate(kind int) {
	g := p.g
	user := oneOf(g, users...)
	password := "secret of " + user
	if kind == 0 {
		password = "secret of somebody"
	} else if p.secure && !p.server {
		p.prove(user + "@a.test")
	}
	inline := oneOf(g, "", "<bind xmlns='urn:xmpp:bind:0'/>", "<bind xmlns='urn:xmpp:bind:0'><tag>t</tag></bind>",
		"<bind xmlns='urn:xmpp:bind:0'/><request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>",
		"<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'><software>x</software></user-agent><bind xmlns='urn:xmpp:bind:0'/>")
	p.does("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>"+
		base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password))+"</initial-response>"+inline+"</authenticate>",
		"</success>", "</failure>", "<continue")
}

func (p *player) bind(resource string) {
	if resource == "\u0001" {
		resource = "&#127;"
	}
	p.does(fmt.Sprintf("<iq type='set' id='bind'><bind xmlns='%s'><resource>%s</resource></bind></iq>", ns.Bind, resource), "</iq>")
}

var boundJID = regexp.MustCompile(`<jid>([^<]*)</jid>|<authorization-identifier>([^<]*/[^<]*)</authorization-identifier>`)

// boundTo is the full JID that the server gave to the connection.
func (p *player) boundTo() string {
	if m := boundJID.FindStringSubmatch(p.text()); m != nil {
		return m[1] + m[2]
	}
	return ""
}

func (p *player) isBound() bool { return !p.server && p.boundTo() != "" }

// login does all that a client does.
func (g *game) login(user, resource string) {
	p := g.connect(0)
	p.header(7)
	p.startTLS(3)
	if p.gone {
		return
	}
	p.header(7)
	p.prove(user + "@a.test")
	p.does(plain("", user, "secret of "+user), "<success", "</failure>")
	p.header(7)
	p.bind(resource)
	if g.pick(3) > 0 {
		p.does("<presence/>", "<presence")
	}
}

// serverLogin does all that another server does.
func (g *game) serverLogin() {
	w := g.connect(3)
	w.header(7)
	w.startTLS(3)
	if w.gone {
		return
	}
	w.header(7)
	w.prove(w.domain())
	w.does("<auth xmlns='"+ns.SASL+"' mechanism='EXTERNAL'>=</auth>", "<success", "</failure>")
	w.header(7)
}

// target chooses an address.
func (g *game) target() string {
	return oneOf(g, "juliet@a.test/x", "romeo@a.test/x", "juliet@a.test", "romeo@a.test/y", "mallory@a.test/x", "mallory@a.test/y", "a.test",
		"nobody@a.test", "x@"+g.far+".b.test", "y@"+g.far+".s.test", "x@c.test", "juliet@a.test/none")
}

// sender chooses a from: the own one mostly, or somebody else's.
func (p *player) sender() string {
	if p.server {
		own := "u@" + p.domain()
		return "from='" + oneOf(p.g, own, own, own, own, own, own, own, own, own, own, own, own, p.domain(), "u@c.test", "juliet@a.test", "a.test",
			"u@"+p.g.far+".s.test") + "' "
	}
	if p.g.pick(24) == 0 {
		return "from='" + oneOf(p.g, "juliet@a.test", "mallory@a.test", "romeo@a.test/x", "a.test", "u@c.test") + "' "
	}
	return ""
}

func (p *player) message(kind int) {
	to := p.g.target()
	p.say(fmt.Sprintf("<message %sto='%s' type='%s' id='%s'><body>x</body></message>", p.sender(), to,
		[]string{"chat", "normal", "headline", "error"}[kind], p.g.mark(p, to, false)))
}

func (p *player) presence(kind int) {
	typ := []string{"", "", "unavailable", "subscribe", "subscribed", "unsubscribe", "unsubscribed", "probe", "error"}[kind]
	if typ != "" {
		typ = "type='" + typ + "' "
	}
	to := ""
	if kind > 2 || p.server || p.g.pick(2) == 0 {
		to = p.g.target()
	}
	address := ""
	if to != "" {
		address = "to='" + to + "' "
	}
	p.say(fmt.Sprintf("<presence %s%s%sid='%s'/>", p.sender(), address, typ, p.g.mark(p, to, false)))
}

func (p *player) ask(kind int) {
	to := p.g.target()
	payload := []string{"<query xmlns='jabber:iq:version'/>", "<ping xmlns='urn:xmpp:ping'/>", "<query xmlns='jabber:iq:roster'/>", "<x xmlns='urn:x'/>",
		"<query xmlns='http://jabber.org/protocol/disco#info'/>", "<vCard xmlns='vcard-temp'/>", "<query xmlns='jabber:iq:last'/>", "<time xmlns='urn:xmpp:time'/>"}[kind]
	p.say(fmt.Sprintf("<iq %sto='%s' type='%s' id='%s'>%s</iq>", p.sender(), to, oneOf(p.g, "get", "set"), p.g.mark(p, to, true), payload))
}

// again sends the latest request of the connection a second time, with its id.
func (p *player) again() {
	for i := len(p.g.said) - 1; i >= 0; i-- {
		if s := &p.g.said[i]; s.by == p && s.asks && !p.server {
			s.times++
			p.say(fmt.Sprintf("<iq to='%s' type='get' id='%s'><ping xmlns='urn:xmpp:ping'/></iq>", s.to, p.g.id(i)))
			return
		}
	}
}

var (
	startIQ   = regexp.MustCompile(`<iq [^>]*>`)
	attribute = regexp.MustCompile(` (type|id|from)=(?:'([^']*)'|"([^"]*)")`)
)

// requests are those that came and were not answered, as "from id".
func (p *player) requests() []string {
	var list []string
	for _, tag := range startIQ.FindAllString(p.text(), -1) {
		at := map[string]string{}
		for _, m := range attribute.FindAllStringSubmatch(tag, -1) {
			at[m[1]] = m[2] + m[3]
		}
		if (at["type"] == "get" || at["type"] == "set") && strings.HasPrefix(at["id"], p.g.far+"-") {
			list = append(list, at["from"]+" "+at["id"])
		}
	}
	return list
}

// answers replies to the latest request, as it should or otherwise.
func (p *player) answers(kind int) {
	list := p.requests()
	if len(list) == 0 {
		p.say(fmt.Sprintf("<iq type='result' id='%s' to='%s'/>", p.g.id(max(0, p.g.marks-1)), p.g.target()))
		return
	}
	from, id, _ := strings.Cut(list[len(list)-1], " ")
	switch kind {
	case 0:
		from = p.g.target()
	case 1:
		id = p.g.id(0)
	}
	p.say(fmt.Sprintf("<iq type='result' id='%s' to='%s'/>", id, from))
}

func (p *player) dialback(kind int) {
	from, to := p.domain(), "a.test"
	switch p.g.pick(4) {
	case 0:
		from = oneOf(p.g, "c.test", "a.test", p.g.far+".s.test")
	case 1:
		to = "c.test"
	}
	switch kind {
	case 0, 1, 2:
		p.does(fmt.Sprintf("<db:result xmlns:db='%s' from='%s' to='%s'>key</db:result>", ns.Dialback, from, to), "</db:result>", "/>")
	case 3:
		p.say(fmt.Sprintf("<db:verify xmlns:db='%s' from='%s' to='%s' id='x'>key</db:verify>", ns.Dialback, from, to))
	case 4:
		p.say(fmt.Sprintf("<db:result xmlns:db='%s' from='%s' to='%s' type='valid'/>", ns.Dialback, from, to))
	case 5:
		p.say(fmt.Sprintf("<db:verify xmlns:db='%s' from='%s' to='%s' id='x' type='valid'/>", ns.Dialback, from, to))
	}
}
