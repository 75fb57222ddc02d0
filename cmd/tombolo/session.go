package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"tombolo/xmpp/jid"
)

type sessionInfo struct {
	JID       jid.JID   `json:"jid"`
	Since     time.Time `json:"since"`
	Available bool      `json:"available"`
	Priority  int       `json:"priority"`
	Show      string    `json:"show"`
	Address   string    `json:"address"`
}

func (a *app) sessionCommand() *cobra.Command {
	list := a.reading(&cobra.Command{
		Use: "list [ACCOUNT]", Short: "Print who is logged in", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var q userRequest
			if len(args) == 1 {
				var err error
				if q.Account, err = account(args[0]); err != nil {
					return err
				}
			}
			var sessions []sessionInfo
			if err := a.callRunning(cmd, "session.list", q, &sessions); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, sessions)
			}
			rows := make([][]string, len(sessions))
			for i, s := range sessions {
				rows[i] = []string{s.JID.String(), ago(s.Since), fmt.Sprint(s.Priority)}
			}
			return printTable(cmd.OutOrStdout(), "nobody is logged in", []string{"SESSION", "FOR", "PRIORITY"}, rows)
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
			return a.callRunning(cmd, "session.kick", map[string]jid.JID{"jid": who}, nil)
		},
	}
	return group("session", "Who is logged in", list, kick)
}
