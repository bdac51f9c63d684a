//go:build !race

package e2e

// raceEnabled tells to build the binary as these tests are built: it finds races, and shares the compiled libraries.
const raceEnabled = false
