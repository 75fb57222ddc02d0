package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"tombolo/xmpp"
	"tombolo/xmpp/archive"
)

func (a *app) archiveCommand() *cobra.Command {
	return group("archive", "What users have said and heard", a.archiveShow(), a.archiveStats(), a.archivePurge(), a.archiveRetain())
}

func (a *app) archiveShow() *cobra.Command {
	var with, since, until string
	limit := 0
	cmd := a.reading(&cobra.Command{
		Use: "show ACCOUNT", Short: "Print messages of an account", Args: cobra.ExactArgs(1),
		Long: `Print the newest messages in the archive of an account, the oldest of them first. These are private
conversations: each use is recorded in the audit log.`,
		Example: "  tombolo archive show juliet@example.org --with romeo@example.org --since 7d\n" +
			"  tombolo archive show juliet@example.org --limit 1000 --output json",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := archiveRequest(args)
			if err != nil {
				return err
			}
			if with != "" {
				if q.With, err = address(with); err != nil {
					return err
				}
			}
			now := time.Now()
			if q.Start, err = parseTime("--since", since, now); err != nil {
				return err
			}
			if q.End, err = parseTime("--until", until, now); err != nil {
				return err
			}
			q.Limit = limit
			var messages []archive.Message
			if err := a.call(cmd, "archive.read", q, &messages); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, messages)
			}
			rows := make([][]string, len(messages))
			for i, m := range messages {
				text := m.Body
				if text == "" {
					text = "(no text)"
				}
				rows[i] = []string{m.At.Local().Format(time.DateTime), m.From, m.To, text}
			}
			return printTable(cmd.OutOrStdout(), "no messages", []string{"TIME", "FROM", "TO", "TEXT"}, rows)
		},
	})
	cmd.Flags().StringVar(&with, "with", "", "only what was said to or by this `JID`")
	cmd.Flags().StringVar(&since, "since", "", "only what came after this `time`, or so long ago, such as 7d")
	cmd.Flags().StringVar(&until, "until", "", "only what came before this `time`")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most this `number` of messages, 1000 at most")
	return cmd
}

func (a *app) archiveStats() *cobra.Command {
	domain := ""
	cmd := a.reading(&cobra.Command{
		Use: "stats [ACCOUNT]", Short: "Print how large archives are, and how long messages are kept", Args: cobra.MaximumNArgs(1),
		Example: "  tombolo archive stats\n  tombolo archive stats juliet@example.org",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := archiveRequest(args)
			if err != nil {
				return err
			}
			q.Domain = domain
			var stats []archive.Stats
			if err := a.call(cmd, "archive.stats", q, &stats); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, stats)
			}
			rows := make([][]string, len(stats))
			for i, s := range stats {
				kept := xmpp.Lifetime(time.Duration(s.Retention) * time.Second).String()
				rows[i] = []string{s.Account.String(), fmt.Sprint(s.Messages), day(s.Oldest), day(s.Newest), kept + yes(s.Own, " (own)"), s.Preferences}
			}
			return printTable(cmd.OutOrStdout(), "no accounts", []string{"ACCOUNT", "MESSAGES", "OLDEST", "NEWEST", "KEPT FOR", "BY DEFAULT"}, rows)
		},
	})
	cmd.Flags().StringVar(&domain, "domain", "", "only the accounts of this `domain`")
	return cmd
}

// day is a date, if there is one.
func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateOnly)
}

func (a *app) archivePurge() *cobra.Command {
	before, all, sure := "", false, false
	cmd := &cobra.Command{
		Use: "purge ACCOUNT", Short: "Remove old messages from the archive of an account", Args: cobra.ExactArgs(1),
		Long: `Remove from the archive of an account what is older than a time, or everything. What the account's contacts
have of it in their archives stays there, and so do copies on people's devices and in backups. What waits
for the account to come online is still delivered.`,
		Example: "  tombolo archive purge juliet@example.org --before 30d\n  tombolo archive purge juliet@example.org --all --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := archiveRequest(args)
			if err != nil {
				return err
			}
			if (before == "") != all {
				return usagef("say what to remove: --before TIME or --all")
			}
			now := time.Now()
			if q.Before, err = parseTime("--before", before, now); err != nil {
				return err
			}
			if all {
				q.Before = now
			}
			if !sure {
				if err := confirm(cmd, "messages of", args[0], "removed"); err != nil {
					return err
				}
			}
			var purged archive.Purged
			if err := a.call(cmd, "archive.purge", q, &purged); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s removed\n", count(purged.Messages, "message"))
			return err
		},
	}
	cmd.Flags().StringVar(&before, "before", "", "what is older than this `time`, or than so long, such as 30d")
	cmd.Flags().BoolVar(&all, "all", false, "everything")
	cmd.Flags().BoolVar(&sure, "yes", false, "do not ask")
	return cmd
}

func (a *app) archiveRetain() *cobra.Command {
	return &cobra.Command{
		Use: "retain ACCOUNT TIME", Short: "Say how long the messages of an account are kept", Args: cobra.ExactArgs(2),
		Long: `Say how long the messages of an account are kept: a time, "off" for good, or "default" for what the
configuration says of its domain. Older ones go when the server next looks, within a day.`,
		Example: "  tombolo archive retain juliet@example.org 30d\n  tombolo archive retain juliet@example.org default",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := archiveRequest(args)
			if err != nil {
				return err
			}
			if args[1] != "default" {
				var kept xmpp.Lifetime
				if err := kept.UnmarshalText([]byte(args[1])); err != nil {
					return usageError{err}
				}
				seconds := int64(time.Duration(kept) / time.Second)
				if kept != 0 && seconds == 0 {
					return usagef("%q is too short", args[1])
				}
				q.Retention = &seconds
			}
			return a.call(cmd, "archive.retain", q, nil)
		},
	}
}

// archiveRequest reads the argument that names an account, if there is one.
func archiveRequest(args []string) (q archive.Request, err error) {
	if len(args) > 0 {
		q.Account, err = account(args[0])
	}
	return q, err
}
