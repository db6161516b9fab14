# Tells comments from code, line by line.
#
# comments_load() once, comments_file(language) before each file, then for each line classify(line): it returns
# "b" (blank), "c" (nothing but comment) or "x" (code), and leaves the text of the line's comments in COMMENT.
# It knows strings well enough not to take what looks like a comment in one for a comment. It is no parser: a
# regular expression or a here-document can fool it for a line.

function comments_load(    file, line, cells, n, i, tokens, lang, re) {
    # The rest of a string, by its quote.
    STRING_END["\""] = "^([^\"\\\\]|\\\\.)*\""
    STRING_END["'"] = "^([^'\\\\]|\\\\.)*'"
    STRING_END["`"] = "^([^`\\\\]|\\\\.)*`"
    file = lib "/languages.tsv"
    while ((getline line < file) > 0) {
        if (line ~ /^# / || split(line, cells, "\t") < 3) continue
        lang = cells[2]
        LINE_TOKENS[lang] = cells[4]
        BLOCK_BEGIN[lang] = cells[5]
        BLOCK_END[lang] = cells[6]
        QUOTES[lang] = cells[7]
        re = ""
        n = split(cells[4], tokens, " ")
        for (i = 1; i <= n; i++) re = re "|" literal(tokens[i])
        if (cells[5] != "") re = re "|" literal(cells[5])
        COMMENT_RE[lang] = substr(re, 2)
        if (cells[7] == "python") re = "|\"\"\"|'''" re "|\"|'"
        else if (cells[7] == "js") re = re "|\"|'|`"
        else if (cells[7] == "go") re = re "|\"|'|`"
        else if (cells[7] == "rust") re = re "|\"|'|r##*\""
        else if (cells[7] ~ /^[cs]$/) re = re "|\"|'"
        TOKEN_RE[lang] = substr(re, 2)
    }
    close(file)
}

# A string as a regular expression: every character that means something stands in brackets.
function literal(s,    out, i, c) {
    out = ""
    for (i = 1; i <= length(s); i++) {
        c = substr(s, i, 1)
        out = out (c ~ /[A-Za-z0-9#=<>!%;\/"'`-]/ ? c : "[" c "]")
    }
    return out
}

function comments_file(language) {
    C_LANG = language in COMMENT_RE ? language : "Text"
    C_RE = COMMENT_RE[C_LANG]
    C_TOKENS = TOKEN_RE[C_LANG]
    C_QUOTES = QUOTES[C_LANG]
    # Strings that go over lines begin on lines without comment tokens, too.
    C_QUICK = C_QUOTES ~ /^(rust|python|js|go)$/ ? C_TOKENS : C_RE
    C_NESTED = C_LANG ~ /^(Rust|Swift|Kotlin|Scala|Haskell|OCaml)$/
    C_OPEN = ""
    C_DEPTH = 0
    C_COLON = 1
}

function classify(line,    rest, is_code, token, at, before, result) {
    COMMENT = ""
    if (line !~ /[^ \t\r\f\v]/) return "b"
    if (C_OPEN == "" && (C_QUICK == "" || line !~ C_QUICK)) {
        C_COLON = line ~ /:[ \t\r]*$/
        return "x"
    }
    rest = line
    is_code = 0
    if (C_OPEN != "") {
        at = close_block(rest)
        if (C_OPEN_KIND == "c") COMMENT = at ? substr(rest, 1, at - 1) : rest
        else is_code = 1
        if (!at) return C_OPEN_KIND == "c" ? "c" : "x"
        rest = substr(rest, at)
    }
    while (rest != "" && match(rest, C_TOKENS)) {
        at = RSTART
        token = substr(rest, RSTART, RLENGTH)
        before = substr(rest, 1, at - 1)
        rest = substr(rest, at + length(token))
        # A prefix of a Python string is part of it.
        if (C_QUOTES == "python" && length(token) == 3) sub(/[rRuUbB]$/, "", before)
        if (before ~ /[^ \t]/) is_code = 1
        if (token == BLOCK_BEGIN[C_LANG]) {
            # =begin and =end stand at the beginning of a line.
            if (token == "=begin" && (is_code || before != "")) { is_code = 1; continue }
            C_OPEN = BLOCK_END[C_LANG]
            C_OPEN_KIND = "c"
            C_DEPTH = 1
            at = close_block(rest)
            COMMENT = COMMENT " " (at ? substr(rest, 1, at - 1) : rest)
            if (!at) break
            rest = substr(rest, at)
        } else if (token ~ /^r?#*["'`]/) {
            # Three quotes in Python: a docstring is a comment, any other string is code.
            if (C_QUOTES == "python" && length(token) == 3 && !is_code && C_COLON) {
                C_OPEN = token
                C_OPEN_KIND = "c"
            } else {
                is_code = 1
                if (skip_string(rest, token)) { rest = STRING_REST; continue }
                if (C_OPEN == "") { rest = STRING_REST; continue }
                C_OPEN_KIND = "x"
            }
            at = close_block(rest)
            if (C_OPEN_KIND == "c") COMMENT = COMMENT " " (at ? substr(rest, 1, at - 1) : rest)
            if (!at) { rest = ""; break }
            rest = substr(rest, at)
        } else {
            # A line comment, unless it is part of a word: $#, ${x#y}, #! is one; http:// is not.
            if (token ~ /^[#%;]/ && before ~ /[^ \t;,(]$/) { is_code = 1; continue }
            if (token == "//" && before ~ /:$/) { is_code = 1; continue }
            COMMENT = COMMENT " " rest
            rest = ""
        }
    }
    if (C_OPEN == "" && rest ~ /[^ \t\r]/) is_code = 1
    result = is_code ? "x" : "c"
    if (is_code) C_COLON = line ~ /:[ \t]*(#.*)?\r?$/
    return result
}

# Where the text after the end of the open block begins, or 0 when it stays open.
function close_block(s,    at, begin, skipped) {
    skipped = 0
    while (1) {
        at = index(s, C_OPEN)
        if (C_OPEN_KIND == "x" && C_OPEN ~ /^["`]$/) {
            # An escaped quote does not close.
            at = match(s, STRING_END[C_OPEN]) ? RLENGTH : 0
            if (C_QUOTES == "go") at = index(s, "`")
        }
        if (C_NESTED && C_OPEN_KIND == "c") {
            begin = index(s, BLOCK_BEGIN[C_LANG])
            if (begin && (!at || begin < at)) {
                C_DEPTH++
                begin += length(BLOCK_BEGIN[C_LANG])
                skipped += begin - 1
                s = substr(s, begin)
                continue
            }
            if (at && --C_DEPTH > 0) {
                at += length(C_OPEN)
                skipped += at - 1
                s = substr(s, at)
                continue
            }
        }
        if (!at) return 0
        at += length(C_OPEN) + skipped
        C_OPEN = ""
        return at
    }
}

# Skips a string whose quote has just been read. 1: it ends on this line. 0: it does not; C_OPEN then says
# whether it goes on in the next one. STRING_REST is what is left of the line.
function skip_string(s, quote) {
    STRING_REST = s
    if (quote == "'" && C_QUOTES ~ /^(rust|c|go)$/) {
        # A character; or a lifetime, a digit separator: then only the quote is skipped.
        if (match(s, /^([^'\\\200-\377]|[\200-\377]+|\\[^']+|\\')'/)) STRING_REST = substr(s, RLENGTH + 1)
        return 1
    }
    if (length(quote) == 3 || quote ~ /^r/) {
        C_OPEN = quote
        if (quote ~ /^r/) C_OPEN = "\"" substr(quote, 2, length(quote) - 2)
        return 0
    }
    if (quote == "`") { C_OPEN = "`"; return 0 }
    if (match(s, STRING_END[quote])) {
        STRING_REST = substr(s, RLENGTH + 1)
        return 1
    }
    if (C_QUOTES == "rust") { C_OPEN = "\""; return 0 }
    # A lone apostrophe is skipped; a lone quotation mark takes the rest of the line.
    STRING_REST = quote == "'" ? s : ""
    return 0
}
