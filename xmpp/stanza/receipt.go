package stanza

// Receipts counts what a peer has sent and is not answered for yet (XEP-0198 section 4: a stanza is
// acknowledged when it is handled). A stanza may be held by several; it counts when all have let go.
// Its methods never wait and may be called under any lock.
type Receipts interface {
	Hold(number uint32)
	Release(number uint32)
	// Peer is the peer as which its count is on disk, 0 if it is not; Kept tells that a count is there.
	Peer() uint64
	Kept(count uint32)
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

// Counted is the place of s among what its peer has sent, and where that is kept. It is not ok where
// the peer does not count; peer is 0 where the count is not on disk.
func (s Stanza) Counted() (peer uint64, number uint32, ok bool) {
	if s.receipts == nil {
		return 0, 0, false
	}
	return s.receipts.Peer(), s.number, true
}

// Kept tells that s and everything that came before it is on disk.
func (s Stanza) Kept() {
	if s.receipts != nil {
		s.receipts.Kept(s.number)
	}
}

// WithCourse returns s with a note of what is to become of it, which goes along with copies of s and not
// with what is made from it. It belongs to package journal.
func (s Stanza) WithCourse(course any) Stanza {
	s.course = course
	return s
}

// Course is the note of WithCourse, or nil.
func (s Stanza) Course() any { return s.course }
