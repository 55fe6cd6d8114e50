#!/usr/bin/env bash
# A new instance: fetch the release, start it, and tell CloudFormation once it really serves.
#
# Runs as user data, after the lines that write /etc/tintype/environment and name what belongs to this
# deployment. Debian 13 as it comes: curl and python3 are there. Nothing else is installed but the agent of
# Session Manager, at the end.
set -euo pipefail
: "${RELEASE:?}" "${REGION:?}" "${BUNDLE_BUCKET:?}" "${BUNDLE_KEY:?}" "${STACK:?}" "${RESOURCE:?}" "${LOG_GROUP:?}"
IMDS=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
S3=${AWS_ENDPOINT_URL_S3:-https://s3.$REGION.amazonaws.com}
CLOUDFORMATION=${AWS_ENDPOINT_URL_CLOUDFORMATION:-https://cloudformation.$REGION.amazonaws.com}
READY_SECONDS=${READY_SECONDS:-120}

say() { printf 'tintype: %s\n' "$*"; }

# --- who we are: the instance's role, by the second version of the metadata service -----------------------
token=$(curl -sSf -m 5 --retry 5 -X PUT "$IMDS/latest/api/token" -H 'X-aws-ec2-metadata-token-ttl-seconds: 300')
metadata() { curl -sSf -m 5 --retry 5 -H "X-aws-ec2-metadata-token: $token" "$IMDS/latest/meta-data/$1"; }
role=$(metadata iam/security-credentials/)
credentials=$(metadata "iam/security-credentials/$role")
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1" <<<"$credentials"; }
key_id=$(field AccessKeyId)
secret=$(field SecretAccessKey)
session=$(field Token)

# signed SERVICE URL [curl's options]: a request of the role's, which curl signs; the secret is in no argument
signed() {
    local service=$1 url=$2
    shift 2
    curl -sSf --retry 5 --retry-all-errors -m 300 --aws-sigv4 "aws:amz:$REGION:$service" --config - \
        -H "x-amz-security-token: $session" "$@" "$url" <<<"user = \"$key_id:$secret\""
}

# The update waits for this word, and is rolled back without it.
signal() {
    signed cloudformation "$CLOUDFORMATION/" -o /dev/null --data-urlencode Action=SignalResource \
        --data-urlencode Version=2010-05-15 --data-urlencode "StackName=$STACK" \
        --data-urlencode "LogicalResourceId=$RESOURCE" --data-urlencode "UniqueId=$(metadata instance-id)" \
        --data-urlencode "Status=$1"
}
failed() {
    say "failed with status $?; the lines above say why"
    journalctl -u tintype -n 50 --no-pager || true
    signal FAILURE
}
trap failed EXIT

# --- the release: unpacked beside the ones before it, then put in their place at once ---------------------
say "release $RELEASE"
id tintype >/dev/null 2>&1 || useradd --system --home-dir /var/lib/tintype --shell /usr/sbin/nologin tintype
chmod 0640 /etc/tintype/environment
folder=/opt/tintype/releases/$RELEASE
if [ ! -d "$folder" ]; then
    bundle=$(mktemp)
    # S3 wants this header even where nothing is sent; older versions of curl leave it out.
    signed s3 "$S3/$BUNDLE_BUCKET/$BUNDLE_KEY" -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' -o "$bundle"
    # A release is named by its contents.
    digest=$(sha256sum "$bundle")
    [ "${digest:0:16}" = "$RELEASE" ] || { say "the bundle is not release $RELEASE"; exit 1; }
    rm -rf "$folder.new"
    install -d -m 0755 /opt/tintype/releases "$folder.new"
    tar -xzf "$bundle" -C "$folder.new" --no-same-owner
    rm -f "$bundle"
    mv -T "$folder.new" "$folder"
fi
ln -sfn "$folder" /opt/tintype/current.new
mv -Tf /opt/tintype/current.new /opt/tintype/current
install -m 0644 "$folder"/tintype*.service /etc/systemd/system/
install -m 0755 "$folder/tintype" /usr/local/sbin/tintype

# --- it runs, and it serves --------------------------------------------------------------------------------
systemctl daemon-reload
printf '%s\n' "REGION=$REGION" "LOG_GROUP=$LOG_GROUP" "LOG_STREAM=$(metadata instance-id)" "STACK=$STACK" \
    ${AWS_ENDPOINT_URL_CLOUDWATCH_LOGS:+"AWS_ENDPOINT_URL_CLOUDWATCH_LOGS=$AWS_ENDPOINT_URL_CLOUDWATCH_LOGS"} \
    ${AWS_EC2_METADATA_SERVICE_ENDPOINT:+"AWS_EC2_METADATA_SERVICE_ENDPOINT=$IMDS"} >/etc/tintype/logs
systemctl enable --quiet tintype tintype-logs
systemctl restart tintype-logs || say "the log stays on this instance; systemctl status tintype-logs says why"
systemctl restart tintype
port=$(sed -n 's/^TINTYPE_PORT=//p' /etc/tintype/environment)
for _ in $(seq "$((READY_SECONDS * 5))"); do
    curl -sf -m 2 -o /dev/null "http://127.0.0.1:${port:-8000}/readyz" && ready=1 && break
    sleep 0.2
done
if [ -z "${ready:-}" ]; then
    say "not ready after $READY_SECONDS s: $(curl -s -m 2 "http://127.0.0.1:${port:-8000}/readyz" || true)"
    exit 1
fi
say "serving"
trap - EXIT
signal SUCCESS

# --- operators come in through Session Manager, whose agent Debian's image lacks ---------------------------
# From Amazon's own bucket of the region, by the gateway endpoint (AWS Systems Manager User Guide, "Manually
# installing and uninstalling SSM Agent on EC2 instances for Linux"). No rollout waits for it.
if ! systemctl is-enabled --quiet amazon-ssm-agent 2>/dev/null; then
    agent=$(mktemp --suffix=.deb)
    if curl -sSf --retry 5 --retry-all-errors -m 120 -o "$agent" \
        "$S3/amazon-ssm-$REGION/latest/debian_amd64/amazon-ssm-agent.deb" &&
        dpkg --install "$agent" && systemctl enable --quiet --now amazon-ssm-agent; then
        say "operators can come in"
    else
        say "the agent of Session Manager is not there: nobody can come in"
    fi
    rm -f "$agent"
fi
