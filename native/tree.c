/* Listing and removing trees, in a worker. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "worker.h"

enum {
    NAMES_MAX = 1 << 20,        /* in one directory */
    ANSWER_BYTES = 512 << 10,   /* well below a frame's limit with one more entry */
    DEPTH_MAX = 256,            /* open directories at once; hostile trees are deeper */
};

void put_entry(struct buffer *b, int directory, const char *name, const char *shown) {
    struct stat s;
    memset(&s, 0, sizeof s);
    char target[4096] = "";
    if (fstatat(directory, name, &s, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0) errno = 0; /* just gone */
    uint8_t kind = S_ISREG(s.st_mode) ? 0 : S_ISDIR(s.st_mode) ? 1 : S_ISLNK(s.st_mode) ? 2 : 3;
    if (kind == 2) {
        ssize_t length = readlinkat(directory, name, target, sizeof target - 1);
        target[length > 0 ? length : 0] = 0;
    }
    put_string(b, shown);
    put_u8(b, kind);
    put_u32(b, s.st_mode & 07777);
    put_u32(b, s.st_uid);
    put_u32(b, s.st_gid);
    put_u64(b, (uint64_t)s.st_size);
    put_u64(b, (uint64_t)s.st_mtim.tv_sec * 1000000000U + (uint64_t)s.st_mtim.tv_nsec);
    put_string(b, target);
}

static bool is_dots(const char *name) { return !strcmp(name, ".") || !strcmp(name, ".."); }

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static char **read_names(DIR *directory, size_t *count) {
    size_t room = 256;
    char **names = malloc(room * sizeof *names);
    *count = 0;
    errno = 0;
    for (struct dirent *d; names && (d = readdir(directory)); errno = 0) {
        if (is_dots(d->d_name)) continue;
        if (*count == NAMES_MAX) {
            errno = E2BIG;
            return NULL;
        }
        if (*count == room) {
            char **more = realloc(names, (room *= 2) * sizeof *names);
            if (!more) return NULL;
            names = more;
        }
        if (!(names[*count] = strdup(d->d_name))) return NULL;
        ++*count;
    }
    if (names) qsort(names, *count, sizeof *names, by_bytes);
    return errno ? NULL : names;
}

void tree_list(struct buffer *answer, int passed, const void *argument) {
    (void)passed;
    const struct list_request *request = argument;
    int fd = kernel_open(AT_FDCWD, request->path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC, 0,
                         KERNEL_RESOLVE_NO_MAGICLINKS);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    size_t count = 0;
    char **names = directory ? read_names(directory, &count) : NULL;
    if (!names) {
        worker_answer_error(answer, errno ? errno : ENOMEM, "list");
        return;
    }
    uint32_t listed = 0;
    size_t at = request->skip;
    put_u8(answer, FRAME_DIR_OK);
    put_u8(answer, 0);
    put_u32(answer, 0);
    for (; at < count && listed < DIR_ENTRIES_MAX && answer->length < ANSWER_BYTES; at++, listed++)
        put_entry(answer, fd, names[at], names[at]);
    if (answer->failed) return;
    answer->data[1] = at < count;
    for (int i = 0; i < 4; i++) answer->data[2 + i] = (uint8_t)(listed >> (8 * i));
}

static bool empty(int parent, const char *name, int depth);

static bool remove_entry(int directory, const char *name, int depth) {
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT) return true;
    if (errno != EISDIR && errno != EPERM) return false;
    return unlinkat(directory, name, AT_REMOVEDIR) == 0 ||
           ((errno == ENOTEMPTY || errno == EEXIST) && empty(directory, name, depth) &&
            unlinkat(directory, name, AT_REMOVEDIR) == 0);
}

static bool empty(int parent, const char *name, int depth) {
    if (depth == DEPTH_MAX) {
        errno = ELOOP;
        return false;
    }
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory) return false;
    bool done = true;
    for (struct dirent *d; done && (d = readdir(directory));)
        done = is_dots(d->d_name) || remove_entry(fd, d->d_name, depth + 1);
    int error = errno;
    closedir(directory);
    errno = error;
    return done;
}

void tree_remove(struct buffer *answer, int passed, const void *path) {
    (void)passed;
    if (empty(AT_FDCWD, path, 0) && rmdir(path) == 0) worker_answer_ok(answer, 0);
    else worker_answer_error(answer, errno, "remove");
}
