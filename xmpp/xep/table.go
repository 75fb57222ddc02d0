// Package xep holds the small extensions of the server, one file each, named after the specification.
// The assembly in package xmpp passes Table to its list of features; Table is the place to start.
//
// To add an extension, write its file, with a function of type module.New (or one that returns it,
// where it has options), and give it a line in Table. What it announces and what the documentation
// says of it follow from the module.Feature that it returns.
package xep

import (
	"errors"

	"tombolo/storage"
	"tombolo/xmpp/hook"
	"tombolo/xmpp/jid"
	"tombolo/xmpp/module"
	"tombolo/xmpp/stanza"
)

// Options are what the extensions need of the configuration and of other features.
type Options struct {
	// Version of the software, told to whom asks (XEP-0092).
	Version string
	// Offline keeps messages for users who are not there.
	Offline *Offline
	// PrivateBytes bounds the private XML of one account, and its vCard; 0: no limit.
	PrivateBytes int
	// Registration is the one whose Early features the client streams offer.
	Registration *Registration
	// MaySeePresence says whether who, a bare JID, is allowed to know whether the user is there;
	// the roster knows. It is called under the user's lock.
	MaySeePresence func(u hook.User, who jid.JID) bool
}

// Table lists the extensions in the order of their hooks. The list goes behind all features that
// have Incoming hooks: offline messages hold what those have let pass.
func Table(o Options) []module.New {
	return []module.New{
		serviceDiscovery(o.MaySeePresence, contactForm),
		contactAddresses,
		lastActivity(o.MaySeePresence),
		privateStorage(o.PrivateBytes),
		vcards(o.PrivateBytes),
		o.Registration.feature,
		softwareVersion(o.Version),
		ping,
		clientAccessManagement,
		entityTime,
		oldSession,
		delayedDelivery,
		hints,
		messageCarbons(o.Offline),
		o.Offline.feature,
	}
}

// storeError turns an error of the store into what its sender may be told.
func storeError(err error) error {
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return stanza.ItemNotFound("")
	case errors.Is(err, storage.ErrFull):
		return stanza.ResourceConstraint("there is no room left for this account")
	case errors.Is(err, storage.ErrNoSpace):
		return stanza.ResourceConstraint("the server has no room left")
	}
	return err
}

// result answers a query whose success has no content.
func result(q *module.Query) func(error) {
	return func(err error) {
		if err != nil {
			q.Fail(storeError(err))
			return
		}
		q.Result()
	}
}
