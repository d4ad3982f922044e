#!/bin/sh
# pack.sh BINARY TARGET FOLDER: packs a binary that this machine runs, with completions, man page
# and license, as FOLDER/gpt-oss-export-VERSION-TARGET.tar.gz, and a .sha256 beside it.
set -eu
[ $# = 3 ] || { echo "usage: pack.sh BINARY TARGET FOLDER" >&2; exit 2; }
binary=$1 target=$2
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$3"
out=$(cd "$3" && pwd)

version=$(sed -n 's/^version = "\(.*\)".*/\1/p' "$root/Cargo.toml")
name=gpt-oss-export-$version-$target
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
trap 'exit 1' HUP INT TERM
packed=$temporary/$name
mkdir -p "$packed/completions"

cp "$binary" "$packed/"
cp "$root/LICENSE" "$root/README.md" "$root/CHANGELOG.md" "$packed/"
"$binary" man > "$packed/gpt-oss-export.1"
for shell in bash elvish fish powershell zsh; do
    "$binary" completions $shell > "$packed/completions/gpt-oss-export.$shell"
done

# The archive appears whole or not at all, and before its checksum.
tar -czf "$temporary/$name.tar.gz" -C "$temporary" "$name"
mv "$temporary/$name.tar.gz" "$out/"
cd "$out"
case $(command -v sha256sum || true) in
    '') shasum -a 256 "$name.tar.gz" > "$name.tar.gz.sha256" ;;
    *) sha256sum "$name.tar.gz" > "$name.tar.gz.sha256" ;;
esac
