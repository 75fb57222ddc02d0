package chaos

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"

	"tombolo/xmpp/element"
)

// The devices log in with SCRAM-SHA-1 (RFC 5802) and keep the salted password, as clients may: so a
// login costs next to nothing on either side.

// salted is the salted password, which all accounts share, for they have the same salt.
type salted struct {
	once sync.Once
	key  []byte
}

func (s *salted) password(salt []byte, iterations int) []byte {
	s.once.Do(func() { s.key, _ = pbkdf2.Key(sha1.New, password, salt, iterations, sha1.Size) })
	return s.key
}

// authenticate sends begin, in which %s stands for the initial response, and returns <success/>.
func (c *conversation) authenticate(user string, keys *salted, namespace, begin string) (element.Element, error) {
	nonce := rand.Text()
	first := "n=" + user + ",r=" + nonce
	challenge, err := c.ask(fmt.Sprintf(begin, base64.StdEncoding.EncodeToString([]byte("n,,"+first))), "challenge")
	if err != nil {
		return challenge, err
	}
	text, err := base64.StdEncoding.DecodeString(challenge.Text())
	if err != nil {
		return challenge, wrongly("challenge: %v", err)
	}
	var both, salt string
	var iterations int
	if _, err := fmt.Sscanf(strings.ReplaceAll(string(text), ",", " "), "r=%s s=%s i=%d", &both, &salt, &iterations); err != nil {
		return challenge, wrongly("challenge %s: %v", text, err)
	}
	saltBytes, err := base64.StdEncoding.DecodeString(salt)
	if err != nil {
		return challenge, wrongly("salt: %v", err)
	}
	final := "c=biws,r=" + both
	key := mac(keys.password(saltBytes, iterations), "Client Key")
	stored := sha1.Sum(key)
	for i, b := range mac(stored[:], first+","+string(text)+","+final) {
		key[i] ^= b
	}
	final += ",p=" + base64.StdEncoding.EncodeToString(key)
	return c.ask("<response xmlns='"+namespace+"'>"+base64.StdEncoding.EncodeToString([]byte(final))+"</response>", "success")
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha1.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
