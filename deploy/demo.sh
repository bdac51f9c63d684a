#!/usr/bin/env bash
# The demo: two companies sign up, log in, write and read through the gateway; neither sees the other; one is migrated,
# then all. Every claim that it prints is checked, and the script fails where one does not hold.
#
#   deploy/demo.sh        run it; leaves the system running to play with, unless CI or DEMO_STOP is set
#   deploy/demo.sh stop   stop what it left running, and delete its data
#
# It needs bin/tenantry, bin/atlas and bin/grpcurl; `make demo` builds them first.
set -euo pipefail
cd "$(dirname "$0")/.."

work="$PWD/.tenantry/demo"
data="$work/data"
migrations="$work/migrations"
log="$work/dev.log"
tenantry="$PWD/bin/tenantry"
grpcurl="$PWD/bin/grpcurl"

# --- the system ------------------------------------------------------------------------------------------------------

# pid is the process that holds the data directory; the lock file tells, and only a live `tenantry dev` counts.
pid() {
  local id
  id=$(cat "$data/dev.lock" 2>/dev/null) || return 1
  ps -ww -o command= -p "$id" 2>/dev/null | grep -qF -- "--data $data" && echo "$id"
}

stop() {
  local id
  if id=$(pid); then
    kill -TERM "$id"
    for _ in $(seq 300); do
      pid >/dev/null || break
      sleep 0.1
    done
    ! pid >/dev/null || fail "the system does not stop; its log is $log"
  fi
  rm -rf "$work"
}

start() {
  stop
  mkdir -p "$work"
  cp -R services/provisioner/migrations/core services/provisioner/migrations/plugins services/provisioner/migrations/seed.sql "$work/" 2>/dev/null ||
    fail "the migration sets are not where they should be"
  mkdir "$migrations"
  mv "$work/core" "$work/plugins" "$work/seed.sql" "$migrations/"
  # --temporary: what stops it deletes its data, too.
  nohup "$tenantry" dev --data "$data" --temporary --ephemeral-ports --migrations "$migrations" </dev/null >"$log" 2>&1 &
  local started=$!
  for _ in $(seq 600); do
    [ ! -f "$data/dev.env" ] || return 0
    kill -0 "$started" 2>/dev/null || { cat "$log"; fail "the system did not start"; }
    sleep 0.1
  done
  cat "$log"
  fail "the system did not start within a minute"
}

# --- telling and checking --------------------------------------------------------------------------------------------

fail() { printf '\nThe demo failed: %s\n' "$*" >&2; exit 1; }
step() { printf '\n== %s\n' "$*"; }
say()  { printf '   %s\n' "$*"; }

# must_be WHAT GOT WANT
must_be() {
  [ "$2" = "$3" ] || fail "$1: got '$2', want '$3'"
  say "$1: $2"
}

# field NAME reads one string or number out of JSON.
field() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\)\"\{0,1\}.*/\1/p" | head -n 1; }

# --- callers ---------------------------------------------------------------------------------------------------------

as_signup()   { "$grpcurl" -cacert "$TENANTRY_CA" -cert "$TENANTRY_SIGNUP_CERT" -key "$TENANTRY_SIGNUP_KEY" "$@"; }
as_operator() { "$grpcurl" -cacert "$TENANTRY_CA" -cert "$TENANTRY_OPERATOR_CERT" -key "$TENANTRY_OPERATOR_KEY" "$@"; }
as_user()     { local token=$1; shift; "$grpcurl" -cacert "$TENANTRY_CA" -H "authorization: Bearer $token" "$@"; }

sign_up() { # NAME OWNER EMAIL
  as_signup -d "{\"request_id\": \"demo-$3\", \"company\": {\"name\": \"$1\", \"country_code\": \"TZ\"}, \"usage_type\": \"mini-grid\",
    \"owner\": {\"name\": \"$2\", \"email\": \"$3\", \"password\": \"$password\"}, \"plugins\": [\"spark-meter\"]}" \
    "$TENANTRY_PROVISIONER" tenantry.provisioner.v1.ProvisionerService/CreateTenant
}

log_in() { # EMAIL
  "$grpcurl" -cacert "$TENANTRY_CA" -d "{\"email\": \"$1\", \"password\": \"$password\"}" \
    "$TENANTRY_GATEWAY" tenantry.registry.v1.SessionService/Login | field accessToken
}

add_customer() { # TOKEN NAME SURNAME
  as_user "$1" -d "{\"sql\": \"INSERT INTO people (name, surname) VALUES (\$1, \$2)\", \"params\": [{\"text\": \"$2\"}, {\"text\": \"$3\"}]}" \
    "$TENANTRY_GATEWAY" tenantry.gateway.v1.SqlService/Execute | field commandTag
}

customers() { # TOKEN
  as_user "$1" -d '{"sql": "SELECT string_agg(name || '"' '"' || surname, '"' and '"' ORDER BY id) AS customers FROM people"}' \
    "$TENANTRY_GATEWAY" tenantry.gateway.v1.SqlService/Query | field text
}

schema() { # COMPANY
  as_operator -d "{\"company\": \"$1\"}" "$TENANTRY_PROVISIONER" tenantry.provisioner.v1.ProvisionerService/GetTenantStatus | field schemaVersion
}

# --- the demo --------------------------------------------------------------------------------------------------------

demo() {
  password="correct horse battery staple"

  step "A system of its own starts: PostgreSQL, registry, provisioner, gateway"
  start
  set -a; . "$data/dev.env"; set +a
  say "$(grep -m 1 'is ready' "$log")"

  step "Two companies sign up; each gets a database of its own"
  must_be "Sun Valley is" "$(sign_up "Sun Valley" "Ada" ada@sunvalley.example | field slug)" sun-valley
  must_be "Green Grid is" "$(sign_up "Green Grid" "Grace" grace@greengrid.example | field slug)" green-grid
  must_be "the same signup again is" "$(sign_up "Sun Valley" "Ada" ada@sunvalley.example | field slug)" sun-valley
  must_be "companies in all" "$("$tenantry" company list --json | grep -c '"slug"')" 2

  step "Their owners log in, and write through the gateway"
  ada=$(log_in ada@sunvalley.example)
  grace=$(log_in grace@greengrid.example)
  must_be "Ada adds a customer" "$(add_customer "$ada" Neema Mushi)" "INSERT 0 1"
  must_be "and another" "$(add_customer "$ada" Juma Said)" "INSERT 0 1"
  must_be "Grace adds a customer" "$(add_customer "$grace" Amina Yusuf)" "INSERT 0 1"

  step "Each sees its own rows and not the other's"
  must_be "Ada's customers" "$(customers "$ada")" "Neema Mushi and Juma Said"
  must_be "Grace's customers" "$(customers "$grace")" "Amina Yusuf"
  answer=$(as_user "$ada" -d '{"company": "green-grid", "sql": "SELECT name FROM people"}' \
    "$TENANTRY_GATEWAY" tenantry.gateway.v1.SqlService/Query 2>&1) && fail "Ada reads Green Grid's rows: $answer"
  must_be "Ada asks for Green Grid's rows" "$(grep -o TENANT_MISMATCH <<<"$answer" | head -n 1)" TENANT_MISMATCH
  answer=$("$tenantry" sql sun-valley "CREATE TABLE mine ()" 2>&1) && fail "a tenant makes a table: $answer"
  must_be "DDL through the gateway: SQLSTATE" "$(grep -o 42501 <<<"$answer" | head -n 1)" 42501

  step "A new migration is written, and applied to Sun Valley alone"
  before=$(schema green-grid)
  file=$("$tenantry" migration new core add_nicknames --migrations "$migrations" --no-json)
  echo "ALTER TABLE people ADD COLUMN nickname text;" >>"$file"
  "$tenantry" migration hash core --migrations "$migrations" >/dev/null
  as_operator -d '{"company": "sun-valley"}' "$TENANTRY_PROVISIONER" tenantry.provisioner.v1.ProvisionerService/MigrateTenant >/dev/null
  after=$(schema sun-valley)
  must_be "Sun Valley's schema" "$after" "$(basename "$file" | cut -d_ -f1)"
  must_be "Green Grid's schema" "$(schema green-grid)" "$before"
  must_be "Ada uses the new column" "$(as_user "$ada" -d '{"sql": "UPDATE people SET nickname = lower(name)"}' \
    "$TENANTRY_GATEWAY" tenantry.gateway.v1.SqlService/Execute | field rowsAffected)" 2
  as_user "$grace" -d '{"sql": "UPDATE people SET nickname = lower(name)"}' \
    "$TENANTRY_GATEWAY" tenantry.gateway.v1.SqlService/Execute >/dev/null 2>&1 && fail "Green Grid has the column already"

  step "Then it is rolled out to everyone"
  "$tenantry" migrate | sed 's/^/   /'
  must_be "Green Grid's schema" "$(schema green-grid)" "$after"
  must_be "Grace uses the new column" "$(as_user "$grace" -d '{"sql": "UPDATE people SET nickname = lower(name)"}' \
    "$TENANTRY_GATEWAY" tenantry.gateway.v1.SqlService/Execute | field rowsAffected)" 1

  step "Ada makes an API key for a program of hers"
  key=$(as_user "$ada" -d '{"name": "demo"}' "$TENANTRY_REGISTRY" tenantry.registry.v1.ApiKeyService/CreateApiKey | field key)
  must_be "with it the program sees" "$(customers "$key")" "Neema Mushi and Juma Said"

  lines >"$work/go-on.sh"
  step "All of it held. Go on with these lines; each works by itself"
  printf '\n%s\n' "$(cat "$work/go-on.sh")"
}

# lines prints commands to go on with. They name everything in full, so that each can be pasted into any shell.
lines() {
  local client operator
  client=$(printf '%q -cacert %q' "$grpcurl" "$TENANTRY_CA")
  operator=$(printf '%s -cert %q -key %q' "$client" "$TENANTRY_OPERATOR_CERT" "$TENANTRY_OPERATOR_KEY")
  cat <<LINES
# The companies, as an operator:
$operator $TENANTRY_REGISTRY tenantry.registry.v1.CompanyService/ListCompanies

# Log in as Ada, for an access token of ten minutes:
$client -d '{"email": "ada@sunvalley.example", "password": "$password"}' $TENANTRY_GATEWAY tenantry.registry.v1.SessionService/Login

# Who am I, and my customers, with her API key:
$client -H 'authorization: Bearer $key' $TENANTRY_GATEWAY tenantry.gateway.v1.WhoAmIService/WhoAmI
$client -H 'authorization: Bearer $key' -d '{"sql": "SELECT id, name, surname, nickname FROM people WHERE name = \$1", "params": [{"text": "Neema"}]}' $TENANTRY_GATEWAY tenantry.gateway.v1.SqlService/Query

# The same company's rows, as an operator, who names it:
$operator -d '{"company": "sun-valley", "sql": "SELECT count(*) FROM people"}' $TENANTRY_GATEWAY tenantry.gateway.v1.SqlService/Query

# Where one tenant stands, and the rollout of before:
$operator -d '{"company": "green-grid"}' $TENANTRY_PROVISIONER tenantry.provisioner.v1.ProvisionerService/GetTenantStatus
$operator $TENANTRY_PROVISIONER tenantry.provisioner.v1.RolloutService/ListRollouts

# What can be called:
$client $TENANTRY_GATEWAY list
LINES
}

case "${1:-}" in
  stop)
    stop
    ;;
  "")
    # Until all of it held, what was started is of no use to anybody.
    trap 'status=$?; [ "$status" = 0 ] || stop; exit "$status"' EXIT
    demo
    if [ -n "${CI:-}${DEMO_STOP:-}" ]; then
      step "The lines are run, and the system is stopped"
      while IFS= read -r line; do
        case "$line" in "" | \#*) continue ;; esac
        bash -c "$line" >/dev/null || fail "this line does not work: $line"
      done <"$work/go-on.sh"
      say "every line works"
      stop
    else
      cat <<END

The commands of bin/tenantry find it by this:

export TENANTRY_ENV=$data/dev.env

It runs until \`make demo-stop\`, which also deletes its data.
END
    fi
    ;;
  *)
    fail "got '$1', want nothing or 'stop'"
    ;;
esac
