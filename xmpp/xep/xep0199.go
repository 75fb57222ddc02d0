package xep

import (
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
)

// ping answers for the server and for a user's own account (section 4.2). For the accounts of others
// it does not answer, which would tell that they exist.
func ping(*module.Host) (module.Feature, error) {
	return module.Feature{
		Info:    module.Info{Spec: "XEP-0199", Name: "XMPP Ping", Version: "2.0.1", Status: "complete"},
		Server:  []string{ns.Ping},
		Account: []string{ns.Ping},
		IQ: []module.IQ{{Name: "ping", NS: ns.Ping, Get: true, Scope: module.ToServer | module.ToSelf,
			Handle: func(q *module.Query) { q.Result() }}},
	}, nil
}
