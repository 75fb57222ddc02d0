package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages into a directory", Args: cobra.ExactArgs(1),
		Example: "  tombolo man /usr/local/share/man/man1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			date := time.Unix(0, 0).UTC() // the same pages from the same program
			header := &doc.GenManHeader{Section: "1", Source: "Tombolo", Manual: "Tombolo", Date: &date}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("manual pages: %w", err)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "manual pages written to %s\n", args[0])
			return err
		},
	}
}

// cliReference is the manual's chapter on the commands, in Markdown.
func cliReference() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`<!-- Made from the commands; do not edit.
     go test ./cmd/tombolo -run TestDocs -update -->

# Commands

` + "`--config FILE`" + ` works with every command. Commands that ask or change something talk to the running server over
its admin socket; when none runs they open the database themselves, and fail within a second when another process has
it. Commands that read take ` + "`--output json`" + `. Passwords come from a prompt or from ` + "`--password-stdin`" + `, never
from an argument. The exit code is 0 when all went well, 1 when it did not, 2 for a command line that cannot be
carried out.
`)
	root := new(app).command()
	root.InitDefaultCompletionCmd()
	root.DisableAutoGenTag = true
	if err := referTo(&b, root); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func referTo(b *bytes.Buffer, cmd *cobra.Command) error {
	if !cmd.IsAvailableCommand() && cmd.HasParent() {
		return nil
	}
	cmd.InitDefaultHelpFlag()
	if cmd.Runnable() && !cmd.HasAvailableSubCommands() {
		fmt.Fprintf(b, "\n## %s\n\n%s.\n\n", cmd.CommandPath(), cmd.Short)
		fmt.Fprintf(b, "    %s\n", cmd.UseLine())
		if cmd.Long != "" && cmd.Parent().Name() != "completion" {
			fmt.Fprintf(b, "\n%s\n", cmd.Long)
		}
		if cmd.Example != "" {
			fmt.Fprintf(b, "\nExample:\n\n%s\n", indent(cmd.Example, "  "))
		}
		if usage := cmd.NonInheritedFlags().FlagUsagesWrapped(100); strings.Count(usage, "\n") > 1 { // more than --help
			fmt.Fprintf(b, "\n%s", indent(usage, "    "))
		}
	}
	for _, sub := range cmd.Commands() {
		if err := referTo(b, sub); err != nil {
			return err
		}
	}
	return nil
}

func indent(text, by string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(by + line)
	}
	return b.String()
}
