package xmpp

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

// TestTakeOver: what changes is either in effect after a reload or named as waiting, never neither.
func TestTakeOver(t *testing.T) {
	started := func() Config {
		c := Defaults()
		c.Domain = []Domain{{Name: "a.test", Certificate: "a.crt", Key: "a.key"}, {Name: "b.test", Certificate: "b.crt", Key: "b.key"}}
		return c
	}
	for name, row := range map[string]struct {
		change  func(*Config)
		waiting []string
		taken   func(*Config) bool
	}{
		"nothing":        {change: func(*Config) {}},
		"a certificate":  {change: func(c *Config) { c.Domain[1].Certificate = "new.crt" }, taken: func(c *Config) bool { return c.Domain[1].Certificate == "new.crt" }},
		"a key":          {change: func(c *Config) { c.Domain[0].Key = "new.key" }, taken: func(c *Config) bool { return c.Domain[0].Key == "new.key" }},
		"the log":        {change: func(c *Config) { c.Log = Log{"debug", "json"} }, waiting: []string{"log.format"}, taken: func(c *Config) bool { return c.Log == Log{"debug", "text"} }},
		"policy":         {change: func(c *Config) { c.Federation.Policy = "partners" }, taken: func(c *Config) bool { return c.Federation.Policy == "partners" }},
		"deny":           {change: func(c *Config) { c.Federation.Deny = []string{"c.test"} }, taken: func(c *Config) bool { return len(c.Federation.Deny) == 1 }},
		"trust anchors":  {change: func(c *Config) { c.Federation.CAFile = "ca.pem" }, taken: func(c *Config) bool { return c.Federation.CAFile == "ca.pem" }},
		"a partner":      {change: func(c *Config) { c.Federation.Partner = []Partner{{Domain: "c.test"}} }, taken: func(c *Config) bool { return len(c.Federation.Partner) == 1 }},
		"a resolver":     {change: func(c *Config) { c.Federation.Resolver = "127.0.0.1:53" }, waiting: []string{"federation.resolver"}},
		"data_dir":       {change: func(c *Config) { c.DataDir = "other" }, waiting: []string{"data_dir"}},
		"two limits":     {change: func(c *Config) { c.Limits.Depth, c.Limits.Idle = 7, Duration(time.Hour) }, waiting: []string{"limits.depth", "limits.idle"}},
		"an admin":       {change: func(c *Config) { c.Domain[1].Admins = []string{"root@b.test"} }, waiting: []string{"domain[1].admins"}},
		"a domain more":  {change: func(c *Config) { c.Domain = append(c.Domain, Domain{Name: "c.test"}) }, waiting: []string{"domain"}},
		"a domain less":  {change: func(c *Config) { c.Domain = c.Domain[1:] }, waiting: []string{"domain"}},
		"another order":  {change: func(c *Config) { slices.Reverse(c.Domain) }, waiting: []string{"domain"}},
		"an archive off": {change: func(c *Config) { c.Domain[0].Archive.Enabled = new(bool) }, waiting: []string{"domain[0].archive.enabled"}},
	} {
		t.Run(name, func(t *testing.T) {
			old, running, fresh := started(), started(), started()
			alias := running.Domain
			row.change(&fresh)
			waiting := takeOver(reflect.ValueOf(&running).Elem(), reflect.ValueOf(fresh), "")
			if !slices.Equal(waiting, row.waiting) {
				t.Errorf("waiting are %q, want %q", waiting, row.waiting)
			}
			if row.taken != nil && !row.taken(&running) {
				t.Errorf("not taken over: %+v", running)
			}
			if row.taken == nil && !reflect.DeepEqual(running, old) {
				t.Errorf("got %+v\nwant %+v", running, old)
			}
			if !reflect.DeepEqual(alias, old.Domain) {
				t.Error("it changed the list that the server reads meanwhile")
			}
		})
	}
}
