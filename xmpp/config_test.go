package xmpp_test

import (
	"testing"
	"time"

	"tombolo/xmpp"
)

func TestUnits(t *testing.T) {
	for _, row := range []struct {
		text string
		into interface {
			UnmarshalText([]byte) error
			String() string
		}
		want string // as String writes it; "" if the text is refused
	}{
		{"256kB", new(xmpp.Size), "256kB"},
		{"262144B", new(xmpp.Size), "256KiB"},
		{"1.5MB", new(xmpp.Size), "1500kB"},
		{" 2 GiB ", new(xmpp.Size), "2GiB"},
		{"off", new(xmpp.Size), "off"},
		{"256", new(xmpp.Size), ""},
		{"-1kB", new(xmpp.Size), ""},
		{"0kB", new(xmpp.Size), ""},
		{"9999999GB", new(xmpp.Size), ""},
		{"NaNkB", new(xmpp.Size), ""},
		{"30s", new(xmpp.Duration), "30s"},
		{"5m", new(xmpp.Duration), "5m"},
		{"90m", new(xmpp.Duration), "1h30m"},
		{"2h", new(xmpp.Duration), "2h"},
		{"365d", new(xmpp.Duration), "8760h"},
		{"1h0m5s", new(xmpp.Duration), "1h0m5s"},
		{"30", new(xmpp.Duration), ""},
		{"0s", new(xmpp.Duration), ""},
		{"off", new(xmpp.Duration), ""},
		{"NaNd", new(xmpp.Duration), ""},
		{"1000", new(xmpp.Count), "1000"},
		{"off", new(xmpp.Count), "off"},
		{"0", new(xmpp.Count), ""},
		{"many", new(xmpp.Count), ""},
	} {
		err := row.into.UnmarshalText([]byte(row.text))
		if (err == nil) != (row.want != "") || err == nil && row.into.String() != row.want {
			t.Errorf("%T %q: %v, %v; want %q", row.into, row.text, row.into, err, row.want)
		}
	}
}

// TestDefaults: an empty file lacks nothing but a domain.
func TestDefaults(t *testing.T) {
	c := xmpp.Defaults()
	problems := c.Validate(time.Now())
	if len(problems) != 1 || problems[0].Key != "domain" || problems[0].Warning {
		t.Errorf("problems of the defaults: %+v", problems)
	}
}
