package archive

import (
	"errors"
	"slices"
	"strconv"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// Bounds of what answers cost. A page ends before pageBytes, and is read a chunk at a time, so that no
// more is in memory than that and a chunk.
const (
	pageBytes  = 256 << 10
	chunk      = 25
	maxWaiting = 100       // queries of a session that wait for their turn
	maxAsked   = 256 << 10 // bytes of them, unless it is one
	maxUnread  = 4         // pages that a session was sent and has not got
)

// A pager answers the queries of one session, one after the other, and goes on when the client has read:
// so a client that asks faster than it reads does not fill its queue.
type pager struct {
	waiting []asked
	bytes   int // of waiting
	unread  int // pages on their way
}

type asked struct {
	*module.Query
	request
	size int
}

// query takes a request for a page. A client that gets its messages like this before it becomes
// available does not want them once more.
func (a *Archive) query(q *module.Query) {
	r, err := parseQuery(a.host.Journal, q.Target, q.Payload())
	if err != nil {
		q.Fail(err)
		return
	}
	full := false
	err = a.host.Users.Do(q.Target, func(u *session.User) {
		s := u.Session(q.From)
		if s == nil {
			return // it has ended, and nobody waits for an answer
		}
		b := a.boxes.Get(u)
		p := b.pagers[s]
		if p == nil {
			if b.pagers == nil {
				b.pagers = make(map[hook.Session]*pager)
			}
			p = new(pager)
			b.pagers[s] = p
		}
		size := len(q.Element.String())
		if full = len(p.waiting) >= maxWaiting || p.bytes > 0 && p.bytes+size > maxAsked; full {
			return
		}
		if !s.Available() {
			a.options.Fetched(u)
		}
		p.waiting = append(p.waiting, asked{q, r, size})
		p.bytes += size
		a.next(u, b, s, p)
	})
	switch {
	case err != nil:
		q.Fail(err)
	case full:
		q.Fail(stanza.ResourceConstraint("too many queries at once"))
	}
}

// next begins to answer the oldest query of a session that waits, unless a page of that account is being read: an
// account has one reader, so that it takes few from others. Ids are given under the lock of the user, but what he
// says is submitted by the effects that follow: so a page is read when those until now have been carried
// out, and has nothing that is newer. Otherwise it might lack what later turns out to be in its middle.
func (a *Archive) next(u hook.User, b *box, s hook.Session, p *pager) {
	if b.reading || p.unread >= maxUnread || len(p.waiting) == 0 {
		return
	}
	q := p.waiting[0]
	p.waiting = slices.Delete(p.waiting, 0, 1)
	p.bytes -= q.size
	b.reading = true
	horizon := a.host.Journal.Last()
	u.After(func() { go a.answer(b, s, p, q, horizon) })
}

// answer reads a page outside of any lock, and sends it.
func (a *Archive) answer(b *box, s hook.Session, p *pager, q asked, horizon uint64) {
	page, err := a.read(q.Target, q.request, horizon)
	var results []element.Element
	last := q.Stanza.Result(page.fin(a, q.Target))
	if err != nil {
		if errors.Is(err, storage.ErrNotFound) {
			err = stanza.ItemNotFound("there is no such message")
		} else if !errors.Is(err, storage.ErrClosed) { // then the server ends
			a.host.Log.Error("archive could not be read", "account", q.Target, "err", err)
		}
		last, _ = q.ErrorReply(stanza.AsError(err))
	} else {
		results = a.results(s.JID(), q, page)
	}
	_ = a.host.Users.Do(q.Target, func(u *session.User) { // an account that is gone has no sessions
		if a.boxes.Get(u) != b {
			return // the user was forgotten with his last session
		}
		b.reading = false
		if u.Session(s.JID()) == s {
			for _, e := range results {
				s.Hand(e, func(hook.User, bool) {}) // what is lost here is in the archive still
			}
			p.unread++
			s.Hand(last.Element, func(u hook.User, arrived bool) {
				if p.unread--; arrived {
					a.next(u, b, s, p)
				}
			})
		}
		for s, p := range b.pagers { // in any order, so that no session is always the last
			a.next(u, b, s, p)
		}
	})
}

// A page is part of what a query selects; its count and index are as in storage.ArchivePage. A page that was read
// backwards has no index: it may (section 4.3.2), and slixmpp takes one that shows the last page for the end of
// the archive, whichever way it goes.
type page struct {
	messages     []storage.ArchivedMessage
	complete     bool
	count, index int
}

// read reads a page, of messages up to the horizon, when all of these are on disk.
func (a *Archive) read(owner jid.JID, r request, horizon uint64) (page, error) {
	if err := a.host.Journal.Barrier(); err != nil {
		return page{}, err
	}
	a.reading <- struct{}{} // not while the store writes: who waits for that keeps nobody from reading
	defer func() { <-a.reading }()
	var result page
	err := a.host.Store.View(func(tx storage.Tx) (err error) {
		result, err = readPage(tx.Archive(), owner, r, horizon)
		return err
	})
	return result, err
}

func readPage(archive storage.Archive, owner jid.JID, r request, horizon uint64) (result page, err error) {
	q, size := r.ArchiveQuery, 0
reading:
	for first := true; first || len(result.messages) < r.max && !result.complete; first = false {
		q.Max = max(1, min(chunk, r.max-len(result.messages)))
		part, err := archive.Page(owner, q)
		if err != nil {
			return page{}, err
		}
		if first {
			result.count, result.index = part.Count, part.Index
			if q.Backwards {
				result.index = -1
			}
		}
		if r.max == 0 { // only the count is wanted (XEP-0059 section 2.7)
			result.complete = len(part.Messages) == 0
			return result, nil
		}
		result.complete = part.Complete
		if len(part.Messages) == 0 {
			break
		}
		list := part.Messages
		if q.Backwards {
			q.Before = list[0].ID
			slices.Reverse(list)
		} else {
			q.After = list[len(list)-1].ID
		}
		for _, m := range list {
			if m.ID > horizon {
				if !q.Backwards {
					result.complete = true
					break
				}
				continue
			}
			if size += len(m.Stanza); size > pageBytes && len(result.messages) > 0 {
				result.complete = false
				break reading
			}
			result.messages = append(result.messages, m)
		}
	}
	if q.Backwards {
		slices.Reverse(result.messages)
	}
	return result, nil
}

// results are the messages of a page as they are sent (section 4.2).
func (a *Archive) results(to jid.JID, q asked, p page) []element.Element {
	results := make([]element.Element, 0, len(p.messages))
	for _, m := range p.messages {
		kept, err := element.ParseOne(m.Stanza, ns.Client)
		if err != nil {
			a.host.Log.Error("archived message cannot be read", "account", q.Target, "id", m.ID, "err", err)
			continue
		}
		w := element.Start("message", ns.Client).Attr("from", q.Target.String()).Attr("to", to.String())
		w.Open("result", ns.MAM)
		if q.named {
			w.Attr("queryid", q.id)
		}
		w.Attr("id", a.host.Journal.StanzaID(q.Target, m.ID))
		w.Open("forwarded", ns.Forward)
		w.Open("delay", ns.Delay).Attr("stamp", dateTime(m.At)).Close()
		results = append(results, w.Add(kept).Element())
	}
	if q.flipped {
		slices.Reverse(results) // section 4.3.4: only the order of transmission
	}
	return results
}

// fin says which part of the selection the page was (section 4.3).
func (p page) fin(a *Archive, owner jid.JID) element.Element {
	w := element.Start("fin", ns.MAM)
	if p.complete {
		w.Attr("complete", "true")
	}
	w.Open("set", ns.RSM)
	if n := len(p.messages); n > 0 {
		w.Open("first", ns.RSM)
		if p.index >= 0 {
			w.Attr("index", strconv.Itoa(p.index))
		}
		w.Text(a.host.Journal.StanzaID(owner, p.messages[0].ID)).Close()
		w.Leaf("last", ns.RSM, a.host.Journal.StanzaID(owner, p.messages[n-1].ID))
	}
	if p.count >= 0 {
		w.Leaf("count", ns.RSM, strconv.Itoa(p.count))
	}
	return w.Element()
}
