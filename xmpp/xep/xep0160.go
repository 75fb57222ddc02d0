package xep

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// Bounds of what is in memory for one user while kept messages are handed over.
const (
	pageMessages = 64
	pageBytes    = 256 << 10
)

// spaceRest is how long a hand-over rests for which the store has no space.
const spaceRest = time.Second

// Offline keeps messages for users who are not there, and hands them over when they come.
//
// No message is lost, doubled or overtaken by a later one. While a hand-over runs, live messages for whatever
// session, and copies of them, are kept as well (postponed): else one for a device would overtake those for all of
// them. It reads the store outside the lock, behind the writes of all messages that were to be kept before (run),
// and gives each page to the session, and what came meanwhile to all whom it is for, under the lock (give).
// If the user leaves meanwhile the rest waits for the next time.
//
// A session that outlives a restart takes a message over from here (transfer); if there is no space to write that, the
// message and all behind it are tried again. For any other one it stays in the store until it has arrived (handed). If
// its session ends first it waits again.
type Offline struct {
	host    *module.Host
	max     int
	consume bool
	boxes   session.Slot[*mailbox]
	copied  func(u *session.User, st stanza.Stanza, to []hook.Session) []hook.Session // who gets a copy that was postponed
}

// A mailbox is what is known in memory of a user's kept messages.
type mailbox struct {
	waiting  bool      // the store has messages, or will have
	kept     uint64    // messages kept since the user was read
	given    uint64    // number of the newest message that a session has got
	out      []given   // up to it, and still in the store; in order
	clearing bool      // what has arrived is about to be removed
	taking   bool      // a session takes messages over, and it is not known whether all of that is written
	handOver *handOver // under way, else nil
}

// A given message is with a session.
type given struct {
	number  uint64
	arrived bool
}

func (b *mailbox) find(number uint64) (int, bool) {
	return slices.BinarySearchFunc(b.out, number, func(g given, n uint64) int { return cmp.Compare(g.number, n) })
}

type handOver struct {
	to    hook.Session
	began time.Time
	stuck atomic.Uint64 // number of the first message that there was no space to take over; 0: none
}

// errStuck is why what comes behind such a message is not taken over either: it would overtake that one.
var errStuck = errors.New("it is behind one for which there was no space")

// OfflineOptions are what is configured of messages for users who are not there.
type OfflineOptions struct {
	// Max is how many are kept for one account; 0: no limit.
	Max int
	// Consume says that Fetched removes those that are in the archive.
	Consume bool
}

// NewOffline makes the keeper of messages for users who are not there. Its feature is in Table.
func NewOffline(h *module.Host, o OfflineOptions) *Offline {
	return &Offline{host: h, max: o.Max, consume: o.Consume, boxes: session.NewSlot(h.Users, readMailbox)}
}

func (o *Offline) feature(*module.Host) (module.Feature, error) {
	return module.Feature{
		Info: module.Info{Spec: "XEP-0160", Name: "Best Practices for Handling Offline Messages",
			Version: "1.0.1", Status: "complete"},
		Server: []string{ns.Offline},
		Hooks: hook.Hooks{Postponed: o.postponed, Undelivered: o.undelivered, Presence: o.presence,
			SessionRestored: o.restored},
	}, nil
}

func readMailbox(tx storage.Tx, owner jid.JID) (*mailbox, error) {
	n, err := tx.Offline().Count(owner)
	return &mailbox{waiting: n > 0}, err
}

// undelivered keeps a message. Its sender is told if that fails: with service-unavailable if the
// user has too many already (XEP-0160 section 2).
func (o *Offline) undelivered(u hook.User, st *stanza.Stanza) hook.Verdict {
	if !st.Lasting() {
		return hook.Pass
	}
	kept, entry := o.host.Journal.Open(*st)
	*st = kept
	entry.Offline(u.JID(), o.max)
	box := o.boxes.Get(u)
	box.waiting = true
	box.kept++
	return hook.Handled
}

// Fetched is told, under the user's lock, that a client gets from the archive what it has missed: it is not
// to get that a second time. What a session is being handed, is about to be (one that outlives a restart is, when
// its client is back), or has not acknowledged, is left alone.
func (o *Offline) Fetched(u hook.User) {
	box := o.boxes.Get(u)
	if !o.consume || !box.waiting || box.handOver != nil || len(box.out) > 0 || slices.ContainsFunc(u.Sessions(), func(s hook.Session) bool { return ready(u, s) }) {
		return
	}
	owner := u.JID()
	u.Submit(func(tx storage.Tx) error { return tx.Offline().DeleteArchived(owner) }).Then(func(err error) {
		if err != nil {
			o.host.Log.Error("offline messages could not be removed", "account", owner, "err", err)
		}
	})
}

// postponed lets a message wait behind those that a session is being handed, or should be. One whose client wants
// only what is for itself gets nothing of these, and so does not wait.
func (o *Offline) postponed(u hook.User, st stanza.Stanza, to hook.Session) bool {
	box := o.boxes.Get(u)
	if !box.waiting || !st.Lasting() || aside(u, to) {
		return false
	}
	if box.handOver != nil {
		return o.recipient(u, box.handOver)
	}
	for _, s := range u.Sessions() {
		if ready(u, s) {
			o.begin(u, box, s)
			return true
		}
	}
	return false
}

// presence begins a hand-over to the first session that is ready for messages.
func (o *Offline) presence(u hook.User, s hook.Session, _, _ stanza.Stanza) {
	if ready(u, s) {
		o.begin(u, o.boxes.Get(u), s)
	}
}

// restored goes on with a hand-over that a restart has ended.
func (o *Offline) restored(u hook.User, s hook.Session) {
	o.presence(u, s, stanza.Stanza{}, stanza.Stanza{})
}

func (o *Offline) begin(u hook.User, box *mailbox, to hook.Session) {
	if !box.waiting || box.handOver != nil {
		return
	}
	box.handOver = &handOver{to: to, began: o.host.Now()}
	go o.run(u.JID(), box.handOver, box.given, box.kept)
}

// ready says whether a session gets messages for the bare JID (RFC 6121 section 8.5.2.1.1).
func ready(u hook.User, s hook.Session) bool {
	return !s.Ready().IsZero() && u.Session(s.JID()) == s
}

// aside says whether a session is available, and not ready.
func aside(u hook.User, s hook.Session) bool { return s.Available() && !ready(u, s) }

// run carries a hand-over through, a page at a time. It waits for the store, so it has a goroutine
// of its own, which ends at the latest when the store is closed. Behind each barrier it is known what became of the
// page before.
func (o *Offline) run(owner jid.JID, h *handOver, given, kept uint64) {
	for {
		err := o.host.Journal.Barrier()
		var page []storage.OfflineMessage
		if err == nil {
			page, err = o.page(owner, given)
		}
		if err != nil && !errors.Is(err, storage.ErrClosed) { // then the server ends, and goes on another time
			o.host.Log.Error("offline messages could not be read", "account", owner, "err", err)
		}
		over, stuck := true, uint64(0)
		doErr := o.host.Users.Do(owner, func(u *session.User) {
			box := o.boxes.Get(u)
			if box.handOver != h {
				return // the user was forgotten with his last session
			}
			if stuck = h.stuck.Swap(0); stuck != 0 {
				box.given = min(box.given, stuck-1)
			}
			if box.taking = false; len(box.out) > 0 {
				o.later(u, box)
			}
			if over = err != nil || !o.give(u, box, given, kept, page); over {
				box.handOver = nil
			}
			if err != nil {
				box.waiting = false // what comes does not wait for what cannot be read
			}
			given, kept = box.given, box.kept
		})
		if over || doErr != nil { // the account is gone, with its sessions
			return
		}
		if stuck != 0 {
			time.Sleep(spaceRest)
		}
	}
}

// page reads the next messages, as many as may be in memory at once.
func (o *Offline) page(owner jid.JID, after uint64) (page []storage.OfflineMessage, err error) {
	err = o.host.Store.View(func(tx storage.Tx) (err error) {
		page, err = tx.Offline().List(owner, after, pageMessages)
		return err
	})
	size := 0
	for i, m := range page {
		if size += len(m.Stanza); size > pageBytes && i > 0 {
			return page[:i], err
		}
	}
	return page, err
}

// give hands the page behind after to the session, and says whether there may be more. The page was read
// behind all that was kept when kept was counted.
func (o *Offline) give(u *session.User, box *mailbox, after, kept uint64, page []storage.OfflineMessage) (more bool) {
	h := box.handOver
	if !o.recipient(u, h) {
		return false
	}
	if after != box.given {
		return true // read before a session lost what it had been given
	}
	if len(page) == 0 {
		box.waiting = kept != box.kept
		return box.waiting
	}
	for _, m := range page {
		box.given = m.Number
		i, found := box.find(m.Number)
		if found {
			continue // another session has it
		}
		e, err := element.ParseOne(m.Stanza, ns.Client)
		var st stanza.Stanza
		if err == nil {
			st, err = stanza.Parse(e)
		}
		if err != nil {
			o.host.Log.Error("offline message cannot be read", "account", u.JID(), "number", m.Number, "err", err)
			box.out = slices.Insert(box.out, i, given{number: m.Number, arrived: true})
			o.later(u, box)
			continue
		}
		if m.ID != 0 {
			e = stanza.Identify(e, u.JID(), o.host.Journal.StanzaID(u.JID(), m.ID))
		}
		if !m.Received.After(h.began) && !stanza.Delayed(e, u.JID()) {
			e = stanza.Delay(e, u.JID().Server(), m.Received)
		}
		to, copied := o.whom(u, h, m, st)
		if to[0].Resumable() {
			box.taking = true
			o.transfer(u, h, st, m, e, to, copied)
			continue
		}
		box.out = slices.Insert(box.out, i, given{number: m.Number})
		o.hand(m.Number, e, to)
		o.transfer(u, h, st, storage.OfflineMessage{ID: m.ID}, e, nil, copied)
	}
	return true
}

// hand gives a message to sessions that do not outlive a restart. It has arrived when one of them has it.
func (o *Offline) hand(number uint64, e element.Element, to []hook.Session) {
	left, there := len(to), false
	for _, s := range to {
		s.Hand(e, func(u hook.User, arrived bool) {
			left--
			if there = there || arrived; arrived || left == 0 && !there {
				o.handed(u, number, arrived)
			}
		})
	}
}

// whom are the sessions that get a message that has waited, and those that get a copy of it: the one that it is
// for; else the hand-over's, and all that would have got it live, had no hand-over been under way. The first
// outlives a restart, if any does.
func (o *Offline) whom(u *session.User, h *handOver, m storage.OfflineMessage, st stanza.Stanza) (to, copied []hook.Session) {
	if s := u.Session(st.To); s != nil {
		to = []hook.Session{s}
	} else {
		to = []hook.Session{h.to}
		live := m.Received.After(h.to.Ready())
		for _, s := range u.Sessions() {
			if s != h.to && ready(u, s) && m.Received.After(s.Ready()) {
				to, live = append(to, s), true
			}
		}
		if !live {
			return to, nil
		}
		slices.SortStableFunc(to, resumableFirst)
	}
	copied = o.copied(u, st, to)
	return to, slices.DeleteFunc(copied, func(s hook.Session) bool { return s.Since().After(m.Received) })
}

func resumableFirst(a, b hook.Session) int {
	switch {
	case a.Resumable() == b.Resumable():
		return 0
	case a.Resumable():
		return -1
	}
	return 1
}

// transfer gives a message to sessions, and copies of it to others, for good: it does not wait any more, unless
// it has no number here.
func (o *Offline) transfer(u *session.User, h *handOver, st stanza.Stanza, m storage.OfflineMessage, as element.Element, to, copied []hook.Session) {
	if len(to)+len(copied) == 0 {
		return
	}
	st, entry := o.host.Journal.Open(st)
	if m.ID != 0 {
		entry.Earlier(u.JID(), m.ID)
	}
	if m.Number != 0 {
		entry.Taken(u.JID(), m.Number)
	}
	u.Pass(st.WithElement(as), to, copied, m.Number == 0)
	owner := u.JID()
	entry.Otherwise(func(err error) {
		switch {
		case errors.Is(err, storage.ErrNoSpace):
			h.stuck.CompareAndSwap(0, m.Number)
		case !errors.Is(err, storage.ErrClosed) && !errors.Is(err, errStuck):
			o.host.Log.Error("offline message could not be handed over", "account", owner, "number", m.Number, "err", err)
		}
	})
	entry.Submit(st, func(write func(storage.Tx) error) *storage.Ticket {
		return u.Submit(func(tx storage.Tx) error {
			if m.Number != 0 && h.stuck.Load() != 0 {
				return errStuck
			}
			return write(tx)
		})
	})
}

// handed learns what became of a message that was given to a session.
func (o *Offline) handed(u hook.User, number uint64, arrived bool) {
	box := o.boxes.Get(u)
	i, found := box.find(number)
	switch {
	case !found:
	case arrived:
		box.out[i].arrived = true
		o.later(u, box)
	default:
		box.out = slices.Delete(box.out, i, i+1)
		box.given, box.waiting = min(box.given, number-1), true
		for _, s := range u.Sessions() {
			if ready(u, s) {
				o.begin(u, box, s)
			}
		}
	}
}

// later removes what has arrived, with what else arrives at once.
func (o *Offline) later(u hook.User, box *mailbox) {
	if !box.clearing {
		box.clearing = true
		u.After(func() { o.clear(u.JID()) })
	}
}

// clear removes what has arrived, together with everything before it, from the store: when it is known that this has
// been taken over.
func (o *Offline) clear(owner jid.JID) {
	err := o.host.Users.Do(owner, func(u *session.User) {
		box := o.boxes.Get(u)
		if box.clearing = false; box.taking {
			return
		}
		n := 0
		for n < len(box.out) && box.out[n].arrived && box.out[n].number <= box.given {
			n++
		}
		if n == 0 {
			return
		}
		through := box.out[n-1].number
		box.out = slices.Delete(box.out, 0, n)
		u.Submit(func(tx storage.Tx) error { return tx.Offline().Delete(owner, through) }).Then(func(err error) {
			if err != nil {
				o.host.Log.Error("offline messages could not be removed", "account", owner, "err", err)
			}
		})
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		o.host.Log.Error("offline messages could not be removed", "account", owner, "err", err)
	}
}

// recipient makes sure that the hand-over has a session that is ready, another one if need be.
func (o *Offline) recipient(u hook.User, h *handOver) bool {
	if ready(u, h.to) {
		return true
	}
	for _, s := range u.Sessions() {
		if ready(u, s) {
			h.to = s
			return true
		}
	}
	return false
}
