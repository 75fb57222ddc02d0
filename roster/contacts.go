package roster

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// contacts is the roster of one user, with what else presence needs to know of the user.
type contacts struct {
	items mirror[storage.RosterItem]
	// version is that of the newest change, kept the one that the store holds.
	version, kept uint64

	debts map[debt]int // pushes on their way, and to be

	last     string // the last unavailable presence, empty if there was none
	lastTime time.Time

	asked      int // requests for a subscription in the minute that began at askedSince
	askedSince time.Time
}

// ask counts a request for a subscription and says whether it is one too many.
func (c *contacts) ask(now time.Time, perMinute int) (tooMany bool) {
	if now.Sub(c.askedSince) >= time.Minute {
		c.asked, c.askedSince = 0, now
	}
	c.asked++
	return perMinute > 0 && c.asked > perMinute
}

func loadContacts(tx storage.Tx, owner jid.JID) (*contacts, error) {
	kept, err := tx.Rosters().Get(owner)
	if err != nil {
		return nil, fmt.Errorf("load roster: %w", err)
	}
	c := &contacts{version: kept.Version, kept: kept.Version, debts: make(map[debt]int)}
	c.items.kept = make(map[jid.JID]storage.RosterItem, len(kept.Items))
	for _, item := range kept.Items {
		c.items.kept[item.Contact] = item
	}
	c.last, c.lastTime, err = tx.LastPresence().Get(owner)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("load last presence: %w", err)
	}
	return c, nil
}

// item is the relation to a contact as it will be, whether there is one or not.
func (c *contacts) item(contact jid.JID) storage.RosterItem {
	if item, ok := c.items.latest(contact); ok {
		return item
	}
	return storage.RosterItem{Contact: contact.Clone()}
}

// full says whether one more item like this would be too many.
func (c *contacts) full(limit int, item storage.RosterItem) bool {
	n := 0
	for _, other := range c.items.all() {
		if other.Listed == item.Listed {
			n++
		}
	}
	return limit > 0 && n >= limit
}

// advance makes a new version. Versions follow the clock, so that a client cannot take the roster of
// an account that was made again, or restored from a backup, for an older one that it remembers.
func (c *contacts) advance(now time.Time) uint64 {
	c.version = max(c.version+1, uint64(now.UnixMilli()))
	return c.version
}

// change makes item the relation to its contact. When that is kept, then runs, under the user's lock,
// and the interested sessions get a push if there is something new for them to see. A change that
// changes nothing writes nothing, and still takes its turn.
func (r *Roster) change(u hook.User, item storage.RosterItem, then func(hook.User, error)) {
	c := r.contacts.Get(u)
	old, existed := c.items.latest(item.Contact)
	exists := item.Listed || item.PendingIn != ""
	if !existed && !exists || reflect.DeepEqual(old, item) {
		r.ledger.after(u, nil, then)
		return
	}
	news := shown(item) != shown(old)
	version := c.version
	if news {
		version = c.advance(r.host.Now())
	}
	settle, pushed := c.items.put(item.Contact, item, exists), func() {}
	if news {
		pushed = r.owe(u, wantsRoster, ns.Roster, item.Contact)
	}
	ticket := u.Submit(func(tx storage.Tx) error {
		if !exists {
			return tx.Rosters().Delete(u.JID(), item.Contact, version)
		}
		return tx.Rosters().Put(u.JID(), item, version)
	})
	r.ledger.after(u, ticket, func(u hook.User, err error) {
		settle(err)
		if err == nil {
			c.kept = version
		}
		then(u, err)
		if err == nil && news {
			r.push(u, wantsRoster, rosterQuery(version, item), item.Contact)
		}
		pushed()
	})
}

// query answers jabber:iq:roster (RFC 6121 section 2.1.2). A roster is its owner's alone.
func (r *Roster) query(q *module.Query) {
	switch {
	case !q.Self:
		q.Fail(stanza.Forbidden("a roster is for its owner"))
	case q.Type == "get":
		r.on(q, func(u hook.User) { r.get(u, q) })
	default:
		item, remove, err := parseSet(q.Payload())
		if err != nil {
			q.Fail(err)
			return
		}
		r.on(q, func(u hook.User) {
			done := func(u hook.User, err error) { answer(u, q, err) }
			if remove {
				r.remove(u, item.Contact, done)
			} else {
				r.set(u, item, done)
			}
		})
	}
}

// get sends the roster, unless the client has this version (RFC 6121 sections 2.1.4, 2.2 and 2.6.2).
// What it sends is what is kept: a change on its way follows as a push.
func (r *Roster) get(u hook.User, q *module.Query) {
	if s := u.Session(q.From); s != nil {
		s.SetInterested()
	}
	c := r.contacts.Get(u)
	if ver, ok := q.Payload().LookupAttr("ver"); ok && ver == formatVersion(c.kept) {
		answer(u, q, nil)
		return
	}
	var items []storage.RosterItem
	for _, item := range c.items.kept {
		if item.Listed {
			items = append(items, item)
		}
	}
	slices.SortFunc(items, func(a, b storage.RosterItem) int { return jid.Compare(a.Contact, b.Contact) })
	answer(u, q, nil, rosterQuery(c.kept, items...))
}

// set adds a contact or changes its name and groups; the subscription is not the client's to set
// (RFC 6121 sections 2.3 and 2.4).
func (r *Roster) set(u hook.User, wish storage.RosterItem, done func(hook.User, error)) {
	c := r.contacts.Get(u)
	item := c.item(wish.Contact)
	added := !item.Listed
	item.Name, item.Groups, item.Listed = wish.Name, wish.Groups, true
	switch {
	case wish.Contact == u.JID():
		done(u, stanza.NotAllowed("nobody is a contact of their own"))
	case added && c.full(r.options.MaxItems, item):
		done(u, stanza.ResourceConstraint("the roster is full"))
	default:
		r.change(u, item, done)
	}
}

// remove deletes a contact and ends the subscriptions in both directions (RFC 6121 section 2.5).
func (r *Roster) remove(u hook.User, contact jid.JID, done func(hook.User, error)) {
	item := r.contacts.Get(u).item(contact)
	if !item.Listed {
		done(u, stanza.ItemNotFound("not in the roster"))
		return
	}
	r.change(u, storage.RosterItem{Contact: item.Contact}, func(u hook.User, err error) {
		if err == nil {
			r.leave(u, item)
		}
		done(u, err)
	})
}

// leave tells a contact that the relation has ended: nothing is left to ask for, and nothing to see.
func (r *Roster) leave(u hook.User, item storage.RosterItem) {
	if item.To || item.Ask {
		u.Route(stanza.New(stanza.Presence, "unsubscribe", "", u.JID(), item.Contact))
	}
	if item.From {
		r.hide(u, item.Contact)
	}
	if item.From || item.PendingIn != "" {
		u.Route(stanza.New(stanza.Presence, "unsubscribed", "", u.JID(), item.Contact))
	}
}

// accountRemoved tells the contacts that the account goes. Its sessions have ended, so presence is
// unavailable already, and its rows go with the account.
func (r *Roster) accountRemoved(u hook.User) {
	for _, item := range r.contacts.Get(u).items.all() {
		r.leave(u, item)
	}
}

// The limits of what a client may say of a contact (RFC 6121 section 2.3.3), in bytes and pieces.
const (
	maxName   = 1023 // of a contact or a group
	maxGroups = 100
)

// parseSet reads a roster set (RFC 6121 sections 2.1.5 and 2.3.3): the contact's JID, its name and
// its groups, or that it is to be removed. Contacts are bare JIDs, since subscriptions are.
func parseSet(query element.Element) (item storage.RosterItem, remove bool, err error) {
	var found []element.Element
	for child := range query.Children() {
		if child.Is("item", ns.Roster) {
			found = append(found, child)
		}
	}
	if len(found) != 1 {
		return item, false, stanza.BadRequest("a roster set has exactly one item")
	}
	e := found[0]
	address, ok := e.LookupAttr("jid")
	if !ok {
		return item, false, stanza.BadRequest("a roster item has a jid")
	}
	contact, err := jid.Parse(address)
	if err != nil {
		return item, false, stanza.JIDMalformed(err.Error())
	}
	item.Contact = contact.Bare().Clone()
	if e.Attr("subscription") == "remove" {
		return item, true, nil
	}
	item.Name = strings.Clone(e.Attr("name"))
	for child := range e.Children() {
		if child.Is("group", ns.Roster) {
			item.Groups = append(item.Groups, strings.Clone(child.Text()))
		}
	}
	return item, false, checkItem(item)
}

// checkItem says what is wrong with a name or the groups (RFC 6121 section 2.3.3).
func checkItem(item storage.RosterItem) error {
	if len(item.Name) > maxName {
		return stanza.NotAcceptable("the name is too long")
	}
	if len(item.Groups) > maxGroups {
		return stanza.NotAcceptable("too many groups")
	}
	for i, group := range item.Groups {
		switch {
		case group == "":
			return stanza.NotAcceptable("a group without a name")
		case len(group) > maxName:
			return stanza.NotAcceptable("the name of a group is too long")
		case slices.Contains(item.Groups[:i], group):
			return stanza.BadRequest("the same group twice")
		}
	}
	return nil
}

// rosterQuery is the payload of a roster result or push. An item that is not listed was removed.
func rosterQuery(version uint64, items ...storage.RosterItem) element.Element {
	w := element.Start("query", ns.Roster).Attr("ver", formatVersion(version))
	for _, item := range items {
		if e := shown(item); !e.IsZero() {
			w.Add(e)
			continue
		}
		w.Open("item", ns.Roster).Attr("jid", item.Contact.String()).Attr("subscription", "remove").Close()
	}
	return w.Element()
}

func formatVersion(version uint64) string { return strconv.FormatUint(version, 10) }

// shown is an item as clients see it (RFC 6121 section 2.1.2), zero if they do not.
func shown(item storage.RosterItem) element.Element {
	if !item.Listed {
		return element.Element{}
	}
	w := element.Start("item", ns.Roster).Attr("jid", item.Contact.String())
	if item.Approved {
		w.Attr("approved", "true")
	}
	if item.Ask {
		w.Attr("ask", "subscribe")
	}
	if item.Name != "" {
		w.Attr("name", item.Name)
	}
	w.Attr("subscription", subscription(item))
	for _, group := range item.Groups {
		w.Leaf("group", ns.Roster, group)
	}
	return w.Element()
}

// subscription is the value of the attribute (RFC 6121 section 2.1.2.5).
func subscription(item storage.RosterItem) string {
	switch {
	case item.To && item.From:
		return "both"
	case item.To:
		return "to"
	case item.From:
		return "from"
	}
	return "none"
}
