package bench

import (
	"fmt"
	"testing"
)

// TestReader shows a reader pages of an archive of two pages, as XEP-0313 section 4.3 has them, in which
// this or that is wrong.
func TestReader(t *testing.T) {
	whole := func() (newer, older []int) {
		for n := range pageSize {
			older, newer = append(older, n), append(newer, pageSize+n)
		}
		return newer, older
	}
	for _, c := range []struct {
		name                             string
		change                           func(newer, older []int) ([]int, []int)
		lost, doubled, reordered, errors uint64
	}{
		{"nothing", func(a, b []int) ([]int, []int) { return a, b }, 0, 0, 0, 0},
		{"one is missing and the page is short", func(a, b []int) ([]int, []int) { return a, b[1:] }, 1, 0, 0, 1},
		{"one is missing and an older one is in its place", func(a, b []int) ([]int, []int) {
			return append([]int{49}, append(a[:10:10], a[11:]...)...), append([]int{99}, b[:49]...)
		}, 1, 1, 0, 0},
		{"two have changed places", func(a, b []int) ([]int, []int) { a[3], a[4] = a[4], a[3]; return a, b }, 0, 0, 1, 0},
		{"the pages overlap", func(a, b []int) ([]int, []int) { return a, append(b[1:], a[0]) }, 1, 1, 0, 0},
		{"newest first within a page", func(a, b []int) ([]int, []int) {
			for i := range pageSize / 2 {
				a[i], a[pageSize-1-i] = a[pageSize-1-i], a[i]
			}
			return a, b
		}, 0, 0, pageSize - 1, 0},
		{"one is nobody's", func(a, b []int) ([]int, []int) { a[0] = 1000; return a, b }, 1, 0, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &run{Config: Config{Messages: 2 * pageSize}}
			p := &reader{run: r, session: new(session)}
			newer, older := c.change(whole())
			for _, page := range [][]int{newer, older} {
				for _, n := range page {
					message := chat("b@a.test", 200).append(nil, uint64(n), 0)
					p.see(fmt.Appendf(nil, "<message to='b@a.test'><result xmlns='urn:xmpp:mam:2' id='%d'>"+
						"<forwarded xmlns='urn:xmpp:forward:0'>%s</forwarded></result></message>", n, message))
				}
				p.see([]byte("<message><body>from somebody else</body></message>"))
				p.see([]byte("<iq type='result' id='page'><fin xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'>" +
					"<first>id&amp;1</first></set></fin></iq>"))
			}
			if err := r.failure(); err != nil {
				t.Fatal(err)
			}
			if p.next != "" || p.due != 2*pageSize || p.got.Load() != 2 {
				t.Errorf("after %d pages with %d messages it goes on before %q, not from the end", p.got.Load(), p.due, p.next)
			}
			if p.lost != c.lost || p.doubled != c.doubled || p.reordered != c.reordered || p.errors != c.errors {
				t.Errorf("lost %d, doubled %d, reordered %d, errors %d; want %+v", p.lost, p.doubled, p.reordered, p.errors, c)
			}
		})
	}
	r := &run{Config: Config{Messages: 2 * pageSize}}
	p := &reader{run: r, session: new(session)}
	p.see([]byte("<iq type='result' id='page'><fin xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><first>id&amp;1</first></set></fin></iq>"))
	if p.next != "id&amp;1" {
		t.Errorf("the next page is before %q; want the id as it is written", p.next)
	}
	p.see([]byte("<iq type='error' id='page'><error type='cancel'/></iq>"))
	if r.failure() == nil {
		t.Error("a refusal is no failure")
	}
}
