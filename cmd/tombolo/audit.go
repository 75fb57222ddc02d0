package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tombolo/cmd/tombolo/internal/settings"
	"tombolo/xmpp"
	"tombolo/xmpp/audit"
	"tombolo/xmpp/jid"
)

// The commands of this file read the files of the audit log and ask no server: what is audited does
// not answer for itself.
func (a *app) auditCommand() *cobra.Command {
	cmd := group("audit", "The record of logins, of changes of accounts and of what operators did",
		a.auditShow(), a.auditVerify(), a.auditExport())
	cmd.Long = `Read the audit log: who logged in, how and from where, who failed to, what became of accounts, which domains
were refused, and what operators did. These commands read the log itself, whether a server runs or not, and
need to be able to read it and its key. docs/audit.md says what the log shows and what it cannot show.`
	return cmd
}

// auditFilter is what --since, --account and --event ask for.
type auditFilter struct {
	since   string
	account string
	kinds   []string
}

func (f *auditFilter) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.since, "since", "", "only what is newer: a `time` such as 2026-01-31, \"2026-01-31 15:04\", or 36h or 7d ago")
	cmd.Flags().StringVar(&f.account, "account", "", "only what concerns this `account`, or was done by it")
	cmd.Flags().StringSliceVar(&f.kinds, "event", nil, "only `events` of these kinds")
	_ = cmd.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(kindNames(), cobra.ShellCompDirectiveNoFileComp))
}

func kindNames() (names []string) {
	for _, kind := range audit.Kinds() {
		names = append(names, string(kind))
	}
	return names
}

// compile reads the flags.
func (f *auditFilter) compile(now time.Time) (func(audit.Record) bool, error) {
	since, err := parseTime("--since", f.since, now)
	if err != nil {
		return nil, err
	}
	who := ""
	if f.account != "" {
		j, err := jid.Parse(f.account)
		if err != nil {
			return nil, usageError{fmt.Errorf("--account %q: %w", f.account, err)}
		}
		who = j.Bare().String()
	}
	for _, kind := range f.kinds {
		if !slices.Contains(kindNames(), kind) {
			return nil, usagef("there is no event %q; there are %s", kind, strings.Join(kindNames(), ", "))
		}
	}
	return func(r audit.Record) bool {
		by, _, _ := strings.Cut(r.By, "/")
		return !r.Time.Before(since) && (who == "" || r.Account == who || by == who) &&
			(len(f.kinds) == 0 || slices.Contains(f.kinds, string(r.Kind)))
	}, nil
}

// parseTime reads the value of a flag that is a point in time, or how long ago it was; zero for "".
func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	var ago xmpp.Duration
	if ago.UnmarshalText([]byte(text)) == nil {
		return now.Add(-time.Duration(ago)), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("%s %q is neither a time, such as 2026-01-31, nor how long ago, such as 36h or 7d", flag, text)
}

func (a *app) auditShow() *cobra.Command {
	var filter auditFilter
	cmd := a.reading(&cobra.Command{
		Use: "show", Short: "Print records", Args: cobra.NoArgs,
		Long: `Print records, the oldest first. A record that is not genuine has an exclamation mark, in JSON "genuine": false.
When something is wrong with the log as a whole a line on standard error says so; tombolo audit verify says what.`,
		Example: "  tombolo audit show --since 7d --event login-failed\n  tombolo audit show --account juliet@example.org --output json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted, err := filter.compile(time.Now())
			if err != nil {
				return err
			}
			type shown struct {
				audit.Record
				Genuine bool `json:"genuine"`
			}
			var records []shown
			report, err := a.readAudit(cmd, audit.Options{}, audit.Query{Each: func(r audit.Record, _ []byte, genuine bool) error {
				if wanted(r) {
					records = append(records, shown{r, genuine})
				}
				return nil
			}})
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = printJSON(cmd, records)
			} else {
				rows := make([][]string, len(records))
				for i, r := range records {
					rows[i] = []string{yes(!r.Genuine, "!") + fmt.Sprint(r.Seq), r.Time.Local().Format(time.DateTime),
						string(r.Kind), r.Account, r.By, r.Remote, details(r.Detail)}
				}
				err = printTable(cmd.OutOrStdout(), "no records", []string{"NUMBER", "TIME", "EVENT", "ACCOUNT", "BY", "FROM", "DETAILS"}, rows)
			}
			if len(report.Problems) > 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "tombolo: this log is not as the server wrote it; see tombolo audit verify")
			}
			return err
		},
	})
	filter.flags(cmd)
	return cmd
}

func details(m map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, name+"="+m[name])
	}
	return strings.Join(parts, " ")
}

func (a *app) auditVerify() *cobra.Command {
	var key string
	var anchors []string
	cmd := a.reading(&cobra.Command{
		Use: "verify [FILE]", Short: "Check that the log is what the server wrote",
		Long: `Check that the log is what the server wrote: that no record was changed, removed, inserted or moved, and that
none is missing at either end. Exits with 1 when something is wrong. FILE is one file by itself, such as an
export, whose end cannot be checked.

The last line of the answer is the place of the last record. Kept where the server cannot reach it, it shows
later, with --anchor, that the log was not put back to an older state.`,
		Args:    cobra.MaximumNArgs(1),
		Example: "  tombolo audit verify\n  tombolo audit verify export.jsonl --key /safe/audit.key",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, q := audit.Options{Key: key}, audit.Query{Anchors: anchors}
			if len(args) > 0 {
				o.File, q.Alone = args[0], true
			}
			report, err := a.readAudit(cmd, o, q)
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = printJSON(cmd, report)
			} else {
				err = printAudit(cmd.OutOrStdout(), report)
			}
			return errors.Join(err, problems(report))
		},
	})
	cmd.Flags().StringVar(&key, "key", "", "the key's `file` (default that of the configuration)")
	cmd.Flags().StringArrayVar(&anchors, "anchor", nil, "a `NUMBER:MAC` noted down earlier, that must still be in the log")
	return cmd
}

// problems is the error of a log with something wrong.
func problems(report audit.Report) error {
	if n := len(report.Problems); n > 0 {
		return fmt.Errorf("the audit log is not as the server wrote it (%s)", count(n, "finding"))
	}
	return nil
}

func printAudit(w io.Writer, report audit.Report) error {
	for _, f := range report.Problems {
		fmt.Fprintf(w, "wrong: %s\n", printable(f.String()))
	}
	for _, f := range report.Notes {
		fmt.Fprintf(w, "note: %s\n", printable(f.String()))
	}
	if report.Records == 0 {
		_, err := fmt.Fprintln(w, "no records")
		return err
	}
	fmt.Fprintf(w, "%s in %s, from %s to %s\n", count(report.Records, "record"), count(report.Files, "file"),
		report.From.Local().Format(time.DateTime), report.To.Local().Format(time.DateTime))
	_, err := fmt.Fprintf(w, "anchor: %s\n", report.Anchor)
	return err
}

func (a *app) auditExport() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "export FILE", Short: "Copy all records into one file",
		Long: `Copy all records into one file, the oldest first, as JSON lines just as they are in the log; - is standard output.
Whoever has the key can check the copy with tombolo audit verify FILE. When something is wrong with the log
everything is copied nevertheless, and the command exits with 1.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" {
				report, err := a.export(cmd, cmd.OutOrStdout())
				return errors.Join(err, problems(report))
			}
			report, err := a.exportFile(cmd, args[0], force)
			if err != nil {
				return fmt.Errorf("export: %w", err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], count(report.Records, "record"))
			return errors.Join(err, problems(report))
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE if it exists; never a file of the server's own")
	return cmd
}

func (a *app) exportFile(cmd *cobra.Command, target string, force bool) (report audit.Report, err error) {
	path, err := a.configPath()
	if err != nil {
		return report, err
	}
	file, _, err := settings.Load(path) // export says what is wrong with it
	if file == nil {
		return report, err
	}
	if err := mayBecome(target, file, force); err != nil {
		return report, err
	}
	f, err := os.CreateTemp(filepath.Dir(target), filepath.Base(target)+".*") // mode 0600
	if err != nil {
		return report, err
	}
	defer func() {
		_ = f.Close() // a second time where all went well
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if report, err = a.export(cmd, f); err != nil {
		return report, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return report, err
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return report, err
	}
	return report, syncDir(filepath.Dir(target))
}

func (a *app) export(cmd *cobra.Command, w io.Writer) (audit.Report, error) {
	out := bufio.NewWriter(w)
	report, err := a.readAudit(cmd, audit.Options{}, audit.Query{Each: func(_ audit.Record, line []byte, _ bool) error {
		_, _ = out.Write(line) // Flush has its error
		return out.WriteByte('\n')
	}})
	return report, errors.Join(err, out.Flush())
}

// readAudit reads the log of the configuration, or as much of it as o does not name itself.
func (a *app) readAudit(cmd *cobra.Command, o audit.Options, q audit.Query) (audit.Report, error) {
	if o.File == "" || o.Key == "" {
		file, err := a.load(cmd)
		if file == nil {
			return audit.Report{}, err
		}
		configured := file.AuditLog()
		if o.File == "" {
			o.File = configured.File
		}
		if o.Key == "" {
			o.Key = configured.Key
		}
	}
	return audit.Read(o, q)
}
