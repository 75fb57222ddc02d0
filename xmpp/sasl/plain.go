package sasl

import (
	"strings"
	"unicode/utf8"

	frame "mellium.im/sasl"
)

// plain is RFC 4616: authzid, user and password between two NULs, in one message.
func plain(x *Exchange) next {
	return func(_ *frame.Negotiator, response []byte, _ any) (bool, []byte, any, error) {
		return false, nil, nil, x.plain(response)
	}
}

func (x *Exchange) plain(response []byte) error {
	parts := strings.Split(string(response), "\x00")
	if len(parts) != 3 || parts[1] == "" || parts[2] == "" || !utf8.Valid(response) {
		return fail(MalformedRequest, "not a PLAIN message")
	}
	authzid, name, password := parts[0], parts[1], parts[2]
	user, err := prepareUser(name)
	if err != nil {
		return err
	}
	epoch, good, err := x.attempt.Verify(user, password)
	if err != nil {
		return asFailure(err, TemporaryAuthFailure)
	}
	if !good {
		return fail(NotAuthorized, "wrong user or password")
	}
	return x.succeed(user, authzid, epoch)
}
