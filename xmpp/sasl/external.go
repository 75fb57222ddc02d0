package sasl

import (
	"bytes"
	"unicode/utf8"

	frame "mellium.im/sasl"
)

// external is RFC 4422 appendix A: the proof is elsewhere, in TLS (XEP-0178), and the message is
// the identity asked for or nothing.
func external(x *Exchange) next {
	return func(_ *frame.Negotiator, response []byte, _ any) (bool, []byte, any, error) {
		return false, nil, nil, x.external(response)
	}
}

func (x *Exchange) external(response []byte) error {
	if !utf8.Valid(response) || bytes.IndexByte(response, 0) >= 0 {
		return fail(MalformedRequest, "not an EXTERNAL message")
	}
	identity, err := x.attempt.External(string(response))
	if err != nil {
		return asFailure(err, NotAuthorized)
	}
	if identity == "" {
		return fail(NotAuthorized, "the certificate proves nobody")
	}
	x.identity = identity
	return nil
}
