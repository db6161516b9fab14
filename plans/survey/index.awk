# Reads index.tsv: index_next() sets PATH, SIZE, TYPE, CLASS, LANG, KIND, TRACKED_BY_GIT, FILE (the name to open).

function index_next(    cells, line) {
    if ((getline line < (art "/index.tsv")) <= 0) {
        close(art "/index.tsv")
        return 0
    }
    split(line, cells, "\t")
    PATH = cells[1]
    SIZE = cells[2] + 0
    TYPE = cells[3]
    CLASS = cells[4]
    LANG = cells[5]
    KIND = cells[6]
    TRACKED_BY_GIT = cells[7] + 0
    FILE = "./" dec(PATH)
    return 1
}

# Code that somebody here wrote and reads.
function own_text() { return TYPE == "text" && CLASS != "vendored" && CLASS != "generated" }
