package xmpp_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"tombolo/storage"
	"tombolo/storage/bolt"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// kill goes on with what is durable at this moment, and nothing else.
func (s *lasting) kill() {
	s.t.Helper()
	s.file += "-killed"
	f, err := os.Create(s.file)
	if err == nil {
		_, err = s.store.Backup(f)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.restart()
}

// managed is an available session with stream management, as attributes of <enable/> want it. It returns what
// resumes it, if anything does.
func (s *lasting) managed(name, resource, attributes string) (w *wire, id string) {
	s.t.Helper()
	w = s.authenticated(s.t, name)
	w.bind(resource)
	w.sendf("<enable xmlns='%s' %s/>", ns.SM, attributes)
	w.expect("<enabled ")
	if _, after, ok := strings.Cut(w.expect("/>"), "id='"); ok {
		id, _, _ = strings.Cut(after, "'")
	}
	w.show(resource)
	return w, id
}

const resumable = "resume='true'"

// unmanaged is an available session without stream management.
func (s *lasting) unmanaged(name, resource string) *wire {
	s.t.Helper()
	w := s.authenticated(s.t, name)
	w.bind(resource)
	w.show(resource)
	return w
}

// show makes a session available. What waited for it comes behind its own presence.
func (w *wire) show(resource string) {
	w.t.Helper()
	w.send("<presence/>")
	w.expect(w.to + "/" + resource + "'/>")
}

// acknowledged waits until the server has said that so many stanzas are handled.
func (w *wire) acknowledged(h int) {
	w.t.Helper()
	w.sendf("<r xmlns='%s'/>", ns.SM)
	w.expect(fmt.Sprintf("<a xmlns='%s' h='%d'/>", ns.SM, h))
}

// lose cuts the connection.
func (w *wire) lose() {
	w.tcp.SetLinger(0)
	w.tcp.Close()
}

// here says whether there is such a session.
func (s *lasting) here(full string) bool {
	s.t.Helper()
	got, err := s.Call(s.t.Context(), "session.list", []byte("{}"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, one := range got.([]c2s.SessionInfo) {
		if one.JID.String() == full {
			return true
		}
	}
	return false
}

// kick ends a session.
func (s *lasting) kick(full string) {
	s.t.Helper()
	args, err := json.Marshal(c2s.KickRequest{JID: jid.MustParse(full)})
	if err == nil {
		_, err = s.Call(s.t.Context(), "session.kick", args)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// finds has a new client of an account get a message with this body, once.
func (s *lasting) finds(name, body string) {
	s.t.Helper()
	w := s.unmanaged(name, "finder")
	w.expect("<body>" + body + "</body>")
	if more := w.settled(); strings.Contains(more, body) {
		s.t.Errorf("it comes twice: %q", more)
	}
}

// TestMessageToSeveralAcrossARestart: a message that several devices were sent is sent on when all of them have lost
// it, though the server was another one when the first did (XEP-0198 section 4).
func TestMessageToSeveralAcrossARestart(t *testing.T) {
	t.Parallel()
	for _, archive := range []bool{true, false} {
		for _, carbon := range []bool{true, false} {
			for name, restart := range map[string]func(*lasting){"none": func(*lasting) {}, "in order": (*lasting).restart, "kill": (*lasting).kill} {
				t.Run(fmt.Sprintf("archive=%t/carbon=%t/%s", archive, carbon, name), func(t *testing.T) {
					t.Parallel()
					p := newLasting(t, fmt.Sprintf("archive.enabled = %t", archive), "romeo", "juliet")
					romeo, _ := p.managed("romeo", "x", resumable)
					phone, _ := p.managed("juliet", "phone", resumable)
					laptop, _ := p.managed("juliet", "laptop", resumable)
					to := "juliet@a.test"
					if carbon { // for the laptop
						to += "/phone"
						laptop.sendf("<iq type='set' id='c'><enable xmlns='%s'/></iq>", ns.Carbons)
						laptop.expect("id='c'")
					}
					phone.lose()
					laptop.lose()
					romeo.sendf("<message to='%s' type='chat'><body>both</body></message>", to)
					romeo.acknowledged(2)
					p.kick("juliet@a.test/phone")
					if err := p.store.Submit(nil).Wait(t.Context()); err != nil {
						t.Fatal(err)
					}
					restart(p)
					if !p.here("juliet@a.test/laptop") {
						t.Fatal("the laptop is gone, too")
					}
					p.kick("juliet@a.test/laptop")
					p.finds("juliet", "both")
				})
			}
		}
	}
}

// TestUnwrittenIsSentOn: who does not acknowledge has got what was written to the connection, and nothing else. What a
// client that is gone was about to get waits for the next, also where another device shares it.
func TestUnwrittenIsSentOn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		archive, phone bool
		end            func(*lasting, *wire)
	}{
		{"alone, cut", true, false, func(_ *lasting, w *wire) { w.lose() }},
		{"alone, ended", true, false, func(p *lasting, _ *wire) { p.kick("juliet@a.test/old") }},
		{"beside another, cut", true, true, func(_ *lasting, w *wire) { w.lose() }},
		{"beside another, ended", true, true, func(p *lasting, _ *wire) { p.kick("juliet@a.test/old") }},
		{"beside another, without archive", false, true, func(_ *lasting, w *wire) { w.lose() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newLasting(t, fmt.Sprintf("archive.enabled = %t", test.archive), "romeo", "juliet")
			romeo, _ := p.managed("romeo", "x", resumable)
			if test.phone {
				phone, _ := p.managed("juliet", "phone", resumable)
				phone.lose()
			}
			old := p.unmanaged("juliet", "old")
			stalled, release := p.faults.Stall()
			defer release()
			romeo.send("<message to='juliet@a.test' type='chat'><body>kept</body></message>")
			<-stalled
			test.end(p, old)
			until(t, "it has ended", func() bool { return !p.here("juliet@a.test/old") })
			release()
			romeo.acknowledged(2)
			if test.phone {
				p.kick("juliet@a.test/phone")
			}
			if got := old.rest(); strings.Contains(got, "kept") {
				t.Errorf("a client that has ended gets %q", got)
			}
			p.finds("juliet", "kept")
		})
	}
}

// TestKeptForWhoAcknowledges: what somebody was told has arrived is not with a recipient who has not acknowledged it, be
// his session one that can be resumed or not: a crash loses neither (XEP-0198 section 4).
func TestKeptForWhoAcknowledges(t *testing.T) {
	t.Parallel()
	for _, archive := range []bool{true, false} {
		for _, attributes := range []string{"", "resume='true' max='1'"} {
			t.Run(fmt.Sprintf("archive=%t/%s", archive, attributes), func(t *testing.T) {
				t.Parallel()
				p := newLasting(t, fmt.Sprintf("archive.enabled = %t", archive), "romeo", "juliet")
				romeo, _ := p.managed("romeo", "x", resumable)
				juliet, _ := p.managed("juliet", "x", attributes)
				for _, body := range []string{"got", "lost"} {
					romeo.sendf("<message to='juliet@a.test' type='chat'><body>%s</body></message>", body)
					juliet.expect("<body>" + body + "</body>")
				}
				romeo.acknowledged(3)
				juliet.sendf("<a xmlns='%s' h='2'/>", ns.SM) // her presence and the first
				until(t, "that is noted", func() bool {
					waiting := 0
					err := p.store.View(func(tx storage.Tx) error {
						peers, err := tx.Peers().All()
						for _, peer := range peers {
							list, damage := tx.Peers().Waiting(peer.ID)
							waiting, err = waiting+len(list), errors.Join(err, damage)
						}
						return err
					})
					return err == nil && waiting == 1
				})
				p.kill()
				until(t, "the session has ended", func() bool { return !p.here("juliet@a.test/x") })
				p.finds("juliet", "lost")
			})
		}
	}
}

// TestCountOfAnEndedSession: the count with which a server may refuse a resumption says what need not be sent again,
// so it has what was handled after the session ended, and there is none before that is known (XEP-0198 section 5).
func TestCountOfAnEndedSession(t *testing.T) {
	t.Parallel()
	p := newLasting(t, "", "romeo", "juliet")
	juliet, _ := p.managed("juliet", "x", resumable)
	romeo, id := p.managed("romeo", "x", resumable)
	romeo.acknowledged(1)
	stalled, release := p.faults.Stall()
	defer release()
	romeo.send("<message to='juliet@a.test' type='chat'><body>once</body></message>")
	<-stalled
	other := p.authenticated(t, "romeo")
	other.bind("x") // in place of the first
	again := p.authenticated(t, "romeo")
	resume := fmt.Sprintf("<resume xmlns='%s' previd='%s' h='0'/>", ns.SM, id)
	again.send(resume)
	if got := again.expect("</failed>"); strings.Contains(got, "h='") {
		t.Errorf("got %q before the message is stored", got)
	}
	release()
	juliet.expect("<body>once</body>")
	got := ""
	until(t, "that is known", func() bool {
		again.send(resume)
		got = again.expect("</failed>")
		return strings.Contains(got, "h='")
	})
	if !strings.Contains(got, "h='2'") {
		t.Errorf("got %q after the message was delivered", got)
	}
}

// TestCountOfALateRecord: a session that there was no space for is kept later, with the count that its client has been
// told since (XEP-0198 section 5).
func TestCountOfALateRecord(t *testing.T) {
	t.Parallel()
	p := newLasting(t, "", "romeo", "juliet")
	romeo := p.authenticated(t, "romeo")
	romeo.bind("x")
	if err := p.store.Submit(nil).Wait(t.Context()); err != nil { // what is written now is the session
		t.Fatal(err)
	}
	p.faults.FailNext(fmt.Errorf("test: %w", storage.ErrNoSpace))
	romeo.sendf("<enable xmlns='%s' resume='true'/>", ns.SM)
	_, id, _ := strings.Cut(romeo.expect("resume="), "id='")
	id, _, _ = strings.Cut(id, "'")
	if p.faults.Pending() != 0 {
		t.Fatal("there was space")
	}
	for i := range 3 {
		romeo.sendf("<message to='juliet@a.test' type='chat'><body>%d</body></message>", i)
	}
	romeo.acknowledged(3)
	romeo.show("x") // and with that the session is written
	if err := p.store.Submit(nil).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.kill()
	romeo = p.authenticated(t, "romeo")
	romeo.sendf("<resume xmlns='%s' previd='%s' h='0'/>", ns.SM, id)
	romeo.expect("<resumed ")
	if got := romeo.expect("/>"); !strings.Contains(got, "h='3'") && !strings.Contains(got, "h='4'") {
		t.Errorf("3 were acknowledged, now: %s", got)
	}
}

// TestDamagedSessionIsSentOn: what waits for a session whose record cannot be read is not lost with it, and another
// session that was sent the same does not take it for acknowledged.
func TestDamagedSessionIsSentOn(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"{", "{}", `{"Key":"AAAA","Full":"juliet@a.test/laptop"}`} {
		for _, shared := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%t", state, shared), func(t *testing.T) {
				t.Parallel()
				p := newLasting(t, "archive.enabled = false", "romeo", "juliet")
				romeo, _ := p.managed("romeo", "x", resumable)
				phone, _ := p.managed("juliet", "phone", resumable)
				laptop, _ := p.managed("juliet", "laptop", resumable)
				phone.lose()
				laptop.lose()
				if !shared {
					p.kick("juliet@a.test/phone")
				}
				romeo.send("<message to='juliet@a.test' type='chat'><body>kept</body></message>")
				romeo.acknowledged(2)
				p.end()
				store, err := bolt.Open(p.file, bolt.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if err := store.Submit(func(tx storage.Tx) error {
					peers, err := tx.Peers().All()
					for _, peer := range peers {
						if strings.Contains(string(peer.State), "juliet@a.test/laptop") {
							peer.State = []byte(state)
							err = errors.Join(err, tx.Peers().Put(peer))
						}
					}
					return err
				}).Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := store.Close(); err != nil {
					t.Fatal(err)
				}
				p.start()
				if shared {
					if !p.here("juliet@a.test/phone") {
						t.Fatal("the phone is gone, too")
					}
					p.kick("juliet@a.test/phone")
				}
				p.finds("juliet", "kept")
			})
		}
	}
}
