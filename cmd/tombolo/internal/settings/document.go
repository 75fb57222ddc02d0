package settings

import (
	"encoding"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"tombolo/xmpp"
)

// A table of the configuration, with what its comments say.
type table struct {
	header string // "[listen]", "[[domain]]"; "" for the top
	path   string // "listen", "domain"
	doc    string
	keys   []key
}

type key struct {
	name, doc string
	kind      string // for the manual: "text", "size", ...
	standard  string // its default, as TOML; "" if it has none
	example   string // as TOML, where it has no default
	required  bool
	reload    bool // a running server takes it over
}

// tables are the whole configuration, read from the type and the comments of xmpp.Config.
func tables() []table {
	comments := fieldComments(xmpp.ConfigSource)
	all := []table{{}}
	describe(reflect.TypeFor[xmpp.Config](), 0, "", false, comments, &all)
	return all
}

func describe(t reflect.Type, at int, prefix string, reload bool, comments map[string]string, all *[]table) {
	defaults := reflect.New(t)
	xmpp.SetDefaults(defaults.Interface())
	for i := range t.NumField() {
		field := t.Field(i)
		doc := comments[t.Name()+"."+field.Name]
		name := field.Tag.Get("toml")
		if !isTable(field.Type) {
			k := key{name: name, doc: doc, kind: kindOf(field), example: strings.ReplaceAll(field.Tag.Get("example"), "'", `"`),
				reload: reload || field.Tag.Get("reload") != ""}
			if _, ok := field.Tag.Lookup("default"); ok {
				k.standard = TOML(defaults.Elem().Field(i).Interface())
			}
			k.required = prefix == "domain." && (name == "name" || name == "certificate" || name == "key")
			(*all)[at].keys = append((*all)[at].keys, k)
		}
	}
	for i := range t.NumField() {
		field := t.Field(i)
		if !isTable(field.Type) {
			continue
		}
		inner, path := field.Type, prefix+field.Tag.Get("toml")
		header := "[" + path + "]"
		if inner.Kind() == reflect.Slice {
			inner, header = inner.Elem(), "["+header+"]"
		}
		*all = append(*all, table{header: header, path: path, doc: comments[t.Name()+"."+field.Name]})
		describe(inner, len(*all)-1, path+".", reload || field.Tag.Get("reload") != "", comments, all)
	}
}

// fieldComments reads the doc comments of all struct fields in Go source, by "Type.Field".
func fieldComments(source string) map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments)
	if err != nil {
		panic(err) // it was compiled into this program
	}
	comments := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if body, ok := spec.Type.(*ast.StructType); ok {
			for _, field := range body.Fields.List {
				for _, name := range field.Names {
					comments[spec.Name.Name+"."+name.Name] = strings.TrimSpace(field.Doc.Text())
				}
			}
		}
		return false
	})
	return comments
}

func kindOf(field reflect.StructField) string {
	off := ""
	if field.Tag.Get("off") != "" {
		off = ` or "off"`
	}
	if field.Type.Kind() == reflect.Pointer {
		field.Type = field.Type.Elem()
	}
	switch field.Type {
	case reflect.TypeFor[xmpp.Size]():
		return "size" + off
	case reflect.TypeFor[xmpp.Duration](), reflect.TypeFor[xmpp.Lifetime]():
		return "time" + off
	case reflect.TypeFor[xmpp.Count]():
		return "number" + off
	}
	switch {
	case field.Tag.Get("kind") == "path":
		return "file name"
	case field.Type.Kind() == reflect.Bool:
		return "true or false"
	case field.Type.Kind() == reflect.Int:
		return "number"
	case field.Type.Kind() == reflect.Slice:
		return "list"
	case field.Type.Kind() == reflect.Map:
		return "table of lists"
	}
	return "text"
}

// TOML writes a value of the configuration as it stands in a file.
func TOML(value any) string {
	if t, ok := value.(encoding.TextMarshaler); ok {
		text, err := t.MarshalText()
		if err != nil {
			panic(err) // sizes, times and networks always have a text
		}
		if _, err := strconv.Atoi(string(text)); err == nil {
			return string(text)
		}
		return quote(string(text))
	}
	v := reflect.ValueOf(value)
	var parts []string
	switch v.Kind() {
	case reflect.Pointer:
		return TOML(v.Elem().Interface())
	case reflect.String:
		return quote(v.String())
	case reflect.Slice:
		for i := range v.Len() {
			parts = append(parts, TOML(v.Index(i).Interface()))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		for _, name := range sortedKeys(v) {
			parts = append(parts, name+" = "+TOML(v.MapIndex(reflect.ValueOf(name)).Interface()))
		}
		if parts == nil {
			return "{}"
		}
		return "{ " + strings.Join(parts, ", ") + " }"
	}
	return fmt.Sprint(value)
}

// Example writes a configuration file with all keys and what they are for. A key of set, such as
// "listen.client", gets that TOML; the others are commented out, but for those that every file needs.
// Tables that come several times are written once.
func Example(w io.Writer, set map[string]string) error {
	var b strings.Builder
	b.WriteString(`# The configuration of Tombolo. Lines that begin with # and a key show the value that holds without
# them, or an example. After a change: tombolo config check, then tombolo reload.
`)
	for _, t := range tables() {
		writeTable(&b, t, set)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeTable(b *strings.Builder, t table, set map[string]string) {
	prefix := ""
	if t.path != "" {
		prefix = t.path + "."
	}
	// A list of tables would not be empty if its header stood there.
	absent := strings.HasPrefix(t.header, "[[")
	for _, k := range t.keys {
		if _, ok := set[prefix+k.name]; ok || k.required {
			absent = false
		}
	}
	b.WriteString("\n")
	if t.header != "" {
		comment(b, t.doc)
		if absent {
			b.WriteString("#")
		}
		b.WriteString(t.header + "\n")
	}
	for i, k := range t.keys {
		if i > 0 {
			b.WriteString("\n")
		}
		comment(b, k.doc)
		value, ok := set[prefix+k.name]
		switch {
		case ok:
		case k.standard != "":
			value = k.standard
		default:
			value = k.example
		}
		if !ok && !k.required {
			b.WriteString("#")
		}
		fmt.Fprintf(b, "%s = %s\n", k.name, value)
	}
}

func comment(b *strings.Builder, doc string) {
	for line := range strings.Lines(doc) {
		b.WriteString("# " + line)
	}
	if doc != "" {
		b.WriteString("\n")
	}
}

// Manual writes the manual's chapter on the configuration, in Markdown.
func Manual(w io.Writer) error {
	var b strings.Builder
	b.WriteString(manualHead)
	for _, t := range tables() {
		if t.header == "" {
			b.WriteString("\n## Top of the file\n\n")
		} else {
			fmt.Fprintf(&b, "\n## `%s`\n\n%s\n\n", t.header, t.doc)
		}
		for _, k := range t.keys {
			fmt.Fprintf(&b, "- **`%s`** — %s", k.name, k.kind)
			switch {
			case k.standard != "":
				fmt.Fprintf(&b, "; default `%s`", k.standard)
			case k.required:
				fmt.Fprintf(&b, "; required, for example `%s`", k.example)
			case k.example != "":
				fmt.Fprintf(&b, "; default none, for example `%s`", k.example)
			}
			if k.reload {
				b.WriteString("; reloaded")
			}
			fmt.Fprintf(&b, ".\n  %s\n", strings.ReplaceAll(k.doc, "\n", "\n  "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

const manualHead = `<!-- Made from the comments in xmpp/config.go; do not edit.
     go test ./cmd/tombolo -run TestDocs -update -->

# Configuration

Tombolo reads one TOML file: the one that ` + "`--config`" + ` names, else ` + "`$TOMBOLO_CONFIG`" + `, else
` + "`./tombolo.toml`" + `, else ` + "`/etc/tombolo/tombolo.toml`" + `. ` + "`tombolo config example`" + ` prints a commented one.

` + "`tombolo config check`" + ` reports every mistake with its file, line and column; a server does not start with one, and
` + "`tombolo reload`" + ` keeps the old configuration. Of a running server it takes over the keys that are called *reloaded* below, and
names the others that have changed: these hold from the next start on. ` + "`tombolo config show`" + ` prints every value in effect and
where it came from.

Sizes are strings with a unit: ` + "`\"256kB\"`" + ` is 256,000 bytes, ` + "`\"256KiB\"`" + ` 262,144. So are times: ` + "`\"30s\"`" + `,
` + "`\"5m\"`" + `, ` + "`\"12h\"`" + `, ` + "`\"365d\"`" + `. A key that is not in this chapter is refused.
`

// Show writes the values in effect as TOML, each with where it came from.
func Show(w io.Writer, values []Value) error {
	var b strings.Builder
	width := 0
	for _, v := range values {
		width = max(width, len(v.name)+3+len(TOML(v.Value)))
	}
	width = min(width, 60)
	last := ""
	for i, v := range values {
		group := v.Key[:len(v.Key)-len(v.name)]
		if group != last && v.table != "" {
			if i > 0 {
				b.WriteString("\n")
			}
			b.WriteString(v.table + "\n")
		}
		last = group
		fmt.Fprintf(&b, "%-*s  # %s\n", width, v.name+" = "+TOML(v.Value), v.Source)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// quote writes a string in TOML, which knows fewer escapes than Go.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func sortedKeys(m reflect.Value) []string {
	names := make([]string, 0, m.Len())
	for _, k := range m.MapKeys() {
		names = append(names, k.String())
	}
	slices.Sort(names)
	return names
}
