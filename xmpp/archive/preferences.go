package archive

import (
	"errors"
	"fmt"
	"slices"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/session"
	"tombolo/xmpp/stanza"
)

// preferencesKey is the document in which an account's wishes are kept, maxPreferences its bytes.
const (
	preferencesKey = "archive"
	maxPreferences = 64 << 10
)

// preferences are what a user wants to be archived (XEP-0441).
type preferences struct {
	rule          string // for those who are in no list: "always", "never", "roster"
	always, never jids
}

// A jids is a set.
type jids map[jid.JID]struct{}

// has compares as XEP-0441 section 2.3.1 says: an entry without a resource stands for all of them.
func (set jids) has(who jid.JID) bool {
	_, full := set[who]
	_, bare := set[who.Bare()]
	return full || bare
}

func (set jids) sorted() []string {
	list := make([]string, 0, len(set))
	for j := range set {
		list = append(list, j.String())
	}
	slices.Sort(list)
	return list
}

// want says whether what is said to somebody, or by him, is archived. Who is in both lists never is. listed
// says whether he is in the roster.
func (p *preferences) want(with jid.JID, listed func() bool) bool {
	switch {
	case p.never.has(with):
		return false
	case p.always.has(with):
		return true
	case p.rule == "roster":
		return listed()
	}
	return p.rule == "always"
}

func readPreferences(tx storage.Tx, owner jid.JID) (*preferences, error) {
	kept, err := tx.Settings().Get(owner, preferencesKey)
	if errors.Is(err, storage.ErrNotFound) {
		return &preferences{rule: "always"}, nil
	}
	if err != nil {
		return nil, err
	}
	e, err := element.ParseOne(kept, ns.Client)
	if err != nil {
		return nil, fmt.Errorf("archive preferences of %s: %w", owner, err)
	}
	return parsePreferences(e)
}

// parsePreferences reads a <prefs/> element; a list that is missing is empty (section 2.1.2).
func parsePreferences(e element.Element) (*preferences, error) {
	p := &preferences{rule: e.Attr("default"), always: make(jids), never: make(jids)}
	switch p.rule {
	case "always", "never", "roster":
	default:
		return nil, stanza.BadRequest("the default is always, never or roster")
	}
	for name, list := range map[string]jids{"always": p.always, "never": p.never} {
		for entry := range e.Child(name, ns.MAM).Children() {
			j, err := jid.Parse(entry.Text())
			if err != nil || !entry.Is("jid", ns.MAM) {
				return nil, stanza.BadRequest("a list of JIDs has something else in it")
			}
			list[j.Clone()] = struct{}{}
		}
	}
	return p, nil
}

// getPreferences answers with the preferences that hold, those on their way to the disk included.
func (a *Archive) getPreferences(q *module.Query) {
	var p *preferences
	if err := a.host.Users.Do(q.Target, func(u *session.User) { p = a.boxes.Get(u).preferences }); err != nil {
		q.Fail(err)
		return
	}
	q.Result(p.element())
}

// setPreferences heeds the new preferences from now on, and answers when they are kept.
func (a *Archive) setPreferences(q *module.Query) {
	p, err := parsePreferences(q.Payload())
	if err != nil {
		q.Fail(err)
		return
	}
	document := p.element()
	err = a.host.Users.Do(q.Target, func(u *session.User) {
		b := a.boxes.Get(u)
		old := b.preferences
		b.preferences = p
		u.Submit(func(tx storage.Tx) error {
			return tx.Settings().Put(q.Target, preferencesKey, document.String(), maxPreferences)
		}).Then(func(err error) {
			go a.preferencesKept(q, p, old, err)
		})
	})
	if err != nil {
		q.Fail(err)
	}
}

func (a *Archive) preferencesKept(q *module.Query, p, old *preferences, err error) {
	if err == nil {
		q.Result(p.element())
		return
	}
	_ = a.host.Users.Do(q.Target, func(u *session.User) { // an account that is gone has no preferences
		if b := a.boxes.Get(u); b.preferences == p {
			b.preferences = old
		}
	})
	switch {
	case errors.Is(err, storage.ErrFull):
		err = stanza.ResourceConstraint("the lists are too long")
	case errors.Is(err, storage.ErrNoSpace):
		err = stanza.ResourceConstraint("the server has no room left")
	}
	q.Fail(err)
}

// element writes both lists, also where they are empty (section 2.1).
func (p *preferences) element() element.Element {
	w := element.Start("prefs", ns.MAM).Attr("default", p.rule)
	for _, list := range []struct {
		name string
		jids
	}{{"always", p.always}, {"never", p.never}} {
		w.Open(list.name, ns.MAM)
		for _, j := range list.sorted() {
			w.Leaf("jid", ns.MAM, j)
		}
		w.Close()
	}
	return w.Element()
}
