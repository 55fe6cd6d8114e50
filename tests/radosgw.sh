#!/usr/bin/env bash
# Start Ceph's radosgw, a real S3 server, on loopback: radosgw.sh FOLDER PORT
# One monitor, one storage daemon that keeps everything in memory, one gateway. They run in the
# background; their process ids are in FOLDER/run. CEPH_PREFIX names packages that are only unpacked.
set -euo pipefail
folder=$1 port=$2

if [ -n "${CEPH_PREFIX:-}" ]; then
    libraries=$CEPH_PREFIX/usr/lib/x86_64-linux-gnu
    export LD_LIBRARY_PATH=$libraries:$libraries/ceph:$CEPH_PREFIX/lib/x86_64-linux-gnu
    export PATH=$CEPH_PREFIX/usr/bin:$PATH PYTHONPATH=$CEPH_PREFIX/usr/lib/python3/dist-packages
    unpacked="erasure_code_dir = $libraries/ceph/erasure-code
plugin_dir = $libraries/ceph
osd_class_dir = $libraries/rados-classes
crypto_plugin_dir = $libraries/ceph/crypto
compressor_dir = $libraries/ceph/compressor"
fi

mkdir -p "$folder"/{mon,osd,rgw,run,log}
cluster=$(cat /proc/sys/kernel/random/uuid)
cat > "$folder/ceph.conf" <<END
[global]
fsid = $cluster
mon_host = [v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = $folder/keyring
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data = $folder/mon
mon_data_avail_warn = 1
mon_data_avail_crit = 1
osd_data = $folder/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
run_dir = $folder/run
admin_socket = $folder/run/\$name.asok
log_file = $folder/log/\$name.log
pid_file = $folder/run/\$name.pid
rgw_data = $folder/rgw
rgw_dns_name = localhost
rgw_sts_key = sixteen-letters!
rgw_s3_auth_use_sts = true
ms_bind_ipv6 = false
${unpacked:-}
END

admin() { ceph -c "$folder/ceph.conf" --connect-timeout 20 "$@" >/dev/null 2>&1; }
key() { ceph-authtool "$folder/keyring" --gen-key -n "$@" >/dev/null; }

touch "$folder/keyring"
key mon. --cap mon 'allow *'
key client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
key osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
key client.rgw --cap mon 'allow rw' --cap osd 'allow rwx'
monmaptool --create --clobber --fsid "$cluster" \
    --addv a "[v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]" "$folder/monmap" >/dev/null
ceph-mon -c "$folder/ceph.conf" -i a --mkfs --monmap "$folder/monmap" --keyring "$folder/keyring"
ceph-mon -c "$folder/ceph.conf" -i a

storage=$(cat /proc/sys/kernel/random/uuid)
admin osd new "$storage" 0
ceph-osd -c "$folder/ceph.conf" -i 0 --mkfs --osd-uuid "$storage" >/dev/null 2>&1
admin osd crush add osd.0 1.0 host=localhost root=default
ceph-osd -c "$folder/ceph.conf" -i 0 >/dev/null 2>&1

radosgw -c "$folder/ceph.conf" -n client.rgw \
    --rgw-frontends "beast endpoint=127.0.0.1:$port tcp_nodelay=1" >/dev/null 2>&1
for _ in $(seq 300); do
    curl -s -o /dev/null "http://127.0.0.1:$port/" && break
    sleep 0.2
done
radosgw-admin -c "$folder/ceph.conf" -n client.rgw user create --uid=test --display-name=test \
    --access-key=testing --secret-key=testing >/dev/null 2>&1
