#!/usr/bin/env bash
# Makes a local environment: ROS 2 from PyPI wheels, everything this package needs, and its generated messages.
# Called by make. Steps whose inputs have not changed are skipped, so calling it again takes no time.
#
#   VENV=<folder>       where to make it (.venv)
#   PYTHON=<program>    which Python: 3.11 gets ROS 2 Kilted, 3.12 gets Jazzy (the first of these that works)
#   TORCH_INDEX=<url>   package index to take PyTorch from, for example https://download.pytorch.org/whl/cu126;
#                       "default" for pip's own choice, which on PyPI is the CUDA build (default: a CPU build if to be had)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=$(realpath -m "${VENV:-.venv}")

# A sourced ROS or another environment must not leak in: its libraries would mix with those of the wheels.
unset AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONHOME PYTHONPATH VIRTUAL_ENV
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

fail() {
  printf '\nSet-up failed: %s\n' "$1" >&2
  shift
  printf '%s\n' "$@" >&2
  exit 1
}

# --- Which Python -----------------------------------------------------------------------------------------------------

# Prints "3.11" or "3.12" if the program runs and can build the environment, otherwise the reason why not and fails.
check_python() {
  local version
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || { echo "does not run"; return 1; }
  [[ $version == 3.11 || $version == 3.12 ]] || { echo "is $version; ROS wheels exist for 3.11 and 3.12"; return 1; }
  "$1" -c 'import venv, ensurepip' 2>/dev/null ||
    { echo "cannot make environments (Debian, Ubuntu: sudo apt install python$version-venv)"; return 1; }
  "$1" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    { echo "has no headers to build messages with (Debian, Ubuntu: sudo apt install python$version-dev)"; return 1; }
  echo "$version"
}

# Tells one Python from another, also from inside an environment made with it.
IDENTITY='import sys; print(sys.version_info[:3], sys.base_prefix)'

find_python() {
  local candidates=(python3.11 python3.12) reasons=() candidate answer
  [[ -n ${PYTHON:-} ]] && candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if answer=$(check_python "$candidate"); then
      PYTHON=$candidate PYTHON_VERSION=$answer
      return
    fi
    reasons+=("  $candidate $answer")
  done
  fail "no usable Python." "${reasons[@]}" "Install Python 3.11 or 3.12, or say where one is: make PYTHON=/path/to/python3.12 ..."
}

check_machine() {
  [[ $(uname -sm) == "Linux x86_64" ]] ||
    fail "the ROS wheels on PyPI are for Linux x86_64, this is $(uname -sm)." "With a ROS 2 installation use colcon (see README)."
  command -v c++ >/dev/null || fail "no C++ compiler, the messages need one." "Debian, Ubuntu: sudo apt install build-essential"
}

# --- Steps ------------------------------------------------------------------------------------------------------------

CHAIN=""  # hash over the inputs of all steps so far: when one changes, the steps behind it are redone too

# step <name> <advice if it fails> <command...>, with the files it depends on in the array INPUTS
step() {
  local name=$1 advice=$2 key stamp log started=$SECONDS
  shift 2
  CHAIN=$( (echo "$CHAIN $*"; [[ ${#INPUTS[@]} == 0 ]] || find "${INPUTS[@]}" -type f -not -path '*/__pycache__/*' \
    -not -path '*/build/*' -not -path '*.egg-info/*' -print0 | sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-32)
  key=${name// /-} stamp=$VENV/.setup/${name// /-}.done log=$VENV/.setup/$key.log
  [[ -f $stamp && $(<"$stamp") == "$CHAIN" ]] && return
  printf 'set-up: %s ... ' "$name"
  mkdir -p "$VENV/.setup"
  rm -f "$stamp"
  if ! "$@" >"$log" 2>&1; then
    echo "failed"
    fail "step '$name'. The end of $log:" "" "$(tail -n 25 "$log")" "" "$advice"
  fi
  echo "$CHAIN" >"$stamp"
  echo "$((SECONDS - started)) s"
}

pip() { "$VENV/bin/python" -m pip "$@"; }

create_environment() {
  if [[ -e $VENV/pyvenv.cfg && $("$VENV/bin/python" -c "$IDENTITY") == "$1" ]]; then
    echo "keeping the one that is there"
  elif [[ -e $VENV/pyvenv.cfg ]]; then  # of another Python: empty it, but for the log we write to
    find "$VENV" -mindepth 1 -maxdepth 1 -not -name .setup -exec rm -rf {} +
    "$PYTHON" -m venv "$VENV"
  elif [[ -n $(find "$VENV" -mindepth 1 -maxdepth 1 -not -name .setup) ]]; then
    echo "$VENV has files in it and is no Python environment; choose another folder: make VENV=<folder> ..."
    return 1
  else
    "$PYTHON" -m venv "$VENV"
  fi
}

# The CPU build of PyTorch is 0.2 GB, the CUDA build that PyPI has for Linux some 3 GB. The CPU build has an index of its
# own; it is used only if pip, as it is configured here, does not offer a CPU build anyway, and if it can be reached: pip
# waits and retries for minutes on an index that cannot be.
CAN_REACH='
import sys, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=5)
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
'
torch_index() {
  local cpu=https://download.pytorch.org/whl/cpu
  if [[ ${TORCH_INDEX:-} == default ]]; then return; fi
  if [[ -n ${TORCH_INDEX:-} ]]; then echo "$TORCH_INDEX"; return; fi
  if pip install --quiet --dry-run --ignore-installed --no-deps --report - "$1" |
    grep -c '"version": "[0-9.]*+cpu"' >/dev/null; then return; fi
  if "$VENV/bin/python" - "$cpu/torch/" <<<"$CAN_REACH"; then echo "$cpu"; fi
}

install_pytorch() {
  local torch index
  torch=$(grep '^torch==' requirements/core.txt)
  index=$(torch_index "$torch")
  echo "from: ${index:-the indexes pip is configured with}"
  pip install ${index:+--extra-index-url "$index"} -c "requirements/locked-$STACK.txt" "$torch"
}

install_requirements() { pip install -r "requirements/$STACK.txt"; }

install_package() { pip install --no-build-isolation --no-deps --force-reinstall "$@"; }

check_imports() (
  cd /
  "$VENV/bin/python" -c 'import rclpy, torch, tf2_msgs.msg, occ_perception.msg; print(occ_perception.msg.__file__)'
)

# --- The whole --------------------------------------------------------------------------------------------------------

check_machine
find_python
case $PYTHON_VERSION in 3.11) STACK=kilted-py311 ;; 3.12) STACK=jazzy-py312 ;; esac
NETWORK="If the package index could not be reached: check the network (PIP_INDEX_URL or PIP_PROXY behind a company's proxy)
and run make again, it continues here."
BUILD="If the log does not tell why: make distclean, and run make again."

INPUTS=()
step "environment of Python $PYTHON_VERSION" "Is the disk full, or $VENV not writable?" \
  create_environment "$("$PYTHON" -c "$IDENTITY")"
INPUTS=("requirements/locked-$STACK.txt")
step "PyTorch" "$NETWORK" install_pytorch "${TORCH_INDEX:-}" "$(grep '^torch==' requirements/core.txt)"
INPUTS=(requirements/core.txt requirements/tools.txt "requirements/$STACK.txt" "requirements/locked-$STACK.txt")
step "packages of $STACK" "$NETWORK" install_requirements
INPUTS=(compat/tf2_msgs cmake)
step "messages of tf2" "$BUILD" install_package ./compat/tf2_msgs
INPUTS=(msg cmake launch config CMakeLists.txt package.xml setup.py pyproject.toml)
step "messages of occ_perception" "$BUILD" install_package --editable .
INPUTS=()
step "imports" "$BUILD" check_imports
