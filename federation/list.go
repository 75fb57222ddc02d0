package federation

import (
	"cmp"
	"crypto/tls"
	"slices"
	"time"
)

// StreamInfo is what an operator sees of a pair in one direction.
type StreamInfo struct {
	Local     string `json:"local"`
	Remote    string `json:"remote"`
	Direction string `json:"direction"`         // "in" or "out"
	Address   string `json:"address,omitempty"` // of the peer
	// TLS is version and cipher suite, empty in clear.
	TLS string `json:"tls,omitempty"`
	// Authenticated is how the sender of the stanzas proved its domain: "EXTERNAL" or "dialback", or
	// "certificate" for dialback's protocol with a certificate for a proof.
	Authenticated string `json:"authenticated,omitempty"`
	// Peer is, outwards, how the receiver proved its domain: "certificate", "pin" or "dialback",
	// which means that DNS led there.
	Peer string `json:"peer,omitempty"`
	// State is "open", "connecting", or "failed" while nothing is tried.
	State string    `json:"state"`
	Since time.Time `json:"since,omitzero"`
	// Queue is how many bytes wait.
	Queue int `json:"queue"`
	// Acks is what the two servers have of stream management (XEP-0198): "none", "acks", or
	// "resumable": then a lost stream is gone on with on another one.
	Acks string `json:"acks,omitempty"`
	// Unacknowledged is, outwards, how many stanzas the peer has not acknowledged.
	Unacknowledged int `json:"unacknowledged,omitempty"`
	// Error is why the last attempt failed, Retry when the next one may be made.
	Error string    `json:"error,omitempty"`
	Retry time.Time `json:"retry,omitzero"`
}

// List is a snapshot of all pairs, by remote domain.
func (f *Federation) List() []StreamInfo {
	f.mu.Lock()
	incoming := keys(f.incoming)
	pairs := make([]*pair, 0, len(f.pairs))
	for _, p := range f.pairs {
		pairs = append(pairs, p)
	}
	f.mu.Unlock()
	var list []StreamInfo
	for _, in := range incoming {
		list = append(list, in.info()...)
	}
	for _, p := range pairs {
		list = append(list, p.info())
	}
	slices.SortFunc(list, func(a, b StreamInfo) int {
		return cmp.Or(cmp.Compare(a.Remote, b.Remote), cmp.Compare(a.Local, b.Local),
			cmp.Compare(a.Direction, b.Direction), a.Since.Compare(b.Since))
	})
	return list
}

func (in *incoming) info() []StreamInfo {
	in.mu.Lock()
	defer in.mu.Unlock()
	var list []StreamInfo
	for p, a := range in.pairs {
		i := StreamInfo{Local: p.Local, Remote: p.Remote, Direction: "in", State: "connecting",
			Address: in.s.Conn().RemoteAddr().String(), TLS: describeTLS(in.security.tls),
			Authenticated: a.by, Since: a.since, Queue: in.s.Pending()}
		if a.by != "" {
			i.State = "open"
			i.Acks = in.managed.Load().kind()
		}
		list = append(list, i)
	}
	return list
}

func (p *pair) info() StreamInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := StreamInfo{Local: p.Local, Remote: p.Remote, Direction: "out", State: "connecting"}
	switch {
	case p.stream != nil:
		o := p.stream
		o.mu.Lock()
		defer o.mu.Unlock()
		i.State, i.Since, i.Queue = "open", o.readyAt, o.s.Pending()
		i.Address, i.TLS = o.s.Conn().RemoteAddr().String(), describeTLS(o.security.tls)
		i.Authenticated, i.Peer = o.self, string(o.security.proof)
	case !p.running && p.reason != nil:
		i.State, i.Error, i.Retry = "failed", p.reason.Error(), p.until
	case !p.running:
		i.State = "closed"
	}
	if p.sent != nil {
		i.Acks = p.sent.kind()
	}
	count, bytes := p.sent.waiting()
	if p.stream == nil {
		i.Queue = bytes
	}
	if p.sent != nil && p.sent.acks {
		i.Unacknowledged = count
	}
	return i
}

// describeTLS is the version and the cipher suite, "" for no TLS.
func describeTLS(state *credential) string {
	if state == nil {
		return ""
	}
	return tls.VersionName(state.Version) + " " + tls.CipherSuiteName(state.CipherSuite)
}
