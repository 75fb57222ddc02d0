package jid

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	reference "mellium.im/xmpp/jid"
)

var seeds = []string{
	"", "@", "/", ".", "a", "a@b", "a@b/c", "b/c", "a@b.", "a@b..", "A@B.c/D", "a@b@c", "a@b/", "@b",
	"juliet@example.com/ foo", `foo\20bar@example.com`, "fu\u00dfball@example.com", "\u03a3@example.com/foo",
	"henry\u2163@example.com", "\u265a@example.com", "king@example.com/\u265a", "\uff21\uff22@\uff43.d",
	"x@xn--bcher-kva.example", "x@b\u00fccher.example", "x@b\u3002c\u3002", "x@\u00ad.c", "x@xn--a", "x@xn--xn---epa",
	"x@ab--c", "x@-b", "x@b-", "x@b_c", "[::1]", "[2001:DB8::1]", "[::ffff:1.2.3.4]", "1.2.3.4", "1.2.3.4.", "01.2.3.4",
	"\u05d0\u05d1@\u05d0.\u05d1", "\u05d01a@b", "a@b/\u200d", "\u0e40\u0e44@\u0e40", "a@\u1e9e", "\u1e9e@a",
	"\u2126@b", "\u212b@b/\u212b", "\u0130@b", "\u0130\u0307@\u0130", "\u1fb3\u0345@x", "a\u0345\u0301@b/a\u0345\u0301",
	"\xff", "a@b/\x00", "a@b/\u00a0", "a\u00a0@b", "\u3002", "x@\u0660.\u06f0", "\u00b7@l\u00b7l.x",
}

// agree fails the test unless Parse and the reference judge s alike, but for the differences
// that prepare.go lists.
func agree(t *testing.T, s string) {
	t.Helper()
	ours, err := Parse(s)
	theirs, refErr := reference.Parse(s)
	switch {
	case err == nil && refErr != nil:
		t.Errorf("Parse(%q) = %q, which the reference refuses: %v", s, ours, refErr)
	case err != nil && refErr == nil:
		if reason := deliberate(theirs, s); reason == "" {
			t.Errorf("Parse(%q): %v, but the reference accepts it as %q", s, err, theirs)
		}
	case err == nil && ours.String() != theirs.String():
		// The reference may need more passes, and spells IPv6 as it came.
		settled := theirs
		for range maxPass {
			if again, err := reference.Parse(settled.String()); err == nil {
				settled = again
			}
		}
		if settled.String() != ours.String() && !strings.HasPrefix(theirs.Domainpart(), "[") {
			t.Errorf("Parse(%q) = %q, the reference makes it %q and settles on %q", s, ours, theirs, settled)
		}
	}
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("Parse(%q): %v is not ErrMalformed", s, err)
		}
		return
	}
	if again, err := Parse(ours.String()); err != nil || again != ours {
		t.Errorf("Parse(%q) = %#v, but parsed again it is %#v, %v", s, ours, again, err)
	}
	if made, err := New(ours.Local(), ours.Domain(), ours.Resource()); err != nil || made != ours {
		t.Errorf("Parse(%q) = %#v, but made of its parts it is %#v, %v", s, ours, made, err)
	}
	for part, value := range map[string]string{partLocal: ours.Local(), partDomain: ours.Domain(), partResource: ours.Resource()} {
		if len(value) > 1023 {
			t.Errorf("Parse(%q): the %s has %d bytes", s, part, len(value))
		}
	}
}

// deliberate names the listed reason for refusing s, which the reference takes for j; empty when
// there is none.
func deliberate(j reference.JID, s string) string {
	if len(s) > maxRaw {
		return "too long before mapping"
	}
	if checkLabels(j.Domainpart()) != nil {
		return "limits of DNS"
	}
	for range maxPass - 1 {
		again, err := reference.Parse(j.String())
		if err != nil {
			return fmt.Sprintf("the canonical form is refused: %v", err)
		}
		if again.Equal(j) {
			return ""
		}
		j = again
	}
	return "no fixed point"
}

func TestAgreesWithReference(t *testing.T) {
	for _, s := range seeds {
		agree(t, s)
	}
	// Every code point of the basic plane in every part, alone and after a letter.
	for r := rune(0); r <= 0xffff; r++ {
		if testing.Short() && r > 0x2fff {
			break
		}
		c := string(r)
		agree(t, c+"@b/r")
		agree(t, "a@"+c)
		agree(t, "a@b"+c+"c")
		agree(t, "a@b/x"+c)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(agree)
}
