# Functions shared by the nodes of the survey. Bytes in, bytes out: LC_ALL=C is assumed.
#
# An array element that may never have been set is passed to a function with `+ 0`: gawk 5.2 can fail on it otherwise.

BEGIN {
    # By way of the environment: awk would read backslashes in an assignment as escapes.
    lib = ENVIRON["SURVEY_LIB"]
    art = ENVIRON["AGENTD_ARTIFACTS"]
    run = ENVIRON["AGENTD_RUN_DIR"]
    facts = run "/facts"
    findings = run "/findings"
    # Every byte's number. Names and contents may hold any of them.
    for (lib_i = 1; lib_i < 256; lib_i++) ORD[sprintf("%c", lib_i)] = lib_i
}

# ---- what a node hands on

function fact(name, value) { printf "%s\t%s\n", name, value >> facts }

# severity: 1 high, 2 medium, 3 low, 4 worth knowing. The text is Markdown.
function finding(severity, text) { printf "%d\t%s\n", severity, text >> findings }

# ---- paths

# An encoded path back to the path.
function dec(path) {
    if (index(path, "%")) {
        gsub(/%09/, "\t", path)
        gsub(/%0A/, "\n", path)
        gsub(/%25/, "%", path)
    }
    return path
}

function basename(path) { sub(/^.*\//, "", path); return path }

function dirname(path) { if (!sub(/\/[^\/]*$/, "", path)) path = "."; return path }

# ---- text for people

# Any bytes as valid UTF-8 on one line: what is not printable is shown as \n, \t or \xNN.
function show(s,    out, i, n, c, o, need, k, tail) {
    if (s !~ /[^ -~]/) return s
    out = ""
    n = length(s)
    for (i = 1; i <= n; i++) {
        c = substr(s, i, 1)
        o = ORD[c] + 0
        if (o >= 32 && o < 127) { out = out c; continue }
        if (c == "\n") { out = out "\\n"; continue }
        if (c == "\t") { out = out "\\t"; continue }
        need = (o >= 194 && o < 224) ? 1 : (o >= 224 && o < 240) ? 2 : (o >= 240 && o < 245) ? 3 : 0
        tail = substr(s, i + 1, need)
        for (k = 1; k <= need; k++) {
            # ORD of what is past the end is 0, and so is not a continuation.
            if (ORD[substr(tail, k, 1)] + 0 < 128 || ORD[substr(tail, k, 1)] + 0 > 191) need = -1
        }
        if (need > 1) {
            # Overlong forms, surrogates, and what lies above U+10FFFF.
            k = ORD[substr(tail, 1, 1)]
            if ((o == 224 && k < 160) || (o == 237 && k > 159) || (o == 240 && k < 144) || (o == 244 && k > 143)) need = -1
        } else if (need == 1 && o == 194 && ORD[tail] < 160) need = -1
        if (need > 0) { out = out c tail; i += need }
        else out = out sprintf("\\x%02x", o)
    }
    return out
}

# As inline code that stands in a table as well as in a sentence.
function code(s) {
    s = show(s)
    gsub(/\|/, "\\|", s)
    if (index(s, "`")) return "`` " s " ``"
    return "`" s "`"
}

function path_code(path) { return code(dec(path)) }

# As plain words: nothing in it is Markdown any more.
function plain(s,    out, i, c) {
    s = show(s)
    if (s !~ /[]\\`*_{}[<>|#~&]/) return s
    out = ""
    for (i = 1; i <= length(s); i++) {
        c = substr(s, i, 1)
        # Within a word an underscore means nothing.
        if (index("\\`*{}[]<>|#~&", c) || (c == "_" && (i == 1 || substr(s, i - 1, 1) !~ /[A-Za-z0-9]/ || substr(s, i + 1, 1) !~ /[A-Za-z0-9_]/))) out = out "\\"
        out = out c
    }
    return out
}

# Shortened to about `width` bytes, never inside a character.
function clip(s, width) {
    if (length(s) <= width) return s
    s = substr(s, 1, width)
    # What may be the beginning of a character whose end was cut off, or a whole one: either may go.
    sub(/[\300-\377][\200-\277]*$/, "", s)
    return s "…"
}

# 1234567 as 1,234,567.
function num(n,    s, out) {
    s = sprintf("%d", n + 0)
    out = ""
    while (length(s) > 3) {
        out = "," substr(s, length(s) - 2) out
        s = substr(s, 1, length(s) - 3)
    }
    return s out
}

function plural(n, one, many) { return num(n) " " (n == 1 ? one : many) }

function bytes(n) {
    n += 0
    if (n < 1024) return n " B"
    if (n < 1048576) return sprintf("%.1f KiB", n / 1024)
    if (n < 1073741824) return sprintf("%.1f MiB", n / 1048576)
    return sprintf("%.1f GiB", n / 1073741824)
}

function percent(part, whole) {
    if (!whole) return "–"
    if (part > 0 && part * 100 < whole) return "<1 %"
    return sprintf("%d %%", part * 100 / whole + 0.5)
}

function repeat(s, n,    out) { out = ""; while (n-- > 0) out = out s; return out }

function bar(n, max, width) {
    if (n <= 0 || max <= 0) return ""
    n = int(n * width / max + 0.5)
    return repeat("█", n < 1 ? 1 : n)
}

# Days since 1970-01-01 as a date (Gregorian, by counting from 0000-03-01).
function day_date(days,    era, doe, yoe, doy, mp, d, m, y) {
    days += 719468
    era = int(days / 146097)
    doe = days - era * 146097
    yoe = int((doe - int(doe / 1460) + int(doe / 36524) - int(doe / 146096)) / 365)
    doy = doe - (365 * yoe + int(yoe / 4) - int(yoe / 100))
    mp = int((5 * doy + 2) / 153)
    d = doy - int((153 * mp + 2) / 5) + 1
    m = mp < 10 ? mp + 3 : mp - 9
    y = yoe + era * 400 + (m <= 2)
    return sprintf("%04d-%02d-%02d", y, m, d)
}

function unix_date(secs) { return day_date(int(secs / 86400)) }

# ---- tables whose source reads well, too

# align: a letter a column, l or r. Rows are cells separated by tabs.
function table_begin(align, header) {
    T_ALIGN = align
    T_ROWS = 0
    split("", T_WIDTH)
    table_row(header)
}

function table_row(row,    cells, n, i, w) {
    T_ROW[++T_ROWS] = row
    n = split(row, cells, "\t")
    for (i = 1; i <= n; i++) {
        w = columns(cells[i])
        if (w > T_WIDTH[i]) T_WIDTH[i] = w
    }
}

function table_end(    r, n, cells, i, line, pad) {
    for (r = 1; r <= T_ROWS; r++) {
        split(T_ROW[r], cells, "\t")
        n = length(T_ALIGN)
        line = "|"
        for (i = 1; i <= n; i++) {
            # A very wide cell does not widen all the others.
            pad = (T_WIDTH[i] > 60 ? 60 : T_WIDTH[i]) - columns(cells[i])
            pad = pad > 0 ? repeat(" ", pad) : ""
            line = line " " (substr(T_ALIGN, i, 1) == "r" ? pad cells[i] : cells[i] pad) " |"
        }
        print line
        if (r == 1) {
            line = "|"
            for (i = 1; i <= n; i++) {
                pad = T_WIDTH[i] > 60 ? 60 : (T_WIDTH[i] < 2 ? 2 : T_WIDTH[i])
                line = line (substr(T_ALIGN, i, 1) == "r" ? " " repeat("-", pad - 1) ": |" : " " repeat("-", pad) " |")
            }
            print line
        }
    }
    print ""
}

# How many characters: continuation bytes do not count.
function columns(s) {
    if (s ~ /[\200-\277]/) gsub(/[\200-\277]/, "", s)
    return length(s)
}

# ---- secrets

# Text that is to be quoted, without what may be a secret in it.
function masked(s,    out, t) {
    while (match(s, /:\/\/[^\/@ \t:]*:[^\/@ \t]+@/)) {
        s = substr(s, 1, RSTART - 1) "://****@" substr(s, RSTART + RLENGTH)
    }
    if (match(tolower(s), /(password|passwd|secret|token|api_?key)[a-z_]*["']?[ \t]*[:=][ \t]*[^ \t]+/)) {
        t = substr(s, RSTART, RLENGTH)
        sub(/[:=].*$/, "", t)
        s = substr(s, 1, RSTART - 1) t "=****" substr(s, RSTART + RLENGTH)
    }
    out = ""
    while (match(s, /[A-Za-z0-9_+=-]+/)) {
        t = substr(s, RSTART, RLENGTH)
        # Keys are long and mixed; names are not, and are no hexadecimal numbers either.
        if ((RLENGTH >= 20 && t ~ /[0-9]/ && t ~ /[A-Z]/ && t ~ /[a-z]/) || (RLENGTH >= 32 && t ~ /^[0-9a-fA-F]+$/)) t = "****"
        out = out substr(s, 1, RSTART - 1) t
        s = substr(s, RSTART + RLENGTH)
    }
    return out s
}

# ---- JSON

# A string, quotes included. What is not UTF-8 is shown as \xNN first: JSON has no way to say it.
function json(s,    out, i, c) {
    s = show(s)
    if (s !~ /["\\]/) return "\"" s "\""
    out = ""
    for (i = 1; i <= length(s); i++) {
        c = substr(s, i, 1)
        if (c == "\"" || c == "\\") out = out "\\"
        out = out c
    }
    return "\"" out "\""
}
