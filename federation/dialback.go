package federation

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"tombolo/storage"
	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// A secret makes and checks dialback keys (XEP-0185). It is the hexadecimal SHA-256 of what is
// stored, the form in which it keys the HMAC.
type secret string

func newSecret(stored []byte) secret {
	sum := sha256.Sum256(stored)
	return secret(hex.EncodeToString(sum[:]))
}

// key is the key for one pair on one stream. The domains are canonical, so no space is in them, and
// no other triple of names gives the same text whatever the peer takes for an id.
func (s secret) key(receiving, originating, id string) string {
	mac := hmac.New(sha256.New, []byte(s))
	mac.Write([]byte(receiving + " " + originating + " " + id))
	return hex.EncodeToString(mac.Sum(nil))
}

// made says whether key is the one that we made, without telling how much of it is right.
func (s secret) made(key, receiving, originating, id string) bool {
	return hmac.Equal([]byte(key), []byte(s.key(receiving, originating, id)))
}

// secretName is where the secret is kept, so that a verification that is under way while the
// server restarts still succeeds, and servers of one domain may share a store.
const secretName = "dialback"

// loadSecret reads the secret, and makes one first where there is none.
func loadSecret(store storage.Store) (secret, error) {
	var stored []byte
	err := store.View(func(tx storage.Tx) (err error) {
		stored, err = tx.Secrets().Get(secretName)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		stored = make([]byte, 32)
		rand.Read(stored) // never fails
		err = store.Submit(func(tx storage.Tx) error {
			return tx.Secrets().Put(secretName, stored)
		}).Wait(context.Background())
	}
	if err != nil {
		return "", fmt.Errorf("secret for dialback: %w", err)
	}
	return newSecret(stored), nil
}

// A dialback is a <db:result/> or <db:verify/>, request or answer (XEP-0220).
type dialback struct {
	name     string // "result" or "verify"
	from, to string // canonical domains
	id       string // of verify
	typ      string // "" in a request; "valid", "invalid" or "error"
	key      string // of a request
	err      *stanza.Error
}

// readDialback reads one. Its error ends the stream.
func readDialback(e element.Element) (dialback, error) {
	d := dialback{name: e.Name(), id: e.Attr("id"), typ: e.Attr("type"), key: strings.TrimSpace(e.Text())}
	var err error
	if d.from, err = parseDomain(e.Attr("from")); err == nil {
		d.to, err = parseDomain(e.Attr("to"))
	}
	switch {
	case d.name != "result" && d.name != "verify", d.name == "verify" && d.id == "":
		return d, &stanza.StreamError{Condition: stanza.StreamUnsupportedStanzaType, Text: "not a dialback element"}
	case err != nil:
		return d, &stanza.StreamError{Condition: stanza.StreamImproperAddressing, Text: err.Error()}
	}
	if d.typ == "error" {
		d.err = stanza.UndefinedCondition("")
		for child := range e.Children() {
			if child.Name() == "error" { // in the peer's content namespace, below another one
				d.err = stanza.ParseError(child)
			}
		}
	}
	return d, nil
}

// answer is the answer to d; its type is that of the verdict.
func (d dialback) answer(typ string, err *stanza.Error) dialback {
	return dialback{name: d.name, from: d.to, to: d.from, id: d.id, typ: typ, err: err}
}

// String is the element as it stands in a stream. The prefix must be db: some peers know no other
// (XEP-0220 section 2).
func (d dialback) String() string {
	b := []byte("<db:" + d.name)
	for _, a := range []struct{ name, value string }{{"from", d.from}, {"to", d.to}, {"id", d.id}, {"type", d.typ}} {
		if a.value != "" {
			b = append(b, " "+a.name+"='"...)
			b = element.AppendEscaped(b, a.value)
			b = append(b, '\'')
		}
	}
	b = append(b, '>')
	b = element.AppendEscaped(b, d.key)
	if d.err != nil {
		b = d.err.Element().AppendTo(b, ns.Client)
	}
	return string(append(b, "</db:"+d.name+">"...))
}
