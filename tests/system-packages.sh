#!/usr/bin/env bash
# Install the system packages that some tests use, and those of Debian's that are named. What cannot be had is
# told, and its tests skip.
set -euo pipefail

wanted=()
command -v curl >/dev/null || wanted+=(curl)
command -v strace >/dev/null || wanted+=(strace)
command -v chromium >/dev/null || wanted+=(chromium)
command -v haproxy >/dev/null || wanted+=(haproxy)
command -v faketime >/dev/null || wanted+=(faketime)
for one in "$@"; do
    dpkg -s "$one" >/dev/null 2>&1 || wanted+=("$one")
done
[ ${#wanted[@]} = 0 ] && exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Some tests will skip: install ${wanted[*]} to run them all." >&2
    exit 0
fi
install() { DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null; }
apt-get -qq update
# One that a distribution lacks (Ubuntu has chromium as a snap alone) keeps none of the others away.
install "${wanted[@]}" 2>/dev/null && exit 0
for one in "${wanted[@]}"; do
    install "$one" || echo "Some tests will skip: $one cannot be installed here." >&2
done
