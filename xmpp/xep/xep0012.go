package xep

import (
	"errors"
	"strconv"
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

type activity struct {
	host    *module.Host
	visible func(hook.User, jid.JID) bool
}

// lastActivity tells when a user was last there, to those who may see the user's presence, and how
// long the server has been running.
func lastActivity(visible func(hook.User, jid.JID) bool) module.New {
	return func(h *module.Host) (module.Feature, error) {
		a := &activity{h, visible}
		return module.Feature{
			Info:    module.Info{Spec: "XEP-0012", Name: "Last Activity", Version: "2.0", Status: "complete"},
			Server:  []string{ns.LastActivity},
			Account: []string{ns.LastActivity},
			IQ: []module.IQ{
				{Name: "query", NS: ns.LastActivity, Get: true, Scope: module.ToServer, Handle: a.uptime},
				{Name: "query", NS: ns.LastActivity, Get: true, Scope: module.ToAccount | module.ToSelf, Handle: a.account},
			},
			Hooks: hook.Hooks{Incoming: a.incoming},
		}, nil
	}
}

func (a *activity) uptime(q *module.Query) { q.Result(a.since(a.host.Started, "")) }

// account answers for a bare JID (XEP-0012 section 3).
func (a *activity) account(q *module.Query) {
	var allowed, connected bool
	err := a.host.Users.Do(q.Target, func(u *session.User) {
		allowed = q.Self || a.visible(u, q.From.Bare())
		connected = len(u.Bound()) > 0
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		q.Fail(stanza.ServiceUnavailable(""))
	case err != nil:
		q.Fail(err)
	case !allowed:
		q.Fail(stanza.Forbidden(""))
	case connected:
		q.Result(a.since(a.host.Now(), ""))
	default:
		go a.absent(q)
	}
}

// absent tells when the user's last unavailable presence came, and what status it gave. It waits until
// what is known of that is in the store.
func (a *activity) absent(q *module.Query) {
	var last string
	var at time.Time
	if err := a.host.Journal.Barrier(); err != nil {
		q.Fail(err)
		return
	}
	err := a.host.Store.View(func(tx storage.Tx) (err error) {
		last, at, err = tx.LastPresence().Get(q.Target)
		return err
	})
	if err != nil {
		q.Fail(storeError(err)) // item-not-found for a user who was never there
		return
	}
	status := ""
	if presence, err := element.ParseOne(last, ns.Client); err == nil {
		status = presence.Child("status", ns.Client).Text()
	}
	q.Result(a.since(at, status))
}

func (a *activity) since(at time.Time, status string) element.Element {
	seconds := max(0, int64(a.host.Now().Sub(at)/time.Second))
	return element.Start("query", ns.LastActivity).Attr("seconds", strconv.FormatInt(seconds, 10)).
		Text(status).Element()
}

// incoming keeps requests to a full JID from the client where the sender may not see its presence,
// whether or not there is such a resource (section 4).
func (a *activity) incoming(u hook.User, st *stanza.Stanza) hook.Verdict {
	if st.Kind != stanza.IQ || st.Type != "get" || st.To.IsBare() || !st.Payload().Is("query", ns.LastActivity) {
		return hook.Pass
	}
	if who := st.From.Bare(); who == u.JID() || a.visible(u, who) {
		return hook.Pass
	}
	return hook.Refuse(stanza.Forbidden(""))
}
