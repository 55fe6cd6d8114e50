#!/usr/bin/env bash
# Run the tests of an earlier release on the schema of this checkout: during a rollout both releases work on it.
set -euo pipefail

release=${1:?Name the earlier release: make previous PREVIOUS=tag}
here=$PWD
folder=$(mktemp -d)
chmod 755 "$folder" # for root, PostgreSQL runs as somebody else, who has to get there
trap 'cd "$here"; git worktree remove --force "$folder/release"; rm -rf "$folder"' EXIT

git worktree add --quiet --detach "$folder/release" "$release"
cd "$folder/release"
grep -q TINTYPE_TEST_STEPS tests/postgres.py || {
    echo "$release is from before its tests could run on another schema." >&2
    exit 1
}
make .venv/.all
# What services with a PostgreSQL of their own do tells nothing here, and the steps themselves are this release's.
TINTYPE_TEST_STEPS="$here/src/tintype/catalogue/migrations" .venv/bin/pytest -q -n 2 --dist loadgroup --reruns 1 \
    --ignore tests/catalogue/test_migrations.py --ignore tests/catalogue/test_embedded.py \
    tests/catalogue tests/consistency tests/ingest tests/notify tests/test_relay.py tests/test_subscriptions.py \
    tests/uploads tests/journeys/test_limits.py tests/journeys/test_rollout.py
