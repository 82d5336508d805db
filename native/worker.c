/* Work on files that may take long, or for ever, happens in a forked process: the agent never waits
 * for a disk or a pipe. The worker writes one answer (type and payload) into a pipe and ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "kernel.h"
#include "worker.h"

enum { WORKERS_MAX = 8 /* as many as there can be hosts */ };

struct worker {
    pid_t pid;
    int pipe;
    uint32_t generation, slot, connection_generation, id;
    struct buffer answer;
};

static struct worker workers[WORKERS_MAX];

bool worker_is(pid_t pid) {
    for (int i = 0; i < WORKERS_MAX; i++)
        if (workers[i].generation && workers[i].pid == pid) return true;
    return false;
}

bool worker_reaped(pid_t pid) {
    for (int i = 0; i < WORKERS_MAX; i++) {
        if (workers[i].pid != pid) continue;
        workers[i].pid = 0; /* the pipe's end tells the rest */
        return true;
    }
    return false;
}

static void end(struct worker *w) {
    if (w->pid > 0) kill(w->pid, SIGKILL);
    close_fd(&w->pipe);
    buffer_free(&w->answer);
    w->generation = 0;
}

static void deliver(struct worker *w) {
    if (connection_generation(w->slot) != w->connection_generation) return;
    if (!w->answer.length || w->answer.failed || w->answer.length > PAYLOAD_MAX) {
        answer_error(w->slot, w->id, EIO, "the worker died");
        return;
    }
    struct buffer *b = connection_answers(w->slot);
    size_t start = frame_begin(b, w->answer.data[0], w->id);
    put_bytes(b, w->answer.data + 1, w->answer.length - 1);
    frame_end(b, start);
}

void worker_event(uint32_t slot, uint32_t generation) {
    struct worker *w = slot < WORKERS_MAX ? &workers[slot] : NULL;
    if (!w || w->generation != generation) return;
    static uint8_t chunk[64 << 10];
    ssize_t got = read(w->pipe, chunk, sizeof chunk);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got > 0) {
        put_bytes(&w->answer, chunk, (size_t)got);
        if (!w->answer.failed && w->answer.length <= PAYLOAD_MAX) return;
    }
    deliver(w);
    /* It has said all it had to say; it is reaped as a stranger if it is slow to go. */
    end(w);
}

void workers_forget_connection(uint32_t slot) {
    for (int i = 0; i < WORKERS_MAX; i++)
        if (workers[i].generation && workers[i].slot == slot) end(&workers[i]);
}

int worker_start(uint32_t slot, uint32_t id, int passed, worker_body *body, const void *argument) {
    uint32_t i = 0;
    /* A slot is free again once its process is reaped, too. */
    while (i < WORKERS_MAX && (workers[i].generation || workers[i].pid)) i++;
    if (i == WORKERS_MAX) return EAGAIN;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return errno;
    pid_t pid = fork();
    if (pid == 0) {
        const int kept[] = {ends[1], passed};
        close_all_but(kept, passed >= 0 ? 2 : 1);
        struct buffer answer = {0};
        body(&answer, passed, argument);
        for (size_t at = 0; !answer.failed && at < answer.length;) {
            ssize_t written = write(ends[1], answer.data + at, answer.length - at);
            if (written < 0 && errno != EINTR) break;
            at += written > 0 ? (size_t)written : 0;
        }
        _exit(0);
    }
    int error = errno;
    close(ends[1]);
    workers[i] = (struct worker){.pid = pid, .pipe = ends[0], .generation = next_generation(), .slot = slot,
                                 .connection_generation = connection_generation(slot), .id = id};
    if (pid > 0 && fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0 &&
        watch(ends[0], WATCH_WORKER, i, workers[i].generation, EPOLLIN))
        return 0;
    if (pid < 0) workers[i].pid = 0;
    end(&workers[i]);
    return error ? error : EIO;
}

void worker_answer_error(struct buffer *answer, int error, const char *tried) {
    answer->length = 0;
    put_u8(answer, FRAME_ERROR);
    put_u32(answer, (uint32_t)error);
    put_string(answer, tried);
}

void worker_answer_ok(struct buffer *answer, uint64_t count) {
    answer->length = 0;
    put_u8(answer, FRAME_OK);
    put_u64(answer, count);
}
