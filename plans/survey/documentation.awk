# Two passes: the first prints the targets of relative links, the second, knowing which are missing, reports.

# Makes a/./b/../c of a path; "" when it leaves the directory.
function normal(path,    parts, n, i, out, depth, kept) {
    n = split(path, parts, "/")
    depth = 0
    for (i = 1; i <= n; i++) {
        if (parts[i] == "" || parts[i] == ".") continue
        if (parts[i] == "..") {
            if (!depth) return ""
            depth--
        } else kept[++depth] = parts[i]
    }
    out = ""
    for (i = 1; i <= depth; i++) out = out (i > 1 ? "/" : "") kept[i]
    return out == "" ? "." : out
}

# Calls `link` for each relative link of a Markdown file.
function links_of(path,    file, line, n, fence, rest, target, mark) {
    file = "./" dec(path)
    fence = ""
    for (n = 1; (getline line < file) > 0; n++) {
        if (match(line, /^[ \t>]*(```+|~~~+)/)) {
            mark = substr(line, RSTART, RLENGTH)
            sub(/^[ \t>]*/, "", mark)
            if (fence == "") { fence = mark; continue }
            if (index(mark, fence) == 1) fence = ""
            continue
        }
        if (fence != "" || !index(line, "](")) continue
        gsub(/``[^`]+``/, "", line)
        gsub(/`[^`]*`/, "", line)
        rest = line
        while (match(rest, /\]\([^() \t]*(\([^() \t]*\)[^() \t]*)*([ \t]+"[^"]*")?\)/)) {
            target = substr(rest, RSTART + 2, RLENGTH - 3)
            rest = substr(rest, RSTART + RLENGTH)
            sub(/[ \t]+".*$/, "", target)
            link(path, n, target)
        }
    }
    close(file)
}

function link(path, n, target,    full) {
    if (target ~ /^<.*>$/) target = substr(target, 2, length(target) - 2)
    if (target == "" || target ~ /^[A-Za-z][A-Za-z0-9+.-]*:/ || target ~ /^[#\/]/ || target ~ /[{}$<>]|::/) return
    sub(/[#?].*$/, "", target)
    # A percent in a link is an escape of the link's own; %20 is the usual one. Others are left alone.
    if (target ~ /%/ && target !~ /^([^%]|%20)*$/) return
    gsub(/%20/, " ", target)
    full = dirname(dec(path)) == "." ? target : dirname(dec(path)) "/" target
    full = normal(full)
    # What lies above the surveyed directory is not ours to judge.
    if (full == "" || full == ".") return
    links++
    gsub(/%/, "%25", full)
    gsub(/\t/, "%09", full)
    if (full in EXISTS) return
    if (pass == "collect") { print full; return }
    if (!(full in MISSING)) return
    broken++
    if (broken <= 10) broken_link[broken] = path_code(path) ":" n "\t" code(dec(full))
}

function wanted(label, pattern, severity, sentence,    i) {
    found = ""
    for (i = 1; i <= roots; i++) if (toupper(root_file[i]) ~ pattern) { found = found (found == "" ? "" : ", ") path_code(root_file[i]); }
    table_row(label "\t" (found == "" ? "–" : found))
    fact(tolower(label), found == "" ? 0 : 1)
    if (found == "" && severity && files) finding(severity, sentence)
}

BEGIN {
    FS = "\t"
    if (pass == "report") while ((getline line < (run "/missing")) > 0) MISSING[line] = 1
    while ((getline < (art "/index.tsv")) > 0) {
        files++
        EXISTS[$1] = 1
        dir = $1
        while (dir ~ /\//) {
            dir = dirname(dir)
            if (dir in EXISTS) break
            EXISTS[dir] = 1
        }
        if ($1 !~ /\// && $3 != "empty" && $3 != "other") root_file[++roots] = $1
        if ($5 == "Markdown" && $3 == "text" && $4 != "vendored" && $4 != "generated") markdown[++documents] = $1
        if ($1 ~ /^(docs?|documentation)\//) in_docs++
    }
    close(art "/index.tsv")
    for (d = 1; d <= documents; d++) links_of(markdown[d])
    if (pass == "collect") exit

    while ((getline < (art "/lines.tsv")) > 0) {
        if ($3 == "code" && $4 == "plain") { code_lines[$2] += $5; comment_lines[$2] += $6; all_code += $5; all_comment += $6 }
        if ($3 == "prose") { prose += $5 + $6; prose_files++ }
    }
    print "## Documentation\n"
    table_begin("ll", "At the top\tFile")
    wanted("README", "^README(\\.|$)", 2, "There is no README.")
    wanted("Licence", "^(LICEN[CS]E|COPYING|UNLICENSE)([.-]|$)", 3, "There is no licence file: without one, nobody else may use this.")
    wanted("Changelog", "^(CHANGELOG|CHANGES|HISTORY|NEWS|RELEASES)(\\.|$)", 0, "")
    wanted("Contributing", "^CONTRIBUTING(\\.|$)", 0, "")
    wanted("Architecture", "^(ARCHITECTURE|DESIGN)(\\.|$)", 0, "")
    table_end()
    line = plural(prose_files, "document", "documents") " with " plural(prose, "line", "lines") " of prose"
    if (in_docs) line = line ", " plural(in_docs, "file", "files") " under `docs/`"
    print line "."
    if (all_code) {
        printf "Comments are %s of the lines of source that are not blank (tests apart)", percent(all_comment, all_code + all_comment)
        least = ""
        for (lang in code_lines) if (code_lines[lang] >= 500 && (least == "" || comment_lines[lang] / code_lines[lang] < comment_lines[least] / code_lines[least])) least = lang
        for (lang in code_lines) languages++
        print (languages > 1 && least != "" ? "; least in " least ", " percent(comment_lines[least], code_lines[least] + comment_lines[least]) : "") "."
        if (all_code >= 500 && all_comment * 100 < all_code * 2) finding(4, "Hardly any comments: " num(all_comment) " lines for " num(all_code) " lines of code.")
    }
    print ""
    fact("prose_lines", prose); fact("relative_links", links); fact("broken_links", broken)
    if (links) print plural(links, "relative link", "relative links") " in Markdown, " (broken ? num(broken) " of them broken:" : "none of them broken.") "\n"
    if (broken) {
        finding(3, plural(broken, "link", "links") " in the documentation " (broken == 1 ? "leads" : "lead") " nowhere (first: " first_broken() ").")
        table_begin("ll", "Where\tLeads to")
        for (i = 1; i <= 10 && i <= broken; i++) table_row(broken_link[i])
        table_end()
        if (broken > 10) print "… and " num(broken - 10) " more.\n"
    }
}

function first_broken(    cells) { split(broken_link[1], cells, "\t"); return cells[1] " to " cells[2] }
