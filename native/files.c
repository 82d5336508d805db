/* The file frames. Everything here is hostile ground: nothing is opened that could make the agent wait,
 * and nothing through a magic link of /proc, which would lead back to the agent itself. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kernel.h"
#include "worker.h"

#define PROC_MAGIC 0x9fa0
enum { WRITE_TRUNCATE = 1, MAKE_PARENTS = 2, REMOVE_RECURSIVE = 1, STAT_FOLLOW = 1 };

static int open_path(const char *path, int flags, unsigned mode) {
    return kernel_open(AT_FDCWD, path, (uint64_t)(flags | O_CLOEXEC), mode, KERNEL_RESOLVE_NO_MAGICLINKS);
}

/* A regular file on a real file system; EINVAL for what only looks like one. */
static bool is_plain(int fd, struct stat *now) {
    struct statfs fs;
    if (fstat(fd, now) < 0 || fstatfs(fd, &fs) < 0) return false;
    if (S_ISREG(now->st_mode) && fs.f_type != PROC_MAGIC) return true;
    errno = EINVAL;
    return false;
}

bool make_parents(const char *path, bool is_itself, unsigned mode) {
    char part[4096];
    size_t length = strlen(path);
    if (length >= sizeof part) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(part, path, length + 1);
    for (char *slash = part + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        if (mkdir(part, 0755) < 0 && errno != EEXIST) return false;
        *slash = '/';
    }
    struct stat now;
    if (!is_itself || mkdir(path, mode) == 0) return true;
    return errno == EEXIST && stat(path, &now) == 0 && (S_ISDIR(now.st_mode) || (errno = ENOTDIR, false));
}

static int do_stat(uint32_t slot, const struct frame *f, const char *path) {
    int fd = open_path(path, O_PATH | (f->flags & STAT_FOLLOW ? 0 : O_NOFOLLOW), 0);
    if (fd < 0) return errno;
    const char *name = strrchr(path, '/') + 1;
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_STAT_OK, f->id);
    put_entry(b, fd, "", *name ? name : "/");
    frame_end(b, start);
    close(fd);
    return 0;
}

static int do_read(uint32_t slot, const struct frame *f, const char *path, uint64_t offset, uint32_t length) {
    int fd = open_path(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    struct stat now;
    if (fd < 0 || !is_plain(fd, &now)) {
        int error = errno;
        close_fd(&fd);
        return error;
    }
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_DATA, f->id);
    int error = offset > INT64_MAX ? EINVAL : buffer_reserve(b, (size_t)length + 5) ? 0 : ENOMEM;
    ssize_t got = error ? 0 : pread(fd, b->data + b->length + 5, length, (off_t)offset);
    if (got < 0) error = errno;
    close(fd);
    if (error) {
        b->length = start;
        return error;
    }
    put_u8(b, got < (ssize_t)length || offset + (uint64_t)got >= (uint64_t)now.st_size);
    put_u32(b, (uint32_t)got);
    b->length += (size_t)got;
    frame_end(b, start);
    return 0;
}

static int open_for_write(const char *path, const struct frame *f, unsigned mode) {
    int flags = O_WRONLY | O_NONBLOCK | O_NOCTTY;
    int fd = open_path(path, flags | O_CREAT | O_EXCL, 0600);
    bool is_new = fd >= 0;
    struct stat now;
    if (!is_new && errno == EEXIST) fd = open_path(path, flags, 0);
    if (fd < 0) return -1;
    bool is_replaced = is_new || f->flags & WRITE_TRUNCATE;
    if (is_plain(fd, &now) && (is_new || !is_replaced || ftruncate(fd, 0) == 0) &&
        (!is_replaced || fchmod(fd, mode & 07777) == 0))
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static int do_write(uint32_t slot, const struct frame *f, const char *path, struct reader *r) {
    unsigned mode = read_u32(r);
    uint64_t offset = read_u64(r);
    uint32_t length;
    const uint8_t *bytes = read_blob(r, &length);
    if (!read_done(r) || length > CHUNK_MAX || offset > INT64_MAX - CHUNK_MAX) return EINVAL;
    if (f->flags & MAKE_PARENTS && !make_parents(path, false, 0)) return errno;
    int fd = open_for_write(path, f, mode);
    if (fd < 0) return errno;
    int error = 0;
    for (uint32_t at = 0; !error && at < length;) {
        ssize_t written = pwrite(fd, bytes + at, length - at, (off_t)(offset + at));
        if (written < 0 && errno != EINTR) error = errno;
        at += written > 0 ? (uint32_t)written : 0;
    }
    close(fd);
    if (!error) answer_ok(slot, f->id, length);
    return error;
}

static int do_remove(uint32_t slot, const struct frame *f, const char *path) {
    if (unlink(path) == 0 || rmdir(path) == 0) {
        answer_ok(slot, f->id, 0);
        return 0;
    }
    bool is_full = errno == ENOTEMPTY || errno == EEXIST;
    if (!is_full || !(f->flags & REMOVE_RECURSIVE)) return errno;
    return worker_start(slot, f->id, -1, tree_remove, path);
}

static int do_mkdir(uint32_t slot, const struct frame *f, const char *path, unsigned mode) {
    bool with_parents = f->flags & MAKE_PARENTS;
    if (!(with_parents ? make_parents(path, true, mode & 07777) : mkdir(path, mode & 07777) == 0)) return errno;
    answer_ok(slot, f->id, 0);
    return 0;
}

static int do_rename(uint32_t slot, const struct frame *f, const char *from, const char *to) {
    if (to[0] != '/') return EINVAL;
    if (rename(from, to) < 0) return errno;
    answer_ok(slot, f->id, 0);
    return 0;
}

static const struct { uint8_t flags; const char *verb; } kinds[] = {
    [FRAME_STAT] = {STAT_FOLLOW, "stat"}, [FRAME_LIST_DIR] = {0, "list"}, [FRAME_READ] = {0, "read"},
    [FRAME_WRITE] = {WRITE_TRUNCATE | MAKE_PARENTS, "write"}, [FRAME_REMOVE] = {REMOVE_RECURSIVE, "remove"},
    [FRAME_MKDIR] = {MAKE_PARENTS, "make directory"}, [FRAME_RENAME] = {0, "rename"},
    [FRAME_TAR_IN] = {0, "unpack"}, [FRAME_TAR_OUT] = {0, "pack"}};

/* The fields after the path, then the work; -1 when they are malformed. */
static int perform(uint32_t slot, const struct frame *f, const char *path, struct reader *r) {
    uint32_t number = f->type == FRAME_LIST_DIR || f->type == FRAME_MKDIR ? read_u32(r) : 0;
    uint64_t offset = f->type == FRAME_READ ? read_u64(r) : 0;
    uint32_t length = f->type == FRAME_READ ? read_u32(r) : 0;
    char *to = f->type == FRAME_RENAME ? read_string(r) : NULL;
    int error = -1;
    if (f->type == FRAME_WRITE) {
        struct reader probe = *r;
        uint32_t ignored;
        read_u32(&probe);
        read_u64(&probe);
        read_blob(&probe, &ignored);
        if (!read_done(&probe)) return -1;
    } else if (!read_done(r)) {
        free(to);
        return -1;
    }
    struct list_request list = {path, number};
    if (path[0] != '/') error = EINVAL;
    else if (f->type == FRAME_STAT) error = do_stat(slot, f, path);
    else if (f->type == FRAME_LIST_DIR) error = worker_start(slot, f->id, -1, tree_list, &list);
    else if (f->type == FRAME_READ) error = length > CHUNK_MAX ? EINVAL : do_read(slot, f, path, offset, length);
    else if (f->type == FRAME_WRITE) error = do_write(slot, f, path, r);
    else if (f->type == FRAME_REMOVE) error = do_remove(slot, f, path);
    else if (f->type == FRAME_MKDIR) error = do_mkdir(slot, f, path, number);
    else if (f->type == FRAME_RENAME) error = do_rename(slot, f, path, to);
    free(to);
    return error;
}

static int perform_tar(uint32_t slot, const struct frame *f, const char *path) {
    int passed = connection_take_fd(slot);
    bool is_in = f->type == FRAME_TAR_IN;
    int error = path[0] != '/' ? EINVAL : worker_start(slot, f->id, passed, is_in ? tar_in : tar_out, path);
    close(passed);
    return error;
}

bool files_frame(uint32_t slot, const struct frame *f) {
    if (f->type < FRAME_STAT || f->type > FRAME_TAR_OUT || f->flags & ~kinds[f->type].flags) return false;
    struct reader r = {f->payload, f->length, false};
    char *path = read_string(&r);
    bool is_tar = f->type >= FRAME_TAR_IN;
    int error = -1;
    if (path && is_tar) error = read_done(&r) && connection_fd_count(slot) ? perform_tar(slot, f, path) : -1;
    else if (path) error = perform(slot, f, path, &r);
    if (error > 0) {
        char tried[300];
        snprintf(tried, sizeof tried, "%s %.256s", kinds[f->type].verb, path);
        answer_error(slot, f->id, error, tried);
    }
    free(path);
    return error >= 0;
}
