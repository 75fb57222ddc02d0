package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tombolo/roster"
	"tombolo/xmpp/jid"
)

func (a *app) rosterCommand() *cobra.Command {
	list := a.reading(&cobra.Command{
		Use: "list ACCOUNT", Short: "Print the contacts of an account", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := rosterRequest(args)
			if err != nil {
				return err
			}
			var contacts []roster.Contact
			if err := a.call(cmd, "roster.list", q, &contacts); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, contacts)
			}
			rows := make([][]string, len(contacts))
			for i, c := range contacts {
				state := slices.DeleteFunc([]string{yes(c.Ask, "asked"), yes(c.Requests, "requests"), yes(c.Approved, "approved"),
					yes(!c.Listed, "not listed")}, func(s string) bool { return s == "" })
				rows[i] = []string{c.JID.String(), c.Subscription, strings.Join(state, ", "), c.Name, strings.Join(c.Groups, ", ")}
			}
			return printTable(cmd.OutOrStdout(), "no contacts", []string{"CONTACT", "SUBSCRIPTION", "STATE", "NAME", "GROUPS"}, rows)
		},
	})
	var add roster.Request
	addCommand := &cobra.Command{
		Use: "add ACCOUNT CONTACT", Short: "Put a contact into an account's roster, or change its name and groups",
		Long: `Put a contact into an account's roster, or change its name and groups. The user's clients see it at once.
It is not subscribed: seeing each other's presence takes a request of one side and the consent of the other.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := rosterRequest(args)
			if err != nil {
				return err
			}
			q.Name, q.Groups = add.Name, add.Groups
			return a.call(cmd, "roster.add", q, nil)
		},
	}
	addCommand.Flags().StringVar(&add.Name, "name", "", "the contact's `name` in the list")
	addCommand.Flags().StringArrayVar(&add.Groups, "group", nil, "a `group` to show it in; may be given several times")
	remove := &cobra.Command{
		Use: "remove ACCOUNT CONTACT", Short: "Remove a contact, and the subscriptions both ways",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := rosterRequest(args)
			if err != nil {
				return err
			}
			return a.call(cmd, "roster.remove", q, nil)
		},
	}
	return group("roster", "Contacts of an account", list, addCommand, remove)
}

func rosterRequest(args []string) (q roster.Request, err error) {
	if q.Account, err = account(args[0]); err == nil && len(args) > 1 {
		q.Contact, err = address(args[1])
	}
	return q, err
}

// account reads an argument that names an account.
func account(arg string) (jid.JID, error) {
	j, err := address(arg)
	if err == nil && !j.IsAccount() {
		return jid.JID{}, usagef("%q is not an account; write user@domain", arg)
	}
	return j, err
}

// address reads an argument that is a JID.
func address(arg string) (jid.JID, error) {
	j, err := jid.Parse(arg)
	if err != nil {
		return jid.JID{}, usageError{fmt.Errorf("%q: %w", arg, err)}
	}
	return j, nil
}
