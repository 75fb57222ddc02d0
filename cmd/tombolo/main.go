// Command tombolo is the whole product in one binary: the XMPP server and everything an operator does
// with it. Each file holds one group of commands; connect.go says how they reach the server's one
// implementation of what they ask for, and internal/settings reads the configuration.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// execute runs one command line and says how the process ends.
func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := new(app)
	root := a.command()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	switch usage := (usageError{}); {
	case err == nil:
		return 0
	case errors.As(err, &usage) || !a.started:
		fmt.Fprintf(errOut, "tombolo: %v\nTry: tombolo --help\n", err)
		return exitUsage
	default:
		fmt.Fprintf(errOut, "tombolo: %v\n", err)
		return exitFailure
	}
}

// An app is one command line.
type app struct {
	configFile string // --config
	output     string // --output of commands that read
	started    bool   // flags and arguments were right
}

// A usageError is a command line that cannot be carried out as it stands.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "tombolo",
		Short: "An XMPP server for companies",
		Long: `Tombolo is an XMPP server: it keeps rosters and presence, carries messages between the devices of its
users, and federates with other domains.

To try it: tombolo quickstart. The manual is in the directory docs of the source.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(*cobra.Command, []string) error { a.started = true; return nil },
		Args:              cobra.NoArgs,
		RunE:              help,
	}
	root.PersistentFlags().StringVar(&a.configFile, "config", "", "configuration `file` (default $TOMBOLO_CONFIG, ./tombolo.toml, /etc/tombolo/tombolo.toml)")
	_ = root.MarkPersistentFlagFilename("config", "toml") // fails only for a flag that does not exist
	root.AddCommand(
		a.serveCommand(), a.reloadCommand(), a.statusCommand(), a.configCommand(),
		a.userCommand(), a.rosterCommand(), a.sessionCommand(), a.clientCommand(), a.archiveCommand(), a.federationCommand(),
		a.auditCommand(), a.backupCommand(), a.restoreCommand(),
		a.quickstartCommand(), a.demoCommand(), a.benchCommand(), manCommand(), a.versionCommand(),
	)
	return root
}

// help is what a group of commands does without one of them.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(commands...)
	return cmd
}

func (a *app) versionCommand() *cobra.Command {
	return a.reading(&cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.output == "json" {
				return printJSON(cmd, map[string]string{"version": version()})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "tombolo %s\n", version())
			return err
		},
	})
}

// version is that of the module, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel " + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}
