// Package ns names the XML namespaces that the server speaks. Every package that reads or writes
// elements uses these constants, so that a namespace is spelled in one place.
package ns

// Streams and their negotiation (RFC 6120, RFC 7395).
const (
	Stream       = "http://etherx.jabber.org/streams"
	StreamErr    = "urn:ietf:params:xml:ns:xmpp-streams"
	StanzaErr    = "urn:ietf:params:xml:ns:xmpp-stanzas"
	StreamLimits = "urn:xmpp:stream-limits:0" // XEP-0478
	StartTLS     = "urn:ietf:params:xml:ns:xmpp-tls"
	SASL         = "urn:ietf:params:xml:ns:xmpp-sasl"
	SASL2        = "urn:xmpp:sasl:2"         // XEP-0388
	Bind2        = "urn:xmpp:bind:0"         // XEP-0386
	FAST         = "urn:xmpp:fast:0"         // XEP-0484
	SM           = "urn:xmpp:sm:3"           // XEP-0198
	IAP          = "urn:xmpp:iap:0"          // XEP-0509
	Upgrade      = "urn:xmpp:sasl:upgrade:0" // XEP-0480
	ScramUpgrade = "urn:xmpp:scram-upgrade:0"
	Bind         = "urn:ietf:params:xml:ns:xmpp-bind"
	Session      = "urn:ietf:params:xml:ns:xmpp-session"    // RFC 3921, optional since RFC 6121
	PreApprove   = "urn:xmpp:features:pre-approval"         // RFC 6121 section 3.4
	RosterVer    = "urn:xmpp:features:rosterver"            // RFC 6121 section 2.6
	XML          = "http://www.w3.org/XML/1998/namespace"   // the prefix xml
	XMLNS        = "http://www.w3.org/2000/xmlns/"          // the prefix xmlns
	Register     = "http://jabber.org/features/iq-register" // stream feature of XEP-0077
)

// The content namespaces. Inside the server they are one and carry the name Client: an element in
// the content namespace of its stream has the namespace Client whatever the stream was.
const (
	Client    = "jabber:client"
	Server    = "jabber:server"
	Component = "jabber:component:accept"
)

// Payloads.
const (
	Roster       = "jabber:iq:roster"                          // RFC 6121
	Dialback     = "jabber:server:dialback"                    // XEP-0220
	DialbackFeat = "urn:xmpp:features:dialback"                // XEP-0220
	ChannelBind  = "urn:xmpp:sasl-cb:0"                        // XEP-0440
	Forms        = "jabber:x:data"                             // XEP-0004
	LastActivity = "jabber:iq:last"                            // XEP-0012
	DiscoInfo    = "http://jabber.org/protocol/disco#info"     // XEP-0030
	DiscoItems   = "http://jabber.org/protocol/disco#items"    // XEP-0030
	Private      = "jabber:iq:private"                         // XEP-0049
	VCard        = "vcard-temp"                                // XEP-0054
	IQRegister   = "jabber:iq:register"                        // XEP-0077
	ChatStates   = "http://jabber.org/protocol/chatstates"     // XEP-0085
	Version      = "jabber:iq:version"                         // XEP-0092
	Offline      = "msgoffline"                                // disco feature of XEP-0160
	Blocking     = "urn:xmpp:blocking"                         // XEP-0191
	BlockingErr  = "urn:xmpp:blocking:errors"                  // XEP-0191
	Ping         = "urn:xmpp:ping"                             // XEP-0199
	Time         = "urn:xmpp:time"                             // XEP-0202
	Delay        = "urn:xmpp:delay"                            // XEP-0203
	Receipts     = "urn:xmpp:receipts"                         // XEP-0184
	Invitation   = "jabber:x:conference"                       // XEP-0249
	Carbons      = "urn:xmpp:carbons:2"                        // XEP-0280
	CarbonRules  = "urn:xmpp:carbons:rules:0"                  // XEP-0280 section 6.2
	MAM          = "urn:xmpp:mam:2"                            // XEP-0313
	MAMExtended  = "urn:xmpp:mam:2#extended"                   // disco feature of XEP-0313
	MAMField     = "urn:xmpp:mam:2#groupchat-field"            // disco feature of XEP-0313
	RSM          = "http://jabber.org/protocol/rsm"            // XEP-0059
	Validate     = "http://jabber.org/protocol/xdata-validate" // XEP-0122
	PubsubEvent  = "http://jabber.org/protocol/pubsub#event"   // XEP-0060
	ChatMarkers  = "urn:xmpp:chat-markers:0"                   // XEP-0333
	Hints        = "urn:xmpp:hints"                            // XEP-0334
	Forward      = "urn:xmpp:forward:0"                        // XEP-0297
	ClientAccess = "urn:xmpp:cam:0"                            // XEP-0494
	StanzaID     = "urn:xmpp:sid:0"                            // XEP-0359
	ServerInfo   = "http://jabber.org/network/serverinfo"      // XEP-0157
	MUCUser      = "http://jabber.org/protocol/muc#user"       // XEP-0045
	AMP          = "http://jabber.org/protocol/amp"            // XEP-0079
)
