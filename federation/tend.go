package federation

import "time"

// tend looks after all streams and pairs at one moment.
func (f *Federation) tend(now time.Time) {
	f.mu.Lock()
	incoming := keys(f.incoming)
	pairs := make([]*pair, 0, len(f.pairs))
	for _, p := range f.pairs {
		pairs = append(pairs, p)
	}
	f.mu.Unlock()

	f.expire(now)
	heard := make(map[Pair]time.Time)
	for _, in := range incoming {
		in.tend(now, heard)
	}
	for _, p := range pairs {
		if p.tend(now, heard[p.Pair]) {
			f.mu.Lock()
			delete(f.pairs, p.Pair)
			f.mu.Unlock()
		}
	}
}

// tend collects when stanzas were last heard, and writes a space now and then, lest a middlebox
// forget the connection (RFC 6120 section 4.6.1); the kernel then finds out if the peer is gone. The
// stream is not ours to close for want of stanzas: one might be on its way.
func (in *incoming) tend(now time.Time, heard map[Pair]time.Time) {
	if !in.open.Load() {
		return
	}
	in.mu.Lock()
	for p, a := range in.pairs {
		if at := time.Unix(0, a.heard.Load()); at.After(heard[p]) {
			heard[p] = at
		}
	}
	due := now.Sub(in.touched) >= in.f.Timing.Quiet
	if due {
		in.touched = now
	}
	in.mu.Unlock()
	if due {
		in.s.SendRaw(" ")
	}
}

func keys[S comparable](set map[S]struct{}) []S {
	list := make([]S, 0, len(set))
	for s := range set {
		list = append(list, s)
	}
	return list
}
