package xep

import (
	"strings"
	"testing"

	"tombolo/storage"
)

const (
	cardQuery = "<vCard xmlns='vcard-temp'/>"
	card      = "<vCard xmlns='vcard-temp'><FN>Peter Saint-Andre</FN></vCard>"
)

func TestOwnVCardSections3Point1And3Point2(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("peter@a.test")
	peter := h.bind("peter@a.test/x")
	wantError(t, peter.ask("<iq type='get' id='1'>"+cardQuery+"</iq>"), "cancel item-not-found")
	wantPayload(t, peter.ask("<iq type='set' id='2'>"+card+"</iq>"), "")
	wantPayload(t, peter.ask("<iq type='get' id='3'>"+cardQuery+"</iq>"), card)
	wantPayload(t, peter.ask("<iq type='get' id='4' to='peter@a.test'>"+cardQuery+"</iq>"), card)
	wantPayload(t, peter.ask("<iq type='set' id='5'>"+cardQuery+"</iq>"), "")
	wantError(t, peter.ask("<iq type='get' id='6'>"+cardQuery+"</iq>"), "cancel item-not-found")
}

func TestVCardOfAnotherSection3Point3(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("peter@a.test", "jer@a.test")
	peter := h.bind("peter@a.test/x")
	// No vCard and no account must look the same.
	for _, who := range []string{"jer@a.test", "nobody@a.test"} {
		wantError(t, peter.ask("<iq type='get' id='1' to='"+who+"'>"+cardQuery+"</iq>"), "cancel service-unavailable")
	}
	jer := h.bind("jer@a.test/x")
	wantPayload(t, jer.ask("<iq type='set' id='1'>"+card+"</iq>"), "")
	wantPayload(t, peter.ask("<iq type='get' id='1' to='jer@a.test'>"+cardQuery+"</iq>"), card)
	wantPayload(t, h.ask("<iq type='get' id='1' from='a@far.test/x' to='jer@a.test'>"+cardQuery+"</iq>"), card)
	jer.nothing() // the server answers, the client is not asked
}

func TestVCardIsSetByItsOwnerSection3Point2(t *testing.T) {
	h := newHouse(t, houseOptions{})
	h.accounts("peter@a.test", "jer@a.test")
	peter := h.bind("peter@a.test/x")
	wantError(t, peter.ask("<iq type='set' id='1' to='jer@a.test'>"+card+"</iq>"), "auth forbidden")
	wantError(t, h.ask("<iq type='set' id='1' from='jer@far.test/x' to='jer@a.test'>"+card+"</iq>"), "auth forbidden")
	wantError(t, h.bind("jer@a.test/x").ask("<iq type='get' id='1'>"+cardQuery+"</iq>"), "cancel item-not-found")
}

func TestVCardHasALimit(t *testing.T) {
	h := newHouse(t, houseOptions{Options: Options{PrivateBytes: 100}})
	h.accounts("peter@a.test")
	peter := h.bind("peter@a.test/x")
	wantPayload(t, peter.ask("<iq type='set' id='1'>"+card+"</iq>"), "")
	wantError(t, peter.ask("<iq type='set' id='1'><vCard xmlns='vcard-temp'><DESC>"+strings.Repeat("x", 100)+"</DESC></vCard></iq>"),
		"wait resource-constraint")
	wantPayload(t, peter.ask("<iq type='get' id='1'>"+cardQuery+"</iq>"), card)
	h.faults.FailNext(storage.ErrNoSpace)
	wantError(t, peter.ask("<iq type='set' id='1'>"+cardQuery+"</iq>"), "wait resource-constraint")
}
