// Package archive keeps what users say and hear, so that each of their devices can fetch what it has
// missed (XEP-0313), and lets them say what is to be kept (XEP-0441). The assembly in package xmpp makes
// an Archive and lists its features before those that copy or deliver messages.
//
// Start with Archive.outgoing and Archive.accepted: what enters an archive. query.go reads what a client
// asks for, page.go answers it; what grows old goes by retention.go.
package archive

import (
	"context"
	"errors"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// Options are what the archive needs of the configuration and of other features.
type Options struct {
	// Enabled says whether the accounts of a domain have archives.
	Enabled func(domain string) bool
	// Retention is how long messages of a domain's accounts are kept; 0: for good.
	Retention func(domain string) time.Duration
	// Listed says whether a contact is in the user's roster, and MaySee whether somebody is allowed to
	// know that there is this user. Both are called under the user's lock.
	Listed, MaySee func(u hook.User, who jid.JID) bool
	// Fetched is told, under the user's lock, that a client gets what it has missed from the archive.
	Fetched func(u hook.User)
}

// An Archive is the archives of all accounts.
type Archive struct {
	host    *module.Host
	options Options
	boxes   session.Slot[*box]
	reading chan struct{} // has room for those who read pages at once
}

// A box is what is in memory of one account's archive.
type box struct {
	preferences    *preferences
	oldest, newest mark
	pagers         map[hook.Session]*pager
	reading        bool // a page, for one of them
}

// A mark is a place in an archive; its id is 0 where there is none.
type mark struct {
	id uint64
	at time.Time
}

// readers is how many pages may be read at once, so that their memory is bounded.
const readers = 8

// New makes the archives of a server.
func New(h *module.Host, o Options) *Archive {
	a := &Archive{host: h, options: o, reading: make(chan struct{}, readers)}
	a.boxes = session.NewSlot(h.Users, readBox)
	return a
}

func readBox(tx storage.Tx, owner jid.JID) (b *box, err error) {
	b = new(box)
	if b.oldest, b.newest, err = readBounds(tx, owner); err != nil {
		return nil, err
	}
	b.preferences, err = readPreferences(tx, owner)
	return b, err
}

func readBounds(tx storage.Tx, owner jid.JID) (oldest, newest mark, err error) {
	first, last, err := tx.Archive().Bounds(owner)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return oldest, newest, err
	}
	return mark{first.ID, first.At}, mark{last.ID, last.At}, nil
}

// Features are what the server says of its archives, in the order of their hooks.
func (a *Archive) Features() []module.Feature {
	const everybody = module.ToSelf | module.ToAccount
	return []module.Feature{{
		Info: module.Info{Spec: "XEP-0313", Name: "Message Archive Management", Version: "1.1.3", Status: "complete",
			Note: "archives of accounts"},
		Serves:  a.options.Enabled,
		Account: []string{ns.MAM, ns.MAMExtended, ns.MAMField},
		IQ: []module.IQ{
			{Name: "query", NS: ns.MAM, Set: true, Scope: everybody, Handle: a.own(a.query)},
			{Name: "query", NS: ns.MAM, Get: true, Scope: everybody, Handle: a.own(a.form)},
			{Name: "metadata", NS: ns.MAM, Get: true, Scope: everybody, Handle: a.own(a.metadata)},
		},
		Inline: []module.Inline{{NS: ns.MAM, Enable: a.bound, Always: true}},
		Hooks:  hook.Hooks{Outgoing: a.outgoing, Accepted: a.accepted, SessionEnded: a.ended},
		Verbs:  a.verbs(),
		Run:    func(ctx context.Context) error { return a.retain(ctx) },
	}, {
		Info: module.Info{Spec: "XEP-0441", Name: "Message Archive Management Preferences", Version: "0.2.0", Status: "complete"},
		IQ: []module.IQ{
			{Name: "prefs", NS: ns.MAM, Get: true, Scope: everybody, Handle: a.own(a.getPreferences)},
			{Name: "prefs", NS: ns.MAM, Set: true, Scope: everybody, Handle: a.own(a.setPreferences)},
		},
	}, {
		Info: module.Info{Spec: "XEP-0059", Name: "Result Set Management", Version: "1.0", Status: "partial",
			Note: "of archives; pages are found by ids, not by numbers"},
		Serves:  a.options.Enabled,
		Account: []string{ns.RSM},
	}, {
		Info: module.Info{Spec: "XEP-0359", Name: "Unique and Stable Stanza IDs", Version: "0.7.0", Status: "complete",
			Note: "the ids of archived messages"},
		Serves:  a.options.Enabled,
		Server:  []string{ns.StanzaID},
		Account: []string{ns.StanzaID},
	}}
}

// outgoing archives what a user says, for the user.
func (a *Archive) outgoing(u hook.User, _ hook.Session, st *stanza.Stanza) hook.Verdict {
	if a.wants(u, *st, st.To) {
		kept, entry := a.host.Journal.Open(*st)
		*st = kept
		a.keep(u, entry, st.To)
	}
	return hook.Pass
}

// accepted archives what a user is told, for the user, and marks it with its id (section 3.5). What the
// user said himself is there already, and so is what did not reach one of his sessions and is sent on, unless it
// was not to be archived when it came, or was purged: then it is not archived now.
func (a *Archive) accepted(u hook.User, st *stanza.Stanza) {
	owner, entry := u.JID(), journal.Of(*st)
	if id, ok := a.host.Journal.ID(owner, stanza.Identified(st.Element, owner)); ok {
		if entry != nil {
			entry.Earlier(owner, id)
		}
		return
	}
	id, ok := uint64(0), false
	if entry != nil {
		id, ok = entry.Archived(owner)
	}
	if again := entry != nil && entry.Again(); !ok && !again && a.wants(u, *st, st.From) {
		*st, entry = a.host.Journal.Open(*st)
		id, ok = a.keep(u, entry, st.From), true
	}
	if ok {
		*st = st.WithElement(stanza.Identify(st.Element, owner, a.host.Journal.StanzaID(owner, id)))
	}
}

func (a *Archive) keep(u hook.User, entry *journal.Entry, with jid.JID) uint64 {
	b := a.boxes.Get(u)
	b.newest = mark{entry.Archive(u.JID(), with), entry.At()}
	if b.oldest.id == 0 {
		b.oldest = b.newest
	}
	return b.newest.id
}

// wants says whether a message is to be in the archive of a user who says it to somebody, or hears it.
func (a *Archive) wants(u hook.User, st stanza.Stanza, with jid.JID) bool {
	return st.Kind == stanza.Message && a.options.Enabled(u.JID().Domain()) && worth(st) &&
		a.boxes.Get(u).preferences.want(with, func() bool { return a.options.Listed(u, with.Bare()) })
}

// worth says whether a message has meaningful content (section 3): it does not have to be text, for that
// may be encrypted, or a receipt, or a reaction to another message. Its sender may ask that it is not
// archived (XEP-0334 section 4.1), or that it is.
func worth(st stanza.Stanza) bool {
	if !st.Lasting() || stanza.Hinted(st.Element, "no-permanent-store") {
		return false
	}
	for child := range st.Element.Children() {
		switch child.NS() {
		case ns.ChatStates, ns.StanzaID, ns.Delay, ns.PubsubEvent, ns.AMP:
		case ns.Hints:
			if child.Name() == "store" {
				return true
			}
		default:
			if !child.Is("thread", ns.Client) {
				return true
			}
		}
	}
	return false
}

// own lets only the owner of an archive at it (section 8.1). To those who may not know that there is such an
// account it looks like one that does not exist.
func (a *Archive) own(handle func(*module.Query)) func(*module.Query) {
	return func(q *module.Query) {
		switch {
		case !a.options.Enabled(q.Target.Domain()):
			q.Fail(stanza.ServiceUnavailable(""))
		case q.Self:
			handle(q)
		default:
			known := false
			if err := a.host.Users.Do(q.Target, func(u *session.User) { known = a.options.MaySee(u, q.From.Bare()) }); err == nil && known {
				q.Fail(stanza.Forbidden("this is somebody else's archive"))
			} else {
				q.Fail(stanza.ServiceUnavailable(""))
			}
		}
	}
}

// bound tells a client that binds a resource what there is in the archive (XEP-0386 section 3.2). One that
// asks for it will fetch what it has missed.
func (a *Archive) bound(u hook.User, _ hook.Session, asked element.Element) element.Element {
	if !a.options.Enabled(u.JID().Domain()) {
		return element.Element{}
	}
	if !asked.IsZero() {
		a.options.Fetched(u)
	}
	return a.describe(u)
}

// describe says how far the archive of a user reaches (section 5). The newest messages may not be on disk
// yet; a device that believed itself up to date without them would miss them.
func (a *Archive) describe(u hook.User) element.Element {
	b := a.boxes.Get(u)
	return a.bounds(u.JID(), b.oldest, b.newest)
}

func (a *Archive) bounds(owner jid.JID, oldest, newest mark) element.Element {
	w := element.Start("metadata", ns.MAM)
	for _, end := range []struct {
		name string
		mark
	}{{"start", oldest}, {"end", newest}} {
		if end.id != 0 {
			w.Open(end.name, ns.MAM).Attr("id", a.host.Journal.StanzaID(owner, end.id)).
				Attr("timestamp", dateTime(end.at)).Close()
		}
	}
	return w.Element()
}

// metadata answers with what is on disk when all messages until now are, or could not be written.
func (a *Archive) metadata(q *module.Query) {
	answer := func() {
		var oldest, newest mark
		err := a.host.Journal.Barrier()
		if err == nil {
			err = a.host.Store.View(func(tx storage.Tx) (err error) {
				oldest, newest, err = readBounds(tx, q.Target)
				return err
			})
		}
		if err != nil {
			q.Fail(err)
			return
		}
		q.Result(a.bounds(q.Target, oldest, newest))
	}
	err := a.host.Users.Do(q.Target, func(u *session.User) {
		u.After(func() { go answer() })
	})
	if err != nil {
		q.Fail(err)
	}
}

// ended forgets what a session has asked for. What its user has said is submitted by the effects that come
// before this one; until it is on disk the user stays in memory, or he would be read without it. Nobody waits for that:
// an urgent write would make every logout a commit.
func (a *Archive) ended(u hook.User, s hook.Session) {
	delete(a.boxes.Get(u).pagers, s)
	owner := u.JID()
	u.After(func() {
		_ = a.host.Users.Do(owner, func(u *session.User) { u.Defer(nil) }) // an account that is gone has no archive
	})
}

// dateTime writes a time as XEP-0082 wants it, and as stanza.Delay does.
func dateTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
