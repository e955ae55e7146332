# shellcheck shell=bash
# Sourced by the commands beside it: installs the packages they name and builds a preset, quietly.
# Everything said here goes to standard error; standard output belongs to the program started.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# README.md says what each is for.
program_packages=(
  g++ cmake ninja-build pkgconf
  qt6-base-dev libqcustomplot-dev libhwy-dev nlohmann-json3-dev libcli11-dev
  libpcre2-dev libzip-dev libxxhash-dev liblzma-dev libzstd-dev libopenblas-dev
  fonts-dejavu-core)

# A build with more compilers than cores can run out of memory.
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
# Qt wants UTF-8; a bare system has none chosen.
[[ $(locale charmap 2>/dev/null) == UTF-8 ]] || export LC_ALL=C.UTF-8

say() { printf '==> %s\n' "$*" >&2; }

fail() {
  printf 'packaging/%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# quietly NAME COMMAND...: the output goes to build/NAME.log, and is shown when the command fails.
quietly() {
  local log=$root/build/$1.log
  shift
  mkdir -p "$root/build"
  "$@" >"$log" 2>&1 || { cat "$log" >&2; fail "this failed: $*"; }
}

missing_of() {
  local package
  for package in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed* ]] ||
      echo "$package"
  done
}

# apt_install PACKAGE...: as root, asking nothing.
apt_install() {
  local apt=(env DEBIAN_FRONTEND=noninteractive
    apt-get --yes -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
  ((EUID == 0)) || apt=(sudo "${apt[@]}")
  "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "$@"
}

can_install() {
  ((EUID == 0)) && return
  command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }
}

# install_packages [PACKAGE...]: what the program needs, and these, where missing.
install_packages() {
  if ! command -v apt-get >/dev/null; then
    say "No apt-get here, so nothing is installed. The build needs a C++20 compiler, CMake 3.25," \
      "Ninja, pkg-config, Qt 6.4, QCustomPlot 2.1 for Qt 6, Highway, nlohmann-json, CLI11, PCRE2," \
      "libzip, liblzma, libzstd, xxHash and OpenBLAS, the tests Google Benchmark too; trying with what there is."
    return
  fi
  set -- "${program_packages[@]}" "$@"
  # Without X11, Qt needs its Wayland plugin.
  [[ -n ${DISPLAY:-} || -z ${WAYLAND_DISPLAY:-} ]] || set -- "$@" qt6-wayland
  local missing
  mapfile -t missing < <(missing_of "$@")
  ((${#missing[@]} == 0)) && return
  can_install || fail "these packages are missing and installing them needs root:" \
    "apt-get install --no-install-recommends ${missing[*]}"
  say "Installing ${missing[*]}"
  quietly packages apt_install "${missing[@]}"
}

# build PRESET [CMAKE OPTION...]: into build/PRESET.
build() {
  local preset=$1
  shift
  if ! command -v nvcc >/dev/null && [[ -x /usr/local/cuda/bin/nvcc ]]; then
    PATH=$PATH:/usr/local/cuda/bin
  fi
  quietly configure cmake -S "$root" --preset "$preset" "$@"
  say "$(sed -n 's/^-- \(CUDA: \)/\1/p' "$root/build/configure.log")"
  say "Building in build/$preset"
  cmake --build "$root/build/$preset" >&2
}

# gpu_architectures: the compute capabilities of this machine's GPUs, if every nvcc that will do knows
# them all, and so do the kernels.
gpu_architectures() {
  nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -u |
    awk '!/^(75|80|86|87|89|90)$/ { exit 1 } { all = all (NR > 1 ? ";" : "") $1 } END { print all }'
}

# Without tests and benchmarks, and only for the GPUs that are here, if any are.
build_program() {
  local architectures
  architectures=$(gpu_architectures) || architectures=
  build release -DMB_TESTS=OFF -DMB_BENCHMARKS=OFF -DMB_FUZZ=OFF \
    ${architectures:+"-DMB_CUDA_ARCHITECTURES=$architectures"}
}
