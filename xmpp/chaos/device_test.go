package chaos

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
)

// A device is a client as a user has it: it resumes its session (XEP-0198), sees what its user's other
// device says and hears (XEP-0280), and asks the archive (XEP-0313) for what it missed where its session
// is gone. What it has not got acknowledged it sends again.
type device struct {
	world   *world
	account *account
	label   string
	modern  bool // SASL2 and Bind 2, everything in one request; else one step after the other
	deaf    bool // does not acknowledge unless it resumes
	chance  *rand.Rand

	mu      sync.Mutex
	conn    net.Conn      // nil while none carries the session
	silent  bool          // the connection is left open when it is given up
	away    time.Duration // how long to stay away after this connection
	forgets bool          // its session
	lost    time.Time     // when the last connection was given up
	late    bool          // it was away for long
	full    string        // its address

	session  int // how many it has had
	resumeID string
	handled  uint32
	acked    uint32
	unacked  []*sent

	catchUp   // for missed messages
	sightings []sighting
	chronicle []event
	whole     map[int]int // by session: the first sighting behind those of the catch-up
	pings     int         // answers to pings
	stanzas   int         // for identifiers
	life      int         // of the server, in which it was last connected
}

// sent is a stanza that may have to go again.
type sent struct {
	text    string
	message *message // nil: for this session only
}

// A catchUp is a walk through the archive.
type catchUp struct {
	active    bool
	cursor    string // the last message that was seen, when no earlier one is missing; "": none at all
	after     string // the last message of the last page
	query     string // the query that is to be answered
	meanwhile string // the last message that came meanwhile
	paged     map[string]bool
}

// A sighting is that a device was sent a message.
type sighting struct {
	message *message
	id      string // in the archive of the device's user
	how     how
	late    bool // with a delay: sent on from somewhere
	session int
	at      time.Time
}

type how uint8

const (
	direct how = iota
	received
	sentElsewhere
	paged
)

func (h how) String() string {
	return [...]string{"live", "live as a copy of what was received", "live as a copy of what was sent", "in a page"}[h]
}

func (d *device) name() string { return d.account.name + d.label }

// A mistake is the server's, and no lost connection.
type mistake struct {
	text  string
	about *message // nil: no particular one
	who   *device  // that noticed
}

func (m *mistake) Error() string { return m.text }

func wrongly(format string, a ...any) error { return about(nil, format, a...) }

func about(m *message, format string, a ...any) error {
	return &mistake{text: fmt.Sprintf(format, a...), about: m}
}

// live connects again and again until ctx ends.
func (d *device) live(ctx context.Context) {
	for ctx.Err() == nil {
		d.mu.Lock()
		away := d.away
		d.away = 0
		d.late = d.late || away == tooLong
		d.mu.Unlock()
		if away == 0 {
			away = time.Duration(d.chance.IntN(100)) * time.Millisecond
		}
		pause(ctx, away)
		err := d.connection(ctx)
		if wrong := new(mistake); errors.As(err, &wrong) {
			wrong.who = d
			d.mu.Lock()
			d.note("finds a mistake")
			d.mu.Unlock()
			d.world.fail(wrong)
			return
		}
	}
}

// connection lives one connection.
func (d *device) connection(ctx context.Context) error {
	startTLS, address := d.chance.IntN(2) == 0, d.world.server.DirectTLS
	if startTLS {
		address = d.world.server.StartTLS
	}
	tcp, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer d.leave(tcp)
	stop := context.AfterFunc(ctx, func() { tcp.Close() })
	defer stop()
	tcp.SetDeadline(time.Now().Add(patience))
	c := newConversation(tcp)
	if startTLS {
		if err := c.startTLS(); err != nil {
			return err
		}
	}
	c.conn = tls.Client(tcp, d.world.server.tls)
	if d.modern {
		err = d.enter(c)
	} else {
		err = d.enterStepwise(c)
	}
	if err != nil {
		return err
	}
	tcp.SetDeadline(time.Time{})
	for {
		e, err := c.next()
		if err != nil {
			return err
		}
		if err := d.take(e); err != nil {
			return err
		}
	}
}

// leave ends a connection, or leaves it for the server to find out.
func (d *device) leave(tcp net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.note("loses its connection, h=%d", d.handled)
		d.conn, d.lost = nil, time.Now()
	}
	if !d.silent {
		tcp.Close()
		return
	}
	d.silent = false
	time.AfterFunc(3*time.Second, func() { tcp.Close() })
}

// A loss is a way to lose a connection.
type loss struct {
	silent  bool          // without a word; else by a reset
	away    time.Duration // 0: the device comes back at once
	forgets bool          // as a client that is killed: the session cannot be resumed
	closes  bool          // in an orderly way, which ends the session
}

// lose loses the connection, if there is one.
func (d *device) lose(l loss) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil {
		return false
	}
	d.silent, d.away, d.forgets = l.silent, l.away, l.forgets || l.closes
	if l.closes {
		d.write("</stream:stream>") // what comes until the server has done the same is not acknowledged
		d.conn.SetReadDeadline(time.Now().Add(patience))
	} else if l.silent {
		d.conn.SetReadDeadline(time.Now())
	} else {
		tcp := d.conn.(*tls.Conn).NetConn().(*net.TCPConn)
		tcp.SetLinger(0)
		tcp.Close()
	}
	d.note("leaves its connection (%+v), h=%d", l, d.handled)
	d.conn, d.lost = nil, time.Now()
	return true
}

// resumption is what to resume with, "" if there is nothing.
func (d *device) resumption() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resumeID == "" || d.forgets {
		return ""
	}
	return fmt.Sprintf("<resume xmlns='%s' previd='%s' h='%d'/>", ns.SM, d.resumeID, d.handled)
}

// enter logs in with SASL2 (XEP-0388), and with it resumes, or else binds (XEP-0386).
func (d *device) enter(c *conversation) error {
	if _, err := c.open(); err != nil {
		return err
	}
	resume := d.resumption()
	success, err := c.authenticate(d.account.name, &d.world.keys, ns.SASL2, "<authenticate xmlns='"+ns.SASL2+
		"' mechanism='SCRAM-SHA-1'><initial-response>%s</initial-response><user-agent id='"+d.agent()+"'><software>chaos</software></user-agent>"+resume+
		"<bind xmlns='"+ns.Bind2+"'><tag>"+d.label+"</tag><enable xmlns='"+carbons+"'/>"+
		"<enable xmlns='"+ns.SM+"' resume='true'/></bind></authenticate>")
	if err != nil {
		return err
	}
	full := success.Child("authorization-identifier", ns.SASL2).Text()
	if resumed := success.Child("resumed", ns.SM); !resumed.IsZero() {
		return d.resumed(c, resumed)
	}
	if failed := success.Child("failed", ns.SM); resume != "" {
		if err := d.refused(failed); err != nil {
			return err
		}
	}
	return d.bound(c, full, success.Child("bound", ns.Bind2).Child("enabled", ns.SM), false)
}

// agent identifies the device as an installation.
func (d *device) agent() string {
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", d.account.index, d.label[0])
}

// enterStepwise logs in as RFC 6120 has it.
func (d *device) enterStepwise(c *conversation) error {
	if _, err := c.open(); err != nil {
		return err
	}
	if _, err := c.authenticate(d.account.name, &d.world.keys, ns.SASL, "<auth xmlns='"+ns.SASL+"' mechanism='SCRAM-SHA-1'>%s</auth>"); err != nil {
		return err
	}
	c.parser.Reset()
	if _, err := c.open(); err != nil {
		return err
	}
	if resume := d.resumption(); resume != "" {
		answer, err := c.ask(resume, "resumed", "failed")
		if err != nil {
			return err
		}
		if answer.Name() == "resumed" {
			return d.resumed(c, answer)
		}
		if err := d.refused(answer); err != nil {
			return err
		}
	}
	iq, err := c.ask("<iq type='set' id='bind'><bind xmlns='"+ns.Bind+"'><resource>"+d.label+"</resource></bind></iq>", "iq")
	if err != nil {
		return err
	}
	enabled, err := c.ask("<enable xmlns='"+ns.SM+"' resume='true'/>", "enabled")
	if err != nil {
		return err
	}
	return d.bound(c, iq.Child("bind", ns.Bind).Child("jid", ns.Bind).Text(), enabled, true)
}

// resumed goes on with the session.
func (d *device) resumed(c *conversation, e element.Element) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.acknowledged(e.Attr("h"), "by <resumed/>"); err != nil {
		return err
	}
	d.note("resumes with h=%d, is told h=%s, has %d to send again", d.handled, e.Attr("h"), len(d.unacked))
	d.world.count(func(f *figures) {
		f.resumed++
		if life, began := d.world.server.life(); d.life != life && d.life != 0 && !d.late {
			f.back = append(f.back, time.Since(began))
		}
	})
	return d.carry(c)
}

// refused deals with a session that is gone.
func (d *device) refused(failed element.Element) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	away := time.Since(d.lost)
	d.note("may not resume after %v: %s", away, failed)
	d.world.count(func(f *figures) { f.refused++ })
	if failed.Child("item-not-found", ns.StanzaErr).IsZero() || away < window {
		return wrongly("the session cannot be resumed after %v: %s", away, failed)
	}
	if h := failed.Attr("h"); h != "" {
		return d.acknowledged(h, "by <failed/>")
	}
	return nil
}

// bound begins a session. What could not be sent before goes now, and again what nobody has acknowledged.
func (d *device) bound(c *conversation, full string, enabled element.Element, withCarbons bool) error {
	if full == "" || enabled.Attr("id") == "" || enabled.Attr("resume") != "true" {
		return wrongly("no session that can be resumed: %q, %s", full, enabled)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.session++
	d.note("begins session %d, has %d to send again", d.session, len(d.unacked))
	d.full, d.resumeID, d.forgets = full, enabled.Attr("id"), false
	d.handled, d.acked = 0, 0
	var kept, messages []*sent
	for _, s := range d.unacked {
		if s.message != nil {
			messages = append(messages, s)
		}
	}
	if withCarbons {
		kept = append(kept, &sent{text: "<iq type='set' id='carbons'><enable xmlns='" + carbons + "'/></iq>"})
	}
	kept = append(kept, &sent{text: "<presence/>"})
	d.unacked = append(kept, messages...)
	d.world.count(func(f *figures) { f.bound++ })
	if d.session > 1 {
		d.active, d.after, d.meanwhile, d.paged = true, "", "", make(map[string]bool)
	} else {
		d.whole[d.session] = len(d.sightings)
	}
	for _, e := range c.early {
		if err := d.message(e); err != nil {
			return err
		}
	}
	return d.carry(c)
}

// note keeps what happened, for stories.
func (d *device) note(format string, a ...any) {
	d.chronicle = append(d.chronicle, event{at: time.Now(), how: fmt.Sprintf(format, a...)})
}

// carry lets the connection carry the session: everything that is not acknowledged goes.
func (d *device) carry(c *conversation) error {
	d.life, _ = d.world.server.life()
	d.late = false
	d.conn = c.conn
	var b strings.Builder
	for _, s := range d.unacked {
		if s.message != nil {
			s.message.written(d)
		}
		b.WriteString(s.text)
	}
	d.write(b.String())
	if d.active {
		d.page()
	}
	d.ask()
	return nil
}

// write writes to the connection. What does not arrive is sent again.
func (d *device) write(text string) {
	if d.conn != nil {
		d.conn.SetWriteDeadline(time.Now().Add(patience))
		_, _ = d.conn.Write([]byte(text))
	}
}

// ask asks for an acknowledgement.
func (d *device) ask() {
	d.write("<r xmlns='" + ns.SM + "'/>")
}

// send sends a stanza, now or when there is a connection.
func (d *device) send(s *sent) {
	d.unacked = append(d.unacked, s)
	if d.conn != nil && s.message != nil {
		s.message.written(d)
	}
	d.write(s.text)
}

// acknowledged takes the server's word.
func (d *device) acknowledged(text, how string) error {
	h, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return wrongly("h is %q", text)
	}
	n := uint32(h) - d.acked
	if n > uint32(len(d.unacked)) {
		return wrongly("%d stanzas acknowledged %s after %d of %d", h, how, d.acked, d.acked+uint32(len(d.unacked)))
	}
	for _, s := range d.unacked[:n] {
		if s.message != nil {
			s.message.acknowledged(d, how)
		}
	}
	d.acked, d.unacked = uint32(h), d.unacked[n:]
	return nil
}

// take deals with an element on a connection that carries the session.
func (d *device) take(e element.Element) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case e.Is("r", ns.SM):
		if !d.deaf {
			d.write(fmt.Sprintf("<a xmlns='%s' h='%d'/>", ns.SM, d.handled))
		}
		return nil
	case e.Is("a", ns.SM):
		return d.acknowledged(e.Attr("h"), "by <a/>")
	case e.Is("message", ns.Client):
		d.handled++
		return d.message(e)
	case e.Is("presence", ns.Client):
		d.handled++
		return nil
	case e.Is("iq", ns.Client):
		d.handled++
		return d.iq(e)
	case e.Is("features", ns.Stream): // as they are after SASL2
		return nil
	case e.Is("error", ns.Stream):
		switch {
		case d.deaf && !e.Child("policy-violation", ns.StreamErr).IsZero():
			d.forgets = true // and so does the server, for too much is not acknowledged
		case e.Child("system-shutdown", ns.StreamErr).IsZero() && e.Child("conflict", ns.StreamErr).IsZero():
			return wrongly("stream error: %s", e)
		}
		return nil
	}
	return wrongly("nobody expects %s", e)
}

// message sees a message.
func (d *device) message(e element.Element) error {
	if e.Attr("type") == "error" {
		return about(d.world.find(e.Attr("id")), "an error comes back: %s", e)
	}
	if e.Attr("from") == d.account.address() {
		if c := e.Child("received", carbons); !c.IsZero() {
			return d.see(forwarded(c), received, "")
		}
		if c := e.Child("sent", carbons); !c.IsZero() {
			return d.see(forwarded(c), sentElsewhere, "")
		}
	}
	if result := e.Child("result", mam); !result.IsZero() {
		id := result.Attr("id")
		if result.Attr("queryid") == d.query {
			d.after = id
		}
		if d.paged != nil {
			d.paged[id] = true
		}
		return d.see(forwarded(result), paged, id)
	}
	return d.see(e, direct, "")
}

func forwarded(e element.Element) element.Element {
	return e.Child("forwarded", ns.Forward).Child("message", ns.Client)
}

// see notes a message.
func (d *device) see(e element.Element, how how, id string) error {
	m := d.world.find(e.Child("origin-id", ns.StanzaID).Attr("id"))
	if m == nil || e.Child("body", ns.Client).Text() != m.body || !m.sentFrom(e.Attr("from")) {
		return about(m, "nobody wrote %s", e)
	}
	for child := range e.Children() {
		if how != paged && child.Is("stanza-id", ns.StanzaID) && child.Attr("by") == d.account.address() {
			if id != "" {
				return about(m, "two identifiers in %s", e)
			}
			id = child.Attr("id")
		}
	}
	if id == "" {
		return about(m, "no identifier in %s", e)
	}
	late := how != paged && !e.Child("delay", ns.Delay).IsZero()
	d.sightings = append(d.sightings, sighting{m, id, how, late, d.session, time.Now()})
	if how != paged && !late {
		if d.active {
			d.meanwhile = id
		} else {
			d.cursor = id
		}
	}
	return nil
}

// iq deals with an answer.
func (d *device) iq(e element.Element) error {
	id := e.Attr("id")
	switch typ := e.Attr("type"); {
	case strings.HasPrefix(id, "ping") && typ == "result":
		d.pings++
	case id == "carbons" && typ == "result":
	case strings.HasPrefix(id, "query") && typ == "result":
		fin := e.Child("fin", mam)
		if id != d.query || !d.active {
			return nil // asked again meanwhile
		}
		if fin.Attr("complete") != "true" {
			d.page()
			return nil
		}
		d.active = false
		if d.after != "" {
			d.cursor = d.after
		}
		if d.meanwhile != "" && !d.paged[d.meanwhile] {
			d.cursor = d.meanwhile
		}
		d.paged = nil
		d.whole[d.session] = len(d.sightings)
	case strings.HasPrefix(id, "query") && typ == "error" && e.Child("error", ns.Client).Child("item-not-found", ns.StanzaErr).IsZero():
		if id == d.query && d.active { // as may happen to any request when a server ends
			d.page()
		}
	default:
		return wrongly("nobody expects %s", e)
	}
	return nil
}

// page asks for the next page of what was missed.
func (d *device) page() {
	d.stanzas++
	d.query = fmt.Sprintf("query%d", d.stanzas)
	d.send(&sent{text: query(d.query, d.cursor, d.after, 20)})
}

// query asks for what is after the message cursor, or everything, from the page behind after on.
func query(id, cursor, after string, most int) string {
	form := ""
	if cursor != "" {
		form = "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>" + mam +
			"</value></field><field var='after-id'><value>" + cursor + "</value></field></x>"
	}
	if after != "" {
		after = "<after>" + after + "</after>"
	}
	return fmt.Sprintf("<iq type='set' id='%s'><query xmlns='%s' queryid='%s'>%s<set xmlns='http://jabber.org/protocol/rsm'><max>%d</max>%s</set></query></iq>",
		id, mam, id, form, most, after)
}

// ping asks for an answer that comes behind everything that is on its way to the device.
func (d *device) ping() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stanzas++
	d.send(&sent{text: fmt.Sprintf("<iq type='get' id='ping%d' to='%s'><ping xmlns='%s'/></iq>", d.stanzas, domain, ns.Ping)})
	d.ask()
}

// A conversation is a connection on which XML is spoken.
type conversation struct {
	conn   net.Conn
	parser *element.Parser
	buffer []byte
	rest   []byte            // of buffer, not parsed yet
	early  []element.Element // messages that came before they were counted
}

func newConversation(conn net.Conn) *conversation {
	return &conversation{conn: conn, parser: element.NewParser(element.Limits{Bytes: 1 << 20}), buffer: make([]byte, 16<<10)}
}

var errEnded = errors.New("the stream has ended")

// next reads an element.
func (c *conversation) next() (element.Element, error) {
	for {
		for len(c.rest) > 0 {
			n, token, err := c.parser.Parse(c.rest)
			c.rest = c.rest[n:]
			switch {
			case err != nil:
				return element.Element{}, wrongly("bad XML: %v", err)
			case token.Kind == element.Top:
				return token.Element, nil
			case token.Kind == element.End:
				return element.Element{}, errEnded
			}
		}
		n, err := c.conn.Read(c.buffer)
		if err != nil {
			return element.Element{}, err
		}
		c.rest = c.buffer[:n]
	}
}

// open begins a stream.
func (c *conversation) open() (features element.Element, err error) {
	return c.ask(fmt.Sprintf("<?xml version='1.0'?><stream:stream xmlns='%s' xmlns:stream='%s' to='%s' version='1.0'>", ns.Client, ns.Stream, domain), "features")
}

func (c *conversation) startTLS() error {
	if _, err := c.open(); err != nil {
		return err
	}
	_, err := c.ask("<starttls xmlns='"+ns.StartTLS+"'/>", "proceed")
	c.parser.Reset()
	return err
}

// ask writes, and reads an element that has to have one of these names.
func (c *conversation) ask(text string, names ...string) (element.Element, error) {
	if _, err := c.conn.Write([]byte(text)); err != nil {
		return element.Element{}, err
	}
	for {
		e, err := c.next()
		if err != nil {
			return e, err
		}
		for _, name := range names {
			if e.Name() == name {
				return e, nil
			}
		}
		switch {
		case e.Is("error", ns.Stream):
			return e, fmt.Errorf("stream error: %s", e)
		case e.Is("message", ns.Client) && (names[0] == "iq" || names[0] == "enabled"):
			c.early = append(c.early, e)
			continue
		case e.Is("presence", ns.Client) && names[0] == "enabled":
			continue
		}
		return e, wrongly("want <%s/>, got %s", strings.Join(names, "/> or <"), e)
	}
}
