package bench

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// mechanisms are those that a client here can log in with, the cheapest for the server first.
var mechanisms = map[string]func() hash.Hash{"SCRAM-SHA-1": sha1.New, "SCRAM-SHA-256": sha256.New}

// A scram is the client's side of one SCRAM exchange (RFC 5802) without channel binding. Unlike
// others it remembers the salted password (as section 3 allows), for whoever logs in a thousand times
// a second would else do nothing but derive keys.
type scram struct {
	hash    func() hash.Hash
	account *Account
	bare    string // client-first-message-bare
	server  []byte // the signature that the server must show
}

// A saltedPassword is what SCRAM makes of a password, for one salt.
type saltedPassword struct {
	of  string // mechanism, salt and iterations
	key []byte
}

func (s *scram) first() string {
	var nonce [18]byte
	_, _ = rand.Read(nonce[:]) // it never fails
	name := strings.NewReplacer("=", "=3D", ",", "=2C").Replace(s.account.Name)
	s.bare = "n=" + name + ",r=" + base64.StdEncoding.EncodeToString(nonce[:])
	return "n,," + s.bare
}

// final answers the server's challenge.
func (s *scram) final(challenge string) (string, error) {
	var nonce, salt, iterations string
	for _, part := range strings.Split(challenge, ",") {
		if len(part) < 2 || part[1] != '=' {
			return "", fmt.Errorf("the SCRAM challenge %q is not one", challenge)
		}
		switch part[0] {
		case 'r':
			nonce = part[2:]
		case 's':
			salt = part[2:]
		case 'i':
			iterations = part[2:]
		}
	}
	ours := s.bare[strings.LastIndex(s.bare, ",r=")+3:]
	if !strings.HasPrefix(nonce, ours) || nonce == ours {
		return "", errors.New("the SCRAM challenge is not for this attempt")
	}
	salted, err := s.salted(salt, iterations)
	if err != nil {
		return "", err
	}
	withoutProof := "c=biws,r=" + nonce
	signed := s.bare + "," + challenge + "," + withoutProof
	client := s.mac(salted, "Client Key")
	stored := s.hash()
	stored.Write(client)
	proof := s.mac(stored.Sum(nil), signed)
	subtle.XORBytes(proof, proof, client)
	s.server = s.mac(s.mac(salted, "Server Key"), signed)
	return withoutProof + ",p=" + base64.StdEncoding.EncodeToString(proof), nil
}

// verify checks that the server knows the account's keys.
func (s *scram) verify(final string) error {
	v, ok := strings.CutPrefix(final, "v=")
	got, err := base64.StdEncoding.DecodeString(v)
	if !ok || err != nil || !hmac.Equal(got, s.server) {
		return errors.New("the server does not prove that it knows the account")
	}
	return nil
}

func (s *scram) salted(salt, iterations string) ([]byte, error) {
	of := fmt.Sprint(s.hash().Size(), " ", salt, " ", iterations)
	if s.account.salted.of == of {
		return s.account.salted.key, nil
	}
	n, err := strconv.Atoi(iterations)
	if err != nil || n < 1 || n > 1e6 {
		return nil, fmt.Errorf("the SCRAM challenge asks for %q iterations", iterations)
	}
	raw, err := base64.StdEncoding.DecodeString(salt)
	if err != nil {
		return nil, fmt.Errorf("the salt of the SCRAM challenge: %w", err)
	}
	key, err := pbkdf2.Key(s.hash, s.account.Password, raw, n, s.hash().Size())
	if err != nil {
		return nil, err
	}
	s.account.salted = saltedPassword{of, key}
	return key, nil
}

func (s *scram) mac(key []byte, text string) []byte {
	m := hmac.New(s.hash, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}
