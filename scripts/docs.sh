#!/usr/bin/env bash
# docs.sh: makes the documentation in build/docs: pages in html/, the manual page man/hv.1. A warning is an error, and so is what
# docs_check.py finds: a link that leads nowhere, a picture without words, an option that the manual page forgot.
set -eu
cd "$(dirname "$0")/.."
out=build/docs

scripts/setup.sh --docs
rm -rf $out/html $out/man
for kind in html man; do
	echo "  DOCS $out/$kind"
	sphinx-build -q -W --keep-going -b $kind -d $out/doctrees-$kind docs $out/$kind
done
make -s hv
python3 scripts/docs_check.py
echo
echo "To read it, open $PWD/$out/html/index.html"
echo "The manual page: man -l $out/man/hv.1"
