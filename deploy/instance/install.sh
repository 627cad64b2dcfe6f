#!/usr/bin/env bash
# Makes an instance of Amazon Linux 2023 a generator or a signer, from a release that user data has fetched.
# Reads /etc/nitro-signer/instance.env (written by user data). Ends the lifecycle hook `installed`: CONTINUE when the
# workers run, ABANDON when anything fails, so that Auto Scaling throws a broken instance away; and tells the stack, which
# waits for it. What this prints is in the log group, stream INSTANCE/install, from the moment that the agent runs.
#
# ROOT is for tests: a folder that stands for /.
set -euo pipefail

readonly root=${ROOT:-}
readonly etc=$root/etc/nitro-signer
readonly home=$root/opt/nitro-signer
readonly release=$home/release
readonly units=$root/etc/systemd/system
readonly enclave_cid=16

# shellcheck source=/dev/null
source "$etc/instance.env"

finish() {
  local status=$? result=CONTINUE signal=SUCCESS instance
  trap - EXIT
  ((status == 0)) || { result=ABANDON signal=FAILURE; }
  instance=$(instance_id) || echo "install.sh: the metadata service does not say which instance this is" >&2
  # an instance that was started by hand has no hook to end; nor does a stack wait for one that scaling has started
  aws autoscaling complete-lifecycle-action --region "$AWS_REGION" --lifecycle-hook-name installed \
    --auto-scaling-group-name "$SCALING_GROUP" --instance-id "$instance" --lifecycle-action-result "$result" ||
    echo "install.sh: no lifecycle hook was ended" >&2
  aws cloudformation signal-resource --region "$AWS_REGION" --stack-name "$STACK_ID" \
    --logical-resource-id "$STACK_RESOURCE" --unique-id "$instance" --status "$signal" ||
    echo "install.sh: no stack waits for this instance" >&2
  exit "$status"
}

instance_id() {
  local token
  token=$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
  curl -fsS -H "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/meta-data/instance-id
}

check_release() {
  (cd "$release" && sha256sum --quiet --check SHA256SUMS)
}

install_packages() {
  dnf install -y -q aws-nitro-enclaves-cli amazon-cloudwatch-agent python3.11 logrotate
}

# First of all, so that what fails after it can be read: nobody may look at this instance itself.
start_logs() {
  install -d -m 0755 "$root/var/log/nitro-signer"
  sed "s|@LOG_GROUP@|$LOG_GROUP|" "$release/agent.json" >"$etc/agent.json"
  /opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c "file:$etc/agent.json" ||
    echo "install.sh: the CloudWatch agent did not start: logs stay on this instance" >&2
}

install_programs() {
  python3.11 -m venv "$home/.venv"
  "$home/.venv/bin/python" -m pip install --quiet --no-index --find-links "$release/wheels" --no-deps --require-hashes \
    -r "$release/requirements.lock"
  "$home/.venv/bin/python" -m pip install --quiet --no-index --no-deps "$release"/nitro_signer-*.whl
}

check_image() {
  local found
  found=$("$home/.venv/bin/nitro-signer" image pcrs "$release/$ROLE.eif" --json)
  [[ $found == *"\"PCR0\": \"$IMAGE_PCR0\""* ]] || {
    echo "install.sh: $ROLE.eif is not the image whose PCR0 the stack was given" >&2
    return 1
  }
  install -m 0644 "$release/$ROLE.eif" "$home/enclave.eif"
}

write_configuration() {
  local job=sign
  [[ $ROLE == signer ]] || job=generate
  install -d -m 0755 "$etc" "$root/etc/nitro_enclaves"
  cat >"$root/etc/nitro_enclaves/allocator.yaml" <<END
memory_mib: $ENCLAVE_MEMORY_MIB
cpu_count: $ENCLAVE_CPUS
END
  cat >"$etc/vsock-proxy.yaml" <<END
allowlist:
  - {address: $KMS_HOST, port: 443}
destinations:
  - {listen: "vsock://any:8000", host: $KMS_HOST, port: 443, peer_cids: [$enclave_cid]}
END
  cat >"$etc/worker.toml" <<END
region = "$AWS_REGION"
kms_key_arn = "$KMS_KEY_ARN"

[store]
table = "$KEY_TABLE"
birth_table = "$BIRTH_TABLE"
cache_records = 10000

[brakes]
table = "$BRAKE_TABLE"

[$job]
enclaves = ["vsock://$enclave_cid:5000"]
workers_per_instance = $WORKERS

[$job.engine]
queue_url = "$QUEUE_URL"
reply_queue_url = "$REPLY_QUEUE_URL"
dead_letter_queue_url = "$DEAD_LETTER_QUEUE_URL"
END
  cat >"$etc/worker.env" <<END
JOB=$job
NITRO_SIGNER_CONFIG=/etc/nitro-signer/worker.toml
END
  # nitro-signer-logrotate.timer looks every minute: audit events of a busy day would fill the disk
  cat >"$etc/logrotate.conf" <<'END'
/var/log/nitro-signer/*.log {
  size 200M
  rotate 4
  copytruncate
  missingok
  notifempty
}
END
}

install_units() {
  install -d -m 0755 "$units/nitro-signer-vsock-proxy.service.d" "$home/libexec"
  install -m 0755 "$release/run-enclave.sh" "$release/drain.sh" "$home/libexec/"
  install -m 0644 "$release"/nitro-signer-*.service "$release"/nitro-signer-*.timer "$units/"
  install -m 0644 "$release/vsock-proxy-log.conf" "$units/nitro-signer-vsock-proxy.service.d/log.conf"
}

start() {
  systemctl daemon-reload
  systemctl enable --now nitro-enclaves-allocator.service
  systemctl enable --now nitro-signer-vsock-proxy.service nitro-signer-enclave.service nitro-signer-drain.service \
    nitro-signer-logrotate.timer
  # returns when the workers have said that their enclave is ready
  systemctl enable --now nitro-signer-worker.service
}

# For whoever reads the log; that workers are ready has been seen already.
examine() {
  "$home/.venv/bin/nitro-signer" doctor --config "$etc/worker.toml" --proxy-config "$etc/vsock-proxy.yaml" ||
    echo "install.sh: nitro-signer doctor has something to say" >&2
}

trap finish EXIT
check_release
install_packages
start_logs
install_programs
check_image
write_configuration
"$home/.venv/bin/nitro-signer" config check "$etc/worker.toml"
install_units
start
examine
