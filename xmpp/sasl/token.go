package sasl

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"strings"
	"unicode/utf8"

	frame "mellium.im/sasl"
)

// Tokens are what a client is verified with that was given a token: the two slots of XEP-0484
// section 5.1. An empty slot holds a token that nobody has, with Known false.
type Tokens struct {
	New      Token
	Current  Token
	Disabled bool // a good proof ends in account-disabled
	Epoch    string
}

// A Token is a secret that server and client share.
type Token struct {
	Name    string // for Exchange.Token; never the secret
	Secret  []byte
	Known   bool // false: no proof is good
	Expired bool // a good proof ends in credentials-expired
}

// TokenMechanisms returns the names of the mechanisms that use a token, the preferred first. Those
// of draft-schmaus-kitten-sasl-ht have other hashes too, for which no client asks: a token is not
// guessed, so a longer hash would not make it safer. The mechanisms called HT2 of that draft's
// successor have another format, which is not settled.
func TokenMechanisms() []string {
	return slices.DeleteFunc(Mechanisms(), func(name string) bool { return !IsToken(name) })
}

// IsToken says whether the mechanism of this name uses a token.
func IsToken(mechanism string) bool { return strings.HasPrefix(mechanism, "HT-") }

// TokenBinding is the channel binding type that a token mechanism needs, empty for none.
func TokenBinding(mechanism string) string {
	switch {
	case strings.HasSuffix(mechanism, "-EXPR"):
		return TLSExporter
	case strings.HasSuffix(mechanism, "-UNIQ"):
		return TLSUnique
	case strings.HasSuffix(mechanism, "-ENDP"):
		return TLSServerEndPoint
	}
	return ""
}

// hashedToken is draft-schmaus-kitten-sasl-ht section 3: the user and a MAC with the token as its
// key, answered by another such MAC.
func hashedToken(x *Exchange) next {
	return func(_ *frame.Negotiator, response []byte, _ any) (bool, []byte, any, error) {
		proof, err := x.hashedToken(response)
		return false, proof, nil, err
	}
}

func (x *Exchange) hashedToken(response []byte) ([]byte, error) {
	name, proof, ok := bytes.Cut(response, []byte{0})
	if !ok || len(name) == 0 || !utf8.Valid(name) || len(proof) != sha256.Size {
		return nil, fail(MalformedRequest, "not a hashed token message")
	}
	user, err := prepareUser(string(name))
	if err != nil {
		return nil, err
	}
	var bound []byte
	if typ := TokenBinding(x.mechanism); typ != "" {
		if bound, ok = x.bindingData(typ); !ok {
			return nil, fail(NotAuthorized, "no channel binding of the type "+typ)
		}
	}
	if x.attempt.Tokens == nil {
		return nil, fail(NotAuthorized, "the client has no name, and so no token")
	}
	tokens, err := x.attempt.Tokens(user, x.mechanism)
	if err != nil {
		return nil, asFailure(err, TemporaryAuthFailure)
	}

	// Both slots are compared, whatever is in them, so that the time does not tell.
	var used *Token
	for _, t := range []*Token{&tokens.Current, &tokens.New} {
		good := subtle.ConstantTimeCompare(mac(sha256.New, t.Secret, "Initiator"+string(bound)), proof) == 1
		if good && t.Known {
			used = t
		}
	}
	switch {
	case used == nil:
		return nil, fail(NotAuthorized, "wrong user, client or token")
	case tokens.Disabled:
		return nil, &Failure{Condition: AccountDisabled}
	case used.Expired:
		return nil, fail(CredentialsExpired, "the token has expired")
	}
	if err := x.succeed(user, "", tokens.Epoch); err != nil {
		return nil, err
	}
	x.token = used.Name
	return mac(sha256.New, used.Secret, "Responder"+string(bound)), nil
}
