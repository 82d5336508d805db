/* Connections of hosts: bytes to frames, answers to bytes. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

enum {
    RECEIVE_BYTES = 64 << 10, /* a whole EXEC with room to spare; grows to one frame */
    FDS_MAX = 16,             /* five EXECs in flight, more than a host sends at once */
    PASSED_MAX = 8,           /* waiting for a host that does not read */
};

struct passed {
    int fd;
    size_t at; /* the byte of `answers` it goes with */
};

struct connection {
    int fd;
    uint32_t generation;
    bool is_greeted, is_dead, is_writing;
    bool is_held; /* frames wait until answers are read */
    uint8_t *received;
    size_t received_length, received_capacity;
    int fds[FDS_MAX];
    int fd_count;
    struct buffer answers;
    size_t sent;
    struct passed passed[PASSED_MAX];
    int passed_count;
};

static void destroy(uint32_t slot) {
    struct connection *c = agent.connections[slot];
    agent.connections[slot] = NULL;
    commands_forget_connection(slot);
    workers_forget_connection(slot);
    for (int i = 0; i < c->fd_count; i++) close(c->fds[i]);
    for (int i = 0; i < c->passed_count; i++) close(c->passed[i].fd);
    close(c->fd);
    free(c->received);
    buffer_free(&c->answers);
    free(c);
}

static void admit(int fd) {
    uint32_t slot = 0;
    while (slot < CONNECTIONS_MAX && agent.connections[slot]) slot++;
    struct connection *c = slot < CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;
    if (c) c->received = malloc(RECEIVE_BYTES);
    if (!c || !c->received) {
        free(c);
        close(fd);
        return;
    }
    c->fd = fd;
    c->received_capacity = RECEIVE_BYTES;
    c->generation = next_generation();
    agent.connections[slot] = c;
    if (!watch(fd, WATCH_CONNECTION, slot, c->generation, EPOLLIN)) destroy(slot);
}

void connection_accept(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) admit(fd);
}

struct buffer *connection_answers(uint32_t slot) { return &agent.connections[slot]->answers; }
int connection_fd_count(uint32_t slot) { return agent.connections[slot]->fd_count; }
uint32_t connection_generation(uint32_t slot) {
    return agent.connections[slot] ? agent.connections[slot]->generation : 0;
}

int connection_take_fd(uint32_t slot) {
    struct connection *c = agent.connections[slot];
    if (!c->fd_count) return -1;
    int fd = c->fds[0];
    c->fd_count--;
    memmove(c->fds, c->fds + 1, sizeof c->fds[0] * (size_t)c->fd_count);
    return fd;
}

int connection_may_pass(uint32_t slot) {
    struct connection *c = agent.connections[slot];
    int domain = 0;
    socklen_t length = sizeof domain;
    if (getsockopt(c->fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 || domain != AF_UNIX) return EOPNOTSUPP;
    return c->passed_count < PASSED_MAX ? 0 : EAGAIN;
}

void connection_pass(uint32_t slot, int fd) {
    struct connection *c = agent.connections[slot];
    c->passed[c->passed_count++] = (struct passed){fd, c->answers.length};
}

static bool keep_fds(struct connection *c, struct msghdr *message) {
    bool is_fine = !(message->msg_flags & MSG_CTRUNC);
    /* The kernel puts all descriptors of one message into one header. */
    struct cmsghdr *m = CMSG_FIRSTHDR(message);
    if (m && m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS) {
        size_t count = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(m) + i * sizeof fd, sizeof fd);
            if (c->fd_count < FDS_MAX) {
                c->fds[c->fd_count++] = fd;
            } else {
                close(fd);
                is_fine = false;
            }
        }
    }
    return is_fine;
}

/* False at the end of the stream or at an error. */
static bool receive(struct connection *c) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec room = {c->received + c->received_length, c->received_capacity - c->received_length};
    struct msghdr message = {
        .msg_iov = &room, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(c->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (!keep_fds(c, &message) || got == 0) return false;
    c->received_length += (size_t)got;
    return true;
}

static bool is_backlogged(const struct connection *c) {
    return c->answers.length - c->sent > ANSWERS_MAX;
}

static bool dispatch(uint32_t slot, const struct frame *frame) {
    struct connection *c = agent.connections[slot];
    if (!c->is_greeted && frame->type != FRAME_HELLO) return false;
    c->is_greeted = true;
    return agent_frame(slot, frame) && !c->answers.failed;
}

static bool grow(struct connection *c, size_t needed) {
    if (needed <= c->received_capacity) return true;
    uint8_t *larger = realloc(c->received, needed);
    if (!larger) return false;
    c->received = larger;
    c->received_capacity = needed;
    return true;
}

/* Take every whole frame out of what was received; false ends the connection. */
static bool consume(uint32_t slot) {
    struct connection *c = agent.connections[slot];
    size_t at = 0;
    bool is_fine = true;
    c->is_held = false;
    while (is_fine && c->received_length - at >= HEADER_BYTES) {
        if ((c->is_held = is_backlogged(c))) break;
        struct reader r = {c->received + at, HEADER_BYTES, false};
        struct frame frame = {0};
        /* One after the other: the order inside an initialiser is the compiler's. */
        frame.length = read_u32(&r);
        frame.type = read_u8(&r);
        frame.flags = read_u8(&r);
        uint16_t zero = read_u16(&r);
        frame.id = read_u32(&r);
        if (frame.length > PAYLOAD_MAX || zero) return false;
        size_t whole = HEADER_BYTES + (size_t)frame.length;
        if (c->received_length - at < whole) {
            is_fine = at > 0 || grow(c, whole);
            break;
        }
        frame.payload = c->received + at + HEADER_BYTES;
        is_fine = dispatch(slot, &frame);
        at += whole;
    }
    c->received_length -= at;
    if (at && c->received_length) memmove(c->received, c->received + at, c->received_length);
    /* A descriptor without a frame to belong to. */
    return is_fine && (c->received_length || !c->fd_count);
}

/* Send some of what waits, as send(2); a descriptor goes with its byte, so that byte begins a message. */
static ssize_t send_some(struct connection *c) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct passed *first = c->passed_count ? c->passed : NULL, *next = first;
    struct msghdr message = {.msg_iovlen = 1};
    bool is_passing = first && first->at == c->sent;
    if (is_passing) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *m = CMSG_FIRSTHDR(&message);
        m->cmsg_level = SOL_SOCKET;
        m->cmsg_type = SCM_RIGHTS;
        m->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(m), &first->fd, sizeof(int));
        next = c->passed_count > 1 ? first + 1 : NULL;
    }
    struct iovec piece = {c->answers.data + c->sent, (next ? next->at : c->answers.length) - c->sent};
    message.msg_iov = &piece;
    ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0 || !is_passing) return sent;
    close(first->fd);
    c->passed_count--;
    memmove(first, first + 1, sizeof *first * (size_t)c->passed_count);
    return sent;
}

/* Send what waits; false when the host is gone. */
static bool flush(struct connection *c, uint32_t slot) {
    while (c->sent < c->answers.length) {
        ssize_t sent = send_some(c);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno != EAGAIN) return false;
        if (sent < 0) break;
        c->sent += (size_t)sent;
    }
    bool is_waiting = c->sent < c->answers.length;
    if (!is_waiting) {
        c->sent = c->answers.length = 0;
        if (c->answers.capacity > RECEIVE_BYTES) buffer_free(&c->answers);
    }
    if (is_waiting != c->is_writing) {
        c->is_writing = is_waiting;
        /* While it does not read its answers, nothing more is read from it. */
        rewatch(c->fd, WATCH_CONNECTION, slot, c->generation, is_waiting ? EPOLLOUT : EPOLLIN);
    }
    return !c->answers.failed;
}

void connection_event(uint32_t slot, uint32_t generation, uint32_t events) {
    struct connection *c = slot < CONNECTIONS_MAX ? agent.connections[slot] : NULL;
    if (!c || c->generation != generation || c->is_dead) return;
    if (c->is_writing && !(events & EPOLLOUT)) {
        c->is_dead = (events & (EPOLLERR | EPOLLHUP)) != 0;
        return;
    }
    if (events & EPOLLOUT) return; /* connections_flush does it, and reads what was left */
    c->is_dead = !receive(c) || !consume(slot);
}

bool connection_is_stuck(uint32_t slot) { return agent.connections[slot]->is_writing; }

bool connections_flush(void) {
    bool is_freed = false;
    for (uint32_t slot = 0; slot < CONNECTIONS_MAX; slot++) {
        struct connection *c = agent.connections[slot];
        if (!c) continue;
        bool was_stuck = c->is_writing;
        if (!c->is_dead && c->answers.length && !flush(c, slot)) c->is_dead = true;
        while (!c->is_dead && c->is_held && !c->is_writing)
            c->is_dead = !consume(slot) || !flush(c, slot);
        /* What was answered before the bad frame still goes out, as far as the socket takes it. */
        if (c->is_dead && c->answers.length > c->sent) send_some(c);
        is_freed |= was_stuck && !c->is_writing;
        if (c->is_dead) destroy(slot);
    }
    return is_freed;
}

void answer_ok(uint32_t slot, uint32_t id, uint64_t count) {
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_OK, id);
    put_u64(b, count);
    frame_end(b, start);
}

void answer_error(uint32_t slot, uint32_t id, int error, const char *tried) {
    struct buffer *b = connection_answers(slot);
    size_t start = frame_begin(b, FRAME_ERROR, id);
    put_u32(b, (uint32_t)error);
    put_string(b, tried);
    frame_end(b, start);
}
