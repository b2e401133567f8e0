#!/bin/sh
# Fills the passwords' hashes into the ACL file and becomes the server: start.sh REDIS.CONF USERS.ACL [OPTION...]
# The data lies in the working directory, /data in the official images.
set -eu
conf=$1
users=$2
shift 2
hash() { printf %s "$1" | sha256sum | cut -d' ' -f1; }
: "${REDIS_PASSWORD:?set REDIS_PASSWORD, for example to the output of: openssl rand -hex 24}"
acl=$(mktemp)
# Without a password of its own nobody can log in as operator.
sed -e "s/@PASSWORD_SHA256@/$(hash "$REDIS_PASSWORD")/" \
    -e "s/@OPERATOR_SHA256@/$(hash "${REDIS_OPERATOR_PASSWORD:-$(head -c 32 /dev/urandom | sha256sum)}")/" \
    "$users" > "$acl"
unset REDIS_PASSWORD REDIS_OPERATOR_PASSWORD
server=$(command -v valkey-server || command -v redis-server)
# The official images start any command but their own as root.
run_as=${REDIS_RUN_AS:-valkey}
if [ "$(id -u)" = 0 ] && id "$run_as" >/dev/null 2>&1 && command -v setpriv >/dev/null; then
  chown -R "$run_as" . "$acl"
  exec setpriv --reuid="$run_as" --regid="$(id -g "$run_as")" --clear-groups -- "$server" "$conf" --aclfile "$acl" "$@"
fi
exec "$server" "$conf" --aclfile "$acl" "$@"
