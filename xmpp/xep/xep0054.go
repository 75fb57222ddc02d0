package xep

import (
	"errors"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// vcardKey is the one document of an account.
const vcardKey = ""

type vcard struct {
	documents
	max int
}

// vcards keep each user's own, up to max bytes, and show it to whoever asks.
func vcards(max int) module.New {
	return func(h *module.Host) (module.Feature, error) {
		v := &vcard{newDocuments(h, storage.Tx.VCards), max}
		return module.Feature{
			Info:    module.Info{Spec: "XEP-0054", Name: "vcard-temp", Version: "1.3.0", Status: "complete"},
			Server:  []string{ns.VCard},
			Account: []string{ns.VCard},
			IQ: []module.IQ{
				{Name: "vCard", NS: ns.VCard, Get: true, Scope: module.ToAccount | module.ToSelf, Handle: v.get},
				{Name: "vCard", NS: ns.VCard, Set: true, Scope: module.ToAccount | module.ToSelf, Handle: v.set},
			},
		}, nil
	}
}

// get hides from others whether a user exists who has no vCard (section 3.3).
func (v *vcard) get(q *module.Query) {
	v.documents.get(q.Target, vcardKey, func(xml string, err error) {
		var card element.Element
		if err == nil {
			card, err = element.ParseOne(xml, ns.Client)
		}
		switch {
		case err == nil:
			q.Result(card)
		case errors.Is(err, storage.ErrNotFound) && !q.Self:
			q.Fail(stanza.ServiceUnavailable(""))
		default:
			q.Fail(storeError(err))
		}
	})
}

func (v *vcard) set(q *module.Query) {
	if !q.Self {
		q.Fail(stanza.Forbidden("a vCard is changed by its owner only"))
		return
	}
	xml := content(q.Payload())
	v.put(q.Target, func(kept storage.Documents) error {
		return kept.Put(q.Target, vcardKey, xml, v.max)
	}, result(q))
}
