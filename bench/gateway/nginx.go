package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/tenantry/tenantry/bench/harness"
)

// nginx says where it listens and whom it calls, as host:port, and with which certificate.
type nginx struct {
	upstream, check, authenticated, plain string
	cert, key, ca                         string
	// Dir is for its temporary files; Root says that it runs as root, whose workers would be another user.
	Dir  string
	Root bool
}

// workers is how many processes it answers with: as many as the gateway has processors.
const workers = 2

// nginxConf keeps connections open on both sides, as any busy proxy's does, and has a listening socket per worker, so
// that the few connections of a benchmark spread.
const nginxConf = `worker_processes {{.Workers}};
daemon off;
pid {{.Dir}}/nginx.pid;
error_log stderr warn;
{{if .Root}}user root;{{end}}
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path {{.Dir}}/body; proxy_temp_path {{.Dir}}/proxy; fastcgi_temp_path {{.Dir}}/fastcgi; uwsgi_temp_path {{.Dir}}/uwsgi; scgi_temp_path {{.Dir}}/scgi;
  keepalive_requests 1000000000;
  http2_max_concurrent_streams 1024;
  ssl_certificate {{.Cert}};
  ssl_certificate_key {{.Key}};
  ssl_protocols TLSv1.3;
  grpc_ssl_protocols TLSv1.3;
  grpc_ssl_verify on;
  grpc_ssl_trusted_certificate {{.CA}};
  grpc_ssl_name localhost;
  upstream service { server {{.Upstream}}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 600s; }
  upstream check { server {{.Check}}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 600s; }
  server {
    listen {{.Authenticated}} ssl http2 reuseport;
    location / {
      auth_request /check;
      auth_request_set $company $upstream_http_x_company;
      grpc_set_header x-company $company;
      grpc_pass grpcs://service;
    }
    location = /check {
      internal;
      proxy_pass http://check/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
    }
  }
  server {
    listen {{.Plain}} ssl http2 reuseport;
    location / { grpc_pass grpcs://service; }
  }
}
`

func (n nginx) start(ctx context.Context, r *rig) (*child, error) {
	n.Dir, n.Root = filepath.Join(r.system.Dir, "nginx"), os.Getuid() == 0
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return nil, err
	}
	conf, err := template.New("nginx").Parse(nginxConf)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	if err := conf.Execute(&text, map[string]any{"Workers": workers, "Dir": n.Dir, "Root": n.Root, "Cert": n.cert, "Key": n.key, "CA": n.ca,
		"Upstream": n.upstream, "Check": n.check, "Authenticated": n.authenticated, "Plain": n.plain}); err != nil {
		return nil, err
	}
	path := filepath.Join(n.Dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return nil, err
	}
	program, err := harness.Find("nginx")
	if err != nil {
		return nil, err
	}
	c, err := spawn(r.log("nginx"), program, nil, "-c", path, "-e", "stderr")
	if err != nil {
		return nil, err
	}
	for _, address := range []string{n.authenticated, n.plain} {
		if err := c.await(ctx, listens(address)); err != nil {
			return nil, fmt.Errorf("nginx: %w", err)
		}
	}
	return c, nil
}
