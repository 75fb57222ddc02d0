//go:build !race

package element

const raceEnabled = false
