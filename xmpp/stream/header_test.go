package stream_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tombolo/xmpp/element"
	"tombolo/xmpp/meter"
	"tombolo/xmpp/stream"
)

// TestLanguageOfTheHeader: RFC 6120 section 4.7.4 has a language tag there, and nothing else is put on
// stanzas.
func TestLanguageOfTheHeader(t *testing.T) {
	for lang, want := range map[string]string{
		"":           "",
		"en":         "en",
		"de-CH-1996": "de-CH-1996",
		"x-" + strings.Repeat("12345678-", 3) + "abcdef":  "x-12345678-12345678-12345678-abcdef", // 35 bytes
		"x-" + strings.Repeat("12345678-", 3) + "abcdefg": "",
		strings.Repeat("e", 9_500):                        "",
		"toolongsubtag":                                   "",
		"en-":                                             "",
		"-":                                               "",
		"en--US":                                          "",
		"en_US":                                           "",
		"1en":                                             "",
		"en US":                                           "",
		"&lt;a/>":                                         "",
		"\u00e9":                                          "",
	} {
		r := role(t)
		got := make(chan string, 1)
		r.Limits.Before = element.Limits{Bytes: 10_000}
		r.Opened = func(s *stream.Stream, h stream.Header) error {
			if s.Local = h.To; h.Lang != s.Lang {
				t.Errorf("%q in the header, %q of the stream", h.Lang, s.Lang)
			}
			got <- s.Lang
			return nil
		}
		p := run(t, r)
		p.send(t, strings.Replace(header, " version='1.0' xmlns", " version='1.0' xml:lang='"+lang+"' xmlns", 1))
		select {
		case got := <-got:
			if got != want {
				t.Errorf("%q became %q", lang, got)
			}
		case <-time.After(patience):
			t.Fatalf("%q: no header", lang)
		}
	}
}

// TestWhatAStanzaBecomesIsPaidFor: what a peer sends may have to be written at more length, and it is that which is
// kept and passed on. It counts against the rate, and against what may be sent before login.
func TestWhatAStanzaBecomesIsPaidFor(t *testing.T) {
	namespace := strings.Repeat("u", 250)
	long := strings.Replace(header, " version='1.0' xmlns", " version='1.0' xmlns:p='"+namespace+"' xmlns", 1)
	message := "<message>" + strings.Repeat("<p:a/>", 30) + "</message>" // 200 bytes, and 8,000
	t.Run("rate", func(t *testing.T) {
		r := role(t)
		const messages, perSecond = 500, 500_000 // 100 kB of messages, which become 4 MB
		r.Limits.Bytes = perSecond               // and five times as much at once
		r.Counters = new(meter.Counters)
		got, size := atomic.Int32{}, atomic.Int64{}
		all := make(chan struct{})
		r.Handle = func(_ *stream.Stream, e element.Element) error {
			size.Add(int64(len(e.String())))
			if got.Add(1) == messages {
				close(all)
			}
			return nil
		}
		p := run(t, r)
		p.send(t, long)
		p.readTo(t, "</stream:features>")
		start := time.Now()
		p.send(t, strings.Repeat(message, messages))
		select {
		case <-all:
		case <-time.After(2 * patience):
			t.Fatalf("%d of %d came", got.Load(), messages)
		}
		// What is read together is paid for together, so the last of it is not waited for.
		if took := time.Since(start); took < 800*time.Millisecond || size.Load() < 7*perSecond {
			t.Errorf("%d messages became %d bytes in %v", messages, size.Load(), took)
		}
		if r.Counters.All()["limit: rate of a session"] == 0 {
			t.Error("the limit was not hit")
		}
	})
	t.Run("before login", func(t *testing.T) {
		r := role(t)
		r.Ready = func(*stream.Stream) bool { return false }
		r.Limits.EarlyBytes, r.Limits.EarlyElements = 20_000, 20
		r.Features = []stream.Feature{{
			Claims: func(e element.Element) bool { return e.Name() == "message" },
			Offer:  func(*stream.Stream) []element.Element { return []element.Element{element.Leaf("known", "known", "")} },
			Handle: func(*stream.Stream, element.Element) (stream.Outcome, error) { return stream.Outcome{}, nil },
		}}
		p := run(t, r)
		p.send(t, long)
		p.readTo(t, "</stream:features>")
		p.send(t, strings.Repeat(message, 4))
		if got := p.readTo(t, "</stream:stream>"); !strings.Contains(got, "too much before login") {
			t.Errorf("got %s", got)
		}
	})
}
