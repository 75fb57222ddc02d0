package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tombolo/federation"
)

func (a *app) federationCommand() *cobra.Command {
	list := a.reading(&cobra.Command{
		Use: "list", Short: "Print the streams to and from other servers", Args: cobra.NoArgs,
		Long: `Print each stream to and from another server: the pair of domains, the direction, TLS, how the sender of
its stanzas was authenticated, its age, how many bytes wait, what the servers acknowledge, with the number of
stanzas that are not acknowledged yet, and the state. A pair that cannot be reached has the reason.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var streams []federation.StreamInfo
			if err := a.callRunning(cmd, "federation.list", nil, &streams); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(cmd, streams)
			}
			rows := make([][]string, len(streams))
			for i, s := range streams {
				proof := s.Authenticated
				if s.Peer != "" {
					proof = strings.TrimPrefix(proof+", peer by "+s.Peer, ", ")
				}
				state := s.State
				if s.Error != "" {
					state += ": " + s.Error
				}
				acks := s.Acks
				if s.Unacknowledged > 0 {
					acks += fmt.Sprintf(", %d due", s.Unacknowledged)
				}
				rows[i] = []string{s.Local, s.Remote, s.Direction, clear(s), proof, ago(s.Since), fmt.Sprint(s.Queue), acks, state}
			}
			return printTable(cmd.OutOrStdout(), "no streams",
				[]string{"LOCAL", "REMOTE", "WAY", "TLS", "PROVED BY", "AGE", "QUEUE", "ACKS", "STATE"}, rows)
		},
	})
	var from string
	check := a.reading(&cobra.Command{
		Use: "check DOMAIN", Short: "Try to reach another domain and say what happens",
		Long: `Try to reach another domain on the way that stanzas take, and say of each step what was found: the
policy, DNS, the connection, TLS and the certificate, what the peer offers, and authentication. Without a running
server the attempt is made by this command itself; then a peer cannot ask back, as dialback needs.`,
		Example: "  tombolo federation check partner.example",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var report federation.Report
			if err := a.call(cmd, "federation.check", map[string]string{"domain": args[0], "from": from}, &report); err != nil {
				return err
			}
			var err error
			if a.output == "json" {
				err = printJSON(cmd, report)
			} else {
				err = printReport(cmd.OutOrStdout(), &report)
			}
			if err == nil && !report.OK {
				err = fmt.Errorf("%s does not federate with %s", report.Local, report.Domain)
			}
			return err
		},
	})
	check.Flags().StringVar(&from, "from", "", "the `domain` of ours that tries (default: the first one)")
	return group("federation", "Other servers", list, check)
}

func clear(s federation.StreamInfo) string {
	if s.TLS == "" && s.State == "open" {
		return "none"
	}
	return s.TLS
}

func printReport(w io.Writer, r *federation.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "From %s to %s\n", r.Local, r.Domain)
	target := ""
	for _, s := range r.Steps {
		if s.Target != target {
			target = s.Target
			fmt.Fprintf(&b, "%s\n", printable(target))
		}
		mark := "ok    "
		if !s.OK {
			mark = "FAILED"
		}
		fmt.Fprintf(&b, "  %s  %-14s %6d ms  %s\n", mark, s.Name, s.Took/time.Millisecond, printable(s.Detail))
		if s.Advice != "" {
			fmt.Fprintf(&b, "          %s\n", printable(s.Advice))
		}
	}
	for _, s := range r.Streams {
		fmt.Fprintf(&b, "At present: %s, %s", s.Direction, s.State)
		if s.Error != "" {
			fmt.Fprintf(&b, ": %s", printable(s.Error))
		}
		if !s.Since.IsZero() {
			fmt.Fprintf(&b, ", for %s", ago(s.Since))
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
