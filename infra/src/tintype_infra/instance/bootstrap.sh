#!/usr/bin/env bash
# A new instance: fetch the release, start it, and say that it serves.
set -euo pipefail
