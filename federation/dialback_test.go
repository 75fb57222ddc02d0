package federation

import (
	"testing"

	"tombolo/storage/mem"
	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

func TestKey_XEP0185_3(t *testing.T) {
	for _, c := range []struct{ secret, receiving, originating, id, want string }{
		{"s3cr3tf0rd14lb4ck", "xmpp.example.com", "example.org", "D60000229F",
			"37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643"},
		// XEP-0220 sections 2.1.1 and 2.2.2.
		{"s3cr3tf0rd14lb4ck", "montague.example", "capulet.example", "D60000229F",
			"b4835385f37fe2895af6c196b59097b16862406db80559900d96bf6fa7d23df3"},
		{"d14lb4ck43v3r", "capulet.example", "montague.example", "417GAF25",
			"225cc5aa6a071133249d25fef42ae516fc7a86c523aa1c6980a7f73e784c972d"},
	} {
		s := newSecret([]byte(c.secret))
		if got := s.key(c.receiving, c.originating, c.id); got != c.want {
			t.Errorf("%s %s %s: %s, want %s", c.receiving, c.originating, c.id, got, c.want)
		}
		if !s.made(c.want, c.receiving, c.originating, c.id) || s.made(c.want, c.originating, c.receiving, c.id) ||
			s.made("", c.receiving, c.originating, c.id) || s.made(c.want+"0", c.receiving, c.originating, c.id) {
			t.Errorf("%s %s %s: wrongly judged", c.receiving, c.originating, c.id)
		}
	}
}

// The concatenation of the parts must not be ambiguous (XEP-0185 section 2, note 5), even to a peer
// that chooses its stream id to make it so.
func TestKeyIsNotAmbiguous(t *testing.T) {
	s, seen := newSecret([]byte("secret")), make(map[string]string)
	for _, parts := range [][3]string{
		{"example.in", "form.example.org", "1"}, {"example.info", "rm.example.org", "1"},
		{"a.test", "b.test", "c.test 1"}, {"b.test", "a.test", "c.test 1"},
		{"a.test", "b.test", "1"}, {"a.test", "b.test1", ""},
	} {
		key := s.key(parts[0], parts[1], parts[2])
		if other := seen[key]; other != "" {
			t.Errorf("%v and %s have one key", parts, other)
		}
		seen[key] = parts[0] + "|" + parts[1] + "|" + parts[2]
	}
	for _, name := range []string{"a.test b.test", "a.test\tb", "a.test\u00a0b", ""} {
		if _, err := parseDomain(name); err == nil {
			t.Errorf("%q is taken for a domain, so a key could be read in two ways", name)
		}
	}
}

func TestSecretIsKept(t *testing.T) {
	store := mem.New(mem.Options{})
	defer store.Close()
	first, err := loadSecret(store)
	if err != nil {
		t.Fatal(err)
	}
	second, err := loadSecret(store)
	if err != nil || first != second {
		t.Errorf("%q, then %q, %v", first, second, err)
	}
	other := mem.New(mem.Options{})
	defer other.Close()
	if third, err := loadSecret(other); err != nil || third == first {
		t.Errorf("another store: the same secret, or %v", err)
	}
}

// What we write a peer reads, and what it would read is what we meant.
func TestDialbackElements(t *testing.T) {
	for want, d := range map[string]dialback{
		"<db:result from='a.test' to='b.test'>k</db:result>":                {name: "result", from: "a.test", to: "b.test", key: "k"},
		"<db:verify from='a.test' to='b.test' id='&apos;&lt;'></db:verify>": {name: "verify", from: "a.test", to: "b.test", id: "'<"},
		"<db:result from='a.test' to='b.test' type='error'><error type='cancel'>" +
			"<item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>": {name: "result",
			from: "a.test", to: "b.test", typ: "error", err: stanza.ItemNotFound("")},
	} {
		got := d.String()
		if got != want {
			t.Errorf("wrote %s, want %s", got, want)
		}
		p := element.NewParser(element.Limits{Bytes: 10_000, Depth: 10, Attrs: 10, Namespaces: 10})
		header := "<stream:stream xmlns='jabber:server' xmlns:stream='" + ns.Stream + "' xmlns:db='" + ns.Dialback + "'>"
		n, _, err := p.Parse([]byte(header))
		if err != nil || n != len(header) {
			t.Fatal(err)
		}
		_, token, err := p.Parse([]byte(got))
		if err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		back, err := readDialback(token.Element)
		if err != nil || back.name != d.name || back.from != d.from || back.to != d.to || back.id != d.id ||
			back.typ != d.typ || back.key != d.key || (back.err == nil) != (d.err == nil) ||
			d.err != nil && back.err.Condition != d.err.Condition {
			t.Errorf("%s read back as %+v, %v", got, back, err)
		}
	}
}
