#!/usr/bin/env bash
# Write requirements.txt, or the file named as argument, from uv.lock; the two header lines stay.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
header=$(head -n 2 requirements.txt)
packages=$(uv export --quiet --frozen --no-dev --no-hashes --no-emit-workspace --no-annotate --no-header)
printf '%s\n%s\n' "$header" "$packages" > "${1:-requirements.txt}"
