#!/usr/bin/env bash
# Install the system packages that some tests use. Where that is impossible those tests skip, and say so.
set -euo pipefail

wanted=()
command -v curl >/dev/null || wanted+=(curl)
command -v strace >/dev/null || wanted+=(strace)
command -v chromium >/dev/null || wanted+=(chromium)
command -v haproxy >/dev/null || wanted+=(haproxy)
[ ${#wanted[@]} = 0 ] && exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Some tests will skip: install ${wanted[*]} to run them all." >&2
    exit 0
fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${wanted[@]}" >/dev/null
