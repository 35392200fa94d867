#!/bin/sh
# Makes sure that MuJoCo can render without a screen; installs a software renderer where nothing renders and it may.
#   ensure_rendering.sh BIN     BIN: the folder of the virtual environment's programs
set -u
"$1/alda" doctor --renderer-only >/dev/null 2>&1 && exit 0
packages="libegl1 libopengl0 libgl1-mesa-dri"
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
  echo "nothing renders here yet; installing $packages"
  $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq --no-install-recommends $packages >/dev/null
fi
exec "$1/alda" doctor --renderer-only
