#!/usr/bin/env bash
# Runs the enclave, and ends when it has ended: systemd then starts it again.
# Reads ENCLAVE_CPUS and ENCLAVE_MEMORY_MIB from the environment.
set -euo pipefail

readonly image=/opt/nitro-signer/enclave.eif
readonly cid=16
readonly look_every_s=5

state() {
  nitro-cli describe-enclaves | python3 -c '
import json, sys
found = [e["State"] for e in json.load(sys.stdin) if e.get("EnclaveID") == sys.argv[1]]
print(found[0] if found else "ENDED")
' "$1"
}

# What a killed predecessor left behind still holds the memory and the CID.
nitro-cli terminate-enclave --all >/dev/null

enclave=$(nitro-cli run-enclave --enclave-name nitro-signer --eif-path "$image" --enclave-cid "$cid" \
  --cpu-count "$ENCLAVE_CPUS" --memory "$ENCLAVE_MEMORY_MIB" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["EnclaveID"])')
readonly enclave

# shellcheck disable=SC2329 # by the trap
stop() {
  nitro-cli terminate-enclave --enclave-id "$enclave" >/dev/null || true
  exit 0
}
trap stop TERM INT

systemd-notify --ready "--status=$enclave"
while [[ $(state "$enclave") == RUNNING ]]; do
  systemd-notify WATCHDOG=1
  sleep "$look_every_s" &
  wait $! # a signal ends the wait at once
done
echo "enclave $enclave has ended" >&2
exit 1
