package jid

import (
	"encoding"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

var (
	_ fmt.Stringer             = JID{}
	_ encoding.TextMarshaler   = JID{}
	_ encoding.TextUnmarshaler = (*JID)(nil)
)

// RFC 7622 section 3.5, table 1, with the canonical form of each.
func TestRFC7622Table1(t *testing.T) {
	for _, tc := range []struct{ in, local, domain, resource string }{
		{"juliet@example.com", "juliet", "example.com", ""},
		{"juliet@example.com/foo", "juliet", "example.com", "foo"},
		{"juliet@example.com/foo bar", "juliet", "example.com", "foo bar"},
		{"juliet@example.com/foo@bar", "juliet", "example.com", "foo@bar"},
		{`foo\20bar@example.com`, `foo\20bar`, "example.com", ""},
		{"fussball@example.com", "fussball", "example.com", ""},
		{"fu\u00dfball@example.com", "fu\u00dfball", "example.com", ""},
		{"\u03c0@example.com", "\u03c0", "example.com", ""},
		{"\u03a3@example.com/foo", "\u03c3", "example.com", "foo"},
		{"\u03c3@example.com/foo", "\u03c3", "example.com", "foo"},
		{"\u03c2@example.com/foo", "\u03c2", "example.com", "foo"},
		{"king@example.com/\u265a", "king", "example.com", "\u265a"},
		{"example.com", "", "example.com", ""},
		{"example.com/foobar", "", "example.com", "foobar"},
		{"a.example.com/b@example.net", "", "a.example.com", "b@example.net"},
	} {
		checkParts(t, tc.in, tc.local, tc.domain, tc.resource)
	}
}

// RFC 7622 section 3.5, table 2. Its row with a leading space in the resourcepart is left out:
// OpaqueString permits spaces anywhere (RFC 8265 section 4.2), and mellium accepts it, as
// TestSpaceInResource says.
func TestRFC7622Table2(t *testing.T) {
	for _, tc := range []struct{ in, part string }{
		{`"juliet"@example.com`, partLocal},
		{"foo bar@example.com", partLocal},
		{"@example.com/", partResource},
		{"@example.com", partLocal},
		{"henry\u2163@example.com", partLocal},
		{"\u265a@example.com", partLocal},
		{"juliet@", partDomain},
		{"/foobar", partDomain},
	} {
		checkRefused(t, tc.in, tc.part)
	}
}

func TestSpaceInResource(t *testing.T) {
	checkParts(t, "juliet@example.com/ foo", "juliet", "example.com", " foo")
	// RFC 8265 section 4.2.2: other spaces become U+0020.
	checkParts(t, "juliet@example.com/a\u00a0b\u3000c", "juliet", "example.com", "a b c")
}

func TestPreparation(t *testing.T) {
	long := strings.Repeat("a", 1023)
	label := strings.Repeat("l", 63)
	for _, tc := range []struct{ in, want string }{
		{"Juliet@Example.COM/Balcony", "juliet@example.com/Balcony"},
		{"juliet@example.com.", "juliet@example.com"},
		{"juliet@example.com./r.", "juliet@example.com/r."},
		{"juliet@example\u3002com\u3002/r", "juliet@example.com/r"}, // RFC 5895 section 2.4
		{"x@xn--bcher-kva.example", "x@b\u00fccher.example"},        // RFC 7622 section 3.2.1
		{"x@XN--BCHER-KVA.example", "x@b\u00fccher.example"},
		{"x@B\u00dcCHER.example", "x@b\u00fccher.example"},
		{"x@\uff45xample.com", "x@example.com"}, // width mapping
		{"\uff4a\uff35@example.com", "ju@example.com"},
		{"e\u0301@example.com/e\u0301", "\u00e9@example.com/\u00e9"}, // NFC
		{"127.0.0.1/r", "127.0.0.1/r"},
		{"u@[::1]/r", "u@[::1]/r"},
		{"u@[2001:DB8:0:0::1]", "u@[2001:db8::1]"}, // RFC 5952
		{long + "@example.com/" + long, long + "@example.com/" + long},
		{strings.Repeat("l.", 127), strings.Repeat("l.", 126) + "l"}, // 253 bytes and a final dot
		{label + "." + label + "." + label + "." + label[:61], label + "." + label + "." + label + "." + label[:61]},
		{"a-b@a-b.c--d.1e", "a-b@a-b.c--d.1e"},
		{"localhost", "localhost"},
		{"!#$%()*+,-.;=?[\\]^_`{|}~@h//@/", "!#$%()*+,-.;=?[\\]^_`{|}~@h//@/"},
	} {
		j, err := Parse(tc.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tc.in, err)
		} else if j.String() != tc.want {
			t.Errorf("Parse(%q) = %q, want %q", tc.in, j, tc.want)
		}
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("a", 1024)
	label := strings.Repeat("l", 64)
	for _, tc := range []struct{ in, part string }{
		{"", partDomain},
		{".", partDomain},
		{"a@.", partDomain},
		{"a@b..c", partDomain},
		{"a@.b", partDomain},
		{"a@b..", partDomain + " has an empty label"},
		{"a@\u00fc..", partDomain + " has an empty label"},
		{"a@b.\u3002", partDomain + " has an empty label"},
		{"a@\u00ad.b", partDomain + " has an empty label"}, // IDNA drops the soft hyphen
		{"a@b@c", partDomain},
		{"a@b_c", partDomain},
		{"a@b c", partDomain},
		{"a@-b", partDomain},
		{"a@b-.c", partDomain},
		{"a@ab--c", partDomain},
		{"a@xn--", partDomain},
		{"a@xn--\u00fc", partDomain},
		{"a@" + label + ".c", partDomain},
		{"a@" + strings.Repeat("\u00fc", 60) + ".c", partDomain}, // longer than 63 bytes as A-label
		{"a@" + strings.Repeat("l.", 128), partDomain + " is longer than 253"},
		{"a@[::1", partDomain},
		{"a@::1", partDomain},
		{"a@[127.0.0.1]", partDomain},
		{"a@[::ffff:127.0.0.1]", partDomain},
		{"a@[fe80::1%eth0]", partDomain},
		{"a@[example.net]", partDomain},
		{"a@b/", partResource},
		{"a@b/\x00", partResource},
		{"a@b/x\x7f", partResource},
		{"a@b/\xff", partResource},
		{"a@b/\u200b", partResource},
		{"a@b/" + long, partResource},
		{long + "@b", partLocal},
		{strings.Repeat("\uff21", 4096) + "@b", partLocal},
		{"\xff@b", partLocal},
		{"\uff20x@b", partLocal}, // a full-width commercial at maps to @
		{"\x1fa@b", partLocal},
		{"\xff", partDomain},
		{"a:b@c", partLocal}, {"a'b@c", partLocal}, {"a&b@c", partLocal}, {"a<b@c", partLocal}, {"a>b@c", partLocal},
	} {
		checkRefused(t, tc.in, tc.part)
	}
	for _, parts := range [][3]string{{"a@b", "c", ""}, {"a/b", "c", ""}, {"a", "b/c", ""}, {"a", "b@c", ""}, {"a", "", "c"}} {
		if j, err := New(parts[0], parts[1], parts[2]); !errors.Is(err, ErrMalformed) {
			t.Errorf("New(%q) = %q, %v", parts, j, err)
		}
	}
}

func checkParts(t *testing.T, in, local, domain, resource string) {
	t.Helper()
	j, err := Parse(in)
	if err != nil {
		t.Errorf("Parse(%q): %v", in, err)
		return
	}
	if got, want := [...]string{j.Local(), j.Domain(), j.Resource()}, [...]string{local, domain, resource}; got != want {
		t.Errorf("Parse(%q) has the parts %q, want %q", in, got, want)
	}
	made, err := New(local, domain, resource)
	if err != nil || made != j {
		t.Errorf("New(%q, %q, %q) = %v, %v, want what Parse made", local, domain, resource, made, err)
	}
}

func checkRefused(t *testing.T, in, reason string) {
	t.Helper()
	j, err := Parse(in)
	if !errors.Is(err, ErrMalformed) {
		t.Errorf("Parse(%.40q) = %.40q, %v, want ErrMalformed", in, j, err)
	} else if !strings.Contains(err.Error(), reason) {
		t.Errorf("Parse(%.40q): %q does not say %q", in, err, reason)
	}
	if !j.IsZero() {
		t.Errorf("Parse(%.40q) returned %.40q beside its error", in, j)
	}
}

func TestKinds(t *testing.T) {
	for _, tc := range []struct {
		in                    string
		bare, server, account bool
		toBare, toServer      string
	}{
		{"a@b/c", false, false, false, "a@b", "b"},
		{"a@b", true, false, true, "a@b", "b"},
		{"b/c", false, false, false, "b", "b"},
		{"b", true, true, false, "b", "b"},
	} {
		j := MustParse(tc.in)
		if j.IsZero() || j.IsBare() != tc.bare || j.IsServer() != tc.server || j.IsAccount() != tc.account {
			t.Errorf("%s: IsBare %v, IsServer %v, IsAccount %v", tc.in, j.IsBare(), j.IsServer(), j.IsAccount())
		}
		if got := j.Bare(); got != MustParse(tc.toBare) {
			t.Errorf("%s: Bare = %s", tc.in, got)
		}
		if got := j.Server(); got != MustParse(tc.toServer) {
			t.Errorf("%s: Server = %s", tc.in, got)
		}
	}
	var zero JID
	if !zero.IsZero() || !zero.IsBare() || zero.IsServer() || zero.IsAccount() ||
		zero.Local()+zero.Domain()+zero.Resource()+zero.String() != "" ||
		zero.Bare() != zero || zero.Server() != zero || zero.Clone() != zero {
		t.Error("the zero JID is more than nothing")
	}
}

// However an address was made, it is one map key.
func TestEqualIsIdentical(t *testing.T) {
	want := MustParse("a@b/c")
	seen := map[JID]bool{want: true}
	for name, j := range map[string]JID{
		"case":         MustParse("A@B./c"),
		"parts":        must(New("a", "b", "c")),
		"WithResource": must(MustParse("a@b/other").WithResource("c")),
		"clone":        want.Clone(),
		"text":         viaText(t, want),
	} {
		if !seen[j] {
			t.Errorf("%s: %#v is not %#v", name, j, want)
		}
	}
}

func must(j JID, err error) JID {
	if err != nil {
		panic(err)
	}
	return j
}

func viaText(t *testing.T, j JID) (back JID) {
	t.Helper()
	text, err := j.MarshalText()
	if err == nil {
		err = back.UnmarshalText(text)
	}
	if err != nil {
		t.Errorf("%s through text: %v", j, err)
	}
	return back
}

func TestText(t *testing.T) {
	for _, j := range []JID{{}, MustParse("b"), MustParse("a@b/\u265a")} {
		if back := viaText(t, j); back != j {
			t.Errorf("%s came back from text as %s", j, back)
		}
	}
	kept := MustParse("a@b")
	if err := kept.UnmarshalText([]byte("@")); !errors.Is(err, ErrMalformed) || kept != MustParse("a@b") {
		t.Errorf("UnmarshalText of nonsense: %v, value now %s", err, kept)
	}
}

func TestWithResource(t *testing.T) {
	for _, in := range []string{"a@b", "a@b/c", "b"} {
		j, bare := MustParse(in), MustParse(in).Bare()
		if got := must(j.WithResource("\u00e9 x")); got.Resource() != "\u00e9 x" || got.Bare() != bare {
			t.Errorf("%s with a resource is %s", in, got)
		}
		if got := must(j.WithResource("")); got != bare {
			t.Errorf("%s with no resource is %s", in, got)
		}
		if got, err := j.WithResource("\x01"); !errors.Is(err, ErrMalformed) || !got.IsZero() {
			t.Errorf("%s with a control character is %s, %v", in, got, err)
		}
	}
	if _, err := (JID{}).WithResource("x"); !errors.Is(err, ErrMalformed) {
		t.Errorf("a resource of nobody: %v", err)
	}
}

func TestMustParsePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	MustParse("@")
}

func TestCompare(t *testing.T) {
	want := []string{"a", "a/r", "b@a", "b", "a@b", "a@b/c", "a-@b", "a@b.c"}
	var got []JID
	for _, s := range []string{"a@b.c", "a-@b", "b", "a@b/c", "b@a", "a/r", "a@b", "a"} {
		got = append(got, MustParse(s))
	}
	slices.SortFunc(got, Compare)
	for i := range want {
		if got[i].String() != want[i] {
			t.Fatalf("sorted: %v, want %v", got, want)
		}
	}
}

func TestMemory(t *testing.T) {
	in := strings.Clone("romeo@example.net/orchard")
	shared := MustParse(in)
	if unsafe.StringData(shared.full) != unsafe.StringData(in) {
		t.Error("a canonical address was copied by Parse")
	}
	if cloned := shared.Clone(); unsafe.StringData(cloned.full) == unsafe.StringData(in) || cloned != shared {
		t.Error("Clone still shares the input's memory")
	}
}

func TestASCIIDomain(t *testing.T) {
	for in, want := range map[string]string{
		"example.com":                     "example.com",
		"b\u00fccher.example":             "xn--bcher-kva.example",
		"fa\u00df.example":                "xn--fa-hia.example",
		"\u4f8b\u3048.\u30c6\u30b9\u30c8": "xn--r8jz45g.xn--zckzah",
		"[2001:db8::1]":                   "[2001:db8::1]",
		"127.0.0.1":                       "127.0.0.1",
		"":                                "",
	} {
		if got := ASCIIDomain(in); got != want {
			t.Errorf("ASCIIDomain(%q) = %q, want %q", in, got, want)
		}
	}
}
