/* What was typed on a terminal and not read yet lies in its line discipline: CRIU leaves it there. Nobody can look at
 * it without taking it, so it is taken and put back, line by line as it was, while everybody else stands still.
 *
 * As exported: u8 whether it takes lines, u8 and u8 its further ends of line, then the bytes as they are to be written
 * to a terminal whose settings are `quiet`: what would end a line or the input there is quoted, what did is not. */
#define _GNU_SOURCE
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

enum {
    HEAD_BYTES = 3,
    END = 4, QUOTE = 22, STOP = 19, START = 17, /* of `quiet` */
    /* A line discipline holds 4095 bytes; past this it may hold some back, and putting back would not end. */
    WAITING_MAX = 3500,
    SETTLE_MS = 1000, /* takes microseconds; a second for a machine that stands still */
};

int terminal_peer(int master) { return ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC); }

/* Everything as it comes, but for lines when it takes them, an end of input, and a quote for bytes that look like one. */
static struct termios quiet(struct termios now, const uint8_t *head) {
    const bool takes_lines = head[0];
    now.c_iflag = takes_lines ? IXON : 0;
    now.c_lflag = takes_lines ? ICANON | IEXTEN : 0;
    memset(now.c_cc, 0, sizeof now.c_cc);
    if (takes_lines) {
        now.c_cc[VEOF] = END;
        now.c_cc[VLNEXT] = QUOTE;
        now.c_cc[VSTOP] = STOP;
        now.c_cc[VSTART] = START;
        now.c_cc[VEOL] = head[1];
        now.c_cc[VEOL2] = head[2];
    }
    return now;
}

static void put_quoted(struct buffer *typed, uint8_t byte, const struct termios *now) {
    bool is_special = byte < ' ' || byte == now->c_cc[VEOL] || byte == now->c_cc[VEOL2];
    if (now->c_lflag & ICANON && is_special) put_u8(typed, QUOTE);
    put_u8(typed, byte);
}

static bool ends_line(uint8_t byte, const struct termios *now) {
    return byte == '\n' || (byte && (byte == now->c_cc[VEOL] || byte == now->c_cc[VEOL2]));
}

/* Whole lines first: a read gives one, and nothing where there was an end of input. */
static bool take_lines(int peer, const struct termios *now, struct buffer *typed) {
    uint8_t line[4096];
    while (!typed->failed && typed->length < TYPED_MAX / 2) {
        ssize_t got = read(peer, line, sizeof line);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno == EAGAIN;
        bool is_ended = got && ends_line(line[got - 1], now);
        for (ssize_t i = 0; i < got - is_ended; i++) put_quoted(typed, line[i], now);
        put_u8(typed, is_ended ? line[got - 1] : END);
    }
    return false;
}

/* Then what has no end yet, or all of it when there are no lines. */
static bool take_rest(int peer, const struct termios *now, struct buffer *typed) {
    uint8_t bytes[4096];
    while (!typed->failed && typed->length < TYPED_MAX / 2) {
        ssize_t got = read(peer, bytes, sizeof bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got == 0 || errno == EAGAIN;
        for (ssize_t i = 0; i < got; i++) put_quoted(typed, bytes[i], now);
    }
    return false;
}

static bool write_all(int master, const uint8_t *bytes, size_t length) {
    while (length) {
        ssize_t put = write(master, bytes, length);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        bytes += put;
        length -= (size_t)put;
    }
    return true;
}

/* Bytes written to a terminal arrive a little later. Where it takes lines, packet mode tells that a start has arrived,
 * so what was written before it has, too. */
static bool write_lines(int master, const uint8_t *bytes, size_t length) {
    static const uint8_t marks[2] = {STOP, START};
    int on = 1, off = 0;
    bool done = ioctl(master, TIOCPKT, &on) == 0 && write_all(master, bytes, length) && write_all(master, marks, 2);
    for (uint8_t told = 0; done && !(told & TIOCPKT_START);) {
        struct pollfd news = {.fd = master, .events = POLLPRI};
        int count = poll(&news, 1, SETTLE_MS);
        if (count < 0 && errno == EINTR) continue;
        done = count > 0 && news.revents & POLLPRI && read(master, &told, 1) == 1;
    }
    ioctl(master, TIOCPKT, &off);
    return done;
}

/* Where it does not, every byte counts: no two are left to be marks. */
static bool write_bytes(int master, int peer, const uint8_t *bytes, size_t length) {
    bool done = write_all(master, bytes, length);
    for (int waited = 0, there = 0; done && (size_t)there < length; waited++) {
        if (waited) poll(NULL, 0, 1);
        done = ioctl(peer, FIONREAD, &there) == 0 && waited < SETTLE_MS;
    }
    return done;
}

static bool type(int master, int peer, const uint8_t *typed, size_t length, const struct termios *now) {
    const uint8_t *bytes = typed + HEAD_BYTES;
    if (length == HEAD_BYTES) return true;
    const struct termios settings = quiet(*now, typed);
    if (ioctl(peer, TCSETS, &settings) < 0) return false;
    bool done = typed[0] ? write_lines(master, bytes, length - HEAD_BYTES) : write_bytes(master, peer, bytes, length - HEAD_BYTES);
    return ioctl(peer, TCSETS, now) == 0 && done;
}

/* How much waits, when what is under way has arrived. */
static bool is_little(int peer) {
    for (int before = -1, now = 0, tries = 0; tries < SETTLE_MS; tries++, before = now) {
        if (ioctl(peer, FIONREAD, &now) < 0 || now > WAITING_MAX) return false;
        if (now == before) return true;
        poll(NULL, 0, 2);
    }
    return false;
}

static bool peek(int master, int peer, struct buffer *typed) {
    static const uint8_t raw[HEAD_BYTES];
    struct termios now = {0};
    if (ioctl(peer, TCGETS, &now) < 0 || !is_little(peer)) return false;
    put_u8(typed, (now.c_lflag & ICANON) != 0);
    put_u8(typed, now.c_cc[VEOL]);
    put_u8(typed, now.c_cc[VEOL2]);
    if (typed->failed) return false;
    const struct termios bare = quiet(now, raw);
    bool done = !(now.c_lflag & ICANON) || take_lines(peer, &now, typed);
    done = ioctl(peer, TCSETS, &bare) == 0 && done && take_rest(peer, &now, typed);
    done = ioctl(peer, TCSETS, &now) == 0 && done;
    return !typed->failed && type(master, peer, typed->data, typed->length, &now) && done;
}

/* With errno, whatever the last call said: what cannot be told now can be told a little later. */
static bool with_peer(int peer, bool done) {
    close(peer);
    errno = EBUSY;
    return done;
}

bool terminal_peek(int master, struct buffer *typed) {
    int peer = terminal_peer(master);
    return peer >= 0 && with_peer(peer, peek(master, peer, typed));
}

bool terminal_type(int master, const uint8_t *typed, size_t length) {
    struct termios now = {0};
    if (length == 0) return true;
    if (length < HEAD_BYTES || length > TYPED_MAX || typed[0] > 1) return errno = EINVAL, false;
    int peer = terminal_peer(master);
    return peer >= 0 && with_peer(peer, ioctl(peer, TCGETS, &now) == 0 && type(master, peer, typed, length, &now));
}
