#!/usr/bin/env bash
# demo.sh: what is in here, in under two minutes. Seven guests run in one boot of the test host, then the grader is shown.
set -eu
cd "$(dirname "$0")/.."

scene() { printf '\n\033[1m== %s ==\033[0m\n' "$*"; }
[ -t 1 ] || scene() { printf '\n== %s ==\n' "$*"; }

# What became of the exits of three runs, side by side, from hv's statistics.
compare() {
	python3 - "$@" <<-'END'
		import json, sys

		runs = [json.loads(text) for text in sys.argv[1:]]
		rows = {
		    "faults that only hv's tables had": lambda run: run["shadow"]["hidden"] if "shadow" in run else run["nested"]["violations"],
		    "page faults of the guest's own": lambda run: run["shadow"]["true"] if "shadow" in run else 0,
		    "stores to page tables, emulated": lambda run: run["shadow"]["emulated"] if "shadow" in run else 0,
		    "exits, with all other instructions": lambda run: run["exits"],
		}
		names = [run["shadow"]["mode"] if "shadow" in run else "hvm" for run in runs]
		print("\n%-38s" % "What left the guest:" + "".join("%10s" % name for name in names))
		for name, count in rows.items():
		    print("%-38s" % name + "".join("%10d" % count(run) for run in runs))
		print("1,024 of the shadows' faults, and of the guest's, are first touches. With nested tables the guest's faults are its own affair.")
	END
}

echo "Building hv and its guests."
make -s -j2 hv guests testhost

# What the Linux of the last scene does with its disk and its network.
mkdir -p build/demo
scripts/guest_linux.py --devices disk,net --disk build/demo/root.img - build/demo/disk.cpio <<-'END'
	echo "$(nproc) CPUs; the root file system is $(mount | awk '$3 == "/" { print $5 " on " $1; exit }')"
	ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0
	ping -q -c 3 10.0.2.2 | tail -n 2
	dd if=/dev/urandom of=/file bs=64k count=32 2>/dev/null; sync; echo "2 MiB written, and durable"
	grep virtio /proc/interrupts
END

fork="--append only=bigfork"
linux="--mem 256M --initrd initrd.cpio --append 'console=ttyS0 quiet'"
devices="--cpus 2 --mem 256M --initrd disk.cpio --disk root.img --net user --append 'console=ttyS0 quiet'"
scenes=$(
	cat <<-END
		echo '@1'
		hv run --trace exits hello.elf 2>trace
		cat trace
		echo '@2'
		hv run --timeout 60 kernel.elf 2>&1
		for mode in '--shadow vtlb' '--shadow cached' '--engine hvm'; do
			echo "@3 \$mode"
			hv run --timeout 60 \$mode --stats json $fork paging.elf 2>stats
			sed '\$d' stats
			echo "@stats \$(tail -n 1 stats)"
		done
		for engine in kvm hvm; do
			echo "@4 \$engine"
			hv run --timeout 120 --engine \$engine $linux vmlinuz 2>err
			grep '^hv:' err
		done
		echo '@5'
		hv run --timeout 120 --engine kvm $devices vmlinuz 2>err
		grep '^hv:' err
	END
)
echo "Starting the test host: a PC in software (QEMU), with Debian's kernel and a /dev/kvm of its own."
scripts/testhost-run --mem 1024 --file build/reference/hv --file build/guests/lab1/hello.elf --file build/guests/kernel.elf \
	--file build/guests/paging.elf --file build/guests/initrd.cpio --file build/testhost/vmlinuz \
	--file build/demo/disk.cpio --file build/demo/root.img -- "$scenes" |
	while IFS= read -r line; do
		case $line in
		@1)
			scene "1. Trap and emulate: every privileged instruction of hello.S leaves the guest"
			echo "\$ hv run --trace exits hello.elf"
			;;
		@2)
			scene "2. The course's kernel: processes at its own ring 3, preempted by a timer; all of it runs at CPL 3"
			echo "\$ hv run kernel.elf"
			;;
		"@3 --shadow vtlb")
			scene "3. The kernel with page tables of its own: a process with 1,024 pages forks, under a virtual TLB ..."
			echo "\$ hv run --shadow vtlb --stats json $fork paging.elf"
			;;
		"@3 --shadow cached")
			scene "... and with shadow page tables that outlive a change of address space"
			echo "\$ hv run --shadow cached --stats json $fork paging.elf"
			;;
		"@3 --engine hvm")
			scene "... and in guest mode, where the CPU walks the guest's tables and hv's nested ones by itself"
			echo "\$ hv run --engine hvm --stats json $fork paging.elf"
			;;
		"@stats "*) stats+=("${line#@stats }") ;;
		"@4 kvm")
			compare "${stats[@]}"
			scene "4. Debian's kernel, unmodified, on the kvm engine ..."
			echo "\$ hv run --engine kvm $linux vmlinuz"
			;;
		"@4 hvm")
			scene "... and on the hvm engine: CPU, memory, interrupts and devices are all hv's"
			echo "\$ hv run --engine hvm $linux vmlinuz"
			;;
		@5)
			scene "5. Two CPUs, a disk and a network: Debian's own drivers on virtio devices"
			echo "\$ hv run --engine kvm $devices vmlinuz"
			;;
		*) printf '%s\n' "$line" ;;
		esac
	done

# The starter is graded in its untouched form, whatever is in labs/ by now; a student's tree has only the latter.
starter=labs
if [ -d reference-solution/01-trap-emulate ]; then
	starter=build/demo
	rm -rf $starter
	mkdir -p $starter/reference-solution
	cp -r reference-solution/01-trap-emulate $starter/reference-solution/
	python3 scripts/starters.py --root $starter >/dev/null
	starter=$starter/labs
fi
scene "6. The grader on the starter files: nothing is written yet, and it says what to do first"
echo "\$ make grade LAB=1"
./grader/grade 1 --solution $starter || [ $? -eq 1 ]
if [ -d reference-solution ]; then
	scene "... and on the reference solution"
	echo "\$ ./grader/grade 1 --solution reference-solution"
	./grader/grade 1 --solution reference-solution || [ $? -eq 1 ]
fi
printf '\nYour turn: open labs/01-trap-emulate/README.md and machine.c beside it.\n'
