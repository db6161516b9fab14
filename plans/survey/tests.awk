# A package is a directory with a manifest; a file belongs to the nearest one above it. Where there is no manifest
# at all, the whole directory is one package.

# The stem that a test names: test_foo.py, foo_test.go, foo.spec.ts and FooTest.java are all about foo.
function subject(path,    name) {
    name = basename(path)
    sub(/\.[^.]*$/, "", name)
    sub(/^tests?[_-]/, "", name)
    sub(/[._-](tests?|spec)$/, "", name)
    sub(/(Tests?|Spec|IT)$/, "", name)
    return tolower(name)
}

function package_of(path) {
    while (path ~ /\//) {
        path = dirname(path)
        if (path in IS_PACKAGE) return path
    }
    return "."
}

BEGIN {
    FS = "\t"
    while ((getline < (art "/index.tsv")) > 0)
        if ($4 == "plain" && $1 ~ /(^|\/)(Cargo\.toml|package\.json|pyproject\.toml|setup\.py|go\.mod|pom\.xml|build\.gradle(\.kts)?|composer\.json|Gemfile|mix\.exs|[^\/]*\.(csproj|gemspec|cabal))$/)
            IS_PACKAGE[dirname($1)] = 1
    close(art "/index.tsv")

    while ((getline < (art "/lines.tsv")) > 0) {
        if ($3 != "code") continue
        package = package_of($1)
        if (!(package in known)) { known[package] = 1; packages++; name[packages] = package }
        if ($4 == "test") {
            test_files++
            test_lines += $5
            package_tests[package] += $5
            tested[subject($1)] = 1
            continue
        }
        source_files++
        source_lines += $5 - $11
        test_lines += $11
        inline += ($11 > 0)
        package_source[package] += $5 - $11
        package_tests[package] += $11
        if (!$11) { n++; path[n] = $1; size[n] = $5; of_package[n] = package }
    }
    print "## Tests\n"
    fact("test_files", test_files); fact("test_code_lines", test_lines); fact("source_code_lines", source_lines); fact("files_with_inline_tests", inline)
    if (!source_files && !test_files) {
        print "There is no code here to test.\n"
        exit
    }
    print plural(test_lines, "line", "lines") " of test code for " plural(source_lines, "line", "lines") " of other code (" sprintf("%.2f", source_lines ? test_lines / source_lines : 0) " to 1), in " plural(test_files, "test file", "test files") (inline ? " and " plural(inline, "source file", "source files") " with tests inside" : "") ".\n"
    if (!test_lines && source_lines >= 50) finding(2, "There are no tests: no test file, and no tests inside the source files.")

    for (i = 1; i <= packages; i++) if (package_source[name[i]] >= 100 && !package_tests[name[i]]) {
        untested++
        if (!worst || package_source[name[i]] > package_source[worst]) worst = name[i]
    }
    fact("untested_packages", untested)
    if (packages > 1) {
        table_begin("lrrrl", "Package\tCode\tTests\tRatio\t")
        max = 0
        for (shown = 0; shown < 15; shown++) {
            best = 0
            for (i = 1; i <= packages; i++) if (!(i in told) && (!best || package_source[name[i]] > package_source[name[best]] || (package_source[name[i]] == package_source[name[best]] && name[i] < name[best]))) best = i
            if (!best) break
            told[best] = 1
            package = name[best]
            if (!shown) max = package_source[package]
            table_row((package == "." ? "(root)" : path_code(package)) "\t" num(package_source[package] + 0) "\t" num(package_tests[package] + 0) "\t" (package_source[package] ? sprintf("%.2f", package_tests[package] / package_source[package]) : "–") "\t" bar(package_source[package] + 0, max, 20))
        }
        table_end()
        if (packages > shown) print "… and " num(packages - shown) " more packages.\n"
        if (untested && test_lines) finding(3, plural(untested, "package", "packages") " of 100 lines and more " (untested == 1 ? "has" : "have") " no test; the largest is " (worst == "." ? "the root" : path_code(worst)) " with " num(package_source[worst]) " lines of code.")
    }

    # Only of use where tests have the names of what they test.
    listed = 0
    for (shown = 0; shown < 10; shown++) {
        best = 0
        for (i = 1; i <= n; i++) {
            if (i in told_file || size[i] < 80 || (best && size[i] <= size[best])) continue
            if (subject(path[i]) in tested) continue
            best = i
        }
        if (!best) break
        told_file[best] = 1
        if (!listed++ ) {
            print "The largest source files without a test inside and without a test file of their name (others may well test them):\n"
            table_begin("lr", "File\tCode")
        }
        table_row(path_code(path[best]) "\t" num(size[best]))
    }
    if (listed) table_end()
}
