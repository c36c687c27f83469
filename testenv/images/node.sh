#!/bin/bash
# First process of a node of OpenManage's test environment. It prepares what an
# init system prepares on a real machine and keeps dockerd running: the engine
# can be ended and comes back, and the machine goes on.
#
# Arguments are given to dockerd.
set -u

state=/run/openmanage
mkdir -p "$state"

# As systemd does: volume plugins count on mounts that propagate. What encloses
# this machine does not see them, since its mounts are not peers of ours.
mount --make-rshared /
mount -o remount,rw /sys

# Control groups of everything that runs here must lie below the machine's own,
# so that the machine can be frozen and killed as a whole.
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
	own=$(sed -n 's/^0:://p' /proc/self/cgroup)
	own=${own%/}
	# A group with processes cannot hand controllers to its children.
	mkdir -p "/sys/fs/cgroup$own/init"
	while read -r pid; do
		echo "$pid" >"/sys/fs/cgroup$own/init/cgroup.procs" 2>/dev/null
	done <"/sys/fs/cgroup$own/cgroup.procs"
	sed -e 's/ / +/g' -e 's/^/+/' "/sys/fs/cgroup$own/cgroup.controllers" \
		>"/sys/fs/cgroup$own/cgroup.subtree_control"
else
	own=$(sed -n 's/^[0-9]*:\(.*,\)\?freezer\(,.*\)\?:\(.*\)$/\3/p' /proc/self/cgroup)
	own=${own%/}
fi

engine=
stopping=
end() {
	stopping=yes
	[ -n "$engine" ] && kill -TERM "$engine" 2>/dev/null
}
trap end TERM INT

while [ -z "$stopping" ]; do
	# containerd dies with its dockerd, but not in the same instant; a new
	# dockerd that finds it dying counts on it.
	for _ in $(seq 100); do
		pgrep -x containerd >/dev/null || break
		sleep 0.05
	done
	# An engine that was killed leaves its pid files, which stop the next one.
	rm -f /run/docker.pid /run/docker/containerd/containerd.pid
	dockerd --cgroup-parent "$own/docker" \
		--host unix:///run/docker.sock --host unix:///run/openmanage-engine/docker.sock \
		"$@" &
	engine=$!
	echo "$engine" >"$state/dockerd.pid.new" && mv "$state/dockerd.pid.new" "$state/dockerd.pid"
	# wait also returns when a signal was handled.
	while kill -0 "$engine" 2>/dev/null; do
		wait "$engine"
	done
	# An engine that cannot start must not take the whole machine's processor.
	[ -z "$stopping" ] && sleep 0.2
done
