package xmpp_test

import (
	"strings"
	"testing"
)

// TestPlaysNoticeDifferences holds the comparison that every play rests on to its own rules.
func TestPlaysNoticeDifferences(t *testing.T) {
	for _, c := range []struct{ want, got, difference string }{
		{"<message to='a' id='1'/>", `<message id="1" to="a"></message>`, ""},
		{"<message><x xmlns='t'><y/></x></message>", "<message><p:x xmlns:p='t'><p:y/></p:x></message>", ""},
		{"<message><x xmlns='t'><y/></x></message>", "<message><x xmlns='t'><y xmlns=''/></x></message>", `y in "", want y in "t"`},
		{"<message/>", "<message xmlns='jabber:server'/>", `message in "jabber:server"`},
		{"<message/>", "<presence/>", "want message"},
		{"<message/>", "<message id='1'/>", "not expected"},
		{"<message id='1'/>", "<message/>", "no attribute id"},
		{"<message id='1'/>", "<message id='2'/>", `id is "2"`},
		{"<message id='1'/>", "<message xmlns:p='t' p:id='1'/>", "no attribute id"},
		{"<message id='*'/>", "<message id='2'/>", ""},
		{"<message id='*'/>", "<message/>", "no attribute id"},
		{"<message id='?'/>", "<message/>", ""},
		{"<message id='{a}' to='{a}'/>", "<message id='1' to='1'/>", ""},
		{"<message id='{a}' to='{a}'/>", "<message id='1' to='2'/>", `to is "2"`},
		{"<message xml:lang='en'/>", "<message lang='en'/>", "no attribute lang"},
		{"<body>a</body>", "<body>b</body>", `text "b"`},
		{"<body>a</body>", "<body>a </body>", `text "a "`},
		{"<body>a</body>", "<body/>", "missing"},
		{"<body/>", "<body>a</body>", "not expected"},
		{"<body>*</body>", "<body>a</body>", ""},
		{"<body>*</body>", "<body/>", "missing"},
		{"<body>a<b/>c</body>", "<body>a<b/>c</body>", ""},
		{"<body>a<b/>c</body>", "<body>ac<b/></body>", `text "ac"`},
		{"<iq><a/><b/></iq>", "<iq><b/><a/></iq>", "want a"},
		{"<iq><in-any-order/><a/><b/></iq>", "<iq><b/><a/></iq>", ""},
		{"<iq><in-any-order/><a/><b/></iq>", "<iq><b/><a/><c/></iq>", "<c/> is not expected"},
		{"<iq><in-any-order/><a/><a/></iq>", "<iq><a/><b/></iq>", "<a/> is missing"},
		{"<iq><a/><any/></iq>", "<iq><c/><a/><b/></iq>", ""},
		{"<iq><a/><any/></iq>", "<iq><b/></iq>", "<a/> is missing"},
		{"<iq><a x='1'/><any/></iq>", "<iq><a x='2'/></iq>", `x is "2"`},
	} {
		want, err := parseTrees(c.want)
		if err != nil {
			t.Fatalf("%s: %v", c.want, err)
		}
		got, err := parseTrees(c.got)
		if err != nil {
			t.Fatalf("%s: %v", c.got, err)
		}
		err = want[0].match(got[0], make(map[string]string))
		switch {
		case c.difference == "" && err != nil:
			t.Errorf("%s against %s: %v", c.want, c.got, err)
		case c.difference != "" && err == nil:
			t.Errorf("%s against %s: no difference seen, want %q", c.want, c.got, c.difference)
		case err != nil && !strings.Contains(err.Error(), c.difference):
			t.Errorf("%s against %s: %q, want %q", c.want, c.got, err, c.difference)
		}
	}
}
