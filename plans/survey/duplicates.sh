#!/bin/sh
# Identical files, and long passages that occur twice.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

# Only files of equal size can be identical: the others need not be read. Licences are meant to be copied.
awk -F '\t' '
    ($3 == "text" || $3 == "binary") && $4 != "vendored" && $4 != "generated" && $2 >= 32 {
        name = $1
        sub(/^.*\//, "", name)
        if (toupper(name) ~ /^(LICEN[CS]E|COPYING|NOTICE|UNLICENSE|COPYRIGHT)/) next
        path[++n] = $1
        size[n] = $2
        count[$2]++
    }
    END { for (i = 1; i <= n; i++) if (count[size[i]] > 1) print "./" path[i] }
' "$art/index.tsv" >"$run/candidates"
decode <"$run/candidates" | xargs -0r sha256sum -z -- 2>/dev/null >"$run/sums" || :
encode <"$run/sums" | sed 's|^\([0-9a-f]*\)  \./|\1	|' | sort >"$run/sums.tsv"

survey_awk "index.awk duplicates.awk" >"$run/section"
finish
cat "$run/section"
