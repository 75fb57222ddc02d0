//go:build race

package element

const raceEnabled = true
