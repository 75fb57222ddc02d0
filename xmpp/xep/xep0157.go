package xep

import (
	"tombolo/xmpp/element"
	"tombolo/xmpp/module"
	"tombolo/xmpp/ns"
)

// contactAddresses are published by service discovery, which calls contactForm.
func contactAddresses(*module.Host) (module.Feature, error) {
	return module.Feature{
		Info: module.Info{Spec: "XEP-0157", Name: "Contact Addresses for XMPP Services", Version: "1.1.1", Status: "complete"},
	}, nil
}

// contactRoles are the ones of XEP-0157 section 7.1.
var contactRoles = []string{"abuse", "admin", "feedback", "sales", "security", "status", "support"}

// contactForm is the form of XEP-0157 section 3, for a domain that has contacts.
func contactForm(d module.Domain) element.Element {
	if len(d.Contacts) == 0 {
		return element.Element{}
	}
	w := element.Start("x", ns.Forms).Attr("type", "result")
	w.Open("field", ns.Forms).Attr("var", "FORM_TYPE").Attr("type", "hidden").
		Leaf("value", ns.Forms, ns.ServerInfo).Close()
	for _, role := range contactRoles {
		addresses := d.Contacts[role]
		if len(addresses) == 0 {
			continue
		}
		w.Open("field", ns.Forms).Attr("var", role+"-addresses").Attr("type", "list-multi")
		for _, address := range addresses {
			w.Leaf("value", ns.Forms, address)
		}
		w.Close()
	}
	return w.Element()
}
