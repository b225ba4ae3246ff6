#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# First process of the test guest. Kernel messages go to the first serial port (the console), what
# the job says goes to the second, so that neither tears the other's lines apart. Markers start
# with "@@guest"; the host takes the exit code from the last one.
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt
/bin/busybox --install -s /bin
export PATH=/tools/bin:/bin HOME=/tmp LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
exec </dev/null >/dev/ttyS1 2>&1
# -echo: what the host says to the job must not come back as if the job had printed it.
stty 115200 -opost -echo </dev/ttyS1
finish() {
  echo "@@guest end $1 $(cut -d' ' -f1 /proc/uptime)"
  # Setting the port's modes waits until everything was sent: a reset drops what was not.
  stty 115200 -opost -echo </dev/ttyS1
  # -f: there is no init system to ask. QEMU runs with -no-reboot and so ends here.
  reboot -f
  sleep 60
}
while read -r module; do
  insmod "/modules/$module" || { echo "@@guest problem cannot load $module"; finish 125; }
done </modules/order
wanted=$(sed -n 's/.*everpoint\.disks=\([0-9]*\).*/\1/p' /proc/cmdline)
tries=0
while [ "$(ls -d /sys/block/vd* 2>/dev/null | wc -l)" -lt "${wanted:-0}" ]; do
  tries=$((tries + 1))
  [ $tries -gt 300 ] && { echo "@@guest problem only $(ls /sys/block) of $wanted disks"; finish 124; }
  sleep 0.1
done
echo "@@guest begin $(cut -d' ' -f1 /proc/uptime)"
cd /tmp
sh /job.sh
finish $?
