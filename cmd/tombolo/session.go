package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"tombolo/xmpp/c2s"
)

func (a *app) sessionCommand() *cobra.Command {
	list := a.reading(&cobra.Command{
		Use: "list [ACCOUNT]", Short: "Print who is logged in", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var q c2s.UserRequest
			if len(args) == 1 {
				var err error
				if q.Account, err = account(args[0]); err != nil {
					return err
				}
			}
			var sessions []c2s.SessionInfo
			if err := a.callRunning(cmd, "session.list", q, &sessions); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, sessions)
			}
			rows := make([][]string, len(sessions))
			for i, s := range sessions {
				state := "not available"
				if s.Available {
					state = cmp.Or(s.Show, "available")
				}
				rows[i] = []string{s.JID.String(), ago(s.Since), state, fmt.Sprint(s.Priority)}
			}
			return printTable(cmd.OutOrStdout(), "nobody is logged in", []string{"SESSION", "FOR", "PRESENCE", "PRIORITY"}, rows)
		},
	})
	kick := &cobra.Command{
		Use: "kick JID", Short: "End a session, or all sessions of an account",
		Long: `End a session (user@domain/resource), or all sessions of an account (user@domain). The user may log in
again; to prevent it, disable the account.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := address(args[0])
			if err != nil {
				return err
			}
			var kicked c2s.Kicked
			if err := a.callRunning(cmd, "session.kick", c2s.KickRequest{JID: who}, &kicked); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s ended\n", count(kicked.Ended, "session"))
			return err
		},
	}
	return group("session", "Who is logged in", list, kick)
}
