#!/usr/bin/env bash
# Makes what deploy/compose.yaml needs, once: certificates, keys, and a password for PostgreSQL, in deploy/local and
# deploy/.env. What is there is kept. In production these come from your own authority and secret store.
set -euo pipefail
cd "$(dirname "$0")"
tenantry=${TENANTRY:-../bin/tenantry}
umask 077
mkdir -p local/certificates local/keys

for service in registry provisioner gateway; do
  "$tenantry" certificate issue "service/$service" --dir local/certificates --host "$service" --host localhost >/dev/null
done
"$tenantry" certificate issue operator/local --dir local/certificates >/dev/null
"$tenantry" certificate issue signup/local --dir local/certificates >/dev/null
[ -e local/keys/access.pem ] || "$tenantry" key new signing local/keys/access.pem >/dev/null
[ -e local/keys/assertion.pem ] || "$tenantry" key new signing local/keys/assertion.pem >/dev/null
[ -e local/keys/master.hex ] || "$tenantry" key new master local/keys/master.hex >/dev/null

if [ ! -e .env ]; then
  password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
  printf 'postgres://postgres:%s@postgres:5432/postgres?sslmode=disable\n' "$password" >local/admin.dsn
  # Containers run as whoever may read the files here; the superuser's are given to the image's own user.
  uid=$(id -u) gid=$(id -g)
  [ "$uid" != 0 ] || { uid=65532 gid=65532; }
  printf 'POSTGRES_PASSWORD=%s\nTENANTRY_UID=%s\nTENANTRY_GID=%s\n' "$password" "$uid" "$gid" >.env
fi
if [ "$(id -u)" = 0 ]; then
  chown -R 65532:65532 local
fi
