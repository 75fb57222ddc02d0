package archive

import (
	"strconv"
	"strings"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/journal"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// Bounds of what one query may ask for. A page has maxPage messages at most, and as many as defaultPage
// where the client does not say.
const (
	defaultPage = 50
	maxPage     = 250
	maxIDs      = 500  // in one query
	maxQueryID  = 1024 // bytes; each message of the answer has it
)

// A request is what a client wants to have from its archive.
type request struct {
	storage.ArchiveQuery
	id      string // queryid
	named   bool   // there is one
	flipped bool
	max     int
}

// parseQuery reads a <query/> (XEP-0313 section 4). IDs that nobody can have been told are not found.
func parseQuery(j *journal.Journal, owner jid.JID, e element.Element) (r request, err error) {
	p := parser{ids: j, owner: owner, request: &r}
	r.max = defaultPage
	if r.id, r.named = e.LookupAttr("queryid"); len(r.id) > maxQueryID {
		return r, stanza.BadRequest("the queryid is too long")
	}
	if e.Attr("node") != "" {
		return r, stanza.ItemNotFound("an account has no nodes")
	}
	forms, sets := 0, 0
	for child := range e.Children() {
		switch {
		case err != nil:
		case child.Is("x", ns.Forms):
			forms++
			err = p.form(child)
		case child.Is("set", ns.RSM):
			sets++
			err = p.set(child)
		case child.Is("flip-page", ns.MAM):
			r.flipped = true
		}
	}
	if err == nil && (forms > 1 || sets > 1) {
		err = stanza.BadRequest("a query has one form and one set")
	}
	return r, err
}

type parser struct {
	*request
	ids   *journal.Journal
	owner jid.JID
}

// form reads the filters (section 4.1). A field that has no value does not filter.
func (p *parser) form(form element.Element) error {
	if form.Attr("type") != "submit" {
		return stanza.BadRequest("the form is not submitted")
	}
	seen := make(map[string]bool)
	filters := 0
	for field := range form.Children() {
		name := field.Attr("var")
		if !field.Is("field", ns.Forms) || name == "" || seen[name] {
			return stanza.BadRequest("each field has a name of its own")
		}
		seen[name] = true
		var values []string
		for value := range field.Children() {
			if value.Is("value", ns.Forms) {
				values = append(values, value.Text())
			}
		}
		if name != "ids" {
			if len(values) > 1 {
				return stanza.BadRequest(name + " has one value")
			}
			if len(values) == 0 || values[0] == "" {
				continue
			}
		}
		if err := p.field(name, values); err != nil {
			return err
		}
		if name != "FORM_TYPE" && name != "include-groupchat" {
			filters++
		}
	}
	switch {
	case !seen["FORM_TYPE"]:
		return stanza.BadRequest("the form has no FORM_TYPE")
	case p.IDs != nil && filters > 1:
		return stanza.FeatureNotImplemented("ids go without other filters")
	}
	return nil
}

// field reads one filter. One that is not known must be refused (section 4.1.5): its client would take
// everything for what it asked for.
func (p *parser) field(name string, values []string) (err error) {
	switch name {
	case "FORM_TYPE":
		if values[0] != ns.MAM {
			err = stanza.BadRequest("this form is another one")
		}
	case "with":
		if p.With, err = jid.Parse(values[0]); err != nil {
			err = stanza.BadRequest("with is no JID")
		}
	case "start":
		p.Start, err = parseDateTime(values[0])
		// A message has the time that we tell, in milliseconds, and is found by it.
		p.Start = p.Start.Add(time.Millisecond - 1).Truncate(time.Millisecond)
	case "end":
		p.End, err = parseDateTime(values[0])
		p.End = p.End.Truncate(time.Millisecond).Add(time.Millisecond - 1)
	case "after-id":
		p.AfterID, err = p.number(values[0])
	case "before-id":
		p.BeforeID, err = p.number(values[0])
	case "ids":
		if len(values) > maxIDs {
			return stanza.BadRequest("too many ids")
		}
		p.IDs = make([]uint64, len(values))
		for i := range values {
			if p.IDs[i], err = p.number(values[i]); err != nil {
				return err
			}
		}
	case "include-groupchat": // what rooms send is in the rooms' archives only
		switch values[0] {
		case "true", "false", "1", "0":
		default:
			err = stanza.BadRequest("include-groupchat is true or false")
		}
	default:
		err = stanza.FeatureNotImplemented("there is no field " + name)
	}
	return err
}

// set reads which page is wanted (XEP-0059). With both after and before it is the last one of those
// between the two; the specification leaves that open.
func (p *parser) set(set element.Element) error {
	after, before := set.Child("after", ns.RSM), set.Child("before", ns.RSM)
	if max := set.Child("max", ns.RSM); !max.IsZero() {
		n, err := strconv.ParseUint(strings.TrimSpace(max.Text()), 10, 32)
		if err != nil {
			return stanza.BadRequest("max is a number")
		}
		p.max = int(min(n, maxPage))
	}
	if !set.Child("index", ns.RSM).IsZero() {
		return stanza.FeatureNotImplemented("a page is found by an id") // section 2.6
	}
	var err error
	if p.Backwards = !before.IsZero(); p.Backwards && before.Text() != "" {
		if p.Before, err = p.number(before.Text()); err != nil {
			return err
		}
	}
	if after.IsZero() || after.Text() == "" {
		return nil
	}
	id, err := p.number(after.Text())
	switch {
	case err != nil:
		return err
	case !p.Backwards:
		p.After = id
	case id > p.AfterID:
		p.AfterID = id
	}
	return nil
}

func (p *parser) number(id string) (uint64, error) {
	n, ok := p.ids.ID(p.owner, id)
	if !ok {
		return 0, stanza.ItemNotFound("there is no such message")
	}
	return n, nil
}

// Times before and after which nothing is; those beyond mean the same and are easier to keep.
var (
	earliest = time.Unix(0, 0)
	latest   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// parseDateTime reads a DateTime of XEP-0082.
func parseDateTime(text string) (time.Time, error) {
	t, err := time.Parse("2006-01-02T15:04:05Z07:00", text)
	switch {
	case err != nil || strings.Contains(text, ","):
		return t, stanza.BadRequest("a time is written as 2010-08-07T00:00:00Z")
	case t.Before(earliest):
		return earliest, nil
	case t.After(latest):
		return latest, nil
	}
	return t.UTC(), nil
}

// form answers with the fields that a query may have (section 4.1.5).
func (a *Archive) form(q *module.Query) {
	w := element.Start("query", ns.MAM).Open("x", ns.Forms).Attr("type", "form")
	w.Open("field", ns.Forms).Attr("type", "hidden").Attr("var", "FORM_TYPE").Leaf("value", ns.Forms, ns.MAM).Close()
	for _, field := range [][2]string{{"jid-single", "with"}, {"text-single", "start"}, {"text-single", "end"},
		{"text-single", "before-id"}, {"text-single", "after-id"}, {"boolean", "include-groupchat"}} {
		w.Open("field", ns.Forms).Attr("type", field[0]).Attr("var", field[1]).Close()
	}
	w.Open("field", ns.Forms).Attr("type", "list-multi").Attr("var", "ids").
		Open("validate", ns.Validate).Attr("datatype", "xs:string").Leaf("open", ns.Validate, "")
	q.Result(w.Element())
}
