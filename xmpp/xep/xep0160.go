package xep

import (
	"cmp"
	"errors"
	"slices"

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
	heldBytes    = 1 << 20
)

// offline keeps messages for users who are not there, and hands them over when they come.
//
// No message is lost, doubled or overtaken by a later one. While a hand-over runs, live messages are
// held (incoming). It reads the store outside the lock, behind the writes of all messages that were
// to be kept before (run), gives each page to the session under the lock (give), and when nothing is
// left lets the held ones go by the ordinary rules (finish). If the user leaves meanwhile those rules
// keep them in turn, behind what is in the store already.
//
// A message stays in the store until it has arrived (handed). If its session ends first it waits again.
type offline struct {
	host  *module.Host
	max   int
	boxes session.Slot[*mailbox]
}

// A mailbox is what is known in memory of a user's kept messages.
type mailbox struct {
	waiting  bool            // the store has messages, or will have
	last     *storage.Ticket // of the newest write; nil: none since the user was read
	given    uint64          // number of the newest message that a session has got
	out      []given         // up to it, and still in the store; in order
	clearing bool            // what has arrived is about to be removed
	handOver *handOver       // under way, else nil
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
	read  *storage.Ticket // the newest write behind which the store is read
	held  []stanza.Stanza // came meanwhile
	bytes int             // of held
}

// offlineMessages keeps up to max messages for each account; 0: no limit.
func offlineMessages(max int) module.New {
	return func(h *module.Host) (module.Feature, error) {
		o := &offline{host: h, max: max, boxes: session.NewSlot(h.Users, readMailbox)}
		return module.Feature{
			Info: module.Info{Spec: "XEP-0160", Name: "Best Practices for Handling Offline Messages",
				Version: "1.0.1", Status: "complete"},
			Server: []string{ns.Offline},
			Hooks: hook.Hooks{Incoming: o.incoming, Undelivered: o.undelivered, Presence: o.presence,
				SessionEnded: o.ended},
		}, nil
	}
}

func readMailbox(tx storage.Tx, owner jid.JID) (*mailbox, error) {
	first, err := tx.Offline().List(owner, 0, 1)
	return &mailbox{waiting: len(first) > 0}, err
}

// undelivered keeps a message. Its sender is told if that fails: with service-unavailable if the
// user has too many already (XEP-0160 section 2).
func (o *offline) undelivered(u hook.User, st *stanza.Stanza) hook.Verdict {
	if !worthKeeping(*st) {
		return hook.Pass
	}
	owner, message := u.JID(), *st
	row := storage.Message{At: o.host.Now(), Stanza: st.Element.String(), Offline: owner, OfflineMax: o.max}
	box := o.boxes.Get(u)
	box.waiting = true
	box.last = u.Submit(func(tx storage.Tx) error { return tx.Messages().Add(row) })
	message.Hold() // to acknowledge it is to say that it is kept (XEP-0198 section 4)
	box.last.Then(func(err error) {
		if err != nil {
			go o.bounce(message, err)
		}
		message.Release()
	})
	return hook.Handled
}

func (o *offline) bounce(message stanza.Stanza, err error) {
	if errors.Is(err, storage.ErrFull) {
		err = stanza.ServiceUnavailable("too many messages wait for this user")
	} else {
		o.host.Log.Error("offline message could not be kept", "account", message.To.Bare(), "err", err)
	}
	if reply, ok := message.ErrorReply(stanza.AsError(storeError(err))); ok {
		o.host.Route(reply)
	}
}

// worthKeeping is XEP-0160 section 3, with the hints of XEP-0334 section 4.
func worthKeeping(st stanza.Stanza) bool {
	switch {
	case st.Type != "chat" && st.Type != "normal", hinted(st.Element, "no-store"):
		return false
	case hinted(st.Element, "store"):
		return true
	}
	return !onlyChatState(st.Element)
}

// onlyChatState says whether a message tells that its sender is typing, and nothing else. A thread,
// or what servers add on the way, is nothing else.
func onlyChatState(message element.Element) bool {
	state := false
	for child := range message.Children() {
		switch child.NS() {
		case ns.ChatStates:
			state = true
		case ns.Hints, ns.StanzaID, ns.Delay:
		default:
			if !child.Is("thread", ns.Client) {
				return false
			}
		}
	}
	return state
}

// presence begins a hand-over to the first session that is ready for messages.
func (o *offline) presence(u hook.User, s hook.Session, _, _ stanza.Stanza) {
	if ready(u, s) {
		o.begin(u, o.boxes.Get(u), s)
	}
}

func (o *offline) begin(u hook.User, box *mailbox, to hook.Session) {
	if !box.waiting || box.handOver != nil {
		return
	}
	box.handOver = &handOver{to: to, read: box.last}
	go o.run(u.JID(), box.handOver, box.given)
}

// ready says whether a session gets messages for the bare JID (RFC 6121 section 8.5.2.1.1).
func ready(u hook.User, s hook.Session) bool {
	return s.Available() && s.Priority() >= 0 && u.Session(s.JID()) == s
}

// incoming holds messages that come during a hand-over.
func (o *offline) incoming(u hook.User, st *stanza.Stanza) hook.Verdict {
	h := o.boxes.Get(u).handOver
	if h == nil || st.Kind != stanza.Message {
		return hook.Pass
	}
	size := len(st.Element.String())
	if h.bytes+size > heldBytes {
		return hook.Refuse(stanza.ResourceConstraint("too many messages at once"))
	}
	h.bytes += size
	st.Hold()
	h.held = append(h.held, *st)
	return hook.Handled
}

// ended ends a hand-over with the user's last session: from now on nothing keeps the user in memory
// but the writes that the held messages become.
func (o *offline) ended(u hook.User, _ hook.Session) {
	if box := o.boxes.Get(u); box.handOver != nil && len(u.Sessions()) == 0 {
		o.finish(u, box)
	}
}

// run carries a hand-over through, a page at a time. It waits for the store, so it has a goroutine
// of its own, which ends at the latest when the store is closed.
func (o *offline) run(owner jid.JID, h *handOver, given uint64) {
	for write := h.read; ; {
		if write != nil {
			<-write.Done()
		}
		page, err := o.page(owner, given)
		if err != nil {
			o.host.Log.Error("offline messages could not be read", "account", owner, "err", err)
		}
		over := true
		doErr := o.host.Users.Do(owner, func(u *session.User) {
			box := o.boxes.Get(u)
			if box.handOver != h {
				return // ended with the user's last session
			}
			if over = err != nil || !o.give(u, box, given, page); over {
				o.finish(u, box)
			}
			write, given = h.read, box.given
		})
		if over || doErr != nil { // the account is gone, with its sessions
			return
		}
	}
}

// page reads the next messages, as many as may be in memory at once.
func (o *offline) page(owner jid.JID, after uint64) (page []storage.OfflineMessage, err error) {
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

// give hands the page behind after to the session, and says whether there may be more behind h.read.
func (o *offline) give(u hook.User, box *mailbox, after uint64, page []storage.OfflineMessage) (more bool) {
	h := box.handOver
	if !o.recipient(u, h) {
		return false
	}
	if after != box.given {
		return true // read before a session lost what it had been given
	}
	if len(page) == 0 {
		box.waiting = h.read != box.last // kept after the store was read
		h.read = box.last
		return box.waiting
	}
	for _, m := range page {
		box.given = m.Number
		i, found := box.find(m.Number)
		if found {
			continue // another session has it
		}
		box.out = slices.Insert(box.out, i, given{number: m.Number})
		e, err := element.ParseOne(m.Stanza, ns.Client)
		if err != nil {
			o.host.Log.Error("offline message cannot be read", "account", u.JID(), "number", m.Number, "err", err)
			o.handed(u, m.Number, true)
			continue
		}
		if !stanza.Delayed(e, u.JID()) {
			e = stanza.Delay(e, u.JID().Server(), m.Received)
		}
		h.to.Hand(e, func(u hook.User, arrived bool) { o.handed(u, m.Number, arrived) })
	}
	return true
}

// handed learns what became of a message that was given to a session.
func (o *offline) handed(u hook.User, number uint64, arrived bool) {
	box := o.boxes.Get(u)
	i, found := box.find(number)
	switch {
	case !found:
	case arrived:
		box.out[i].arrived = true
		if !box.clearing {
			box.clearing = true
			u.After(func() { o.clear(u.JID()) }) // with what else has arrived at once
		}
	default:
		box.out = slices.Delete(box.out, i, i+1)
		box.given, box.waiting = min(box.given, number-1), true
		if box.handOver != nil {
			box.handOver.read = box.last
		}
		for _, s := range u.Sessions() {
			if ready(u, s) {
				o.begin(u, box, s)
			}
		}
	}
}

// clear removes what has arrived, together with everything before it, from the store.
func (o *offline) clear(owner jid.JID) {
	err := o.host.Users.Do(owner, func(u *session.User) {
		box := o.boxes.Get(u)
		box.clearing = false
		n := 0
		for n < len(box.out) && box.out[n].arrived && box.out[n].number <= box.given {
			n++
		}
		if n == 0 {
			return
		}
		through := box.out[n-1].number
		box.out = slices.Delete(box.out, 0, n)
		box.last = u.Submit(func(tx storage.Tx) error { return tx.Offline().Delete(owner, through) })
		box.last.Then(func(err error) {
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
func (o *offline) recipient(u hook.User, h *handOver) bool {
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

// finish ends a hand-over and lets go what it held.
func (o *offline) finish(u hook.User, box *mailbox) {
	held := box.handOver.held
	box.handOver = nil
	for _, st := range held {
		u.Deliver(st)
		st.Release()
	}
}
