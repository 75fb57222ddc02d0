package stanza

import (
	"errors"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// ErrorType says what the sender may do about an error (RFC 6120 section 8.3.2).
type ErrorType string

// The error types.
const (
	Auth     ErrorType = "auth"     // try again with credentials
	Cancel   ErrorType = "cancel"   // do not try again
	Continue ErrorType = "continue" // it was only a warning
	Modify   ErrorType = "modify"   // try again with other data
	Wait     ErrorType = "wait"     // try again later
)

// Error is a stanza error (RFC 6120 section 8.3). Its text is for the other side to read: it names no
// secret and no inside of the server.
type Error struct {
	Type      ErrorType
	Condition string // one of section 8.3.3, which the constructors below give
	Text      string
	Address   string          // of Gone and Redirect, a URI
	App       element.Element // the application's own condition, if any
	By        jid.JID         // who found the error, if that needs saying
}

// The conditions of RFC 6120 section 8.3.3, each with the type that it usually has. The text may be
// empty.

func BadRequest(text string) *Error { return newError(Modify, "bad-request", text) }
func Conflict(text string) *Error   { return newError(Cancel, "conflict", text) }
func FeatureNotImplemented(text string) *Error {
	return newError(Cancel, "feature-not-implemented", text)
}
func Forbidden(text string) *Error            { return newError(Auth, "forbidden", text) }
func InternalServerError(text string) *Error  { return newError(Cancel, "internal-server-error", text) }
func ItemNotFound(text string) *Error         { return newError(Cancel, "item-not-found", text) }
func JIDMalformed(text string) *Error         { return newError(Modify, "jid-malformed", text) }
func NotAcceptable(text string) *Error        { return newError(Modify, "not-acceptable", text) }
func NotAllowed(text string) *Error           { return newError(Cancel, "not-allowed", text) }
func NotAuthorized(text string) *Error        { return newError(Auth, "not-authorized", text) }
func PolicyViolation(text string) *Error      { return newError(Modify, "policy-violation", text) }
func RecipientUnavailable(text string) *Error { return newError(Wait, "recipient-unavailable", text) }
func RegistrationRequired(text string) *Error { return newError(Auth, "registration-required", text) }
func RemoteServerNotFound(text string) *Error {
	return newError(Cancel, "remote-server-not-found", text)
}
func RemoteServerTimeout(text string) *Error  { return newError(Wait, "remote-server-timeout", text) }
func ResourceConstraint(text string) *Error   { return newError(Wait, "resource-constraint", text) }
func ServiceUnavailable(text string) *Error   { return newError(Cancel, "service-unavailable", text) }
func SubscriptionRequired(text string) *Error { return newError(Auth, "subscription-required", text) }
func UndefinedCondition(text string) *Error   { return newError(Cancel, "undefined-condition", text) }
func UnexpectedRequest(text string) *Error    { return newError(Wait, "unexpected-request", text) }

// Gone says that nobody is here any more, and where they went: a URI, or empty.
func Gone(address string) *Error { return &Error{Type: Cancel, Condition: "gone", Address: address} }

// Redirect says where else to ask, for now: a URI.
func Redirect(address string) *Error {
	return &Error{Type: Modify, Condition: "redirect", Address: address}
}

func newError(t ErrorType, condition, text string) *Error {
	return &Error{Type: t, Condition: condition, Text: text}
}

func (e *Error) Error() string { return describe("stanza error", e.Condition, e.Text) }

// WithApp returns e with an application's own condition beside it.
func (e *Error) WithApp(app element.Element) *Error {
	with := *e
	with.App = app
	return &with
}

func describe(what, condition, text string) string {
	if text == "" {
		return what + " " + condition
	}
	return what + " " + condition + ": " + text
}

// AsError returns the *Error that err is or wraps. Any other error becomes internal-server-error
// without a word about it, since it was written for the log.
func AsError(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	return InternalServerError("")
}

// Element returns the error child of a stanza.
func (e *Error) Element() element.Element {
	w := element.Start("error", ns.Client).Attr("type", string(e.Type))
	if !e.By.IsZero() {
		w.Attr("by", e.By.String())
	}
	w.Leaf(e.Condition, ns.StanzaErr, e.Address)
	if e.Text != "" {
		w.Open("text", ns.StanzaErr).Attr("xml:lang", "en").Text(e.Text).Close()
	}
	return w.Add(e.App).Element()
}

// ParseError reads the error child of a stanza. What it does not name is an undefined-condition that
// cancels (RFC 6120 section 8.3.3.21).
func ParseError(e element.Element) *Error {
	parsed := UndefinedCondition("")
	switch t := ErrorType(e.Attr("type")); t {
	case Auth, Cancel, Continue, Modify, Wait:
		parsed.Type = t
	}
	parsed.By, _ = jid.Parse(e.Attr("by"))
	parsed.Condition, parsed.Address, parsed.Text, parsed.App = conditions(e, ns.StanzaErr)
	return parsed
}

// conditions reads the children of a stanza or stream error, whose own conditions are in namespace.
func conditions(e element.Element, namespace string) (condition, address, text string, app element.Element) {
	condition = "undefined-condition"
	for child := range e.Children() {
		switch {
		case child.Is("text", namespace):
			text = child.Text()
		case child.NS() == namespace:
			condition, address = child.Name(), child.Text()
		case app.IsZero():
			app = child
		}
	}
	return condition, address, text, app
}
