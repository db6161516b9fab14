# Precise before complete: a list that cries wolf is not read. Known token formats and private keys are "likely";
# a literal that is assigned to a telling name is "possible", and only when it does not look like a placeholder.

function times(class, n,    out) { out = ""; while (n-- > 0) out = out class; return out }

function token(kind, prefix, tail) {
    tokens++
    token_kind[tokens] = kind
    # A token stands alone: no letter before it.
    token_re[tokens] = "(^|[^A-Za-z0-9_])" prefix tail
    token_mark[tokens] = prefix
    sub(/[\[(].*$/, "", token_mark[tokens])
}

function note(certain, kind, n,    key) {
    # Once for each line and kind.
    key = PATH SUBSEP n SUBSEP kind
    if (key in noted) return
    noted[key] = 1
    if (certain) likely++; else possible++
    if (CLASS == "test") in_tests[certain]++
    place = CLASS == "test" ? "test" : "other"
    if (++listed[certain, place] <= 25) entry[certain, place, listed[certain, place]] = path_code(PATH) (n ? ":" n : "") "\t" kind "\t" (certain ? "likely" : "possible") "\t" (source != "git" ? "" : TRACKED_BY_GIT ? "yes" : "no")
    if (TRACKED_BY_GIT && certain) tracked++
}

function placeholder(value,    v) {
    v = tolower(value)
    if (v ~ /example|placeholder|change.?me|your|dummy|sample|redacted|hidden|todo|fixme|insert|replace|secret.?here|foobar|lorem|not.?a.?secret|default|testing/) return 1
    if (v ~ /^(password|passwd|secret|token|admin|test|user|none|null|true|false|undefined|root)[0-9!]*$/) return 1
    if (v ~ /[$<>{}()%*]|\[|\.\.\.|…|xxx|000000|123456|abcdef/) return 1
    # The same character over and over.
    if (v ~ /^(.)$/ || all_alike(v)) return 1
    return 0
}

function all_alike(v,    i, n, seen) {
    n = 0
    for (i = 1; i <= length(v); i++) if (!((substr(v, i, 1)) in seen)) { seen[substr(v, i, 1)] = 1; n++ }
    return n < 5
}

# A value that a person or a generator made up: letters and digits or signs, and no name of something.
function telling(value) {
    if (length(value) < 8 || length(value) > 200 || placeholder(value)) return 0
    if (value ~ /[ \t\/\\:,;]/) return 0
    if (value !~ /[0-9]/ || value !~ /[A-Za-z]/) return 0
    # snake_case, kebab-case, dotted.names and CamelCase with a number at the end are names.
    if (value ~ /^[a-z]+([_.-][a-z]+)*[_.-]?v?[0-9]?[0-9]?$/ || value ~ /^[A-Z]+([_.-][A-Z]+)*[_.-]?[0-9]?[0-9]?$/ || value ~ /^[A-Za-z]+[0-9]?$/) return 0
    return 1
}

function look_at_line(line, n,    low, rest, value, host, i) {
    # Private keys: the marker alone is what programs look for; a key has base64 after it.
    if (key_line && n == key_line + 1) {
        if (line ~ /^[ \t"'+]*(Proc-Type|DEK-Info|Version|Comment)?:? ?[A-Za-z0-9+\/=,-]+/ && (line ~ KEY_BODY || line ~ /^(Proc-Type|Version|Comment):/ || line ~ /^[ \t]*$/)) note(1, key_kind, key_line)
        key_line = 0
    }
    if (index(line, "-----BEGIN ") && match(line, /-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----/)) {
        key_kind = "private key"
        rest = substr(line, RSTART + RLENGTH)
        if (rest ~ KEY_BODY) note(1, key_kind, n)
        else key_line = n
    }
    for (i = 1; i <= tokens; i++) {
        if (!index(line, token_mark[i]) || !match(line, token_re[i])) continue
        value = substr(line, RSTART, RLENGTH)
        rest = substr(line, RSTART + RLENGTH, 1)
        if (placeholder(substr(value, length(token_mark[i]) + 2)) || line ~ /EXAMPLE/) continue
        note(1, token_kind[i], n)
    }
    if (index(line, "://") && match(line, /[a-z][a-z0-9+.-]*:\/\/[^\/@ \t"'`:<>{}$%*]+:[^\/@ \t"'`<>{}$%*]+@[A-Za-z0-9.-]+/)) {
        value = substr(line, RSTART, RLENGTH)
        host = value
        sub(/^.*@/, "", host)
        sub(/@[^@]*$/, "", value)
        sub(/^[^:]*:\/\/[^:]*:/, "", value)
        low = tolower(value)
        if (length(value) >= 6 && !placeholder(value) && host !~ /(^|\.)(example(\.[a-z]+)?|test|invalid|localhost)$/ && low !~ /^(password|passwd|pass|secret|token|pw|postgres|mysql|guest|redis|rabbitmq|minio)[0-9]*$/) note(0, "password in a URL", n)
    }
    low = tolower(line)
    if (low !~ /passw|secret|token|api_?-?key|access_?-?key|private_?-?key|credential/) return
    # name = "value", name: 'value', "name": "value"; unquoted in configuration files only.
    while (match(low, /(password|passwd|secret|token|api_?-?key|access_?-?key|private_?-?key|credentials?)[a-z0-9_-]*["']?[ \t]*(=|:|:=|=>)[ \t]*["'][^"']+["']/)) {
        value = substr(line, RSTART, RLENGTH)
        line = substr(line, RSTART + RLENGTH)
        low = substr(low, RSTART + RLENGTH)
        sub(/["']$/, "", value)
        sub(/^.*["']/, "", value)
        if (telling(value)) note(0, "literal assigned to a telling name", n)
    }
    if (KIND == "data" && match(low, /^[ \t-]*(export[ \t]+)?[a-z0-9_.-]*(password|passwd|secret|token|api_?-?key|access_?-?key)[a-z0-9_]*[ \t]*[=:][ \t]*[^ \t"'#]+[ \t\r]*$/)) {
        value = substr(line, RSTART, RLENGTH)
        sub(/^[^=:]*[=:][ \t]*/, "", value)
        sub(/[ \t\r]+$/, "", value)
        if (telling(value)) note(0, "value of a telling setting", n)
    }
}

BEGIN {
    alnum = "[A-Za-z0-9]"
    KEY_BODY = times("[A-Za-z0-9+\\/=]", 40)
    token("AWS access key", "AKIA", times("[A-Z0-9]", 16))
    token("GitHub token", "gh[pousr]_", times(alnum, 36))
    token("GitHub token", "github_pat_", times("[A-Za-z0-9_]", 50))
    token("GitLab token", "glpat-", times("[A-Za-z0-9_-]", 20))
    token("Slack token", "xox[abprs]-", "[0-9]" times("[A-Za-z0-9-]", 12))
    token("Stripe key", "[sr]k_live_", times(alnum, 20))
    token("Google API key", "AIza", times("[A-Za-z0-9_-]", 35))
    token("OpenAI or DeepSeek key", "sk-", "(proj-)?" times(alnum, 32))
    token("Anthropic key", "sk-ant-", times("[A-Za-z0-9_-]", 32))
    token("npm token", "npm_", times(alnum, 36))
    token("PyPI token", "pypi-", "AgE" times("[A-Za-z0-9_-]", 50))
    token("Hugging Face token", "hf_", times(alnum, 34))
    token("SendGrid key", "SG\\.", times("[A-Za-z0-9_-]", 22) "\\." times("[A-Za-z0-9_-]", 40))
    # What index() looks for before the expression is tried.
    for (i = 1; i <= tokens; i++) {
        if (token_mark[i] == "gh") token_mark[i] = "_"
        if (token_mark[i] == "xox") token_mark[i] = "xox"
        if (token_mark[i] == "") token_mark[i] = "k_live_"
        sub(/\\\.$/, ".", token_mark[i])
    }
    # One expression that every line is tried against; the rest only runs on what it lets through.
    MAYBE = "-----BEGIN |AKIA|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|k_live_|AIza|sk-|npm_|pypi-|hf_|SG[.]|:\\/\\/[^\\/@ ]*:[^\\/@ ]*@|[Pp][Aa][Ss][Ss][Ww]|[Ss][Ee][Cc][Rr][Ee][Tt]|[Tt][Oo][Kk][Ee][Nn]|[Kk][Ee][Yy]|[Cc][Rr][Ee][Dd][Ee][Nn][Tt][Ii][Aa][Ll]"
    getline line < (art "/source")
    source = line
    sub(/\t.*$/, "", source)

    while (index_next()) {
        if (CLASS == "vendored" || (TYPE != "text" && TYPE != "binary")) continue
        name = basename(PATH)
        if (name ~ /^(id_(rsa|dsa|ecdsa|ed25519)|\.netrc|\.pgpass|\.htpasswd|\.git-credentials)$/ || name ~ /\.(p12|pfx|jks|keystore|kdbx)$/ || (name ~ /^\.env(\..*)?$/ && name !~ /(example|sample|template|dist)/)) {
            if (source != "git" || TRACKED_BY_GIT) note(0, "file that usually holds secrets", 0)
        }
        if (TYPE != "text") continue
        key_line = 0
        for (n = 1; (getline line < FILE) > 0; n++) {
            # One look at the longest part that can hold anything: minified bundles have lines of megabytes.
            if (length(line) > 20000) line = substr(line, 1, 20000)
            if (key_line || line ~ MAYBE) look_at_line(line, n)
        }
        close(FILE)
    }

    print "## Credentials in the clear\n"
    fact("likely_credentials", likely); fact("possible_credentials", possible)
    fact("likely_credentials_in_tests", in_tests[1] + 0); fact("possible_credentials_in_tests", in_tests[0] + 0)
    if (!likely && !possible) {
        print "Nothing that looks like a private key, a token or a password in the clear.\n"
        exit
    }
    print "Values are not shown. A likely one has the form of a real key; a possible one is a literal beside a telling name.\n"
    outside = likely - in_tests[1]
    if (outside) finding(1, plural(outside, "likely credential", "likely credentials") " in the clear (first: " first_entry(1, "other") "). Revoke before removing: what was once committed stays in the history.")
    if (in_tests[1]) finding(3, plural(in_tests[1], "likely credential", "likely credentials") " in test files (first: " first_entry(1, "test") "); made-up ones are fine.")
    outside = possible - in_tests[0]
    if (outside) finding(2, plural(outside, "possible credential", "possible credentials") " in the clear (first: " first_entry(0, "other") ").")
    table_begin("llll", "Where\tWhat\tHow sure\tIn git")
    shown = 0
    for (certain = 1; certain >= 0; certain--) for (p = 1; p <= 2; p++) {
        place = p == 1 ? "other" : "test"
        for (i = 1; i <= listed[certain, place] && i <= 25; i++) { table_row(entry[certain, place, i]); shown++ }
    }
    table_end()
    if (likely + possible > shown) print "… and " num(likely + possible - shown) " more.\n"
}

function first_entry(certain, place,    cells) {
    split(entry[certain, place, 1], cells, "\t")
    return cells[2] " in " cells[1]
}
