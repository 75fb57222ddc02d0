package xmpp

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"tombolo/xmpp/transport"
)

// Reloaded is what the verb server.reload tells.
type Reloaded struct {
	// Waiting are the keys that have other values than the server goes by, as "limits.idle": they hold
	// from the next start on.
	Waiting []string `json:"waiting"`
}

// reread takes the configuration over again, on request of an operator.
func (s *Server) reread() (Reloaded, error) {
	if s.options.Reread == nil {
		return Reloaded{}, errors.New("this server was not started from a configuration file")
	}
	cfg, err := s.options.Reread()
	if err != nil {
		return Reloaded{}, err
	}
	waiting, err := s.Reload(cfg)
	for _, key := range waiting {
		s.log.Warn("this change takes effect with the next start", "key", key)
	}
	return Reloaded{waiting}, err
}

// Reload takes over what can change while the server runs: the fields of Config that are tagged
// reload. It names the other keys that differ. On an error the old configuration stays.
func (s *Server) Reload(cfg Config) (waiting []string, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	next := s.effective
	waiting = takeOver(reflect.ValueOf(&next).Elem(), reflect.ValueOf(cfg), "")
	roots, err := roots(next.Federation.CAFile)
	if err != nil {
		return nil, err
	}
	if err := s.certificates.Reload(next.keyPairs()...); err != nil {
		return nil, err
	}
	if err := s.federation.Reload(policy(next.Federation), roots); err != nil {
		return nil, err
	}
	s.effective = next
	return waiting, nil
}

// inEffect is the configuration that the server goes by now.
func (s *Server) inEffect() Config {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	return s.effective
}

// takeOver gives a table that is in effect those values of a fresh one that a reload takes over.
func takeOver(running, fresh reflect.Value, prefix string) (waiting []string) {
	for i := range running.NumField() {
		field, old, now := running.Type().Field(i), running.Field(i), fresh.Field(i)
		key := prefix + field.Tag.Get("toml")
		switch domains, ok := old.Interface().([]Domain); {
		case field.Tag.Get("reload") != "":
			old.Set(now)
		case ok:
			mixed, wait := takeOverDomains(domains, now.Interface().([]Domain), key)
			old.Set(reflect.ValueOf(mixed))
			waiting = append(waiting, wait...)
		case old.Kind() == reflect.Struct:
			waiting = append(waiting, takeOver(old, now, key+".")...)
		case !reflect.DeepEqual(old.Interface(), now.Interface()):
			waiting = append(waiting, key)
		}
	}
	return waiting
}

// takeOverDomains is takeOver for the domains that are served, which stay the same ones.
func takeOverDomains(running, fresh []Domain, key string) (mixed []Domain, waiting []string) {
	sameName := func(a, b Domain) bool { return a.Name == b.Name }
	mixed = slices.Clone(running) // the server reads the old list at any time
	for i := range mixed {
		j := slices.IndexFunc(fresh, func(d Domain) bool { return sameName(d, mixed[i]) })
		if j >= 0 {
			table := reflect.ValueOf(&mixed[i]).Elem()
			waiting = append(waiting, takeOver(table, reflect.ValueOf(fresh[j]), fmt.Sprintf("%s[%d].", key, i))...)
		}
	}
	if !slices.EqualFunc(running, fresh, sameName) {
		waiting = append(waiting, key)
	}
	return mixed, waiting
}

func (c *Config) keyPairs() []transport.KeyPair {
	pairs := make([]transport.KeyPair, len(c.Domain))
	for i, d := range c.Domain {
		pairs[i] = transport.KeyPair{Domain: d.Name, Certificate: d.Certificate, Key: d.Key}
	}
	return pairs
}
