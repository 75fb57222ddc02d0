package chaos

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"time"

	"tombolo/xmpp/ns"
)

// A verdict is what is found when everything is over.
type verdict struct {
	world    *world
	archives map[*account]*archive
	doubles  int // messages that are twice where they should be because they were sent twice
	late     int // messages that a device got again in a later session, for it had not acknowledged them
	missed   int // that were found in pages only
	wrong    []*mistake
}

// An archive is all of a user's, read from the beginning.
type archive struct {
	ids   []string
	place map[string]int // of an identifier
	what  map[string]*message
	times map[*message]int
}

func newArchive() *archive {
	return &archive{place: make(map[string]int), what: make(map[string]*message), times: make(map[*message]int)}
}

func (a *archive) add(id string, m *message) error {
	if old := a.what[id]; old != nil {
		return about(m, "identifier %s is that of %s too", id, old.origin)
	}
	a.place[id] = len(a.ids)
	a.ids = append(a.ids, id)
	a.what[id] = m
	a.times[m]++
	return nil
}

// readArchives reads the archives of all users.
func (w *world) readArchives(ctx context.Context) (map[*account]*archive, error) {
	all := make(map[*account]*archive)
	for _, a := range w.accounts {
		all[a] = newArchive()
		if err := w.readArchive(ctx, a, all[a]); err != nil {
			return nil, fmt.Errorf("archive of %s: %w", a.name, err)
		}
	}
	return all, nil
}

// readArchive pages through an archive with a device that does nothing else.
func (w *world) readArchive(ctx context.Context, a *account, into *archive) error {
	tcp, err := new(net.Dialer).DialContext(ctx, "tcp", w.server.DirectTLS)
	if err != nil {
		return err
	}
	defer tcp.Close()
	tcp.SetDeadline(time.Now().Add(patience))
	c := newConversation(tls.Client(tcp, w.server.tls))
	if _, err := c.open(); err != nil {
		return err
	}
	if _, err := c.authenticate(a.name, &w.keys, ns.SASL2, "<authenticate xmlns='"+ns.SASL2+
		"' mechanism='SCRAM-SHA-1'><initial-response>%s</initial-response><bind xmlns='"+ns.Bind2+"'/></authenticate>"); err != nil {
		return err
	}
	if _, err := c.next(); err != nil { // features
		return err
	}
	for after := ""; ; {
		fin, err := c.ask(query("archive", "", after, 200), "iq")
		if err != nil {
			return err
		}
		for _, e := range c.early {
			result := e.Child("result", mam)
			inner := forwarded(result)
			m := w.find(inner.Child("origin-id", ns.StanzaID).Attr("id"))
			if m == nil || inner.Child("body", ns.Client).Text() != m.body || !m.sentFrom(inner.Attr("from")) {
				return wrongly("nobody wrote %s", e)
			}
			if err := into.add(result.Attr("id"), m); err != nil {
				return err
			}
			after = result.Attr("id")
		}
		c.early = nil
		answer := fin.Child("fin", mam)
		if answer.IsZero() {
			return wrongly("the archive answers %s", fin)
		}
		if answer.Attr("complete") == "true" {
			return nil
		}
	}
}

// judge compares what was said with what was kept and with what was seen.
func (w *world) judge(archives map[*account]*archive) *verdict {
	v := &verdict{world: w, archives: archives}
	for _, m := range w.all() {
		v.kept(m)
	}
	for _, a := range w.accounts {
		v.order(a)
		for _, d := range a.devices {
			v.device(d)
		}
	}
	return v
}

func (v *verdict) wrongly(about *message, format string, a ...any) {
	v.wrong = append(v.wrong, &mistake{text: fmt.Sprintf(format, a...), about: about})
}

// kept: a message is once in the archive of each who took part in it.
func (v *verdict) kept(m *message) {
	m.mu.Lock()
	acked, repeated := !m.acked.at.IsZero(), m.repeated
	m.mu.Unlock()
	of, to := v.archives[m.sender.account].times[m], v.archives[m.to].times[m]
	switch {
	case !acked:
		v.wrongly(m, "was never acknowledged")
	case of == 0 || to == 0:
		v.wrongly(m, "is lost: %d times in its sender's archive, %d times in its recipient's", of, to)
	case of != to:
		v.wrongly(m, "is %d times in its sender's archive, %d times in its recipient's", of, to)
	case of > 1 && !repeated:
		v.wrongly(m, "is doubled: %d times in the archives", of)
	}
	v.doubles += of - 1
}

// sentAgain says whether a message was sent in more than one session, because the first was lost.
func (m *message) sentAgain() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.repeated
}

// order: in an archive, the messages of a thread are in the order in which they were sent.
func (v *verdict) order(a *account) {
	archive, last, met := v.archives[a], make(map[string]int), make(map[*message]bool)
	for _, id := range archive.ids {
		m := archive.what[id]
		if met[m] {
			continue // sent again
		}
		met[m] = true
		if m.number != last[m.thread()]+1 {
			v.wrongly(m, "is behind number %d in the archive of %s", last[m.thread()], a.name)
		}
		last[m.thread()] = m.number
	}
}

// device: it saw everything that its user heard, and that the other device said, once as it happened or,
// where it had another session meanwhile, in a page. What it saw happen was in the order of the archive.
func (v *verdict) device(d *device) {
	archive := v.archives[d.account]
	d.mu.Lock()
	defer d.mu.Unlock()
	type seen struct {
		live, inSession int
		paged           bool
	}
	all := make(map[string]*seen)
	place := make(map[string]int) // of the last one of each thread and address, in the session
	session := 0
	for _, s := range d.sightings {
		if archive.what[s.id] != s.message {
			v.wrongly(s.message, "came to %s as %s, which the archive does not have", d.name(), s.id)
			continue
		}
		if all[s.id] == nil {
			all[s.id] = new(seen)
		}
		is := all[s.id]
		if s.session != session {
			session = s.session
			clear(place)
		}
		switch {
		case s.how == paged:
			is.paged = true
			continue
		case is.live > 0 && is.inSession == s.session:
			v.wrongly(s.message, "came twice to %s", d.name())
		case is.live > 0:
			if v.late++; !s.late {
				v.wrongly(s.message, "came again to %s in another session, without a delay", d.name())
			}
		case s.message.sender == d:
			v.wrongly(s.message, "came back to %s", d.name())
		}
		is.live, is.inSession = is.live+1, s.session
		if !s.late && !s.message.sentAgain() { // that was in another session of its sender
			here, thread := archive.place[s.id], s.message.thread()
			if before, ok := place[thread]; ok && before > here {
				v.wrongly(s.message, "came to %s behind %s", d.name(), archive.what[archive.ids[before]].origin)
			}
			place[thread] = here
		}
	}
	for _, id := range archive.ids {
		m, is := archive.what[id], all[id]
		switch {
		case m.sender == d:
		case is == nil:
			v.wrongly(m, "never came to %s, which had %d sessions", d.name(), d.session)
		case is.live == 0 && d.session == 1:
			v.wrongly(m, "came to %s, but not as it happened", d.name())
		case is.live == 0:
			v.missed++
		}
	}
	v.gaps(d, archive)
}

// gaps: once a session has caught up, nothing is left out of what happens.
func (v *verdict) gaps(d *device, archive *archive) {
	for session, from := range d.whole {
		first, last, got := len(archive.ids), -1, make(map[int]bool)
		for i, s := range d.sightings {
			if here, ok := archive.place[s.id]; ok && s.session == session && s.how != paged {
				if got[here] = true; i >= from && !s.late {
					first, last = min(first, here), max(last, here)
				}
			}
		}
		for here := first; here < last; here++ {
			if m := archive.what[archive.ids[here]]; !got[here] && m.sender != d && session < d.session {
				v.wrongly(m, "did not come to %s in its session %d, as others before and after it did", d.name(), session)
			}
		}
	}
}

// outOfOrder counts the messages that came to a device behind one that the archive has later. Within a
// thread there is none.
func (v *verdict) outOfOrder(d *device) (n int) {
	session, last := 0, -1
	for _, s := range d.seen() {
		if s.how == paged || s.late {
			continue
		}
		if s.session != session {
			session, last = s.session, -1
		}
		here := v.archives[d.account].place[s.id]
		if here < last {
			n++
		}
		last = max(last, here)
	}
	return n
}

// complete says whether every device has seen everything.
func (w *world) complete(archives map[*account]*archive) bool {
	for _, a := range w.accounts {
		for _, d := range a.devices {
			seen := make(map[string]bool)
			for _, s := range d.seen() {
				seen[s.id] = true
			}
			if slices.ContainsFunc(archives[a].ids, func(id string) bool { return !seen[id] && archives[a].what[id].sender != d }) {
				return false
			}
		}
	}
	return true
}
