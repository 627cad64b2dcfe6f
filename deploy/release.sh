#!/usr/bin/env bash
# Puts together what instances fetch: images, wheels, scripts, units, checksums.
#
#   deploy/release.sh IMAGES OUT
#
# IMAGES is the folder that deploy/enclave/build.sh filled. Needs the project's environment (make setup-dev).
set -euo pipefail

[[ $# -eq 2 && -f $1/generator.eif && -f $1/signer.eif ]] || {
  sed -n '2,6p' "$0" | cut -c3- >&2
  exit 2
}
images=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
readonly images out root
cd "$root"

cp "$images"/*.eif "$out/"
cp deploy/instance/*.sh deploy/systemd/* deploy/cloudwatch/agent.json requirements.lock "$out/"
# for Python 3.11 of Amazon Linux 2023
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
  --python-version 3.11 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
  --platform manylinux_2_34_x86_64 --dest "$out/wheels" -r requirements.lock
.venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$out" .
(cd "$out" && find . -type f ! -name "SHA256SUMS*" -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS.new &&
  mv SHA256SUMS.new SHA256SUMS)
echo "next: aws s3 cp --recursive $out s3://BUCKET/releases/VERSION"
