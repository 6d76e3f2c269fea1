#!/bin/sh
# compose-file.sh: choose in .env which files `docker compose` reads, by what this machine has.
#
# Where Docker can hand an NVIDIA GPU to a container, COMPOSE_FILE gets docker-compose.gpu.yml;
# elsewhere that file is taken out, and where the rest is what Compose reads unasked, so is the line:
# an override file that is made later counts then. Other files in COMPOSE_FILE and other lines of .env
# stay.
# Run in the project's folder, as `make up` does.
set -eu

gpu_file=docker-compose.gpu.yml
separator=${COMPOSE_PATH_SEPARATOR:-:}

info=$(docker info --format '{{json .}}' 2>&1) || {
  echo 'no Docker engine answers; `docker info` says why' >&2
  exit 2
}
# A runtime of that name, or devices that the engine knows by their CDI specifications.
case $info in
  *'"nvidia":'* | *'"nvidia.com/gpu'*) gpu=yes ;;
  *) gpu=no ;;
esac

before=$(cat .env 2>/dev/null || true)
files=$(printf '%s\n' "$before" | sed -n 's/^COMPOSE_FILE=//p' | tail -n 1)
files=$(printf '%s\n' "$files" | tr "$separator" '\n' | grep -vxF "$gpu_file" | paste -s -d "$separator" -)
unasked=docker-compose.yml
# Compose reads it only as long as COMPOSE_FILE is not set.
[ ! -e docker-compose.override.yml ] || unasked=$unasked${separator}docker-compose.override.yml
case $files in
  '' | docker-compose.yml) files=$unasked ;;
esac
if [ "$gpu" = yes ]; then
  files=$files$separator$gpu_file
  echo 'Docker has a GPU for containers: it will be used'
else
  echo 'Docker has no NVIDIA GPU for containers: the CPU will be used'
fi

after=$(printf '%s\n' "$before" | grep -v '^COMPOSE_FILE=' || true)
[ "$files" = "$unasked" ] || after="${after:+$after
}COMPOSE_FILE=$files"
# Written into the file that is there, which keeps its owner and mode: it may hold secrets.
[ "$after" = "$before" ] || printf '%s' "${after:+$after
}" >.env
