package federation

import (
	"context"
	"encoding/json"
	"fmt"

	"tombolo/xmpp/module"
)

// Verbs are what operators can ask of federation.
func (f *Federation) Verbs() map[string]module.Verb {
	return map[string]module.Verb{
		// federation.list: no arguments; a list of StreamInfo.
		"federation.list": func(context.Context, []byte) (any, error) { return f.List(), nil },
		// federation.check: {"domain": ..., "from": one of our domains, optional}; a Report.
		"federation.check": func(ctx context.Context, args []byte) (any, error) {
			var a struct{ Domain, From string }
			if err := json.Unmarshal(args, &a); err != nil {
				return nil, fmt.Errorf("federation.check: %w", err)
			}
			return f.Check(ctx, a.From, a.Domain)
		},
	}
}
