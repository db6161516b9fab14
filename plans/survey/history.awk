BEGIN {
    first_path = 0
    while ((getline line < (run "/log.list")) > 0) {
        if (substr(line, 1, 1) == "\001") {
            line = substr(line, 2)
            time = line + 0
            author = line
            sub(/^[^ ]* /, "", author)
            author = dec(author)
            commits++
            by[author]++
            if (!newest || time > newest) newest = time
            if (!oldest || time < oldest) oldest = time
            days[int(time / 86400)] = 1
            months[substr(unix_date(time), 1, 7)]++
            first_path = 1
            continue
        }
        # git sets the first path off from the header with an empty line.
        if (first_path) sub(/^%0A/, "", line)
        first_path = 0
        if (line == "") continue
        touched[line]++
        if (time > last[line]) last[line] = time
        if (!((line, author) in seen)) { seen[line, author] = 1; authors_of[line]++ }
    }
    for (path in touched) printf "%s\t%d\t%d\t%d\n", path, touched[path], last[path], authors_of[path] > (run "/churn")
    printf "" > (run "/churn")

    print "## History\n"
    fact("commits", commits)
    if (!commits) {
        print "There is no history to look at: " (why == "" ? "no commit touches this directory" : why) ".\n"
        finding(4, "There is no git history here, so nothing is said about change over time.")
        exit
    }
    for (author in by) authors++
    for (day in days) active++
    fact("authors", authors); fact("first_commit", unix_date(oldest)); fact("last_commit", unix_date(newest)); fact("active_days", active)
    print plural(commits, "commit", "commits") " (merges apart) by " plural(authors, "author", "authors") " on " plural(active, "day", "days") ", from " unix_date(oldest) " to " unix_date(newest) ".\n"
    if (commits >= commits_max) print "Older ones than the newest " num(commits_max) " were not looked at.\n"
    if (shallow == "true") {
        print "The clone is shallow: what is older is missing here.\n"
        finding(4, "The clone is shallow, so history and hot spots are incomplete.")
    }

    # The last twelve months of the history, quiet ones too.
    year = substr(unix_date(newest), 1, 4) + 0
    month = substr(unix_date(newest), 6, 2) + 0
    max = 0
    for (i = 12; i >= 1; i--) {
        label[i] = sprintf("%04d-%02d", year, month)
        if (months[label[i]] > max) max = months[label[i]]
        if (--month == 0) { month = 12; year-- }
    }
    start = 1
    while (start < 12 && !months[label[start]]) start++
    table_begin("lrl", "Month\tCommits\t")
    for (i = start; i <= 12; i++) table_row(label[i] "\t" num(months[label[i]] + 0) "\t" bar(months[label[i]] + 0, max, 30))
    table_end()

    table_begin("lrrl", "Author\tCommits\tShare\t")
    max = 0
    for (shown = 0; shown < 8; shown++) {
        best = ""
        for (author in by) if (!(author in told) && (best == "" || by[author] > by[best] || (by[author] == by[best] && author < best))) best = author
        if (best == "") break
        told[best] = 1
        if (!shown) { max = by[best]; top = best }
        table_row(plain(clip(best, 80)) "\t" num(by[best]) "\t" percent(by[best], commits) "\t" bar(by[best], max, 30))
    }
    table_end()
    if (authors > shown) print "… and " plural(authors - shown, "more author", "more authors") ".\n"
    if (authors > 1 && commits >= 20 && by[top] * 100 >= commits * 80)
        finding(4, plain(clip(top, 80)) " made " percent(by[top], commits) " of the commits: most knowledge of this code is in one head.")
}
