package stanza

import (
	"errors"

	"tombolo/xmpp/element"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

var errNotStanza = errors.New("not a stanza")

// An Error is a stanza error (RFC 6120 section 8.3): what the sender of a stanza is told.
type Error struct {
	Type      string // auth, cancel, continue, modify or wait
	Condition string
	Text      string          // for people; may be empty
	App       element.Element // application-specific condition; may be zero
	By        jid.JID         // who found it; may be zero
}

// Error is the condition and the text.
func (e *Error) Error() string {
	if e.Text == "" {
		return e.Condition
	}
	return e.Condition + ": " + e.Text
}

// WithApp returns the error with an application-specific condition.
func (e *Error) WithApp(app element.Element) *Error {
	c := *e
	c.App = app
	return &c
}

// The conditions of RFC 6120 section 8.3.3 that the server uses, each with its usual type.
func BadRequest(text string) *Error {
	return &Error{Type: "modify", Condition: "bad-request", Text: text}
}
func Conflict(text string) *Error { return &Error{Type: "cancel", Condition: "conflict", Text: text} }
func FeatureNotImplemented(text string) *Error {
	return &Error{Type: "cancel", Condition: "feature-not-implemented", Text: text}
}
func Forbidden(text string) *Error { return &Error{Type: "auth", Condition: "forbidden", Text: text} }
func Gone(text string) *Error      { return &Error{Type: "cancel", Condition: "gone", Text: text} }
func InternalServerError(text string) *Error {
	return &Error{Type: "cancel", Condition: "internal-server-error", Text: text}
}
func ItemNotFound(text string) *Error {
	return &Error{Type: "cancel", Condition: "item-not-found", Text: text}
}
func JIDMalformed(text string) *Error {
	return &Error{Type: "modify", Condition: "jid-malformed", Text: text}
}
func NotAcceptable(text string) *Error {
	return &Error{Type: "modify", Condition: "not-acceptable", Text: text}
}
func NotAllowed(text string) *Error {
	return &Error{Type: "cancel", Condition: "not-allowed", Text: text}
}
func NotAuthorized(text string) *Error {
	return &Error{Type: "auth", Condition: "not-authorized", Text: text}
}
func PolicyViolation(text string) *Error {
	return &Error{Type: "modify", Condition: "policy-violation", Text: text}
}
func RecipientUnavailable(text string) *Error {
	return &Error{Type: "wait", Condition: "recipient-unavailable", Text: text}
}
func RegistrationRequired(text string) *Error {
	return &Error{Type: "auth", Condition: "registration-required", Text: text}
}
func RemoteServerNotFound(text string) *Error {
	return &Error{Type: "cancel", Condition: "remote-server-not-found", Text: text}
}
func RemoteServerTimeout(text string) *Error {
	return &Error{Type: "wait", Condition: "remote-server-timeout", Text: text}
}
func ResourceConstraint(text string) *Error {
	return &Error{Type: "wait", Condition: "resource-constraint", Text: text}
}
func ServiceUnavailable(text string) *Error {
	return &Error{Type: "cancel", Condition: "service-unavailable", Text: text}
}
func SubscriptionRequired(text string) *Error {
	return &Error{Type: "auth", Condition: "subscription-required", Text: text}
}
func UndefinedCondition(text string) *Error {
	return &Error{Type: "cancel", Condition: "undefined-condition", Text: text}
}
func UnexpectedRequest(text string) *Error {
	return &Error{Type: "wait", Condition: "unexpected-request", Text: text}
}

// AsError finds the stanza error in err. What is none becomes <internal-server-error/> without its
// text, which is for the log only.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return InternalServerError("")
}

// Element is the <error/> child of a stanza of type error.
func (e *Error) Element() element.Element {
	w := element.Start("error", ns.Client).Attr("type", e.Type)
	if !e.By.IsZero() {
		w.Attr("by", e.By.String())
	}
	w.Leaf(e.Condition, ns.StanzaErr, "")
	if e.Text != "" {
		w.Leaf("text", ns.StanzaErr, e.Text)
	}
	if !e.App.IsZero() {
		w.Add(e.App)
	}
	return w.Element()
}

// ParseError reads the <error/> child of a stanza of type error; one without a condition that the
// RFC knows is <undefined-condition/>.
func ParseError(e element.Element) *Error {
	found := &Error{Condition: "undefined-condition", Type: "cancel"}
	if typ := e.Attr("type"); typ != "" {
		found.Type = typ
	}
	for child := range e.Children() {
		switch {
		case child.Is("text", ns.StanzaErr):
			found.Text = child.Text()
		case child.NS() == ns.StanzaErr:
			found.Condition = child.Name()
		default:
			found.App = child
		}
	}
	return found
}

// A StreamError ends a stream (RFC 6120 section 4.9).
type StreamError struct {
	Condition string
	Text      string
	App       element.Element
}

// The conditions of RFC 6120 section 4.9.3.
const (
	StreamBadFormat              = "bad-format"
	StreamBadNamespacePrefix     = "bad-namespace-prefix"
	StreamConflict               = "conflict"
	StreamConnectionTimeout      = "connection-timeout"
	StreamHostGone               = "host-gone"
	StreamHostUnknown            = "host-unknown"
	StreamImproperAddressing     = "improper-addressing"
	StreamInternalServerError    = "internal-server-error"
	StreamInvalidFrom            = "invalid-from"
	StreamInvalidNamespace       = "invalid-namespace"
	StreamInvalidXML             = "invalid-xml"
	StreamNotAuthorized          = "not-authorized"
	StreamNotWellFormed          = "not-well-formed"
	StreamPolicyViolation        = "policy-violation"
	StreamRemoteConnectionFailed = "remote-connection-failed"
	StreamReset                  = "reset"
	StreamResourceConstraint     = "resource-constraint"
	StreamRestrictedXML          = "restricted-xml"
	StreamSeeOtherHost           = "see-other-host"
	StreamSystemShutdown         = "system-shutdown"
	StreamUndefinedCondition     = "undefined-condition"
	StreamUnsupportedEncoding    = "unsupported-encoding"
	StreamUnsupportedFeature     = "unsupported-feature"
	StreamUnsupportedStanzaType  = "unsupported-stanza-type"
	StreamUnsupportedVersion     = "unsupported-version"
)

// Error is the condition and the text.
func (e *StreamError) Error() string {
	if e.Text == "" {
		return "stream error " + e.Condition
	}
	return "stream error " + e.Condition + ": " + e.Text
}

// Element is the <stream:error/> element; package stream writes it with the stream's prefix.
func (e *StreamError) Element() element.Element {
	w := element.Start("error", ns.Stream).Leaf(e.Condition, ns.StreamErr, "")
	if e.Text != "" {
		w.Leaf("text", ns.StreamErr, e.Text)
	}
	if !e.App.IsZero() {
		w.Add(e.App)
	}
	return w.Element()
}

// ParseStreamError reads the error with which a peer ended its stream.
func ParseStreamError(e element.Element) *StreamError {
	found := &StreamError{Condition: StreamUndefinedCondition}
	for child := range e.Children() {
		switch {
		case child.Is("text", ns.StreamErr):
			found.Text = child.Text()
		case child.NS() == ns.StreamErr:
			found.Condition = child.Name()
		default:
			found.App = child
		}
	}
	return found
}
