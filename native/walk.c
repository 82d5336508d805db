/* openat2 where the kernel has none (gVisor, Linux before 5.6): one component after the other, each opened
 * without following it, so that whoever renames meanwhile gains nothing. What it cannot promise it refuses:
 * any link on /proc, of which some are magic. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"

enum { LINKS_MAX = 40, PATH_BYTES = 8192 };

struct walk {
    int at;
    unsigned links;
    uint64_t resolve;
    char rest[PATH_BYTES];
};

static int refuse(struct walk *w, int error) {
    if (w->at >= 0) close(w->at);
    w->at = -1;
    errno = error;
    return -1;
}

static bool is_on_proc(const struct stat *now) {
    struct stat proc;
    return lstat("/proc", &proc) == 0 && proc.st_dev == now->st_dev;
}

static int step_to(struct walk *w, int next) {
    if (next < 0) return refuse(w, errno);
    if (w->at >= 0) close(w->at);
    w->at = next;
    return 0;
}

static int start_at(struct walk *w, int directory) {
    bool is_absolute = *w->rest == '/';
    if (is_absolute && w->resolve & KERNEL_RESOLVE_BENEATH) return refuse(w, EXDEV);
    int flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    return step_to(w, is_absolute ? open("/", flags) : openat(directory, ".", flags));
}

/* The link's target before what is left of the way. */
static int follow(struct walk *w, const char *name, const char *left) {
    char way[PATH_BYTES];
    ssize_t length = readlinkat(w->at, name, way, sizeof way - 1);
    if (length < 0) return refuse(w, errno);
    size_t more = strlen(left);
    if (++w->links > LINKS_MAX) return refuse(w, ELOOP);
    if ((size_t)length + more + 2 > sizeof way) return refuse(w, ENAMETOOLONG);
    way[length] = '/';
    memcpy(way + length + 1, left, more + 1);
    memcpy(w->rest, way, (size_t)length + more + 2);
    return *way == '/' ? step_to(w, open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)) : 0;
}

static int last_of(struct walk *w, const char *name, uint64_t flags, uint64_t mode) {
    int fd = openat(w->at, name, (int)flags | O_NOFOLLOW | O_CLOEXEC, (mode_t)mode);
    int error = errno;
    close(w->at);
    errno = error;
    return fd;
}

int walk_open(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct walk w = {.at = -1, .resolve = resolve};
    if (resolve & KERNEL_RESOLVE_IN_ROOT) return refuse(&w, ENOSYS);
    if (strlen(path) >= sizeof w.rest) return refuse(&w, ENAMETOOLONG);
    strcpy(w.rest, path);
    if (start_at(&w, directory) < 0) return -1;
    for (;;) {
        char *name = w.rest + strspn(w.rest, "/");
        size_t length = strcspn(name, "/");
        const char *left = name + length + strspn(name + length, "/");
        char part[256];
        if (length >= sizeof part) return refuse(&w, ENAMETOOLONG);
        memcpy(part, name, length);
        part[length] = 0;
        if (!length) return last_of(&w, ".", flags, mode);
        bool is_up = !strcmp(part, "..");
        if (is_up && resolve & KERNEL_RESOLVE_BENEATH) return refuse(&w, EXDEV);
        struct stat now;
        int next = openat(w.at, part, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0 || fstat(next, &now) < 0) {
            if (next >= 0) close(next);
            return *left || errno != ENOENT ? refuse(&w, errno) : last_of(&w, part, flags, mode);
        }
        bool is_link = S_ISLNK(now.st_mode);
        if (!*left && (!is_link || flags & O_NOFOLLOW)) {
            close(next);
            return last_of(&w, part, flags, mode);
        }
        if (!is_link) {
            if (step_to(&w, next) < 0) return -1;
            memmove(w.rest, left, strlen(left) + 1);
            continue;
        }
        close(next);
        if (resolve & KERNEL_RESOLVE_NO_SYMLINKS || is_on_proc(&now)) return refuse(&w, ELOOP);
        char after[PATH_BYTES];
        strcpy(after, left);
        if (follow(&w, part, after) < 0) return -1;
    }
}
