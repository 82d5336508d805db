#!/usr/bin/env bash
# Puts CRIU 4 into a private prefix: `scripts/criu.sh [PREFIX]`. Prints the path of a wrapper that starts it. Harmless when run again.
#
# Debian 12's criu 3.17 fails on kernels from 6.x on (vdso), and the newer one needs a newer libc. So criu and its
# libraries are unpacked beside the system, never into it, and started through their own loader. The mirror is the one
# this machine's own apt sources name; only the suite is another.
set -euo pipefail

prefix=${1:-${FAAS_CRIU_PREFIX:-.faas/criu}}
wrapper=$prefix/criu
arch=$(dpkg --print-architecture)
case $arch in
  amd64) loader=lib64/ld-linux-x86-64.so.2 triple=x86_64-linux-gnu ;;
  arm64) loader=lib/ld-linux-aarch64.so.1 triple=aarch64-linux-gnu ;;
  *) echo "criu: no package for $arch" >&2; exit 1 ;;
esac
if [ -x "$wrapper" ] && "$wrapper" --version >/dev/null 2>&1; then
  echo "$wrapper"
  exit 0
fi

mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
[ -n "$mirror" ] || mirror=$(awk '$1=="deb" && /debian/{for(i=2;i<=NF;i++) if ($i ~ /:\/\//) {print $i; exit}}' /etc/apt/sources.list)
[ -n "$mirror" ] || { echo "criu: no Debian mirror in this machine's apt sources" >&2; exit 1; }

mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
wrapper=$prefix/criu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/lists/partial "$work"/cache/archives/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o Dir::State::status=/dev/null
  -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
"${apt[@]}" update
"${apt[@]}" -y --no-install-recommends -d install criu >/dev/null
rm -rf "$prefix/root.new" && mkdir "$prefix/root.new"
for package in "$work"/cache/archives/*.deb; do dpkg-deb -x "$package" "$prefix/root.new"; done
rm -rf "$prefix/root" && mv "$prefix/root.new" "$prefix/root"

[ -e "$prefix/root/$loader" ] || loader=usr/$loader
cat >"$wrapper" <<WRAP
#!/bin/sh
exec "$prefix/root/$loader" --library-path "$prefix/root/usr/lib/$triple:$prefix/root/lib/$triple" "$prefix/root/usr/sbin/criu" "\$@"
WRAP
chmod +x "$wrapper"
"$wrapper" --version >&2
echo "$wrapper"
