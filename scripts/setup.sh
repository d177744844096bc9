#!/usr/bin/env bash
# setup.sh          installs what this machine lacks, saying what and why; at once and silent when nothing is missing
# setup.sh --check  installs nothing; exit status 1 and one sentence when something to build and grade with is missing
# setup.sh --list   installs nothing; exit status 1 and a line for everything that is missing
# setup.sh --docs   installs what only `make docs` needs
# setup.sh --slides installs what only `make slides` needs
# setup.sh --bench  installs what only `make bench-io` needs
#
# A thing counts as present when it can be used (a command is found, a header compiles), not when a package is registered,
# so the check holds on any distribution.
set -u

missing_packages=()
missing_reasons=()

lacks() { # PACKAGE REASON
	missing_packages+=("$1")
	missing_reasons+=("$2")
}
command_from() { # COMMAND PACKAGE REASON
	command -v "$1" >/dev/null 2>&1 || lacks "$2" "$3"
}
header_from() { # HEADERS PACKAGE REASON
	command -v gcc >/dev/null 2>&1 &&
		for h in $1; do echo "#include <$h>"; done | gcc -E -x c - >/dev/null 2>&1 || lacks "$2" "$3"
}
module_from() { # MODULE PACKAGE REASON; for the interpreter that sphinx-build runs on, which need not be the first on the path
	interpreter=$(sed -n '1s/^#! *//p' "$(command -v sphinx-build)" 2>/dev/null)
	${interpreter:-false} -c "import $1" >/dev/null 2>&1 || lacks "$2" "$3"
}

# Tools of Debian live in /usr/sbin too, which an ordinary user may not search.
PATH=$PATH:/usr/sbin:/sbin

needed_by_slides() {
	command_from node nodejs "runs marp-cli, which renders the slides"
	command_from npm npm "fetches marp-cli, in the version that slides/package-lock.json names"
	command_from chromium chromium "prints the slides and measures them"
	command_from pdfinfo poppler-utils "tells whether a PDF is tagged"
	{ command -v fc-list && fc-list | grep 'Liberation Sans'; } >/dev/null 2>&1 || lacks fonts-liberation "is what the slides are set in"
	{ command -v fc-list && fc-list | grep 'DejaVu Sans Mono'; } >/dev/null 2>&1 || lacks fonts-dejavu-core "is what their code is set in"
}

needed_by_docs() {
	command_from sphinx-build python3-sphinx "makes the pages and the manual page"
	module_from myst_parser python3-myst-parser "reads their Markdown"
	module_from furo furo "is what they look like"
	command_from mandoc mandoc "checks the manual page"
}

needed_by_bench() {
	command_from fio fio "reads and writes the disk of a guest, to measure it"
	command_from iperf3 iperf3 "sends over the network of a guest, to measure it"
}

needed_by_labs() { # --check leaves out what is not needed to build and to grade
	command_from gcc gcc "compiles hv, its guests and its tests"
	command_from make make "builds everything"
	header_from "stdio.h linux/kvm.h" libc6-dev "the C library's headers and the kernel's <linux/kvm.h>"
	header_from Zydis/Zydis.h libzydis-dev "decodes the instructions that hv emulates"
	header_from slirp/libslirp.h libslirp-dev "is the network of a guest that needs no privileges (--net user)"
	header_from liburing.h liburing-dev "reads and writes disk images while the guest goes on"
	header_from zstd.h libzstd-dev "packs the memory of a VM that is saved or moved"
	header_from cjson/cJSON.h libcjson-dev "reads what a running hv answers to hv ctl and hv list"
	command_from mke2fs e2fsprogs "makes the disks that guests boot from"
	command_from python3 python3 "runs the grader and the scripts"
	command_from qemu-system-x86_64 qemu-system-x86 "is the test host: a PC in software on which every lab works"
	{ command -v busybox && busybox true; } >/dev/null 2>&1 || lacks busybox-static "is the user space of the test host"
	if [ "$1" != --check ]; then
		# Needed for Lab 3 alone; where it is missing, the grader says what it did not check.
		command_from bochs-bin bochs "is the second test host: a PC in software whose processor is an Intel one"
		compgen -G '/usr/lib*/bochs/plugins/libbx_term*' >/dev/null || compgen -G '/usr/lib/*/bochs/plugins/libbx_term*' >/dev/null ||
			lacks bochs-term "lets Bochs run without a display"
		# Needed by the tests and by anyone who looks inside a guest.
		header_from "stdarg.h stddef.h setjmp.h stdint.h cmocka.h" libcmocka-dev "runs the unit tests"
		header_from zlib.h zlib1g-dev "packs what the tests read from the test host"
		command_from gdb gdb "looks into a guest, and tests hv's debugger port"
		command_from cppcheck cppcheck "checks the C code in make lint"
		{ command -v clang && echo "int main(void) { return 0; }" | clang -fsanitize=address -x c -o /dev/null -; } >/dev/null 2>&1 || lacks clang "lets random drivers loose on the devices (make fuzz)"
		compgen -G "/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer*" >/dev/null || lacks libclang-rt-14-dev "is the library of libFuzzer"
	fi
}

case "${1:-}" in
--docs) needed_by_docs ;;
--slides) needed_by_slides ;;
--bench) needed_by_bench ;;
*) needed_by_labs "${1:-}" ;;
esac

[ ${#missing_packages[@]} -eq 0 ] && exit 0
if [ "${1:-}" = --check ]; then
	echo "Missing on this machine: ${missing_packages[*]}. Type: make setup" >&2
	exit 1
fi

explain() {
	for i in "${!missing_packages[@]}"; do printf '  %-17s %s\n' "${missing_packages[i]}:" "${missing_reasons[i]}"; done
}
if [ "${1:-}" = --list ]; then
	explain
	exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "This is not a Debian system, so nothing was installed. Please install with your package manager (Debian's names):" >&2
	explain >&2
	exit 1
fi

echo "Installing through apt:"
explain

as_root=()
if [ "$(id -u)" -ne 0 ]; then
	# Without a terminal sudo must not wait for a password that nobody types.
	if command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
		as_root=(sudo)
	else
		echo "Neither root nor sudo is available here. As an administrator, type:" >&2
		echo "  apt-get update && apt-get install --no-install-recommends ${missing_packages[*]}" >&2
		exit 1
	fi
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" </dev/null >>"$log" 2>&1; }
# The package lists may be old or absent, so they are fetched before a failure is believed.
if ! apt install --no-install-recommends "${missing_packages[@]}"; then
	apt update
	if ! apt install --no-install-recommends "${missing_packages[@]}"; then
		tail -n 20 "$log" >&2
		echo "apt-get could not install ${missing_packages[*]}; its last words are above." >&2
		exit 1
	fi
fi
echo "Done."
