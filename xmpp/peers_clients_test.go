package xmpp_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Clients of other people, each talking to alice, whose client is mellium's.

// A meeting is a server with alice and bob on it, who know each other.
type meeting struct {
	company
	domain string
	alice  *user
}

func newMeeting(t *testing.T, domain string) meeting {
	t.Helper()
	l := newLab(t)
	h, err := l.prepare(t, home, []string{domain}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &play{t: t, hosts: map[string]*host{domain: h}}
	a, b := "alice@"+domain, "bob@"+domain
	if err := firstError(p.roster(a, b, []string{"both"}), p.roster(b, a, []string{"both"})); err != nil {
		t.Fatal(err)
	}
	h.run(t)
	m := meeting{company{h, l}, domain, nil}
	m.alice = enter(t, "alice", login{address: h.Addresses()["client"][0], jid: a + "/desk", password: "secret", roots: l.roots})
	return m
}

// at is the address of a listener, in two parts.
func (m meeting) at(t *testing.T, key string) (address, port string) {
	t.Helper()
	address, port, err := net.SplitHostPort(m.Addresses()[key][0])
	if err != nil {
		t.Fatal(err)
	}
	return address, port
}

// provedByScram demands that bob has logged in, and not with his password in clear.
func (m meeting) provedByScram(t *testing.T) {
	t.Helper()
	login := regexp.MustCompile(`msg=authenticated .*account=bob@\S+ mechanism=(\S+)`)
	var found []string
	until(t, "bob has logged in", func() bool {
		found = login.FindStringSubmatch(m.log.String())
		return found != nil
	})
	if !strings.HasPrefix(found[1], "SCRAM-") {
		t.Errorf("bob logged in with %s", found[1])
	}
	t.Logf("bob logged in with %s", found[1])
}

func TestSlixmpp(t *testing.T) {
	python := "/usr/bin/python3" // Debian's packages are Debian's python's, whatever else is on PATH
	if exec.Command(python, "-c", "import slixmpp").Run() != nil {
		missing(t, "slixmpp for "+python, "python3-slixmpp")
	}
	script, err := filepath.Abs("../testdata/peers/client.py")
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []struct{ name, listener string }{{"starttls", "client"}, {"direct", "client_tls"}} {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			m := newMeeting(t, "slix.example")
			address, port := m.at(t, how.listener)
			bob := "bob@" + m.domain + "/slixmpp"
			c := start(t, t.TempDir(), []string{"PASSWORD=secret", "PYTHONDONTWRITEBYTECODE=1"}, python, script, bob, address, port, how.name, m.caFile())
			m.provedByScram(t)
			c.says(t, `TLS "TLSv1.`)
			c.says(t, fmt.Sprintf("contact %q %q", "alice@"+m.domain, "both"))
			m.alice.sees("<presence from='%s'><status>slixmpp is here</status></presence>", bob)
			c.says(t, fmt.Sprintf("presence %q %q %q", m.alice.jid, "available", "here"))
			m.alice.says("<presence><show>away</show><status>at lunch</status></presence>")
			c.says(t, fmt.Sprintf("presence %q %q %q", m.alice.jid, "away", "at lunch"))
			m.alice.says("<message to='%s' type='chat'><body>How do you do?</body></message>", bob)
			c.says(t, fmt.Sprintf("message %q %q %q", m.alice.jid, "chat", "How do you do?"))
			m.alice.sees("<message from='%s' type='chat'><body>you said: How do you do?</body></message>", bob)
			m.alice.says("<message to='bob@%s' type='chat'><body>bye</body></message>", m.domain)
			m.alice.sees("<presence from='%s' type='unavailable'/>", bob)
			c.says(t, "disconnected")
		})
	}
}

// TestSlixmppResumes has slixmpp lose its connection, and come back as if nothing had happened.
func TestSlixmppResumes(t *testing.T) {
	t.Parallel()
	python := "/usr/bin/python3"
	if exec.Command(python, "-c", "import slixmpp").Run() != nil {
		missing(t, "slixmpp for "+python, "python3-slixmpp")
	}
	script, err := filepath.Abs("../testdata/peers/resume.py")
	if err != nil {
		t.Fatal(err)
	}
	m := newMeeting(t, "slix.example")
	address, port := m.at(t, "client")
	bob := "bob@" + m.domain + "/slixmpp"
	c := start(t, t.TempDir(), []string{"PASSWORD=secret", "PYTHONDONTWRITEBYTECODE=1"}, python, script, bob, address, port, m.caFile())
	c.says(t, `enabled "True"`)
	m.alice.sees("<presence from='%s'><status>slixmpp is here</status></presence>", bob)
	for n := range 3 {
		m.alice.says("<message to='%s' type='chat'><body>lose it</body></message>", bob)
		until(t, "slixmpp has lost its connection", func() bool { return strings.Count(c.output.String(), "lost\n") == n+1 })
		for i := range 3 {
			m.alice.says("<message to='bob@%s' type='chat'><body>%d.%d</body></message>", m.domain, n, i)
		}
		until(t, "slixmpp resumes", func() bool { return strings.Count(c.output.String(), "resumed ") == n+1 })
		for i := range 3 { // and nothing else: no presence, and nothing twice
			m.alice.sees("<message from='%s' type='chat'><body>you said: %d.%d</body></message>", bob, n, i)
		}
	}
	if out := c.output.String(); strings.Count(out, "started") != 1 || strings.Contains(out, "sm_failed") {
		t.Errorf("the session was not resumed:\n%s", out)
	}
	m.alice.says("<message to='bob@%s' type='chat'><body>bye</body></message>", m.domain)
	m.alice.sees("<presence from='%s' type='unavailable'/>", bob)
}

// TestSlixmppFetchesWhatItHasMissed has slixmpp page through its archive after a night away.
func TestSlixmppFetchesWhatItHasMissed(t *testing.T) {
	t.Parallel()
	python := "/usr/bin/python3"
	if exec.Command(python, "-c", "import slixmpp").Run() != nil {
		missing(t, "slixmpp for "+python, "python3-slixmpp")
	}
	script, err := filepath.Abs("../testdata/peers/archive.py")
	if err != nil {
		t.Fatal(err)
	}
	m := newMeeting(t, "slix.example")
	address, port := m.at(t, "client")
	var all []string
	for i := range 25 {
		all = append(all, fmt.Sprint(i))
		m.alice.says("<message to='bob@%s' type='chat'><body>%d</body></message>", m.domain, i)
	}
	m.alice.says("<message to='alice@%s' type='chat'><body>what is said before has had its effect</body></message>", m.domain)
	m.alice.sees("<message from='*' type='chat'><body>what is said before has had its effect</body></message>")
	c := start(t, t.TempDir(), []string{"PASSWORD=secret", "PYTHONDONTWRITEBYTECODE=1"}, python, script,
		"bob@"+m.domain+"/slixmpp", address, port, m.caFile(), "alice@"+m.domain)
	c.says(t, `announced "True"`)
	backwards := slices.Clone(all)
	slices.Reverse(backwards)
	c.says(t, fmt.Sprintf("forwards %q", strings.Join(all, " ")))
	c.says(t, fmt.Sprintf("backwards %q", strings.Join(backwards, " ")))
	c.says(t, fmt.Sprintf("with %q", strings.Join(all, " ")))
	c.says(t, fmt.Sprintf("since %q", strings.Join(all, " ")))
	c.says(t, `until ""`)
	c.says(t, `metadata "True"`)
	c.says(t, `fields "['FORM_TYPE', 'after-id', 'before-id', 'end', 'ids', 'include-groupchat', 'start', 'with']"`)
	c.says(t, `prefs "always"`)
	c.says(t, "done")
	if out := c.output.String(); strings.Contains(out, "message ") {
		t.Errorf("it was sent what it had fetched:\n%s", out)
	}
}

// TestProfanity types into Profanity, in a terminal of tmux's.
func TestProfanity(t *testing.T) {
	t.Parallel()
	program, tmux := need(t, "profanity", "profanity"), need(t, "tmux", "tmux")
	m := newMeeting(t, "prof.example")
	address, port := m.at(t, "client")
	dir := t.TempDir()
	values := map[string]string{"JID": "bob@" + m.domain, "Address": address, "Port": port}
	for file, name := range map[string]string{
		"share/profanity/accounts": "profanity.accounts", "config/profanity/profrc": "profanity.profrc",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o700); err != nil {
			t.Fatal(err)
		}
		fill(t, filepath.Join(dir, file), name, values)
	}
	s := screen{tmux: tmux, socket: filepath.Join(dir, "tmux")}
	s.child = start(t, dir, []string{
		"XDG_CONFIG_HOME=" + filepath.Join(dir, "config"), "XDG_DATA_HOME=" + filepath.Join(dir, "share"),
		"SSL_CERT_FILE=" + m.caFile(), "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "TERM=xterm",
	}, tmux, "-S", s.socket, "-f", "/dev/null", "-D")
	s.open(t, program+" -a bob")
	bob := "bob@" + m.domain + "/profanity"

	s.shows(t, `\[TLS\] \[onlin`)
	s.shows(t, `Online \(0\) *\n.* alice@`+m.domain) // the roster, beside the console
	m.alice.sees("<presence from='%s'/>", bob)
	m.provedByScram(t)
	m.alice.says("<presence><show>away</show><status>at lunch</status></presence>")
	s.shows(t, `Away \(0\) *\n.* alice@`+m.domain)
	s.shows(t, `is away, "at lunch"`)
	m.alice.says("<message to='bob@%s' type='chat'><body>How do you do?</body></message>", m.domain)
	s.types(t, "/msg alice@"+m.domain+" I thank you, well.")
	s.shows(t, "How do you do\\?")
	m.alice.sees("<message from='%s' type='chat'><body>I thank you, well.</body></message>", bob)
	s.types(t, "/quit")
	m.alice.sees("<presence from='%s' type='unavailable'/>", bob)
}

// A screen is a terminal that tmux keeps.
type screen struct {
	*child
	tmux, socket string
}

func (s screen) command(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), childPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, s.tmux, append([]string{"-S", s.socket}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("tmux %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// open runs a command in the terminal, once tmux is there.
func (s screen) open(t *testing.T, command string) {
	t.Helper()
	until(t, "tmux listens", func() bool { _, err := os.Stat(s.socket); return err == nil })
	s.command(t, "new-session", "-d", "-x", "132", "-y", "40", command)
}

// types writes a line and Enter.
func (s screen) types(t *testing.T, line string) {
	t.Helper()
	s.command(t, "send-keys", "-l", line)
	s.command(t, "send-keys", "Enter")
}

// shows waits until a line of the terminal matches an expression.
func (s screen) shows(t *testing.T, expression string) {
	t.Helper()
	wanted, text := regexp.MustCompile(expression), ""
	ctx, cancel := context.WithTimeout(t.Context(), childPatience)
	defer cancel()
	for {
		if text = s.command(t, "capture-pane", "-p"); wanted.MatchString(text) {
			return
		}
		if pause(ctx) != nil {
			t.Fatalf("the screen does not show %q:\n%s", expression, text)
		}
	}
}
