package auth

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"tombolo/storage"
	"tombolo/xmpp/jid"
)

const (
	keySize    = 32 // bytes: AES-256
	secretSize = 32 // bytes of randomness in a token
)

// A sealer encrypts tokens for the store. HT needs them in clear (its proof is a MAC with the token
// as the key), so a hash of them would not do; and without the key, which is elsewhere, a copy of
// the store opens no account.
type sealer struct {
	aead cipher.AEAD
	// decoy is a token that nobody was given, sealed, to be opened where a slot is empty.
	decoy []byte
}

// newSealer uses the key in file, and makes it where there is none. Without a file the key is new.
func newSealer(file string, random io.Reader) (*sealer, error) {
	key, err := loadKey(file, random)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	// Of the size of a token's text.
	return &sealer{aead, aead.Seal(nil, nil, []byte(rand.Text() + rand.Text())[:tokenSize], nil)}, nil
}

func loadKey(file string, random io.Reader) ([]byte, error) {
	if file == "" {
		return makeKey(random)
	}
	switch info, err := os.Stat(file); {
	case errors.Is(err, fs.ErrNotExist):
		key, err := makeKey(random)
		if err != nil {
			return nil, err
		}
		return key, writeKey(file, key)
	case err != nil:
		return nil, err
	case info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows":
		return nil, fmt.Errorf("%s has mode %v: only its owner may read it", file, info.Mode().Perm())
	}
	key, err := os.ReadFile(file)
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("%s has %d bytes where a key has %d; remove it to end all tokens", file, len(key), keySize)
	}
	return key, err
}

func makeKey(random io.Reader) ([]byte, error) {
	key := make([]byte, keySize)
	_, err := io.ReadFull(random, key)
	return key, err
}

// writeKey makes the file, durably and whole or not at all.
func writeKey(file string, key []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	if runtime.GOOS == "windows" {
		return nil // it cannot sync a directory
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// seal encrypts a token for a slot that already says everything else. Where the slot is, and what
// it says, is authenticated: a row copied to another account or client, or given a later expiry, does
// not open.
func (s *sealer) seal(owner jid.JID, client, secret string, slot storage.Token) []byte {
	return s.aead.Seal(nil, nil, []byte(secret), place(owner, client, slot))
}

// open decrypts a slot. For an empty one, and for one that does not open, it returns the decoy and
// false. It decrypts once for any slot that this server sealed and for an empty one.
func (s *sealer) open(owner jid.JID, client string, slot storage.Token) (secret []byte, ok bool) {
	sealed, where := s.decoy, []byte(nil)
	if slot.Sealed != nil {
		sealed, where = slot.Sealed, place(owner, client, slot)
	}
	secret, err := s.aead.Open(nil, nil, sealed, where)
	if err != nil {
		secret, _ = s.aead.Open(nil, nil, s.decoy, nil)
	}
	return secret, err == nil && slot.Sealed != nil
}

// place is the additional data of a sealed token.
func place(owner jid.JID, client string, slot storage.Token) []byte {
	var b []byte
	for _, s := range []string{owner.Bare().String(), client, slot.Mechanism} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return binary.AppendVarint(b, slot.Expiry.UnixNano())
}
