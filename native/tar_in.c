/* Unpacking a tar below a directory, in a worker. The stream is hostile, and so is the tree it goes
 * into: no entry leaves the directory by its name, by `..` or through a symlink that is there. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "tar.h"
#include "worker.h"

struct entry {
    char name[TAR_NAME_MAX + 1], link[TAR_NAME_MAX + 1];
    uint64_t size, mtime;
    unsigned mode;
    char type;
    bool has_name, has_link, has_size; /* from an extended header, for the next entry */
};

static struct entry entry;
static int source, base;

static bool fail(int error) {
    errno = error;
    return false;
}

/* 1 whole, 0 end of the stream before the first byte, -1 error or cut off. */
static int read_whole(void *into, size_t length) {
    size_t at = 0;
    while (at < length) {
        ssize_t got = read(source, (char *)into + at, length - at);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0 && at == 0) return 0;
        if (got == 0) errno = EINVAL;
        if (got <= 0) return -1;
        at += (size_t)got;
    }
    return 1;
}

static bool read_number(const char *field, size_t length, uint64_t *value) {
    const uint8_t *bytes = (const uint8_t *)field;
    *value = 0;
    if (bytes[0] & 0x80) { /* base 256 */
        if (bytes[0] != 0x80) return fail(EINVAL);
        for (size_t i = 1; i < length; i++) {
            if (*value >> 55) return fail(EINVAL);
            *value = *value << 8 | bytes[i];
        }
        return true;
    }
    size_t i = 0;
    while (i < length && field[i] == ' ') i++;
    for (; i < length && field[i] >= '0' && field[i] <= '7'; i++) {
        if (*value >> 60) return fail(EINVAL);
        *value = *value << 3 | (uint64_t)(field[i] - '0');
    }
    return i == length || field[i] == 0 || field[i] == ' ' || fail(EINVAL);
}

static bool is_sound(const struct tar_header *h) {
    const uint8_t *bytes = (const uint8_t *)h;
    uint64_t sum = 0, stored;
    size_t from = offsetof(struct tar_header, checksum);
    for (size_t i = 0; i < TAR_BLOCK; i++) sum += i >= from && i < from + 8 ? ' ' : bytes[i];
    return read_number(h->checksum, sizeof h->checksum, &stored) && (stored == sum || fail(EINVAL));
}

static bool skip(uint64_t length) {
    static char waste[64 << 10];
    while (length) {
        size_t part = length < sizeof waste ? (size_t)length : sizeof waste;
        if (read_whole(waste, part) != 1) return fail(EINVAL);
        length -= part;
    }
    return true;
}

static uint64_t padding(uint64_t size) { return (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK; }

static bool keep_text(char *into, const char *text, size_t length) {
    if (length > TAR_NAME_MAX) return fail(ENAMETOOLONG);
    if (memchr(text, 0, length)) return fail(EINVAL);
    memcpy(into, text, length);
    into[length] = 0;
    return true;
}

static bool keep_pax(const char *key, size_t key_length, const char *value, size_t length) {
    if (key_length == 4 && !memcmp(key, "path", 4)) return entry.has_name = true, keep_text(entry.name, value, length);
    if (key_length == 8 && !memcmp(key, "linkpath", 8)) return entry.has_link = true, keep_text(entry.link, value, length);
    if (key_length != 4 || memcmp(key, "size", 4)) return true;
    entry.has_size = true;
    entry.size = 0;
    for (size_t i = 0; i < length; i++) {
        if (value[i] < '0' || value[i] > '9' || entry.size > UINT64_MAX / 20) return fail(EINVAL);
        entry.size = entry.size * 10 + (uint64_t)(value[i] - '0');
    }
    return length > 0 || fail(EINVAL);
}

/* Records of `LENGTH KEY=VALUE\n`, the length counting itself. */
static bool parse_pax(const char *at, size_t left) {
    while (left && *at) {
        size_t digits = 0, record = 0;
        for (; digits < left && digits < 8 && at[digits] >= '0' && at[digits] <= '9'; digits++)
            record = record * 10 + (size_t)(at[digits] - '0');
        if (!digits || digits >= left || at[digits] != ' ' || record > left || record < digits + 3 || at[record - 1] != '\n')
            return fail(EINVAL);
        const char *key = at + digits + 1, *end = at + record - 1;
        const char *equals = memchr(key, '=', (size_t)(end - key));
        if (!equals) return fail(EINVAL);
        if (!keep_pax(key, (size_t)(equals - key), equals + 1, (size_t)(end - equals - 1))) return false;
        at += record;
        left -= record;
    }
    return true;
}

/* An entry that only says more about the next one. */
static bool read_extension(char type, uint64_t size) {
    if (type == 'g') return skip(size + padding(size));
    static char text[TAR_PAX_MAX];
    if (size > TAR_PAX_MAX) return fail(EINVAL);
    if (size && read_whole(text, (size_t)size) != 1) return fail(EINVAL);
    if (!skip(padding(size))) return false;
    if (type == 'x') return parse_pax(text, (size_t)size);
    char *into = type == 'L' ? entry.name : entry.link;
    *(type == 'L' ? &entry.has_name : &entry.has_link) = true;
    return keep_text(into, text, strnlen(text, (size_t)size));
}

static bool read_names(const struct tar_header *h) {
    size_t name = strnlen(h->name, sizeof h->name), prefix = strnlen(h->prefix, sizeof h->prefix);
    bool has_prefix = !memcmp(h->magic, "ustar\0", 6) && prefix;
    if (!entry.has_name)
        snprintf(entry.name, sizeof entry.name, "%.*s%s%.*s", has_prefix ? (int)prefix : 0, h->prefix,
                 has_prefix ? "/" : "", (int)name, h->name);
    if (!entry.has_link) keep_text(entry.link, h->link, strnlen(h->link, sizeof h->link));
    return true;
}

/* Takes slashes and single dots out; false for what is absolute or leads outside. */
static bool normalise(char *name) {
    if (name[0] == '/' || !name[0]) return fail(EINVAL);
    char *out = name;
    for (char *part = name, *end; part; part = end ? end + 1 : NULL) {
        end = strchr(part, '/');
        size_t length = end ? (size_t)(end - part) : strlen(part);
        if (length == 2 && part[0] == '.' && part[1] == '.') return fail(EINVAL);
        if (!length || (length == 1 && part[0] == '.')) continue;
        if (out != name) *out++ = '/';
        memmove(out, part, length);
        out += length;
        if (!end) break;
    }
    *out = 0;
    return true;
}

static int open_beneath(const char *name, int flags) {
    return kernel_open(base, *name ? name : ".", (uint64_t)(flags | O_CLOEXEC), 0,
                       KERNEL_RESOLVE_BENEATH | KERNEL_RESOLVE_NO_SYMLINKS);
}

/* The directory that is to hold `name`, made where missing. */
static int open_holder(char *name, const char **last) {
    char *slash = strrchr(name, '/');
    *last = slash ? slash + 1 : name;
    if (!slash) return open_beneath("", O_PATH | O_DIRECTORY);
    *slash = 0;
    int fd = open_beneath(name, O_PATH | O_DIRECTORY);
    if (fd < 0 && errno == ENOENT) {
        const char *inner;
        int parent = open_holder(name, &inner);
        if (parent >= 0 && (mkdirat(parent, inner, 0755) == 0 || errno == EEXIST))
            fd = open_beneath(name, O_PATH | O_DIRECTORY);
        if (parent >= 0) close(parent);
    }
    *slash = '/';
    return fd;
}

static bool make_way(int holder, const char *name) {
    return unlinkat(holder, name, 0) == 0 || errno == ENOENT;
}

static bool unpack_file(int holder, const char *name) {
    static char bytes[64 << 10];
    if (!make_way(holder, name)) return false;
    int fd = openat(holder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return false;
    uint64_t left = entry.size;
    bool done = true;
    while (done && left) {
        size_t part = left < sizeof bytes ? (size_t)left : sizeof bytes;
        done = read_whole(bytes, part) == 1 || fail(EINVAL);
        for (size_t at = 0; done && at < part;) {
            ssize_t written = write(fd, bytes + at, part - at);
            done = written >= 0 || errno == EINTR;
            at += written > 0 ? (size_t)written : 0;
        }
        left -= part;
    }
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = (time_t)(entry.mtime & INT64_MAX)}};
    done = done && fchmod(fd, entry.mode) == 0;
    if (done && futimens(fd, times) < 0) errno = 0; /* a time no file system can hold */
    int error = errno;
    close(fd);
    errno = error;
    return done && skip(padding(entry.size));
}

static bool unpack_directory(int holder, const char *name) {
    struct stat now;
    if (mkdirat(holder, name, 0755) < 0) {
        if (errno != EEXIST || fstatat(holder, name, &now, AT_SYMLINK_NOFOLLOW) < 0) return false;
        if (!S_ISDIR(now.st_mode) && !(make_way(holder, name) && mkdirat(holder, name, 0755) == 0)) return false;
    }
    int fd = openat(holder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool done = fd >= 0 && fchmod(fd, entry.mode) == 0;
    if (fd >= 0) close(fd);
    return done;
}

static bool unpack_hard_link(int holder, const char *name) {
    if (!normalise(entry.link)) return false;
    const char *last;
    int from = open_holder(entry.link, &last);
    struct stat target, now;
    bool done = from >= 0 && *last && fstatat(from, last, &target, AT_SYMLINK_NOFOLLOW) == 0;
    /* A link to itself is already there. */
    bool is_same = done && fstatat(holder, name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_ino == target.st_ino &&
                   now.st_dev == target.st_dev;
    if (done && !is_same) done = make_way(holder, name) && linkat(from, last, holder, name, 0) == 0;
    if (from >= 0) close(from);
    return done;
}

static bool unpack(void) {
    if (!normalise(entry.name)) return false;
    if (!entry.name[0]) return entry.type == '5' || fail(EINVAL); /* the directory itself */
    const char *last;
    int holder = open_holder(entry.name, &last);
    if (holder < 0) return false;
    bool done = false;
    switch (entry.type) {
    case '0': done = unpack_file(holder, last); break;
    case '5': done = unpack_directory(holder, last); break;
    case '1': done = unpack_hard_link(holder, last); break;
    case '2': done = make_way(holder, last) && symlinkat(entry.link, holder, last) == 0; break;
    default: done = fail(EINVAL);
    }
    int error = errno;
    close(holder);
    errno = error;
    return done;
}

/* 1 an entry was unpacked, 0 the end, -1 failed. */
static int step(const struct tar_header *h) {
    uint64_t size, mode;
    if (!is_sound(h) || !read_number(h->size, sizeof h->size, &size) || !read_number(h->mode, sizeof h->mode, &mode) ||
        !read_number(h->mtime, sizeof h->mtime, &entry.mtime) || size > INT64_MAX - TAR_BLOCK)
        return -1;
    if (strchr("xgLK", h->type) && h->type) return read_extension(h->type, size) ? 1 : -1;
    char type = h->type == 0 || h->type == '7' ? '0' : h->type;
    if (!read_names(h)) return -1;
    size_t length = strlen(entry.name);
    if (type == '0' && length && entry.name[length - 1] == '/') type = '5'; /* before ustar */
    entry.type = type;
    entry.mode = (unsigned)mode & 0777;
    if (!entry.has_size) entry.size = size;
    if (type != '0') entry.size = 0;
    if (entry.size > INT64_MAX - TAR_BLOCK) return errno = EINVAL, -1;
    if (!unpack()) return -1;
    if (type != '0' && !skip(size + padding(size))) return -1;
    entry.has_name = entry.has_link = entry.has_size = false;
    return 2;
}

static bool is_zero(const struct tar_header *h) {
    static const char zeroes[TAR_BLOCK];
    return !memcmp(h, zeroes, TAR_BLOCK);
}

void tar_in(struct buffer *answer, int from, const void *path) {
    source = from;
    base = -1;
    struct tar_header header;
    uint64_t count = 0;
    umask(0);
    if (make_parents(path, true, 0755)) base = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    bool done = base >= 0;
    while (done) {
        entry.name[0] = entry.has_name ? entry.name[0] : 0;
        int got = read_whole(&header, sizeof header);
        if (got < 0) done = false;
        if (got <= 0 || is_zero(&header)) break;
        int outcome = step(&header);
        done = outcome > 0;
        count += outcome == 2;
    }
    int error = errno;
    char waste[4096];
    /* The writer's padding: it would get EPIPE. */
    while (done && read(source, waste, sizeof waste) > 0) continue;
    char tried[300];
    snprintf(tried, sizeof tried, "unpack %.256s", base < 0 ? (const char *)path : entry.name);
    if (done) worker_answer_ok(answer, count);
    else worker_answer_error(answer, error ? error : EINVAL, tried);
}
