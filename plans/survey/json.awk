# A node's facts and findings, as one JSON object.

BEGIN {
    FS = "\t"
    printf "{"
    while ((getline < facts) > 0) {
        # A number as JSON writes it stays one; what awk never counted is none.
        value = $2 == "" ? 0 : $2 ~ /^(0|-?[1-9][0-9]*)(\.[0-9]+)?$/ ? $2 : json($2)
        printf "%s%s:%s", separator, json($1), value
        separator = ","
    }
    printf "%s\"findings\":[", separator
    separator = ""
    split("high medium low note", severity, " ")
    # The report shows them all; here the first are enough, so that the value stays small.
    for (shown = 0; shown < 50 && (getline < findings) > 0; shown++) {
        printf "%s{\"severity\":\"%s\",\"text\":%s}", separator, severity[$1], json(clip($2, 400))
        separator = ","
    }
    print "]}"
}
