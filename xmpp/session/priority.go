package session

import (
	"strconv"
	"strings"

	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// priority reads <priority/> (RFC 6121 section 4.7.2.3): an integer from -128 to 127, 0 if absent.
// A value that is not one counts as 0, the way the RFC's default does; the presence is still good.
func priority(st stanza.Stanza) int {
	p := st.Element.Child("priority", ns.Client)
	if p.IsZero() {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(p.Text()), 10, 8)
	if err != nil {
		return 0
	}
	return int(n)
}
