package element

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"tombolo/xmpp/ns"
)

// Between elements and encoding/xml, for what is rare and easier to describe as a Go struct, or made
// by a package of mellium.im/xmpp: forms, disco results.

// Decode stores e in v as [xml.Unmarshal] does; the content namespace is there "jabber:client".
func (e Element) Decode(v any) error {
	if err := xml.Unmarshal(e.AppendTo(nil, ""), v); err != nil {
		return fmt.Errorf("element: decode %s: %w", e.Name(), err)
	}
	return nil
}

// Encode makes an element of v as [xml.Marshal] does; an element without namespace there is in the
// content namespace here.
func Encode(v any) (Element, error) {
	raw, err := xml.Marshal(v)
	if err != nil {
		return Element{}, fmt.Errorf("element: encode %T: %w", v, err)
	}
	return ParseOne(string(raw), ns.Client)
}

// FromTokens makes an element of a token stream, such as the TokenReader methods of mellium's
// packages give. A start element without namespace is in that of its parent.
func FromTokens(r xml.TokenReader) (Element, error) {
	var raw strings.Builder
	enc := xml.NewEncoder(&raw)
	for {
		tok, err := r.Token()
		if start, ok := tok.(xml.StartElement); ok {
			tok = withoutDeclarations(start)
		}
		if tok != nil {
			if err := enc.EncodeToken(tok); err != nil {
				return Element{}, fmt.Errorf("element: encode tokens: %w", err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Element{}, fmt.Errorf("element: read tokens: %w", err)
		}
	}
	if err := enc.Close(); err != nil {
		return Element{}, fmt.Errorf("element: encode tokens: %w", err)
	}
	return ParseOne(raw.String(), ns.Client)
}

// withoutDeclarations drops the namespace declarations that a decoder reports as attributes and the
// encoder writes of its own accord.
func withoutDeclarations(start xml.StartElement) xml.StartElement {
	start.Attr = slices.DeleteFunc(slices.Clone(start.Attr), func(a xml.Attr) bool {
		return a.Name.Space == "xmlns" || start.Name.Space != "" && a.Name == xml.Name{Local: "xmlns"}
	})
	return start
}
