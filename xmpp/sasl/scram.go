package sasl

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"
	frame "mellium.im/sasl"
)

const plusSuffix = "-PLUS"

// scramState is what the second step of SCRAM must know of the first.
type scramState struct {
	first       clientFirst
	serverFirst string
	nonce       string
	user        string
	credential  Credential
	unbindable  bool // the binding is of a type that this connection does not have
}

func scram(x *Exchange) next { return scramSteps(x, false) }

func scramPlus(x *Exchange) next { return scramSteps(x, true) }

func scramSteps(x *Exchange, plus bool) next {
	return func(_ *frame.Negotiator, response []byte, data any) (bool, []byte, any, error) {
		if s, ok := data.(*scramState); ok {
			challenge, err := x.scramFinal(s, string(response))
			return false, challenge, nil, err
		}
		s, err := x.scramFirst(string(response), plus)
		if err != nil {
			return false, nil, nil, err
		}
		return true, []byte(s.serverFirst), s, nil
	}
}

// scramFirst answers client-first-message with the salt of the user, or of nobody.
func (x *Exchange) scramFirst(message string, plus bool) (*scramState, error) {
	first, err := parseClientFirst(message)
	if err != nil {
		return nil, err
	}
	user, err := prepareUser(first.user)
	if err != nil {
		return nil, err
	}
	unbindable, err := x.checkBinding(first, plus, user)
	if err != nil {
		return nil, err
	}
	credential, err := x.attempt.Credentials(user, strings.TrimSuffix(x.mechanism, plusSuffix))
	if err != nil {
		return nil, asFailure(err, TemporaryAuthFailure)
	}
	random := make([]byte, 18) // 24 characters of base64, without padding
	if _, err := io.ReadFull(x.random(), random); err != nil {
		return nil, &Failure{TemporaryAuthFailure, fmt.Errorf("make a nonce: %w", err)}
	}
	nonce := first.nonce + base64.StdEncoding.EncodeToString(random)
	return &scramState{
		first: first,
		serverFirst: fmt.Sprintf("r=%s,s=%s,i=%d%s", nonce,
			base64.StdEncoding.EncodeToString(credential.Salt), credential.Iterations, x.downgradeProtection()),
		nonce:      nonce,
		user:       user,
		credential: credential,
		unbindable: unbindable,
	}, nil
}

// downgradeProtection is what the client compares with its own view of the stream: the hash of the
// mechanisms and binding types announced (XEP-0474 section 6.1) and the version of TLS (XEP-0515
// section 4.1). Both ends prove them with everything else in the server's first message. They are
// extensions, which a client that does not know them ignores (RFC 5802 section 5.1).
func (x *Exchange) downgradeProtection() string {
	const unit, record = "\x1f", "\x1e"
	announced := strings.Join(slices.Sorted(slices.Values(x.attempt.Offered)), record)
	if len(x.attempt.OfferedBindings) > 0 {
		announced += unit + strings.Join(slices.Sorted(slices.Values(x.attempt.OfferedBindings)), record)
	}
	hash := digest(hashOf(x.mechanism), []byte(announced))
	extensions := ",h=" + base64.StdEncoding.EncodeToString(hash)
	if x.attempt.TLSVersion != 0 {
		extensions += fmt.Sprintf(",t=%04x", x.attempt.TLSVersion)
	}
	return extensions
}

// checkBinding holds the client's channel binding flag against the mechanism and against what was
// offered (RFC 5802 section 6).
//
// Some clients bind to tls-unique whatever the server announces (XEP-0440), also under TLS 1.3,
// which does not have it (RFC 8446 appendix C.5), and say afterwards that the server cannot bind:
// the sign of a man in the middle who took the -PLUS mechanisms out of the list. Such an attempt
// fails, but only after its proof was checked. A good one over what such a client takes for
// tls-unique (tls13Finished) shows that this user's own client saw the -PLUS mechanisms and can use
// none, and that makes the y of its next attempt on this stream true.
//
// It does not show that the client is at the other end of this connection: what it is bound to, the
// server cannot compute, and a relay with TLS 1.3 on both sides passes the proof and the y on. That
// client has no channel binding with any server; it gets what one without -PLUS gets. A client that
// keeps to the specifications never makes such a proof, and its y is refused.
func (x *Exchange) checkBinding(first clientFirst, plus bool, user string) (unbindable bool, err error) {
	isPlus := func(name string) bool { return strings.HasSuffix(name, plusSuffix) }
	switch {
	case plus != (first.flag == 'p'):
		return false, fail(MalformedRequest, "the mechanism and the channel binding flag contradict each other")
	case first.flag == 'y' && slices.ContainsFunc(x.attempt.Offered, isPlus) && x.attempt.Unbindable != user:
		return false, fail(NotAuthorized, "channel binding was offered, but did not reach the client")
	case plus:
		if _, ok := x.bindingData(first.binding); ok {
			return false, nil
		}
		if first.binding != TLSUnique || x.attempt.TLSVersion != tls.VersionTLS13 {
			return false, fail(NotAuthorized, "no channel binding of the type "+first.binding)
		}
		return true, nil
	}
	return false, nil
}

// tls13Finished says whether data has the length of what OpenSSL hands out for tls-unique on TLS 1.3,
// where RFC 9266 section 3 forbids it: the Finished message, as long as the hash of the cipher suite
// (RFC 8446 section 4.4.4). That of TLS 1.2, which is the only true tls-unique, has 12 bytes (RFC
// 5246 section 7.4.9): whoever proves that is at the other end of another connection.
func tls13Finished(data []byte) bool {
	return len(data) == sha256.Size || len(data) == sha512.Size384
}

func (x *Exchange) bindingData(typ string) ([]byte, bool) {
	if x.attempt.Binding == nil {
		return nil, false
	}
	return x.attempt.Binding(typ)
}

// scramFinal checks the proof in client-final-message and returns the server's.
func (x *Exchange) scramFinal(s *scramState, message string) ([]byte, error) {
	final, err := parseClientFinal(message)
	if err != nil {
		return nil, err
	}
	bound := []byte(s.first.gs2)
	if s.first.flag == 'p' && !s.unbindable {
		data, ok := x.bindingData(s.first.binding)
		if !ok {
			return nil, fail(NotAuthorized, "the channel binding is gone")
		}
		bound = append(bound, data...)
	}
	if s.unbindable {
		// What the client binds to is not known, but that it meant to bind is in what it proves.
		claimed, err := base64.StdEncoding.DecodeString(final.binding)
		data, ok := bytes.CutPrefix(claimed, bound)
		if err != nil || !ok || !tls13Finished(data) {
			return nil, fail(NotAuthorized, "channel bindings do not match")
		}
		bound = claimed
	}
	// Base64 has one spelling here, so that the texts can be compared.
	if final.binding != base64.StdEncoding.EncodeToString(bound) {
		return nil, fail(NotAuthorized, "channel bindings do not match")
	}
	if final.nonce != s.nonce {
		return nil, fail(NotAuthorized, "nonces do not match")
	}

	h := hashOf(x.mechanism)
	proof, err := decodeBase64(final.proof, h().Size())
	if err != nil {
		return nil, err
	}
	authMessage := s.first.bare + "," + s.serverFirst + "," + final.withoutProof
	clientKey := mac(h, s.credential.StoredKey, authMessage)
	subtle.XORBytes(clientKey, clientKey, proof)
	proven := subtle.ConstantTimeCompare(digest(h, clientKey), s.credential.StoredKey) == 1
	switch {
	case !proven || !s.credential.Known:
		return nil, fail(NotAuthorized, "wrong user or password")
	case s.credential.Disabled:
		return nil, &Failure{Condition: AccountDisabled}
	case s.unbindable:
		x.unbindable = s.user
		return nil, fail(NotAuthorized, "the client binds to tls-unique, which this connection does not have")
	}
	if err := x.succeed(s.user, s.first.authzid, s.credential.Epoch); err != nil {
		return nil, err
	}
	signature := mac(h, s.credential.ServerKey, authMessage)
	return []byte("v=" + base64.StdEncoding.EncodeToString(signature)), nil
}

// ErrPassword is Derive's refusal of a password that nobody can have.
var ErrPassword = errors.New("password cannot be used")

// Derive makes what the server keeps of a password for a SCRAM mechanism, named with or without
// -PLUS (RFC 5802 section 3). The password is prepared by OpaqueString (RFC 8265 section 4), which
// refuses an empty one and control characters: ErrPassword.
func Derive(mechanism, password string, salt []byte, iterations int) (storedKey, serverKey []byte, err error) {
	h := hashOf(mechanism)
	if h == nil {
		return nil, nil, fmt.Errorf("sasl: derive keys: %s is no SCRAM mechanism", mechanism)
	}
	if !utf8.ValidString(password) {
		return nil, nil, fmt.Errorf("sasl: %w: it is not UTF-8", ErrPassword)
	}
	prepared, err := precis.OpaqueString.String(password)
	if err != nil {
		return nil, nil, fmt.Errorf("sasl: %w: %w", ErrPassword, err)
	}
	salted, err := pbkdf2.Key(h, prepared, salt, iterations, h().Size())
	if err != nil {
		return nil, nil, fmt.Errorf("sasl: derive keys: %w", err)
	}
	return DeriveSalted(mechanism, salted)
}

// DeriveSalted is Derive for a password that the client has salted (XEP-0480 section 3). It has the
// size of the mechanism's hash, or the error is ErrPassword.
func DeriveSalted(mechanism string, salted []byte) (storedKey, serverKey []byte, err error) {
	h := hashOf(mechanism)
	if h == nil {
		return nil, nil, fmt.Errorf("sasl: derive keys: %s is no SCRAM mechanism", mechanism)
	}
	if len(salted) != h().Size() {
		return nil, nil, fmt.Errorf("sasl: %w: it was not salted for %s", ErrPassword, mechanism)
	}
	return digest(h, mac(h, salted, "Client Key")), mac(h, salted, "Server Key"), nil
}

// hashOf is the hash function of a SCRAM mechanism; nil where the name is not of one.
func hashOf(mechanism string) func() hash.Hash {
	switch strings.TrimSuffix(mechanism, plusSuffix) {
	case "SCRAM-SHA-1":
		return sha1.New
	case "SCRAM-SHA-256":
		return sha256.New
	case "SCRAM-SHA-512":
		return sha512.New
	}
	return nil
}

func mac(h func() hash.Hash, key []byte, message string) []byte {
	m := hmac.New(h, key)
	io.WriteString(m, message)
	return m.Sum(nil)
}

func digest(h func() hash.Hash, data []byte) []byte {
	d := h()
	d.Write(data)
	return d.Sum(nil)
}
