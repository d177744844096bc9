#!/usr/bin/env bash
# demo.sh: what is in here, in under two minutes. Three guests run in one boot of the test host, then the grader is shown.
set -eu
cd "$(dirname "$0")/.."

scene() { printf '\n\033[1m== %s ==\033[0m\n' "$*"; }
[ -t 1 ] || scene() { printf '\n== %s ==\n' "$*"; }

echo "Building hv and its guests."
make -s -j2 hv guests testhost

linux="--engine kvm --mem 256M --initrd initrd.cpio --append 'console=ttyS0 quiet'"
scenes=$(
	cat <<-END
		echo '@1'
		hv run --trace exits hello.elf 2>trace
		cat trace
		echo '@2'
		hv run --timeout 60 kernel.elf 2>&1
		echo '@3'
		hv run --timeout 120 $linux vmlinuz 2>&1
	END
)
echo "Starting the test host: a PC in software (QEMU), with Debian's kernel and a /dev/kvm of its own."
scripts/testhost-run --mem 1024 --file build/reference/hv --file build/guests/lab1/hello.elf --file build/guests/kernel.elf \
	--file build/guests/initrd.cpio --file build/testhost/vmlinuz -- "$scenes" |
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
		@3)
			scene "3. Debian's kernel, unmodified, on the kvm engine"
			echo "\$ hv run $linux vmlinuz"
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
scene "4. The grader on the starter files: nothing is written yet, and it says what to do first"
echo "\$ make grade LAB=1"
./grader/grade 1 --solution $starter || [ $? -eq 1 ]
if [ -d reference-solution ]; then
	scene "... and on the reference solution"
	echo "\$ ./grader/grade 1 --solution reference-solution"
	./grader/grade 1 --solution reference-solution || [ $? -eq 1 ]
fi
printf '\nYour turn: open labs/01-trap-emulate/README.md and machine.c beside it.\n'
