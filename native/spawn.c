/* A vfork: the child borrows this memory, so nothing is copied, and reports failure by writing into it. */
#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lockdown.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#if defined(__SANITIZE_ADDRESS__)
#define BORROWED __attribute__((no_sanitize("address", "undefined")))
#else
#define BORROWED
#endif

static _Alignas(64) char stack[64 << 10];

BORROWED static int fail(struct spawn *spawn, enum spawn_step step) {
    spawn->step = step;
    spawn->error = errno ? errno : EIO;
    _exit(127);
}

BORROWED static bool become_user(const struct spawn *spawn) {
    /* EPERM: a user namespace without setgroups, where nothing can be dropped. */
    if (syscall(SYS_setgroups, 0, NULL) < 0 && errno != EPERM) return false;
    if (syscall(SYS_setresgid, spawn->gid, spawn->gid, spawn->gid) < 0) return false;
    if (syscall(SYS_setresuid, spawn->uid, spawn->uid, spawn->uid) < 0) return false;
    return lockdown_drop_everything();
}

BORROWED static void execute(struct spawn *spawn) {
    const char *name = spawn->argv[0];
    if (strchr(name, '/') || !*name) {
        execve(name, spawn->argv, spawn->env);
        return;
    }
    const char *path = DEFAULT_PATH;
    for (char **variable = spawn->env; *variable; variable++)
        if (!strncmp(*variable, "PATH=", 5)) path = *variable + 5;
    size_t name_length = strlen(name);
    bool is_forbidden = false;
    errno = ENOENT;
    for (const char *end; *path; path = *end ? end + 1 : end) {
        end = strchr(path, ':');
        if (!end) end = path + strlen(path);
        size_t length = (size_t)(end - path);
        char file[4096];
        if (length + name_length + 2 > sizeof file) continue;
        memcpy(file, path, length);
        if (length) file[length++] = '/';
        memcpy(file + length, name, name_length + 1);
        execve(file, spawn->argv, spawn->env);
        if (errno == EACCES) is_forbidden = true;
        else if (errno != ENOENT && errno != ENOTDIR) return;
    }
    errno = is_forbidden ? EACCES : ENOENT;
}

BORROWED static int child(void *argument) {
    struct spawn *spawn = argument;
    setsid();
    for (int i = 0; i < 3; i++)
        if (dup2(spawn->fds[i], i) < 0) return fail(spawn, SPAWN_FORK);
    if (spawn->is_tty && ioctl(0, TIOCSCTTY, 0) < 0) return fail(spawn, SPAWN_TERMINAL);
    if (syscall(SYS_close_range, 3, INT_MAX, 0) < 0) return fail(spawn, SPAWN_FORK);
    if (!become_user(spawn)) return fail(spawn, SPAWN_USER);
    /* As the user: a directory it may not enter is not entered. */
    if (chdir(spawn->directory) < 0) return fail(spawn, SPAWN_DIRECTORY);
    uint64_t no_signals = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, sizeof no_signals);
    execute(spawn);
    return fail(spawn, SPAWN_PROGRAM);
}

pid_t spawn_process(struct spawn *spawn) {
    spawn->error = 0;
    pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, spawn);
    if (pid < 0) {
        spawn->error = errno;
        spawn->step = SPAWN_FORK;
    }
    /* The child's change of user set this memory's flag to whatever fs.suid_dumpable says. */
    prctl(PR_SET_DUMPABLE, 0);
    return pid;
}

int spawn_failure_code(const struct spawn *spawn) {
    bool is_missing = spawn->error == ENOENT || spawn->error == ENOTDIR;
    return spawn->step == SPAWN_PROGRAM && is_missing ? 127 : 126;
}

size_t spawn_failure_line(const struct spawn *spawn, char *line, size_t size) {
    const char *name = spawn->step == SPAWN_DIRECTORY ? spawn->directory : spawn->argv[0];
    int length = snprintf(line, size, "faas: %.1024s: %s\n", name, strerror(spawn->error));
    return length < 0 ? 0 : (size_t)length < size ? (size_t)length : size - 1;
}
