package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tombolo/xmpp/c2s"
	"tombolo/xmpp/jid"
)

func (a *app) userCommand() *cobra.Command {
	return group("user", "Accounts", a.userAdd(), a.userList(), a.userShow(), a.userPasswd(),
		a.userVerb("disable ACCOUNT", "Keep an account from logging in, and end its sessions", "user.disable"),
		a.userVerb("enable ACCOUNT", "Let a disabled account log in again", "user.enable"),
		a.userDelete())
}

func (a *app) userAdd() *cobra.Command {
	p := new(passwordSource)
	return p.flag(&cobra.Command{
		Use: "add ACCOUNT", Short: "Make an account", Args: cobra.ExactArgs(1),
		Example: "  tombolo user add juliet@example.org",
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := account(args[0])
			if err != nil {
				return err
			}
			password, err := p.read(cmd, who)
			if err != nil {
				return err
			}
			return a.call(cmd, "user.add", c2s.UserRequest{Account: who, Password: password}, nil)
		},
	})
}

func (a *app) userPasswd() *cobra.Command {
	p := new(passwordSource)
	keep := false
	cmd := p.flag(&cobra.Command{
		Use: "passwd ACCOUNT", Short: "Change a password, and end the account's sessions", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := account(args[0])
			if err != nil {
				return err
			}
			password, err := p.read(cmd, who)
			if err != nil {
				return err
			}
			return a.call(cmd, "user.passwd", c2s.UserRequest{Account: who, Password: password, Keep: keep}, nil)
		},
	})
	cmd.Flags().BoolVar(&keep, "keep-sessions", false, "leave the sessions that are logged in")
	return cmd
}

func (a *app) userList() *cobra.Command {
	domain := ""
	cmd := a.reading(&cobra.Command{
		Use: "list", Short: "Print the accounts", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var users []c2s.UserInfo
			if err := a.call(cmd, "user.list", c2s.UserRequest{Domain: domain}, &users); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, users)
			}
			rows := make([][]string, len(users))
			for i, u := range users {
				rows[i] = []string{u.Account.String(), u.Created.Local().Format(time.DateTime), fmt.Sprint(u.Sessions), yes(u.Disabled, "disabled")}
			}
			return printTable(cmd.OutOrStdout(), "no accounts", []string{"ACCOUNT", "CREATED", "SESSIONS", "STATE"}, rows)
		},
	})
	cmd.Flags().StringVar(&domain, "domain", "", "only the accounts of this `domain`")
	return cmd
}

func (a *app) userShow() *cobra.Command {
	return a.reading(&cobra.Command{
		Use: "show ACCOUNT", Short: "Print what is known of an account", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := account(args[0])
			if err != nil {
				return err
			}
			var u c2s.UserInfo
			if err := a.call(cmd, "user.show", c2s.UserRequest{Account: who}, &u); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, u)
			}
			state := "enabled"
			if u.Disabled {
				state = "disabled"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "account   %s\nstate     %s\ncreated   %s\nlogin by  %s\nsessions  %d\n",
				u.Account, state, u.Created.Local().Format(time.DateTime), strings.Join(u.Mechanisms, ", "), u.Sessions)
			return err
		},
	})
}

func (a *app) userDelete() *cobra.Command {
	sure := false
	cmd := a.userVerb("delete ACCOUNT", "Delete an account with all that is kept for it, and end its sessions", "user.delete")
	cmd.Long = `Delete an account with all that is kept for it: roster, waiting messages, private data. Its sessions end and its
contacts are told before the command returns. There is no way back but a backup.`
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !sure {
			if err := confirm(cmd, "", args[0], "deleted"); err != nil {
				return err
			}
		}
		return run(cmd, args)
	}
	cmd.Flags().BoolVar(&sure, "yes", false, "do not ask")
	return cmd
}

// confirm lets whoever gives a command that cannot be undone type the account's name.
func confirm(cmd *cobra.Command, what, account, done string) error {
	if what != "" {
		what += " "
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return usagef("%s%s would be %s for good; say --yes", what, account, done)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s%s will be %s for good. Type the account's name to go on: ", what, account, done)
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != account {
		return fmt.Errorf("nothing was %s", done)
	}
	return nil
}

// userVerb makes a command of a verb whose only argument is an account.
func (a *app) userVerb(use, short, verb string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := account(args[0])
			if err != nil {
				return err
			}
			return a.call(cmd, verb, c2s.UserRequest{Account: who}, nil)
		},
	}
}

// A passwordSource is where a command gets a password: a prompt, or standard input; never an
// argument, which every user of the machine could see.
type passwordSource struct{ stdin bool }

func (p *passwordSource) flag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&p.stdin, "password-stdin", false, "read the password from the first line of standard input")
	return cmd
}

func (p *passwordSource) read(cmd *cobra.Command, who jid.JID) (string, error) {
	if p.stdin {
		// One line more than a password may be, so that a file given by mistake is noticed.
		line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		password := strings.TrimRight(line, "\r\n")
		if password == "" {
			return "", errors.New("there is no password on standard input")
		}
		return password, nil
	}
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return "", usagef("there is no terminal to ask for a password; use --password-stdin")
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(cmd.ErrOrStderr(), prompt)
		password, err := term.ReadPassword(in)
		fmt.Fprintln(cmd.ErrOrStderr())
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return string(password), nil
	}
	first, err := ask(fmt.Sprintf("Password for %s: ", who))
	if err != nil {
		return "", err
	}
	second, err := ask("Once more: ")
	if err != nil {
		return "", err
	}
	switch {
	case first != second:
		return "", errors.New("the two passwords differ")
	case first == "":
		return "", errors.New("an empty password is not possible")
	}
	return first, nil
}
