package stanza

// Receipts counts what a peer has sent and is not answered for yet (XEP-0198 section 4: a stanza is
// acknowledged when it is handled). A stanza may be held by several; it counts when all have let go.
// Its methods never wait and may be called under any lock.
type Receipts interface {
	Hold(number uint32)
	Release(number uint32)
}

// WithReceipt returns s as the one of that number in r. The number goes along with copies of s, and
// not with what is made from it: answers and errors are stanzas of their own.
func (s Stanza) WithReceipt(r Receipts, number uint32) Stanza {
	s.receipts, s.number = r, number
	return s
}

// Hold keeps s from being acknowledged to who sent it, until as many calls of Release.
func (s Stanza) Hold() {
	if s.receipts != nil {
		s.receipts.Hold(s.number)
	}
}

// Release undoes a Hold.
func (s Stanza) Release() {
	if s.receipts != nil {
		s.receipts.Release(s.number)
	}
}
