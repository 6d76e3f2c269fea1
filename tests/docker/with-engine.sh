#!/usr/bin/env bash
# with-engine.sh COMMAND...: run a command that needs a Docker engine with Compose.
#
# The machine's own engine is used if there is one. Else, as root on Debian 12, an engine is started
# for this command alone, in namespaces of its own; afterwards it is gone with all its data, and the
# network is as it was. The data lie under $TMPDIR (/tmp) if overlays can be there and it has room for
# them, else in memory. If no registry can be reached from there, a stand-in for the base image is made
# of Debian's packages and this machine's CPython. Addresses of mirrors, certificates and pip's
# settings are this machine's, read when it runs.
#
# Exit code: the command's; 77 if no engine can be had here, and the reason is printed.
set -Eeuo pipefail

here=$(dirname "$(readlink -f "$0")")
base=python:3.12-slim-bookworm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fcn-docker-test # the engine's programs and the base; 0.5 GB
data_mb=${ENGINE_DATA_MB:-16384}                       # the most that images and containers may take

exec 3>&2 # messages get out even while standard error goes to a file
say() { printf '[%4d s] %s\n' "$SECONDS" "$*" >&3; }
skip() { say "cannot be tried here: $*"; exit 77; }

if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
  exec "$@"
fi
say "no Docker engine answers: starting one for this run"
[ "$(id -u)" = 0 ] || skip "no Docker engine, and only root could start one"
command -v apt-get >/dev/null || skip "no Docker engine, and no apt-get to fetch one with"
grep -qw overlay /proc/filesystems || skip "the kernel has no overlay file system"

place=${TMPDIR:-/tmp}
run=$(mktemp -d /tmp/fcn-engine.XXXXXX) # short: the path of a socket ends at 107 bytes
echo $$ >"$run/pid"
mkdir -p "$run"/{data,exec,tmp,client/cli-plugins} "$cache"
engine=

# --- clean-up, on every way out ---------------------------------------------------------------------
restore() { # RUN: put the network back as it was before RUN's engine; remove its groups and files
  local link
  if [ -e "$1/links" ]; then
    for link in /sys/class/net/*; do
      link=${link##*/}
      case $link in
        docker0 | br-* | veth*) grep -qx "$link" "$1/links" || ip link delete "$link" 2>/dev/null ;;
      esac
    done
    {
      cat "$1/iptables"
      # Tables that did not exist were empty.
      grep -q '^\*filter' "$1/iptables" || printf '%s\n' '*filter' ':INPUT ACCEPT [0:0]' \
        ':FORWARD ACCEPT [0:0]' ':OUTPUT ACCEPT [0:0]' COMMIT
      grep -q '^\*nat' "$1/iptables" || printf '%s\n' '*nat' ':PREROUTING ACCEPT [0:0]' \
        ':INPUT ACCEPT [0:0]' ':OUTPUT ACCEPT [0:0]' ':POSTROUTING ACCEPT [0:0]' COMMIT
    } | iptables-restore
    cat "$1/ip_forward" >/proc/sys/net/ipv4/ip_forward
  fi
  # One file system only: nothing of an engine that still holds a mount.
  [ -s "$1/on_disk" ] && rm -rf --one-file-system "$(cat "$1/on_disk")"
  find /sys/fs/cgroup -depth -type d -path "*/${1##*/}*" -exec rmdir {} + 2>/dev/null
  rm -rf "$1"
}
cleanup() {
  local status=$? first
  trap - EXIT INT TERM HUP
  set +e
  if [ -n "$engine" ]; then
    first=$(cat "/proc/$engine/task/$engine/children" 2>/dev/null) # tini, the namespace's process 1
    [ -n "$first" ] && kill -TERM $first 2>/dev/null
    for _ in $(seq 100); do kill -0 "$engine" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$engine" 2>/dev/null # takes the whole namespace along
    wait "$engine" 2>/dev/null
  fi
  restore "$run"
  say "the engine is gone (exit code $status)"
  exit "$status"
}
for old in /tmp/fcn-engine.*; do # what a run that was killed outright could not put back
  if [ "$old" != "$run" ] && [ -e "$old/pid" ]; then
    if kill -0 "$(cat "$old/pid")" 2>/dev/null; then
      rm -rf "$run"
      skip "another run is under way"
    fi
    (set +e; restore "$old")
  fi
done
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# --- programs ---------------------------------------------------------------------------------------
missing=()
for program in runc:runc iptables:iptables mmdebstrap:mmdebstrap ip:iproute2; do
  command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "apt-get install ${missing[*]}"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    -o DPkg::Lock::Timeout=120 "${missing[@]}"; } </dev/null >"$run/apt.log" 2>&1 ||
    { tail -n 5 "$run/apt.log" >&2; skip "apt-get install failed"; }
fi
if [ ! -e "$cache/engine/.complete" ]; then
  say "fetching dockerd, containerd, Compose and Buildx"
  rm -rf "$cache/engine"
  "$here/fetch-engine.sh" "$cache/engine" \
    docker.io containerd docker-cli docker-compose docker-buildx tini || skip "the engine cannot be fetched"
  # These need a newer C library: Debian 12's runc serves instead, and the static tini.
  rm -f "$cache"/engine/usr/{bin,sbin}/runc "$cache/engine/usr/bin/tini"
  touch "$cache/engine/.complete"
fi
export PATH=$cache/engine/usr/sbin:$cache/engine/usr/bin:$PATH
export DOCKER_HOST=unix://$run/docker.sock DOCKER_CONFIG=$run/client TMPDIR=$run/tmp
unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
ln -s "$cache"/engine/usr/libexec/docker/cli-plugins/docker-* "$run/client/cli-plugins/"

# --- the engine -------------------------------------------------------------------------------------
ls /sys/class/net >"$run/links.part"
iptables-save >"$run/iptables" 2>/dev/null
cat /proc/sys/net/ipv4/ip_forward >"$run/ip_forward"
mv "$run/links.part" "$run/links"
device=$(ip route show default | awk '{ for (i = 1; i < NF; i++) if ($i == "dev") { print $(i + 1); exit } }')
mtu=$(cat "/sys/class/net/${device:-lo}/mtu")
on_disk=
free_mb=$(df --output=avail --block-size=1M "$place" | tail -n 1)
case $(stat --file-system --format %T "$place") in
  ext2/ext3 | xfs | btrfs)
    if [ "$free_mb" -ge "$((data_mb + 2048))" ]; then
      on_disk=$(mktemp -d "$place/fcn-engine-data.XXXXXX")
    fi ;;
esac
if [ -n "$on_disk" ]; then
  echo "$on_disk" >"$run/on_disk"
  data="mount --bind '$on_disk' '$run/data'"
  say "its data go to $place"
else
  data="mount -t tmpfs -o size=${data_mb}m,mode=711 tmpfs '$run/data'"
  say "its data stay in memory, ${data_mb} MB at most"
fi
cat >"$run/start.sh" <<START
$data
exec tini-static -- dockerd --data-root "$run/data" --exec-root "$run/exec" \
  --pidfile "$run/docker.pid" --host "unix://$run/docker.sock" --storage-driver overlay2 \
  --ip6tables=false --mtu $mtu --default-network-opt bridge=com.docker.network.driver.mtu=$mtu \
  --cgroup-parent "/${run##*/}"
START
setpriv --pdeathsig KILL unshare --fork --pid --kill-child=KILL --mount --mount-proc \
  bash "$run/start.sh" </dev/null >"$run/dockerd.log" 2>&1 &
engine=$!
for _ in $(seq 240); do
  docker info >/dev/null 2>&1 && break
  kill -0 "$engine" 2>/dev/null || break
  sleep 0.25
done
docker info >/dev/null 2>&1 || { tail -n 20 "$run/dockerd.log" >&2; say "dockerd did not start"; exit 1; }
say "Docker $(docker version --format '{{.Server.Version}}') is up"

# --- the base image ---------------------------------------------------------------------------------
if timeout 60 docker pull --quiet "$base" >/dev/null 2>&1; then
  say "$base is the registry's"
else
  "$here/stand-in-base.sh" "$cache" "$run" "$base" || skip "no registry, and no stand-in for $base"
  say "$base is a stand-in: no registry can be reached"
fi

"$@"
