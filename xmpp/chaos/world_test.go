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
	has      abilities
	keys     salted
	failed   chan struct{} // closed at the first failure
	began    time.Time

	mu       sync.Mutex
	messages map[string]*message
	failures []*mistake
	figures  figures
}

// abilities are what the server can do.
type abilities struct{ archive, carbons, durable bool }

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
		if one := to.devices[chance.IntN(2)]; w.has.carbons && chance.IntN(4) == 0 {
			one.mu.Lock()
			target = one.full
			one.mu.Unlock()
		}
		d.mu.Lock()
		if len(d.unacked) > 500 { // it has been away for long
			d.mu.Unlock()
			continue
		}
		m := &message{sender: d, session: d.session, to: to}
		numbers[m.thread()]++
		m.number = numbers[m.thread()]
		m.origin = fmt.Sprintf("%s.%d", m.thread(), m.number)
		m.body = m.origin + strings.Repeat(" &", chance.IntN(100))
		w.mu.Lock()
		w.messages[m.origin] = m
		w.mu.Unlock()
		m.asked = chance.IntN(4) == 0
		d.send(&sent{message: m, text: fmt.Sprintf("<message type='chat' to='%s' id='%s'><body>%s</body><origin-id xmlns='urn:xmpp:sid:0' id='%s'/></message>",
			target, m.origin, strings.ReplaceAll(m.body, "&", "&amp;"), m.origin)})
		if m.asked {
			d.ask()
		}
		d.mu.Unlock()
	}
}

// story is everything that is known of a message.
func (m *message) story(w *world) string {
	var b strings.Builder
	since := func(t time.Time) string { return fmt.Sprintf("%9.3f s", t.Sub(w.began).Seconds()) }
	m.mu.Lock()
	fmt.Fprintf(&b, "message %s\n", m.origin)
	for _, e := range m.sent {
		fmt.Fprintf(&b, "  %s  sent by %s in its session %d\n", since(e.at), e.from, e.session)
	}
	if !m.acked.at.IsZero() {
		fmt.Fprintf(&b, "  %s  acknowledged %s in session %d\n", since(m.acked.at), m.acked.how, m.acked.session)
	}
	m.mu.Unlock()
	for _, a := range []*account{m.sender.account, m.to} {
		for _, d := range a.devices {
			for _, s := range d.seen() {
				if s.message == m {
					late := ""
					if s.late {
						late = ", with a delay"
					}
					fmt.Fprintf(&b, "  %s  seen by %s in its session %d, %s%s, as %s\n", since(s.at), d.name(), s.session, s.how, late, s.id)
				}
			}
		}
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

// waits are the times from sending to acknowledgement where that was asked for, on one connection.
func (w *world) waits() (times []time.Duration) {
	for _, m := range w.all() {
		m.mu.Lock()
		if m.asked && len(m.sent) == 1 && m.acked.how == "by <a/>" {
			times = append(times, m.acked.at.Sub(m.sent[0].at))
		}
		m.mu.Unlock()
	}
	return times
}
