package admin

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tombolo/xmpp/audit"
	"tombolo/xmpp/module"
)

func openLog(t *testing.T) (*audit.Log, audit.Options) {
	t.Helper()
	o := audit.Options{File: filepath.Join(t.TempDir(), "audit.log")}
	l, err := audit.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, o
}

func recordsOf(t *testing.T, o audit.Options) (records []audit.Record) {
	t.Helper()
	report, err := audit.Read(o, audit.Query{Each: func(r audit.Record, _ []byte, _ bool) error {
		records = append(records, r)
		return nil
	}})
	if err != nil || len(report.Problems) > 0 {
		t.Fatalf("%v, %+v", err, report)
	}
	return records[1:] // the log's own
}

// TestRecordedBeforeAndAfter: nothing is done without a record, and the record is on the disk when the
// verb begins and when it returns.
func TestRecordedBeforeAndAfter(t *testing.T) {
	log, o := openLog(t)
	var atWork []audit.Record
	oops := errors.New("oops: the password")
	audited := Audited(map[string]module.Verb{
		"thing.do":   func(context.Context, []byte) (any, error) { atWork = recordsOf(t, o); return 7, nil },
		"thing.fail": func(context.Context, []byte) (any, error) { return nil, oops },
		"thing.list": func(context.Context, []byte) (any, error) { return 8, nil },
	}, log)
	ctx := audit.WithActor(t.Context(), audit.Actor{By: "uid 7", Remote: "here"})
	if got, err := audited["thing.do"](ctx, []byte(`{"account":"Juliet@a.test/x","Contact":"nurse@a.test","password":"hidden"}`)); got != 7 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	if len(atWork) != 1 || atWork[0].Kind != audit.Admin {
		t.Errorf("while it worked there were %+v", atWork)
	}
	if _, err := audited["thing.fail"](ctx, nil); err != oops {
		t.Errorf("got %v", err)
	}
	if got, err := audited["thing.list"](ctx, nil); got != 8 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	records := recordsOf(t, o)
	if len(records) != 4 || records[1].Kind != audit.AdminDone || records[3].Kind != audit.AdminFailed {
		t.Fatalf("%+v", records)
	}
	for _, r := range records[:2] {
		if r.By != "uid 7" || r.Remote != "here" || r.Account != "juliet@a.test" || len(r.Detail) != 2 || r.Detail["contact"] != "nurse@a.test" || r.Detail["verb"] != "thing.do" {
			t.Errorf("%+v", r)
		}
	}
	if len(records[3].Detail) != 1 {
		t.Errorf("the failure says more than whose it is: %+v", records[3])
	}
}

// TestNotRecordedNotDone: a command that cannot be recorded is not carried out.
func TestNotRecordedNotDone(t *testing.T) {
	log, _ := openLog(t)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	audited := Audited(map[string]module.Verb{"thing.do": func(context.Context, []byte) (any, error) {
		t.Error("it was done")
		return nil, nil
	}}, log)
	if _, err := audited["thing.do"](t.Context(), nil); !errors.Is(err, audit.ErrClosed) || !strings.Contains(err.Error(), "nothing was done") {
		t.Errorf("got %v", err)
	}
}

// TestDoneButNotRecorded: the operator is told.
func TestDoneButNotRecorded(t *testing.T) {
	log, _ := openLog(t)
	audited := Audited(map[string]module.Verb{"thing.do": func(context.Context, []byte) (any, error) { return nil, log.Close() }}, log)
	if _, err := audited["thing.do"](t.Context(), nil); err == nil || !strings.Contains(err.Error(), "it was done, but") {
		t.Errorf("got %v", err)
	}
}

// TestCallerOfTheSocket: who it was is the kernel's word, not the caller's.
func TestCallerOfTheSocket(t *testing.T) {
	log, o := openLog(t)
	path := socketPath(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, l, Audited(map[string]module.Verb{"thing.do": func(context.Context, []byte) (any, error) { return nil, nil }}, log), slog.New(slog.DiscardHandler))
	}()
	client, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Call(t.Context(), "thing.do", map[string]string{"by": "uid 4711"}, nil); err != nil {
		t.Error(err)
	}
	_ = client.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, r := range recordsOf(t, o) {
		if r.By != audit.User(os.Getuid()) || r.Remote != "admin socket" {
			t.Errorf("%+v", r)
		}
	}
}
