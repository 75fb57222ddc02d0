package settings

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"tombolo/xmpp"
)

type position struct{ line, column int }

// A decoder carries a document into the file's Config, expression by expression. toml.Unmarshal
// would stop at the first mistake; here only what cannot be parsed at all does that.
type decoder struct {
	file     *File
	data     []byte
	parser   unstable.Parser
	problems Problems
	failed   map[string]bool // keys whose value was refused: what they lead to is not reported again
	broken   bool            // the document was not read to its end

	table  reflect.Value // that key-values go to; invalid below an unknown header
	prefix string        // of its keys
}

func (d *decoder) decode() {
	d.failed = make(map[string]bool)
	d.table = reflect.ValueOf(&d.file.Config).Elem()
	d.parser.Reset(d.data)
	for d.parser.NextExpression() {
		switch e := d.parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			d.header(keyOf(e), e.Kind == unstable.ArrayTable)
		case unstable.KeyValue:
			if d.table.IsValid() {
				d.keyValue(d.table, d.prefix, e)
			}
		}
	}
	if err := d.parser.Error(); err != nil {
		d.syntax(err)
		return
	}
	// What only concerns TOML itself, such as a table that was closed and is opened again.
	var document map[string]any
	if err := toml.Unmarshal(d.data, &document); err != nil && len(d.problems) == 0 {
		d.broken = true
		if de := (*toml.DecodeError)(nil); errors.As(err, &de) {
			line, column := de.Position()
			d.refuse(position{line, column}, "%s", strings.TrimPrefix(de.Error(), "toml: "))
			return
		}
		d.refuse(position{}, "%v", err)
	}
}

func (d *decoder) syntax(err error) {
	var at position
	if pe := (*unstable.ParserError)(nil); errors.As(err, &pe) {
		at = d.at(d.parser.Range(pe.Highlight))
	}
	d.refuse(at, "not TOML: %s; what follows was not read", strings.TrimPrefix(err.Error(), "toml: "))
	d.broken = true
}

func (d *decoder) refuse(at position, format string, args ...any) {
	d.problems = append(d.problems, d.file.problem(at, fmt.Sprintf(format, args...), false))
}

func (d *decoder) at(r unstable.Range) position {
	start := d.parser.Shape(r).Start
	return position{start.Line, start.Column}
}

// keyOf copies the parts of a key, which the parser will overwrite.
func keyOf(n *unstable.Node) (parts []*unstable.Node) {
	for it := n.Key(); it.Next(); {
		part := *it.Node()
		parts = append(parts, &part)
	}
	return parts
}

// header opens [table] or [[table]].
func (d *decoder) header(key []*unstable.Node, array bool) {
	d.table, d.prefix = reflect.ValueOf(&d.file.Config).Elem(), ""
	for i, part := range key {
		name, last := string(part.Data), i == len(key)-1
		path := d.prefix + name
		field := fieldOf(d.table, name)
		switch {
		case !field.IsValid():
			d.unknown(part, d.table.Type(), d.prefix)
			d.table = reflect.Value{}
			return
		case field.Kind() == reflect.Map && last && !array:
			// [domain.contacts]: its keys are taken as those of a table.
		case !isTable(field.Type()):
			d.refuse(d.at(part.Raw), "%s is a value; write %s = %s", path, name, valueHint(field.Type()))
			d.table = reflect.Value{}
			return
		case last && array && field.Kind() == reflect.Struct:
			d.refuse(d.at(part.Raw), "there is one table [%s]; write single brackets", path)
		case last && !array && field.Kind() == reflect.Slice:
			d.refuse(d.at(part.Raw), "each %s is a table of its own; write [[%s]]", path, path)
		}
		if field.Kind() == reflect.Slice {
			if last || field.Len() == 0 {
				field.Grow(1)
				field.SetLen(field.Len() + 1)
				xmpp.SetDefaults(field.Index(field.Len() - 1).Addr().Interface())
			}
			path += fmt.Sprintf("[%d]", field.Len()-1)
			field = field.Index(field.Len() - 1)
		} else if _, twice := d.file.positions[path]; last && twice {
			d.refuse(d.at(part.Raw), "the table [%s] is here a second time; put both into one", path)
		}
		if last {
			d.file.positions[path] = d.at(part.Raw)
		}
		d.table, d.prefix = field, path+"."
	}
}

// keyValue sets key = value, the key perhaps a dotted one, in a table.
func (d *decoder) keyValue(table reflect.Value, prefix string, e *unstable.Node) {
	key := keyOf(e)
	for i, part := range key {
		name := string(part.Data)
		path := prefix + name
		if table.Kind() == reflect.Map {
			d.entry(table, path, part, e.Value(), i == len(key)-1)
			return
		}
		field := fieldOf(table, name)
		if !field.IsValid() {
			d.unknown(part, table.Type(), prefix)
			return
		}
		if i < len(key)-1 {
			if field.Kind() != reflect.Struct && field.Kind() != reflect.Map {
				d.refuse(d.at(part.Raw), "%s has no keys of its own; write %s = %s", path, name, valueHint(field.Type()))
				return
			}
			table, prefix = field, path+"."
			continue
		}
		if d.claim(path, part) {
			d.value(field, path, part, e.Value())
		}
	}
}

// entry sets one key of a map of lists.
func (d *decoder) entry(table reflect.Value, path string, part, value *unstable.Node, last bool) {
	if !last {
		d.refuse(d.at(part.Raw), "%s has no keys of its own; write a list", path)
		return
	}
	if !d.claim(path, part) {
		return
	}
	element := reflect.New(table.Type().Elem()).Elem()
	d.value(element, path, part, value)
	if table.IsNil() {
		table.Set(reflect.MakeMap(table.Type()))
	}
	table.SetMapIndex(reflect.ValueOf(string(part.Data)), element)
}

// claim notes where a key is, and refuses a second one.
func (d *decoder) claim(path string, part *unstable.Node) bool {
	at := d.at(part.Raw)
	if first, twice := d.file.positions[path]; twice {
		d.refuse(at, "%s is here a second time; the first is in line %d", path, first.line)
		return false
	}
	d.file.positions[path] = at
	return true
}

// value sets a field from a value; near is the key, for the place of values that have none.
func (d *decoder) value(field reflect.Value, path string, near, value *unstable.Node) {
	if field.Kind() == reflect.Pointer { // a value that may be absent
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	at := d.at(near.Raw)
	if value.Raw.Length > 0 {
		at = d.at(value.Raw)
	}
	mismatch := func() {
		d.failed[path] = true
		d.refuse(at, "%s is %s here; write %s = %s", path, kindNames[value.Kind], lastPart(path), valueHint(field.Type()))
	}
	if isText(field.Type()) {
		if !slices.Contains([]unstable.Kind{unstable.String, unstable.Integer, unstable.Float}, value.Kind) {
			mismatch()
			return
		}
		if err := field.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(value.Data); err != nil {
			d.failed[path] = true
			if field.Type() == reflect.TypeFor[netip.Prefix]() {
				err = fmt.Errorf("%q is not a network such as %q", value.Data, "10.0.0.0/8")
			}
			d.refuse(at, "%s: %v", path, err)
		}
		return
	}
	switch {
	case field.Kind() == reflect.String && value.Kind == unstable.String:
		field.SetString(string(value.Data))
	case field.Kind() == reflect.Bool && value.Kind == unstable.Bool:
		field.SetBool(string(value.Data) == "true")
	case field.Kind() == reflect.Int && value.Kind == unstable.Integer:
		n, err := strconv.ParseInt(strings.ReplaceAll(string(value.Data), "_", ""), 0, 0)
		if err != nil {
			d.failed[path] = true
			d.refuse(at, "%s: %s is not a number that fits here", path, value.Data)
			return
		}
		field.SetInt(n)
	case field.Kind() == reflect.Slice && value.Kind == unstable.Array:
		d.list(field, path, near, value)
	case (field.Kind() == reflect.Struct || field.Kind() == reflect.Map) && value.Kind == unstable.InlineTable:
		d.inline(field, path, value)
	default:
		mismatch()
	}
}

func (d *decoder) list(field reflect.Value, path string, near, value *unstable.Node) {
	list := reflect.MakeSlice(field.Type(), 0, 4)
	for it := value.Children(); it.Next(); {
		node := it.Node()
		if node.Kind == unstable.Comment {
			continue
		}
		element := reflect.New(field.Type().Elem()).Elem()
		if isTable(element.Type()) {
			xmpp.SetDefaults(element.Addr().Interface())
		}
		key := fmt.Sprintf("%s[%d]", path, list.Len())
		d.file.positions[key] = d.at(near.Raw)
		if node.Raw.Length > 0 {
			d.file.positions[key] = d.at(node.Raw)
		}
		d.value(element, key, near, node)
		list = reflect.Append(list, element)
	}
	field.Set(list)
}

func (d *decoder) inline(field reflect.Value, path string, value *unstable.Node) {
	for it := value.Children(); it.Next(); {
		if it.Node().Kind == unstable.KeyValue {
			d.keyValue(field, path+".", it.Node())
		}
	}
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// unknown refuses a key and says which one may be meant: a similar one of this table, or one of this
// name elsewhere.
func (d *decoder) unknown(part *unstable.Node, table reflect.Type, prefix string) {
	name := string(part.Data)
	text := fmt.Sprintf("there is no %s%s", indexes.ReplaceAllString(prefix, ""), name)
	if near := similar(name, namesOf(table)); near != "" {
		text += fmt.Sprintf("; did you mean %s?", near)
	} else if home := homeOf(name, reflect.TypeFor[xmpp.Config](), ""); home != "" {
		text += fmt.Sprintf("; %s belongs to the table %s", name, home)
	} else {
		text += "; there are " + strings.Join(namesOf(table), ", ")
	}
	d.refuse(d.at(part.Raw), "%s", text)
}

// homeOf finds a table that has a key of this name.
func homeOf(name string, table reflect.Type, prefix string) string {
	for i := range table.NumField() {
		field := table.Field(i)
		if !isTable(field.Type) {
			continue
		}
		path, header, inner := prefix+field.Tag.Get("toml"), "", field.Type
		if inner.Kind() == reflect.Slice {
			header, inner = "[["+path+"]]", inner.Elem()
		} else {
			header = "[" + path + "]"
		}
		if slices.Contains(namesOf(inner), name) {
			return header
		}
		if home := homeOf(name, inner, path+"."); home != "" {
			return home
		}
	}
	return ""
}

// similar is the name at the smallest edit distance, if that is small for the word's length.
func similar(name string, names []string) string {
	best, near := max(1, len(name)/3)+1, ""
	for _, candidate := range names {
		if n := distance(strings.ToLower(name), candidate); n < best {
			best, near = n, candidate
		}
	}
	return near
}

// distance counts the bytes to add, remove, change or swap with their neighbour.
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := d[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			d[i][j] = min(change, d[i-1][j]+1, d[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

func fieldOf(table reflect.Value, name string) reflect.Value {
	if table.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	for i := range table.NumField() {
		if table.Type().Field(i).Tag.Get("toml") == name {
			return table.Field(i)
		}
	}
	return reflect.Value{}
}

func namesOf(table reflect.Type) (names []string) {
	if table.Kind() != reflect.Struct {
		return nil
	}
	for i := range table.NumField() {
		names = append(names, table.Field(i).Tag.Get("toml"))
	}
	return names
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// isText says whether values of a type are written as text of their own ("256kB").
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// valueHint shows a value of a type.
func valueHint(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[xmpp.Size]():
		return `"256kB"`
	case reflect.TypeFor[xmpp.Lifetime]():
		return `"365d" or "off"`
	case reflect.TypeFor[xmpp.Duration]():
		return `"30s"`
	case reflect.TypeFor[xmpp.Count]():
		return `100 or "off"`
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a number, without quotes"
	case reflect.Slice:
		return `["...", "..."]`
	case reflect.Map, reflect.Struct:
		return `{ ... }`
	}
	return `"..."`
}

var kindNames = map[unstable.Kind]string{
	unstable.String: "a string", unstable.Bool: "true or false", unstable.Integer: "a number",
	unstable.Float: "a number", unstable.Array: "a list", unstable.InlineTable: "a table",
	unstable.LocalDate: "a date", unstable.LocalTime: "a time of day",
	unstable.LocalDateTime: "a date", unstable.DateTime: "a date",
}
