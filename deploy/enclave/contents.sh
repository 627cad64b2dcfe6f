#!/bin/sh
# Makes what an enclave image has beside its base image, the folder /opt/enclave: the same inputs give the same bytes.
# Runs in the Dockerfile's first stage, and in `make test-image`, which makes it twice and compares.
#
#   contents.sh packages PYTHON SITE REQUIREMENTS   what the lock file names, by hash
#   contents.sh code PYTHON SITE SOURCES            protocol/, config/ and enclave/ of SOURCES; then bytecode of all
#
# PYTHON is that of the base image.
set -eu

usage() {
  sed -n '2,8p' "$0" | cut -c3- >&2
  exit 2
}

[ $# -eq 4 ] || usage
step=$1 python=$2 site=$3 from=$4

case $step in
packages)
  "$python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-compile --only-binary=:all: \
    --no-deps --require-hashes --root-user-action=ignore --target "$site" -r "$from"
  # botocore describes four hundred services; an enclave talks to one
  find "$site/botocore/data" -mindepth 1 -maxdepth 1 -type d ! -name kms -exec rm -r {} +
  rm -r "${site:?}/bin"
  ;;
code)
  for package in protocol config enclave; do
    cp -R "$from/$package" "$site/$package"
  done
  find "$site" -name __pycache__ -type d -prune -exec rm -r {} +
  # unchecked-hash: bytecode without the time of its source. The hash seed decides the order of some constants.
  PYTHONHASHSEED=0 "$python" -m compileall -q -j 0 -s "$site" -p /opt/enclave --invalidation-mode unchecked-hash "$site"
  ;;
*) usage ;;
esac
