package xmpp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tombolo/storage"
	"tombolo/storage/bolt"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/ns"
)

// BenchmarkArchivePage is a page of 50 from an archive of 100,000 messages, as its owner gets it: query, disk,
// TLS, all results read.
func BenchmarkArchivePage(b *testing.B) {
	const all, contacts = 100_000, 50
	owner := jid.MustParse("juliet@a.test")
	store, err := bolt.Open(filepath.Join(b.TempDir(), "db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	l := newLab(b)
	first, err := l.prepare(b, "127.0.0.1", []string{"a.test"}, unlimited, store)
	if err == nil {
		err = first.addAccount(owner.String(), "secret")
	}
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now().Add(-all * time.Second)
	for first := 1; first <= all; first += 1000 {
		ticket := store.Submit(func(tx storage.Tx) error {
			for id := first; id < first+1000; id++ {
				with := jid.MustParse(fmt.Sprintf("friend%d@a.test/x", id%contacts))
				text := fmt.Sprintf("<message from='%s' to='%s' type='chat' id='%036d'><body>But soft, what light through yonder window breaks? It is the east.</body>"+
					"<request xmlns='urn:xmpp:receipts'/><markable xmlns='urn:xmpp:chat-markers:0'/></message>", with, owner, id)
				err := tx.Messages().Add(storage.Message{At: began.Add(time.Duration(id) * time.Second), Stanza: text,
					Archived: []storage.Archived{{Owner: owner, ID: uint64(id), With: with}}})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if <-ticket.Done(); ticket.Err() != nil {
			b.Fatal(ticket.Err())
		}
	}
	// A server that starts with the archive.
	h, err := l.prepare(b, "127.0.0.1", []string{"a.test"}, unlimited, store)
	if err != nil {
		b.Fatal(err)
	}
	h.run(b)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	juliet, _, err := negotiate(ctx, login{address: h.Addresses()["client"][0], jid: "juliet@a.test/x", password: "secret", roots: l.roots})
	if err != nil {
		b.Fatal(err)
	}
	defer juliet.cut()
	r := bufio.NewReaderSize(juliet.conn, 64<<10)
	page := func(form, set string) (last []byte) {
		if form != "" {
			form = "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>" + ns.MAM + "</value></field>" + form + "</x>"
		}
		if err := juliet.send("<iq type='set' id='q'><query xmlns='" + ns.MAM + "'>" + form + "<set xmlns='" + ns.RSM + "'><max>50</max>" + set + "</set></query></iq>"); err != nil {
			b.Fatal(err)
		}
		for results := 0; ; {
			tag, err := r.ReadSlice('>')
			switch {
			case err != nil:
				b.Fatal(err)
			case bytes.HasSuffix(tag, []byte("</result>")):
				results++
			case bytes.HasSuffix(tag, []byte("</last>")):
				last = bytes.Clone(bytes.TrimSuffix(tag, []byte("</last>")))
			case bytes.HasSuffix(tag, []byte("</iq>")):
				if results != 50 {
					b.Fatalf("%d results", results)
				}
				return last
			}
		}
	}
	middle := fmt.Sprintf("<field var='start'><value>%s</value></field>", began.Add(all/2*time.Second).UTC().Format(time.RFC3339))
	with := "<field var='with'><value>friend7@a.test</value></field>"
	next := fmt.Sprintf("<after>%s</after>", page(middle, ""))
	for _, c := range []struct{ name, form, set string }{
		{"first", "", ""}, {"last", "", "<before/>"}, {"middle", "", next}, {"start", middle, ""}, {"with", with, "<before/>"},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				page(c.form, c.set)
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
