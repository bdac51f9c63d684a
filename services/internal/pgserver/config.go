package pgserver

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
)

// Config says what server to run. Dir and Password must be given.
type Config struct {
	// Dir is the cluster's directory, made if it is missing or empty. Beside it stands its owner's lock, Dir.lock. Where
	// PostgreSQL cannot run in it, as under /root, Dir becomes a link to /var/lib/tenantry.
	Dir string
	// Port is the TCP port on 127.0.0.1. Default: a free one.
	Port int
	// MaxConnections is the number of connections the server takes. Default: 100.
	MaxConnections int
	// Settings are PostgreSQL's own, by name, as in postgresql.conf; they go before everything here. Default: none.
	Settings map[string]string
	// Fsync makes commits survive a loss of power; without, they survive the death of any process. Default: false.
	Fsync bool
	// Superuser is the name of the administrator's role, which a new cluster gets. Default: postgres.
	Superuser string
	// Password is the superuser's, which a new cluster gets, and an existing one must have.
	Password string
	// Log takes the server's log, line by line or several at once. Default: it is thrown away.
	Log io.Writer
}

// complete checks the configuration and fills in what has a default, but for the port.
func (c Config) complete() (Config, error) {
	var problems []error
	if c.Dir == "" {
		problems = append(problems, errors.New("no Dir: want the cluster's directory"))
	}
	if c.Password == "" {
		problems = append(problems, errors.New("no Password: want the superuser's password"))
	}
	if c.Port < 0 || c.Port > 65535 {
		problems = append(problems, fmt.Errorf("Port: got %d, want 0 to 65535", c.Port))
	}
	if c.MaxConnections < 0 {
		problems = append(problems, fmt.Errorf("MaxConnections: got %d, want at least 0", c.MaxConnections))
	}
	if err := errors.Join(problems...); err != nil {
		return Config{}, err
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 100
	}
	if c.Superuser == "" {
		c.Superuser = "postgres"
	}
	if c.Log == nil {
		c.Log = io.Discard
	}
	c.Settings = maps.Clone(c.Settings)
	return c, nil
}

// arguments are the server's command line: what is given there holds whatever the cluster's own files say, and is gone
// with the next start.
func (c Config) arguments(dir string) []string {
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(c.Port),
		"unix_socket_directories": "", // no path of at most 107 bytes to find, and no way past the password
		"ssl":                     "off",
		"max_connections":         strconv.Itoa(c.MaxConnections),
		"fsync":                   onOff(c.Fsync),
		"logging_collector":       "off",
		"log_destination":         "stderr",
		"log_line_prefix":         "%m [%p] %q%u@%d ",
	}
	maps.Copy(settings, c.Settings)
	args := []string{"-D", dir}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// freePort returns a port that is free now. It lies below those that systems hand out for outgoing connections, so that
// a server can be started again on its port without finding it taken by somebody's client.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 20000 + rand.IntN(12000)
		var l net.Listener
		if l, err = net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil { //nolint:noctx // tries a port of the loopback, at once
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}
