package xep

import (
	"tombolo/xmpp/element"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
)

// oldSession is session establishment as RFC 3921 had it. RFC 6121 has no such step, but some clients
// still insist on taking it; they are told that it is optional, and that it succeeded.
func oldSession(*module.Host) (module.Feature, error) {
	return module.Feature{
		Info: module.Info{Spec: "RFC 3921", Name: "Session Establishment", Status: "complete",
			Note: "section 3, as a no-op for old clients"},
		Stream: []element.Element{element.Start("session", ns.Session).Leaf("optional", ns.Session, "").Element()},
		IQ: []module.IQ{{Name: "session", NS: ns.Session, Set: true, Scope: module.ToServer | module.ToSelf,
			Handle: func(q *module.Query) { q.Result() }}},
	}, nil
}
