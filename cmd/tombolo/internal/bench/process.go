package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticks are what /proc counts processor time in: USER_HZ, which is 100 on every Linux that Go knows.
const ticks = 100

// A tree is the figures of a process and all below it.
type tree struct {
	cpu  time.Duration // user and system
	rss  int64         // bytes resident now
	peak int64         // the sum of what each had at its largest, in bytes
}

// processTree reads the figures of a process tree from /proc (proc(5)). The time of children that
// have ended is that of whoever waited for them, so the sum never falls.
func processTree(pid int) (tree, error) {
	parents := make(map[int]int)
	stats := make(map[int][]string)
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return tree{}, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		// The name of the program, in parentheses, may contain anything.
		head, tail, ok := cutLast(string(text), ")")
		fields := strings.Fields(tail)
		id, err := strconv.Atoi(head[:max(strings.IndexByte(head, ' '), 0)])
		if !ok || err != nil || len(fields) < 15 {
			continue
		}
		parents[id], _ = strconv.Atoi(fields[1])
		stats[id] = fields
	}
	if stats[pid] == nil {
		return tree{}, fmt.Errorf("there is no process %d, or no /proc", pid)
	}
	var t tree
	for id, fields := range stats {
		if !below(parents, id, pid) {
			continue
		}
		for _, f := range fields[11:15] { // utime, stime, cutime, cstime
			n, _ := strconv.ParseInt(f, 10, 64)
			t.cpu += time.Duration(n) * time.Second / ticks
		}
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", id))
		t.rss += kilobytes(string(status), "VmRSS:")
		t.peak += kilobytes(string(status), "VmHWM:")
	}
	return t, nil
}

// below says whether a process is another one or descends from it.
func below(parents map[int]int, id, ancestor int) bool {
	for range len(parents) + 1 {
		if id == ancestor {
			return true
		}
		if id = parents[id]; id == 0 {
			return false
		}
	}
	return false
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// kilobytes is a line of /proc/PID/status, in bytes.
func kilobytes(status, key string) int64 {
	_, rest, ok := strings.Cut(status, key)
	if !ok {
		return 0 // a process that is ending has none
	}
	n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return n << 10
}

// ownTime is the processor time of this process.
func ownTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, errors.Join(errors.New("processor time of the clients"), err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// stolen is the processor time of all processors that the host gave to others while this machine had work to do
// (proc(5): steal), 0 where that is not known.
func stolen() time.Duration {
	text, _ := os.ReadFile("/proc/stat")
	return stolenIn(string(text))
}

func stolenIn(stat string) time.Duration {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0
	}
	n, _ := strconv.ParseInt(fields[8], 10, 64)
	return time.Duration(n) * time.Second / ticks
}
