package audit

import (
	"strconv"
	"time"
)

// What strangers cause at will must not fill the disk, nor push out of the files that are kept what
// somebody will look for. Each such kind has its own allowance; what exceeds it is counted.
const (
	throttleBurst  = 600
	throttlePerSec = 1
	// throttleReport is how often the counts are recorded.
	throttleReport = time.Minute
)

// spared is what is not recorded one by one.
type spared struct {
	kinds    map[Kind]*allowance
	reported time.Time
}

type allowance struct {
	left    float64
	at      time.Time
	counted uint64
}

func (s *spared) init(now time.Time) {
	s.reported = now
	s.kinds = make(map[Kind]*allowance)
	for _, kind := range []Kind{LoginFailed, FederationRefused} {
		s.kinds[kind] = &allowance{left: throttleBurst, at: now}
	}
}

// allows says whether an event gets its own record.
func (s *spared) allows(kind Kind, now time.Time) bool {
	a := s.kinds[kind]
	if a == nil {
		return true
	}
	a.left = min(throttleBurst, a.left+now.Sub(a.at).Seconds()*throttlePerSec)
	a.at = now
	if a.left < 1 {
		a.counted++
		return false
	}
	a.left--
	return true
}

// due is when the counts are to be recorded; zero if there are none.
func (s *spared) due() time.Time {
	for _, a := range s.kinds {
		if a.counted > 0 {
			return s.reported.Add(throttleReport)
		}
	}
	return time.Time{}
}

// take returns the counts as an event and begins anew.
func (s *spared) take(now time.Time) Event {
	detail := make(map[string]string)
	for kind, a := range s.kinds {
		if a.counted > 0 {
			detail[string(kind)] = strconv.FormatUint(a.counted, 10)
			a.counted = 0
		}
	}
	s.reported = now
	return Event{Kind: LogThrottled, Detail: detail}
}
