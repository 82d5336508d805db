/* Packing a tree into a tar (ustar, pax where a name or size needs it), in a worker. Sockets, pipes and
 * devices are left out; what changes while it is read is cut or filled with zeros to the size announced. */
#define _GNU_SOURCE
#include <dirent.h>
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

enum { DEPTH_MAX = 256, LINKS_MAX = 65536, OCTAL_SIZE_BITS = 33 };

struct link {
    dev_t device;
    ino_t inode;
    char *name;
};

static struct {
    int sink;
    uint64_t count;
    struct link *links;
    size_t link_count;
} out;

static bool put(const void *bytes, size_t length) {
    for (size_t at = 0; at < length;) {
        ssize_t written = write(out.sink, (const char *)bytes + at, length - at);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return false;
        at += (size_t)written;
    }
    return true;
}

static bool pad(uint64_t size) {
    static const char zeroes[TAR_BLOCK];
    return put(zeroes, (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
}

static void octal(char *field, size_t length, uint64_t value) {
    for (size_t i = length - 1; i-- > 0; value >>= 3) field[i] = (char)('0' + (value & 7));
}

static bool put_header(char type, const char *name, const char *link, const struct stat *s, uint64_t size) {
    struct tar_header h;
    memset(&h, 0, sizeof h);
    memcpy(h.name, name, strnlen(name, sizeof h.name));
    memcpy(h.link, link, strnlen(link, sizeof h.link));
    h.type = type;
    octal(h.mode, sizeof h.mode, s->st_mode & 07777);
    octal(h.uid, sizeof h.uid, s->st_uid & 07777777);
    octal(h.gid, sizeof h.gid, s->st_gid & 07777777);
    octal(h.size, sizeof h.size, size >> OCTAL_SIZE_BITS ? 0 : size);
    octal(h.mtime, sizeof h.mtime, s->st_mtim.tv_sec < 0 ? 0 : (uint64_t)s->st_mtim.tv_sec);
    memcpy(h.magic, "ustar\00000", 8);
    memset(h.checksum, ' ', sizeof h.checksum);
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof h; i++) sum += ((const uint8_t *)&h)[i];
    octal(h.checksum, 7, sum);
    h.checksum[6] = 0;
    return put(&h, sizeof h);
}

/* `LENGTH KEY=VALUE\n`, where the length counts its own digits. */
static size_t pax_record(char *into, const char *key, const char *value) {
    size_t rest = strlen(key) + strlen(value) + 3, length = rest + 1;
    char digits[24];
    while (length != rest + (size_t)snprintf(digits, sizeof digits, "%zu", length)) length++;
    return (size_t)sprintf(into, "%zu %s=%s\n", length, key, value);
}

static bool put_entry_header(char type, const char *name, const char *link, const struct stat *s) {
    static char text[2 * TAR_NAME_MAX + 256];
    size_t length = 0;
    uint64_t size = type == '0' ? (uint64_t)s->st_size : 0;
    if (strlen(name) > 100) length += pax_record(text + length, "path", name);
    if (strlen(link) > 100) length += pax_record(text + length, "linkpath", link);
    if (size >> OCTAL_SIZE_BITS) {
        char number[24];
        snprintf(number, sizeof number, "%llu", (unsigned long long)size);
        length += pax_record(text + length, "size", number);
    }
    if (length && !(put_header('x', "pax", "", s, length) && put(text, length) && pad(length))) return false;
    out.count++;
    return put_header(type, name, link, s, size);
}

static bool put_content(int fd, uint64_t size) {
    static char bytes[64 << 10];
    for (uint64_t left = size; left;) {
        size_t part = left < sizeof bytes ? (size_t)left : sizeof bytes;
        ssize_t got = fd < 0 ? 0 : read(fd, bytes, part);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            memset(bytes, 0, part);
            got = (ssize_t)part;
        }
        if (!put(bytes, (size_t)got)) return false;
        left -= (uint64_t)got;
    }
    return pad(size);
}

/* The name this inode was packed under before, or NULL and remembered now. */
static const char *seen(const struct stat *s, const char *name) {
    if (s->st_nlink < 2) return NULL;
    for (size_t i = 0; i < out.link_count; i++)
        if (out.links[i].inode == s->st_ino && out.links[i].device == s->st_dev) return out.links[i].name;
    if (!out.links) out.links = calloc(LINKS_MAX, sizeof *out.links);
    char *copy = out.links && out.link_count < LINKS_MAX ? strdup(name) : NULL;
    if (copy) out.links[out.link_count++] = (struct link){s->st_dev, s->st_ino, copy};
    return NULL;
}

static bool pack_file(int directory, const char *entry, const char *name) {
    /* Opened first, so that it is the same file that is measured and read. */
    int fd = openat(directory, entry, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat s;
    if (fd < 0) return errno == ENOENT || errno == ELOOP;
    bool is_file = fstat(fd, &s) == 0 && S_ISREG(s.st_mode);
    const char *first = is_file ? seen(&s, name) : NULL;
    bool done = !is_file || (first ? put_entry_header('1', name, first, &s)
                                   : put_entry_header('0', name, "", &s) && put_content(fd, (uint64_t)s.st_size));
    int error = errno;
    close(fd);
    errno = error;
    return done;
}

static bool pack_link(int directory, const char *entry, const char *name, const struct stat *s) {
    char target[TAR_NAME_MAX + 1];
    ssize_t length = readlinkat(directory, entry, target, TAR_NAME_MAX);
    if (length < 0) return errno == ENOENT || errno == EINVAL;
    target[length] = 0;
    return put_entry_header('2', name, target, s);
}

static bool pack_below(int directory, const char *prefix, int depth);

static bool pack(int directory, const char *entry, const char *name, int depth) {
    struct stat s;
    if (fstatat(directory, entry, &s, AT_SYMLINK_NOFOLLOW) < 0) return errno == ENOENT;
    if (S_ISLNK(s.st_mode)) return pack_link(directory, entry, name, &s);
    if (S_ISREG(s.st_mode)) return pack_file(directory, entry, name);
    if (!S_ISDIR(s.st_mode)) return true;
    char prefix[TAR_NAME_MAX + 1];
    snprintf(prefix, sizeof prefix, "%s/", name);
    if (!put_entry_header('5', prefix, "", &s)) return false;
    int fd = openat(directory, entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? errno == ENOENT : pack_below(fd, prefix, depth + 1);
}

/* Takes the descriptor. */
static bool pack_below(int fd, const char *prefix, int depth) {
    DIR *directory = fdopendir(fd);
    bool done = directory && (depth < DEPTH_MAX || (errno = ELOOP, false));
    char *name = malloc(TAR_NAME_MAX + 1);
    for (struct dirent *d; done && name && (d = readdir(directory));) {
        if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..")) continue;
        int length = snprintf(name, TAR_NAME_MAX + 1, "%s%s", prefix, d->d_name);
        done = length < TAR_NAME_MAX || (errno = ENAMETOOLONG, false);
        done = done && pack(fd, d->d_name, name, depth);
    }
    int error = errno;
    if (directory) closedir(directory);
    free(name);
    errno = error;
    return done && name;
}

static bool pack_all(const char *path) {
    int fd = kernel_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, KERNEL_RESOLVE_NO_MAGICLINKS);
    if (fd >= 0) return pack_below(fd, "", 0);
    if (errno != ENOTDIR) return false;
    const char *slash = strrchr(path, '/');
    char holder[TAR_NAME_MAX + 1];
    snprintf(holder, sizeof holder, "%.*s/", (int)(slash - path), path);
    fd = kernel_open(AT_FDCWD, holder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, KERNEL_RESOLVE_NO_MAGICLINKS);
    return fd >= 0 && pack(fd, slash + 1, slash + 1, 0);
}

void tar_out(struct buffer *answer, int sink, const void *path) {
    static const char end[2 * TAR_BLOCK];
    out.sink = sink;
    if (pack_all(path) && put(end, sizeof end)) {
        worker_answer_ok(answer, out.count);
        return;
    }
    char tried[300];
    int error = errno;
    snprintf(tried, sizeof tried, "pack %.256s", (const char *)path);
    worker_answer_error(answer, error ? error : EIO, tried);
}
