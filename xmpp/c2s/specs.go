package c2s

import "tombolo/xmpp/module"

// Features are the extensions that a login of a client is made of, for those who describe the server;
// what else they need is in New.
func Features() []module.Feature {
	var list []module.Feature
	for _, i := range []module.Info{
		{Spec: "XEP-0198", Name: "Stream Management", Version: "1.6.3", Status: "complete",
			Note: "with clients, also inline, and with other servers; sessions outlive the server"},
		{Spec: "XEP-0386", Name: "Bind 2", Version: "1.1.0", Status: "partial",
			Note: "offline messages come with the initial presence unless the client asks for the archive as it binds"},
		{Spec: "XEP-0388", Name: "Extensible SASL Profile", Version: "1.0.4", Status: "complete"},
		{Spec: "XEP-0440", Name: "SASL Channel-Binding Type Capability", Version: "1.0.0", Status: "complete"},
		{Spec: "XEP-0474", Name: "SASL SCRAM Downgrade Protection", Version: "0.5.0", Status: "complete"},
		{Spec: "XEP-0480", Name: "SASL Upgrade Tasks", Version: "0.2.0", Status: "complete"},
		{Spec: "XEP-0484", Name: "Fast Authentication Streamlining Tokens", Version: "0.2.0", Status: "complete",
			Note: "without TLS early data"},
		{Spec: "XEP-0509", Name: "Initial Authentication Pipelining", Version: "0.2.0", Status: "complete"},
		{Spec: "XEP-0515", Name: "TLS Channel-Binding Downgrade Protection", Version: "0.1.0", Status: "complete"},
	} {
		list = append(list, module.Feature{Info: i})
	}
	return list
}
