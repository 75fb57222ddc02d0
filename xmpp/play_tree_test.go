package xmpp_test

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"tombolo/xmpp/ns"
)

// A tree is an element as encoding/xml reads it, which is not how the server does: what plays
// compare has been read by somebody else's parser.
type tree struct {
	name    xml.Name
	attrs   map[xml.Name]string // declarations of namespaces left out
	content []any               // *tree or string
}

func newTree(start xml.StartElement) *tree {
	t := &tree{name: start.Name, attrs: make(map[xml.Name]string)}
	for _, a := range start.Attr {
		if a.Name.Space != "xmlns" && a.Name != (xml.Name{Local: "xmlns"}) {
			t.attrs[a.Name] = a.Value
		}
	}
	return t
}

// readTree reads the rest of an element.
func readTree(next func() (xml.Token, error), start xml.StartElement) (*tree, error) {
	t := newTree(start)
	for {
		token, err := next()
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			child, err := readTree(next, token)
			if err != nil {
				return nil, err
			}
			t.content = append(t.content, child)
		case xml.CharData:
			if last := len(t.content) - 1; last >= 0 {
				if text, ok := t.content[last].(string); ok {
					t.content[last] = text + string(token)
					continue
				}
			}
			if len(token) > 0 {
				t.content = append(t.content, string(token))
			}
		case xml.EndElement:
			return t, nil
		default:
			return nil, fmt.Errorf("%T inside of <%s/>", token, start.Name.Local)
		}
	}
}

func (t *tree) attr(name string) string { return t.attrs[xml.Name{Local: name}] }

func (t *tree) children() []*tree {
	var list []*tree
	for _, c := range t.content {
		if child, ok := c.(*tree); ok {
			list = append(list, child)
		}
	}
	return list
}

// unmarked is a message, or the copy of one (XEP-0280), without the id that it has in the archive of who
// receives it (XEP-0359), one of them, unless want has an id: most plays are about something else.
func (t *tree) unmarked(want *tree) *tree {
	if t.name.Local != "message" || want.has(archiveID) {
		return t
	}
	owner, _, _ := strings.Cut(t.attr("to"), "/")
	return t.without(owner)
}

var archiveID = xml.Name{Space: ns.StanzaID, Local: "stanza-id"}

func (t *tree) has(name xml.Name) bool {
	return slices.ContainsFunc(t.children(), func(c *tree) bool { return c.name == name || c.has(name) })
}

// without is t without the id that it has in an archive, and without those of what is forwarded in it.
func (t *tree) without(owner string) *tree {
	content, found := slices.Clone(t.content), false
	for i, c := range content {
		if child, ok := c.(*tree); ok && (child.name.Space == ns.Carbons || child.name.Space == ns.Forward || t.name.Space == ns.Forward) {
			content[i] = child.without(owner)
		}
	}
	content = slices.DeleteFunc(content, func(c any) bool {
		child, ok := c.(*tree)
		is := ok && !found && child.name == archiveID && child.attr("by") == owner
		found = found || is
		return is
	})
	return &tree{t.name, t.attrs, content}
}

// playPrefixes are those that the expectations of plays may use without a declaration.
var playPrefixes = map[string]string{"stream": ns.Stream, "e": ns.StanzaErr, "s": ns.StreamErr}

// parseTrees reads what a play expects: elements of the content namespace, or the start tag of a
// stream, which has no end there.
func parseTrees(text string) ([]*tree, error) {
	var b strings.Builder
	b.WriteString("<play xmlns='" + ns.Client + "'")
	for prefix, uri := range playPrefixes {
		fmt.Fprintf(&b, " xmlns:%s='%s'", prefix, uri)
	}
	b.WriteString(">" + text)
	if strings.HasPrefix(text, "<stream:stream") {
		b.WriteString("</stream:stream>")
	}
	b.WriteString("</play>")
	d := xml.NewDecoder(strings.NewReader(b.String()))
	root, err := d.Token()
	if err != nil {
		return nil, err
	}
	all, err := readTree(d.Token, root.(xml.StartElement))
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something behind the last element")
	}
	for _, c := range all.content {
		if text, ok := c.(string); ok && strings.TrimSpace(text) != "" {
			return nil, fmt.Errorf("text outside of an element: %q", text)
		}
	}
	return all.children(), nil
}

// Marks that an expectation may contain as children: further children may be there, or the
// children may come in another order.
const (
	markAny   = "any"
	markMixed = "in-any-order"
)

// match compares what was received with what is expected, and says where they differ first. A value
// '*' stands for any that is there, '?' for any or none, '{name}' for what name was first matched
// with.
func (t *tree) match(got *tree, vars map[string]string) error {
	at := "<" + t.name.Local + ">"
	if t.name != got.name {
		return fmt.Errorf("%s in %q, want %s in %q", got.name.Local, got.name.Space, t.name.Local, t.name.Space)
	}
	for _, name := range sortedNames(t.attrs) {
		value, there := got.attrs[name]
		want := t.attrs[name]
		switch {
		case want == "?":
		case !there:
			return fmt.Errorf("%s has no attribute %s", at, name.Local)
		case !matchText(want, value, vars):
			return fmt.Errorf("%s: %s is %q, want %q", at, name.Local, value, want)
		}
	}
	for _, name := range sortedNames(got.attrs) {
		if _, wanted := t.attrs[name]; !wanted {
			return fmt.Errorf("%s has an attribute %s=%q that is not expected", at, name.Local, got.attrs[name])
		}
	}
	content, more, mixed := t.expected()
	if more || mixed {
		return matchMixed(at, content, got.content, more, vars)
	}
	for i, want := range content {
		if i >= len(got.content) {
			return fmt.Errorf("%s: %s is missing", at, describe(want))
		}
		if err := matchContent(want, got.content[i], vars); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	if len(got.content) > len(content) {
		return fmt.Errorf("%s: %s is not expected", at, describe(got.content[len(content)]))
	}
	return nil
}

// expected is the content without the marks.
func (t *tree) expected() (content []any, more, mixed bool) {
	for _, c := range t.content {
		if child, ok := c.(*tree); ok && child.name.Local == markAny {
			more = true
		} else if ok && child.name.Local == markMixed {
			mixed = true
		} else {
			content = append(content, c)
		}
	}
	return content, more, mixed
}

func matchMixed(at string, want, got []any, more bool, vars map[string]string) error {
	left := slices.Clone(got)
	for _, w := range want {
		var nearest error
		i := slices.IndexFunc(left, func(g any) bool {
			trial := maps.Clone(vars)
			err := matchContent(w, g, trial)
			if err == nil {
				maps.Copy(vars, trial)
			} else if nearest == nil || describe(g) == describe(w) {
				nearest = err
			}
			return err == nil
		})
		if i < 0 {
			return fmt.Errorf("%s: %s is missing (%v)", at, describe(w), nearest)
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(left) > 0 && !more {
		return fmt.Errorf("%s: %s is not expected", at, describe(left[0]))
	}
	return nil
}

func matchContent(want, got any, vars map[string]string) error {
	if w, ok := want.(*tree); ok {
		if g, ok := got.(*tree); ok {
			return w.match(g, vars)
		}
		return fmt.Errorf("text %q, want %s", got, describe(want))
	}
	if g, ok := got.(string); ok && matchText(want.(string), g, vars) {
		return nil
	}
	return fmt.Errorf("%s, want %s", describe(got), describe(want))
}

func matchText(want, got string, vars map[string]string) bool {
	if want == "*" {
		return true
	}
	if end, ok := strings.CutPrefix(want, "{base64 "); ok {
		decoded, err := base64.StdEncoding.DecodeString(got)
		return err == nil && strings.HasSuffix(string(decoded), strings.TrimSuffix(end, "}"))
	}
	if name, ok := variable(want); ok {
		if known, ok := vars[name]; ok {
			return got == known
		}
		vars[name] = got
		return true
	}
	return want == got
}

// variable says whether a value is '{name}' as a whole.
func variable(value string) (name string, ok bool) {
	name, opened := strings.CutPrefix(value, "{")
	name, closed := strings.CutSuffix(name, "}")
	return name, opened && closed
}

func describe(content any) string {
	if t, ok := content.(*tree); ok {
		return "<" + t.name.Local + "/>"
	}
	return fmt.Sprintf("text %q", content)
}

func sortedNames(m map[xml.Name]string) []xml.Name {
	return slices.SortedFunc(maps.Keys(m), func(a, b xml.Name) int {
		return strings.Compare(a.Local+" "+a.Space, b.Local+" "+b.Space)
	})
}

// String writes the element for a person to read, one line an element.
func (t *tree) String() string {
	var b strings.Builder
	t.write(&b, "\t", ns.Client)
	return strings.TrimSuffix(b.String(), "\n")
}

func (t *tree) write(b *strings.Builder, indent, around string) {
	b.WriteString(indent + "<" + t.name.Local)
	if t.name.Space != around {
		fmt.Fprintf(b, " xmlns='%s'", t.name.Space)
	}
	for _, name := range sortedNames(t.attrs) {
		prefix := ""
		if name.Space != "" {
			prefix = "{" + name.Space + "}"
		}
		fmt.Fprintf(b, " %s%s='%s'", prefix, name.Local, shorten(t.attrs[name]))
	}
	switch {
	case len(t.content) == 0:
		b.WriteString("/>\n")
	case len(t.children()) == 0:
		fmt.Fprintf(b, ">%s</%s>\n", shorten(t.content[0].(string)), t.name.Local)
	default:
		b.WriteString(">\n")
		for _, c := range t.content {
			if child, ok := c.(*tree); ok {
				child.write(b, indent+"  ", t.name.Space)
			} else {
				fmt.Fprintf(b, "%s  %q\n", indent, shorten(c.(string)))
			}
		}
		fmt.Fprintf(b, "%s</%s>\n", indent, t.name.Local)
	}
}

func shorten(s string) string {
	if len(s) > 200 {
		return fmt.Sprintf("%s... (%d bytes)", s[:200], len(s))
	}
	return s
}
