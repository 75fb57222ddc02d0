package roster

import "tombolo/storage"

// A state is the relation of a user to a contact, as the user's server knows it (RFC 6121 appendix
// A.1): whether the user has a subscription to the contact's presence (to), the contact to the
// user's (from), and which requests are not answered yet: the user's (out), the contact's (in).
type state uint8

const (
	none state = iota
	nonePendingOut
	nonePendingIn
	nonePendingOutIn
	to
	toPendingIn
	from
	fromPendingOut
	both
)

// A rule is a row of a table of appendix A: whether the stanza is routed to the contact or delivered
// to the user, what it makes of the state, and the stanza that the server sends back for the user.
type rule struct {
	pass  bool
	next  state
	reply string
}

type table [both + 1]rule

// outbound is what becomes of the subscription stanzas that a user sends (RFC 6121 appendix A.2).
var outbound = map[string]table{
	"subscribe": {
		none:             {pass: true, next: nonePendingOut},
		nonePendingOut:   {pass: true, next: nonePendingOut},
		nonePendingIn:    {pass: true, next: nonePendingOutIn},
		nonePendingOutIn: {pass: true, next: nonePendingOutIn},
		to:               {pass: true, next: to},
		toPendingIn:      {pass: true, next: toPendingIn},
		from:             {pass: true, next: fromPendingOut},
		fromPendingOut:   {pass: true, next: fromPendingOut},
		both:             {pass: true, next: both},
	},
	"unsubscribe": {
		none:             {pass: true, next: none},
		nonePendingOut:   {pass: true, next: none},
		nonePendingIn:    {pass: true, next: nonePendingIn},
		nonePendingOutIn: {pass: true, next: nonePendingIn},
		to:               {pass: true, next: none},
		toPendingIn:      {pass: true, next: nonePendingIn},
		from:             {pass: true, next: from},
		fromPendingOut:   {pass: true, next: from},
		both:             {pass: true, next: from},
	},
	"subscribed": { // where it does not pass and the contact is not subscribed, it pre-approves
		none:             {next: none},
		nonePendingOut:   {next: nonePendingOut},
		nonePendingIn:    {pass: true, next: from},
		nonePendingOutIn: {pass: true, next: fromPendingOut},
		to:               {next: to},
		toPendingIn:      {pass: true, next: both},
		from:             {next: from},
		fromPendingOut:   {next: fromPendingOut},
		both:             {next: both},
	},
	"unsubscribed": {
		none:             {next: none},
		nonePendingOut:   {next: nonePendingOut},
		nonePendingIn:    {pass: true, next: none},
		nonePendingOutIn: {pass: true, next: nonePendingOut},
		to:               {next: to},
		toPendingIn:      {pass: true, next: to},
		from:             {pass: true, next: none},
		fromPendingOut:   {pass: true, next: nonePendingOut},
		both:             {pass: true, next: to},
	},
}

// inbound is what becomes of those that a user gets (RFC 6121 appendix A.3).
var inbound = map[string]table{
	"subscribe": {
		none:             {pass: true, next: nonePendingIn},
		nonePendingOut:   {pass: true, next: nonePendingOutIn},
		nonePendingIn:    {next: nonePendingIn},
		nonePendingOutIn: {next: nonePendingOutIn},
		to:               {pass: true, next: toPendingIn},
		toPendingIn:      {next: toPendingIn},
		from:             {next: from, reply: "subscribed"},
		fromPendingOut:   {next: fromPendingOut, reply: "subscribed"},
		both:             {next: both, reply: "subscribed"},
	},
	"unsubscribe": {
		none:             {next: none},
		nonePendingOut:   {next: nonePendingOut},
		nonePendingIn:    {pass: true, next: none},
		nonePendingOutIn: {pass: true, next: nonePendingOut},
		to:               {next: to},
		toPendingIn:      {pass: true, next: to},
		from:             {pass: true, next: none},
		fromPendingOut:   {pass: true, next: nonePendingOut},
		both:             {pass: true, next: to},
	},
	"subscribed": {
		none:             {next: none},
		nonePendingOut:   {pass: true, next: to},
		nonePendingIn:    {next: nonePendingIn},
		nonePendingOutIn: {pass: true, next: toPendingIn},
		to:               {next: to},
		toPendingIn:      {next: toPendingIn},
		from:             {next: from},
		fromPendingOut:   {pass: true, next: both},
		both:             {next: both},
	},
	"unsubscribed": {
		none:             {next: none},
		nonePendingOut:   {pass: true, next: none},
		nonePendingIn:    {next: nonePendingIn},
		nonePendingOutIn: {pass: true, next: nonePendingIn},
		to:               {pass: true, next: none},
		toPendingIn:      {pass: true, next: nonePendingIn},
		from:             {next: from},
		fromPendingOut:   {pass: true, next: from},
		both:             {pass: true, next: from},
	},
}

// preapproved is inbound "subscribe" from a contact whose request the user has approved before it
// came (RFC 6121 section 3.4.2); where it does not change the state, the general table holds.
var preapproved = table{
	none:           {next: from, reply: "subscribed"},
	nonePendingOut: {next: fromPendingOut, reply: "subscribed"},
	to:             {next: both, reply: "subscribed"},
}

// stateOf is the state of an item.
func stateOf(item storage.RosterItem) state {
	in := item.PendingIn != ""
	switch {
	case item.To && item.From:
		return both
	case item.To && in:
		return toPendingIn
	case item.To:
		return to
	case item.From && item.Ask:
		return fromPendingOut
	case item.From:
		return from
	case item.Ask && in:
		return nonePendingOutIn
	case item.Ask:
		return nonePendingOut
	case in:
		return nonePendingIn
	}
	return none
}

// in is the item in another state; request is the contact's, for the states in which it is pending.
func (s state) in(item storage.RosterItem, request string) storage.RosterItem {
	item.To = s == to || s == toPendingIn || s == both
	item.From = s == from || s == fromPendingOut || s == both
	item.Ask = s == nonePendingOut || s == nonePendingOutIn || s == fromPendingOut
	item.PendingIn = ""
	if s == nonePendingIn || s == nonePendingOutIn || s == toPendingIn {
		item.PendingIn = request
	}
	return item
}
