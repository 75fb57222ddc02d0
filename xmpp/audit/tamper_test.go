package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// history writes a log of three files and some thirty records and closes it.
func history(t testing.TB) Options {
	o := place(t)
	o.RotateSize = 2500
	l := open(t, o)
	for i := range 30 {
		l.mustWrite(t, Event{Kind: Login, Account: fmt.Sprintf("user%d@a.test", i), Remote: "192.0.2.7:4711"})
	}
	l.mustClose(t)
	if report, _ := sound(t, o); report.Files < 3 {
		t.Fatalf("%+v", report)
	}
	return o
}

// A copy of a log is its files by name.
type snapshot map[string][]byte

func save(t testing.TB, o Options) snapshot {
	t.Helper()
	s := make(snapshot)
	entries, err := os.ReadDir(filepath.Dir(o.File))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if s[e.Name()], err = os.ReadFile(filepath.Join(filepath.Dir(o.File), e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s snapshot) restore(t testing.TB, o Options) {
	t.Helper()
	for name := range save(t, o) {
		if err := os.Remove(filepath.Join(filepath.Dir(o.File), name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range s {
		if err := os.WriteFile(filepath.Join(filepath.Dir(o.File), name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func lines(t testing.TB, path string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(bytes.Lines(text))
}

func rewrite(t testing.TB, path string, lines ...[]byte) {
	t.Helper()
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTampering: whatever somebody without the key does to the log is found, both before the server
// is started again and after.
func TestTampering(t *testing.T) {
	o := history(t)
	clean := save(t, o)
	list, err := parts(o.File)
	if err != nil {
		t.Fatal(err)
	}
	oldest, middle := list[0].path, list[1].path
	edit := func(old, new string) func(*testing.T) {
		return func(t *testing.T) {
			l := lines(t, middle)
			l[3] = bytes.Replace(l[3], []byte(old), []byte(new), 1)
			rewrite(t, middle, l...)
		}
	}
	for name, tamper := range map[string]func(*testing.T){
		"edit: account":        edit("user", "usef"),
		"edit: kind":           edit(`"login"`, `"admin"`),
		"edit: time":           edit(`"time":"2`, `"time":"1`),
		"edit: number":         edit(`"seq":1`, `"seq":9`),
		"edit: mac":            edit(`","mac":"`, `","mac":"0`),
		"edit: member added":   edit(`,"mac":"`, `,"by":"uid 0","mac":"`),
		"edit: spaces":         edit(`{"seq"`, `{ "seq"`),
		"edit: carriage":       edit("}\n", "}\r\n"),
		"edit: mac upper case": func(t *testing.T) { upperMAC(t, middle) },
		"delete: one":          func(t *testing.T) { l := lines(t, middle); rewrite(t, middle, slices.Delete(l, 3, 4)...) },
		"delete: several":      func(t *testing.T) { l := lines(t, middle); rewrite(t, middle, slices.Delete(l, 3, 6)...) },
		"delete: first of file": func(t *testing.T) {
			rewrite(t, middle, lines(t, middle)[1:]...)
		},
		"delete: first of log": func(t *testing.T) { rewrite(t, oldest, lines(t, oldest)[1:]...) },
		"delete: end of old file": func(t *testing.T) {
			l := lines(t, middle)
			rewrite(t, middle, l[:len(l)-1]...)
		},
		"delete: oldest file": func(t *testing.T) { remove(t, oldest) },
		"delete: middle file": func(t *testing.T) { remove(t, middle) },
		"delete: newest file": func(t *testing.T) { remove(t, o.File) },
		"delete: all files":   func(t *testing.T) { remove(t, append(names(list), o.File)...) },
		"delete: all files and the state": func(t *testing.T) {
			remove(t, append(names(list), o.File, statePath(o.File))...)
		},
		"reorder: neighbours": func(t *testing.T) {
			l := lines(t, middle)
			l[3], l[4] = l[4], l[3]
			rewrite(t, middle, l...)
		},
		"reorder: files": func(t *testing.T) {
			a, b := lines(t, oldest), lines(t, middle)
			rewrite(t, oldest, b...)
			rewrite(t, middle, a...)
		},
		"rename: a file": func(t *testing.T) {
			if err := os.Rename(oldest, oldName(o.File, 2)); err != nil {
				t.Fatal(err)
			}
		},
		"insert: copy of a record": func(t *testing.T) { l := lines(t, middle); rewrite(t, middle, slices.Insert(l, 3, l[5])...) },
		"insert: record twice":     func(t *testing.T) { l := lines(t, middle); rewrite(t, middle, slices.Insert(l, 3, l[3])...) },
		"insert: forged": func(t *testing.T) {
			l := lines(t, middle)
			at, _ := parse(bytes.TrimSpace(l[3]))
			forged := newKeys(make([]byte, keySize)).append(nil, &at.at, Event{Kind: Admin}, false)
			rewrite(t, middle, slices.Insert(l, 4, forged)...)
		},
		"insert: forged with the MAC before it": func(t *testing.T) {
			l := lines(t, middle)
			sum := l[3][len(l[3])-suffixSize-1:]
			forged := append([]byte(`{"seq":5,"kind":"login"`), sum...)
			rewrite(t, middle, slices.Insert(l, 4, forged)...)
		},
		"insert: no record":  func(t *testing.T) { l := lines(t, middle); rewrite(t, middle, slices.Insert(l, 3, []byte("\n"))...) },
		"insert: long line":  func(t *testing.T) { l := lines(t, middle); rewrite(t, middle, slices.Insert(l, 3, longLine())...) },
		"insert: first file": func(t *testing.T) { rewrite(t, oldName(o.File, 0), lines(t, oldest)...) },
		"append: copy": func(t *testing.T) {
			l := lines(t, o.File)
			rewrite(t, o.File, append(l, l[len(l)-1])...)
		},
		"append: old beginning": func(t *testing.T) { rewrite(t, o.File, append(lines(t, o.File), lines(t, middle)[0])...) },
		"append: no record":     func(t *testing.T) { rewrite(t, o.File, append(lines(t, o.File), []byte("x\n"))...) },
		"truncate: one record": func(t *testing.T) {
			l := lines(t, o.File)
			rewrite(t, o.File, l[:len(l)-1]...)
		},
		"truncate: within a record": func(t *testing.T) {
			l := lines(t, o.File)
			l[len(l)-1] = l[len(l)-1][:40]
			rewrite(t, o.File, l...)
		},
		"truncate: file":               func(t *testing.T) { rewrite(t, o.File) },
		"truncate: middle file":        func(t *testing.T) { rewrite(t, middle) },
		"truncate: older for newer":    func(t *testing.T) { rewrite(t, o.File, lines(t, middle)...) },
		"truncate: last file put back": func(t *testing.T) { putBack(t, list[len(list)-1].path, o.File) },
		"state: removed":               func(t *testing.T) { remove(t, statePath(o.File)) },
		"state: empty":                 func(t *testing.T) { rewrite(t, statePath(o.File)) },
		"state: edited": func(t *testing.T) {
			text := bytes.Join(lines(t, statePath(o.File)), nil)
			rewrite(t, statePath(o.File), bytes.Replace(text, []byte(`"seq":3`), []byte(`"seq":2`), 1))
		},
		"state and record removed": func(t *testing.T) {
			l := lines(t, o.File)
			rewrite(t, o.File, l[:len(l)-1]...)
			remove(t, statePath(o.File))
		},
	} {
		t.Run(name, func(t *testing.T) {
			clean.restore(t, o)
			tamper(t)
			if report, _ := read(t, o); len(report.Problems) == 0 {
				t.Errorf("not found: %+v", report)
			}
			l := open(t, o)
			l.mustWrite(t, Event{Kind: Login, Account: "after"})
			l.mustClose(t)
			report, records := read(t, o)
			if len(report.Problems) == 0 {
				t.Errorf("not found any more after the next start: %+v", report)
			}
			if last := records[len(records)-1]; last.Account != "after" {
				t.Errorf("the last record is %+v", last)
			}
		})
	}
	clean.restore(t, o)
	sound(t, o)
}

// TestTamperingWhileRunning: a log that somebody cuts, moves or replaces under the server is noticed
// with the next record, which is not lost with it.
func TestTamperingWhileRunning(t *testing.T) {
	for name, tamper := range map[string]func(*testing.T, Options){
		"removed": func(t *testing.T, o Options) { remove(t, o.File) },
		"cut":     func(t *testing.T, o Options) { rewrite(t, o.File, lines(t, o.File)[:2]...) },
		"emptied": func(t *testing.T, o Options) { rewrite(t, o.File) },
		"cut with its state": func(t *testing.T, o Options) {
			rewrite(t, o.File, lines(t, o.File)[:2]...)
			remove(t, statePath(o.File))
		},
		"appended to": func(t *testing.T, o Options) { rewrite(t, o.File, append(lines(t, o.File), []byte("x\n"))...) },
		"moved by logrotate": func(t *testing.T, o Options) {
			if err := os.Rename(o.File, o.File+".1.gz"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := place(t)
			l := open(t, o)
			for range 4 {
				l.mustWrite(t, Event{Kind: Login})
			}
			tamper(t, o)
			l.mustWrite(t, Event{Kind: Login, Account: "after"})
			l.mustClose(t)
			report, records := read(t, o)
			if len(report.Problems) == 0 || !strings.HasSuffix(kinds(records), "log-damaged login") {
				t.Errorf("%s: %+v", kinds(records), report)
			}
		})
	}
}

// TestStateTakenWhileRunning: it is made again.
func TestStateTakenWhileRunning(t *testing.T) {
	o := place(t)
	l := open(t, o)
	remove(t, statePath(o.File))
	l.mustWrite(t, Event{Kind: Login})
	l.mustClose(t)
	sound(t, o)
}

// TestKeyGone: without its key a log cannot be continued, and is not begun anew.
func TestKeyGone(t *testing.T) {
	o := history(t)
	remove(t, o.withDefaults().Key)
	if l, err := Open(o); err == nil || !strings.Contains(err.Error(), "is missing; restore it") {
		t.Errorf("opened: %v, %v", l, err)
	}
	if _, err := Read(o, Query{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("read: %v", err)
	}
}

// TestOtherKey: a log of somebody else is not believed.
func TestOtherKey(t *testing.T) {
	o, other := history(t), history(t)
	rewrite(t, o.withDefaults().Key, lines(t, other.withDefaults().Key)...)
	if report, _ := read(t, o); len(report.Problems) < 30 {
		t.Errorf("%d problems", len(report.Problems))
	}
	rewrite(t, o.withDefaults().Key, []byte("0123\n"))
	if l, err := Open(o); err == nil {
		t.Errorf("opened with a short key: %v", l)
	}
}

// TestNotFound is what no log with its key on the same machine can find: all of it put back to what it
// was some time ago. Somebody who had noted the last record finds it.
func TestNotFound(t *testing.T) {
	o := history(t)
	before := save(t, o)
	l := open(t, o)
	l.mustWrite(t, Event{Kind: Login})
	l.mustClose(t)
	report, _ := sound(t, o)
	before.restore(t, o)
	sound(t, o)
	if report, _ := read(t, o, report.Anchor); len(report.Problems) != 1 {
		t.Errorf("with the noted record: %+v", report)
	}
}

// TestEveryByte: no byte of the log can change unnoticed.
func TestEveryByte(t *testing.T) {
	o := place(t)
	l := open(t, o)
	l.mustWrite(t, Event{Kind: Login, Account: "juliet@a.test", Detail: map[string]string{"a": "b"}})
	l.mustClose(t)
	for _, path := range []string{o.File, statePath(o.File)} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range bytes.TrimRight(text, " \n") {
			changed := bytes.Clone(text)
			changed[i] ^= []byte{1, 0x20}[i%2]
			rewrite(t, path, changed)
			if report, _ := read(t, o); len(report.Problems) == 0 {
				t.Errorf("%s: byte %d (%q) changed to %q", path, i, text[i], changed[i])
			}
			if i%8 != 0 {
				continue
			}
			rewrite(t, path, text[:i])
			if report, _ := read(t, o); len(report.Problems) == 0 {
				t.Errorf("%s cut after %d bytes", path, i)
			}
		}
		rewrite(t, path, text)
	}
	sound(t, o)
}

// TestExport: one file with all records can be checked by itself, but for its end.
func TestExport(t *testing.T) {
	o := history(t)
	export := filepath.Join(t.TempDir(), "export.jsonl")
	var all [][]byte
	_, err := Read(o, Query{Each: func(_ Record, line []byte, _ bool) error {
		all = append(all, append(bytes.Clone(line), '\n'))
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, export, all...)
	alone := func() Report {
		t.Helper()
		report, err := Read(Options{File: export, Key: o.withDefaults().Key}, Query{Alone: true})
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	if report := alone(); len(report.Problems) != 0 || report.Records != len(all) || len(report.Notes) != 1 {
		t.Errorf("%+v", report)
	}
	rewrite(t, export, slices.Delete(all, 20, 21)...)
	if report := alone(); len(report.Problems) == 0 {
		t.Errorf("%+v", report)
	}
}

// FuzzRead: nothing that is in the file brings the reader down, and only what the server wrote is
// genuine.
func FuzzRead(f *testing.F) {
	o := place(f)
	l := open(f, o)
	if err := l.WriteSync(context.Background(), Event{Kind: Login, Account: "juliet@a.test"}); err != nil {
		f.Fatal(err)
	}
	l.mustClose(f)
	text, err := os.ReadFile(o.File)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("{}\n"))
	f.Add(text[100:])
	f.Fuzz(func(t *testing.T, changed []byte) {
		rewrite(t, o.File, changed)
		genuine := 0
		report, err := Read(o, Query{Each: func(_ Record, line []byte, good bool) error {
			if good {
				genuine++
				if !bytes.Contains(text, append(bytes.Clone(line), '\n')) {
					t.Errorf("believed: %q", line)
				}
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Problems) == 0 && !bytes.HasPrefix(changed, text) {
			t.Errorf("no problem is found in %q", changed)
		}
	})
}

func names(list []part) (paths []string) {
	for _, p := range list {
		paths = append(paths, p.path)
	}
	return paths
}

func remove(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func putBack(t *testing.T, old, file string) {
	if err := os.Rename(old, file); err != nil {
		t.Fatal(err)
	}
}

func upperMAC(t *testing.T, path string) {
	l := lines(t, path)
	cut := len(l[3]) - suffixSize + len(suffixStart) - 1
	upper := bytes.ToUpper(l[3][cut : cut+64])
	l[3] = slices.Concat(l[3][:cut], upper, l[3][cut+64:])
	rewrite(t, path, l...)
}

func longLine() []byte { return append(bytes.Repeat([]byte{'x'}, 3*maxLine), '\n') }
