package xep

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"tombolo/xmpp/module"
)

// Specs are the specifications that a server's features carry out, in order of their names and each
// once; the README's table and the DOAP file are made of them.
func Specs(features []module.Feature) []module.Info {
	var list []module.Info
	for _, f := range features {
		if f.Info.Spec != "" {
			list = append(list, f.Info)
		}
	}
	slices.SortStableFunc(list, func(a, b module.Info) int { return cmp.Compare(a.Spec, b.Spec) })
	return slices.CompactFunc(list, func(a, b module.Info) bool { return a.Spec == b.Spec })
}

// WriteTable writes Specs as a table in Markdown.
func WriteTable(w io.Writer, features []module.Feature) error {
	var b strings.Builder
	b.WriteString("| Specification | Title | Version | Status | Note |\n|---|---|---|---|---|\n")
	for _, i := range Specs(features) {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", link(i.Spec), i.Name, i.Version, i.Status, i.Note)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the table of specifications: %w", err)
	}
	return nil
}

// link makes "XEP-0199" and "RFC 6121" links to where they are published.
func link(spec string) string {
	if number, ok := strings.CutPrefix(spec, "XEP-"); ok {
		return fmt.Sprintf("[%s](https://xmpp.org/extensions/xep-%s.html)", spec, number)
	}
	if number, ok := strings.CutPrefix(spec, "RFC "); ok {
		return fmt.Sprintf("[%s](https://www.rfc-editor.org/rfc/rfc%s)", spec, number)
	}
	return spec
}
