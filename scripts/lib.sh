# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# What scripts/run and scripts/test share: finding and installing what a build
# needs, and building out of the tree. Sourced with $root set to the repository.
# Progress goes to stderr, one line a step; the rest to logs under build/.

build=${root:?}/build
CC=${CC:-cc}

say() {
  printf '%s\n' "$*" >&2
}

die() {
  say "${0##*/}: $*"
  exit 1
}

# ---- what is missing
# Each need_ adds to $missing_packages (names on Debian and Ubuntu) and, for other
# systems, to $missing_things. A library counts by pkg-config, whichever flavour of
# its -dev package brought it.

missing_packages=
missing_things=

missing() { # PACKAGE THING
  missing_packages="$missing_packages $1"
  missing_things="$missing_things
  $2"
}

need_command() { # COMMAND PACKAGE
  command -v "$1" >/dev/null 2>&1 || missing "$2" "$1"
}

need_library() { # PKG-CONFIG MODULE WITH VERSION, PACKAGE
  pkg-config --exists "$1" 2>/dev/null || missing "$2" "$1 (a library with its headers)"
}

compiler() {
  # shellcheck disable=SC2086 # CC may hold options
  $CC "$@"
}

# Two sets, as the second is asked of what the first installs.
need_tools() {
  command -v "${CC%% *}" >/dev/null 2>&1 || missing gcc "a C compiler ($CC)"
  need_command make make
  need_command pkg-config pkg-config
  if [ ! -x "$root/configure" ] || [ -e "$root/.git" ]; then
    need_command autoconf autoconf
    need_command automake automake
  fi
  printf '#include <stdlib.h>\n' | compiler -E - >/dev/null 2>&1 ||
    missing libc6-dev 'the headers of the C library'
}

# As in configure.ac.
need_libraries() {
  need_library 'libmicrohttpd >= 0.9.71' libmicrohttpd-dev
  need_library 'libcurl >= 7.87' libcurl4-gnutls-dev
  need_library 'sqlite3 >= 3.35' libsqlite3-dev
  need_library 'zlib' zlib1g-dev
  need_library 'nettle' nettle-dev
  need_library 'jansson' libjansson-dev
}

need_test_parts() {
  need_library 'criterion >= 2.3.3' libcriterion-dev
  need_command curl curl
}

apt_get() {
  if [ "$(id -u)" = 0 ]; then
    set -- env DEBIAN_FRONTEND=noninteractive apt-get "$@"
  elif [ -t 0 ] && [ -t 2 ]; then
    set -- sudo env DEBIAN_FRONTEND=noninteractive apt-get "$@"
  else
    set -- sudo -n env DEBIAN_FRONTEND=noninteractive apt-get "$@"
  fi
  say "+ $*"
  "$@" >>"$build/apt.log" 2>&1 </dev/null
}

ask() {
  missing_packages='' missing_things=''
  for need in "$@"; do "$need"; done
}

# provide NEED...: runs each NEED, installs what they miss, and asks once more.
provide() {
  ask "$@"
  [ -n "$missing_packages" ] || return 0

  if ! command -v apt-get >/dev/null 2>&1; then
    die "missing, please install:$missing_things"
  fi
  advice="apt-get install$missing_packages"
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then
    die "missing, and neither root nor sudo to install it:$missing_things
run as root: $advice"
  fi
  : >"$build/apt.log"
  # Old lists may name packages that are gone. One broken source among many does
  # not matter if the install works.
  apt_get -o DPkg::Lock::Timeout=300 update || true
  # shellcheck disable=SC2086 # a list of words
  if ! apt_get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing_packages; then
    tail -n 20 "$build/apt.log" >&2
    die "could not install, try as root: $advice"
  fi

  ask "$@"
  [ -z "$missing_packages" ] ||
    die "still missing, this system's packages are too old:$missing_things"
}

# ---- building

jobs=$(nproc 2>/dev/null || echo 1)

# logged LOG COMMAND...: runs it with its output in LOG, which is shown on failure.
logged() {
  logged_in=$1
  shift
  if "$@" >"$logged_in" 2>&1 </dev/null; then
    return 0
  fi
  say "failed: $*"
  tail -n 100 "$logged_in" >&2
  say "(from $logged_in)"
  return 1
}

make_configure() {
  if [ -x "$root/configure" ] && [ -f "$root/Makefile.in" ]; then
    return 0
  fi
  say 'Making configure'
  mkdir -p "$root/build-aux"
  (cd "$root" && logged "$build/autoreconf.log" autoreconf -i)
}

# Whether FOLDER is configured, for this place of the tree. make(1) itself sees to
# changes of configure.ac and Makefile.am.
configured() { # FOLDER
  [ -f "$1/Makefile" ] && grep -qxF "abs_top_builddir = $1" "$1/Makefile"
}

# configure_in FOLDER FLAG...
configure_in() {
  folder=$1
  shift
  make_configure || return 1
  mkdir -p "$folder"
  say "Configuring ${folder#"$root/"}${*:+ with $*}"
  (cd "$folder" && logged configure.log "$root/configure" "$@")
}

# make_in FOLDER TARGET...
make_in() {
  folder=$1
  shift
  say "Building in ${folder#"$root/"}"
  logged "$folder/make.log" make -C "$folder" -j "$jobs" "$@"
}
