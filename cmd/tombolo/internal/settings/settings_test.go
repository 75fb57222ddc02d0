package settings

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"tombolo/xmpp"
)

const head = `[[domain]]
name = "a.test"
certificate = "a.test.crt"
key = "a.test.key"
`

// dir makes a directory with a certificate for a.test.
func dir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.test"},
		DNSNames: []string{"a.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"a.test.crt": {Type: "CERTIFICATE", Bytes: der}, "a.test.key": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(dir, "tombolo.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMistakes has one row for each kind of mistake: the text after a good domain table, and all that
// must be reported, as "line:column: part of the text".
func TestMistakes(t *testing.T) {
	dir := dir(t)
	for name, row := range map[string]struct {
		text string
		want []string
	}{
		"nothing wrong":           {"[log]\nlevel = \"debug\"\n", nil},
		"similar key":             {"[limits]\nstanzas = \"1MB\"\n", []string{`6:1: there is no limits.stanzas; did you mean stanza?`}},
		"similar table":           {"[federatoin]\npolicy = \"open\"\n", []string{`5:2: there is no federatoin; did you mean federation?`}},
		"key of another table":    {"[auth]\nclient_tls = []\n", []string{`6:1: there is no auth.client_tls; client_tls belongs to the table [listen]`}},
		"unknown key":             {"[log]\nxyzzy = 1\n", []string{`6:1: there is no log.xyzzy; there are level, format`}},
		"key in a list of tables": {"[[federation.partner]]\ndomain = \"b.test\"\nadress = \"b:1\"\n", []string{`7:1: there is no federation.partner.adress; did you mean address?`}},
		"wrong types": {"[auth]\nplain = \"yes\"\niterations = true\n[listen]\nclient = \"127.0.0.1:5222\"\n", []string{
			`6:9: auth.plain is a string here; write plain = true or false`,
			`7:14: auth.iterations is true or false here; write iterations = a number`,
			`9:10: listen.client is a string here; write client = [`}},
		"sizes, times, counts": {"[limits]\nstanza = \"big\"\nidle = \"5\"\noffline_messages = -1\nqueue = 100\n", []string{
			`6:10: limits.stanza: "big" is not a size`,
			`7:8: limits.idle: "5" is not a time`,
			`8:20: limits.offline_messages: "-1" is not a positive number or "off"`,
			`9:9: limits.queue: "100" is not a size`}},
		"values that may be absent": {"[domain.archive]\nenabled = 3\nretention = \"soon\"\n", []string{
			`6:11: domain[0].archive.enabled is a number here; write enabled = true or false`, `7:13: domain[0].archive.retention: "soon" is not a time`}},
		"what becomes of offline messages": {"[offline]\nconsume = \"all\"\n", []string{`6:1: "all" is not possible here; write one of "account", "never"`}},
		"off where it is not safe":         {"[limits]\nstanza = \"off\"\nroster_items = \"off\"\n", []string{`6:1: this limit cannot be off; write a positive value such as "256kB"`}},
		"too small":                        {"[limits]\nstanza = \"1kB\"\n", []string{`6:1: "1kB" is too small; write "10kB" or more`}},
		"network":                          {"[limits]\nexempt = [\"127.0.0.0/8\", \"me\"]\n", []string{`6:26: limits.exempt[1]: "me" is not a network`}},
		"twice":                            {"[log]\nlevel = \"info\"\nlevel = \"warn\"\n", []string{`7:1: log.level is here a second time; the first is in line 6`}},
		"table twice":                      {"[log]\nlevel = \"info\"\n[auth]\n[log]\nformat = \"json\"\n", []string{`8:2: the table [log] is here a second time`}},
		"single brackets":                  {"[federation.partner]\ndomain = \"b.test\"\n", []string{`5:13: each federation.partner is a table of its own; write [[federation.partner]]`}},
		"double brackets":                  {"[[log]]\nlevel = \"info\"\n", []string{`5:3: there is one table [log]; write single brackets`}},
		"value as table":                   {"[data_dir]\n", []string{`5:2: data_dir is a value; write data_dir = "..."`}},
		"not TOML":                         {"[log]\nlevel = info\nformat = 7\n", []string{`6:12: not TOML: `}},
		"mistake before not TOML":          {"[log]\nlevle = \"info\"\n[auth\n", []string{`6:1: there is no log.levle; did you mean level?`, `7:6: not TOML: `}},
		"words":                            {"[log]\nlevel = \"loud\"\n[federation]\npolicy = \"closed\"\n", []string{`6:1: "loud" is not possible here; write one of "debug"`, `8:1: "closed" is not possible`}},
		"addresses":                        {"[listen]\nclient = [\"127.0.0.1\"]\nserver = [\"127.0.0.1:1\"]\nserver_tls = [\"127.0.0.1:1\"]\n", []string{`6:11: "127.0.0.1" is not an address and a port`, `8:15: listen.server already listens on "127.0.0.1:1"`}},
		"partners": {"[federation]\ndeny = [\"c.test\"]\n[[federation.partner]]\ndomain = \"a.test\"\n[[federation.partner]]\ndomain = \"c.test\"\nauthentication = \"trust\"\npins = [\"abc\"]\n", []string{
			`8:1: a.test is a domain of this server`, `10:1: c.test is also in federation.deny`,
			`11:1: "trust" is not possible here`, `12:9: "abc" is not a SHA-256 in base64`}},
		"clear and pinned": {"[[federation.partner]]\ndomain = \"b.test\"\nauthentication = \"certificate\"\nclear = true\n", []string{`8:1: without TLS nothing proves the partner's domain`}},
		"files that are not there": {"[federation]\nca_file = \"none.pem\"\n[[domain]]\nname = \"b.test\"\ncertificate = \"none.crt\"\nkey = \"a.test.key\"\n", []string{
			`6:1: open ` + filepath.Join(dir, "none.pem") + ": no such file or directory; write the name of a PEM file with the trust anchors, or remove the key",
			`9:1: open ` + filepath.Join(dir, "none.crt") + ": no such file or directory; write the name of a PEM file that the server may read, with the certificate chain"}},
		"a key that is not there": {"[[domain]]\nname = \"b.test\"\ncertificate = \"a.test.crt\"\nkey = \"none.key\"\n", []string{
			`8:1: open ` + filepath.Join(dir, "none.key") + ": no such file or directory; write the name of a PEM file that the server may read, with the private key"}},
		"a number below zero": {"[limits]\ndepth = -1\nlogin_attempts = 0\n", []string{
			`6:1: -1 limits nothing; write a positive value such as 64`, `7:1: this limit cannot be off; write a positive value such as 5`}},
		"a domain that lacks all":  {"[[domain]]\n", []string{`5:3: domain.name: a domain name is missing`, `5:3: domain.certificate: a certificate is missing`, `5:3: domain.key: a key is missing`}},
		"a domain served twice":    {head, []string{`6:1: "a.test" is served twice`}},
		"admins and contacts":      {"[[domain]]\nname = \"b@b.test\"\ncertificate = \"a.test.crt\"\nkey = \"a.test.key\"\nadmins = [\"b.test\"]\n[domain.contacts]\nabuses = []\n", []string{`6:1: "b@b.test" is an address; write the domain alone, "b.test"`, `9:11: "b.test" is not the address of an account`, `11:1: "abuses" is no kind of contact`}},
		"a name in another form":   {"[[domain]]\nname = \"B.Test\"\ncertificate = \"a.test.crt\"\nkey = \"a.test.key\"\n", []string{`6:1: "B.Test" is not the form in which addresses have it; write "b.test"`}},
		"a key below a value":      {"[log]\nlevel.max = 1\n", []string{`6:1: log.level has no keys of its own`}},
		"a table that is reopened": {"[federation]\npartner = [{domain = \"b.test\"}]\n[[federation.partner]]\ndomain = \"c.test\"\n", []string{`7:`}},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, dir, head+row.text)
			_, _, err := Load(path)
			var problems Problems
			if err != nil {
				problems = err.(Problems)
			}
			for i, p := range problems {
				if i >= len(row.want) {
					t.Errorf("one more: %s", p)
				} else if got := p.String(); !strings.HasPrefix(got, path+":"+row.want[i]) {
					t.Errorf("got  %s\nwant %s:%s", got, path, row.want[i])
				}
			}
			if len(problems) < len(row.want) {
				t.Errorf("not reported: %q", row.want[len(problems):])
			}
		})
	}
}

func TestNoDomain(t *testing.T) {
	_, _, err := Load(write(t, t.TempDir(), ""))
	if err == nil || !strings.Contains(err.Error(), "tombolo.toml: domain: no domain is served") {
		t.Errorf("error %v", err)
	}
}

func TestValues(t *testing.T) {
	dir := dir(t)
	f, warnings, err := Load(write(t, dir, `data_dir = "state"
listen.server = []
listen.client = ["127.0.0.1:5222", "[::1]:5222"]
domain = [{name = "a.test", certificate = "a.test.crt", key = "/../`+strings.TrimPrefix(dir, "/")+`/a.test.key", contacts = {abuse = ["mailto:a@a.test"]}, archive = {enabled = false, retention = "30d"}}]
[auth]
iterations = 20_000
[limits]
stanza = "768KiB"
idle = "1.5m"
offline_messages = "off"
registrations_per_minute = 7
exempt = ["127.0.0.0/8"]
[archive]
retention = "off"
[[federation.partner]]
domain = "b.test"
[[federation.partner]]
domain = "c.test"
authentication = "certificate"
`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	for _, row := range []struct {
		what      string
		got, want any
	}{
		{"a relative path", f.DataDir, filepath.Join(dir, "state")},
		{"a relative certificate", f.Domain[0].Certificate, filepath.Join(dir, "a.test.crt")},
		{"the admin socket", f.AdminSocket(), filepath.Join(dir, "state", "admin.sock")},
		{"contacts", f.Domain[0].Contacts["abuse"], []string{"mailto:a@a.test"}},
		{"an absent listener", f.Listen.ClientTLS, []string{":5223"}},
		{"a listener that is off", f.Listen.Server, []string{}},
		{"a listener", f.Listen.Client, []string{"127.0.0.1:5222", "[::1]:5222"}},
		{"a switch that may be absent", *f.Domain[0].Archive.Enabled, false},
		{"a time that may be absent", *f.Domain[0].Archive.Retention, xmpp.Lifetime(30 * 24 * time.Hour)},
		{"a time without end", f.Archive.Retention, xmpp.Lifetime(0)},
		{"a number", f.Auth.Iterations, 20000},
		{"a size", f.Limits.Stanza, xmpp.Size(768 << 10)},
		{"a time", f.Limits.Idle, xmpp.Duration(90 * time.Second)},
		{"off", f.Limits.OfflineMessages, xmpp.Count(0)},
		{"a count without quotes", f.Limits.RegistrationsPerMinute, xmpp.Count(7)},
		{"a network", f.Limits.Exempt[0].String(), "127.0.0.0/8"},
		{"a default in a list of tables", f.Federation.Partner[0].Authentication, "dialback"},
		{"a value in a list of tables", f.Federation.Partner[1].Authentication, "certificate"},
		{"a default", f.Limits.LoginTime, xmpp.Duration(30 * time.Second)},
	} {
		if !reflect.DeepEqual(row.got, row.want) {
			t.Errorf("%s: %v, want %v", row.what, row.got, row.want)
		}
	}
	sources := make(map[string]string)
	for _, v := range f.Values() {
		sources[v.Key] = v.Source
	}
	for key, want := range map[string]string{
		"data_dir": f.Path + ":1", "listen.client": f.Path + ":3", "listen.http": "default", "limits.idle": f.Path + ":9",
		"domain[0].name": f.Path + ":4", "domain[0].admins": "default", "federation.partner[1].domain": f.Path + ":18", "domain[0].archive.enabled": f.Path + ":4",
	} {
		if sources[key] != want {
			t.Errorf("source of %s: %q, want %q", key, sources[key], want)
		}
	}
	var shown strings.Builder
	if err := Show(&shown, f.Values()); err != nil {
		t.Fatal(err)
	}
	again, _, err := Load(write(t, dir, shown.String()))
	if err != nil {
		t.Fatalf("what Show writes does not load: %v\n%s", err, &shown)
	}
	if !reflect.DeepEqual(again.Limits, f.Limits) || !reflect.DeepEqual(again.Listen, f.Listen) || !reflect.DeepEqual(again.Auth, f.Auth) {
		t.Errorf("what Show writes loads as something else:\n%s", &shown)
	}
}

// TestWarnings: what does not prevent a start is told all the same.
func TestWarnings(t *testing.T) {
	dir := dir(t)
	if err := os.Chmod(filepath.Join(dir, "a.test.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, warnings, err := Load(write(t, dir, strings.Replace(head, `"a.test"`, `"b.test"`, 1)+"[federation]\npolicy = \"partners\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	all := warnings.Error()
	for _, want := range []string{":4:1: warning: every user of this machine can use", ":3:1: warning: it is for a.test, not for b.test", ":6:1: warning: there is no [[federation.partner]]"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
}

// TestExample: the example loads as it is, and with every comment opened every key in it is one that
// exists and shows its default, or something valid.
func TestExample(t *testing.T) {
	dir := dir(t)
	var b strings.Builder
	if err := Example(&b, map[string]string{"domain.name": `"a.test"`, "domain.certificate": `"a.test.crt"`, "domain.key": `"a.test.key"`}); err != nil {
		t.Fatal(err)
	}
	f, warnings, err := Load(write(t, dir, b.String()))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := xmpp.Defaults()
	want.DataDir, want.Domain = f.DataDir, f.Domain
	if !reflect.DeepEqual(f.Config, want) {
		t.Errorf("the example is not the default configuration:\n%+v\n%+v", f.Config, want)
	}

	open := regexp.MustCompile(`(?m)^#([a-z_]+ = |\[)`).ReplaceAllString(b.String(), "$1")
	open = strings.Replace(open, `ca_file = "partners.pem"`, `ca_file = "a.test.crt"`, 1)
	f, _, err = Load(write(t, dir, open))
	if err != nil {
		t.Fatalf("%v\n%s", err, open)
	}
	for _, v := range f.Values() {
		if v.Source == "default" {
			t.Errorf("%s is not in the example", v.Key)
		}
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	for _, table := range tables() {
		if table.header != "" && table.doc == "" {
			t.Errorf("%s has no comment", table.header)
		}
		for _, k := range table.keys {
			if k.doc == "" || k.standard == "" && k.example == "" {
				t.Errorf("%s.%s lacks a comment, or both a default and an example", table.path, k.name)
			}
			// The tag off is what Validate goes by, the comment what an operator does.
			if said, is := strings.Contains(k.doc, `"off"`), strings.HasSuffix(k.kind, `or "off"`); said != is {
				t.Errorf("%s.%s: its comment says that it can be off: %v; its tag: %v", table.path, k.name, said, is)
			}
		}
	}
}

func TestDistance(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want int
	}{{"", "abc", 3}, {"kitten", "sitting", 3}, {"same", "same", 0}, {"levle", "level", 1}} {
		if got := distance(row.a, row.b); got != row.want {
			t.Errorf("distance(%q, %q) = %d, want %d", row.a, row.b, got, row.want)
		}
	}
}
