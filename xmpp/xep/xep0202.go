package xep

import (
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
)

// entityTime tells the server's time. The server keeps UTC: an offset would say where it stands
// (section 6).
func entityTime(h *module.Host) (module.Feature, error) {
	return module.Feature{
		Info:   module.Info{Spec: "XEP-0202", Name: "Entity Time", Version: "2.0", Status: "complete"},
		Server: []string{ns.Time},
		IQ: []module.IQ{{Name: "time", NS: ns.Time, Get: true, Scope: module.ToServer | module.ToSelf,
			Handle: func(q *module.Query) {
				q.Result(element.Start("time", ns.Time).
					Leaf("tzo", ns.Time, "+00:00").
					Leaf("utc", ns.Time, h.Now().UTC().Format(time.RFC3339)).Element())
			}}},
	}, nil
}
