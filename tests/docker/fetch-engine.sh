#!/usr/bin/env bash
# fetch-engine.sh DIR PACKAGE...: unpack packages of Debian 13 into DIR on Debian 12.
#
# Debian 12 has Docker 20.10 and Compose 1; the programs of 13 are written in Go and run on it.
# Nothing is installed, and apt's own lists stay as they are.
set -Eeuo pipefail

mkdir -p "$1"
target=$(readlink -f "$1")
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
  awk '$2 == "bookworm" && $3 == "main" { print $1; exit }')
[ -n "$mirror" ] || { echo "apt has no source for Debian 12" >&2; exit 1; }

mkdir -p "$work"/{lists/partial,cache/archives/partial,debs}
cat >"$work/trixie.sources" <<SOURCE
Types: deb
URIs: $mirror
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCE
options=(
  -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::SourceList="$work/trixie.sources"
  -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache"
  -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3
)
cd "$work/debs"
apt-get "${options[@]}" --quiet update >"$work/log" 2>&1 &&
  apt-get "${options[@]}" --quiet download "$@" >>"$work/log" 2>&1 ||
  { tail -n 5 "$work/log" >&2; exit 1; }
for package in *.deb; do
  dpkg-deb -x "$package" "$target"
done
