#!/usr/bin/env bash
# Waits until Auto Scaling wants this instance to end, drains its workers, and says that it may end.
set -euo pipefail

readonly metadata=http://169.254.169.254/latest
readonly look_every_s=5

# shellcheck source=/dev/null
source "${ROOT:-}/etc/nitro-signer/instance.env"

get() {
  local token
  token=$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token") || return
  curl -fsS -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/$1"
}

until [[ $(get autoscaling/target-lifecycle-state 2>/dev/null || true) == Terminated ]]; do
  sleep "$look_every_s"
done

# Returns when all workers have drained, at the latest after their TimeoutStopSec.
systemctl stop nitro-signer-worker.service
aws autoscaling complete-lifecycle-action --region "$AWS_REGION" --lifecycle-hook-name drained \
  --auto-scaling-group-name "$SCALING_GROUP" --instance-id "$(get instance-id)" --lifecycle-action-result CONTINUE
