package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// A Report is a run as it is kept.
type Report struct {
	Date    time.Time `json:"date"`
	CPUs    int       `json:"cpus"`
	System  string    `json:"system"`
	Results []Result  `json:"results"`
}

// NewReport puts results together with the machine that they are of.
func NewReport(results []Result) Report {
	return Report{time.Now().UTC().Truncate(time.Second), runtime.NumCPU(), runtime.GOOS + "/" + runtime.GOARCH, results}
}

// A Result is what one scenario, or one part of it, came to.
type Result struct {
	Scenario  string  `json:"scenario"`
	Unit      string  `json:"unit"`
	Server    string  `json:"server"`
	Users     int     `json:"users"`
	Window    int     `json:"window"`
	Size      int     `json:"size"`
	Direct    bool    `json:"direct_tls"`
	SM        bool    `json:"stream_management,omitempty"`
	Carbons   bool    `json:"carbons,omitempty"`
	Idle      int     `json:"idle,omitempty"`
	Seconds   float64 `json:"seconds"`    // that were measured
	Count     uint64  `json:"count"`      // of units in them
	PerSecond float64 `json:"per_second"` // what this machine did, clients included

	// Of the whole run, warm-up included.
	Sent      uint64 `json:"sent"`
	Received  uint64 `json:"received"`
	Lost      uint64 `json:"lost"`
	Doubled   uint64 `json:"doubled"`
	Reordered uint64 `json:"reordered"`
	Errors    uint64 `json:"errors"`

	// Stolen is how many milliseconds of processor time the host gave to others in a second, while this machine
	// had work to do. Latencies of a run with more than a few are the host's.
	Stolen float64 `json:"stolen_ms_per_second"`

	Latency *Latency  `json:"latency_ms,omitempty"`
	Slower  *Slower   `json:"slower,omitempty"` // of fairness, beside the flood
	Servers []Process `json:"processes,omitempty"`
	Clients Process   `json:"clients"`
}

// Latency are milliseconds from the write of the sender to the read of the recipient.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Slower is how many times the latency is what it was before.
type Slower struct {
	P50 float64 `json:"p50_ratio"`
	P99 float64 `json:"p99_ratio"`
}

// A Process is a process tree while it was measured.
type Process struct {
	PID           int     `json:"pid,omitempty"`
	CPUSeconds    float64 `json:"cpu_seconds"`
	Cores         float64 `json:"cores"`                  // that it kept busy
	PerItemUs     float64 `json:"cpu_us_per_unit"`        // 0 where it did other things besides
	ResidentKiB   int64   `json:"resident_kib,omitempty"` // at the end
	PeakKiB       int64   `json:"peak_kib,omitempty"`
	PerSessionKiB float64 `json:"kib_per_session,omitempty"` // of idle
}

// result makes a Result. sent tells how many stanzas each arrival should have got.
func (r *run) result(name string, s span, arrivals []*arrival, sent func(int) uint64) Result {
	result := Result{Scenario: name, Server: r.Target.Address, Users: len(r.Target.Accounts) + len(r.Peer.Accounts), Window: r.Window,
		Size: r.Size, Direct: r.Target.Direct, SM: r.SM, Carbons: r.Carbons, Idle: r.Idle, Seconds: s.seconds(), Count: s.count()}
	for _, known := range Scenarios {
		if known.Name == r.Scenario {
			result.Unit = known.Unit
		}
	}
	if r.Target.relay && r.Fan {
		result.Unit = "delivery"
	}
	if result.Seconds > 0 {
		result.PerSecond = float64(result.Count) / result.Seconds
		result.Stolen = 1000 * (s.after.stolen - s.before.stolen).Seconds() / result.Seconds
	}
	var latency Histogram
	for i, a := range arrivals {
		n := sent(i)
		result.Sent += n
		result.Received += a.tally.received
		result.Lost += a.tally.lost(n)
		result.Doubled += a.tally.doubled
		result.Reordered += a.tally.reordered
		result.Errors += a.errors
		latency.Add(&a.latency)
	}
	result.setLatency(&latency)
	perItem := func(d time.Duration) float64 {
		if result.Count == 0 {
			return 0
		}
		return float64(d.Microseconds()) / float64(result.Count)
	}
	process := func(used time.Duration) Process {
		p := Process{CPUSeconds: used.Seconds(), PerItemUs: perItem(used)}
		if result.Seconds > 0 {
			p.Cores = p.CPUSeconds / result.Seconds
		}
		return p
	}
	for i, pid := range r.pids() {
		before, after := s.before.servers[i], s.after.servers[i]
		p := process(after.cpu - before.cpu)
		p.PID, p.ResidentKiB, p.PeakKiB = pid, after.rss>>10, after.peak>>10
		result.Servers = append(result.Servers, p)
	}
	result.Clients = process(s.after.clients - s.before.clients)
	return result
}

func (r *Result) setLatency(h *Histogram) {
	if h.Count() == 0 {
		return
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	r.Latency = &Latency{ms(h.Mean()), ms(h.Percentile(50)), ms(h.Percentile(90)), ms(h.Percentile(99)), ms(h.Percentile(99.9)), ms(h.Max())}
}

// Faultless says that nothing was lost, doubled, out of order or returned.
func (r Result) Faultless() bool { return r.Lost+r.Doubled+r.Reordered+r.Errors == 0 }

// Text is the result for people, a few lines.
func (r Result) Text(w io.Writer) error {
	var b strings.Builder
	units := r.Unit + "s"
	if stem, ok := strings.CutSuffix(r.Unit, "y"); ok {
		units = stem + "ies"
	}
	fmt.Fprintf(&b, "%s: %d %s in %.1f s, %.0f a second", r.Scenario, r.Count, units, r.Seconds, r.PerSecond)
	if l := r.Latency; l != nil {
		fmt.Fprintf(&b, "; p50 %.2f, p90 %.2f, p99 %.2f, p99.9 %.2f, max %.2f ms", l.P50, l.P90, l.P99, l.P999, l.Max)
	}
	b.WriteByte('\n')
	if s := r.Slower; s != nil {
		fmt.Fprintf(&b, "  p50 is %.1f times and p99 %.1f times what it was alone\n", s.P50, s.P99)
	}
	for _, p := range r.Servers {
		fmt.Fprintf(&b, "  server %d: %.2f s of processor time, %.2f cores", p.PID, p.CPUSeconds, p.Cores)
		if p.PerItemUs != 0 {
			fmt.Fprintf(&b, ", %.1f us a %s", p.PerItemUs, r.Unit)
		}
		fmt.Fprintf(&b, "; %d KiB resident, %d at most", p.ResidentKiB, p.PeakKiB)
		if p.PerSessionKiB != 0 {
			fmt.Fprintf(&b, "; %.1f KiB a session", p.PerSessionKiB)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "  clients: %.2f s of processor time, %.1f us a %s\n", r.Clients.CPUSeconds, r.Clients.PerItemUs, r.Unit)
	if r.Stolen >= 0.5 {
		fmt.Fprintf(&b, "  the host gave %.0f ms of processor time a second to others\n", r.Stolen)
	}
	if r.Sent > 0 {
		fmt.Fprintf(&b, "  sent %d, lost %d, doubled %d, reordered %d, errors %d\n", r.Sent, r.Lost, r.Doubled, r.Reordered, r.Errors)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// ReadReport reads what --output json has written.
func ReadReport(file string) (Report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Report{}, err
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		return Report{}, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// Compare writes two reports side by side, with the change from the first to the second.
func Compare(w io.Writer, a, b Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tbefore\tafter\tchange\t")
	row := func(name string, before, after float64) {
		if before == 0 && after == 0 {
			return
		}
		change := "new"
		if before != 0 {
			change = fmt.Sprintf("%+.1f %%", (after/before-1)*100)
		}
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%s\t\n", name, before, after, change)
	}
	matched := 0
	for _, x := range a.Results {
		for _, y := range b.Results {
			if x.Scenario != y.Scenario || x.Unit != y.Unit || x.Users != y.Users || x.Window != y.Window || x.Idle != y.Idle || x.SM != y.SM || x.Carbons != y.Carbons {
				continue
			}
			matched++
			name := fmt.Sprintf("%s, %d users, window %d: ", x.Scenario, x.Users, x.Window)
			row(name+"a second", x.PerSecond, y.PerSecond)
			for i := range min(len(x.Servers), len(y.Servers)) {
				p, q := x.Servers[i], y.Servers[i]
				row(name+"server us a "+x.Unit, p.PerItemUs, q.PerItemUs)
				row(name+"server KiB resident", float64(p.ResidentKiB), float64(q.ResidentKiB))
				row(name+"server KiB a session", p.PerSessionKiB, q.PerSessionKiB)
			}
			if x.Latency != nil && y.Latency != nil {
				row(name+"p50 ms", x.Latency.P50, y.Latency.P50)
				row(name+"p99 ms", x.Latency.P99, y.Latency.P99)
			}
			row(name+"lost", float64(x.Lost), float64(y.Lost))
			row(name+"doubled", float64(x.Doubled), float64(y.Doubled))
			row(name+"reordered", float64(x.Reordered), float64(y.Reordered))
			break
		}
	}
	if matched == 0 {
		return fmt.Errorf("the two reports have no scenario in common")
	}
	return t.Flush()
}
