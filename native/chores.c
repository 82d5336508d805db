#include "chores.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Existing files only: what these are for (control groups) the kernel makes. */
static int write_file(const char *path, const uint8_t *data, uint32_t length) {
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno;
    int error = write(fd, data, length) == (ssize_t)length ? 0 : errno ? errno : EIO;
    close(fd);
    return error;
}

static int gone(int result) { return result < 0 && errno != ENOENT ? errno : 0; }

static int do_one(uint8_t kind, const char *path, struct reader *r) {
    if (kind == CHORE_MKDIR) {
        uint32_t mode = read_u32(r);
        if (!read_done(r)) return EINVAL;
        return mkdir(path, mode) < 0 ? errno : 0;
    }
    if (kind == CHORE_WRITE) {
        uint8_t flags = read_u8(r);
        uint32_t length;
        const uint8_t *data = read_blob(r, &length);
        if (!data || !read_done(r)) return EINVAL;
        errno = 0;
        int error = write_file(path, data, length);
        return flags & CHORE_OPTIONAL ? 0 : error;
    }
    if (!read_done(r)) return EINVAL;
    if (kind == CHORE_UNLINK) return gone(unlink(path));
    if (kind == CHORE_RMDIR) return gone(rmdir(path));
    return EINVAL;
}

int chores_do(struct reader *r, uint32_t *place) {
    for (*place = 0; r->left; ++*place) {
        uint8_t kind = read_u8(r);
        uint32_t length;
        const uint8_t *fields = read_blob(r, &length);
        struct reader f = {fields, length, r->bad || !fields};
        char *path = read_string(&f);
        int error = path && path[0] == '/' ? do_one(kind, path, &f) : EINVAL;
        free(path);
        if (error) return error;
    }
    return 0;
}
