package storage

import (
	"time"

	"tombolo/xmpp/jid"
)

// Messages are what users wrote to each other: in the archives of those who are of this server (XEP-0313),
// waiting for an account (XEP-0160), and waiting for a peer to acknowledge them (XEP-0198).
type Messages interface {
	// Add keeps a message for every purpose that it names, or for none of them. ErrFull when the
	// account of Offline has as many messages waiting as it may have.
	Add(Message) error
}

// A Message is one message with all that is to be kept of it. The stanza is kept once, whoever needs it.
type Message struct {
	At     time.Time
	Stanza string // one <message/> element, from and to in it; without stanza-ids of Archived

	// Archived are the archives that it enters. An id is unique and rises in each archive, though ids
	// of different archives, and of one archive in different messages that are added at about the
	// same time, may be added in another order.
	Archived []Archived

	// Earlier, if its ID is not 0, is where the message is archived already: Archived is empty then, and
	// Stanza is for when it is there no more. Without that it is ErrNotFound.
	Earlier Reference

	// Waiting are the peers that were sent the message, and have not acknowledged it. One that is not
	// kept (any more) is ignored, as it is in Counted.
	Waiting []Waiting

	// Offline, if not zero, is the account for which it waits; OfflineMax how many may (0: no limit).
	Offline    jid.JID
	OfflineMax int

	// Taken, if its Number is not 0, is the offline message that this one was until now. Add removes it.
	Taken Taken

	// Counted, if its Peer is not 0, is how much of what that peer has sent is handled when this
	// message is kept.
	Counted Counted
}

// Archived is a message's place in an archive.
type Archived struct {
	Owner jid.JID
	ID    uint64
	With  jid.JID // the other party, full or bare; never zero
}

// A Reference names a message in an archive.
type Reference struct {
	Owner jid.JID
	ID    uint64
}

// Taken names an offline message.
type Taken struct {
	Owner  jid.JID
	Number uint64
}

// Waiting is a message's place among what a peer was sent.
type Waiting struct {
	Peer   uint64 // of Peers
	Number uint64 // of the stanza, counted from 1 without wrapping
	Form   Form
	Copies uint8 // how many sessions of the account were sent the message itself at once, and have not lost it
}

// Form is how a message is sent.
type Form uint8

// The forms of a message: as it is, or as a copy of one that another session of the account received or
// sent (XEP-0280).
const (
	Plain Form = iota
	CarbonReceived
	CarbonSent
)

// Counted is a count of a peer's stanzas.
type Counted struct {
	Peer  uint64
	Count uint32 // modulo 2^32, as in XEP-0198
}

// After says whether the count is greater than another, modulo 2^32.
func (c Counted) After(other uint32) bool { return int32(c.Count-other) > 0 }

// Archive is what accounts have said and heard, in order of the ids.
type Archive interface {
	// Page returns messages of an archive. ErrNotFound if one of the ids of the query names no message
	// of it.
	Page(owner jid.JID, q ArchiveQuery) (ArchivePage, error)
	// Bounds returns the oldest and the newest message of an archive; ErrNotFound if it is empty.
	Bounds(owner jid.JID) (oldest, newest ArchivedMessage, err error)
	// LastID is the greatest id ever added to any archive.
	LastID() (uint64, error)
	// Purge removes up to limit messages that are older than before from an archive, oldest first, and
	// says how many. The stanza itself goes with the last archive that has it; what waits for
	// somebody is not harmed.
	Purge(owner jid.JID, before time.Time, limit int) (int, error)
	// Stats counts an archive.
	Stats(owner jid.JID) (ArchiveStats, error)
}

// An ArchiveQuery selects messages; its zero value is all of them, oldest first.
type ArchiveQuery struct {
	With       jid.JID   // a bare JID means all of its resources; zero: everybody
	Start, End time.Time // inclusive; zero: open
	// AfterID and BeforeID are the bounds of the selection, exclusive (before-id and after-id of
	// XEP-0313), IDs a list in place of them and of all the above. 0, nil: none.
	AfterID, BeforeID uint64
	IDs               []uint64

	// Of the selection, Page returns the first Max messages behind After, or with Backwards the last
	// Max before Before, oldest first in either case. 0: open.
	After, Before uint64
	Backwards     bool
	Max           int
}

// An ArchivePage is part of a selection.
type ArchivePage struct {
	Messages []ArchivedMessage
	Complete bool // nothing of the selection is beyond the page, in its direction
	// Count is how many messages the selection has and Index the place of the page's first one in it;
	// -1 where that could only be found by looking at all of them. Index is 0 for an empty page.
	Count, Index int
}

// An ArchivedMessage is a message as one archive has it.
type ArchivedMessage struct {
	ID     uint64
	At     time.Time
	With   jid.JID
	Stanza string
}

// ArchiveStats say how large an archive is.
type ArchiveStats struct {
	Messages int
	Oldest   time.Time // zero: there is none
	Newest   time.Time
}

// Peers are those who acknowledge what they were sent (XEP-0198), so that both sides can go on after a
// restart: clients whose sessions can be resumed, and other servers.
type Peers interface {
	// Put keeps a peer, in place of one with that ID, whose count it leaves as it is.
	Put(Peer) error
	// Delete removes a peer with its count and with what waits for it. None is not an error.
	Delete(id uint64) error
	// All returns all peers in order of their IDs, with their counts.
	All() ([]Peer, error)
	// Count keeps how much of what a peer has sent is handled; nothing for one that is not kept. A count
	// does not go back: that of a later stanza may be written before that of an earlier one.
	Count(Counted) error

	// Waiting returns what a peer was sent and has not acknowledged, in order of the numbers.
	Waiting(id uint64) ([]Unacknowledged, error)
	// Acknowledged removes what a peer was sent, up to and including a number.
	Acknowledged(id, through uint64) error
	// Lost removes what a peer was sent under those numbers, and will never acknowledge, and lowers the
	// Copies of others, which are places of the same messages: then what is missing of Copies has been
	// acknowledged. What is not there is skipped.
	Lost(id uint64, numbers []uint64, others []Waiting) error
	// Renumber gives what waits for a peer other numbers: smaller ones, or the same, in the same order.
	// An old number that nothing has is skipped.
	Renumber(id uint64, changes []Renumbered) error
}

// Renumbered is a change of a number.
type Renumbered struct{ Old, New uint64 }

// A Peer is one end of stream management.
type Peer struct {
	ID    uint64 // chosen by the caller, not 0
	Count uint32 // of its stanzas handled
	// Kind and State are the caller's. State is what is needed to go on.
	Kind  PeerKind
	State []byte
}

// PeerKind says who keeps a peer.
type PeerKind uint8

// The kinds of peers: a client, a server that connects to us, a server that we connect to.
const (
	ClientPeer PeerKind = iota + 1
	IncomingPeer
	OutgoingPeer
)

// An Unacknowledged message was sent to a peer. If it is archived for the account that the peer belongs
// to, or that it was sent for, ID is its id there.
type Unacknowledged struct {
	Number   uint64
	Form     Form
	Copies   uint8
	At       time.Time
	Stanza   string
	Archived []Archived // where it is, in all archives that have it
}
