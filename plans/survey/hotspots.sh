#!/bin/sh
# Files that are both large and often changed: where a defect is likeliest, and work on it pays most.

# shellcheck source=common.sh
. "$(dirname -- "$0")/common.sh"

awk -F '\t' -v OFS='\t' -v churn="$art/churn.tsv" '
    BEGIN { while ((getline < churn) > 0) { commits[$1] = $2; last[$1] = $3; authors[$1] = $4 } }
    $3 == "code" && $4 == "plain" && $1 in commits {
        print commits[$1] * $5, $1, $2, $5, commits[$1], authors[$1], last[$1]
    }
' "$art/lines.tsv" | sort -t "$(printf '\t')" -k1,1nr -k2,2 >"$run/hot"
survey_awk hotspots.awk >"$run/section"
finish
cat "$run/section"
