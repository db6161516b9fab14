# The top of the report.

BEGIN {
    FS = "\t"
    path = ENVIRON["AGENTD_ARG_DIR"]
    name = path
    sub(/\/+$/, "", name)
    sub(/^.*\//, "", name)
    if (name == "") name = "/"
    while ((getline < (art "/index.tsv")) > 0) { files++; size += $2 }
    while ((getline < (art "/lines.tsv")) > 0) {
        if ($3 == "code") { code_lines[$2] += $5; all_code += $5 }
    }
    for (lang in code_lines) if (best == "" || code_lines[lang] > code_lines[best] || (code_lines[lang] == code_lines[best] && lang < best)) best = lang

    print "# Survey of " plain(name) "\n"
    print plural(files, "file", "files") ", " bytes(size) ", " plural(all_code, "line", "lines") " of code" (best != "" ? ", mostly " best " (" percent(code_lines[best], all_code) ")" : "") "."
    print code(path) (head != "" ? ", " plain(head) : "") ", surveyed on " today ".\n"

    print "## What stands out\n"
    split("High Medium Low Note", label, " ")
    while ((getline < (run "/sorted-findings")) > 0) {
        n++
        count[$1]++
        if (n <= 20) print "- **" label[$1] "**: " $2
        finding($1, $2)
    }
    if (!n) print "Nothing: no credentials in the clear, tests and documentation are there, nothing is out of proportion."
    if (n > 20) print "- … and " num(n - 20) " more below"
    print ""
    fact("files", files); fact("size_bytes", size); fact("code_lines", all_code)
    fact("high", count[1] + 0); fact("medium", count[2] + 0); fact("low", count[3] + 0); fact("notes", count[4] + 0)
}
