package cluster

import (
	"fmt"
	"net"
	"net/url"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// uri writes a configuration as a URI, for programs that take nothing else. Certificates are the environment's business
// (PGSSLROOTCERT and the like), as with any program on libpq.
func uri(cfg *pgx.ConnConfig, database string) (string, error) {
	mode := "disable"
	switch {
	case cfg.TLSConfig != nil && !cfg.TLSConfig.InsecureSkipVerify:
		mode = "verify-full"
	case cfg.TLSConfig != nil:
		mode = "require"
	}
	query := url.Values{"sslmode": {mode}}
	u := &url.URL{Scheme: "postgres", User: url.UserPassword(cfg.User, cfg.Password), Path: "/" + database}
	if len(cfg.Host) == 0 {
		return "", fmt.Errorf("the administrator's connection string names no host")
	}
	if cfg.Host[0] == '/' {
		query.Set("host", cfg.Host)
		query.Set("port", strconv.Itoa(int(cfg.Port)))
	} else {
		u.Host = net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}
