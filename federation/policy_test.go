package federation

import "testing"

func TestPolicy(t *testing.T) {
	partners := []Partner{{Domain: "b.test"}, {Domain: "good.bad.test", Certificate: true}, {Domain: "Bücher.test"}}
	deny := []string{"bad.test", "x.b.test", "b.org"}
	for _, c := range []struct {
		domain         string
		open, partners bool   // allowed by the policy open, and by partners
		entry          string // whose terms hold
	}{
		{"b.test", true, true, "b.test"},
		{"chat.b.test", true, true, "b.test"},
		{"deep.chat.b.test", true, true, "b.test"},
		{"x.b.test", false, false, ""},   // the longer match is a refusal
		{"y.x.b.test", false, false, ""}, // and covers what is below
		{"xx.b.test", true, true, "b.test"},
		{"ab.test", true, false, ""}, // a suffix, but no subdomain
		{"bad.test", false, false, ""},
		{"very.bad.test", false, false, ""},
		{"good.bad.test", true, true, "good.bad.test"}, // the longer match is a permission
		{"x.good.bad.test", true, true, "good.bad.test"},
		{"b.org", false, false, ""},
		{"other.org", true, false, ""},
		{"test", true, false, ""},
		{"bücher.test", true, true, "bücher.test"},
	} {
		for _, open := range []bool{true, false} {
			r, err := Policy{Open: open, Deny: deny, Partners: partners}.compile()
			if err != nil {
				t.Fatal(err)
			}
			want := c.partners
			if open {
				want = c.open
			}
			terms, allowed := r.of(c.domain)
			if allowed != want || allowed && terms.entry != c.entry {
				t.Errorf("%s, open %v: allowed %v by %q, want %v by %q", c.domain, open, allowed, terms.entry, want, c.entry)
			}
		}
	}
}

func TestDenyWinsATie(t *testing.T) {
	r, err := Policy{Open: true, Deny: []string{"b.test"}, Partners: []Partner{{Domain: "B.TEST"}}}.compile()
	if err != nil {
		t.Fatal(err)
	}
	if _, allowed := r.of("b.test"); allowed {
		t.Error("a domain that is both denied and a partner is let in")
	}
}

func TestPolicyMistakes(t *testing.T) {
	for name, p := range map[string]Policy{
		"denied JID":       {Deny: []string{"x@b.test"}},
		"no partner name":  {Partners: []Partner{{}}},
		"short pin":        {Partners: []Partner{{Domain: "b.test", Pins: []string{"YWJj"}}}},
		"pin not base64":   {Partners: []Partner{{Domain: "b.test", Pins: []string{"?"}}}},
		"clear, yet proof": {Partners: []Partner{{Domain: "b.test", Clear: true, Certificate: true}}},
		"empty host":       {Partners: []Partner{{Domain: "b.test", Address: ":5269"}}},
	} {
		if _, err := p.compile(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPartnerAddress(t *testing.T) {
	for address, want := range map[string]target{
		"127.0.0.2:5280": {host: "127.0.0.2", port: "5280"},
		"127.0.0.2":      {host: "127.0.0.2", port: "5269"},
		"[::1]:5280":     {host: "::1", port: "5280"},
		"[::1]":          {host: "::1", port: "5269"},
		"xmpp.b.test":    {host: "xmpp.b.test", port: "5269"},
	} {
		r, err := Policy{Partners: []Partner{{Domain: "b.test", Address: address}}}.compile()
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if got, _ := r.of("b.test"); *got.address != want {
			t.Errorf("%s: %v, want %v", address, *got.address, want)
		}
	}
}
