BEGIN {
    FS = "\t"
    while ((getline < (run "/hot")) > 0) {
        files++
        total += $1
        changes += $5
        if (files > 10) { continue }
        score[files] = $1
        row[files] = path_code($2) "\t" num($5) "\t" num($6) "\t" num($4) "\t" unix_date($7)
        if (files == 1) { hottest = path_code($2); hottest_commits = $5; hottest_lines = $4 }
    }
    fact("files_with_history", files)
    print "## Hot spots\n"
    if (!files) {
        history = (getline line < (art "/churn.tsv")) > 0
        print "None: " (history ? "no source file" : "there is no history") " to count changes of.\n"
        exit
    }
    fact("hottest_commits", hottest_commits); fact("hottest_lines", hottest_lines)
    print "Commits that touched a file times its lines of code: large files that keep changing come first.\n"
    table_begin("lrrrll", "File\tCommits\tAuthors\tCode\tLast change\tHeat")
    for (i = 1; i <= 10 && i <= files; i++) table_row(row[i] "\t" bar(score[i], score[1], 20))
    table_end()
    if (hottest_commits >= 5 && hottest_lines >= 200)
        finding(4, "The hottest file is " hottest ": " plural(hottest_commits, "commit", "commits") ", " num(hottest_lines) " lines of code.")
}
