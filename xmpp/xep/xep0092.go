package xep

import (
	"tombolo/xmpp/element"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
)

const softwareName = "Tombolo"

// softwareVersion tells name and version. The operating system is nobody's business (section 5).
func softwareVersion(version string) module.New {
	return func(*module.Host) (module.Feature, error) {
		answer := element.Start("query", ns.Version).
			Leaf("name", ns.Version, softwareName).Leaf("version", ns.Version, version).Element()
		return module.Feature{
			Info:   module.Info{Spec: "XEP-0092", Name: "Software Version", Version: "1.1", Status: "complete"},
			Server: []string{ns.Version},
			IQ: []module.IQ{{Name: "query", NS: ns.Version, Get: true, Scope: module.ToServer,
				Handle: func(q *module.Query) { q.Result(answer) }}},
		}, nil
	}
}
