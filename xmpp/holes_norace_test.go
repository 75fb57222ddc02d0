//go:build !race

package xmpp_test

const underRace = false
