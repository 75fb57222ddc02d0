package bench

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// cut runs a splitter over all that a reader has.
func cut(r io.Reader) (found []string, err error) {
	var s splitter
	for {
		k, el, err := s.next()
		if err != nil {
			return found, err
		}
		if k != nothing {
			found = append(found, string('0'+k)+string(el))
			continue
		}
		if err := s.fill(r); err != nil {
			if err == io.EOF {
				err = nil
			}
			return found, err
		}
	}
}

func TestSplit(t *testing.T) {
	const open = "<stream:stream xmlns='jabber:client' from='a>b'>"
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"header, features and end", "<?xml version='1.0'?>" + open + "<stream:features><a/><b>c</b></stream:features></stream:stream>",
			[]string{"1" + open, "2<stream:features><a/><b>c</b></stream:features>", "3</stream:stream>"}},
		{"white space between stanzas", open + " \n<presence/> <message><body> x </body></message>",
			[]string{"1" + open, "2<presence/>", "2<message><body> x </body></message>"}},
		{"quoted angle brackets", open + `<iq a="/>" b='</iq>'><q c=">"/></iq>`,
			[]string{"1" + open, `2<iq a="/>" b='</iq>'><q c=">"/></iq>`}},
		{"CDATA", open + "<message><body><![CDATA[</body></message>]]></body></message><r/>",
			[]string{"1" + open, "2<message><body><![CDATA[</body></message>]]></body></message>", "2<r/>"}},
		{"same name inside", open + "<message><message/><message></message></message>",
			[]string{"1" + open, "2<message><message/><message></message></message>"}},
		{"a stanza that is larger than the buffer", open + "<m>" + strings.Repeat("x", 3*firstBuffer) + "</m>",
			[]string{"1" + open, "2<m>" + strings.Repeat("x", 3*firstBuffer) + "</m>"}},
		{"half a stanza", open + "<message><body", []string{"1" + open}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"at once": strings.NewReader(c.in), "byte by byte": iotest.OneByteReader(strings.NewReader(c.in)),
				"in halves": iotest.HalfReader(strings.NewReader(c.in)),
			} {
				if got, err := cut(r); err != nil || !slices.Equal(got, c.want) {
					t.Errorf("%s: %q, %v; want %q", how, got, err, c.want)
				}
			}
		})
	}
}

func TestSplitRefuses(t *testing.T) {
	for _, in := range []string{"<!DOCTYPE x>", "<a><!-- x -->", "</a>", "<a/>"} {
		if got, err := cut(strings.NewReader(in)); err == nil {
			t.Errorf("%q is taken for %q", in, got)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("<?xml version='1.0'?><s a='>'><m><b>x</b></m> <r/></s>")
	f.Add("<s><![CDATA[</s>]]></s>")
	f.Fuzz(func(t *testing.T, in string) {
		whole, err := cut(strings.NewReader(in))
		bytewise, byteErr := cut(iotest.OneByteReader(strings.NewReader(in)))
		if !slices.Equal(whole, bytewise) || (err == nil) != (byteErr == nil) {
			t.Errorf("%q at once is %q, %v; byte by byte %q, %v", in, whole, err, bytewise, byteErr)
		}
	})
}

func TestLookInside(t *testing.T) {
	el := []byte(`<iq xml:id='x' id="a'b" from='r@a/b' type='result'><b:bind xmlns:b='urn:x'><jid>r@a/b&amp;c</jid></b:bind><jid/></iq>`)
	for name, want := range map[string]string{"id": "a'b", "from": "r@a/b", "type": "result", "to": "", "typ": ""} {
		if got := attribute(el, name); got != want {
			t.Errorf("attribute %s is %q, want %q", name, got, want)
		}
	}
	if got, ok := text(el, "jid"); !ok || got != "r@a/b&amp;c" {
		t.Errorf("the text of jid is %q, %v", got, ok)
	}
	if _, ok := text(el, "none"); ok {
		t.Error("there is text where there is no element")
	}
	for name, want := range map[string]bool{"bind": true, "iq": true, "jid": true, "bin": false, "binds": false} {
		if _, ok := child(el, name); ok != want {
			t.Errorf("child %s: %v, want %v", name, ok, want)
		}
	}
}
