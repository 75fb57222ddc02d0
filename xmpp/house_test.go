package xmpp_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// order is the one order in which packages may import each other: only to the left. The features
// are one place in it, for they never import each other. ARCHITECTURE.md gives the reasons.
var order = [][]string{
	{"xmpp/jid", "xmpp/ns", "xmpp/meter"},
	{"xmpp/element"},
	{"xmpp/stanza"},
	{"xmpp/sasl"},
	{"storage"},
	{"storage/internal/commit"},
	{"storage/bolt", "storage/mem", "storage/storagetest"},
	{"xmpp/hook"},
	{"xmpp/transport"},
	{"xmpp/stream"},
	{"xmpp/auth", "xmpp/audit", "xmpp/journal"},
	{"xmpp/session"},
	{"xmpp/module"},
	{"xmpp/router"},
	{"xmpp/c2s", "xmpp/admin"},
	{"roster", "federation", "xmpp/xep", "xmpp/archive"},
	{"xmpp"},
	{"cmd/tombolo/internal/settings", "cmd/tombolo/internal/lab", "cmd/tombolo/internal/bench"},
	{"cmd/tombolo"},
}

// backends are chosen by the assembly; everybody else sees package storage.
var backends = []string{"storage/bolt", "storage/mem", "storage/storagetest"}

func TestImportsRunOneWay(t *testing.T) {
	place := make(map[string]int)
	for i, group := range order {
		for _, pkg := range group {
			place[pkg] = i
		}
	}
	for file, imports := range sources(t) {
		from := path.Dir(file)
		at, known := place[from]
		if !known {
			t.Errorf("%s: package %s has no place in the order of imports; give it one here and in ARCHITECTURE.md", file, from)
			continue
		}
		for _, to := range imports {
			switch {
			case slices.Contains(backends, to) && at < place["xmpp"]:
				t.Errorf("%s imports %s: only the assembly chooses a storage backend", file, to)
			case place[to] == at:
				t.Errorf("%s imports %s: packages of one ring do not know each other; declare a small interface where it is used", file, to)
			case place[to] > at:
				t.Errorf("%s imports %s, which lies above it: the order runs one way, so that each package can be read without those above", file, to)
			}
		}
	}
}

// TestEveryPackageSaysWhatItIsFor demands a package comment in exactly one file of each package.
func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	docs := make(map[string][]string)
	for file := range sources(t) {
		pkg := path.Dir(file)
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		docs[pkg] = append(docs[pkg], "")
		if text := f.Doc.Text(); text != "" {
			docs[pkg] = append(docs[pkg], text)
		}
	}
	for pkg, texts := range docs {
		texts = slices.DeleteFunc(texts, func(s string) bool { return s == "" })
		switch {
		case len(texts) != 1:
			t.Errorf("%s has %d package comments, want one that says who calls it and where to start", pkg, len(texts))
		case len(texts[0]) < 80:
			t.Errorf("%s: the package comment says too little: %q", pkg, texts[0])
		}
	}
}

// sources are the module's files, tests left out, with what they import of the module.
func sources(t *testing.T) map[string][]string {
	t.Helper()
	files := make(map[string][]string)
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != ".." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("..", name)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)] = []string{}
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if to, ours := strings.CutPrefix(p, "tombolo/"); ours {
				files[filepath.ToSlash(rel)] = append(files[filepath.ToSlash(rel)], to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
