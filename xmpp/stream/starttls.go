package stream

import (
	"context"
	"crypto/tls"
	"errors"

	"tombolo/xmpp/element"
	"tombolo/xmpp/ns"
	"tombolo/xmpp/stanza"
)

// StartTLS is the feature of RFC 6120 section 5, for either side. config is asked for each stream;
// required tells the peer that there is no way without, and makes an initiator give up where the
// feature is not offered: a stream never goes on in clear because somebody took it out.
func StartTLS(config func(*Stream) *tls.Config, required func(*Stream) bool) Feature {
	return Feature{
		Name:    "STARTTLS",
		Refuses: Secure,
		Claims:  func(e element.Element) bool { return e.NS() == ns.StartTLS },
		Offer: func(s *Stream) []element.Element {
			w := element.Start("starttls", ns.StartTLS)
			if required(s) {
				w.Leaf("required", ns.StartTLS, "")
			}
			return []element.Element{w.Element()}
		},
		Use: func(s *Stream, offered element.Element) (bool, error) {
			if offered.Child("starttls", ns.StartTLS).IsZero() {
				if required(s) {
					return false, errors.New("the peer does not offer STARTTLS")
				}
				return false, nil
			}
			s.Send(element.Leaf("starttls", ns.StartTLS, ""))
			return true, nil
		},
		Handle: func(s *Stream, e element.Element) (Outcome, error) {
			switch {
			case s.role.Initiates && e.Name() == "proceed":
			case s.role.Initiates:
				return Outcome{}, errors.New("the peer refused STARTTLS")
			case e.Name() == "starttls":
				s.Send(element.Leaf("proceed", ns.StartTLS, ""))
			default:
				return Outcome{}, &stanza.StreamError{Condition: stanza.StreamUnsupportedStanzaType}
			}
			s.upgrade = func(ctx context.Context) error { return s.Secure(ctx, config(s)) }
			return Outcome{}, nil
		},
	}
}
