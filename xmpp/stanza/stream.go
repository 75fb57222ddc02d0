package stanza

import (
	"errors"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
)

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

// StreamError ends a stream (RFC 6120 section 4.9). Its text is for the other side to read.
type StreamError struct {
	Condition string
	Text      string
	Address   string          // of see-other-host
	App       element.Element // the application's own condition, if any
}

func (e *StreamError) Error() string { return describe("stream error", e.Condition, e.Text) }

// AsStreamError returns the *StreamError that err is or wraps, or what a parser refused in the words
// of a stream. Any other error becomes internal-server-error without a word about it.
func AsStreamError(err error) *StreamError {
	var known *StreamError
	if errors.As(err, &known) {
		return known
	}
	var refused *element.Error
	if errors.As(err, &refused) {
		return &StreamError{Condition: refused.Condition, Text: refused.Text}
	}
	return &StreamError{Condition: StreamInternalServerError}
}

// Element returns the error as it is sent before the stream is closed.
func (e *StreamError) Element() element.Element {
	w := element.Start("error", ns.Stream).Leaf(e.Condition, ns.StreamErr, e.Address)
	if e.Text != "" {
		w.Open("text", ns.StreamErr).Attr("xml:lang", "en").Text(e.Text).Close()
	}
	return w.Add(e.App).Element()
}

// ParseStreamError reads what the other side sent before it closed the stream.
func ParseStreamError(e element.Element) *StreamError {
	var parsed StreamError
	parsed.Condition, parsed.Address, parsed.Text, parsed.App = conditions(e, ns.StreamErr)
	return &parsed
}
