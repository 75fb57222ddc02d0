package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// A Record is one line of the log. The MAC is the last member of its object:
//
//	{"seq":7,"time":"...","kind":"login","account":"...", ... ,"mac":"64 hex digits"}
//
// and is HMAC-SHA-256 over the 32 bytes of the MAC before it and the bytes of the line up to the
// comma before "mac".
type Record struct {
	Seq     uint64            `json:"seq"` // counts from 1, over all files
	Time    time.Time         `json:"time"`
	Kind    Kind              `json:"kind"`
	Account string            `json:"account,omitempty"`
	By      string            `json:"by,omitempty"`
	Remote  string            `json:"remote,omitempty"`
	Detail  map[string]string `json:"detail,omitempty"`
	// Prev is the MAC before this one, in the first record of a file; zeros where there is none.
	Prev string `json:"prev,omitempty"`
	MAC  string `json:"mac,omitempty"`
}

// A mac is what links a record to the next.
type mac [sha256.Size]byte

func (m mac) String() string { return hex.EncodeToString(m[:]) }

func (m mac) equal(other mac) bool { return hmac.Equal(m[:], other[:]) }

func parseMAC(text string) (m mac, err error) {
	if len(text) != hex.EncodedLen(len(m)) {
		return m, errors.New("a MAC has 64 hexadecimal digits")
	}
	_, err = hex.Decode(m[:], []byte(text))
	return m, err
}

// A position is a record's place in the chain; the zero one is before the first.
type position struct {
	seq uint64
	mac mac
}

// keys are made from the one in the key file, one for each use.
type keys struct{ record, state []byte }

func newKeys(secret []byte) keys {
	derive := func(use string) []byte {
		h := hmac.New(sha256.New, secret)
		h.Write([]byte("tombolo audit " + use))
		return h.Sum(nil)
	}
	return keys{record: derive("record"), state: derive("state")}
}

// sign is the MAC of a record's body after prev.
func (k keys) sign(prev mac, body []byte) (m mac) {
	h := hmac.New(sha256.New, k.record)
	h.Write(prev[:])
	h.Write(body)
	h.Sum(m[:0])
	return m
}

const (
	suffixStart = `,"mac":"`
	suffixEnd   = `"}`
	suffixSize  = len(suffixStart) + 2*sha256.Size + len(suffixEnd)
)

// append appends the line of an event and moves the position. begin marks the first record of a file.
func (k keys) append(lines []byte, at *position, e Event, begin bool) []byte {
	r := Record{Seq: at.seq + 1, Time: e.Time.UTC().Truncate(time.Millisecond), Kind: e.Kind,
		Account: clip(e.Account, maxAccount), By: clip(e.By, maxAccount), Remote: clip(e.Remote, maxValue)}
	for name, value := range e.Detail {
		if len(r.Detail) == maxDetails {
			break
		}
		if r.Detail == nil {
			r.Detail = make(map[string]string, len(e.Detail))
		}
		r.Detail[clip(name, maxValue)] = clip(value, maxValue)
	}
	if begin {
		r.Prev = at.mac.String()
	}
	body, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("audit record: %v", err)) // strings, a time and a number
	}
	body = body[:len(body)-1]
	*at = position{r.Seq, k.sign(at.mac, body)}
	lines = append(lines, body...)
	lines = append(lines, suffixStart...)
	lines = append(lines, at.mac.String()...)
	return append(lines, suffixEnd+"\n"...)
}

// A line is what a line of the log says, before it is believed.
type line struct {
	Record
	at   position
	body []byte
	prev mac // if begins
}

func (l *line) begins() bool { return l.Prev != "" }

// parse reads a line without its newline.
func parse(text []byte) (l line, err error) {
	cut := len(text) - suffixSize
	if cut < 2 || string(text[cut:cut+len(suffixStart)]) != suffixStart || !strings.HasSuffix(string(text), suffixEnd) {
		return l, errors.New("not a record")
	}
	if err := json.Unmarshal(text, &l.Record); err != nil {
		return l, fmt.Errorf("not a record: %w", err)
	}
	stated, err := parseMAC(string(text[cut+len(suffixStart) : len(text)-len(suffixEnd)]))
	if err == nil && l.begins() {
		l.prev, err = parseMAC(l.Prev)
	}
	l.at, l.body = position{l.Seq, stated}, text[:cut]
	// One spelling only, so that no byte of a line can change unnoticed.
	if err == nil && !hmac.Equal([]byte(stated.String()), []byte(l.MAC)) {
		err = errors.New("the MAC is not in lower case")
	}
	return l, err
}

// genuine says whether the line was written after prev by a holder of the key.
func (l *line) genuine(k keys, prev mac) bool {
	return k.sign(prev, l.body).equal(l.at.mac)
}

const (
	maxAccount = 2047 // bytes of a bare JID (RFC 7622 section 3.1)
	maxValue   = 512
	maxDetails = 16
)

// clip cuts a text that is too long, and replaces what is not UTF-8.
func clip(s string, limit int) string {
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
