#!/usr/bin/env bash
# KenLM's estimator `lmplz` and its converter `build_binary`, compiled from the pinned source package on PyPI.
#
#   docker/build_kenlm.sh [FOLDER]
#
# leaves both programs in FOLDER (default: kenlm-VERSION/bin of the cache, see stages/assets.py) and prints that folder,
# and nothing else, on standard output. What is there already is used as it is. Needs a C++ compiler, CMake and Boost's
# headers; on Debian and as root they are installed where they are missing. About a minute on 2 cores.
# Ends with 1 and one line on standard error that says why where it cannot be done.
set -euo pipefail

version=0.3.0
sha256=c4628bb9fb63c8a6f9240035b8b037385cfc404cb72e933cf48878291edac1e8
cache="${TAMIS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tamis}"
folder="${1:-$cache/kenlm-$version/bin}"
packages="g++ make cmake libboost-program-options-dev libboost-system-dev libboost-test-dev libboost-thread-dev"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log="$work/log"

fail() {
    echo "KenLM $version was not built: $1" >&2
    if [ -s "$log" ]; then tail -n 5 "$log" | sed 's/^/    /' >&2; fi
    exit 1
}

has_tools() {
    command -v cmake >/dev/null && command -v make >/dev/null && command -v g++ >/dev/null &&
        printf '#include <boost/%s.hpp>\n' program_options thread test/unit_test |
        g++ -E -x c++ - >/dev/null 2>&1
}

if [ -x "$folder/lmplz" ] && [ -x "$folder/build_binary" ]; then
    echo "$folder"
    exit 0
fi

if ! has_tools; then
    command -v apt-get >/dev/null || fail "expected g++, make, CMake and Boost's headers, found no apt-get to install them"
    [ "$(id -u)" = 0 ] || fail "expected g++, make, CMake and Boost's headers; run \`apt-get install $packages\` as root"
    echo "KenLM $version: installing $packages" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt=(timeout 300 apt-get -qq -o DPkg::Lock::Timeout=120)
    # a machine with fresh package lists is spared the update
    # shellcheck disable=SC2086
    "${apt[@]}" install -y --no-install-recommends $packages >"$log" 2>&1 ||
        { "${apt[@]}" update >"$log" 2>&1 && "${apt[@]}" install -y --no-install-recommends $packages >>"$log" 2>&1; } ||
        fail "apt-get could not install $packages"
    has_tools || fail "Boost's headers are not where g++ looks for them"
fi

echo "KenLM $version: compiling lmplz and build_binary into $folder" >&2
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-input --no-deps --no-binary kenlm \
    --dest "$work" "kenlm==$version" >"$log" 2>&1 || fail "pip could not download the source package"
archive="$work/kenlm-$version.tar.gz"
found=$(sha256sum "$archive" | cut -d ' ' -f 1)
[ "$found" = "$sha256" ] || fail "expected a source package with SHA-256 $sha256, found $found"
tar -xzf "$archive" -C "$work"
# static Boost and no codecs: the programs run where only the C++ library is installed
cmake -S "$work/kenlm-$version" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DBoost_USE_STATIC_LIBS=ON \
    -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON -DCMAKE_DISABLE_FIND_PACKAGE_ZLIB=ON -DCMAKE_DISABLE_FIND_PACKAGE_BZip2=ON \
    -DCMAKE_DISABLE_FIND_PACKAGE_LibLZMA=ON >"$log" 2>&1 || fail "cmake failed"
cmake --build "$work/build" --target lmplz build_binary --parallel "$(nproc)" >"$log" 2>&1 || fail "the compiler failed"

mkdir -p "$folder"
for program in lmplz build_binary; do
    cp "$work/build/bin/$program" "$folder/.$program.$$"
    mv -f "$folder/.$program.$$" "$folder/$program" # whole or not at all
done
echo "$folder"
