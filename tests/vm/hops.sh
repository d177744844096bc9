# A guest's life in several places: hops.sh IMAGE ENGINE [MICROSECONDS ENGINE]...
# It begins with the first ENGINE (options of hv, with commas instead of blanks); after so many microseconds it is saved, ends there, and goes on
# from the file with the next one. Standard output is what the guest printed; on standard error a line for each place: engine, how hv
# ended, and "saved" or "ended". What hv said itself goes there, too.
image=$1 engine=$2
shift 2
dir=/tmp/hops.$$
mkdir -p $dir
begin="hv run $image"
while :; do
	rm -f $dir/socket
	$begin --engine $(echo $engine | tr , ' ') --timeout 40 --control $dir/socket </dev/null 2>$dir/err &
	hv=$!
	end=ended
	if [ $# -gt 0 ]; then
		usleep $1
		hv ctl $dir/socket save $dir/state --quit >/dev/null 2>&1 && end=saved
	fi
	wait $hv
	status=$?
	cat $dir/err >&2
	echo "place $engine $status $end" >&2
	[ $end = saved ] && [ $status = 0 ] || break
	engine=$2 begin="hv restore $dir/state"
	shift 2
done
rm -r $dir
exit $status
