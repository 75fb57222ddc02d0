package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramEveryValueIsInItsBucket(t *testing.T) {
	last := -1
	for v := uint64(0); v < 1<<20; v++ {
		i := bucket(v)
		if i != last && i != last+1 {
			t.Fatalf("bucket %d follows bucket %d", i, last)
		}
		last = i
		if up := upper(i); up < v || float64(up-v) > float64(v)/64 {
			t.Fatalf("%d is in bucket %d, which ends at %d", v, i, up)
		}
	}
	if i := bucket(1<<63 - 1); upper(i) != 1<<63-1 {
		t.Errorf("the largest duration is in bucket %d, which ends at %d", i, upper(i))
	}
}

// TestHistogramPercentiles compares with the sorted values.
func TestHistogramPercentiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h, other Histogram
	var all []time.Duration
	for range 10000 {
		d := time.Duration(r.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		if len(all)%2 == 0 {
			h.Record(d)
		} else {
			other.Record(d)
		}
	}
	h.Add(&other)
	slices.Sort(all)
	for _, p := range []float64{0, 1, 50, 90, 99, 99.9, 100} {
		exact := all[max(int(p/100*10000+0.5)-1, 0)]
		if got := h.Percentile(p); got < exact || float64(got-exact) > float64(exact)/64 {
			t.Errorf("p%v is %v, want %v or up to 1/64 more", p, got, exact)
		}
	}
	var sum time.Duration
	for _, d := range all {
		sum += d
	}
	if h.Count() != 10000 || h.Max() != all[9999] || h.Mean() != sum/10000 {
		t.Errorf("count %d, max %v, mean %v; want 10000, %v, %v", h.Count(), h.Max(), h.Mean(), all[9999], sum/10000)
	}
}

func TestHistogramEmptyAndNegative(t *testing.T) {
	var h Histogram
	if h.Percentile(50) != 0 || h.Mean() != 0 || h.Max() != 0 {
		t.Error("an empty histogram is not zero")
	}
	h.Record(-time.Second)
	if h.Count() != 1 || h.Percentile(100) != 0 {
		t.Error("a negative duration is not counted as zero")
	}
}
