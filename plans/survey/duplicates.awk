# Groups identical files; finds passages of 15 and more significant lines of code that stand in two places.
#
# A passage is found as rsync finds blocks: every file is first cut into blocks of BLOCK lines, which are
# remembered by a rolling hash; then a window of the same length slides over every file. A window that is known
# is compared line by line before it counts, and grown in both directions. Any passage of 2 * BLOCK - 1 lines
# contains a whole block, and so is found for sure; most shorter ones of at least LEAST lines are as well.

BEGIN {
    FS = "\t"
    BLOCK = 8
    LEAST = 15
    # Every significant line is kept as a number: this bounds the memory, to about 250 MB.
    LINES_MAX = 1500000
    MODULUS = 33554393 # a prime below 2^25; times a number below 2^27 it is exact in a double
    BASE = 1000003

    while (index_next()) {
        size_of[PATH] = SIZE

        if (own_text() && KIND == "code" && CLASS == "plain") {
            source[++sources] = PATH
            is_code[PATH] = 1
        }
    }
    identical_files()
    passages()

    print "## Duplicates\n"
    if (groups) {
        print plural(groups, "group", "groups") " of identical files, " bytes(wasted) " of copies:\n"
        # The most wasteful first.
        table_begin("rrl", "Copies\tSize\tFiles")
        for (shown = 0; shown < 10; shown++) {
            best = 0
            for (g = 1; g <= groups; g++) if (!(g in told) && (!best || waste[g] > waste[best])) best = g
            if (!best) break
            told[best] = 1
            table_row(num(copies[best]) "\t" bytes(each[best]) "\t" names[best] (copies[best] > 4 ? ", …" : ""))
        }
        table_end()
        if (groups > 10) print "… and " plural(groups - 10, "more group", "more groups") ".\n"
        if (source_groups) finding(3, plural(source_groups, "group", "groups") " of source files " (source_groups == 1 ? "is" : "are") " byte for byte identical.")
    } else print "No identical files (of 32 bytes and more, licences apart).\n"
    fact("identical_groups", groups); fact("identical_wasted_bytes", wasted)

    if (passages_found) {
        print plural(passages_found, "passage", "passages") " of " LEAST " or more significant lines of code " (passages_found == 1 ? "stands" : "stand") " in two places:\n"
        table_begin("rll", "Lines\tOne place\tThe other")
        for (shown = 0; shown < 10; shown++) {
            best = 0
            for (g = 1; g <= passages_found; g++) if (!(g in shown_passage) && (!best || passage_lines[g] > passage_lines[best])) best = g
            if (!best) break
            shown_passage[best] = 1
            table_row(num(passage_lines[best]) "\t" passage_text[best])
            if (shown == 0 && passage_lines[best] >= 40) finding(3, "A passage of " num(passage_lines[best]) " lines of code stands in two places; " num(passages_found) " such " (passages_found == 1 ? "passage" : "passages") " of " LEAST " lines and more in all.")
        }
        table_end()
        if (passages_found > 10) print "… and " num(passages_found - 10) " more.\n"
    } else if (sources) print "No passage of " LEAST " or more significant lines of code stands in two places.\n"
    if (too_many) print "The search for passages ended after " num(LINES_MAX) " lines: " num(too_many) " of " num(sources) " source files were not compared.\n"
    fact("duplicate_passages", passages_found); fact("source_files_not_compared", too_many)
}

function identical_files(    sum, n, member) {
    while ((getline < (run "/sums.tsv")) > 0) {
        if ($1 == sum) {
            if (n == 1) {
                groups++
                copies[groups] = 1
                each[groups] = size_of[member]
                names[groups] = path_code(member)
                if (member in is_code) source_groups++
            }
            n++
            copies[groups]++
            waste[groups] += each[groups]
            wasted += each[groups]
            if (copies[groups] <= 4) names[groups] = names[groups] ", " path_code($2)
            copy_of[$2] = member
            continue
        }
        sum = $1
        member = $2
        n = 1
    }
    close(run "/sums.tsv")
}

# The lines of all source files, as numbers: LINE_ID[k], at NUMBER[k] in file FIRST[f] .. FIRST[f + 1] - 1.
function read_sources(    f, n, line, file) {
    total = 0
    for (f = 1; f <= sources; f++) {
        FIRST[f] = total + 1
        # A copy of a whole file has been told already.
        if (source[f] in copy_of) { source_copies++; continue }
        if (total > LINES_MAX) { too_many++; continue }
        file = "./" dec(source[f])
        for (n = 1; (getline line < file) > 0; n++) {
            gsub(/[ \t\r]+/, "", line)
            # Braces and the like are everywhere: they neither make nor break a passage.
            if (length(line) < 4 || length(line) > 1000) continue
            # Imports, licences and other comments are alike by nature.
            if (line ~ /^(use|import|#include|package|from|\/\/|#|\*|\/\*|--|<!--)/) continue
            if (!(line in ID)) ID[line] = ++ids
            LINE_ID[++total] = ID[line]
            NUMBER[total] = n
        }
        close(file)
    }
    FIRST[sources + 1] = total + 1
    split("", ID)
}

function passages(    f, k, i, h, power, end, at) {
    read_sources()
    power = 1
    for (i = 1; i < BLOCK; i++) power = (power * BASE) % MODULUS
    for (f = 1; f <= sources; f++) {
        end = FIRST[f + 1]
        for (k = FIRST[f]; k + BLOCK <= end; k += BLOCK) {
            h = 0
            for (i = 0; i < BLOCK; i++) h = (h * 1000003 % MODULUS + LINE_ID[k + i]) % MODULUS
            if (!(h in KNOWN)) KNOWN[h] = k
        }
    }
    for (f = 1; f <= sources; f++) {
        end = FIRST[f + 1]
        if (end - FIRST[f] < LEAST) continue
        h = 0
        for (k = FIRST[f]; k < end; k++) {
            if (k - FIRST[f] >= BLOCK) h = (h + MODULUS - (LINE_ID[k - BLOCK] % MODULUS) * power % MODULUS) % MODULUS
            h = (h * 1000003 % MODULUS + LINE_ID[k]) % MODULUS
            at = k - BLOCK + 1
            if (at < FIRST[f] || at < skip_to || !(h in KNOWN) || KNOWN[h] >= at) continue
            grow(KNOWN[h], at, f)
        }
    }
}

function file_of(k,    low, high, middle) {
    low = 1
    high = sources
    while (low < high) {
        middle = int((low + high + 1) / 2)
        if (FIRST[middle] <= k) low = middle
        else high = middle - 1
    }
    return low
}

# The block at `a` and the window at `b` (in file f) have the same hash.
function grow(a, b, f,    g, n, i, distinct, seen) {
    for (n = 0; n < BLOCK; n++) if (LINE_ID[a + n] != LINE_ID[b + n]) return
    g = file_of(a)
    while (b + n < FIRST[f + 1] && a + n < FIRST[g + 1] && a + n < b && LINE_ID[a + n] == LINE_ID[b + n]) n++
    while (a > FIRST[g] && b > FIRST[f] && b - 1 >= skip_to && b - 1 > a + n - 1 && LINE_ID[a - 1] == LINE_ID[b - 1]) { a--; b--; n++ }
    if (n < LEAST) return
    # A table of like lines is no passage.
    split("", seen)
    for (i = 0; i < n; i++) if (!(LINE_ID[a + i] in seen)) { seen[LINE_ID[a + i]] = 1; distinct++ }
    if (distinct * 2 < n) return
    skip_to = b + n
    passages_found++
    if (passages_found > 5000) return
    passage_lines[passages_found] = n
    passage_text[passages_found] = path_code(source[g]) ":" NUMBER[a] "–" NUMBER[a + n - 1] "\t" path_code(source[f]) ":" NUMBER[b] "–" NUMBER[b + n - 1]
}
