/* Starting one command with nothing of ours in it. */
#ifndef FAAS_SPAWN_H
#define FAAS_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

enum spawn_step { SPAWN_FORK, SPAWN_TERMINAL, SPAWN_USER, SPAWN_DIRECTORY, SPAWN_PROGRAM };

struct spawn {
    char **argv, **env;
    const char *directory;
    int fds[3];
    bool is_tty;
    uid_t uid;
    gid_t gid;
    /* what went wrong; error 0 when it runs */
    int error;
    enum spawn_step step;
};

/* The caller is suspended until the program is loaded or has failed. The process is a child either
 * way and must be reaped; -1 only when no process could be made. */
pid_t spawn_process(struct spawn *spawn);

/* For a command that was not loaded: its exit code, and the line for its stderr. */
int spawn_failure_code(const struct spawn *spawn);
size_t spawn_failure_line(const struct spawn *spawn, char *line, size_t size);

#endif
