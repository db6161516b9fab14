# Reads what manifests of Cargo, npm, Python and Go say. Other build files are listed, not read.

# ---- a manifest's dependency: scope is "run" or "dev"

function dependency(scope, name, version) {
    if (name == "") return
    if (scope == "run") runs++; else devs++
    total++
    sub(/^[ \t]+/, "", version)
    sub(/[ \t]+$/, "", version)
    # Anything at all; a version that moves by itself.
    if (version == "*" || version == "latest" || version == "") {
        if (!(tool == "Python" && version == "") || version == "*") {
            loose++
            if (loose <= 10) loose_entry[loose] = path_code(manifest) "\t" code(name) "\t" (version == "" ? "no version" : code(version))
        }
        return
    }
    # Places, not versions.
    if (version ~ /^(path|workspace|git)$/ || version ~ /^(file|link|workspace|git|github|http|https|npm):/) return
    if (!((tool, name) in known)) { known[tool, name] = 1; names++; sys_of[names] = tool; name_of[names] = name }
    if (!((tool, name, version) in said)) {
        said[tool, name, version] = 1
        versions[tool, name]++
        version_list[tool, name] = version_list[tool, name] (version_list[tool, name] == "" ? "" : ", ") code(version)
    }
    users[tool, name]++
}

# ---- Cargo

function toml_string(text) { return match(text, /"[^"]*"|'[^']*'/) ? substr(text, RSTART + 1, RLENGTH - 2) : "" }

function read_cargo(    line, section, key, value, scope, table, table_version) {
    section = table = ""
    while ((getline line < FILE) > 0) {
        sub(/[ \t\r]+$/, "", line)
        if (line ~ /^[ \t]*(#|$)/) continue
        if (line ~ /^[ \t]*\[/) {
            cargo_table(table, scope, table_version)
            table = ""
            section = line
            gsub(/^[ \t]*\[+|\].*$/, "", section)
            if (match(section, /(^|\.)(dev-|build-)?dependencies\./)) {
                scope = section ~ /(^|\.)dev-dependencies\./ ? "dev" : "run"
                table = substr(section, RSTART + RLENGTH)
                gsub(/["']/, "", table)
                table_version = ""
            }
            continue
        }
        if (!match(line, /^[ \t]*[A-Za-z0-9_."'-]+[ \t]*=/)) continue
        key = substr(line, RSTART, RLENGTH - 1)
        gsub(/[ \t"']/, "", key)
        value = substr(line, RSTART + RLENGTH)
        if (section == "package" && key == "name") package = toml_string(value)
        if (section == "workspace") workspace = 1
        if (table != "") {
            if (key == "version") table_version = toml_string(value)
            else if (key ~ /^(path|git|workspace)$/ && table_version == "") table_version = key
            continue
        }
        if (section !~ /(^|\.)(dev-|build-)?dependencies$/) continue
        scope = section ~ /(^|\.)dev-dependencies$/ ? "dev" : "run"
        # name.workspace = true, name.version = "1"
        if (key ~ /\./) {
            if (key ~ /\.(workspace|path|git)$/) { sub(/\..*$/, "", key); dependency(scope, key, "workspace") }
            else if (key ~ /\.version$/) { sub(/\..*$/, "", key); dependency(scope, key, toml_string(value)) }
            continue
        }
        if (value ~ /^[ \t]*["']/) dependency(scope, key, toml_string(value))
        else if (match(value, /version[ \t]*=[ \t]*"[^"]*"/)) dependency(scope, key, toml_string(substr(value, RSTART)))
        else if (match(value, /(path|git|workspace)[ \t]*=/)) dependency(scope, key, substr(value, RSTART, 4) == "path" ? "path" : "git")
        else dependency(scope, key, value ~ /^[ \t]*\{/ ? "path" : "")
    }
    cargo_table(table, scope, table_version)
    close(FILE)
}

function cargo_table(table, scope, version) { if (table != "") dependency(scope, table, version) }

# ---- npm: the strings of the file one after the other, with the names of the objects that they stand in

function read_npm(    text, line, size, depth, stack, key, string, expect, c) {
    text = ""
    size = 0
    while ((getline line < FILE) > 0 && size < 1000000) { text = text line "\n"; size += length(line) }
    close(FILE)
    depth = 0
    key = ""
    expect = "key"
    while (match(text, /["{}\[\]:,]/)) {
        c = substr(text, RSTART, 1)
        text = substr(text, RSTART)
        if (c == "\"") {
            if (!match(text, /^"([^"\\]|\\.)*"/)) return
            string = substr(text, 2, RLENGTH - 2)
            text = substr(text, RLENGTH + 1)
            if (expect == "key") { key = string; continue }
            if (depth == 1 && key == "name") package = string
            if (depth == 2 && stack[2] ~ /^(dependencies|optionalDependencies)$/) dependency("run", key, string)
            if (depth == 2 && stack[2] == "devDependencies") dependency("dev", key, string)
            continue
        }
        text = substr(text, 2)
        if (c == "{") { stack[++depth] = key; expect = "key"; key = "" }
        else if (c == "[") { stack[++depth] = "["; expect = "item" }
        else if (c == "}" || c == "]") { depth--; expect = stack[depth] == "[" ? "item" : "key" }
        else if (c == ":") expect = "value"
        else expect = stack[depth] == "[" ? "item" : "key"
        if (depth == 1 && c == ":" && key == "workspaces") workspace = 1
    }
}

# ---- Python

function requirement(scope, text,    name) {
    sub(/[ \t]*(;|#).*$/, "", text)
    sub(/^[ \t]+/, "", text)
    if (!match(text, /^[A-Za-z0-9][A-Za-z0-9._-]*/)) return
    name = tolower(substr(text, RSTART, RLENGTH))
    text = substr(text, RLENGTH + 1)
    sub(/^\[[^]]*\]/, "", text)
    dependency(scope, name, text ~ /@/ ? "git" : text)
}

function read_pyproject(    line, section, list, scope, rest) {
    section = list = ""
    while ((getline line < FILE) > 0) {
        if (line ~ /^[ \t]*#/) continue
        if (list != "") {
            strings(list, line)
            if (line ~ /^[^"']*\]/ || line ~ /["'][ \t]*,?[ \t]*\][ \t\r]*$/) list = ""
            continue
        }
        if (line ~ /^[ \t]*\[/) {
            section = line
            gsub(/^[ \t]*\[+|\].*$/, "", section)
            continue
        }
        if (section == "project" && line ~ /^name[ \t]*=/) package = toml_string(line)
        if (section == "tool.poetry" && line ~ /^name[ \t]*=/) package = toml_string(line)
        if ((section == "project" && line ~ /^dependencies[ \t]*=[ \t]*\[/) || (section ~ /^(project\.optional-dependencies|dependency-groups)$/ && line ~ /=[ \t]*\[/)) {
            scope = section == "project" ? "run" : "dev"
            rest = line
            sub(/^[^=]*=[ \t]*\[/, "", rest)
            strings(scope, rest)
            if (rest !~ /\][ \t\r]*$/) list = scope
        }
        if (section ~ /^tool\.poetry\.(group\.[^.]*\.|dev-)?dependencies$/ && line ~ /^[A-Za-z0-9_.-]+[ \t]*=/) {
            rest = line
            sub(/[ \t]*=.*$/, "", rest)
            if (rest != "python") dependency(section == "tool.poetry.dependencies" ? "run" : "dev", tolower(rest), toml_string(substr(line, index(line, "=") + 1)))
        }
    }
    close(FILE)
}

function strings(scope, text,    string) {
    while (match(text, /"[^"]*"|'[^']*'/)) {
        string = substr(text, RSTART + 1, RLENGTH - 2)
        text = substr(text, RSTART + RLENGTH)
        requirement(scope, string)
    }
}

function read_requirements(    line) {
    while ((getline line < FILE) > 0) if (line !~ /^[ \t]*(#|-|$)/) requirement(basename(PATH) ~ /dev|test/ ? "dev" : "run", line)
    close(FILE)
}

# ---- Go

function read_go(    line, block, cells) {
    while ((getline line < FILE) > 0) {
        if (line ~ /^module[ \t]/) { split(line, cells, /[ \t]+/); package = cells[2] }
        if (line ~ /^require[ \t]*\(/) { block = 1; continue }
        if (block && line ~ /^\)/) block = 0
        if (line ~ /\/\/ indirect/) continue
        if (block || line ~ /^require[ \t]/) {
            sub(/^(require)?[ \t]+/, "", line)
            if (split(line, cells, /[ \t\r]+/) >= 2 && cells[1] !~ /^\/\//) dependency("run", cells[1], cells[2])
        }
    }
    close(FILE)
}

# The first of these lock files here or in a directory above.
function lock_for(path, list,    n, files, i, dir) {
    n = split(list, files, " ")
    dir = path
    do {
        dir = dirname(dir)
        for (i = 1; i <= n; i++) if (((dir == "." ? "" : dir "/") files[i]) in EXISTS) return (dir == "." ? "" : dir "/") files[i]
    } while (dir != ".")
    return ""
}

BEGIN {
    locks["Cargo"] = "Cargo.lock"
    locks["npm"] = "package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml bun.lock bun.lockb"
    locks["Python"] = "poetry.lock uv.lock pdm.lock Pipfile.lock pylock.toml"
    locks["Go"] = "go.sum"
    while (index_next()) EXISTS[PATH] = 1

    while (index_next()) {
        if (CLASS == "vendored" || CLASS == "test" || TYPE != "text") continue
        base = basename(PATH)
        tool = base == "Cargo.toml" ? "Cargo" : base == "package.json" ? "npm" : (base == "pyproject.toml" || base ~ /^requirements.*\.txt$/) ? "Python" : base == "go.mod" ? "Go" : ""
        if (tool == "") {
            if (base ~ /^(Makefile|GNUmakefile|CMakeLists\.txt|meson\.build|BUILD\.bazel|pom\.xml|build\.gradle(\.kts)?|Gemfile|composer\.json|mix\.exs|setup\.py|flake\.nix|Dockerfile|Containerfile|justfile)$/ || base ~ /\.(csproj|gemspec|cabal)$/) {
                others++
                if (others <= 8) other_list = other_list (others > 1 ? ", " : "") path_code(PATH)
            }
            continue
        }
        manifest = PATH
        package = ""
        workspace = runs = devs = 0
        if (tool == "Cargo") read_cargo()
        else if (tool == "npm") read_npm()
        else if (base == "pyproject.toml") read_pyproject()
        else if (tool == "Python") read_requirements()
        else read_go()
        manifests++
        # A list of pinned requirements is its own lock.
        lock = base ~ /^requirements/ ? "" : lock_for(PATH, locks[tool])
        lock_text = base ~ /^requirements/ ? "not applicable" : lock != "" ? path_code(lock) : runs + devs == 0 ? "not needed" : "**none**"
        if (lock_text == "**none**") {
            unlocked++
            if (unlocked == 1) first_unlocked = path_code(PATH)
        }
        if (manifests <= 25) row[manifests] = path_code(PATH) "\t" tool "\t" (package == "" ? "–" : code(package)) "\t" num(runs) "\t" num(devs) "\t" lock_text
    }

    print "## Dependencies\n"
    fact("manifests", manifests); fact("dependencies", total); fact("manifests_without_lock", unlocked); fact("loose_dependencies", loose)
    if (!manifests) print "No manifest of Cargo, npm, Python or Go" (others ? "" : ", and no other build file that is known here") ".\n"
    else {
        table_begin("lllrrl", "Manifest\tOf\tPackage\tNeeds\tFor development\tLock file")
        for (i = 1; i <= 25 && i <= manifests; i++) table_row(row[i])
        table_end()
        if (manifests > 25) print "… and " num(manifests - 25) " more manifests.\n"
    }
    if (others) print "Other build files, not read: " other_list (others > 8 ? ", …" : "") ".\n"
    if (unlocked) finding(3, plural(unlocked, "manifest has", "manifests have") " dependencies but no lock file (first: " first_unlocked "): two builds may differ.")
    if (loose) {
        print "Dependencies without a bound on their version:\n"
        table_begin("lll", "Manifest\tDependency\tVersion")
        for (i = 1; i <= 10 && i <= loose; i++) table_row(loose_entry[i])
        table_end()
        if (loose > 10) print "… and " num(loose - 10) " more.\n"
        finding(3, plural(loose, "dependency accepts", "dependencies accept") " any version.")
    }
    for (i = 1; i <= names; i++) if (versions[sys_of[i], name_of[i]] > 1) {
        different++
        if (different <= 10) differ[different] = code(name_of[i]) "\t" sys_of[i] "\t" clip(version_list[sys_of[i], name_of[i]], 120)
    }
    fact("dependencies_with_different_versions", different)
    if (different) {
        print "Asked for in different versions by different manifests:\n"
        table_begin("lll", "Dependency\tOf\tVersions")
        for (i = 1; i <= 10 && i <= different; i++) table_row(differ[i])
        table_end()
        if (different > 10) print "… and " num(different - 10) " more.\n"
        if (manifests <= 200) finding(4, plural(different, "dependency is", "dependencies are") " asked for in different versions by different manifests.")
    }
}
