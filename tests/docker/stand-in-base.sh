#!/usr/bin/env bash
# stand-in-base.sh CACHE WORK TAG: an image to build on where no registry can be reached.
#
# Debian 12 by mmdebstrap, with the CPython that pyenv has of the tag's version where the official
# image has it, and this machine's certificates and settings for pip.
set -Eeuo pipefail

cache=$1 work=$2 tag=$3
version=${tag#python:}
version=${version%%-*} # 3.12
python=$(find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -maxdepth 1 -name "$version.*" 2>/dev/null | sort -V | tail -n 1)
[ -n "$python" ] || { echo "pyenv has no CPython $version" >&2; exit 1; }

libraries=ca-certificates,netbase,tzdata,libbz2-1.0,libffi8,liblzma5,libncursesw6,libreadline8
libraries+=,libsqlite3-0,libssl3,libuuid1,zlib1g,libexpat1
unpack="tar -C '$python' -cf - --exclude='lib/python$version/site-packages/*' \
  --exclude=lib/python$version/test --exclude=lib/python$version/tkinter \
  --exclude=lib/python$version/idlelib --exclude='_tkinter*' --exclude=__pycache__ \
  --exclude='*.a' bin/python$version lib/libpython$version.so lib/libpython$version.so.1.0 \
  lib/python$version | tar -C \"\$1/usr/local\" --no-same-owner -xf -"
finish="chroot \"\$1\" sh -ec 'ldconfig; cd /usr/local/bin; ln -s python$version python3
  ln -s python3 python; PYTHONDONTWRITEBYTECODE=1 python3 -m ensurepip >/dev/null 2>&1; ln -s pip3 pip
  python3 -c \"import ssl, sqlite3, ctypes, lzma, bz2, zlib, uuid\"'"
key=$(printf '%s\n' "$python" "$libraries" "$unpack" "$finish" | sha256sum | cut -c 1-16)
archive=$cache/base-$key.tar

if [ ! -e "$archive" ]; then
  sources=/etc/apt/sources.list.d/debian.sources
  [ -e "$sources" ] || sources=/etc/apt/sources.list
  memory=$(mktemp -d /dev/shm/fcn-base.XXXXXX) # unpacking is a thousand small files
  trap 'rm -rf "$memory"' EXIT
  TMPDIR=$memory mmdebstrap --variant=minbase --mode=root --format=tar --quiet \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include="$libraries" --customize-hook="$unpack" --customize-hook="$finish" \
    bookworm "$archive.part" "$sources" </dev/null >"$work/base.log" 2>&1 ||
    { tail -n 5 "$work/base.log" >&2; exit 1; }
  mv "$archive.part" "$archive"
fi
docker import --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
  --change 'CMD ["python3"]' "$archive" fcn-test/debian:latest >/dev/null

context=$work/base
mkdir "$context"
cp "${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}" "$context/ca.crt"
{
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n'
  for key in index-url extra-index-url trusted-host; do
    # Indexes on this machine's disk are of no use inside.
    value=$(python3 -m pip config get "global.$key" 2>/dev/null | tr ' ' '\n' | grep -v '^file:' | xargs || true)
    [ -z "$value" ] || printf '%s = %s\n' "$key" "$value"
  done
} >"$context/pip.conf"
printf '%s\n' 'FROM fcn-test/debian:latest' 'COPY ca.crt /etc/ssl/certs/ca-certificates.crt' \
  'COPY pip.conf /etc/pip.conf' >"$context/Dockerfile"
docker build --quiet --tag "$tag" "$context" >/dev/null
