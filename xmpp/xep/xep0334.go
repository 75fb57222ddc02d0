package xep

import (
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
)

// hints are wishes of a message's sender; offline messages, archives and carbons heed them. What is kept
// until its recipient comes is not kept for good, so no-permanent-store concerns archives alone (section 3.3).
func hints(*module.Host) (module.Feature, error) {
	return module.Feature{
		Info:   module.Info{Spec: "XEP-0334", Name: "Message Processing Hints", Version: "1.0.0", Status: "complete"},
		Server: []string{ns.Hints},
	}, nil
}
