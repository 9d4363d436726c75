#!/usr/bin/env bash
# Runs a command of the package with ROS and its workspace set up: what a container or a service starts.
#   with_ros.sh detector_node --ros-args --params-file detector.yaml
# SNN_SETUP  set-up files to source, in order, separated by colons; by default ROS's own
set -eo pipefail

: "${SNN_SETUP:=/opt/ros/${ROS_DISTRO:-jazzy}/setup.bash}"
IFS=: read -ra files <<<"$SNN_SETUP"
for file in "${files[@]}"; do
    if [ ! -r "$file" ]; then
        echo "with_ros.sh: no set-up file '$file'; name those of ROS and of the workspace in SNN_SETUP" >&2
        exit 1
    fi
    # shellcheck disable=SC1090
    . "$file"
done

# Where colcon puts a package's commands, which is on no PATH.
IFS=: read -ra prefixes <<<"${AMENT_PREFIX_PATH:-}"
for prefix in "${prefixes[@]}"; do
    if [ -d "$prefix/lib/snn_perception" ]; then
        PATH=$prefix/lib/snn_perception:$PATH
    fi
done
export PATH
if ! command -v "${1:?usage: with_ros.sh COMMAND ARGUMENTS...}" >/dev/null; then
    echo "with_ros.sh: no command '$1'; is the workspace's install/setup.bash named in SNN_SETUP ($SNN_SETUP)?" >&2
    exit 1
fi
exec "$@"
