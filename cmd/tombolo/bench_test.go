package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tombolo/cmd/tombolo/internal/bench"
	"tombolo/xmpp"
	"tombolo/xmpp/c2s"
)

// TestBench runs each scenario for a moment against a server of ours.
func TestBench(t *testing.T) {
	t.Setenv("TOMBOLO_TEST_AS_PROGRAM", "1") // the relay is a process of its own
	file := newSite(t)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "registration = true\n[limits]\nstanzas_per_second = 'off'\nbytes_per_second = 'off'\nexempt = ['127.0.0.0/8']\n"...)
	text = []byte(strings.Replace(string(text), "client_tls = []", "client_tls = ['127.0.0.1:0']", 1))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	serveSite(t, file)
	var status xmpp.Status
	if err := json.Unmarshal([]byte(run(t, "", "--config", file, "status", "--output", "json").out), &status); err != nil {
		t.Fatal(err)
	}
	address, direct := status.Listeners["client"][0], status.Listeners["client_tls"][0]
	users := filepath.Join(t.TempDir(), "users")
	measure := func(args ...string) []string {
		return append([]string{"--config", file, "bench", "--server", address, "--domain", "a.test", "--insecure",
			"--users", "6", "--duration", "300ms", "--warm-up", "50ms"}, args...)
	}
	run(t, "", measure("pairs", "--make", "admin", "--user-file", users)...).want(t, 0, "pairs: ", "")
	if info, err := os.Stat(users); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of passwords has mode %v, %v", info.Mode(), err)
	}
	run(t, "", measure("pairs", "--make", "admin", "--user-file", users)...).want(t, 1, "", "exists")

	for _, c := range []struct {
		name string
		args []string
	}{
		{"login", []string{"login", "--window", "2"}},
		{"pairs", []string{"pairs"}},
		{"pairs with a window over direct TLS", []string{"pairs", "--window", "20", "--server", direct, "--direct-tls", "--mechanism", "SCRAM-SHA-256"}},
		{"pairs at a rate", []string{"pairs", "--rate", "50"}},
		{"pairs with stream management", []string{"pairs", "--sm", "--carbons"}},
		{"pairs of which the ones before left nothing", []string{"pairs"}},
		{"idle", []string{"idle"}},
		{"presence", []string{"presence", "--window", "3"}},
		{"presence with contacts that are there", []string{"presence"}},
		{"offline", []string{"offline", "--messages", "7", "--window", "3"}},
		{"archive", []string{"archive", "--messages", "120", "--window", "20"}},
		{"federation", []string{"federation", "--peer-server", address, "--peer-domain", "a.test", "--make", "register", "--user-file", "", "--peer-user-file", ""}},
		{"accounts of its own", []string{"pairs", "--make", "register", "--user-file", ""}},
		{"pairs beside idle users", []string{"pairs", "--users", "2", "--idle", "4"}},
		{"fairness beside a session", []string{"fairness", "--flood", "session", "--flood-rate", "2000"}},
		{"fairness beside presence", []string{"fairness", "--flood", "presence"}},
		{"fairness beside federation", []string{"fairness", "--flood", "federation", "--flood-rate", "2000", "--peer-server", address, "--peer-domain", "a.test",
			"--make", "register", "--user-file", "", "--peer-user-file", ""}},
		{"relay", []string{"relay", "--window", "5"}},
		{"relay beside a session", []string{"relay", "--flood", "session"}},
		{"relay beside presence", []string{"relay", "--flood", "presence", "--flood-rate", "100", "--idle", "2"}},
		{"relay with a fan", []string{"relay", "--fan"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"--output", "json", "--user-file", users, "--server-pid", strconv.Itoa(os.Getpid())}, c.args...)
			r := run(t, "", measure(args...)...).want(t, 0, "", "")
			var report bench.Report
			if err := json.Unmarshal([]byte(r.out), &report); err != nil {
				t.Fatal(err)
			}
			for _, result := range report.Results {
				if result.Count == 0 || result.PerSecond == 0 || !result.Faultless() {
					t.Errorf("%+v", result)
				}
				if len(result.Servers) != 1 || result.Servers[0].ResidentKiB == 0 {
					t.Errorf("of the server it knows %+v", result.Servers)
				}
				silent := []string{"idle", "offline store", "offline deliver", "fairness flood of session", "fairness flood of presence", "fairness flood of federation",
					"relay flood of session", "relay flood of presence"}
				if (result.Latency == nil) != slices.Contains(silent, result.Scenario) {
					t.Errorf("%s has latency %+v", result.Scenario, result.Latency)
				}
				if (result.Slower != nil) != strings.Contains(result.Scenario, " beside ") {
					t.Errorf("%s is slower by %+v", result.Scenario, result.Slower)
				}
			}
			if len(report.Results) == 0 {
				t.Error("there are no results")
			}
		})
	}
	var left []c2s.UserInfo
	if err := json.Unmarshal([]byte(run(t, "", "--config", file, "user", "list", "--output", "json").out), &left); err != nil || len(left) != 6 {
		t.Errorf("%d accounts are left, %v; want the 6 of the file", len(left), err)
	}
}

func TestBenchCompare(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	before := write("a", `{"results": [{"scenario": "pairs", "unit": "message", "users": 2, "window": 1, "processes": [{"cpu_us_per_unit": 20}]}]}`)
	after := write("b", `{"results": [{"scenario": "pairs", "unit": "message", "users": 2, "window": 1, "processes": [{"cpu_us_per_unit": 15}]}]}`)
	run(t, "", "bench", "--compare", before, after).want(t, 0, "-25.0 %", "")
	other := write("c", `{"results": [{"scenario": "idle"}]}`)
	run(t, "", "bench", "--compare", before, other).want(t, 1, "", "no scenario in common")
}

func TestBenchUsage(t *testing.T) {
	for text, args := range map[string][]string{
		"no scenario":            {"dance"},
		"accepts 1 arg(s)":       {},
		"accepts 2 arg(s)":       {"--compare", "a.json"},
		"there are no accounts":  {"pairs"},
		"--users must be":        {"pairs", "--users", "1"},
		"--mechanism is":         {"pairs", "--mechanism", "PLAIN"},
		"--make is":              {"pairs", "--make", "magic"},
		"needs --peer-server":    {"federation", "--make", "register"},
		"fairness needs --flood": {"fairness", "--make", "register"},
		"--flood is session":     {"fairness", "--flood", "noise", "--make", "register"},
		"--flood is for":         {"pairs", "--flood", "session", "--make", "register"},
		"the relay has no peer":  {"relay", "--flood", "federation"},
		"--flood-rate needs":     {"pairs", "--flood-rate", "5", "--make", "register"},
		"4 at least with":        {"relay", "--flood", "session", "--users", "3"},
		"--size must be at most": {"archive", "--size", "5000", "--make", "register"},
		"--idle must be":         {"pairs", "--idle", "-1", "--make", "register"},
		"--make admin knows one": {"federation", "--make", "admin", "--peer-server", "a:1", "--peer-domain", "b"},
	} {
		run(t, "", append([]string{"bench"}, args...)...).want(t, 2, "", text)
	}
}
