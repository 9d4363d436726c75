#!/usr/bin/env bash
# Make the virtual environment .venv in the repository root, or bring it up to date. `make setup` calls this.
#
# Two kinds of machine:
#   a ROS installation is sourced   the environment sees it (--system-site-packages); only what it lacks comes from pip
#   no ROS                          ROS 2 comes as wheels from pip, and the two message packages of interfaces/ are built
#
# Each stage leaves a stamp with a digest of what it was made from, so a second run does only what changed.
# Variables: PYTHON (default python3), TORCH (a requirement such as torch==2.9.1, in place of requirements/torch.txt).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$PWD/.venv
log=$venv/setup.log
python=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# Inherited from a Python that runs from ROS wheels; it would keep another environment from finding its own libraries.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

SECONDS=0
say() { printf 'setup %4ds  %s\n' "$SECONDS" "$*"; }
fail() {
    printf 'setup failed: %s\n' "$*" >&2
    exit 1
}

# run STAGE COMMAND...: output goes to the log, of which the end is shown when the command fails.
run() {
    local stage=$1
    shift
    say "$stage ..."
    if ! "$@" >"$log" 2>&1; then
        tail -25 "$log" >&2
        fail "stage '$stage'; the whole output is in .venv/setup.log"
    fi
}

digest() { find "$@" -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16; }
is_done() { [ "$(cat "$venv/.stage-$1" 2>/dev/null)" = "$2" ]; }
mark_done() { echo "$2" >"$venv/.stage-$1"; }

check_python() {
    command -v "$python" >/dev/null || fail "no '$python' found: install Python 3.10 to 3.13, or set PYTHON=/path/to/python"
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
        fail "Python 3.10 to 3.13 is needed, '$python' is $("$python" -V 2>&1): set PYTHON=/path/to/python"
    # With .venv activated, `python3` is the environment's own; it cannot remake itself.
    python=$("$python" -c 'import sys; print(sys._base_executable if sys.prefix == sys.argv[1] else sys.executable)' "$venv")
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "'$python' cannot make virtual environments: install python3-venv"
}

find_ros() {
    if [ -z "${ROS_DISTRO:-}" ]; then
        echo wheels
    elif "$python" -c 'import rclpy' 2>/dev/null; then
        echo "$ROS_DISTRO"
    else
        say "ROS_DISTRO is '$ROS_DISTRO' but '$python' cannot import rclpy: using the ROS wheels" >&2
        echo wheels
    fi
}

make_venv() {
    # A moved folder, another interpreter, another ROS or a stage that was cut off: nothing to save, start afresh.
    local identity
    identity="$("$python" -c 'import sys; print(sys.version.split()[0], sys.base_prefix)') | $venv | ros: $ros"
    if [ "$(cat "$venv/.identity" 2>/dev/null)" = "$identity" ] && [ ! -e "$venv/.unfinished" ] && [ -x "$venv/bin/python" ]; then
        return
    fi
    [ ! -e "$venv" ] || say "removing an environment that is unfinished or made for something else"
    rm -rf "$venv"
    say "making .venv with $("$python" -V) (ROS: $ros)"
    local options=()
    [ "$ros" = wheels ] || options=(--system-site-packages)
    "$python" -m venv "${options[@]}" "$venv" || fail "'$python -m venv' did not work: install python3-venv"
    echo "$identity" >"$venv/.identity"
}

install_packages() {
    local key
    key=$(digest requirements)-${TORCH:-}
    ! is_done packages "$key" || return 0
    local arguments=(-r requirements/runtime.txt -r requirements/dev.txt)
    if [ "$ros" = wheels ]; then
        arguments+=(-r requirements/ros-wheels.txt)
        [ "$python_minor" -lt 11 ] || arguments+=(-c requirements/constraints.txt)
    else
        # The messages of a ROS installation are compiled against its NumPy.
        "$python" -c 'import numpy; print(f"numpy=={numpy.__version__}")' >"$venv/constraints.txt" 2>/dev/null || true
        arguments+=(-c "$venv/constraints.txt")
    fi
    if [ -n "${TORCH:-}" ]; then
        arguments+=("$TORCH")
    elif [ "$ros" = wheels ] || ! "$python" -c 'import torch' 2>/dev/null; then
        arguments+=(-r requirements/torch.txt)
    fi
    touch "$venv/.unfinished"
    run "installing packages (the long stage: about 1.5 minutes)" "$venv/bin/python" -m pip install "${arguments[@]}"
    run "installing spikingjelly without its CUDA dependencies" \
        "$venv/bin/python" -m pip install --no-deps -r requirements/no-deps.txt
    rm -f "$venv/.unfinished" "$venv/.stage-interfaces"
    mark_done packages "$key"
}

build_interfaces() {
    if [ "$ros" != wheels ]; then
        "$venv/bin/python" -c 'import vision_msgs.msg, event_camera_msgs.msg' 2>/dev/null ||
            fail "message packages missing: apt install ros-$ros-vision-msgs ros-$ros-event-camera-msgs"
        return
    fi
    local key
    key=$(digest interfaces tools/build_interfaces.sh)
    ! is_done interfaces "$key" || return 0
    run "building the message packages (about 40 s)" \
        tools/build_interfaces.sh "$venv" interfaces/event_camera_msgs interfaces/vision_msgs
    mark_done interfaces "$key"
}

install_product() {
    local key
    key=$(digest setup.py setup.cfg)
    ! is_done product "$key" || return 0
    run "installing snn_perception (editable)" \
        "$venv/bin/python" -m pip install --no-deps --no-build-isolation -e .
    mark_done product "$key"
}

build_kernels() {
    # Optional: everything works without a C++ compiler, some of it more slowly.
    "$venv/bin/python" -m snn_perception.native --if-needed >"$log" 2>&1 || say "$(tail -1 "$log")"
}

check_python
python_minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
# Two set-ups of one tree at the same time would damage each other.
exec 9<.
flock 9 2>/dev/null || true
ros=$(find_ros)
make_venv
# Asked before the long download, not after it.
[ "$ros" != wheels ] || [ -e "$venv/.stage-interfaces" ] || tools/build_interfaces.sh "$venv" || exit 1
install_packages
build_interfaces
install_product
build_kernels
touch "$venv/.ready"
say "ready: .venv"
