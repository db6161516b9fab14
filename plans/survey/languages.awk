# Counts lines, and on the way looks at how long lines and functions are.

# The name of the function that begins on this line of code, or "".
function function_name(line, lang,    name) {
    if (lang == "Rust") {
        if (line !~ /^[ \t]*(pub(\([^)]*\))?[ ]+)?(default +|const +|async +|unsafe +|extern +("[^"]*" +)?)*fn +[A-Za-z_]/) return ""
        name = line; sub(/^.*fn +/, "", name)
        # `fn` may occur again on the line, in a type.
        if (match(line, /fn +[A-Za-z_]/)) name = substr(line, RSTART + 2)
    } else if (lang == "Python") {
        if (line !~ /^[ \t]*(async +)?def +[A-Za-z_]/) return ""
        name = line; sub(/^[ \t]*(async +)?def +/, "", name)
    } else if (lang == "Go") {
        if (line !~ /^func /) return ""
        name = line; sub(/^func +(\([^)]*\) *)?/, "", name)
    } else if (lang == "JavaScript" || lang == "TypeScript") {
        if (line ~ /^[ \t]*(export +)?(default +)?(async +)?function[ *]/) {
            name = line; sub(/^.*function[ *]*/, "", name)
            if (name !~ /^[A-Za-z_$]/) name = "(anonymous)"
        } else if (line ~ /^[ \t]*(export +)?(const|let|var) +[A-Za-z_$][A-Za-z0-9_$]* *=.*=> *\{[ \t\r]*$/) {
            name = line; sub(/^[ \t]*(export +)?(const|let|var) +/, "", name)
        } else return ""
    } else if (lang == "C" || lang == "C++") {
        if (line !~ /^[A-Za-z_][^;={}]*\(/ || line ~ /;[ \t\r]*$/ || line ~ /^(if|for|while|switch|else|do|return|typedef|namespace|extern "C")[^A-Za-z0-9_]/) return ""
        name = line; sub(/[ \t]*\(.*$/, "", name); sub(/^.*[ \t*&]/, "", name)
    } else if (lang == "Java" || lang == "C#") {
        if (line !~ /^[ \t]+(public|private|protected|internal|static)[ \t].*\(.*\)?[ \t]*(throws [A-Za-z_., ]+)?\{?[ \t\r]*$/ || line ~ /[=;]/ || line ~ /[ \t](class|interface|enum|record|new)[ \t]/) return ""
        name = line; sub(/[ \t]*\(.*$/, "", name); sub(/^.*[ \t]/, "", name)
    } else if (lang == "Kotlin" || lang == "Swift") {
        if (line !~ /^[ \t]*([a-z]+ +)*(fun|func) +[A-Za-z_<`]/ || line ~ /=[^{]*$/) return ""
        name = line; sub(/^[ \t]*([a-z]+ +)*(fun|func) +/, "", name)
    } else if (lang == "PHP") {
        if (line !~ /^[ \t]*([a-z]+ +)*function +&?[A-Za-z_]/) return ""
        name = line; sub(/^.*function +&?/, "", name)
    } else if (lang == "Ruby") {
        if (line !~ /^[ \t]*def +[A-Za-z_]/) return ""
        name = line; sub(/^[ \t]*def +/, "", name)
    } else if (lang == "Shell") {
        if (line !~ /^[ \t]*(function +)?[A-Za-z_][A-Za-z0-9_-]*[ \t]*\(\)[ \t]*\{?[ \t]*$/) return ""
        name = line; sub(/^[ \t]*(function +)?/, "", name)
    } else return ""
    sub(/^[ \t]+/, "", name)
    if (match(name, /^[A-Za-z0-9_$.:~?!-]+/)) name = substr(name, 1, RLENGTH)
    return name == "" ? "(anonymous)" : name
}

function function_done(last) {
    if (CLASS == "plain" && last - fn_line[fn] + 1 >= 40)
        printf "%s\t%d\t%s\t%d\n", PATH, fn_line[fn], fn_name[fn], last - fn_line[fn] + 1 > (run "/functions")
    fn--
}

# Called for each line of code that does not begin inside a string. By indentation, as formatters leave it: a
# function ends with the brace (or `end`) under its first letter, in Python before what is not deeper.
function follow_functions(line, n,    indent, name, closer) {
    indent = match(line, /[^ \t]/) - 1
    if (LANG == "Python") {
        if (line !~ /^[ \t]*[])}]/) while (fn && indent <= fn_indent[fn]) function_done(fn_last)
    } else while (fn && indent <= fn_indent[fn]) {
        closer = substr(line, indent + 1)
        if (indent == fn_indent[fn]) {
            if (closer ~ /^\}/ || (LANG == "Ruby" && closer ~ /^end/)) { function_done(n); break }
            # The rest of a head, or an opening brace on a line of its own.
            if (closer ~ /^(\)|\{|where|->|:)/ && closer !~ /;[ \t\r]*$/) break
        }
        # It had no body, or is not formatted as expected.
        fn--
    }
    fn_last = n
    if (LANG in HAS_FUNCTIONS && (name = function_name(line, LANG)) != "") {
        if (line ~ /[;}][ \t\r]*$/ || (LANG == "Ruby" && line ~ /[ ;]end[ \t]*$/)) return
        fn++
        fn_indent[fn] = indent
        fn_line[fn] = n
        fn_name[fn] = name
    }
}

# Rust's tests live in the file that they test: counted apart.
function follow_rust_tests(line,    indent) {
    indent = match(line, /[^ \t]/) - 1
    if (rust_test_indent >= 0) {
        file_test++
        if (indent == rust_test_indent && line ~ /^[ \t]*\}/) rust_test_indent = -1
        return
    }
    if (line ~ /^[ \t]*#\[cfg\((test|all\(test.*)\)\]/) { rust_test_pending = 1; file_test++; return }
    if (rust_test_pending) {
        file_test++
        if (line ~ /^[ \t]*#!?\[/) return
        rust_test_pending = 0
        if (line ~ /\{[ \t\r]*$/) rust_test_indent = indent
    }
}

function count_file(    line, n, kind, inside, width) {
    comments_file(LANG)
    n = file_code = file_comment = file_blank = file_long = file_longest = file_longest_at = file_test = 0
    fn = fn_last = rust_test_pending = 0
    rust_test_indent = -1
    while ((getline line < FILE) > 0) {
        n++
        inside = C_OPEN
        kind = classify(line)
        if (kind == "x") {
            file_code++
            if (inside == "" && KIND == "code") {
                follow_functions(line, n)
                if (LANG == "Rust") follow_rust_tests(line)
            } else {
                # Inside a string that goes over lines.
                fn_last = n
                if (rust_test_indent >= 0) file_test++
            }
        } else if (kind == "c") file_comment++
        else file_blank++
        width = length(line)
        if (width > file_longest) { file_longest = width; file_longest_at = n }
        if (width > 200 && columns(line) > 200) file_long++
    }
    if (LANG == "Python") while (fn) function_done(fn_last)
    close(FILE)
}

BEGIN {
    comments_load()
    split("Rust Python Go JavaScript TypeScript C C++ Java C# Kotlin Swift PHP Ruby Shell", list, " ")
    for (i in list) HAS_FUNCTIONS[list[i]] = 1
    while (index_next()) {
        if (!own_text()) continue
        count_file()
        printf "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", PATH, LANG, KIND, CLASS, file_code, file_comment, file_blank, \
            file_long, file_longest, file_longest_at, file_test > (run "/lines")
        files[LANG]++
        code_lines[LANG] += file_code
        comment_lines[LANG] += file_comment
        blank_lines[LANG] += file_blank
        kind_of[LANG] = KIND
        total_files[KIND]++
        total_code[KIND] += file_code
        total_comment[KIND] += file_comment
        total_blank[KIND] += file_blank
        lines += file_code + file_comment + file_blank
    }
    printf "" > (run "/lines")
    printf "" > (run "/functions")

    print "## Languages\n"
    # Selection sort by code: there are a few dozen languages at most.
    split("code prose data other", kinds, " ")
    title["code"] = "Code"; title["prose"] = "Prose"; title["data"] = "Data and configuration"; title["other"] = "Other text"
    for (k = 1; k <= 4; k++) {
        kind = kinds[k]
        if (!total_files[kind]) continue
        table_begin(kind == "code" ? "lrrrrl" : "lrr", kind == "code" ? title[kind] "\tFiles\tCode\tComment\tBlank\t" : title[kind] "\tFiles\tLines")
        shown = max = 0
        while (1) {
            best = ""
            for (lang in files) if (kind_of[lang] == kind && !(lang in done) && (best == "" || code_lines[lang] > code_lines[best] || (code_lines[lang] == code_lines[best] && lang < best))) best = lang
            if (best == "") break
            done[best] = 1
            if (!shown++) max = code_lines[best]
            if (kind == "code") {
                if (shown == 1) { main_language = best; fact("main_language", best) }
                table_row(best "\t" num(files[best]) "\t" num(code_lines[best]) "\t" num(comment_lines[best]) "\t" num(blank_lines[best]) "\t" bar(code_lines[best], max, 30))
            } else table_row(best "\t" num(files[best]) "\t" num(code_lines[best] + comment_lines[best] + blank_lines[best]))
        }
        if (shown > 1 && kind == "code")
            table_row("**all**\t" num(total_files[kind]) "\t" num(total_code[kind]) "\t" num(total_comment[kind]) "\t" num(total_blank[kind]) "\t")
        table_end()
    }
    if (!lines) print "No text files.\n"
    if (total_code["code"])
        print "A comment for every " sprintf("%.1f", total_comment["code"] ? total_code["code"] / total_comment["code"] : 0) " lines of code.\n" > (run "/comment-share")
    fact("lines", lines); fact("code_lines", total_code["code"] + 0); fact("comment_lines", total_comment["code"] + 0)
    fact("blank_lines", total_blank["code"] + 0); fact("code_files", total_files["code"] + 0)
}
