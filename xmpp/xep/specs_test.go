package xep

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tombolo/xmpp/module"
)

func TestEveryExtensionSaysWhatItIs(t *testing.T) {
	xep := regexp.MustCompile(`^XEP-[0-9]{4}$`)
	for _, f := range newHouse(t, houseOptions{}).host.Features() {
		i := f.Info
		if i.Spec == "" || i.Name == "" || i.Status != "complete" && i.Status != "partial" || xep.MatchString(i.Spec) != (i.Version != "") {
			t.Errorf("incomplete: %+v", i)
		}
		if i.Status == "partial" && i.Note == "" {
			t.Errorf("%s does not say which part", i.Spec)
		}
	}
}

// TestOneFileEach: a reader finds an extension by its number.
func TestOneFileEach(t *testing.T) {
	for _, f := range newHouse(t, houseOptions{}).host.Features() {
		name := strings.NewReplacer("-", "", " ", "").Replace(strings.ToLower(f.Info.Spec)) + ".go"
		if _, err := os.Stat(name); err != nil {
			t.Errorf("%s: %v", f.Info.Spec, err)
		}
	}
}

func TestWriteTable(t *testing.T) {
	features := []module.Feature{
		{Info: module.Info{Spec: "XEP-0199", Name: "XMPP Ping", Version: "2.0.1", Status: "complete"}},
		{},
		{Info: module.Info{Spec: "RFC 6121", Name: "IM", Status: "partial", Note: "without x"}},
		{Info: module.Info{Spec: "XEP-0199", Name: "the second of its name"}},
	}
	var b strings.Builder
	if err := WriteTable(&b, features); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"| Specification | Title | Version | Status | Note |",
		"|---|---|---|---|---|",
		"| [RFC 6121](https://www.rfc-editor.org/rfc/rfc6121) | IM |  | partial | without x |",
		"| [XEP-0199](https://xmpp.org/extensions/xep-0199.html) | XMPP Ping | 2.0.1 | complete |  |",
		"",
	}
	if got := strings.Split(b.String(), "\n"); !slices.Equal(got, want) {
		t.Errorf("got\n%s", b.String())
	}
}
