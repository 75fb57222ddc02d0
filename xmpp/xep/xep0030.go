package xep

import (
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

// A form adds a data form to what a domain says of itself (XEP-0128), or the zero Element.
type form func(module.Domain) element.Element

type discovery struct {
	host    *module.Host
	visible func(hook.User, jid.JID) bool
	forms   []form
}

// serviceDiscovery answers for the server's domains and for its accounts. What they support is what
// the features of the server announce.
func serviceDiscovery(visible func(hook.User, jid.JID) bool, forms ...form) module.New {
	return func(h *module.Host) (module.Feature, error) {
		d := &discovery{h, visible, forms}
		const account = module.ToAccount | module.ToSelf
		features := []string{ns.DiscoInfo, ns.DiscoItems}
		return module.Feature{
			Info:    module.Info{Spec: "XEP-0030", Name: "Service Discovery", Version: "2.5.0", Status: "complete"},
			Server:  features,
			Account: features,
			IQ: []module.IQ{
				{Name: "query", NS: ns.DiscoInfo, Get: true, Scope: module.ToServer, Handle: d.serverInfo},
				{Name: "query", NS: ns.DiscoInfo, Get: true, Scope: account, Handle: d.accountInfo},
				{Name: "query", NS: ns.DiscoItems, Get: true, Scope: module.ToServer, Handle: d.serverItems},
				{Name: "query", NS: ns.DiscoItems, Get: true, Scope: account, Handle: d.accountItems},
			},
		}, nil
	}
}

func (d *discovery) serverInfo(q *module.Query) {
	if hasNode(q) {
		q.Fail(stanza.ItemNotFound("there is no such node"))
		return
	}
	w := identity("server", "im")
	addFeatures(w, d.host.Features(), q.Target.Domain(), func(f module.Feature) []string { return f.Server })
	for _, domain := range d.host.Domains() {
		if domain.Name != q.Target.Domain() {
			continue
		}
		for _, form := range d.forms {
			w.Add(form(domain))
		}
	}
	q.Result(w.Element())
}

// serverItems is empty: the server has no services at addresses of their own.
func (d *discovery) serverItems(q *module.Query) {
	if hasNode(q) {
		q.Fail(stanza.ItemNotFound("there is no such node"))
		return
	}
	q.Result(element.Leaf("query", ns.DiscoItems, ""))
}

// accountInfo tells only those who may see the user's presence that there is such an account
// (XEP-0030 section 8, rule 1): to others it looks like one that does not exist.
func (d *discovery) accountInfo(q *module.Query) {
	allowed, _, err := d.look(q)
	switch {
	case err != nil:
		q.Fail(err)
	case !allowed:
		q.Fail(stanza.ServiceUnavailable(""))
	case hasNode(q):
		q.Fail(stanza.ItemNotFound("there is no such node"))
	default:
		w := identity("account", "registered")
		addFeatures(w, d.host.Features(), q.Target.Domain(), func(f module.Feature) []string { return f.Account })
		q.Result(w.Element())
	}
}

// accountItems lists the available resources to those who see them anyway. Others get an empty list,
// like that of an account that does not exist, whatever node they ask for (section 8, rule 2).
func (d *discovery) accountItems(q *module.Query) {
	allowed, resources, err := d.look(q)
	if err != nil {
		q.Fail(err)
		return
	}
	if allowed && hasNode(q) {
		q.Fail(stanza.ItemNotFound("there is no such node"))
		return
	}
	w := element.Start("query", ns.DiscoItems)
	if node := q.Payload().Attr("node"); node != "" {
		w.Attr("node", node)
	}
	for _, full := range resources {
		w.Open("item", ns.DiscoItems).Attr("jid", full.String()).Close()
	}
	q.Result(w.Element())
}

// look finds whether the sender may see the account that it asks about, and then who is there.
func (d *discovery) look(q *module.Query) (allowed bool, resources []jid.JID, err error) {
	err = d.host.Users.Do(q.Target, func(u *session.User) {
		if allowed = q.Self || d.visible(u, q.From.Bare()); !allowed {
			return
		}
		for _, s := range u.Sessions() {
			if s.Available() {
				resources = append(resources, s.JID())
			}
		}
	})
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil, nil
	}
	return allowed, resources, err
}

func hasNode(q *module.Query) bool { return q.Payload().Attr("node") != "" }

func identity(category, typ string) *element.Writer {
	w := element.Start("query", ns.DiscoInfo)
	w.Open("identity", ns.DiscoInfo).Attr("category", category).Attr("type", typ)
	if category == "server" {
		w.Attr("name", softwareName)
	}
	return w.Close()
}

// addFeatures adds what of gives of all features that a domain has, each once and in order, so that the
// answer is the same every time and its hash with it (XEP-0115).
func addFeatures(w *element.Writer, all []module.Feature, domain string, of func(module.Feature) []string) {
	var names []string
	for _, f := range all {
		if f.Serves == nil || f.Serves(domain) {
			names = append(names, of(f)...)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		w.Open("feature", ns.DiscoInfo).Attr("var", name).Close()
	}
}
