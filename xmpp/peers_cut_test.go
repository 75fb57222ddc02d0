package xmpp_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A cutter stands before a server and cuts the connections to it.
type cutter struct {
	net.Listener
	mu    sync.Mutex
	conns []*net.TCPConn
}

func newCutter(t *testing.T, address, target string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: listener}
	t.Cleanup(func() { listener.Close(); c.cut() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, in.(*net.TCPConn), out.(*net.TCPConn))
			c.mu.Unlock()
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					in.Close()
					out.Close()
				}()
			}
		}
	}()
	return c
}

// cut resets all connections, so that what is on its way is lost, and says whether there were any.
func (c *cutter) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.SetLinger(0)
		conn.Close()
	}
	any := len(c.conns) > 0
	c.conns = nil
	return any
}

// Prosody acknowledges and does not resume. What it did not acknowledge when a connection is cut goes again,
// marked, so that nothing is lost. Of its own it loses what waited for a stream that is cut as soon as it is
// there, because mod_smacks counts from behind that (Prosody 0.12); the rest goes again as its configuration
// says.
func TestProsodyBehindCuts(t *testing.T) {
	t.Parallel()
	s := site{address: "127.0.7.4", lab: newLab(t), zone: newZone(t, "127.0.7.4"), users: []string{"bob"}}
	p := startProsody(t, s)
	there := newCutter(t, s.address, p.server)
	s.zone.add(t, "xmpp-server", p.domain, there.Addr().String())
	h := s.ours(t, "north.example", external)
	here := newCutter(t, s.address, h.Addresses()["server"][0])
	s.zone.forget("north.example")
	s.zone.add(t, "xmpp-server", "north.example", here.Addr().String())
	alice := enter(t, "alice", login{address: h.Addresses()["client"][0], jid: "alice@north.example/desk", password: "secret", roots: h.roots})
	bob := enter(t, "bob", login{address: p.client, jid: "bob@" + p.domain + "/phone", password: "secret", roots: s.lab.roots})
	alice.asks(p.domain, "<ping xmlns='urn:xmpp:ping'/>", "") // both ways are there

	cuts := 6
	if os.Getenv("CI") == "true" {
		cuts = 10
	}
	var writers sync.WaitGroup
	stop := make(chan struct{})
	written := make(map[*user]int)
	var mu sync.Mutex
	for _, pair := range [][2]*user{{alice, bob}, {bob, alice}} {
		from, to := pair[0], pair[1]
		writers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rand.IntN(4000)) * time.Microsecond):
				}
				if err := from.peer.send(fmt.Sprintf("<message to='%s' type='chat' id='n%d'><body>%d</body></message>", to.jid, n, n)); err != nil {
					t.Errorf("%s cannot send: %v", from.name, err)
					return
				}
				mu.Lock()
				written[from] = n + 1
				mu.Unlock()
			}
		})
	}
	done := 0
	for range cuts {
		time.Sleep(time.Duration(100+rand.IntN(200)) * time.Millisecond) // of traffic
		if there.cut() {
			done++
		}
		if here.cut() {
			done++
		}
	}
	close(stop)
	writers.Wait()
	for _, pair := range [][2]*user{{alice, bob}, {bob, alice}} {
		from, to := pair[0], pair[1]
		r := follow(t, from, to, written[from])
		t.Logf("%s to %s: %d messages, %d cuts both ways; %d came again, %d late, %d returned, %d lost", from.name, to.name,
			written[from], done, r.doubles, r.late, r.returned, r.lost)
		if from != alice {
			continue
		}
		if r.lost > 0 {
			t.Errorf("%d messages were lost without a word", r.lost)
		}
		if r.unmarked > 0 {
			t.Errorf("%d messages came twice, and do not say that they were sent before", r.unmarked)
		}
		if r.returned > 0 {
			t.Errorf("%d messages were returned", r.returned)
		}
		if r.disorder > 0 {
			t.Errorf("%d messages came too early", r.disorder)
		}
	}
}

// A course is what became of messages.
type course struct{ doubles, unmarked, late, returned, disorder, lost int }

// follow finds out what became of the messages that one wrote to another.
func follow(t *testing.T, from, to *user, written int) (c course) {
	t.Helper()
	seen, returned := make(map[int]int), make(map[int]bool)
	next := 0
	collect := func() bool {
		for _, who := range []*user{to, from} {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				e, err := who.peer.takeIf(ctx, func(e event) bool {
					return e.kind == gotElement && e.tree.name.Local == "message" && e.tree.attr("from") == map[*user]string{to: from.jid, from: to.jid}[who] &&
						(who == to) == (e.tree.attr("type") != "error")
				})
				cancel()
				if err != nil {
					break
				}
				if who == from {
					n, _ := strconv.Atoi(e.tree.attr("id")[1:])
					returned[n] = true
					continue
				}
				text, delayed := "", false
				for _, child := range e.tree.children() {
					switch child.name.Local {
					case "body":
						text, _ = child.content[0].(string)
					case "delay":
						delayed = true
					}
				}
				n, err := strconv.Atoi(text)
				if err != nil {
					t.Fatalf("%s got\n%s", who.name, e.tree)
				}
				seen[n]++
				switch {
				case seen[n] > 1:
					c.doubles++
					if !delayed {
						c.unmarked++
					}
				case n != next:
					c.disorder++
				}
				if delayed {
					c.late++
				}
				next = max(next, n+1)
			}
		}
		for n := range written {
			if seen[n] == 0 && !returned[n] {
				return false
			}
		}
		return true
	}
	end := time.Now().Add(childPatience)
	if from.domain == "prosody.example" {
		end = time.Now().Add(patience) // not all of it will come
	}
	for !collect() && time.Now().Before(end) {
	}
	for n := range written {
		if seen[n] == 0 && !returned[n] {
			c.lost++
		}
	}
	c.returned = len(returned)
	return c
}
