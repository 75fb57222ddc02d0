package xmpp_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"tombolo/storage/bolt"
	"tombolo/storage/storagetest"
	"tombolo/xmpp"
	"tombolo/xmpp/archive"
)

// What clients find after a restart, and when commits fail, besides the messages that chaos and
// TestResumptionAcrossRestarts count.

// A lasting server keeps its state in a file, and is ended and started again as by its operator.
type lasting struct {
	target
	t      *testing.T
	file   string
	faults storagetest.Faults
}

func newLasting(t *testing.T, settings string, accounts ...string) *lasting {
	t.Helper()
	l := newLab(t)
	h, err := l.prepare(t, "127.0.0.1", []string{"a.test"}, "auth.plain = true\nauth.iterations = 4096\n"+settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil { // it was for its configuration
		t.Fatal(err)
	}
	s := &lasting{target: target{h, l}, t: t, file: filepath.Join(t.TempDir(), "db")}
	s.start()
	t.Cleanup(func() { s.end() })
	for _, name := range accounts {
		if err := s.addAccount(name+"@a.test", "secret of "+name); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *lasting) start() {
	s.t.Helper()
	h := &host{domains: s.domains, config: s.config, stopped: make(chan error, 1)}
	var err error
	if h.store, err = bolt.Open(s.file, bolt.Options{BeforeCommit: s.faults.BeforeCommit}); err != nil {
		s.t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if h.Server, err = xmpp.New(h.config, xmpp.Options{Log: logger, Version: "test", Store: h.store}); err != nil {
		s.t.Fatal(err)
	}
	if err := h.Listen(); err != nil {
		s.t.Fatal(err)
	}
	s.host = h
	var ctx context.Context
	ctx, h.stop = context.WithCancel(context.Background())
	go func() { h.stopped <- h.Run(ctx) }()
}

func (s *lasting) end() {
	s.t.Helper()
	s.stop()
	select {
	case err := <-s.stopped:
		if err != nil {
			s.t.Error(err)
		}
	case <-time.After(2 * patience):
		s.t.Fatal("the server does not end")
	}
	if s.t.Failed() {
		s.t.Logf("log:\n%s", s.log.String())
	}
}

func (s *lasting) restart() {
	s.t.Helper()
	s.end()
	s.start()
}

// resumable is a session that can be resumed, and its id.
func (s *lasting) resumable(name, resource string) (w *wire, id string) {
	s.t.Helper()
	w = s.authenticated(s.t, name)
	w.bind(resource)
	w.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
	w.expect("<enabled ")
	return w, regexp.MustCompile(`id='([^']*)'`).FindStringSubmatch(w.expect("/>"))[1]
}

// parked is how many sessions have no stream.
func (s *lasting) parked() int {
	s.t.Helper()
	status, err := s.Call(s.t.Context(), "server.status", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return status.(xmpp.Status).Parked
}

// cut lets the connection of a session break, and waits until the server knows.
func (s *lasting) cut(w *wire) {
	s.t.Helper()
	before := s.parked()
	w.tcp.SetLinger(0)
	w.tcp.Close()
	until(s.t, "the session has no stream", func() bool { return s.parked() > before })
}

// resume goes on with a session whose client has got h stanzas. It returns the server's count.
func (s *lasting) resume(name, id, h string) (w *wire, handled string) {
	s.t.Helper()
	w = s.authenticated(s.t, name)
	w.send("<resume xmlns='urn:xmpp:sm:3' previd='" + id + "' h='" + h + "'/>")
	w.expect("<resumed ")
	return w, regexp.MustCompile(` h='([^']*)'`).FindStringSubmatch(w.expect("/>"))[1]
}

// XEP-0198 section 5: the server says which stanzas of the client it has handled, after an orderly end as well, and
// so none is sent and handled twice.
func TestCountAfterRestart(t *testing.T) {
	t.Parallel()
	s := newLasting(t, "", "romeo", "juliet")
	romeo, id := s.resumable("romeo", "x")
	juliet, _ := s.resumable("juliet", "x")
	romeo.send("<presence/><message to='juliet@a.test/x' type='chat'><body>once</body><no-store xmlns='urn:xmpp:hints'/></message>")
	juliet.expect("<body>once</body>")
	romeo.settled() // the third stanza
	s.restart()
	if _, handled := s.resume("romeo", id, "1"); handled != "3" {
		t.Errorf("3 stanzas were handled, and the server says %s", handled)
	}
}

// What waits for a session is still delivered when it was purged from the archive meanwhile, to the next client if that
// session is not resumed. Its sender hears nothing more.
func TestPurgedIsDelivered(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			t.Parallel()
			s := newLasting(t, "", "romeo", "juliet")
			romeo := s.bound(t, "romeo")
			phone, _ := s.resumable("juliet", "phone")
			phone.send("<presence/>")
			phone.settled()
			s.cut(phone)
			romeo.send("<message to='juliet@a.test' type='chat'><body>purged</body></message>")
			romeo.settled()
			purged, err := s.Call(t.Context(), "archive.purge", []byte(`{"account":"juliet@a.test","before":"2100-01-01T00:00:00Z"}`))
			if err != nil || purged.(archive.Purged).Messages != 1 {
				t.Fatalf("purged %v, %v", purged, err)
			}
			if restart {
				s.restart()
				romeo = s.bound(t, "romeo")
			}
			if _, err := s.Call(t.Context(), "session.kick", []byte(`{"jid":"juliet@a.test/phone"}`)); err != nil {
				t.Fatal(err)
			}
			s.online(t, "juliet").expect("<body>purged</body>")
			if got := romeo.settled(); got != "" {
				t.Errorf("romeo gets %s", got)
			}
			left, err := s.Call(t.Context(), "archive.read", []byte(`{"account":"juliet@a.test"}`))
			if err != nil || len(left.([]archive.Message)) != 0 {
				t.Errorf("in the archive: %v, %v", left, err)
			}
		})
	}
}

// TestPushesAcrossRestart: a client that resumes its session does not ask for the roster, because it is told of all
// changes (XEP-0198 section 5), and so it is with the blocklist: of those that it had not acknowledged when the server
// ended, and of later ones.
func TestPushesAcrossRestart(t *testing.T) {
	t.Parallel()
	s := newLasting(t, "", "juliet")
	phone, id := s.resumable("juliet", "phone")
	laptop := s.bound(t, "juliet")
	change := func(w *wire, payloads ...string) {
		for _, payload := range payloads {
			w.send("<iq type='set' id='change'>" + payload + "</iq>")
			w.expect("id='change'")
		}
	}
	const (
		contact = "<query xmlns='jabber:iq:roster'><item jid='%s@b.test'%s/></query>"
		block   = "<%[1]s xmlns='urn:xmpp:blocking'><item jid='%[2]s@b.test'/></%[1]s>"
	)
	change(laptop, fmt.Sprintf(contact, "old", ""), fmt.Sprintf(block, "block", "friend"))
	phone.send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><iq type='get' id='b'><blocklist xmlns='urn:xmpp:blocking'/></iq>")
	phone.settled()
	s.cut(phone)
	change(laptop, fmt.Sprintf(contact, "new", ""), fmt.Sprintf(contact, "old", " subscription='remove'"),
		fmt.Sprintf(block, "block", "spam"), fmt.Sprintf(block, "unblock", "friend"))
	s.restart()
	phone, _ = s.resume("juliet", id, "0")
	got := phone.settled()
	for _, want := range []string{"<item jid='new@b.test' subscription='none'/>", "<item jid='old@b.test' subscription='remove'/>",
		fmt.Sprintf(block, "block", "spam"), fmt.Sprintf(block, "unblock", "friend")} {
		if strings.Count(got, want) != 1 {
			t.Errorf("no push of %s in %s", want, got)
		}
	}
	if n := strings.Count(got, " type='set' "); n != 4 {
		t.Errorf("%d pushes: %s", n, got)
	}
	handled := fmt.Sprint(1 + len(regexp.MustCompile("<(iq|presence|message) ").FindAllString(got, -1))) // and the answer
	phone.send("<a xmlns='urn:xmpp:sm:3' h='" + handled + "'/>")
	laptop = s.bound(t, "juliet")
	change(laptop, fmt.Sprintf(block, "block", "more"))
	if got := phone.settled(); !strings.Contains(got, fmt.Sprintf(block, "block", "more")) {
		t.Errorf("it does not learn of changes any more: %s", got)
	}
	s.restart()
	phone, _ = s.resume("juliet", id, handled)
	if got := phone.settled(); strings.Count(got, " type='set' ") != 1 || !strings.Contains(got, fmt.Sprintf(block, "block", "more")) {
		t.Errorf("it is told again: %s", got)
	}
}
