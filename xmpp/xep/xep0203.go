package xep

import (
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
)

// delayedDelivery is what stanza.Delay writes, for offline messages and old presence.
func delayedDelivery(*module.Host) (module.Feature, error) {
	return module.Feature{
		Info:   module.Info{Spec: "XEP-0203", Name: "Delayed Delivery", Version: "2.0", Status: "complete"},
		Server: []string{ns.Delay},
	}, nil
}
