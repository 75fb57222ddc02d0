package bench

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"time"
)

// Register makes the account by in-band registration (XEP-0077 section 3.1).
func (t *Target) Register(ctx context.Context, a *Account) error {
	return t.registering(ctx, a, func(s *session) error {
		if _, err := s.open(t.Domain); err != nil {
			return err
		}
		_, err := s.ask("", "set", "<query xmlns='jabber:iq:register'><username>"+html.EscapeString(a.Name)+
			"</username><password>"+html.EscapeString(a.Password)+"</password></query>")
		return err
	})
}

// Unregister deletes the account again (XEP-0077 section 3.2).
func (t *Target) Unregister(ctx context.Context, a *Account) error {
	return t.registering(ctx, a, func(s *session) error {
		if err := s.authenticate(t, a); err != nil {
			return err
		}
		if err := s.settle(t, extras{}); err != nil {
			return err
		}
		_, err := s.ask("", "set", "<query xmlns='jabber:iq:register'><remove/></query>")
		if errors.Is(err, io.EOF) { // some end the stream instead of answering
			return nil
		}
		return err
	})
}

func (t *Target) registering(ctx context.Context, a *Account, do func(*session) error) error {
	s, err := t.connect(ctx)
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
		err = do(s)
		stop()
		s.close()
	}
	if err != nil {
		return fmt.Errorf("registration of %s@%s at %s: %w", a.Name, t.Domain, t.Address, err)
	}
	return nil
}
