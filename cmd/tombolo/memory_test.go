package main

import "testing"

func TestMemoryIsTended(t *testing.T) {
	const mb = 1 << 20
	m := memory{percent: 100}
	for i, step := range []struct {
		allocated, live uint64
		percent         int
		release         bool
		why             string
	}{
		{10 * mb, 2 * mb, 100, false, "people log in"},
		{20 * mb, 4 * mb, 100, false, "more do"},
		{30 * mb, 4 * mb, 100, false, "nobody for a second"},
		{40 * mb, 4 * mb, 100, false, "for two"},
		{50 * mb, 4 * mb, 100, false, "for three"},
		{60 * mb, 4 * mb, 100, false, "for four"},
		{70 * mb, 4 * mb, 800, false, "a small heap has headroom when it has stopped growing"},
		{80 * mb, 4*mb + mb/4, 800, false, "a little more is no reason to stop the world"},
		{80 * mb, 8 * mb, 100, false, "people log in again"},
		{80 * mb, 8 * mb, 100, false, "calm for two seconds"},
		{80 * mb, 8 * mb, 100, true, "for three: the garbage is worth giving back"},
		{81 * mb, 8 * mb, 100, false, "nothing worth giving back since"},
		{81 * mb, 8 * mb, 100, false, "nor now"},
		{81 * mb, 8 * mb, 400, false, "settled"},
	} {
		release := m.observe(step.allocated, step.live)
		if release != step.release || m.percent != step.percent {
			t.Errorf("step %d (%s): %d%%, release %v; want %d%%, %v", i, step.why, m.percent, release, step.percent, step.release)
		}
	}
}
