/* From the pipes of a command to its spools: everything is read, what fits is kept. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "command.h"

enum {
    DRAIN_BYTES = 64 << 10,    /* what a pipe holds unless enlarged */
    PIPE_BYTES_MAX = 1 << 20,  /* what an unprivileged process may enlarge it to */
};

static char drained[DRAIN_BYTES];

void stream_append(struct command *command, int which, const void *bytes, size_t length) {
    struct stream *s = &command->streams[which];
    s->total += length;
    uint64_t room = s->kept < command->output_max ? command->output_max - s->kept : 0;
    size_t left = length < room ? length : (size_t)room;
    const char *at = bytes;
    while (left && s->spool >= 0) {
        ssize_t written = pwrite(s->spool, at, left, (off_t)s->kept);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) {
            close_fd(&s->spool);
            break;
        }
        s->kept += (uint64_t)written;
        at += written;
        left -= (size_t)written;
        command->changed = command->attached;
    }
}

void stream_closed(struct command *command, int which) { close_fd(&command->streams[which].source); }

/* Nobody has the terminal open. Closing our side would send SIGHUP to a command that has closed its
 * own and is about to exit with a code of its choice: look again only when something changes. */
static void hang_up(struct command *command, int which) {
    struct stream *s = &command->streams[which];
    if (s->is_hung_up) return;
    s->is_hung_up = true;
    rewatch(s->source, WATCH_STDOUT, command->slot, command->generation, EPOLLIN | EPOLLET);
}

bool stream_drain(struct command *command, int which, uint64_t bytes_max) {
    struct stream *s = &command->streams[which];
    while (s->source >= 0 && bytes_max) {
        size_t room = bytes_max < DRAIN_BYTES ? (size_t)bytes_max : DRAIN_BYTES;
        ssize_t got = read(s->source, drained, room);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return true;
        if (got < 0 && errno == EIO && command->state < ENDING) {
            hang_up(command, which);
            return true;
        }
        if (got <= 0) {
            stream_closed(command, which);
            return false;
        }
        bytes_max -= (uint64_t)got;
        if (command->state != ENDED) stream_append(command, which, drained, (size_t)got);
    }
    return s->source >= 0;
}

void stream_drain_to_end(struct command *command, int which) {
    struct stream *s = &command->streams[which];
    /* A background process may write for ever: what is in the pipe now is the command's. */
    int waiting = 0;
    if (s->source >= 0 && ioctl(s->source, FIONREAD, &waiting) < 0) waiting = DRAIN_BYTES;
    if (command->is_tree_gone) stream_drain(command, which, PIPE_BYTES_MAX);
    else if (s->source >= 0) stream_drain(command, which, (uint64_t)waiting);
}
