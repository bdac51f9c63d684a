package cli

import (
	"os"

	"golang.org/x/term"
)

// app is what every command works with.
type app struct {
	Streams
	// terminal says that a person reads standard output.
	terminal bool
	// json says to print JSON; asked, that the command line says so and not only the lack of a terminal.
	json, asked bool
	settings    *settings
}

func newApp(r root, streams Streams, getenv func(string) string) *app {
	a := &app{Streams: streams, terminal: isTerminal(streams.Out), settings: &settings{getenv: getenv, file: r.Env}}
	a.json = !a.terminal
	if r.JSON != nil {
		a.json, a.asked = *r.JSON, *r.JSON
	}
	return a
}

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
