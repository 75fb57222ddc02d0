// Package sasl is the server side of SASL (RFC 4422) with the mechanisms that XMPP uses: SCRAM
// (RFC 5802, RFC 7677) with and without channel binding, the hashed tokens of FAST (XEP-0484),
// PLAIN (RFC 4616) and EXTERNAL (RFC 4422 appendix A).
//
// The roles that authenticate a peer (xmpp/c2s, federation) call it; xmpp/auth provides what local
// accounts answer. Start with Attempt, which says what one attempt may know, and Server, which
// begins it. A new mechanism is one line in the table below and the function that the line names.
//
// The mechanisms run in the frame of mellium.im/sasl. They are not its own, since its SCRAM knows
// the salted password, where this server keeps only what verifies a proof, and does not do channel
// binding.
package sasl

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"

	frame "mellium.im/sasl"

	"tombolo/xmpp/jid"
)

// An Attempt is what one authentication attempt may know. It is made for one stream and used for
// one Server call; nothing in it is kept.
//
// An error of its functions becomes the attempt's: a *Failure as it is, any other as the
// condition that the field names, wrapped for the log.
type Attempt struct {
	// Credentials returns what verifies user, a prepared localpart, by mechanism, the name of a
	// SCRAM mechanism without -PLUS. For a user that does not exist it returns credentials that
	// look as if and says so in Known. SCRAM calls it once. Errors: temporary-auth-failure.
	Credentials func(user, mechanism string) (Credential, error)

	// Verify compares a password for PLAIN, with the same work for users that do not exist. The
	// epoch is that of Exchange.Epoch. Errors: temporary-auth-failure.
	Verify func(user, password string) (epoch string, good bool, err error)

	// Tokens returns what verifies the client of this stream by mechanism, one of
	// TokenMechanisms, with the same work for users and clients that do not exist. Asked once.
	// Nil: the client cannot have a token. Errors: temporary-auth-failure.
	Tokens func(user, mechanism string) (Tokens, error)

	// External says whom the peer's certificate proves, given the identity that it asks for, empty
	// for none. Errors: not-authorized.
	External func(authzid string) (identity string, err error)

	// Binding returns the channel binding data of the connection, if it has that type;
	// TLSBinding makes it. Nil: no channel binding.
	Binding func(typ string) ([]byte, bool)

	// Offered is the list of mechanisms that this very stream announced in the profile that the
	// client uses, SASL or SASL2. SCRAM tells the client what it was (XEP-0474).
	Offered []string

	// OfferedTokens is the list of mechanisms that this very stream announced for tokens, which
	// is apart from the other (XEP-0484 section 3.1).
	OfferedTokens []string

	// OfferedBindings is the list of channel binding types that this very stream announced
	// (XEP-0440), empty where it announced none. SCRAM tells the client what it was (XEP-0474).
	OfferedBindings []string

	// TLSVersion of the connection, for SCRAM to tell the client (XEP-0515), and to know which types
	// of channel binding can be. 0: it is not told.
	TLSVersion uint16

	// Unbindable is what Exchange.Unbindable said of the latest attempt on this stream that had
	// something to say.
	Unbindable string

	// Authorize is asked, when the proof was good, whether authcid may act as authzid. It is
	// not asked for an empty authzid, which is always fine. Nil: authzid must equal authcid.
	Authorize func(authcid, authzid string) bool

	// Random is the source of nonces. Nil: crypto/rand.
	Random io.Reader
}

// A Credential is what SCRAM verifies a user with (RFC 5802 section 3).
type Credential struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
	Known      bool // false: the user does not exist, and no proof is good
	Disabled   bool // a good proof ends in account-disabled
	Epoch      string
}

// next is one step of a mechanism, the Next of its frame.
type next = func(n *frame.Negotiator, response []byte, data any) (more bool, challenge []byte, cache any, err error)

// table is every mechanism, in the order of preference.
var table = []struct {
	name  string
	begin func(*Exchange) next
}{
	{"SCRAM-SHA-512-PLUS", scramPlus},
	{"SCRAM-SHA-256-PLUS", scramPlus},
	{"SCRAM-SHA-1-PLUS", scramPlus},
	{"SCRAM-SHA-512", scram},
	{"SCRAM-SHA-256", scram},
	{"SCRAM-SHA-1", scram},
	{"EXTERNAL", external},
	{"PLAIN", plain},
	{"HT-SHA-256-EXPR", hashedToken},
	{"HT-SHA-256-UNIQ", hashedToken},
	{"HT-SHA-256-ENDP", hashedToken},
	{"HT-SHA-256-NONE", hashedToken},
}

// Mechanisms returns the name of every mechanism there is, the preferred first. Which of them a
// stream offers is for its role to say.
func Mechanisms() []string {
	names := make([]string, len(table))
	for i, m := range table {
		names[i] = m.name
	}
	return names
}

// Server begins an attempt with the mechanism that the peer chose. It fails with
// ErrInvalidMechanism where that was not offered.
func Server(mechanism string, a *Attempt) (*Exchange, error) {
	offered := a.Offered
	if IsToken(mechanism) {
		offered = a.OfferedTokens
	}
	if !slices.Contains(offered, mechanism) {
		return nil, ErrInvalidMechanism
	}
	for _, m := range table {
		if m.name == mechanism {
			x := &Exchange{mechanism: mechanism, attempt: a}
			x.negotiator = frame.NewServer(frame.Mechanism{
				Name: mechanism,
				Next: m.begin(x),
			}, nil)
			return x, nil
		}
	}
	return nil, ErrInvalidMechanism
}

// An Exchange is a running attempt. It is not safe for concurrent use.
type Exchange struct {
	mechanism  string
	attempt    *Attempt
	negotiator *frame.Negotiator
	identity   string
	epoch      string
	token      string
	unbindable string
	prompted   bool // the peer was asked for the initial response that it left out
	over       bool
}

// Step takes the peer's response, already out of base64, and returns the challenge that answers
// it, or the additional data of the success when done. Its error is always a *Failure, and ends
// the exchange.
//
// A nil response is that of a peer that sent no initial response, and is answered by an empty
// challenge, since in every mechanism here the client speaks first (RFC 4422 section 3.3). An
// initial response of zero length is not nil.
func (x *Exchange) Step(response []byte) (challenge []byte, done bool, err error) {
	if x.over {
		return nil, false, fail(MalformedRequest, "the exchange is over")
	}
	if response == nil && !x.prompted {
		x.prompted = true
		return []byte{}, false, nil
	}
	x.prompted = true
	more, challenge, err := x.negotiator.Step(response)
	if err != nil {
		x.over, x.identity, x.epoch, x.token = true, "", "", ""
		return nil, false, asFailure(err, TemporaryAuthFailure)
	}
	x.over = !more
	return challenge, !more, nil
}

// Mechanism is the name of the mechanism.
func (x *Exchange) Mechanism() string { return x.mechanism }

// Identity is the user that has been authenticated: a localpart, or what External returned. It is
// empty until Step is done.
func (x *Exchange) Identity() string {
	if !x.over {
		return ""
	}
	return x.identity
}

// Epoch says what the proof was good for, as the Credential, Tokens or Verify said. Whoever made
// that can tell whether it still is, since accounts and passwords change between a proof and what
// follows from it. It is empty until Step is done.
func (x *Exchange) Epoch() string {
	if !x.over {
		return ""
	}
	return x.epoch
}

// Token is the name of the token that was used, empty for other mechanisms and until Step is done.
func (x *Exchange) Token() string {
	if !x.over {
		return ""
	}
	return x.token
}

// Unbindable is the user whose client proved in this attempt, which failed, that it binds to
// tls-unique where TLS 1.3 does not have it; usually it is empty. It goes into the Attempts that
// follow on the same stream.
func (x *Exchange) Unbindable() string { return x.unbindable }

// succeed ends a mechanism whose proof was good.
func (x *Exchange) succeed(user, authzid, epoch string) error {
	allowed := authzid == "" || authzid == user
	if x.attempt.Authorize != nil && authzid != "" {
		allowed = x.attempt.Authorize(user, authzid)
	}
	if !allowed {
		return fail(InvalidAuthzid, "the user may not act as another")
	}
	x.identity, x.epoch = user, epoch
	return nil
}

func (x *Exchange) random() io.Reader {
	if x.attempt.Random == nil {
		return rand.Reader
	}
	return x.attempt.Random
}

// prepareUser is the canonical localpart for what a client sent as its user name, which in XMPP is
// a localpart (RFC 6120 section 6.3.7). What cannot be one is nobody's name.
func prepareUser(user string) (string, error) {
	address, err := jid.New(user, "localhost", "")
	if err != nil || user == "" {
		return "", fail(NotAuthorized, "the user name is no localpart")
	}
	return address.Local(), nil
}

// The conditions of a failure, RFC 6120 section 6.5.
const (
	Aborted              = "aborted"
	AccountDisabled      = "account-disabled"
	CredentialsExpired   = "credentials-expired"
	EncryptionRequired   = "encryption-required"
	IncorrectEncoding    = "incorrect-encoding"
	InvalidAuthzid       = "invalid-authzid"
	InvalidMechanism     = "invalid-mechanism"
	MalformedRequest     = "malformed-request"
	MechanismTooWeak     = "mechanism-too-weak"
	NotAuthorized        = "not-authorized"
	TemporaryAuthFailure = "temporary-auth-failure"
)

// ErrInvalidMechanism is Server's refusal.
var ErrInvalidMechanism error = &Failure{Condition: InvalidMechanism}

// A Failure is the end of an attempt that did not succeed. The peer is told the condition, and the
// cause is for the log.
type Failure struct {
	Condition string // of RFC 6120 section 6.5
	Cause     error  // may be nil
}

func (f *Failure) Error() string {
	if f.Cause == nil {
		return "sasl: " + f.Condition
	}
	return fmt.Sprintf("sasl: %s: %v", f.Condition, f.Cause)
}

func (f *Failure) Unwrap() error { return f.Cause }

// Is reports equality of the conditions.
func (f *Failure) Is(target error) bool {
	t, ok := target.(*Failure)
	return ok && t.Condition == f.Condition
}

func fail(condition, cause string) error {
	return &Failure{Condition: condition, Cause: errors.New(cause)}
}

// asFailure finds the failure in err, or makes one with the given condition.
func asFailure(err error, condition string) error {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	return &Failure{Condition: condition, Cause: err}
}
