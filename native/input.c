/* From STDIN frames to a pipe or terminal that the command reads when it likes. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "command.h"

static const uint8_t end_of_input = 4; /* ^D: a terminal has no other end */

void input_close(struct input *input) {
    close_fd(&input->sink);
    close_fd(&input->file);
    free(input->held);
    input->held = NULL;
    input->length = 0;
    input->is_open = false;
}

static bool make_room(struct input *input) {
    if (!input->held && !(input->held = malloc(STDIN_WINDOW))) return false;
    if (input->start && input->length) memmove(input->held, input->held + input->start, input->length);
    input->start = 0;
    return true;
}

uint64_t input_take(struct input *input, uint64_t offset, const uint8_t *bytes, uint32_t length, bool is_last) {
    uint64_t known = input->taken - offset;
    if (known < length) {
        bool is_ready = input->file < 0 && make_room(input);
        size_t room = is_ready ? STDIN_WINDOW - input->length : 0;
        size_t fresh = length - (size_t)known;
        if (fresh > room) fresh = room;
        if (fresh) memcpy(input->held + input->length, bytes + known, fresh);
        input->length += fresh;
        input->taken += fresh;
    }
    if (is_last && input->taken == offset + length) input->is_last = true;
    return input->taken;
}

/* The file goes first; it is a regular file, so reading it waits for nobody. */
static void refill(struct input *input) {
    if (input->length || input->file < 0 || !make_room(input)) return;
    ssize_t got = pread(input->file, input->held, STDIN_WINDOW / 4, (off_t)input->file_at);
    if (got <= 0) {
        close_fd(&input->file);
        return;
    }
    input->file_at += (uint64_t)got;
    input->length = (size_t)got;
}

void input_pump(struct command *command) {
    struct input *input = &command->input;
    bool is_full = false;
    while (input->sink >= 0 && !is_full) {
        refill(input);
        if (!input->length) break;
        ssize_t put = write(input->sink, input->held + input->start, input->length);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && errno == EAGAIN) {
            is_full = true;
        } else if (put < 0) {
            input_close(input); /* nobody reads any more */
            return;
        } else {
            input->start += (size_t)put;
            input->length -= (size_t)put;
        }
    }
    if (input->sink < 0) return;
    if (!input->length && input->file < 0 && input->is_last) {
        if (input->is_terminal && write(input->sink, &end_of_input, 1) < 0 && errno == EAGAIN) is_full = true;
        else { input_close(input); return; }
    }
    if (is_full != input->is_watched) {
        input->is_watched = is_full;
        rewatch(input->sink, WATCH_STDIN, command->slot, command->generation, is_full ? EPOLLOUT : 0);
    }
}
