//go:build race

package xmpp_test

// underRace says that memory is not what it is otherwise; what is held against a number of bytes is
// held against it in another pass.
const underRace = true
