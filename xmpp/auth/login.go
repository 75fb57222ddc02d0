package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"tombolo/storage"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/sasl"
)

// A Login is a proof that was good, what its client said of itself, and what it asks for.
type Login struct {
	Account  jid.JID
	Exchange *sasl.Exchange // done
	Address  string         // that it came from

	// Of the user-agent (XEP-0388 section 2.3). A client that does not identify itself is not
	// remembered, and gets no token.
	Client   string
	Software string
	Device   string

	// RequestToken is the mechanism for which a token is asked (XEP-0484 section 3.2), one that was
	// offered; empty: none.
	RequestToken string
	// Invalidate ends the tokens of the client (XEP-0484 section 3.6).
	Invalidate bool
}

// A Token is what a client gets (XEP-0484 section 3.3).
type Token struct {
	Secret string
	Expiry time.Time
}

// tokenSize is the length of a Token's Secret.
var tokenSize = base64.RawURLEncoding.EncodedLen(secretSize)

// Limits of what a client may say of itself; the identifier ought to be a UUID.
const (
	maxClientID   = 128 // bytes
	maxClientText = 256
)

// Accept carries out what a good proof leads to, before the client is told of its success: the
// client is remembered, the token that it used takes the place of earlier ones, and a new one, if
// the client gets it, is kept when Accept returns (nil: it gets none).
//
// It fails with a *sasl.Failure where the proof has lost its worth since, because the password was
// changed, the account was disabled or deleted, or the token was revoked. A lack of space on the
// disk only costs the new token, since nobody should be locked out by it.
func (a *Accounts) Accept(ctx context.Context, l Login) (*Token, error) {
	if !validClient(l.Client) {
		holds, err := a.Current(l.Account, l.Exchange.Epoch())
		if err == nil && !holds {
			err = outdated(l.Exchange)
		}
		return nil, err
	}
	fail := func(err error) (*Token, error) {
		return nil, fmt.Errorf("accept login of %s: %w", l.Account, err)
	}
	random, err := a.random(secretSize + 8)
	if err != nil {
		return fail(err)
	}
	secret := base64.RawURLEncoding.EncodeToString(random[:secretSize])
	generation := binary.BigEndian.Uint64(random[secretSize:])
	now := a.opts.Now()

	// A login that changes no token need not wait for the disk: see first whether it does.
	var first admission
	err = a.store.View(func(tx storage.Tx) (err error) {
		first, err = a.admit(tx, l, generation, now)
		return err
	})
	if err != nil {
		return fail(err)
	}
	var token *Token
	ticket := a.store.Submit(func(tx storage.Tx) error {
		token = nil
		admitted, err := a.admit(tx, l, generation, now)
		if err != nil {
			return err
		}
		if admitted.mechanism != "" {
			token = &Token{Secret: secret, Expiry: now.Add(a.opts.TokenLifetime).UTC().Truncate(time.Second)}
			slot := storage.Token{Mechanism: admitted.mechanism, Expiry: token.Expiry}
			slot.Sealed = a.tokens.seal(l.Account, l.Client, secret, slot)
			admitted.client.New = slot
		}
		if admitted.matters {
			if err := a.makeRoom(tx, l.Account, l.Client, now); err != nil {
				return err
			}
		}
		return tx.Clients().Put(l.Account, admitted.client)
	})
	if !first.matters {
		return nil, nil
	}
	switch err := ticket.Wait(ctx); {
	case errors.Is(err, storage.ErrNoSpace) && !l.Invalidate:
		return nil, nil
	case err != nil:
		return fail(err)
	}
	return token, nil
}

// An admission is what a login makes of its client.
type admission struct {
	client    storage.Client
	mechanism string // of the token to give to it; empty: none
	matters   bool   // more changes than when and where it was seen
}

// admit judges a login by the state of the store.
func (a *Accounts) admit(tx storage.Tx, l Login, generation uint64, now time.Time) (admission, error) {
	account, err := tx.Accounts().Get(l.Account)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return admission{}, &sasl.Failure{Condition: sasl.NotAuthorized, Cause: err}
	case err != nil:
		return admission{}, err
	case account.Disabled:
		return admission{}, &sasl.Failure{Condition: sasl.AccountDisabled}
	}
	client, err := tx.Clients().Get(l.Account, l.Client)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		client = storage.Client{ID: l.Client, FirstSeen: now, Generation: generation}
	case err != nil:
		return admission{}, err
	}
	if !parseEpoch(l.Exchange.Epoch()).holds(account, client) {
		return admission{}, outdated(l.Exchange)
	}

	result := admission{matters: l.RequestToken != "" || l.Invalidate}
	if sasl.IsToken(l.RequestToken) {
		result.mechanism = l.RequestToken
	}
	if used := l.Exchange.Token(); used != "" {
		switch used {
		case tokenName(client.New): // it reached the client, which needs the other no more
			client.Current, client.New = client.New, storage.Token{}
			result.matters = true
		case tokenName(client.Current):
		default:
			return admission{}, outdated(l.Exchange)
		}
		due := client.Current.Expiry.Sub(now) <= a.opts.TokenLifetime-a.opts.TokenRotation
		if due && !l.Invalidate && result.mechanism == "" {
			result.mechanism, result.matters = client.Current.Mechanism, true
		}
	} else if isPassword(l.Exchange.Mechanism()) && !client.Password {
		client.Password, result.matters = true, true
	}
	if l.Invalidate {
		client.Current, client.New = storage.Token{}, storage.Token{}
	}
	client.Software, client.Device = shorten(l.Software), shorten(l.Device)
	client.LastSeen = now
	client.Mechanism = l.Exchange.Mechanism()
	client.Address = ""
	if a.opts.ClientAddresses {
		client.Address = shorten(l.Address)
	}
	result.client = client
	return result, nil
}

// outdated is the failure of a proof that has lost its worth (XEP-0484 section 4.2).
func outdated(x *sasl.Exchange) error {
	condition := sasl.NotAuthorized
	if x.Token() != "" {
		condition = sasl.CredentialsExpired
	}
	return &sasl.Failure{Condition: condition, Cause: errors.New("it was revoked meanwhile")}
}

// Current reports whether what an exchange proved, its Epoch, still lets its client in: the password
// was not changed since, the account neither disabled nor deleted, the token's client not revoked. It is
// for session.Binding.Valid, which leaves no gap for whoever does such a thing and then ends sessions.
func (a *Accounts) Current(account jid.JID, proved string) (bool, error) {
	e := parseEpoch(proved)
	holds := false
	err := a.store.View(func(tx storage.Tx) error {
		kept, err := tx.Accounts().Get(account)
		if err != nil || kept.Disabled {
			return err
		}
		var client storage.Client
		if e.client != "" {
			if client, err = tx.Clients().Get(account, e.client); err != nil {
				return err
			}
		}
		holds = e.holds(kept, client)
		return nil
	})
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return false, fmt.Errorf("credentials of %s: %w", account, err)
	}
	return holds, nil
}

// Tokens returns, for the users of domain, what verifies one that logs in with a token from the
// client of this identifier (the user-agent of XEP-0388). The function that it returns reads the
// store once and opens two slots, whether user and client exist or not.
func (a *Accounts) Tokens(domain, client string) func(user, mechanism string) (sasl.Tokens, error) {
	return func(user, mechanism string) (sasl.Tokens, error) {
		account, err := jid.New(user, domain, "")
		if err != nil {
			return sasl.Tokens{}, fmt.Errorf("tokens: %w", err)
		}
		tokens, err := a.tokensOf(account, client, mechanism)
		if err != nil {
			return sasl.Tokens{}, fmt.Errorf("tokens of %s: %w", account, err)
		}
		return tokens, nil
	}
}

func (a *Accounts) tokensOf(account jid.JID, id, mechanism string) (sasl.Tokens, error) {
	var kept storage.Account
	var client storage.Client
	err := a.store.View(func(tx storage.Tx) error {
		var accountErr, clientErr error
		kept, accountErr = tx.Accounts().Get(account)
		client, clientErr = tx.Clients().Get(account, id)
		for _, err := range []error{accountErr, clientErr} {
			if err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
		if accountErr != nil {
			client = storage.Client{}
		}
		return nil
	})
	if err != nil {
		return sasl.Tokens{}, err
	}
	open := func(slot storage.Token) sasl.Token {
		secret, ok := a.tokens.open(account, id, slot)
		return sasl.Token{
			Name:    tokenName(slot),
			Secret:  secret,
			Known:   ok && slot.Mechanism == mechanism,
			Expired: !a.opts.Now().Before(slot.Expiry),
		}
	}
	return sasl.Tokens{
		New:      open(client.New),
		Current:  open(client.Current),
		Disabled: kept.Disabled,
		Epoch:    epoch{account: kept.Generation, client: id, clientGeneration: client.Generation}.String(),
	}, nil
}

// tokenName tells one token from another. An empty slot has a name, which no exchange gets to know.
func tokenName(slot storage.Token) string {
	sum := sha256.Sum256(slot.Sealed)
	return string(sum[:])
}

// An epoch is what a proof was good for: the account until its generation changes, and for a token
// the client likewise.
type epoch struct {
	account          uint64
	client           string
	clientGeneration uint64
	invalid          bool
}

func (e epoch) String() string {
	return fmt.Sprintf("%x %x %s", e.account, e.clientGeneration, e.client)
}

func parseEpoch(s string) epoch {
	parts := strings.SplitN(s, " ", 3)
	if len(parts) != 3 {
		return epoch{invalid: true}
	}
	account, accountErr := strconv.ParseUint(parts[0], 16, 64)
	generation, generationErr := strconv.ParseUint(parts[1], 16, 64)
	return epoch{account, parts[2], generation, accountErr != nil || generationErr != nil}
}

// holds compares with the account as it is, and with the client of a token.
func (e epoch) holds(account storage.Account, client storage.Client) bool {
	return !e.invalid && e.account == account.Generation &&
		(e.client == "" || e.client == client.ID && e.clientGeneration == client.Generation)
}

// isPassword says whether a mechanism proves that the client knows the password.
func isPassword(mechanism string) bool {
	return mechanism == "PLAIN" || strings.HasPrefix(mechanism, "SCRAM-")
}

// validClient says whether a client can be remembered by this identifier.
func validClient(id string) bool {
	return id != "" && len(id) <= maxClientID && utf8.ValidString(id) && !strings.ContainsFunc(id, unicode.IsControl)
}

// shorten makes of what a client says of itself what is kept of it: not too much, and nothing that
// a terminal would obey.
func shorten(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxClientText)], "")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, text)
}
