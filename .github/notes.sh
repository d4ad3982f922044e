#!/bin/sh
# notes.sh TAG: prints what CHANGELOG.md says of the version that a tag such as v0.1.0 names, which
# must be that of Cargo.toml.
set -eu
[ $# = 1 ] || { echo "usage: notes.sh TAG" >&2; exit 2; }
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)".*/\1/p' Cargo.toml)
if [ "$1" != "v$version" ]; then
    echo "error: tag \`$1\` is not the version of \`Cargo.toml\`: expected \`v$version\`" >&2
    exit 1
fi
notes=$(awk -v heading="[$version]" '/^## / { inside = $2 == heading; next } inside' CHANGELOG.md)
if [ -z "$notes" ]; then
    echo "error: \`CHANGELOG.md\` has no section \`## [$version]\`, or an empty one: add it" >&2
    exit 1
fi
echo "$notes"
