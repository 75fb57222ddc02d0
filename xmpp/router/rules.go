package router

// situation is what RFC 6121 section 8.5.4, table 1, calls the condition: who is there.
type situation uint8

const (
	noAccount situation = iota
	noResources
	negativeOnly // one or more available resources, all of negative priority
	nonNegative  // at least one available resource of non-negative priority
)

// form is the form of the address.
type form uint8

const (
	bare form = iota
	fullMatch
	fullNoMatch
)

// action is what is done with a message.
type action uint8

const (
	silence action = iota // S: ignored
	refusal               // E: service-unavailable to the sender
	offline               // O: kept, or refused where nobody keeps it
	one                   // D: to the matching resource
	all                   // A: to every resource of non-negative priority
)

// rule is a line of RFC 6121 section 8.5.4, table 1. Where the table leaves a choice between S and
// E the sender is told; between M and A, all devices of a user see the conversation.
type rule struct {
	who                               situation
	to                                form
	normal, chat, groupchat, headline action
}

var messageRules = []rule{
	{noAccount, bare, refusal, refusal, refusal, silence},
	{noAccount, fullNoMatch, refusal, refusal, refusal, silence},

	{noResources, bare, offline, offline, refusal, silence},
	{noResources, fullMatch, one, one, one, one}, // connected, but without presence
	{noResources, fullNoMatch, refusal, offline, refusal, silence},

	{negativeOnly, bare, offline, offline, refusal, silence},
	{negativeOnly, fullMatch, one, one, one, one},
	{negativeOnly, fullNoMatch, refusal, offline, refusal, silence},

	{nonNegative, bare, all, all, refusal, all},
	{nonNegative, fullMatch, one, one, one, one},
	{nonNegative, fullNoMatch, refusal, all, refusal, silence},
}

// messageRule finds the action. A message of type error goes to a matching resource only (RFC 6121
// sections 8.5.2.1.1 and 8.5.3.2.1: otherwise it is silently ignored).
func messageRule(who situation, to form, typ string) action {
	if typ == "error" {
		if to == fullMatch {
			return one
		}
		return silence
	}
	for _, r := range messageRules {
		if r.who != who || r.to != to {
			continue
		}
		switch typ {
		case "chat":
			return r.chat
		case "groupchat":
			return r.groupchat
		case "headline":
			return r.headline
		}
		return r.normal
	}
	return silence
}
