#!/usr/bin/env bash
# testhost.sh: gets the kernel of the test host into build/testhost/{vmlinuz,modules/*.ko}, and into build/testhost/guest/*.ko the modules
# that the same kernel needs as a guest on virtio devices.
#
# It is Debian's linux-image-cloud-amd64, downloaded and unpacked, never installed. Without Debian's archive, name another
# x86-64 Linux kernel of 6.1 or later: TESTHOST_KERNEL=/boot/vmlinuz-... TESTHOST_MODULES=/lib/modules/... make testhost
set -eu
cd "$(dirname "$0")/.."
to=build/testhost
modules="irqbypass ccp kvm kvm-amd kvm-intel"
guest_modules="virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_mmio virtio_blk failover net_failover virtio_net
	virtio_console rng-core virtio-rng virtio_balloon ext4"
tmp=
trap 'rm -rf "$to.new" $tmp' EXIT

fail() {
	echo "$*" >&2
	exit 1
}
elsewhere="Name a kernel yourself: make testhost TESTHOST_KERNEL=/path/to/vmlinuz TESTHOST_MODULES=/path/to/lib/modules/VERSION"

# Copies one kernel and the modules that make /dev/kvm with SVM, uncompressed, because insmod of busybox wants them so.
# A module that is built into the kernel has no file: only kvm and kvm-amd are always modules.
take_module() { # MODULE MODULE-DIRECTORY TO
	found=$(find "$2" -name "$1.ko*" | head -n 1)
	case $found in
	"") ;;
	*.ko) cp "$found" "$3/" ;;
	*.ko.xz) xz -dc "$found" >"$3/$1.ko" ;;
	*.ko.zst) zstd -qdc "$found" >"$3/$1.ko" ;;
	*) fail "$found: this kind of compression is not known here." ;;
	esac
}

take() { # VMLINUZ MODULE-DIRECTORY
	rm -rf "$to.new"
	mkdir -p "$to.new/modules" "$to.new/guest"
	cp "$1" "$to.new/vmlinuz"
	for m in $modules; do take_module "$m" "$2" "$to.new/modules"; done
	for m in $guest_modules; do take_module "$m" "$2" "$to.new/guest"; done
	[ -f "$to.new/modules/kvm-amd.ko" ] || fail "$2 holds no kvm-amd module, so this kernel cannot serve as the test host."
	chmod -R u+w,a+r "$to.new"
	rm -rf "$to"
	mv "$to.new" "$to"
}

if [ -n "${TESTHOST_KERNEL:-}${TESTHOST_MODULES:-}" ]; then
	[ -f "${TESTHOST_KERNEL:-}" ] || fail "TESTHOST_KERNEL=${TESTHOST_KERNEL:-} is not a file. It must name a Linux kernel (vmlinuz)."
	[ -d "${TESTHOST_MODULES:-}" ] || fail "TESTHOST_MODULES=${TESTHOST_MODULES:-} is not a directory. It must hold that kernel's modules."
	take "$TESTHOST_KERNEL" "$TESTHOST_MODULES"
	exit 0
fi
[ -f $to/vmlinuz ] && [ -f $to/modules/kvm-amd.ko ] && [ -f $to/modules/kvm-intel.ko ] && [ -d $to/guest ] && exit 0

command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 ||
	fail "The test host's kernel is fetched with apt-get, which this machine does not have. $elsewhere"

# On an x86-64 Debian the plain name is the right one; elsewhere (Arm) the archive must have been told about amd64.
suffix=
[ "$(dpkg --print-architecture)" = amd64 ] || suffix=:amd64

# linux-image-cloud-amd64 is empty and depends on the package of the current version.
find_package() {
	apt-cache depends "linux-image-cloud-amd64$suffix" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1
}
package=$(find_package)
if [ -z "$package" ]; then
	# Fresh containers have no package lists.
	if [ "$(id -u)" -eq 0 ]; then
		apt-get -q update >/dev/null 2>&1 || true
	elif sudo -n true 2>/dev/null; then
		sudo -n apt-get -q update >/dev/null 2>&1 || true
	fi
	package=$(find_package)
fi
if [ -z "$package" ]; then
	[ -z "$suffix" ] || fail "apt knows no package linux-image-cloud-amd64:amd64 (on Arm: dpkg --add-architecture amd64, then apt-get update). $elsewhere"
	fail "apt knows no package linux-image-cloud-amd64 (Debian has it; its lists may be missing: apt-get update). $elsewhere"
fi

echo "Downloading $package, the kernel of the test host (it is unpacked, not installed)."
mkdir -p build
tmp=$(mktemp -d build/testhost.XXXXXX)
# As root, apt would hand the download to a user who cannot write here, and complain about it.
(cd "$tmp" && apt-get -q download -o APT::Sandbox::User=root "$package" >log 2>&1) ||
	fail "apt-get could not download $package: $(tail -n 1 "$tmp/log") $elsewhere"
dpkg-deb -x "$tmp"/*.deb "$tmp"
take "$tmp"/boot/vmlinuz* "$tmp"
