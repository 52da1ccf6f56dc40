#!/usr/bin/env bash
# Makes a base image out of Debian packages alone, where the official Python image cannot be pulled:
#   images/local-base.sh [NAME] [MIRROR]       then: make images-check PYTHON_IMAGE=NAME
# Needs debootstrap, root and $CONTAINER_TOOL (podman). Debian bookworm's own Python is 3.11, as the official image's.
set -euo pipefail

name=${1:-localhost/fakesound-base:bookworm}
mirror=${2:-}
# A word list on purpose: the tool may come with options, as in "podman --runtime runc".
read -r -a container_tool <<< "${CONTAINER_TOOL:-podman}"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python-is-python3,python3-pip,python3-venv \
  bookworm "$root" ${mirror:+"$mirror"}
rm -rf "$root"/etc/resolv.conf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar --directory "$root" --create . | "${container_tool[@]}" import - "$name"
