#!/bin/sh
# Lines of code, comment and blank by language. Writes lines.tsv (a line for each text file that is somebody's own)
#
#     path  language  kind  class  code  comment  blank  long-lines  longest  at-line  test-code
#
# and functions.tsv (path, line, name, lines) with the functions of 40 lines and more, tests apart.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

: >"$run/lines"
: >"$run/functions"
survey_awk "index.awk comments.awk languages.awk" >"$run/section"
keep lines.tsv <"$run/lines"
keep functions.tsv <"$run/functions"
finish
cat "$run/section"
