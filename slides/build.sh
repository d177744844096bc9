#!/usr/bin/env bash
# build.sh           every deck as one HTML file and as tagged PDF, in build/slides
# build.sh --tools   only installs what that needs: Debian's packages, and marp-cli into slides/node_modules
set -eu
cd "$(dirname "$0")"

../scripts/setup.sh --slides
# npm keeps a copy of the lock file beside what it installed; an older one means that the lock file has changed since.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
	echo "Installing marp-cli and what it consists of into slides/node_modules (npm ci)."
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
fi
[ "${1:-}" = --tools ] && exit 0

out=../build/slides
mkdir -p $out
CHROME_PATH=$(command -v chromium)
export CHROME_PATH
[ "$(id -u)" -ne 0 ] || export CHROME_NO_SANDBOX=1 # chromium has no sandbox for root

marp() {
	if ! node_modules/.bin/marp --config marp.config.mjs "$@" 2>$out/marp.log; then
		cat $out/marp.log >&2
		exit 1
	fi
}
for deck in [0-9][0-9]-*.md; do
	name=$out/${deck%.md}
	marp "$deck" -o "$name.html"
	marp "$deck" --pdf --pdf-outlines --pdf-outlines.pages=false -o "$name.pdf"
	slides=$(grep -o '<section ' "$name.html" | wc -l)
	pages=$(pdfinfo "$name.pdf" | sed -n 's/^Pages: *//p')
	if ! pdfinfo "$name.pdf" | grep -q '^Tagged: *yes'; then
		echo "$deck: the PDF is not tagged, so a screen reader cannot read it." >&2
		exit 1
	fi
	if [ "$slides" -ne "$pages" ]; then
		echo "$deck: $slides slides became $pages pages." >&2
		exit 1
	fi
	echo "build/slides/${deck%.md}.html and .pdf: $pages pages, tagged"
done
