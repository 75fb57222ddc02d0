package bench

import (
	"math"
	"math/bits"
	"time"
)

// precision is the number of bits of a value that its bucket keeps: buckets are never wider than a
// 64th of what they hold, as with HdrHistogram at two significant digits.
const precision = 6

// A Histogram counts durations in buckets whose width grows with the value, so that a percentile is
// right to 1.6 % whether it is a microsecond or a minute. It belongs to one goroutine; the histograms
// of several are added up.
type Histogram struct {
	buckets []uint64
	count   uint64
	sum     time.Duration
	max     time.Duration
}

// Record counts one duration; a negative one counts as zero.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	i := bucket(uint64(d))
	if i >= len(h.buckets) {
		h.buckets = append(h.buckets, make([]uint64, i+1-len(h.buckets))...)
	}
	h.buckets[i]++
	h.count++
	h.sum += d
	h.max = max(h.max, d)
}

// Add adds what another histogram has counted.
func (h *Histogram) Add(other *Histogram) {
	if missing := len(other.buckets) - len(h.buckets); missing > 0 {
		h.buckets = append(h.buckets, make([]uint64, missing)...)
	}
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.count += other.count
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// Count is how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.count }

// Max is the longest, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean is the average, exactly; 0 when nothing was recorded.
func (h *Histogram) Mean() time.Duration {
	if h.count == 0 {
		return 0
	}
	return h.sum / time.Duration(h.count)
}

// Percentile is a duration that p percent of those recorded do not exceed: the upper end of the
// bucket that holds it, and never more than Max. It is 0 when nothing was recorded.
func (h *Histogram) Percentile(p float64) time.Duration {
	rank := uint64(math.Ceil(p * float64(h.count) / 100 * (1 - 1e-12))) // 99.9 is not exact
	rank = min(max(rank, 1), h.count)
	seen := uint64(0)
	for i, n := range h.buckets {
		if seen += n; n > 0 && seen >= rank {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return 0
}

// bucket is where a value is counted. Values below 2^(precision+1) have buckets of their own; above,
// each power of two has 2^precision.
func bucket(v uint64) int {
	shift := max(bits.Len64(v)-precision-1, 0)
	return shift<<precision + int(v>>shift)
}

// upper is the largest value of a bucket.
func upper(i int) uint64 {
	shift := max(i>>precision-1, 0)
	return uint64(i-shift<<precision+1)<<shift - 1
}
