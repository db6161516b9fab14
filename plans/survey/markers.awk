# Looks for the four usual words. In code and configuration they count in comments only; in prose and in what
# has no comments, only as a label (with a colon or a name in parentheses), since prose talks about them as well.

function note(word, n, text) {
    count[word]++
    in_file[PATH]++
    total++
    sub(/^[ \t]+/, "", text)
    sub(/[ \t\r*\/>-]+$/, "", text)
    text = clip(masked(text), 100)
    if (CLASS == "test") tests++
    # Defects are listed before wishes.
    list = (word == "FIXME" || word == "XXX") ? "defect" : "wish"
    if (++listed[list] <= 15) entry[list, listed[list]] = path_code(PATH) ":" n "\t" word "\t" (text == "" ? "–" : plain(text))
}

BEGIN {
    comments_load()
    WORD = "(^|[^A-Za-z0-9_])(TODO|FIXME|XXX|HACK)([^A-Za-z0-9_]|$)"
    LABEL = "(^|[^A-Za-z0-9_\"'`])(TODO|FIXME|XXX|HACK)(\\([^)]*\\))?:"
    while (index_next()) {
        if (!own_text()) continue
        comments_file(LANG)
        commented = TOKEN_RE[LANG] != "" && (KIND == "code" || KIND == "data")
        for (n = 1; (getline line < FILE) > 0; n++) {
            if (commented) {
                if (classify(line) == "b" || COMMENT !~ WORD) continue
                text = COMMENT
                match(text, WORD)
            } else {
                if (line !~ /TODO|FIXME|XXX|HACK/ || !match(line, LABEL)) continue
                text = line
            }
            text = substr(text, RSTART)
            match(text, /TODO|FIXME|XXX|HACK/)
            word = substr(text, RSTART, RLENGTH)
            text = substr(text, RSTART + RLENGTH)
            sub(/^:/, "", text)
            note(word, n, text)
        }
        close(FILE)
    }
    print "## Left to do\n"
    fact("markers", total); fact("TODO", count["TODO"] + 0); fact("FIXME", count["FIXME"] + 0); fact("XXX", count["XXX"] + 0); fact("HACK", count["HACK"] + 0)
    if (!total) {
        print "No TODO, FIXME, XXX or HACK in any comment.\n"
        exit
    }
    if (count["FIXME"] + count["XXX"])
        finding(3, plural(count["FIXME"] + count["XXX"], "comment names a known defect", "comments name known defects") " (" (count["FIXME"] ? num(count["FIXME"]) " FIXME" : "") (count["FIXME"] && count["XXX"] ? ", " : "") (count["XXX"] ? num(count["XXX"]) " XXX" : "") ").")
    max = 0
    split("FIXME XXX TODO HACK", words, " ")
    for (i = 1; i <= 4; i++) if (count[words[i]] > max) max = count[words[i]]
    table_begin("lrl", "Marker\tCount\t")
    for (i = 1; i <= 4; i++) if (count[words[i]]) table_row(words[i] "\t" num(count[words[i]]) "\t" bar(count[words[i]], max, 30))
    table_end()
    for (path in in_file) {
        files++
        if (in_file[path] > most || (in_file[path] == most && path < where)) { most = in_file[path]; where = path }
    }
    print plural(total, "note", "notes") " in " plural(files, "file", "files") (files > 1 ? "; most, " num(most) ", in " path_code(where) : "") (tests ? "; " num(tests) " in tests" : "") ".\n"
    table_begin("lll", "Where\tMarker\tWhat it says")
    for (i = 1; i <= 15 && i <= listed["defect"]; i++) table_row(entry["defect", i])
    for (k = 1; k <= 15 && k <= listed["wish"]; k++) table_row(entry["wish", k])
    table_end()
    more = total - (i - 1) - (k - 1)
    if (more > 0) print "… and " num(more) " more.\n"
}
