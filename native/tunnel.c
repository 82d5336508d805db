/* TCP connections to ports of a container, many over one plain stream, ours 0 and 1: for a host that is on
 * another machine and so cannot be handed a socket. We run as the user that no command may be.
 *
 * A frame: u8 kind, u8 flags, u16 length, u32 connection, payload. Each side sends of a connection only as
 * many bytes as the other gave it credit for, so that one that stands still holds nobody up. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"
#include "launch.h"

enum { STREAMS_MAX = 64, WINDOW_BYTES = 64 << 10, PIECE_BYTES = 32 << 10, HEAD_BYTES = 8 };
enum { OPEN = 1, DATA = 2, END = 3, RESET = 4, CREDIT = 5 };
enum { OPEN_IPV6 = 1 };

struct stream {
    uint32_t id; /* 0: free */
    int fd;
    bool is_open, host_ended, server_ended, is_shut;
    uint32_t credit;        /* how many bytes the host still takes */
    uint32_t start, length; /* of those in `held` that the server has not taken yet */
};

static struct stream streams[STREAMS_MAX];
static uint8_t held[STREAMS_MAX][WINDOW_BYTES]; /* memory only where it was used */
static uint8_t given[HEAD_BYTES + UINT16_MAX]; /* the frame that comes from the host */
static size_t given_bytes;

/* Waits while the host takes nothing; it always does, for it asked for no more than it can hold. */
static void say(uint8_t kind, uint32_t id, const void *payload, uint16_t length) {
    static uint8_t frame[HEAD_BYTES + PIECE_BYTES];
    frame[0] = kind, frame[1] = 0, frame[2] = (uint8_t)length, frame[3] = (uint8_t)(length >> 8);
    memcpy(frame + 4, &id, sizeof id);
    if (length) memcpy(frame + HEAD_BYTES, payload, length);
    for (size_t done = 0, all = HEAD_BYTES + (size_t)length; done < all;) {
        ssize_t wrote = write(1, frame + done, all - done);
        if (wrote < 0 && errno != EINTR) _exit(0);
        if (wrote > 0) done += (size_t)wrote;
    }
}

static void say_number(uint8_t kind, uint32_t id, uint32_t number) { say(kind, id, &number, sizeof number); }

static void forget(struct stream *c) {
    close(c->fd);
    c->id = 0;
}

static void reset(struct stream *c, int error) {
    say_number(RESET, c->id, (uint32_t)error);
    forget(c);
}

static uint8_t *held_of(const struct stream *c) { return held[c - streams]; }

static struct stream *find(uint32_t id) {
    for (int i = 0; i < STREAMS_MAX; i++)
        if (streams[i].id == id) return &streams[i];
    return NULL;
}

/* Begun only. -1 with errno. */
static int begin(uint16_t port, bool is_v6) {
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    const struct sockaddr *address = is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4;
    if (connect(fd, address, is_v6 ? sizeof v6 : sizeof v4) == 0 || errno == EINPROGRESS) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static void open_one(uint32_t id, uint16_t port, bool is_v6) {
    struct stream *c = find(0);
    int fd = c ? begin(port, is_v6) : -1;
    if (fd < 0) {
        say_number(RESET, id, (uint32_t)(c ? errno : EAGAIN));
        return;
    }
    c->id = id, c->fd = fd;
    c->is_open = c->host_ended = c->server_ended = c->is_shut = false;
    c->credit = c->start = c->length = 0;
}

/* False when it is no frame of ours. */
static bool obey(uint8_t kind, uint8_t flags, uint32_t id, const uint8_t *payload, uint32_t length) {
    struct reader r = {payload, length, false};
    if (kind == OPEN) {
        uint16_t port = read_u16(&r);
        if (!read_done(&r) || !id || find(id)) return false;
        open_one(id, port, flags & OPEN_IPV6);
        return true;
    }
    struct stream *c = id ? find(id) : NULL;
    if (!c) return id != 0; /* it may have ended on its way here */
    switch (kind) {
    case DATA:
        if (c->host_ended || c->length + length > WINDOW_BYTES) return false;
        if (c->start + c->length + length > WINDOW_BYTES) {
            memmove(held_of(c), held_of(c) + c->start, c->length);
            c->start = 0;
        }
        memcpy(held_of(c) + c->start + c->length, payload, length);
        c->length += length;
        return true;
    case END: c->host_ended = true; return true;
    case RESET: forget(c); return true;
    case CREDIT:
        c->credit += read_u32(&r);
        return read_done(&r);
    default: return false;
    }
}

/* False at the end of the host, or when it does not speak as ours does. */
static bool listen_to_host(void) {
    ssize_t got = read(0, given + given_bytes, sizeof given - given_bytes);
    if (got <= 0) return got < 0 && errno == EINTR;
    given_bytes += (size_t)got;
    size_t at = 0;
    while (given_bytes - at >= HEAD_BYTES) {
        const uint8_t *head = given + at;
        struct reader r = {head, HEAD_BYTES, false};
        uint8_t kind = read_u8(&r), flags = read_u8(&r);
        uint16_t length = read_u16(&r);
        uint32_t id = read_u32(&r);
        if (given_bytes - at < (size_t)HEAD_BYTES + length) break;
        if (!obey(kind, flags, id, head + HEAD_BYTES, length)) return false;
        at += HEAD_BYTES + (size_t)length;
    }
    memmove(given, given + at, given_bytes - at);
    given_bytes -= at;
    return true;
}

static void finish_opening(struct stream *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        reset(c, error);
        return;
    }
    c->is_open = true;
    say(OPEN, c->id, NULL, 0);
}

/* What the server says goes to the host. */
static void take_up(struct stream *c) {
    static uint8_t piece[PIECE_BYTES];
    size_t wanted = c->credit < sizeof piece ? c->credit : sizeof piece;
    ssize_t got = recv(c->fd, piece, wanted, MSG_DONTWAIT);
    if (got < 0) {
        if (errno != EAGAIN && errno != EINTR) reset(c, errno);
        return;
    }
    if (got == 0) c->server_ended = true;
    c->credit -= (uint32_t)got;
    say(got ? DATA : END, c->id, piece, (uint16_t)got);
}

/* What the host said goes to the server; the host may say as much again. */
static void hand_down(struct stream *c) {
    ssize_t sent = send(c->fd, held_of(c) + c->start, c->length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR) reset(c, errno);
        return;
    }
    c->start += (uint32_t)sent, c->length -= (uint32_t)sent;
    if (!c->length) c->start = 0;
    say_number(CREDIT, c->id, (uint32_t)sent);
}

/* Pass the host's end on, once; forget a connection that both have ended. */
static void settle(struct stream *c) {
    if (!c->id || !c->is_open || !c->host_ended || c->length) return;
    if (c->server_ended) {
        forget(c);
    } else if (!c->is_shut) {
        c->is_shut = true;
        shutdown(c->fd, SHUT_WR);
    }
}

static short wanted_of(const struct stream *c) {
    if (!c->is_open) return POLLOUT;
    return (short)((c->credit && !c->server_ended ? POLLIN : 0) | (c->length ? POLLOUT : 0));
}

static void serve(struct stream *c, short happened) {
    if (!c->is_open) {
        finish_opening(c);
        return;
    }
    if (c->length && happened & (POLLOUT | POLLERR | POLLHUP)) hand_down(c);
    if (c->id && c->credit && !c->server_ended && happened & (POLLIN | POLLERR | POLLHUP)) take_up(c);
}

int tunnel_main(int argc, char **argv) {
    (void)argv;
    if (argc != 0) return 2;
    signal(SIGPIPE, SIG_IGN);
    bool goes_on = true;
    while (goes_on) {
        struct pollfd ends[STREAMS_MAX + 1] = {{.fd = 0, .events = POLLIN}};
        for (int i = 0; i < STREAMS_MAX; i++) {
            struct stream *c = &streams[i];
            settle(c);
            short events = c->id ? wanted_of(c) : 0;
            /* Without events it is not looked at: a hang-up would be reported again and again. */
            ends[i + 1] = (struct pollfd){.fd = events ? c->fd : -1, .events = events};
        }
        if (poll(ends, STREAMS_MAX + 1, -1) < 0) continue;
        for (int i = 0; i < STREAMS_MAX; i++)
            if (ends[i + 1].revents) serve(&streams[i], ends[i + 1].revents);
        if (ends[0].revents) goes_on = listen_to_host();
    }
    return 0;
}
