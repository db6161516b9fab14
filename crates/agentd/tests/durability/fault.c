/* Makes a disk fail on demand, for the files of one database: while the file named by AGENTD_TEST_FAULT exists, its
   first letter says what fails. s: fsync and fdatasync with EIO. w: writes with ENOSPC. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int told(char what) {
    const char *path = getenv("AGENTD_TEST_FAULT");
    char letter = 0;
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, &letter, 1);
    close(fd);
    return got == 1 && letter == what;
}

static int of_the_database(int fd) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0)
        return 0;
    name[length] = 0;
    return strstr(name, "agent_state.db") != NULL;
}

#define FAILS(what, fd, error) \
    if (of_the_database(fd) && told(what)) { errno = error; return -1; }
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int fd) { FAILS('s', fd, EIO) return REAL(fsync)(fd); }
int fdatasync(int fd) { FAILS('s', fd, EIO) return REAL(fdatasync)(fd); }
ssize_t write(int fd, const void *from, size_t n) { FAILS('w', fd, ENOSPC) return REAL(write)(fd, from, n); }
ssize_t pwrite(int fd, const void *from, size_t n, off_t at) { FAILS('w', fd, ENOSPC) return REAL(pwrite)(fd, from, n, at); }
ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at) { FAILS('w', fd, ENOSPC) return REAL(pwrite64)(fd, from, n, at); }
