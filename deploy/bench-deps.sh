#!/usr/bin/env bash
# Installs what `make bench-gateway` compares with, where it is missing: nginx and PgBouncer. Benchmarks run their own, on
# free ports; no service is left running.
set -euo pipefail

missing=()
for program in nginx pgbouncer; do
  command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || missing+=("$program")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

if command -v apt-get >/dev/null; then
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  # Debian starts services that it installs.
  for service in "${missing[@]}"; do
    if [ -d /run/systemd/system ]; then "${as_root[@]}" systemctl disable --quiet --now "$service" || true; fi
  done
elif command -v dnf >/dev/null; then
  "${as_root[@]}" dnf install -y -q "${missing[@]}"
elif command -v brew >/dev/null; then
  brew install --quiet "${missing[@]}"
else
  echo "bench-deps: install ${missing[*]} with this system's package manager" >&2
  exit 1
fi
