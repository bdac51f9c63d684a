package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// password returns a secret that must not be on the command line: from TENANTRY_PASSWORD, from a prompt on a terminal,
// else from the first line of standard input.
func (a *app) password(prompt string) (string, error) {
	if secret := a.settings.getenv(passwordVariable); secret != "" {
		return secret, nil
	}
	if isTerminal(a.In) {
		return a.prompt(prompt)
	}
	return a.passwordLine()
}

// passwordLine is the first line of standard input.
func (a *app) passwordLine() (string, error) {
	line, err := bufio.NewReader(a.In).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// prompt asks on the terminal, where what is typed is not shown.
func (a *app) prompt(text string) (string, error) {
	terminal, ok := a.In.(*os.File)
	if !ok {
		return "", errors.New("read the password: standard input is no terminal")
	}
	_, _ = fmt.Fprint(a.Err, text)
	secret, err := term.ReadPassword(int(terminal.Fd()))
	_, _ = fmt.Fprintln(a.Err)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(secret), nil
}
