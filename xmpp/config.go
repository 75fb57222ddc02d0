package xmpp

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Config is the whole configuration of a server. The TOML file of the command line decodes into it,
// and the comments on its fields are the manual: the commented example and the chapter on
// configuration are made from them. Of the tags, default is the value of an absent key, example the
// TOML that the commented example shows where there is no default, kind:"path" marks a file name,
// off a limit that may be "off", and reload what a running server takes over, tables as a whole.
type Config struct {
	// Directory of the database, the admin socket and other state, made if it does not exist (mode
	// 0700). File names are relative to the configuration file, here and below.
	DataDir string `toml:"data_dir" default:"data" kind:"path"`
	// The domains that this server serves, one table each; there is at least one.
	Domain []Domain `toml:"domain"`
	// Addresses to listen on. A key that is absent means the standard port on all addresses; an
	// empty list turns that listener off.
	Listen Listen `toml:"listen"`
	// How users prove who they are.
	Auth Auth `toml:"auth"`
	// What one peer may cost. Sizes are strings with a unit ("256kB"), times too ("30s").
	Limits Limits `toml:"limits"`
	// What users say and hear, kept so that each of their devices finds it (XEP-0313).
	Archive Archive `toml:"archive"`
	// Messages for users who are not there (XEP-0160). How many may wait is limits.offline_messages.
	Offline Offline `toml:"offline"`
	// The record of logins, of changes of accounts and of what operators do.
	Audit Audit `toml:"audit"`
	// What the server writes about itself, to standard error.
	Log Log `toml:"log"`
	// Other domains.
	Federation Federation `toml:"federation"`
}

// Domain is one virtual host.
type Domain struct {
	// The domain name, as in user@name.
	Name string `toml:"name" example:"'example.org'"`
	// PEM file with the certificate chain, leaf first. The files are read again when they change.
	Certificate string `toml:"certificate" example:"'example.org.crt'" kind:"path" reload:"true"`
	// PEM file with the private key.
	Key string `toml:"key" example:"'example.org.key'" kind:"path" reload:"true"`
	// JIDs of the accounts that may administer this domain.
	Admins []string `toml:"admins" example:"['root@example.org']"`
	// Addresses for contact, published by service discovery (XEP-0157): keys are abuse, admin,
	// feedback, sales, security, status, support; values are lists of URIs.
	Contacts map[string][]string `toml:"contacts" example:"{ abuse = ['mailto:abuse@example.org'] }"`
	// The archives of this domain's accounts, where they differ from the table archive.
	Archive DomainArchive `toml:"archive"`
}

// DomainArchive is what a domain has of its own for its archives.
type DomainArchive struct {
	// Keep archives for the accounts of this domain, or do not; archive.enabled where it is absent.
	Enabled *bool `toml:"enabled" example:"false"`
	// How long, or "off" for good; archive.retention where it is absent.
	Retention *Lifetime `toml:"retention" example:"'30d'" off:"true"`
}

// Listen are the listeners.
type Listen struct {
	// Clients, STARTTLS required (RFC 6120).
	Client []string `toml:"client" default:":5222"`
	// Clients, direct TLS (XEP-0368).
	ClientTLS []string `toml:"client_tls" default:":5223"`
	// Other servers, STARTTLS.
	Server []string `toml:"server" default:":5269"`
	// Other servers, direct TLS (XEP-0368).
	ServerTLS []string `toml:"server_tls" default:":5270"`
	// HTTPS, reserved for later features.
	HTTP []string `toml:"http" default:":5443"`
	// Unix socket of the admin commands, relative to data_dir; mode 0600.
	Admin string `toml:"admin" default:"admin.sock"`
}

// Auth says how users log in.
type Auth struct {
	// How clients may log in. Of a SCRAM mechanism that is not in the list no keys are kept, so that
	// nobody can steal them; clients that know no other one then need PLAIN. FAST lets a client that
	// has logged in before come back with a token, in one round trip (XEP-0484).
	Mechanisms []string `toml:"mechanisms" default:"SCRAM-SHA-1,SCRAM-SHA-256,SCRAM-SHA-512,FAST"`
	// How long a token lets its client in without the password. A client that comes back gets a new
	// one every day.
	TokenLifetime Duration `toml:"token_lifetime" default:"21d"`
	// How long a client that has no token is remembered after it was last seen, for its user to see
	// (XEP-0494).
	ClientsKept Duration `toml:"clients_kept" default:"90d"`
	// Remember the address from which a client logged in last.
	ClientAddresses bool `toml:"client_addresses" default:"false"`
	// Offer the PLAIN mechanism, over TLS only. SCRAM never shows the server a password; turn this
	// on for clients that can do nothing else.
	Plain bool `toml:"plain" default:"false"`
	// Let anybody make an account from a client (XEP-0077).
	Registration bool `toml:"registration" default:"false"`
	// Iterations of the key derivation for new passwords, 4096 at least (RFC 7677).
	Iterations int `toml:"iterations" default:"10000"`
}

// Limits bound what one peer may cost. A number of zero or less is refused; "off" is allowed where
// a key says so.
type Limits struct {
	// Largest stanza before authentication, 2kB at least.
	StanzaBeforeAuth Size `toml:"stanza_before_auth" default:"10kB"`
	// Largest stanza from a client that has logged in, 10kB at least (RFC 6120).
	Stanza Size `toml:"stanza" default:"256kB"`
	// Largest stanza from another server, 10kB at least (RFC 6120).
	ServerStanza Size `toml:"server_stanza" default:"512kB"`
	// Depth of elements in a stanza.
	Depth int `toml:"depth" default:"64"`
	// Attributes of one element.
	Attributes int `toml:"attributes" default:"64"`
	// Bytes that may wait for a peer that does not read before it is cut off, besides what waited before it
	// connected; room for the largest stanza at least.
	Queue Size `toml:"queue" default:"4MB"`
	// Bytes that a connection may send in all before it is logged in; four times as many with what
	// TLS adds to them.
	LoginBytes Size `toml:"login_bytes" default:"64kB"`
	// Elements that it may send in all before that.
	LoginElements int `toml:"login_elements" default:"100"`
	// Connections from one address (or IPv6 /64) that have not logged in yet; more are closed. A
	// whole office behind one address logs in again at once after a restart. A number or "off".
	StrangersPerAddress Count `toml:"strangers_per_address" default:"1000" off:"true"`
	// TLS handshakes with one address at a time; more wait their turn.
	HandshakesPerAddress int `toml:"handshakes_per_address" default:"64"`
	// Failed attempts to log in on one connection.
	LoginAttempts int `toml:"login_attempts" default:"5"`
	// Sessions of one account at a time; "off" for no limit.
	SessionsPerAccount Count `toml:"sessions_per_account" default:"100" off:"true"`
	// Stanzas that a session may send in a second on average. We read no faster from it; nothing is
	// dropped. A number or "off".
	StanzasPerSecond Count `toml:"stanzas_per_second" default:"1000" off:"true"`
	// Bytes that it may send in a second on average, with what TLS adds to them and what they have more when
	// they are passed on; "off" for no limit.
	BytesPerSecond Size `toml:"bytes_per_second" default:"2MB" off:"true"`
	// Entities to which a session may direct presence without a subscription; "off" for no limit.
	DirectedPresences Count `toml:"directed_presences" default:"1000" off:"true"`
	// Requests for a subscription that an account may send in a minute; a number or "off".
	SubscriptionRequestsPerMinute Count `toml:"subscription_requests_per_minute" default:"60" off:"true"`
	// Time for a connection to log in.
	LoginTime Duration `toml:"login_time" default:"30s"`
	// Silence after which a peer is asked whether it is there.
	Idle Duration `toml:"idle" default:"5m"`
	// Time for it to answer.
	IdleAnswer Duration `toml:"idle_answer" default:"30s"`
	// Time for running streams to end at shutdown, and for a peer to close its side of a stream.
	Shutdown Duration `toml:"shutdown" default:"5s"`
	// Time for which a session that has lost its connection waits for its client to resume it
	// (XEP-0198). What comes meanwhile is kept for it, up to three quarters of queue.
	Resume Duration `toml:"resume" default:"5m"`
	// Messages kept for a user who is offline, archived or not; one more is returned to its sender. A number or
	// "off" for no limit.
	OfflineMessages Count `toml:"offline_messages" default:"1000" off:"true"`
	// Contacts of one roster; a number or "off" for no limit.
	RosterItems Count `toml:"roster_items" default:"5000" off:"true"`
	// Bytes of private XML and vCard of one account; "off" for no limit.
	PrivateData Size `toml:"private_data" default:"1MB" off:"true"`
	// Accounts made from one address (or IPv6 /64) in a minute while registration is open; a
	// number or "off".
	RegistrationsPerMinute Count `toml:"registrations_per_minute" default:"5" off:"true"`
	// Networks without per-address limits.
	Exempt []netip.Prefix `toml:"exempt" example:"['127.0.0.0/8']"`
}

// Archive says what is kept of conversations.
type Archive struct {
	// Keep an archive for each account. Where this is off nothing is added and nobody can read what
	// there is, which still goes when its time is over.
	Enabled bool `toml:"enabled" default:"true"`
	// How long messages are kept in archives; "off" for good. What is older goes once a day. An account
	// can have another time: tombolo archive retain.
	Retention Lifetime `toml:"retention" default:"365d" off:"true"`
}

// Offline says what becomes of messages for users who are not there.
type Offline struct {
	// "account": what a client fetches from the archive, before it becomes available or as it says
	// when it binds (XEP-0386), waits for no other client of the account any more; "never": it waits
	// until a client becomes available, which may then get it twice.
	Consume string `toml:"consume" default:"account"`
}

// Audit says where the audit log is and how long it is kept.
type Audit struct {
	// The log, relative to data_dir; older parts of it are beside it.
	File string `toml:"file" default:"audit.log"`
	// Its key, relative to data_dir, made if it does not exist. Who has it can write what the log is
	// believed to say, so it may well be elsewhere than the log and its copies.
	Key string `toml:"key" default:"audit.key"`
	// Size at which another file is begun, 64kB at least; "off" for never.
	RotateSize Size `toml:"rotate_size" default:"10MB" off:"true"`
	// How many older files are kept; a number, or "off" to keep all.
	Keep Count `toml:"keep" default:"20" off:"true"`
	// Copy each record to the log daemon of the system (facility authpriv).
	Syslog bool `toml:"syslog" default:"false"`
}

// Log says what is written and how.
type Log struct {
	// "debug", "info", "warn" or "error".
	Level string `toml:"level" default:"info" reload:"true"`
	// "text" or "json".
	Format string `toml:"format" default:"text"`
}

// Federation says with which other domains this server talks.
type Federation struct {
	// "open": with every domain that proves its name; "partners": only with those listed below.
	Policy string `toml:"policy" default:"open" reload:"true"`
	// Domains that are refused, with their subdomains, whatever the policy. The longest match of
	// deny and partner entries wins.
	Deny []string `toml:"deny" example:"['spam.example']" reload:"true"`
	// PEM file with trust anchors beside the system's, for partners with a CA of their own.
	CAFile string `toml:"ca_file" example:"'partners.pem'" kind:"path" reload:"true"`
	// Host and port of the DNS server to ask instead of the system's.
	Resolver string `toml:"resolver" example:"'127.0.0.53:53'"`
	// Time to reach another server before what waits for it is returned to its senders. One that has
	// not acknowledged what it was sent is tried for as long as it would let the stream be resumed.
	ConnectTime Duration `toml:"connect_time" default:"30s"`
	// Silence after which a stream to another server is closed, if all that was sent has arrived.
	Idle Duration `toml:"idle" default:"10m"`
	// Bytes that may wait for one pair of domains while it has no stream: what was not sent yet, and
	// what was and is not acknowledged. limits.queue is added while there is a stream.
	Queue Size `toml:"queue" default:"1MB"`
	// Partners, one table each.
	Partner []Partner `toml:"partner" reload:"true"`
}

// Partner is what is agreed with one other domain; it covers the domain's subdomains.
type Partner struct {
	// The partner's domain.
	Domain string `toml:"domain" example:"'partner.example'"`
	// Host and port of its server, instead of DNS. The certificate must still be the domain's.
	Address string `toml:"address" example:"'192.0.2.7:5269'"`
	// Connect with direct TLS (XEP-0368) to the address above, instead of STARTTLS.
	DirectTLS bool `toml:"direct_tls" default:"false"`
	// "certificate": the partner must prove its domain with a certificate; "dialback": server
	// dialback (XEP-0220) over TLS will do where the certificate does not. The default is
	// "dialback" for domains without an entry of their own as well.
	Authentication string `toml:"authentication" default:"dialback"`
	// Pins: SHA-256 of the public key (SubjectPublicKeyInfo), in base64. A partner with pins is
	// accepted with one of these keys only, and then needs no CA.
	Pins []string `toml:"pins" example:"['47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=']"`
	// Talk to this partner without TLS where it offers none. Never do this over the Internet.
	Clear bool `toml:"clear" default:"false"`
}

// Size is a number of bytes, written "256kB" (1000) or "256KiB" (1024).
type Size int

var sizeUnits = []struct {
	suffix string
	bytes  int
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}

// String writes a size as it is read, in decimal units where it has thousands; 0 is "off".
func (s Size) String() string {
	if s == 0 {
		return "off"
	}
	decimal := s%1000 == 0
	best := sizeUnits[len(sizeUnits)-1]
	for _, u := range sizeUnits {
		if u.bytes > best.bytes && int(s)%u.bytes == 0 && (u.bytes%1000 == 0) == decimal {
			best = u
		}
	}
	return strconv.Itoa(int(s)/best.bytes) + best.suffix
}

// MarshalText is String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a size with its unit; "off" is 0.
func (s *Size) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	if t == "off" {
		*s = 0
		return nil
	}
	for _, u := range sizeUnits {
		if digits, ok := strings.CutSuffix(t, u.suffix); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
			if err != nil || !(n*float64(u.bytes) >= 1 && n*float64(u.bytes) <= 1<<40) { // NaN fails too
				break
			}
			*s = Size(n * float64(u.bytes))
			return nil
		}
	}
	return fmt.Errorf("%q is not a size; write a number and a unit, such as \"256kB\" or \"1MiB\"", t)
}

// Duration is a time, written "30s", "5m" or "365d".
type Duration time.Duration

// String writes a time as it is read, without needless zeros ("5m", not "5m0s").
func (d Duration) String() string {
	t := time.Duration(d).String()
	if strings.HasSuffix(t, "m0s") {
		t = strings.TrimSuffix(t, "0s")
	}
	if strings.HasSuffix(t, "h0m") {
		t = strings.TrimSuffix(t, "0m")
	}
	return t
}

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads, and days.
func (d *Duration) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	if days, ok := strings.CutSuffix(t, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n > 0 && n < 1e5 {
			*d = Duration(n * 24 * float64(time.Hour))
			return nil
		}
	}
	v, err := time.ParseDuration(t)
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is not a time; write a number and a unit, such as \"30s\", \"5m\" or \"365d\"", t)
	}
	*d = Duration(v)
	return nil
}

// Lifetime is a Duration that may be off, for good, which is 0.
type Lifetime time.Duration

// String writes the time, in days where it has whole ones, or "off".
func (l Lifetime) String() string {
	const day = Lifetime(24 * time.Hour)
	switch {
	case l == 0:
		return "off"
	case l%day == 0:
		return strconv.Itoa(int(l/day)) + "d"
	}
	return Duration(l).String()
}

// MarshalText is String.
func (l Lifetime) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a Duration or "off".
func (l *Lifetime) UnmarshalText(text []byte) error {
	if strings.TrimSpace(string(text)) == "off" {
		*l = 0
		return nil
	}
	return (*Duration)(l).UnmarshalText(text)
}

// Count is a number that may be off, which is 0.
type Count int

// String writes the number, or "off".
func (c Count) String() string {
	if c == 0 {
		return "off"
	}
	return strconv.Itoa(int(c))
}

// MarshalText is String.
func (c Count) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a positive number or "off".
func (c *Count) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	if t == "off" {
		*c = 0
		return nil
	}
	n, err := strconv.Atoi(t)
	if err != nil || n <= 0 {
		return fmt.Errorf("%q is not a positive number or \"off\"", t)
	}
	*c = Count(n)
	return nil
}
