// Package settings reads the configuration file into xmpp.Config and says where every value came
// from, and it writes the commented example and the manual's chapter from the comments in the source
// of xmpp.Config. The commands of package main call it.
//
// Start with Load. It goes on after a mistake, so that an operator sees all of them at once; decode.go
// is how TOML meets the struct, document.go what is made from the comments.
package settings

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"tombolo/xmpp"
)

// A File is a configuration and where its values came from.
type File struct {
	xmpp.Config
	Path      string
	positions map[string]position // by key, "domain[0].name"; tables too
}

// A Problem is a mistake, or with Warning something to know, at a place in a file. Line and Column
// count from 1; they are 0 for the file as a whole.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Text    string `json:"text"`
	Warning bool   `json:"warning"`
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Problems are all mistakes of a file, in its order. As an error it is one line for each.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads a file. Mistakes are a Problems error, and then the File is what could be understood,
// for those who need only a part of it. Warnings are for the operator and prevent nothing.
func Load(path string) (file *File, warnings Problems, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	return parse(path, data)
}

func parse(path string, data []byte) (*File, Problems, error) {
	f := &File{Config: xmpp.Defaults(), Path: path, positions: make(map[string]position)}
	d := decoder{file: f, data: data}
	d.decode()
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	absolute(reflect.ValueOf(&f.Config).Elem(), base)

	mistakes := d.problems
	var warnings Problems
	for _, p := range f.Validate(time.Now()) {
		at, exact := f.place(p.Key)
		if !exact { // then the line does not show the key
			p.Text = indexes.ReplaceAllString(p.Key, "") + ": " + p.Text
		}
		if p.Warning {
			warnings = append(warnings, f.problem(at, p.Text, true))
		} else if !d.failed[p.Key] && !d.broken {
			mistakes = append(mistakes, f.problem(at, p.Text, false))
		}
	}
	if len(mistakes) > 0 {
		slices.SortStableFunc(mistakes, func(a, b Problem) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return f, warnings, mistakes
	}
	return f, warnings, nil
}

// place finds where a key was written, exact, or else what it belongs to.
func (f *File) place(key string) (at position, exact bool) {
	for part := key; part != ""; part = part[:max(0, strings.LastIndexAny(part, ".["))] {
		if at, ok := f.positions[part]; ok {
			return at, part == key
		}
	}
	return position{}, false
}

func (f *File) problem(at position, text string, warning bool) Problem {
	return Problem{File: f.Path, Line: at.line, Column: at.column, Text: text, Warning: warning}
}

// absolute makes file names absolute that are relative to the configuration file.
func absolute(v reflect.Value, base string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("kind") != "path" {
				absolute(v.Field(i), base)
			} else if name := v.Field(i).String(); name != "" && !filepath.IsAbs(name) {
				v.Field(i).SetString(filepath.Join(base, name))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			absolute(v.Index(i), base)
		}
	}
}

// A Value is one effective setting.
type Value struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Source string `json:"source"` // "file:line" or "default", or that a running server differs from it
	table  string
	name   string
}

// Values are all settings as they are in effect, in the order of the documentation.
func (f *File) Values() []Value {
	var all []Value
	f.values(reflect.ValueOf(f.Config), "", "", &all)
	return all
}

// InEffect are all settings of a server that runs with a configuration, and the keys for which the
// file says something else.
func (f *File) InEffect(running xmpp.Config) (all []Value, differ []string) {
	in := make(map[string]Value)
	for _, v := range f.Values() {
		in[v.Key] = v
	}
	all = (&File{running, f.Path, f.positions}).Values()
	for i, v := range all {
		said, ok := in[v.Key]
		delete(in, v.Key)
		switch {
		case !ok:
			all[i].Source = "the running server; not in " + f.Path
		case TOML(said.Value) != TOML(v.Value):
			all[i].Source = "the running server, not " + said.Source
		default:
			continue
		}
		differ = append(differ, v.Key)
	}
	return all, append(differ, slices.Sorted(maps.Keys(in))...)
}

func (f *File) values(v reflect.Value, prefix, table string, all *[]Value) {
	tables := func(yield func(name string, field reflect.Value)) {
		for i := range v.NumField() {
			yield(v.Type().Field(i).Tag.Get("toml"), v.Field(i))
		}
	}
	tables(func(name string, field reflect.Value) {
		if isTable(field.Type()) || field.Kind() == reflect.Pointer && field.IsNil() {
			return
		}
		source := "default"
		if at, ok := f.positions[prefix+name]; ok {
			source = fmt.Sprintf("%s:%d", f.Path, at.line)
		}
		*all = append(*all, Value{prefix + name, field.Interface(), source, table, name})
	})
	tables(func(name string, field reflect.Value) {
		switch {
		case !isTable(field.Type()):
		case field.Kind() == reflect.Struct:
			f.values(field, prefix+name+".", "["+indexes.ReplaceAllString(prefix, "")+name+"]", all)
		default:
			for i := range field.Len() {
				f.values(field.Index(i), fmt.Sprintf("%s%s[%d].", prefix, name, i), "[["+prefix+name+"]]", all)
			}
		}
	})
}

// isTable says whether a field is a table, or a list of tables, of its own.
func isTable(t reflect.Type) bool {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct && !isText(t)
}
