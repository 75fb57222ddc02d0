package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/xmpp"
)

// configPlaces are where a configuration is looked for when nothing names one.
var configPlaces = [...]string{"tombolo.toml", "/etc/tombolo/tombolo.toml"}

// configPath finds the configuration file.
func (a *app) configPath() (string, error) {
	if a.configFile != "" {
		return a.configFile, nil
	}
	if path := os.Getenv("TOMBOLO_CONFIG"); path != "" {
		return path, nil
	}
	for _, path := range configPlaces {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no configuration: neither --config nor $TOMBOLO_CONFIG names one, and %s and %s do not exist; "+
		"tombolo config example prints one to start from", configPlaces[0], configPlaces[1])
}

// load reads the configuration, and writes its warnings to standard error.
func (a *app) load(cmd *cobra.Command) (*settings.File, error) {
	path, err := a.configPath()
	if err != nil {
		return nil, err
	}
	file, warnings, err := settings.Load(path)
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), w)
	}
	return file, mistakes(err)
}

// mistakes puts the list of a file's mistakes below a line that says how many there are.
func mistakes(err error) error {
	var problems settings.Problems
	switch {
	case !errors.As(err, &problems):
		return err
	case len(problems) == 1:
		return fmt.Errorf("a mistake in the configuration:\n%w", err)
	}
	return fmt.Errorf("%d mistakes in the configuration:\n%w", len(problems), err)
}

func (a *app) configCommand() *cobra.Command {
	check := a.reading(&cobra.Command{
		Use: "check [FILE]", Short: "Check a configuration file and report every mistake",
		Long: `Check a configuration file and report every mistake with its file, line and column. It reads the
certificates too, but listens nowhere. Warnings do not make it fail. With --output json mistakes and warnings are
a list on standard output.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				a.configFile = args[0]
			}
			if a.output == "json" {
				return a.checkJSON(cmd)
			}
			file, err := a.load(cmd)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: no mistakes\n", file.Path)
			return err
		},
	})
	show := a.reading(&cobra.Command{
		Use: "show", Short: "Print the values in effect and where each came from", Args: cobra.NoArgs,
		Long: `Print the values in effect and where each came from. They are the running server's, and where the file says
something else now that is said; without a running server they are those with which one would start.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := a.inEffect(cmd)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, values)
			}
			return settings.Show(cmd.OutOrStdout(), values)
		},
	})
	example := &cobra.Command{
		Use: "example", Short: "Print a commented configuration file", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return settings.Example(cmd.OutOrStdout(), nil) },
	}
	return group("config", "Check, show and explain the configuration", check, show, example)
}

func (a *app) checkJSON(cmd *cobra.Command) error {
	path, err := a.configPath()
	if err != nil {
		return err
	}
	_, warnings, err := settings.Load(path)
	var problems settings.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	return errors.Join(printJSON(cmd, slices.Concat(problems, warnings)), mistakes(err))
}

// inEffect are the values of the running server, or those with which one would start.
func (a *app) inEffect(cmd *cobra.Command) ([]settings.Value, error) {
	file, c, err := a.dial(cmd)
	if c == nil {
		if file == nil || errors.As(err, new(settings.Problems)) {
			return nil, err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "tombolo: this is what the file says: %v\n", err)
		return file.Values(), nil
	}
	var running xmpp.Config
	if err := errors.Join(c.Call(cmd.Context(), "config.show", nil, &running), c.Close()); err != nil {
		return nil, err
	}
	values, differ := file.InEffect(running)
	if len(differ) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "tombolo: the running server does not go by what %s says of %s; tombolo reload says what waits for a restart\n",
			file.Path, strings.Join(differ, ", "))
	}
	return values, nil
}
