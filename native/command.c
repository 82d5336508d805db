/* The life of a command: STARTING (a supervisor starts it), RUNNING, ENDING (its main process is
 * gone, the rest is being killed), ENDED (remembered until RELEASE). */
#define _GNU_SOURCE
#include "command.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Long enough to reap what the last kill hit, short enough to catch what it missed. */
#define KILL_AGAIN_NS 20000000U
/* Two seconds: a supervisor that has not done it by then was stopped by what it supervises. */
#define KILLS_MAX 100

static bool is_alive(const struct command *c) { return c && c->state < ENDED; }

struct command *command_find(uint32_t slot, uint32_t id) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (c && c->attached >> slot & 1 && c->ids[slot] == id) return c;
    }
    return NULL;
}

struct command *command_named(const char *name) {
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (agent.commands[i] && !strcmp(agent.commands[i]->name, name)) return agent.commands[i];
    return NULL;
}

bool commands_any_alive(void) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (is_alive(c) || (c && (c->is_supervised || c->is_lone) && !c->is_tree_gone)) return true;
    }
    return false;
}

bool command_owns(pid_t pid) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (c && ((c->supervisor == pid && c->is_supervised) || (c->pid == pid && !c->is_supervised && !c->is_reaped)))
            return true;
    }
    return false;
}

void command_attach_to(struct command *c, uint32_t slot, uint32_t id) {
    c->ids[slot] = id;
    c->attached |= (uint8_t)(1U << slot);
}

void command_forget(struct command *c) {
    for (int which = 0; which < 2; which++) {
        close_fd(&c->streams[which].source);
        close_fd(&c->streams[which].spool);
    }
    input_close(&c->input);
    close_fd(&c->supervision);
    agent.commands[c->slot] = NULL;
    free(c);
}

void command_put_exit(struct command *c, uint32_t slot) {
    static const uint32_t forced_code[] = {[TIMED_OUT] = 124, [CANCELLED] = 137};
    enum exit_reason reason = WIFSIGNALED(c->status) ? SIGNALLED : EXITED;
    uint8_t signal = WIFSIGNALED(c->status) ? (uint8_t)WTERMSIG(c->status) : 0;
    uint32_t code = signal ? 128U + signal : (uint32_t)WEXITSTATUS(c->status);
    if (c->exit_override >= 0) code = (uint32_t)c->exit_override;
    if (c->is_cancelled || c->is_timed_out) {
        reason = c->is_timed_out ? TIMED_OUT : CANCELLED;
        code = forced_code[reason];
    }
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_EXIT, c->ids[slot]);
    put_u8(b, (uint8_t)reason);
    put_u8(b, signal);
    put_u16(b, 0);
    put_u32(b, code);
    for (int which = 0; which < 2; which++) {
        put_u64(b, c->streams[which].kept);
        put_u64(b, c->streams[which].total);
    }
    put_u64(b, c->wall_us);
    put_u64(b, (uint64_t)c->usage.ru_utime.tv_sec * 1000000U + (uint64_t)c->usage.ru_utime.tv_usec);
    put_u64(b, (uint64_t)c->usage.ru_stime.tv_sec * 1000000U + (uint64_t)c->usage.ru_stime.tv_usec);
    put_u64(b, (uint64_t)c->usage.ru_maxrss);
    frame_end(b, start);
}

static void put_output(struct command *c, uint32_t slot) {
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_OUTPUT, c->ids[slot]);
    put_u64(b, c->streams[0].kept);
    put_u64(b, c->streams[1].kept);
    frame_end(b, start);
    c->changed &= (uint8_t)~(1U << slot);
}

void command_put_started(struct command *c, uint32_t slot) {
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_STARTED, c->ids[slot]);
    put_u32(b, (uint32_t)c->pid);
    put_u8(b, c->state == ENDED);
    put_u64(b, c->input.taken);
    frame_end(b, start);
}

static void to_everybody(struct command *c, void put(struct command *, uint32_t)) {
    for (uint32_t slot = 0; slot < CONNECTIONS_MAX; slot++)
        if (c->attached >> slot & 1) put(c, slot);
}

static void finish(struct command *c) {
    for (int which = 0; which < 2; which++) stream_drain_to_end(c, which);
    for (uint32_t slot = 0; slot < CONNECTIONS_MAX; slot++)
        if (c->changed >> slot & 1) put_output(c, slot);
    c->wall_us = (now_ns() - c->started_ns) / 1000;
    c->state = ENDED;
    input_close(&c->input);
    for (int which = 0; which < 2; which++) {
        close_fd(&c->streams[which].spool);
        if (c->is_tree_gone || c->streams[which].is_hung_up) stream_closed(c, which);
    }
    to_everybody(c, command_put_exit);
}

/* Not its supervisor alone: what a lone command has left would die with the strays. */
static void end_supervisor(struct command *c) {
    supervisor_kill_tree(c->supervisor);
    c->is_tree_killed = true;
    kill(c->supervisor, SIGKILL);
}

/* A signal to everything the command started; to everything there is when it owns the sandbox. */
static void signal_tree(struct command *c, int number) {
    if (c->is_exclusive && agent.is_init) kill(-1, number);
    else if (c->root_count) supervisor_signal_roots(c, number);
    else if (c->is_lone) supervisor_signal_lone(number);
    else supervisor_ask(c, number == SIGKILL ? SUPERVISE_KILL_TREE : SUPERVISE_SIGNAL_TREE, number);
    if (number != SIGKILL) return;
    c->kill_ns = now_ns() + KILL_AGAIN_NS;
    if (!c->is_supervised || c->is_tree_gone) return;
    kill(c->supervisor, SIGCONT);
    if (++c->kills > KILLS_MAX) end_supervisor(c);
}

void command_main_ended(struct command *c, int status, const struct rusage *usage) {
    if (c->state >= ENDING) return;
    c->status = status;
    c->usage = *usage;
    c->is_reaped = true;
    c->state = ENDING;
    if (!c->is_exclusive) finish(c);
}

void command_supervised(struct command *c, const struct supervisor_message *message) {
    if (message->kind == SUPERVISED_STARTED && c->state == STARTING) {
        c->pid = message->value;
        c->state = RUNNING;
        to_everybody(c, command_put_started);
    } else if (message->kind == SUPERVISED_FAILED) {
        c->exit_override = message->value;
    } else if (message->kind == SUPERVISED_ENDED) {
        /* It had its tree to kill and has; stopped now, it would stay for ever. */
        if (c->kills) end_supervisor(c);
        command_main_ended(c, message->value, &message->usage);
        if (c->state == ENDING) signal_tree(c, SIGKILL);
    }
}

void commands_reaped(pid_t pid, int status, const struct rusage *usage) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (!c || c->is_tree_gone) continue;
        for (unsigned root = 0; root < c->root_count; root++)
            if (c->roots[root] == pid) c->roots[root] = c->roots[--c->root_count];
        if (!c->is_supervised && c->pid == pid && !c->is_reaped) {
            command_main_ended(c, status, usage);
            return;
        }
        if (c->is_supervised && c->supervisor == pid) {
            /* What it said last may still wait in its socket. */
            commands_event(WATCH_SUPERVISOR, c->slot, c->generation, EPOLLIN);
            bool was_killed = c->state < ENDING || !WIFEXITED(status);
            c->is_tree_gone = true;
            close_fd(&c->supervision);
            if (was_killed && !c->is_tree_killed && !(c->is_exclusive && agent.is_init)) supervisor_kill_strays();
            if (c->state == STARTING) to_everybody(c, command_put_started);
            if (c->state < ENDING) command_main_ended(c, SIGKILL, usage);
            if (c->state == ENDING && !agent.is_init) finish(c);
            if (!c->name[0]) command_forget(c);
            return;
        }
    }
}

void commands_settle(bool childless) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (childless && c && c->is_lone && c->state == ENDED) {
            c->is_tree_gone = true;
            if (!c->name[0]) command_forget(c);
            continue;
        }
        if (!c || c->state != ENDING || !c->is_exclusive) continue;
        if (childless) {
            c->is_tree_gone = true;
            finish(c);
        } else if (!c->kill_ns) {
            signal_tree(c, SIGKILL);
        }
    }
}

void commands_tick(void) {
    uint64_t now = 0;
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (!is_alive(c) || (!c->deadline_ns && !c->kill_ns)) continue;
        if (!now) now = now_ns();
        if (c->kill_ns && now >= c->kill_ns) {
            signal_tree(c, SIGKILL);
        } else if (c->state < ENDING && c->deadline_ns && now >= c->deadline_ns) {
            c->is_timed_out = !c->is_cancelled;
            if (c->is_terminated || !c->grace_ns) {
                c->deadline_ns = 0;
                signal_tree(c, SIGKILL);
            } else {
                c->is_terminated = true;
                c->deadline_ns = now + c->grace_ns;
                signal_tree(c, SIGTERM);
            }
        }
    }
}

int commands_next_timeout(void) {
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (!is_alive(c)) continue;
        if (c->kill_ns && c->kill_ns < next) next = c->kill_ns;
        if (c->state < ENDING && c->deadline_ns && c->deadline_ns < next) next = c->deadline_ns;
    }
    if (next == UINT64_MAX) return -1;
    uint64_t now = now_ns();
    if (next <= now) return 0;
    uint64_t milliseconds = (next - now + 999999U) / 1000000U;
    return milliseconds > 3600000U ? 3600000 : (int)milliseconds;
}

void commands_push_output(void) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (c && c->state == STARTING) continue; /* STARTED comes first */
        for (uint32_t slot = 0; c && c->changed && slot < CONNECTIONS_MAX; slot++)
            /* While a host does not read, steps merge: the next one says it all. */
            if (c->changed >> slot & 1 && !connection_is_stuck(slot)) put_output(c, slot);
    }
}

void commands_forget_connection(uint32_t slot) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (!c) continue;
        c->attached &= (uint8_t)~(1U << slot);
        c->changed &= c->attached;
    }
}

void commands_event(enum watch_kind kind, uint32_t slot, uint32_t generation, uint32_t events) {
    struct command *c = slot < COMMANDS_MAX ? agent.commands[slot] : NULL;
    if (!c || c->generation != generation) return;
    if (kind == WATCH_STDIN) {
        if (events & (EPOLLERR | EPOLLHUP)) input_close(&c->input);
        else input_pump(c);
    } else if (kind == WATCH_SUPERVISOR) {
        struct supervisor_message message;
        while (c->supervision >= 0) {
            ssize_t got = read(c->supervision, &message, sizeof message);
            if (got == sizeof message) command_supervised(c, &message);
            else if (got < 0 && errno == ECONNRESET) continue; /* it ended with a request unread */
            else if (got < 0 && (errno == EAGAIN || errno == EINTR)) break;
            else close_fd(&c->supervision);
        }
    } else {
        /* A few pipefuls, then the others' turn. */
        stream_drain(c, kind == WATCH_STDERR, 256 << 10);
        bool is_silent = c->streams[0].source < 0 && c->streams[1].source < 0;
        if (!c->name[0] && is_silent) command_forget(c);
    }
}

bool command_signal(uint32_t slot, const struct frame *frame) {
    struct reader r = {frame->payload, frame->length, false};
    uint32_t number = read_u32(&r);
    if (!read_done(&r) || frame->flags > 1) return false;
    struct command *c = command_find(slot, frame->id);
    bool is_tree = frame->flags & 1;
    bool is_background = c && c->state == ENDED && is_tree && (c->is_supervised || c->is_lone) && !c->is_tree_gone;
    if (!c || (!is_background && c->state > RUNNING)) {
        answer_error(slot, frame->id, c ? ESRCH : ENOENT, "signal");
    } else if (number == 0 || number > 64) {
        answer_error(slot, frame->id, EINVAL, "signal");
    } else {
        if (is_tree && number == SIGKILL && !is_background && !c->is_timed_out) c->is_cancelled = true;
        if (is_background && c->is_lone) supervisor_signal_lone((int)number);
        else if (is_background) supervisor_ask(c, number == SIGKILL ? SUPERVISE_KILL_TREE : SUPERVISE_SIGNAL_TREE, (int)number);
        else if (is_tree) signal_tree(c, (int)number);
        else if (c->is_supervised) supervisor_ask(c, SUPERVISE_SIGNAL, (int)number);
        else kill(-c->pid, (int)number);
        answer_ok(slot, frame->id, 0);
    }
    return true;
}

bool command_stdin(uint32_t slot, const struct frame *frame) {
    struct reader r = {frame->payload, frame->length, false};
    uint64_t offset = read_u64(&r);
    uint32_t length;
    const uint8_t *bytes = read_blob(&r, &length);
    if (!read_done(&r) || frame->flags > 1) return false;
    struct command *c = command_find(slot, frame->id);
    int error = !c ? ENOENT : !c->input.is_fed || offset > c->input.taken ? EINVAL : 0;
    /* What was taken before may come again at any time: the host had not heard of it. */
    bool is_news = !error && length > c->input.taken - offset;
    if (is_news && (!c->input.is_open || c->input.is_last)) error = EPIPE;
    if (error) {
        answer_error(slot, frame->id, error, "stdin");
        return true;
    }
    if (!c->input.is_open) length = 0, offset = c->input.taken;
    uint64_t taken = input_take(&c->input, offset, bytes, length, frame->flags & 1);
    input_pump(c);
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_STDIN_OK, frame->id);
    put_u64(b, taken);
    frame_end(b, start);
    return true;
}

bool command_resize(uint32_t slot, const struct frame *frame) {
    struct reader r = {frame->payload, frame->length, false};
    struct winsize size = {.ws_row = read_u16(&r)};
    size.ws_col = read_u16(&r);
    if (!read_done(&r) || frame->flags) return false;
    struct command *c = command_find(slot, frame->id);
    int error = !c ? ENOENT : c->state == ENDED ? ESRCH : !c->input.is_terminal ? ENOTTY : 0;
    if (!error && ioctl(c->streams[0].source, TIOCSWINSZ, &size) < 0) error = errno;
    if (error) answer_error(slot, frame->id, error, "resize");
    else answer_ok(slot, frame->id, 0);
    return true;
}

bool command_attach(uint32_t slot, const struct frame *frame) {
    struct reader r = {frame->payload, frame->length, false};
    char *name = read_string(&r);
    bool is_fine = read_done(&r) && !frame->flags;
    struct command *c = is_fine && *name ? command_named(name) : NULL;
    free(name);
    if (!is_fine) return false;
    struct command *holder = command_find(slot, frame->id);
    if (!c || (holder && holder != c)) {
        answer_error(slot, frame->id, c ? EEXIST : ENOENT, "attach");
        return true;
    }
    command_attach_to(c, slot, frame->id);
    if (c->state == STARTING) return true; /* STARTED comes when it has */
    command_put_started(c, slot);
    put_output(c, slot);
    if (c->state == ENDED) command_put_exit(c, slot);
    return true;
}

bool command_list(uint32_t slot, const struct frame *frame) {
    if (frame->length || frame->flags) return false;
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_LIST_OK, frame->id);
    uint32_t count = 0;
    for (int i = 0; i < COMMANDS_MAX; i++) count += agent.commands[i] && agent.commands[i]->name[0];
    put_u32(b, count);
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = agent.commands[i];
        if (!c || !c->name[0]) continue;
        put_string(b, c->name);
        put_u32(b, (uint32_t)c->pid);
        put_u8(b, c->state == ENDED);
        put_u64(b, c->streams[0].kept);
        put_u64(b, c->streams[1].kept);
    }
    frame_end(b, start);
    return true;
}

bool command_release(uint32_t slot, const struct frame *frame) {
    if (frame->length || frame->flags) return false;
    struct command *c = command_find(slot, frame->id);
    if (!c || c->state != ENDED) {
        answer_error(slot, frame->id, c ? EBUSY : ENOENT, "release");
        return true;
    }
    bool is_silent = c->streams[0].source < 0 && c->streams[1].source < 0;
    if (is_silent && (c->is_tree_gone || !(c->is_supervised || c->is_lone))) {
        command_forget(c);
    } else {
        /* Background processes write on; nobody is told about it any more. */
        c->name[0] = 0;
        c->attached = c->changed = 0;
    }
    answer_ok(slot, frame->id, 0);
    return true;
}
