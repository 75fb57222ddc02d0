package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/storage"
	"tombolo/xmpp"
	"tombolo/xmpp/admin"
)

// A caller carries out verbs: a running server over its socket, or, when none runs, a server that is
// assembled from the same configuration and listens nowhere. So each verb has one implementation.
type caller interface {
	Call(ctx context.Context, verb string, args, result any) error
	Close() error
}

// connect finds the running server, or else opens the store.
func (a *app) connect(cmd *cobra.Command) (*settings.File, caller, error) {
	file, c, err := a.dial(cmd)
	if errors.Is(err, admin.ErrNoServer) {
		c, err = assemble(file, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})))
	}
	return file, c, err
}

// dial finds the running server; admin.ErrNoServer if none runs. While one runs, mistakes in the
// configuration do not keep the operator away from it.
func (a *app) dial(cmd *cobra.Command) (*settings.File, caller, error) {
	file, loadErr := a.load(cmd)
	if file == nil {
		return nil, nil, loadErr
	}
	client, err := admin.Dial(file.AdminSocket())
	switch {
	case err == nil && loadErr != nil:
		fmt.Fprintf(cmd.ErrOrStderr(), "tombolo: the running server goes on with its old configuration: %v\n", loadErr)
	case err != nil && loadErr != nil:
		return file, nil, loadErr
	case err != nil:
		return file, nil, err
	}
	return file, client, nil
}

// call carries out one verb, with or without a running server.
func (a *app) call(cmd *cobra.Command, verb string, args, result any) error {
	_, c, err := a.connect(cmd)
	if err != nil {
		return err
	}
	return errors.Join(c.Call(cmd.Context(), verb, args, result), c.Close())
}

// callRunning carries out a verb that means nothing without a running server.
func (a *app) callRunning(cmd *cobra.Command, verb string, args, result any) error {
	_, c, err := a.dial(cmd)
	if err != nil {
		return err
	}
	return errors.Join(c.Call(cmd.Context(), verb, args, result), c.Close())
}

// assembled is a server that listens nowhere.
type assembled struct{ *xmpp.Server }

func assemble(file *settings.File, log *slog.Logger) (caller, error) {
	s, err := xmpp.New(file.Config, xmpp.Options{Log: log, Version: version()})
	if errors.Is(err, storage.ErrLocked) {
		return nil, fmt.Errorf("no server answers on %s, but another process has the database open: %w", file.AdminSocket(), err)
	}
	if err != nil {
		return nil, err
	}
	return assembled{s}, nil
}

// Call is admin.Client.Call without a socket.
func (s assembled) Call(ctx context.Context, verb string, args, result any) error {
	return callServer(ctx, s.Server, verb, args, result)
}

func callServer(ctx context.Context, s *xmpp.Server, verb string, args, result any) error {
	encoded, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	answer, err := s.Call(ctx, verb, encoded)
	if err != nil || result == nil {
		return err
	}
	if w, ok := result.(io.Writer); ok {
		stream, ok := answer.(io.WriterTo)
		if !ok {
			return fmt.Errorf("%s answers %T, not a stream", verb, answer)
		}
		_, err := stream.WriteTo(w)
		return err
	}
	if encoded, err = json.Marshal(answer); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if err := json.Unmarshal(encoded, result); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	return nil
}
