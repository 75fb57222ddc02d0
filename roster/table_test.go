package roster

import (
	"strings"
	"testing"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/stanza"
)

var stateNames = map[string]state{
	"None":                  none,
	"None + Pending Out":    nonePendingOut,
	"None + Pending In":     nonePendingIn,
	"None + Pending Out+In": nonePendingOutIn,
	"To":                    to,
	"To + Pending In":       toPendingIn,
	"From":                  from,
	"From + Pending Out":    fromPendingOut,
	"Both":                  both,
}

// The tables of RFC 6121 appendix A, a row here for each row there: state, whether the stanza is
// routed or delivered, new state. "*" marks the rows where the server answers with "subscribed".
var appendixA = []struct {
	section, typ string
	tables       map[string]table
	rows         string
}{
	{"A.2.1", "subscribe", outbound, `
		None                  | MUST     | None + Pending Out
		None + Pending Out    | MUST     | no state change
		None + Pending In     | MUST     | None + Pending Out+In
		None + Pending Out+In | MUST     | no state change
		To                    | MUST     | no state change
		To + Pending In       | MUST     | no state change
		From                  | MUST     | From + Pending Out
		From + Pending Out    | MUST     | no state change
		Both                  | MUST     | no state change`},
	{"A.2.2", "unsubscribe", outbound, `
		None                  | MUST     | no state change
		None + Pending Out    | MUST     | None
		None + Pending In     | MUST     | no state change
		None + Pending Out+In | MUST     | None + Pending In
		To                    | MUST     | None
		To + Pending In       | MUST     | None + Pending In
		From                  | MUST     | no state change
		From + Pending Out    | MUST     | From
		Both                  | MUST     | From`},
	{"A.2.3", "subscribed", outbound, `
		None                  | MUST NOT | no state change
		None + Pending Out    | MUST NOT | no state change
		None + Pending In     | MUST     | From
		None + Pending Out+In | MUST     | From + Pending Out
		To                    | MUST NOT | no state change
		To + Pending In       | MUST     | Both
		From                  | MUST NOT | no state change
		From + Pending Out    | MUST NOT | no state change
		Both                  | MUST NOT | no state change`},
	{"A.2.4", "unsubscribed", outbound, `
		None                  | MUST NOT | no state change
		None + Pending Out    | MUST NOT | no state change
		None + Pending In     | MUST     | None
		None + Pending Out+In | MUST     | None + Pending Out
		To                    | MUST NOT | no state change
		To + Pending In       | MUST     | To
		From                  | MUST     | None
		From + Pending Out    | MUST     | None + Pending Out
		Both                  | MUST     | To`},
	{"A.3.1", "subscribe", inbound, `
		None                  | MUST     | None + Pending In
		None + Pending Out    | MUST     | None + Pending Out+In
		None + Pending In     | MUST NOT | no state change
		None + Pending Out+In | MUST NOT | no state change
		To                    | MUST     | To + Pending In
		To + Pending In       | MUST NOT | no state change
		From                  | MUST NOT*| no state change
		From + Pending Out    | MUST NOT*| no state change
		Both                  | MUST NOT*| no state change`},
	{"A.3.2", "unsubscribe", inbound, `
		None                  | MUST NOT | no state change
		None + Pending Out    | MUST NOT | no state change
		None + Pending In     | MUST     | None
		None + Pending Out+In | MUST     | None + Pending Out
		To                    | MUST NOT | no state change
		To + Pending In       | MUST     | To
		From                  | MUST     | None
		From + Pending Out    | MUST     | None + Pending Out
		Both                  | MUST     | To`},
	{"A.3.3", "subscribed", inbound, `
		None                  | MUST NOT | no state change
		None + Pending Out    | MUST     | To
		None + Pending In     | MUST NOT | no state change
		None + Pending Out+In | MUST     | To + Pending In
		To                    | MUST NOT | no state change
		To + Pending In       | MUST NOT | no state change
		From                  | MUST NOT | no state change
		From + Pending Out    | MUST     | Both
		Both                  | MUST NOT | no state change`},
	{"A.3.4", "unsubscribed", inbound, `
		None                  | MUST NOT | no state change
		None + Pending Out    | MUST     | None
		None + Pending In     | MUST NOT | no state change
		None + Pending Out+In | MUST     | None + Pending In
		To                    | MUST     | None
		To + Pending In       | MUST     | None + Pending In
		From                  | MUST NOT | no state change
		From + Pending Out    | MUST     | From
		Both                  | MUST     | From`},
}

var (
	romeo  = jid.MustParse("romeo@example.net")
	juliet = jid.MustParse("juliet@example.com")
)

// itemIn makes an item in a state, from the words of appendix A.1 and not by the code under test.
func itemIn(name string) storage.RosterItem {
	item := storage.RosterItem{
		Contact: juliet,
		To:      strings.HasPrefix(name, "To") || name == "Both",
		From:    strings.HasPrefix(name, "From") || name == "Both",
		Ask:     strings.Contains(name, "Out"),
	}
	item.Listed = item.To || item.From || item.Ask
	if strings.HasSuffix(name, "In") {
		item.PendingIn = "<presence type='subscribe'/>"
	}
	return item
}

func TestAppendixA1States(t *testing.T) {
	if len(stateNames) != 9 {
		t.Fatalf("%d states, want 9", len(stateNames))
	}
	for name, want := range stateNames {
		if got := stateOf(itemIn(name)); got != want {
			t.Errorf("%s: state %d, want %d", name, got, want)
		}
	}
}

func TestAppendixATables(t *testing.T) {
	total := 0
	for _, a := range appendixA {
		for line := range strings.Lines(strings.TrimSpace(a.rows)) {
			total++
			cells := strings.Split(line, "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			name, move, next := cells[0], cells[1], cells[2]
			if next == "no state change" {
				next = name
			}
			t.Run(a.section+"/"+a.typ+"/"+name, func(t *testing.T) {
				want := rule{pass: move == "MUST", next: stateNames[next]}
				if strings.HasSuffix(move, "*") {
					want.reply = "subscribed"
				}
				if got := a.tables[a.typ][stateNames[name]]; got != want {
					t.Errorf("row is %+v, want %+v", got, want)
				}
				// The same through the functions that apply the row to an item.
				var item storage.RosterItem
				if a.section < "A.3" {
					item, _ = afterSending(itemIn(name), a.typ)
				} else {
					item, _ = afterReceiving(itemIn(name), stanza.New(stanza.Presence, a.typ, "", juliet, romeo))
				}
				if got := stateOf(item); got != want.next {
					t.Errorf("new state %d, want %d", got, want.next)
				}
				if want := itemIn(next); item.To != want.To || item.From != want.From || item.Ask != want.Ask ||
					(item.PendingIn != "") != (want.PendingIn != "") {
					t.Errorf("item is %+v, want the flags of %s", item, next)
				}
			})
		}
	}
	if total != 8*9 {
		t.Errorf("%d rows tested, the appendix has 72", total)
	}
}

func TestPreApproval342(t *testing.T) {
	for _, row := range []struct {
		state    string
		approves bool
	}{
		{"None", true}, {"None + Pending Out", true}, {"To", true},
		{"None + Pending In", false}, {"None + Pending Out+In", false},
		{"To + Pending In", false},
		{"From", false}, {"From + Pending Out", false}, {"Both", false},
	} {
		item, does := afterSending(itemIn(row.state), "subscribed")
		if item.Approved != row.approves {
			t.Errorf("subscribed in %s: approved is %v, want %v", row.state, item.Approved, row.approves)
		}
		if row.approves && (does.pass || !item.Listed) {
			t.Errorf("subscribed in %s: routed %v, listed %v", row.state, does.pass, item.Listed)
		}
		if !row.approves {
			continue
		}
		cancelled, does := afterSending(item, "unsubscribed")
		if cancelled.Approved || does.pass {
			t.Errorf("unsubscribed in %s: approved is %v, routed %v", row.state, cancelled.Approved, does.pass)
		}
		asked, does := afterReceiving(item, stanza.New(stanza.Presence, "subscribe", "", juliet, romeo))
		if !asked.From || asked.PendingIn != "" || does.pass || does.reply != "subscribed" {
			t.Errorf("subscribe in %s when approved: %+v, %+v", row.state, asked, does)
		}
		if asked.To != item.To || asked.Ask != item.Ask {
			t.Errorf("subscribe in %s when approved changed the other direction: %+v", row.state, asked)
		}
	}
}

// A second request while one waits does not replace it (RFC 6121 section 3.1.3: one is kept).
func TestFirstRequestIsKept313(t *testing.T) {
	item := itemIn("None + Pending In")
	next, _ := afterReceiving(item, stanza.New(stanza.Presence, "subscribe", "second", juliet, romeo))
	if next.PendingIn != item.PendingIn {
		t.Errorf("kept %q, want the first request", next.PendingIn)
	}
}

func TestKeptRequestIsBounded(t *testing.T) {
	long := stanza.New(stanza.Presence, "subscribe", strings.Repeat("i", maxKept), juliet, romeo)
	item, _ := afterReceiving(storage.RosterItem{Contact: juliet}, long)
	if len(item.PendingIn) > maxKept {
		t.Fatalf("%d bytes kept", len(item.PendingIn))
	}
	if st := parse(t, item.PendingIn); st.Type != "subscribe" || st.From != juliet || st.To != romeo {
		t.Errorf("kept %q", item.PendingIn)
	}
}
