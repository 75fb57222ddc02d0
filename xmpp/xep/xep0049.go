package xep

import (
	"errors"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

type private struct {
	documents
	max int
}

// privateStorage keeps XML of a user's clients, up to max bytes an account. Others get the answer
// that they get for an account that does not exist (section 2.3).
func privateStorage(max int) module.New {
	return func(h *module.Host) (module.Feature, error) {
		p := &private{newDocuments(h, storage.Tx.Private), max}
		return module.Feature{
			Info:    module.Info{Spec: "XEP-0049", Name: "Private XML Storage", Version: "1.2", Status: "complete"},
			Server:  []string{ns.Private},
			Account: []string{ns.Private},
			IQ: []module.IQ{
				{Name: "query", NS: ns.Private, Get: true, Scope: module.ToSelf, Handle: p.get},
				{Name: "query", NS: ns.Private, Set: true, Scope: module.ToSelf, Handle: p.set},
			},
		}, nil
	}
}

// get answers with the element that has the name and the namespace of the one in the request; with
// that one itself, empty, where none is kept.
func (p *private) get(q *module.Query) {
	var asked element.Element
	for child := range q.Payload().Children() {
		if !asked.IsZero() {
			q.Fail(stanza.BadRequest("one element can be asked for at a time"))
			return
		}
		asked = child
	}
	if asked.IsZero() {
		q.Fail(stanza.BadRequest("the element to get is missing"))
		return
	}
	if !ownNamespace(asked) {
		q.Fail(stanza.NotAcceptable("the element needs a namespace of its own"))
		return
	}
	p.documents.get(q.Target, privateKey(asked), func(xml string, err error) {
		kept := element.Leaf(asked.Name(), asked.NS(), "")
		if err == nil {
			kept, err = element.ParseOne(xml, ns.Client)
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			q.Fail(storeError(err))
			return
		}
		q.Result(element.Start("query", ns.Private).Add(kept).Element())
	})
}

// set keeps all elements of the request, or none.
func (p *private) set(q *module.Query) {
	elements := make(map[string]string) // by key
	for child := range q.Payload().Children() {
		if !ownNamespace(child) {
			q.Fail(stanza.NotAcceptable("each element needs a namespace of its own"))
			return
		}
		key := privateKey(child)
		if _, twice := elements[key]; twice {
			q.Fail(stanza.NotAcceptable("two elements of the same name and namespace"))
			return
		}
		elements[key] = content(child)
	}
	if len(elements) == 0 {
		q.Fail(stanza.NotAcceptable("there is nothing to keep"))
		return
	}
	p.put(q.Target, func(kept storage.Documents) error {
		for key, xml := range elements {
			if err := kept.Put(q.Target, key, xml, p.max); err != nil {
				return err
			}
		}
		return nil
	}, result(q))
}

// ownNamespace says whether an element has a namespace of its own (section 2.1); those of streams are
// nobody's.
func ownNamespace(e element.Element) bool {
	switch e.NS() {
	case "", ns.Private, ns.Client, ns.Server, ns.Component:
		return false
	}
	return true
}

func privateKey(e element.Element) string { return e.NS() + " " + e.Name() }
