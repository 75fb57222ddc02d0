package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

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

// connect finds the running server, or else opens the store for a verb. Only an account that is added
// makes a store where there is none: with a wrong data_dir others would work on an empty one, perhaps
// while a server runs on the right one.
func (a *app) connect(cmd *cobra.Command, verb string) (file *settings.File, c caller, err error) {
	file, c, err = a.dial(cmd)
	if !errors.Is(err, admin.ErrNoServer) {
		return file, c, err
	}
	open := assemble
	if _, err := os.Stat(file.Database()); errors.Is(err, fs.ErrNotExist) {
		missing := fmt.Sprintf("no server answers on %s, and there is no database %s", file.AdminSocket(), file.Database())
		switch verb {
		case "user.add":
			missing += ", which is made now"
		case "server.backup":
			return file, nil, errors.New(missing)
		default:
			open = assembleEmpty
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "tombolo: %s\n", missing)
	}
	c, err = open(file, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})))
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
	_, c, err := a.connect(cmd, verb)
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
type assembled struct {
	*xmpp.Server
	scratch string // a directory that goes with it
}

// Close ends it.
func (s assembled) Close() error { return errors.Join(s.Server.Close(), os.RemoveAll(s.scratch)) }

func assemble(file *settings.File, log *slog.Logger) (caller, error) {
	s, err := xmpp.New(file.Config, xmpp.Options{Log: log, Version: version()})
	if errors.Is(err, storage.ErrLocked) {
		return nil, fmt.Errorf("no server answers on %s, but another process has the database open: %w", file.AdminSocket(), err)
	}
	if err != nil {
		return nil, err
	}
	return assembled{Server: s}, nil
}

// assembleEmpty makes a server as one with this configuration is before anything is kept, and leaves
// nothing where the configuration points.
func assembleEmpty(file *settings.File, log *slog.Logger) (caller, error) {
	dir, err := os.MkdirTemp("", "tombolo")
	if err != nil {
		return nil, err
	}
	config := file.Config
	config.DataDir, config.Audit = dir, xmpp.Defaults().Audit
	s, err := xmpp.New(config, xmpp.Options{Log: log, Version: version()})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return assembled{s, dir}, nil
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
