#!/bin/sh
# Installs the Debian packages that moed needs, if any is missing: packages.sh [test]
# Runs apt-get directly as root, through sudo otherwise.
set -eu

packages="gcc cmake ninja-build pkg-config libc6-dev libevent-dev libuv1-dev libjansson-dev libpcre2-dev
libutf8proc-dev libxxhash-dev"
if [ "${1:-}" = test ]; then
    packages="$packages git curl ccache libcmocka-dev clang-14 libclang-rt-14-dev clang-format-14 clang-tidy-14
python3 python3-venv python3-pip systemd xz-utils"
fi

missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    echo "these packages are missing, and neither root nor sudo is at hand:$missing" >&2
    exit 1
fi
echo "installing:$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
