#!/usr/bin/env bash
# Installs what Tenantry's tests and `tenantry dev` need beside Go, where it is missing: PostgreSQL's server programs
# (15 or newer) and, for the race detector, a C compiler. Does nothing, quickly, where all is there.
set -euo pipefail

have_postgres() {
  local initdb
  for initdb in "${TENANTRY_PG_BIN:-/nowhere}/initdb" "$(command -v initdb || true)" \
    /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb \
    /opt/homebrew/opt/postgresql@*/bin/initdb /usr/local/opt/postgresql@*/bin/initdb; do
    if [ -x "$initdb" ] && [ "$("$initdb" --version | grep -oE '[0-9]+' | head -1)" -ge 15 ]; then
      return 0
    fi
  done
  return 1
}

have_compiler() { command -v "${CC:-gcc}" >/dev/null || command -v clang >/dev/null; }

have_postgres && have_compiler && exit 0

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

if command -v apt-get >/dev/null; then
  # Debian starts a server of its own after installing one; a private one is started by whoever needs it.
  if ! have_postgres; then
    "${as_root[@]}" mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
      echo "create_main_cluster = false" | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  "${as_root[@]}" apt-get update -qq
  have_postgres || "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null
  have_compiler || "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev >/dev/null
elif command -v dnf >/dev/null; then
  have_postgres || "${as_root[@]}" dnf install -y -q postgresql-server postgresql-contrib
  have_compiler || "${as_root[@]}" dnf install -y -q gcc
elif command -v brew >/dev/null; then
  have_postgres || brew install --quiet postgresql@17
fi

have_postgres || {
  echo "deps: found no PostgreSQL 15 or newer: install its server programs, or say where they are with TENANTRY_PG_BIN" >&2
  exit 1
}
have_compiler || {
  echo "deps: found no C compiler, which Go's race detector needs: install gcc or clang" >&2
  exit 1
}
