#!/usr/bin/env bash
# After a deployment: the service answers through its balancer, with a schema that it knows, and lets nobody in.
#
# URL is where the service answers. Retried for two minutes: the name of a new balancer takes a while to be known.
set -euo pipefail
: "${URL:?where the service answers}"
TRIES=${TRIES:-24}
PAUSE=${PAUSE:-5}

answer() { curl -sS -m 10 -o /dev/null -w '%{http_code}' "$@" || true; }

for try in $(seq "$TRIES"); do
    ready=$(answer "$URL/readyz")
    [ "$ready" = 200 ] && break
    [ "$try" = "$TRIES" ] || sleep "$PAUSE"
done
if [ "$ready" != 200 ]; then
    echo "$URL/readyz answers $ready: $(curl -sS -m 10 "$URL/readyz" || true)" >&2
    exit 1
fi
stranger=$(answer "$URL/v1/images")
if [ "$stranger" != 401 ]; then
    echo "$URL/v1/images answers $stranger to somebody without a key; it must answer 401" >&2
    exit 1
fi
echo "$URL serves, and asks for keys"
