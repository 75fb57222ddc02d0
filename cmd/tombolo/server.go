package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/xmpp"
)

func (a *app) serveCommand() *cobra.Command {
	profile := ""
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the server",
		Long: `Run the server until SIGTERM or SIGINT: then it stops accepting, tells its clients, finishes what is
under way within limits.shutdown and exits with 0. SIGHUP is tombolo reload. The log goes to standard error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := a.load(cmd)
			if err != nil {
				return err
			}
			stop, err := startProfile(profile)
			if err != nil {
				return err
			}
			return errors.Join(serve(cmd.Context(), file, newLog(file.Log, cmd.ErrOrStderr()), nil), stop())
		},
	}
	cmd.Flags().StringVar(&profile, "cpu-profile", "", "write a profile of the processor time to this `file` at the end")
	_ = cmd.Flags().MarkHidden("cpu-profile") // fails only for a flag that does not exist
	return cmd
}

// startProfile begins a profile for go tool pprof; "" is none.
func startProfile(file string) (stop func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// serve runs a server until ctx ends. Once it listens it calls ready, if there is one, which may end
// the server by returning false.
func serve(ctx context.Context, file *settings.File, log *logger, ready func(context.Context, *xmpp.Server) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := xmpp.New(file.Config, xmpp.Options{Log: log.Logger, Version: version(), Reread: func() (xmpp.Config, error) {
		fresh, warnings, err := settings.Load(file.Path)
		if err != nil {
			return xmpp.Config{}, mistakes(err)
		}
		for _, w := range warnings {
			log.Warn("configuration", "warning", w.String())
		}
		log.adjust(fresh.Log)
		return fresh.Config, nil
	}})
	if err != nil {
		return err
	}
	if err := s.Listen(); err != nil {
		_ = s.Close() // what keeps it from listening is the news
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		for {
			select {
			case <-hup:
				if _, err := s.Call(ctx, "server.reload", nil); err != nil {
					log.Error("reload failed; the old configuration stays", "err", err)
				} else {
					log.Info("reloaded")
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	if ready != nil {
		go func() {
			if !ready(ctx, s) {
				cancel()
			}
		}()
	}
	go tendMemory(ctx)
	return s.Run(ctx)
}

// A logger is the server's log with a level that can change.
type logger struct {
	*slog.Logger
	level slog.LevelVar
}

func newLog(c xmpp.Log, w io.Writer) *logger {
	l := new(logger)
	options := &slog.HandlerOptions{Level: &l.level}
	if c.Format == "json" {
		l.Logger = slog.New(slog.NewJSONHandler(w, options))
	} else {
		l.Logger = slog.New(slog.NewTextHandler(w, options))
	}
	l.adjust(c)
	return l
}

func (l *logger) adjust(c xmpp.Log) {
	var level slog.Level
	if level.UnmarshalText([]byte(c.Level)) == nil { // Validate has refused other words
		l.level.Set(level)
	}
}

func (a *app) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Make the running server read its configuration and certificates again",
		Long: `Make the running server read its configuration and certificates again. When there is a mistake it keeps
the old ones and reports it. Certificates, the policy and partners of federation and the level of the log
are taken over; other changes wait for the next start, and their keys are printed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var reloaded xmpp.Reloaded
			if err := a.callRunning(cmd, "server.reload", nil, &reloaded); err != nil {
				return err
			}
			waiting := ""
			if len(reloaded.Waiting) > 0 {
				waiting = "; these changes wait for a restart: " + strings.Join(reloaded.Waiting, ", ")
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "reloaded"+waiting)
			return err
		},
	}
}

func milliseconds(seconds float64) string { return fmt.Sprintf("%.1f ms", seconds*1000) }

func (a *app) statusCommand() *cobra.Command {
	return a.reading(&cobra.Command{
		Use: "status", Short: "Print what the running server is doing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var status xmpp.Status
			if err := a.callRunning(cmd, "server.status", nil, &status); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, status)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintf(t, "version\t%s\n", status.Version)
			fmt.Fprintf(t, "running for\t%s, since %s\n", ago(status.Started), status.Started.Local().Format(time.DateTime))
			fmt.Fprintf(t, "domains\t%s\n", strings.Join(status.Domains, ", "))
			for _, key := range slices.Sorted(maps.Keys(status.Listeners)) {
				fmt.Fprintf(t, "listening for %s\t%s\n", key, strings.Join(status.Listeners[key], ", "))
			}
			fmt.Fprintf(t, "client connections\t%d\n", status.Connections)
			fmt.Fprintf(t, "sessions\t%d, of which %d wait for their clients\n", status.Sessions, status.Parked)
			fmt.Fprintf(t, "not acknowledged\t%d stanzas, %d bytes\n", status.Unacknowledged.Stanzas, status.Unacknowledged.Bytes)
			fmt.Fprintf(t, "server streams\t%d\n", status.Servers)
			fmt.Fprintf(t, "waiting to be written\t%d\n", status.Store.Pending)
			fmt.Fprintf(t, "written\t%d in %d commits\n", status.Store.Operations, status.Store.Commits)
			fmt.Fprintf(t, "commit times\tlast %s, average %s, longest %s\n",
				milliseconds(status.Store.Last), milliseconds(status.Store.Average), milliseconds(status.Store.Longest))
			for _, name := range slices.Sorted(maps.Keys(status.Counters)) {
				fmt.Fprintf(t, "%s\t%d\n", name, status.Counters[name])
			}
			return t.Flush()
		},
	})
}
