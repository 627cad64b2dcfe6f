#!/usr/bin/env bash
# Builds the two enclave images: docker build, nitro-cli build-enclave, PCRs checked a second way.
#
#   deploy/enclave/build.sh KMS_KEY_ARN PYTHON_IMAGE OUT
#
# PYTHON_IMAGE ends in @sha256:DIGEST. OUT gets generator.eif, generator.json (what nitro-cli printed), generator.toml
# (what was measured), and the same of the signer. To sign the images (PCR8), set SIGNING_CERTIFICATE and SIGNING_KEY.
# Needs docker with buildx, nitro-cli, and the project's environment (make setup).
set -euo pipefail

usage() {
  sed -n '2,8p' "$0" | cut -c3- >&2
  exit 2
}

[[ $# -eq 3 ]] || usage
readonly key_arn=$1 python_image=$2
[[ $python_image =~ @sha256:[0-9a-f]{64}$ ]] || { echo "build.sh: PYTHON_IMAGE has no digest" >&2; usage; }
mkdir -p "$3"
out=$(cd "$3" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
readonly out root
cd "$root"

signing=()
if [[ -n ${SIGNING_CERTIFICATE:-} || -n ${SIGNING_KEY:-} ]]; then
  signing=(--signing-certificate "${SIGNING_CERTIFICATE:?is missing}" --private-key "${SIGNING_KEY:?is missing}")
fi

# Times inside the image are the time of the commit, not of the build.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

trap 'rm -f build/enclave.toml' EXIT
mkdir -p build
for role in generator signer; do
  .venv/bin/python deploy/enclave/measured_config.py "$role" "$key_arn" >"$out/$role.toml"
  cp "$out/$role.toml" build/enclave.toml
  docker buildx build --file deploy/enclave/Dockerfile --build-arg "PYTHON_IMAGE=$python_image" \
    --build-arg SOURCE_DATE_EPOCH --provenance=false --tag "nitro-signer-$role" \
    --output "type=docker,rewrite-timestamp=true" .
  nitro-cli build-enclave --docker-uri "nitro-signer-$role" --output-file "$out/$role.eif" "${signing[@]}" \
    >"$out/$role.json"
  # nitro-cli and our own reader have to agree on what was measured
  .venv/bin/nitro-signer image pcrs "$out/$role.eif" --compare "$out/$role.json"
done
echo "next: nitro-signer policy make --generator-pcr0 $out/generator.json --signer-pcr0 $out/signer.json ..."
