package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tombolo/xmpp/xep"
)

func (a *app) clientCommand() *cobra.Command {
	list := a.reading(&cobra.Command{
		Use: "list ACCOUNT", Short: "Print the clients that may log in to an account",
		Long: `Print the clients that may log in to an account: those that know its password, and those that have a
token. A client that did not say who it is shows as long as it is logged in.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := account(args[0])
			if err != nil {
				return err
			}
			var clients []xep.ClientInfo
			if err := a.call(cmd, "client.list", xep.ClientRequest{Account: who}, &clients); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, clients)
			}
			rows := make([][]string, len(clients))
			for i, c := range clients {
				by := slices.DeleteFunc([]string{yes(c.Password, "password"), yes(c.Token, "token")}, func(s string) bool { return s == "" })
				rows[i] = []string{c.ID, ago(c.LastSeen), strings.Join(by, ", "), yes(c.Connected, "connected"), c.Software, c.Device, c.Address}
			}
			return printTable(cmd.OutOrStdout(), "no clients", []string{"CLIENT", "SEEN", "LOGIN BY", "STATE", "SOFTWARE", "DEVICE", "ADDRESS"}, rows)
		},
	})
	revoke := &cobra.Command{
		Use: "revoke ACCOUNT CLIENT", Short: "End the token and the sessions of a client",
		Long: `End the token and the sessions of a client, as named by tombolo client list. One that knows the password
can come back until that is changed, and the command says so.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := account(args[0])
			if err != nil {
				return err
			}
			var revoked xep.Revoked
			if err := a.call(cmd, "client.revoke", xep.ClientRequest{Account: who, ID: args[1]}, &revoked); err != nil || !revoked.Password {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "The client knows the password; to keep it out: tombolo user passwd %s\n", who)
			return err
		},
	}
	return group("client", "Clients that may log in to an account", list, revoke)
}
