package chaos

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// A world is the server with everybody who talks by it, and what they have said.
type world struct {
	server   *server
	accounts []*account
	devices  []*device
	keys     salted
	failed   chan struct{} // closed at the first failure
	began    time.Time

	mu       sync.Mutex
	messages map[string]*message
	failures []*mistake
	lives    []event // beginnings and ends of the server
	figures  figures
}

// figures are counted while the world goes on.
type figures struct {
	bound, resumed, refused int
	back                    []time.Duration // from the start of the server to a session that is resumed
}

// An account is a user with two devices.
type account struct {
	name    string
	index   int
	devices [2]*device
}

func (a *account) address() string { return a.name + "@" + domain }

// A message has an identifier that says who wrote it in which session, to whom, and the how manyth it
// is from there to there.
type message struct {
	origin, body string
	sender       *device
	session      int
	to           *account
	address      string // of to, or of one of its devices
	number       int

	mu       sync.Mutex
	sent     []event // each time that it was sent
	asked    bool    // <r/> came behind it
	repeated bool    // sent again in another session: it may have arrived both times
	acked    event
}

// An event is part of a message's story.
type event struct {
	at      time.Time
	session int
	from    string // the sender's address
	how     string
}

func newWorld(accounts int, seed uint64) *world {
	w := &world{messages: make(map[string]*message), failed: make(chan struct{}), began: time.Now()}
	for i := range accounts {
		a := &account{name: fmt.Sprintf("u%02d", i), index: i}
		for j, label := range []string{"a", "b"} {
			a.devices[j] = &device{world: w, account: a, label: label, modern: j == 0,
				chance: rand.New(rand.NewPCG(seed, uint64(2*i+j))), whole: make(map[int]int)}
			w.devices = append(w.devices, a.devices[j])
		}
		w.accounts = append(w.accounts, a)
	}
	return w
}

func (w *world) count(f func(*figures)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.figures)
}

// fail notes what went wrong while the world goes on.
func (w *world) fail(err *mistake) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failures = append(w.failures, err); len(w.failures) == 1 {
		close(w.failed)
	}
}

func (w *world) find(origin string) *message {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.messages[origin]
}

// all are the messages, thread by thread in the order in which they were written.
func (w *world) all() []*message {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.SortedFunc(maps.Values(w.messages), func(a, b *message) int {
		return cmp.Or(cmp.Compare(a.thread(), b.thread()), a.number-b.number)
	})
}

// thread is what has an order: what one session writes to one account.
func (m *message) thread() string {
	return fmt.Sprintf("%s-%d.%s", m.sender.name(), m.session, m.to.name)
}

// sentFrom says whether it was sent from that address.
func (m *message) sentFrom(address string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.sent, func(e event) bool { return e.from == address })
}

func (m *message) written(d *device) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sent) > 0 && m.sent[len(m.sent)-1].session != d.session {
		m.repeated = true
	}
	m.sent = append(m.sent, event{at: time.Now(), session: d.session, from: d.full})
}

func (m *message) acknowledged(d *device, how string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acked = event{at: time.Now(), session: d.session, how: how}
}

// write has a device write to somebody until the context ends.
func (w *world) write(ctx context.Context, d *device, pace time.Duration, seed uint64) {
	chance := rand.New(rand.NewPCG(seed, 1e6+uint64(d.account.index)*2+uint64(d.label[0])))
	numbers := make(map[string]int)
	for pause(ctx, time.Duration(chance.ExpFloat64()*float64(pace))) {
		to := w.accounts[chance.IntN(len(w.accounts))]
		if to == d.account {
			continue
		}
		target := to.address()
		if one := to.devices[chance.IntN(2)]; chance.IntN(4) == 0 {
			one.mu.Lock()
			target = one.full
			one.mu.Unlock()
		}
		d.mu.Lock()
		if len(d.unacked) > 500 { // it has been away for long
			d.mu.Unlock()
			continue
		}
		m := &message{sender: d, session: d.session, to: to, address: target}
		numbers[m.thread()]++
		m.number = numbers[m.thread()]
		m.origin = fmt.Sprintf("%s.%d", m.thread(), m.number)
		m.body = m.origin + strings.Repeat(" &", chance.IntN(100))
		w.mu.Lock()
		w.messages[m.origin] = m
		w.mu.Unlock()
		m.asked = chance.IntN(4) == 0
		d.send(&sent{message: m, text: fmt.Sprintf("<message type='chat' to='%s' id='%s'><body>%s</body><origin-id xmlns='urn:xmpp:sid:0' id='%s'/></message>",
			m.address, m.origin, strings.ReplaceAll(m.body, "&", "&amp;"), m.origin)})
		if m.asked {
			d.ask()
		}
		d.mu.Unlock()
	}
}

// A line is part of what is told.
type line struct {
	at   time.Time
	text string
}

// story is everything that is known of a message, and what happened meanwhile to who is in it.
func (m *message) story(w *world) string {
	var lines []line
	add := func(at time.Time, format string, a ...any) {
		lines = append(lines, line{at, fmt.Sprintf(format, a...)})
	}
	m.mu.Lock()
	for _, e := range m.sent {
		add(e.at, "sent by %s in its session %d", e.from, e.session)
	}
	if !m.acked.at.IsZero() {
		add(m.acked.at, "acknowledged %s in session %d", m.acked.how, m.acked.session)
	}
	m.mu.Unlock()
	devices := append(m.sender.account.devices[:], m.to.devices[:]...)
	for _, d := range devices {
		for _, s := range d.seen() {
			if s.message == m {
				late := ""
				if s.late {
					late = ", with a delay"
				}
				add(s.at, "seen by %s in its session %d, %s%s, as %s", d.name(), s.session, s.how, late, s.id)
			}
		}
	}
	order := func(a, b line) int { return a.at.Compare(b.at) }
	slices.SortStableFunc(lines, order)
	if len(lines) > 0 {
		from, to := lines[0].at.Add(-time.Second), lines[len(lines)-1].at.Add(time.Second)
		around := func(who string, events []event) {
			for _, e := range events {
				if e.at.After(from) && e.at.Before(to) {
					add(e.at, "    %s %s", who, e.how)
				}
			}
		}
		w.mu.Lock()
		around("the server", w.lives)
		w.mu.Unlock()
		for _, d := range devices {
			d.mu.Lock()
			around(d.name(), d.chronicle)
			d.mu.Unlock()
		}
	}
	slices.SortStableFunc(lines, order)
	return fmt.Sprintf("message %s to %s\n%s", m.origin, m.address, w.tell(lines))
}

// story is what happened to a device at last.
func (d *device) story() string {
	d.mu.Lock()
	events := slices.Clone(d.chronicle[max(0, len(d.chronicle)-10):])
	d.mu.Unlock()
	d.world.mu.Lock()
	for _, e := range d.world.lives {
		if len(events) > 0 && e.at.After(events[0].at) {
			e.how = "    the server " + e.how
			events = append(events, e)
		}
	}
	d.world.mu.Unlock()
	slices.SortFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	var lines []line
	for _, e := range events {
		lines = append(lines, line{e.at, e.how})
	}
	return d.world.tell(lines)
}

func (w *world) tell(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "  %9.3f s  %s\n", l.at.Sub(w.began).Seconds(), l.text)
	}
	return b.String()
}

// seen are the sightings so far.
func (d *device) seen() []sighting {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.sightings)
}

// pause waits; it reports false when the context has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// waits are the times from sending to acknowledgement where that was asked for, on one connection, and
// those of messages to an account that has a deaf device.
func (w *world) waits() (all, deaf []time.Duration) {
	for _, m := range w.all() {
		m.mu.Lock()
		if m.asked && len(m.sent) == 1 && m.acked.how == "by <a/>" {
			took := m.acked.at.Sub(m.sent[0].at)
			all = append(all, took)
			if m.to.devices[0].deaf || m.to.devices[1].deaf {
				deaf = append(deaf, took)
			}
		}
		m.mu.Unlock()
	}
	return all, deaf
}
