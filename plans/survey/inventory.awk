# The list of files with what a name and the first lines tell of each.

function load_languages(    file, cells, n, i, keys) {
    file = lib "/languages.tsv"
    while ((getline line < file) > 0) {
        if (line ~ /^#[^!]/ || split(line, cells, "\t") < 3) continue
        n = split(cells[1], keys, " ")
        for (i = 1; i <= n; i++) {
            LANGUAGE[keys[i]] = cells[2]
            KIND[keys[i]] = cells[3]
        }
    }
    close(file)
}

function load_set(file, set) {
    while ((getline line < file) > 0) {
        sub(/^\.\//, "", line)
        set[line] = 1
    }
    close(file)
}

function language_key(path,    name, key) {
    name = basename(path)
    if (name in LANGUAGE) return name
    if (name ~ /^(Dockerfile|Containerfile)\./) return "Dockerfile"
    if (name ~ /^Makefile\./) return "Makefile"
    key = name
    # The longest ending that is known: .env.example before .example.
    while (match(key, /\.[^.]*/)) {
        key = substr(key, RSTART)
        if (key in LANGUAGE) return key
        key = substr(key, 2)
    }
    return ""
}

function class_of(path,    name) {
    name = basename(path)
    if (path ~ /(^|\/)(vendor|vendored|third_party|third-party|node_modules|bower_components|Pods|\.yarn)\//) return "vendored"
    if (name ~ /\.(min\.js|min\.css|js\.map|css\.map|pb\.go|pb\.cc|pb\.h|g\.dart|designer\.cs)$/ || name ~ /_pb2(_grpc)?\.pyi?$/ ||
        name ~ /^(Cargo\.lock|package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|bun\.lock|poetry\.lock|uv\.lock|pdm\.lock|Pipfile\.lock|Gemfile\.lock|composer\.lock|go\.sum|flake\.lock)$/)
        return "generated"
    if (path ~ /(^|\/)(tests?|__tests__|specs?|testdata|fixtures|e2e)\// || name ~ /^test_.*\.py$/ || name == "conftest.py" ||
        name ~ /[_.-](test|spec)\.[A-Za-z]+$/ || name ~ /(Test|Tests|Spec|IT)\.(java|kt|cs|scala|groovy|swift|php)$/ || name ~ /^tests\.(rs|py)$/)
        return "test"
    return "plain"
}

# What the first lines say: sets HEAD_GENERATED and HEAD_SHEBANG.
function look_at_head(path,    file, i) {
    HEAD_GENERATED = 0
    HEAD_SHEBANG = ""
    file = "./" dec(path)
    for (i = 1; i <= 5 && (getline line < file) > 0; i++) {
        if (i == 1 && line ~ /^#!/) {
            HEAD_SHEBANG = substr(line, 3)
            sub(/\r$/, "", HEAD_SHEBANG)
            sub(/^[ \t]*[^ \t]*\/env([ \t]+-[^ \t]+)*[ \t]+/, "", HEAD_SHEBANG)
            sub(/^[ \t]+/, "", HEAD_SHEBANG)
            sub(/[ \t].*$/, "", HEAD_SHEBANG)
            HEAD_SHEBANG = basename(HEAD_SHEBANG)
        }
        if (line ~ /^[ \t]*(\/\/|#|\/\*|\*|--|<!--|;)/ && (line ~ /@generated/ || line ~ /[Gg]enerated.*(DO NOT EDIT|[Dd]o not edit)/)) {
            HEAD_GENERATED = 1
            break
        }
    }
    close(file)
}

function add_up(type, size) { FILES[type]++; SIZE[type] += size }

BEGIN {
    load_languages()
    load_set(run "/text.list", TEXT)
    load_set(run "/unreadable.list", UNREADABLE)
    load_set(run "/tracked.list", TRACKED)
    while ((getline line < (run "/stat.tsv")) > 0) {
        split(line, column, "\t")
        path = column[3]
        sub(/^\.\//, "", path)
        size = column[2] + 0
        # A submodule, or a nested repository.
        if (column[1] == "directory") { nested++; continue }
        type = "other"
        if (column[1] == "symbolic link") { type = "link"; size = 0 }
        else if (path in UNREADABLE) type = "unreadable"
        else if (column[1] == "regular empty file" || (column[1] == "regular file" && size == 0)) type = "empty"
        else if (column[1] == "regular file") type = (path in TEXT) ? "text" : "binary"

        class = class_of(path)
        key = type == "text" || type == "empty" ? language_key(path) : ""
        if (type == "text" && class != "vendored") {
            look_at_head(path)
            if (HEAD_GENERATED) class = "generated"
            if (key == "" && HEAD_SHEBANG != "") {
                key = "#!" HEAD_SHEBANG
                # python3.11 is python3 is python.
                while (!(key in LANGUAGE) && sub(/[0-9.]$/, "", key)) { }
                if (!(key in LANGUAGE)) key = ""
            }
        }
        language = key == "" ? "Other" : LANGUAGE[key]
        kind = key == "" ? "other" : KIND[key]
        tracked = (path in TRACKED)
        printf "%s\t%d\t%s\t%s\t%s\t%s\t%d\n", path, size, type, class, language, kind, tracked > (run "/index")
        add_up(type, size)
        total++
        total_size += size
        if (type == "text" || type == "binary" || type == "empty") { CLASS_FILES[class]++; CLASS_SIZE[class] += size }
        if (source == "git" && !tracked) untracked++
        if (path !~ /^[ -~]*$/ || path ~ /%0A/) odd_names++
    }
    # An empty directory has an index, too.
    printf "" > (run "/index")

    fact("files", total); fact("size_bytes", total_size); fact("source", source)
    fact("text_files", FILES["text"] + 0); fact("binary_files", FILES["binary"] + 0); fact("empty_files", FILES["empty"] + 0)
    fact("links", FILES["link"] + 0); fact("unreadable_files", FILES["unreadable"] + 0)
    fact("vendored_files", CLASS_FILES["vendored"] + 0); fact("generated_files", CLASS_FILES["generated"] + 0)
    fact("test_files", CLASS_FILES["test"] + 0); fact("untracked_files", untracked)

    if (!total) finding(4, "There are no files here to survey.")
    if (FILES["unreadable"]) finding(2, plural(FILES["unreadable"], "file", "files") " could not be read and " (FILES["unreadable"] == 1 ? "is" : "are") " counted by name only.")
    if (unreadable_dirs) finding(2, plural(unreadable_dirs, "directory", "directories") " could not be entered; what is in there is missing from this survey.")
    if (untracked) finding(4, plural(untracked, "file is", "files are") " neither tracked nor ignored by git.")

    print "## What is there\n"
    if (source == "git") print "Counted are the files that git tracks or would add; what git ignores is left out.\n"
    else print "Counted are all files below the directory, because " why ".\n"
    table_begin("lrr", "Files\tCount\tSize")
    split("text binary empty link unreadable other", order, " ")
    label["text"] = "text"; label["binary"] = "binary"; label["empty"] = "empty"; label["link"] = "symbolic links (not followed)"
    label["unreadable"] = "unreadable"; label["other"] = "sockets, pipes, devices"
    for (i = 1; i <= 6; i++) if (FILES[order[i]]) table_row(label[order[i]] "\t" num(FILES[order[i]]) "\t" bytes(SIZE[order[i]]))
    table_row("**all**\t" num(total) "\t" bytes(total_size))
    table_end()
    line = ""
    split("test generated vendored", order, " ")
    for (i = 1; i <= 3; i++) if (CLASS_FILES[order[i]])
        line = line (line == "" ? "" : ", ") num(CLASS_FILES[order[i]]) " " order[i] " (" bytes(CLASS_SIZE[order[i]]) ")"
    if (line != "") print "Of these: " line ". Generated and vendored files are left out of what follows, unless it says otherwise.\n"
    if (nested) print "Left out: " plural(nested, "nested repository or submodule", "nested repositories or submodules") ".\n"
    left = 0
    while ((getline line < (run "/left-out")) > 0) {
        left++
        if (left <= 5) names = names (left > 1 ? ", " : "") path_code(line)
    }
    if (left) print "Left out: " plural(left, "directory", "directories") " that tools fill (" names (left > 5 ? ", …" : "") ").\n"
}
