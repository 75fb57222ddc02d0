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
		{2 * mb, 0, 800, false, "a small heap has headroom"},
		{50 * mb, 4 * mb, 800, false, "busy"},
		{50 * mb, 4*mb + mb/4, 800, false, "a little more is no reason to stop the world"},
		{50 * mb, 8 * mb, 400, false, "two seconds of calm"},
		{50 * mb, 8 * mb, 400, true, "three"},
		{51 * mb, 8 * mb, 400, false, "nothing worth giving back since"},
		{90 * mb, 100 * mb, 100, false, "a large heap has headroom anyway"},
		{90 * mb, 100 * mb, 100, false, "calm"},
		{90 * mb, 100 * mb, 100, false, "calm"},
		{90 * mb, 100 * mb, 100, true, "calm again"},
	} {
		release := m.observe(step.allocated, step.live)
		if release != step.release || m.percent != step.percent {
			t.Errorf("step %d (%s): %d%%, release %v; want %d%%, %v", i, step.why, m.percent, release, step.percent, step.release)
		}
	}
}
