package xmpp

import (
	"context"
	"io"
	"maps"
	"time"

	"tombolo/storage"
	"tombolo/xmpp/admin"
	"tombolo/xmpp/c2s"
	"tombolo/xmpp/module"
)

// Status is what the verb server.status tells.
type Status struct {
	Version     string              `json:"version"`
	Started     time.Time           `json:"started"`
	Domains     []string            `json:"domains"`
	Listeners   map[string][]string `json:"listeners"`
	Connections int                 `json:"connections"` // of clients, logged in or not
	Sessions    int                 `json:"sessions"`
	// Parked are the sessions that wait for their clients to come back, and Unacknowledged what the
	// clients of sessions that can be resumed have not said to have got.
	Parked         int     `json:"parked"`
	Unacknowledged Waiting `json:"unacknowledged"`
	Store          Store   `json:"store"`
	Servers        int     `json:"servers"` // streams to and from other servers
	// Counters say how often what is rare has happened, such as a limit that was hit.
	Counters map[string]uint64 `json:"counters"`
}

// Waiting is how much waits for somebody.
type Waiting struct {
	Stanzas int `json:"stanzas"`
	Bytes   int `json:"bytes"`
}

// Store is how busy the database is. Times are in seconds.
type Store struct {
	Pending    int     `json:"pending"`    // writes that wait for a commit
	Operations uint64  `json:"operations"` // writes since the start, and the commits that had them
	Commits    uint64  `json:"commits"`
	Last       float64 `json:"last_commit_seconds"`
	Average    float64 `json:"average_commit_seconds"`
	Longest    float64 `json:"longest_commit_seconds"`
}

// collectVerbs gathers what operators can ask for, by name.
func (s *Server) collectVerbs(host *module.Host) {
	s.verbs = map[string]module.Verb{
		"server.status": func(context.Context, []byte) (any, error) { return s.status(), nil },
		"server.reload": func(context.Context, []byte) (any, error) { return s.reread() },
		"server.backup": func(context.Context, []byte) (any, error) { return backup{s.store}, nil },
		"config.show":   func(context.Context, []byte) (any, error) { return s.inEffect(), nil },
	}
	maps.Copy(s.verbs, c2s.Verbs(host))
	maps.Copy(s.verbs, s.federation.Verbs())
	for _, f := range s.features {
		maps.Copy(s.verbs, f.Verbs)
	}
	s.verbs = admin.Audited(s.verbs, s.audit)
}

func (s *Server) status() Status {
	status := Status{
		Version: s.options.Version, Started: s.started, Domains: s.local, Listeners: s.Addresses(),
		Connections: s.clients.Connections(), Servers: len(s.federation.List()),
		Counters: s.counters.All(),
	}
	for range s.users.Sessions() {
		status.Sessions++
	}
	w := &status.Unacknowledged
	status.Parked, w.Stanzas, w.Bytes = s.clients.Unacknowledged()
	store := s.store.Stats()
	status.Store = Store{Pending: store.Pending, Operations: store.Operations, Commits: store.Commits,
		Last: store.Last.Seconds(), Average: store.Average().Seconds(), Longest: store.Longest.Seconds()}
	return status
}

// backup streams a copy of the store.
type backup struct{ store storage.Store }

func (b backup) WriteTo(w io.Writer) (int64, error) { return b.store.Backup(w) }
