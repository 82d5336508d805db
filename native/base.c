/* The shared base, see mounts.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base.h"
#include "mounts.h"

char base_path[64];

static const struct { const char *name; unsigned major, minor; } devices[] = {
    {"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
};
static const struct { const char *target, *name; } links[] = {
    {"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"},
    {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
};
/* Directories no plan takes anything from; the base is mounted over the first that is there. */
static const char *const places[] = {"/sys/kernel", "/mnt", "/tmp"};

bool base_is_made(void) { return base_path[0] != 0; }

static bool make_file(int directory, const char *name, mode_t mode) {
    int fd = openat(directory, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, mode);
    if (fd < 0) return false;
    close(fd);
    return true;
}

static bool make_device(int dev, const char *name, unsigned major, unsigned minor) {
    if (mknodat(dev, name, S_IFCHR | 0666, makedev(major, minor)) == 0) return true;
    char source[32], target[96];
    snprintf(source, sizeof source, "/dev/%s", name);
    snprintf(target, sizeof target, "%s/dev/%s", base_path, name);
    return make_file(dev, name, 0666) && mount(source, target, NULL, MS_BIND, NULL) == 0;
}

static bool fill_dev(int base) {
    if (mkdirat(base, "dev", 0755) < 0) return false;
    int dev = openat(base, "dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dev < 0) return false;
    bool is_fine = mkdirat(dev, "pts", 0755) == 0 && mkdirat(dev, "shm", 0755) == 0;
    for (size_t i = 0; is_fine && i < sizeof devices / sizeof devices[0]; i++)
        is_fine = make_device(dev, devices[i].name, devices[i].major, devices[i].minor);
    for (size_t i = 0; is_fine && i < sizeof links / sizeof links[0]; i++)
        is_fine = symlinkat(links[i].target, dev, links[i].name) == 0;
    close(dev);
    return is_fine;
}

static bool fill(int base) {
    static const char *const directories[] = {"root", "lower", "upper", "empty", "layers"};
    for (size_t i = 0; i < sizeof directories / sizeof directories[0]; i++)
        if (mkdirat(base, directories[i], 0755) < 0) return false;
    return make_file(base, "nothing", 0444) && fill_dev(base);
}

bool base_make(void) {
    size_t i = 0, count = sizeof places / sizeof places[0];
    while (i < count && mount("faas-base", places[i], "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k") < 0) i++;
    if (i == count) return false;
    strcpy(base_path, places[i]);
    mode_t mask = umask(0);
    int base = open(base_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool is_made = base >= 0 && fill(base);
    int error = errno;
    umask(mask);
    if (base >= 0) close(base);
    /* Shared by every sandbox, so nobody may write: devices work on a read-only mount. */
    unsigned long read_only = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC;
    if (is_made && mount(NULL, base_path, NULL, read_only, NULL) == 0) return true;
    if (!is_made) errno = error;
    error = errno;
    umount2(base_path, MNT_DETACH);
    base_path[0] = 0;
    errno = error;
    return false;
}
