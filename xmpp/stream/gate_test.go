package stream_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stream"
)

func numbered(n int) element.Element {
	return element.Start("message", ns.Client).Attr("id", strconv.Itoa(n)).Leaf("body", ns.Client, strings.Repeat("x", n%700)).Element()
}

// managed is a ledger on a stream that has begun.
func managed(t *testing.T, p *peer) *stream.Ledger {
	t.Helper()
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	l := stream.NewLedger(p.stream, 1<<20, time.Now)
	l.Start(nil, func() {})
	return l
}

var ids = regexp.MustCompile(`<message id='(\d+)'`)

// Whatever the order in which gates are opened or fail, and while more is sent: everything leaves once and in
// order, nothing before its gate is open, and what failed not at all. The peer counts what it got.
func TestGates(t *testing.T) {
	const count = 400
	p := run(t, role(t))
	l := managed(t, p)
	var gates [count]*stream.Gate
	var opened [count]atomic.Bool
	var want []string
	for i := range gates {
		switch rand.IntN(4) {
		case 0: // none
			opened[i].Store(true)
			want = append(want, strconv.Itoa(i))
		case 1:
			gates[i] = new(stream.Gate) // will fail
		default:
			gates[i] = new(stream.Gate)
			want = append(want, strconv.Itoa(i))
		}
	}
	want = append(want, strconv.Itoa(count))
	var settling sync.WaitGroup
	stays := make(map[string]bool)
	for _, id := range want {
		stays[id] = true
	}
	settling.Go(func() {
		for _, i := range rand.Perm(count) {
			switch {
			case gates[i] == nil:
			case stays[strconv.Itoa(i)]:
				opened[i].Store(true)
				gates[i].Open()
			default:
				gates[i].Fail()
			}
		}
	})
	settling.Go(func() {
		for i, g := range gates {
			l.Send(numbered(i), nil, g)
		}
		l.Send(numbered(count), nil, nil)
	})
	var got []string
	text := ""
	for len(got) == 0 || got[len(got)-1] != strconv.Itoa(count) {
		text += p.readTo(t, ">")
		got = got[:0]
		for _, m := range ids.FindAllStringSubmatch(text, -1) {
			i, _ := strconv.Atoi(m[1])
			if i < count && !opened[i].Load() {
				t.Fatalf("%d left before its gate was open", i)
			}
			got = append(got, m[1])
		}
	}
	settling.Wait()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if _, err := l.Acknowledge(uint32(len(want))); err != nil {
		t.Error(err)
	}
	if n, bytes := l.Waiting(); n != 0 || bytes != 0 {
		t.Errorf("%d messages of %d bytes wait", n, bytes)
	}
	if _, err := l.Acknowledge(uint32(len(want) + 1)); err == nil {
		t.Error("what failed counts")
	}
}

// A stream that ends gives what waits for gates as long as its peer gets to close its side.
func TestEndWithClosedGates(t *testing.T) {
	for _, opens := range []bool{true, false} {
		t.Run(fmt.Sprint("opens: ", opens), func(t *testing.T) {
			p := run(t, role(t))
			l := managed(t, p)
			gate := new(stream.Gate)
			l.Send(numbered(1), nil, gate)
			p.stream.Close(nil)
			if opens {
				gate.Open()
				if got := p.readTo(t, "</stream:stream>"); !strings.Contains(got, "<message id='1'") {
					t.Errorf("got %q", got)
				}
			}
			p.send(t, "</stream:stream>")
			if !opens {
				if got := p.readEnd(t); got != "" {
					t.Errorf("got %q", got)
				}
				gate.Open() // too late, and no harm
			}
		})
	}
}

// readEnd reads until the end.
func (p *peer) readEnd(t *testing.T) string {
	t.Helper()
	if err := p.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := p.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			return got.String()
		}
	}
}

// After a restart nothing is sent before its new number is on disk, whether it is from before or came
// since, and then in order.
func TestResumeWaits(t *testing.T) {
	p := run(t, role(t))
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	for _, kept := range [][]stream.Parcel{nil, {{Element: numbered(1), Number: 4}}} {
		l := stream.Restore(1<<20, time.Now, 2, kept, 0)
		since, gate := new(stream.Gate), new(stream.Gate)
		since.Open()
		l.Send(numbered(2), nil, since)
		_, changed, err := l.Acknowledged(3)
		if err != nil || len(changed) != len(kept)+1 || changed[0].New != 4 {
			t.Fatalf("renumbered %v, %v", changed, err)
		}
		var onDisk atomic.Bool
		l.Resume(p.stream, gate, func(uint32) { p.stream.SendRaw("<resumed/>") })
		p.readTo(t, "<resumed/>")
		time.AfterFunc(50*time.Millisecond, func() { // time enough to do it wrong
			onDisk.Store(true)
			gate.Open()
		})
		got := p.readTo(t, ">xx</body></message>")
		if !onDisk.Load() {
			t.Errorf("with %d from before: %q left at once", len(kept), got)
		}
		if strings.Contains(got, "id='1'") != (kept != nil) {
			t.Errorf("with %d from before: got %q", len(kept), got)
		}
		l.Park()
	}
}

// A stream that is closed is not told of a resumption, and gets nothing of what follows that.
func TestResumeOnClosedStream(t *testing.T) {
	p := run(t, role(t))
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	l := managed(t, run(t, role(t)))
	l.Park()
	l.Send(numbered(1), nil, nil)
	p.stream.Drop()
	l.Resume(p.stream, nil, func(uint32) { p.stream.SendRaw("<resumed/>") })
	if got := p.readEnd(t); strings.Contains(got, "<message") {
		t.Errorf("got %q", got)
	}
}

// A second resumption waits as the first one did, of which the numbers may not be on disk yet.
func TestResumeTwice(t *testing.T) {
	l := stream.Restore(1<<20, time.Now, 2, []stream.Parcel{{Element: numbered(1), Number: 4}}, 0)
	first := new(stream.Gate)
	var onDisk atomic.Bool
	for again, gate := range []*stream.Gate{first, nil} {
		if _, changed, err := l.Acknowledged(2); err != nil || len(changed) != 1-again {
			t.Fatalf("renumbered %v, %v", changed, err)
		}
		p := run(t, role(t))
		p.send(t, header)
		p.readTo(t, "</stream:features>")
		l.Resume(p.stream, gate, func(uint32) { p.stream.SendRaw("<resumed/>") })
		p.readTo(t, "<resumed/>")
		if again == 0 {
			l.Park()
			continue
		}
		time.AfterFunc(50*time.Millisecond, func() { // time enough to do it wrong
			onDisk.Store(true)
			first.Open()
		})
		if got := p.readTo(t, ">x</body></message>"); !onDisk.Load() {
			t.Errorf("%q left at once", got)
		}
	}
}

// Of what a peer that does not acknowledge does not read either, nothing is taken for written that may never be: not
// what waits for a gate, nor in the queue, nor in the connection. And what is lost does not leave the queue later.
func TestWrittenIsWhatTheKernelHas(t *testing.T) {
	const count = 400
	r := role(t)
	r.Written = func(*stream.Stream) {}
	r.Limits.Queue = 1 << 30
	p := run(t, r)
	p.send(t, header)
	p.readTo(t, "</stream:features>")
	l := stream.NewLedger(p.stream, 1<<30, time.Now)
	gates := make(map[int]*stream.Gate)
	for i := range count {
		if i > count/2 && i%3 == 0 {
			gates[i] = new(stream.Gate)
		}
		l.Send(element.Start("message", ns.Client).Attr("id", strconv.Itoa(i)).Leaf("body", ns.Client, strings.Repeat("x", 64<<10)).Element(), i, gates[i])
	}
	early := l.Written()
	written, rest := l.Settle()
	lost := make(map[string]bool)
	for _, parcel := range rest {
		lost[fmt.Sprint(parcel.Note)] = true
	}
	if len(lost) < count/2 || len(early)+len(written)+len(lost) != count {
		t.Fatalf("%d+%d written, %d lost", len(early), len(written), len(lost))
	}
	p.stream.Close(nil)
	for _, gate := range gates {
		gate.Open()
	}
	read := make(map[string]bool)
	for _, m := range ids.FindAllStringSubmatch(p.readTo(t, "</stream:stream>"), -1) {
		read[m[1]] = true
	}
	both := 0
	for i := range count {
		id := strconv.Itoa(i)
		if !lost[id] && !read[id] {
			t.Errorf("%d is neither lost nor written", i)
		}
		if lost[id] && read[id] {
			both++
		}
	}
	if both > 1 { // of what had been begun with
		t.Errorf("%d are lost, and written all the same", both)
	}
}
