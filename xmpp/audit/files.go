package audit

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// An old file has the number of its first record at the end of its name; one that was not as it was
// left when it was set aside, the number of the record after it.
const damagedSuffix = ".damaged"

func oldName(file string, first uint64) string { return fmt.Sprintf("%s.%010d", file, first) }

// A part is an older file of a log.
type part struct {
	path    string
	number  uint64
	damaged bool
}

// parts lists the older files in the order of the chain.
func parts(file string) ([]part, error) {
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	var list []part
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), filepath.Base(file)+".")
		digits, damaged := strings.CutSuffix(rest, damagedSuffix)
		n, err := strconv.ParseUint(digits, 10, 64)
		if ours && err == nil {
			list = append(list, part{filepath.Join(filepath.Dir(file), e.Name()), n, damaged})
		}
	}
	slices.SortFunc(list, func(a, b part) int {
		switch {
		case a.number != b.number && a.number < b.number, a.number == b.number && a.damaged && !b.damaged:
			return -1
		case a == b:
			return 0
		}
		return 1
	})
	return list, nil
}

// A state says where the log ends, and where its oldest file begins. It follows each sync, in place:
// a crash may leave it behind the log, never ahead of it.
type state struct {
	position
	oldest uint64
}

func statePath(file string) string { return file + ".state" }

// stateSize is what a state is filled up to, so that a new one covers the old one.
const stateSize = 256

// stateText is the form of a state; MAC is over the others, under a key of its own.
type stateText struct {
	Seq    uint64 `json:"seq"`
	Last   string `json:"last"`
	Oldest uint64 `json:"oldest"`
	MAC    string `json:"mac,omitempty"`
}

func (k keys) formatState(s state) []byte {
	t := stateText{Seq: s.seq, Last: s.mac.String(), Oldest: s.oldest}
	t.MAC = k.signState(t)
	text, err := json.Marshal(t)
	if err != nil {
		panic(fmt.Sprintf("audit state: %v", err)) // numbers and hexadecimal digits
	}
	text = append(text, bytes.Repeat([]byte{' '}, stateSize-1-len(text))...)
	return append(text, '\n')
}

func (k keys) signState(t stateText) string {
	h := hmac.New(sha256.New, k.state)
	fmt.Fprintf(h, "%d %s %d", t.Seq, t.Last, t.Oldest)
	return hex.EncodeToString(h.Sum(nil))
}

func (k keys) readState(file string) (state, error) {
	text, err := os.ReadFile(statePath(file))
	if err != nil {
		return state{}, err
	}
	var t stateText
	if err := json.Unmarshal(text, &t); err != nil {
		return state{}, fmt.Errorf("%s: %w", statePath(file), err)
	}
	last, err := parseMAC(t.Last)
	s := state{position{t.Seq, last}, t.Oldest}
	if err != nil || !hmac.Equal(text, k.formatState(s)) {
		return state{}, fmt.Errorf("%s is not what the server wrote", statePath(file))
	}
	return s, nil
}

const keySize = 32

// readKey reads a key file; fs.ErrNotExist.
func readKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(secret) != keySize {
		return nil, fmt.Errorf("%s is not the key of an audit log", path)
	}
	return secret, nil
}

// makeKey makes a key file, which is whole and durable as soon as it has its name.
func makeKey(path string) (secret []byte, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	secret = make([]byte, keySize)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(f, "%x\n", secret); err != nil {
		return nil, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, err
	}
	return secret, syncDir(filepath.Dir(path))
}

// syncDir makes names durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// maxLine bounds a line; a record with all that it may hold is shorter.
const maxLine = 256 << 10

// eachLine calls visit for each line, without its newline, and returns how many bytes the whole lines
// have and how many follow them. A line longer than maxLine is visited as an empty one: it is no record
// either.
func eachLine(r io.Reader, visit func([]byte)) (whole, torn int64, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		text, err := in.ReadSlice('\n')
		n := int64(len(text))
		for errors.Is(err, bufio.ErrBufferFull) {
			var more []byte
			more, err = in.ReadSlice('\n')
			n += int64(len(more))
			text = []byte{'\n'}
		}
		switch {
		case err == nil:
			visit(text[:len(text)-1])
			whole += n
		case errors.Is(err, io.EOF):
			return whole, n, nil
		default:
			return whole, n, err
		}
	}
}

// An ending is what the end of a file says, compared with where the log is known to have ended.
type ending struct {
	begins  uint64   // number of the first record
	last    position // of the last record
	genuine position // of the last one that follows, as far as the file says, the one before it
	records int
	size    int64 // of the whole lines
	torn    int64 // bytes after them
	// sound: the known end is in the file, and only genuine records follow it.
	sound bool
}

// readEnding reads a file; fs.ErrNotExist. What stands before the known end is for Read to judge, and
// is looked at only where that end is not found.
func (k keys) readEnding(path string, known position) (ending, error) {
	e, err := k.scanEnding(path, known, true)
	if err == nil && !e.sound {
		e, err = k.scanEnding(path, known, false)
	}
	return e, err
}

func (k keys) scanEnding(path string, known position, skip bool) (e ending, err error) {
	f, err := os.Open(path)
	if err != nil {
		return e, err
	}
	defer f.Close()
	bad := false // after the known end
	knownSuffix := []byte(known.mac.String() + suffixEnd)
	e.size, e.torn, err = eachLine(f, func(text []byte) {
		if skip && e.records > 0 && !e.sound && !bytes.HasSuffix(text, knownSuffix) {
			e.records++
			return
		}
		l, err := parse(text)
		if err != nil {
			bad = true
			return
		}
		if e.records++; e.records == 1 {
			e.begins = l.Seq
			// A crash may have come between a new file's first record and the state.
			if l.begins() && l.prev.equal(known.mac) && l.Seq == known.seq+1 {
				e.sound, e.last = true, known
			}
		}
		prev := e.last.mac
		if l.begins() {
			prev = l.prev
		}
		genuine := l.genuine(k, prev)
		if genuine {
			e.genuine = l.at
		}
		if !genuine || l.Seq != e.last.seq+1 || !prev.equal(e.last.mac) {
			bad = true
		}
		e.last = l.at
		if l.at == known {
			e.sound, bad = true, false
		}
	})
	e.sound = e.sound && !bad
	return e, err
}

// readEndings reads the end of the log: of the file, or where it has no record yet of the newest of
// the older ones. found is false where there is no file at all.
func (k keys) readEndings(file string, known position) (current, end ending, found bool, err error) {
	current, err = k.readEnding(file, known)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return current, end, false, err
	}
	if current.records > 0 || current.size > 0 {
		return current, current, true, nil
	}
	list, err := parts(file)
	if err != nil || len(list) == 0 {
		return current, end, !missing, err
	}
	end, err = k.readEnding(list[len(list)-1].path, known)
	end.sound = end.sound && end.torn == 0
	return current, end, true, err
}
