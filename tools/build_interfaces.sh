#!/usr/bin/env bash
# Build message packages into a virtual environment that holds the ROS 2 wheels.
#   usage: build_interfaces.sh VENV PACKAGE_FOLDER...
# The environment itself is the ament prefix, so that afterwards `import <package>.msg` needs nothing to be sourced.
set -euo pipefail

venv=$(cd "${1:?usage: build_interfaces.sh VENV PACKAGE_FOLDER...}" && pwd)
shift

missing=()
command -v g++ >/dev/null || missing+=(g++)
command -v cmake >/dev/null || missing+=(cmake)
command -v make >/dev/null || missing+=(make)
include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$include/Python.h" ] || missing+=(python3-dev)
if [ ${#missing[@]} -gt 0 ]; then
    echo "cannot build the message packages: install ${missing[*]}, then run 'make setup' again" >&2
    exit 1
fi

export PATH="$venv/bin:$PATH"
export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
export ROS_VERSION=2 ROS_PYTHON_VERSION=3 ROS_DISTRO=kilted
# The wheels re-execute Python to set the library path. A half-set pair inherited from the caller would break that.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH

# The wheels' exported CMake targets name the folders of the machine that made them: /opt/python/cp311-cp311/...
# CMake refuses folders that do not exist, so point them at this interpreter and this environment.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
foreign='/opt/python/cp3[0-9]+-cp3[0-9]+'
grep -rlsE --include='*.cmake' "$foreign/" "$venv/share" | xargs -r sed -i -E \
    -e "s#$foreign/lib/python3\.[0-9]+/site-packages#$site#g" \
    -e "s#$foreign/include/python3\.[0-9]+#$include#g" || true

build_root=$(mktemp -d)
trap 'rm -rf "$build_root"' EXIT
for package in "$@"; do
    name=$(basename "$package")
    build=$build_root/$name
    log=$build_root/$name.log
    if ! {
        # -O1: the code only copies fields, and it compiles faster.
        cmake -S "$package" -B "$build" -G "Unix Makefiles" -Wno-dev \
            -DCMAKE_INSTALL_PREFIX="$venv" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
            -DBUILD_TESTING=OFF -DPython3_EXECUTABLE="$venv/bin/python" -DPython3_FIND_VIRTUALENV=ONLY &&
            cmake --build "$build" -j "${JOBS:-$(nproc)}" &&
            cmake --install "$build"
    } >"$log" 2>&1; then
        tail -40 "$log" >&2
        echo "message package $name could not be built" >&2
        exit 1
    fi
done
