BEGIN {
    FS = "\t"
    while ((getline < (run "/by-code")) > 0) {
        if ($3 != "code" || $4 != "plain") continue
        files++
        code_total += $5
        if ($5 > 1000) huge++
        if (files <= 10) { file[files] = $1; file_code[files] = $5; file_lang[files] = $2 }
        # Half of the code lies in how few files?
    }
    print "## Large files and functions\n"
    if (files) {
        print "The longest source files:\n"
        table_begin("llrl", "File\tLanguage\tCode\t")
        for (i = 1; i <= 10 && i <= files; i++) table_row(path_code(file[i]) "\t" file_lang[i] "\t" num(file_code[i]) "\t" bar(file_code[i], file_code[1], 20))
        table_end()
        fact("longest_file_lines", file_code[1] + 0); fact("longest_file", show(dec(file[1] + 0)))
        if (huge) finding(3, plural(huge, "source file has", "source files have") " more than 1,000 lines of code; the longest is " path_code(file[1]) " with " num(file_code[1]) ".")
        else if (files >= 5 && file_code[1] * 3 > code_total && file_code[1] >= 100)
            finding(4, percent(file_code[1], code_total) " of the code is in one file, " path_code(file[1]) ".")
    } else print "No source files.\n"
    fact("files_over_1000_lines", huge)

    while ((getline < (run "/by-length")) > 0) {
        functions++
        if ($4 > 100) long_functions++
        if (functions <= 10) fn[functions] = path_code($1) ":" $2 "\t" code($3) "\t" num($4)
        if (functions == 1) longest = code($3) " in " path_code($1) ":" $2
        if (functions == 1) longest_lines = $4
    }
    if (functions) {
        print "The longest functions (from 40 lines on, found by indentation):\n"
        table_begin("llr", "Where\tFunction\tLines")
        for (i = 1; i <= 10 && i <= functions; i++) table_row(fn[i])
        table_end()
    }
    fact("functions_over_100_lines", long_functions)
    if (long_functions) finding(longest_lines > 300 ? 3 : 4, plural(long_functions, "function is", "functions are") " longer than 100 lines; the longest, " longest ", has " num(longest_lines) ".")

    while ((getline < (run "/by-width")) > 0) {
        if ($3 != "code") continue
        if ($8 > 0) { wide += $8; wide_files++; if (wide_files == 1) widest = path_code($1) ":" $10 " (" num($9) " bytes)" }
    }
    if (wide) print plural(wide, "line", "lines") " of source longer than 200 characters, in " plural(wide_files, "file", "files") "; the longest is " widest ".\n"
    fact("lines_over_200_characters", wide)

    while ((getline < (run "/by-size")) > 0) {
        if ($3 == "link" || $2 < 1048576) continue
        big++
        big_size += $2
        if (big <= 5) large[big] = path_code($1) "\t" ($3 == "text" ? ($4 == "plain" ? $5 : $4 " " $5) : $3) "\t" bytes($2)
        if (big == 1) largest = path_code($1) " with " bytes($2)
    }
    if (big) {
        print "Files of 1 MiB and more, whatever is in them:\n"
        table_begin("llr", "File\tType\tSize")
        for (i = 1; i <= 5 && i <= big; i++) table_row(large[i])
        table_end()
        finding(4, plural(big, "file has", "files have") " 1 MiB or more, " bytes(big_size) " together; the largest is " largest ".")
    }
    fact("files_over_1_mib", big)
}
