package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Report is what Read found.
type Report struct {
	Files   int    `json:"files"`
	Records int    `json:"records"`
	First   uint64 `json:"first"` // record; 0: there is none
	Last    uint64 `json:"last"`
	// Anchor is the place of the last record, in the form that Query.Anchors takes.
	Anchor string    `json:"anchor"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	// Problems are signs that the log is not what the server wrote. Notes are what the server itself
	// says it could not record, and what cannot be checked.
	Problems []Finding `json:"problems"`
	Notes    []Finding `json:"notes"`
}

// A Finding is one thing that Read noticed.
type Finding struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Text string `json:"text"`
}

func (f Finding) String() string {
	switch {
	case f.File == "":
		return f.Text
	case f.Line == 0:
		return f.File + ": " + f.Text
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Text)
}

// A Query says what Read is to look at.
type Query struct {
	// Alone takes Options.File as a file by itself, such as an export: there is no state to say
	// where it ends.
	Alone bool
	// Anchors are places that were noted down at another time, "NUMBER:MAC": these records must still
	// be there as they were.
	Anchors []string
	// Each, if set, gets each record with its line, also those that are not genuine.
	Each func(r Record, line []byte, genuine bool) error
}

// Read reads and checks the whole log, while a server writes it or not. Of Options it takes File and
// Key. An error says that the log could not be read; what is wrong with it is in the Report.
func Read(o Options, q Query) (Report, error) {
	o = o.withDefaults()
	secret, err := readKey(o.Key)
	if err != nil {
		return Report{}, fmt.Errorf("key of the audit log: %w", err)
	}
	c := checker{keys: newKeys(secret), q: q}
	for _, text := range q.Anchors {
		a, err := parseAnchor(text)
		if err != nil {
			return Report{}, err
		}
		c.anchors = append(c.anchors, anchor{position: a, name: "the noted record"})
	}
	if err := c.read(o); err != nil {
		return Report{}, fmt.Errorf("audit log: %w", err)
	}
	return c.report, nil
}

func parseAnchor(text string) (position, error) {
	seq, sum, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	m, macErr := parseMAC(sum)
	if err != nil || macErr != nil || n == 0 {
		return position{}, fmt.Errorf("%q is not of the form NUMBER:MAC", text)
	}
	return position{n, m}, nil
}

// A checker goes through the log once.
type checker struct {
	keys    keys
	q       Query
	report  Report
	anchors []anchor

	last  position // stated, whether genuine or not: the next record is judged by it
	begun bool     // last is set
	file  string
	line  int
	err   error // of Query.Each
}

// An anchor is a record that must be there.
type anchor struct {
	position
	name string
	met  bool
}

func (c *checker) read(o Options) error {
	// The state is read first: it is never ahead of the log, so that what is written meanwhile does not
	// look like a loss.
	var end state
	stateErr := errors.New("not looked at")
	if !c.q.Alone {
		if end, stateErr = c.keys.readState(o.File); stateErr == nil {
			c.anchors = append(c.anchors, anchor{position: end.position, name: "the last record by the state file"})
		}
	}
	files, err := openAll(o.File, c.q.Alone)
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	// It forgets a file before the file goes, so that where the log begins is asked after opening.
	if stateErr == nil {
		var now state
		if now, stateErr = c.keys.readState(o.File); stateErr == nil {
			end.oldest = now.oldest
		}
	}
	c.report.Files = len(files)
	for i, f := range files {
		if err := c.readFile(f, !c.q.Alone && i < len(files)-1); err != nil {
			return err
		}
	}
	c.file, c.line = "", 0
	switch {
	case c.q.Alone:
		c.note("records that may follow the last one cannot be missed: there is no state file beside a single file")
	case stateErr != nil:
		c.problem("where the log ends cannot be checked: %v", stateErr)
	case !c.begun:
		c.problem("the log is gone; it had %d records", end.seq)
	case c.report.First > end.oldest:
		c.problem("records %d to %d are missing at the beginning", end.oldest, c.report.First-1)
	}
	c.judgeAnchors()
	if c.begun {
		c.report.Anchor = fmt.Sprintf("%d:%s", c.last.seq, c.last.mac)
	}
	return nil
}

func (c *checker) judgeAnchors() {
	for _, a := range c.anchors {
		switch {
		case a.met || !c.begun:
		case a.seq > c.last.seq:
			c.problem("the log ends with record %d, but record %d was written: %s", c.last.seq, a.seq, a.name)
		case a.seq < c.report.First:
			c.note("record %d is older than what is kept", a.seq)
		default:
			c.problem("record %d is not the one that was written: %s", a.seq, a.name)
		}
	}
}

// openAll opens the files of a log in their order. Where the log is rotated meanwhile it looks again.
func openAll(file string, alone bool) (files []*os.File, err error) {
	if alone {
		f, err := os.Open(file)
		return []*os.File{f}, err
	}
	for tries := 0; ; tries++ {
		before, err := parts(file)
		if err != nil {
			return nil, err
		}
		for _, p := range append(slices.Clone(before), part{path: file}) {
			var f *os.File
			f, err = os.Open(p.path)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
				continue
			} else if err != nil {
				break
			}
			files = append(files, f)
		}
		after, listErr := parts(file)
		if err == nil && listErr == nil && slices.Equal(before, after) {
			return files, nil
		}
		for _, f := range files {
			_ = f.Close()
		}
		files = nil
		if err := errors.Join(err, listErr); err != nil {
			return nil, err
		} else if tries == 100 {
			return nil, errors.New("the files change all the time")
		}
	}
}

// readFile reads one file; old says that another one follows it.
func (c *checker) readFile(f *os.File, old bool) error {
	c.file, c.line = f.Name(), 0
	_, torn, err := eachLine(f, func(text []byte) {
		c.line++
		if c.err == nil {
			c.err = c.record(text, old)
		}
	})
	if err = errors.Join(c.err, err); err != nil {
		return err
	}
	switch c.line++; {
	case torn > 0 && old:
		c.problem("the file ends in the middle of a line")
	case torn > 0:
		c.note("the last line is not whole: it is being written, or a crash cut it off, and the server will remove it")
	}
	return nil
}

func (c *checker) record(text []byte, old bool) error {
	l, err := parse(text)
	if err != nil {
		c.problem("%v", err)
		return nil
	}
	prev := c.last.mac
	if l.begins() {
		prev = l.prev
	}
	genuine := l.genuine(c.keys, prev)
	switch {
	case !genuine && !l.begins() && !c.begun:
		c.problem("record %d cannot be checked: the beginning of the log is missing", l.Seq)
	case !genuine:
		c.problem("record %d was changed, or what stood before it was", l.Seq)
	case c.begun && !prev.equal(c.last.mac):
		c.problem("record %d does not follow record %d", l.Seq, c.last.seq)
	}
	switch {
	case !c.begun:
		c.report.First, c.report.From = l.Seq, l.Time
	case l.Seq > c.last.seq+1:
		c.problem("records %d to %d are missing", c.last.seq+1, l.Seq-1)
	case l.Seq <= c.last.seq:
		c.problem("record %d is out of its place after record %d", l.Seq, c.last.seq)
	}
	if number := filepath.Ext(c.file); c.line == 1 && old && number != damagedSuffix && oldName("", l.Seq) != number {
		c.problem("the file begins with record %d, which is not what its name says", l.Seq)
	}
	if genuine {
		c.remark(l.Record)
	}
	for i := range c.anchors {
		c.anchors[i].met = c.anchors[i].met || c.anchors[i].position == l.at && genuine
	}
	c.last, c.begun = l.at, true
	c.report.Records++
	c.report.Last, c.report.To = l.Seq, l.Time
	if c.q.Each == nil {
		return nil
	}
	return c.q.Each(l.Record, text, genuine)
}

// remark reports what the log says of itself.
func (c *checker) remark(r Record) {
	at := r.Time.Format(time.DateTime)
	switch r.Kind {
	case LogDamaged:
		c.problem("at %s UTC the server found: %s", at, r.Detail["reason"])
	case LogRecovered:
		c.note("at %s UTC the server removed %s bytes of a line that a crash had cut off", at, r.Detail["bytes"])
	case LogGap:
		c.note("%s events since %s could not be recorded", r.Detail["lost"], r.Detail["since"])
	case LogThrottled:
		for _, kind := range []Kind{LoginFailed, FederationRefused} {
			if n := r.Detail[string(kind)]; n != "" {
				c.note("%s more events %s before %s UTC were only counted", n, kind, at)
			}
		}
	}
}

func (c *checker) problem(format string, args ...any) {
	c.report.Problems = append(c.report.Problems, Finding{c.file, c.line, fmt.Sprintf(format, args...)})
}

func (c *checker) note(format string, args ...any) {
	c.report.Notes = append(c.report.Notes, Finding{c.file, c.line, fmt.Sprintf(format, args...)})
}
