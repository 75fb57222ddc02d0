package xep

import (
	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/session"
)

// documents keep one kind of XML for every account. A read is answered behind the writes that were
// requested before it (RFC 6120 section 10.1), and nothing here waits for the store.
type documents struct {
	host *module.Host
	kind func(storage.Tx) storage.Documents
	last session.Slot[*storage.Ticket] // of the newest write
}

func newDocuments(h *module.Host, kind func(storage.Tx) storage.Documents) documents {
	none := func(storage.Tx, jid.JID) (*storage.Ticket, error) { return nil, nil }
	return documents{h, kind, session.NewSlot(h.Users, none)}
}

// get hands the document under a key to answer, which gets storage.ErrNotFound where there is none
// or no such account.
func (d documents) get(owner jid.JID, key string, answer func(xml string, err error)) {
	var last *storage.Ticket
	if err := d.host.Users.Do(owner, func(u *session.User) { last = d.last.Get(u) }); err != nil {
		answer("", err)
		return
	}
	read := func() {
		var xml string
		err := d.host.Store.View(func(tx storage.Tx) (err error) {
			xml, err = d.kind(tx).Get(owner, key)
			return err
		})
		answer(xml, err)
	}
	if last == nil {
		read()
		return
	}
	last.Then(func(error) { go read() })
}

// put carries out a write and tells answer when it is kept.
func (d documents) put(owner jid.JID, write func(storage.Documents) error, answer func(error)) {
	err := d.host.Users.Do(owner, func(u *session.User) {
		t := u.Submit(func(tx storage.Tx) error { return write(d.kind(tx)) })
		d.last.Set(u, t)
		t.Then(func(err error) { go answer(err) })
	})
	if err != nil {
		answer(err)
	}
}

// content is the text under which an element is kept; one without anything in it is not kept at all,
// which gives its room back.
func content(e element.Element) string {
	for range e.Attrs() {
		return e.String()
	}
	if e.Payload().IsZero() && e.Text() == "" {
		return ""
	}
	return e.String()
}
