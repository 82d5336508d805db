/* Stands in a container between its agent and a host that reaches it through a plain stream, ours 0 and 1.
 *
 * Frames pass as they are. Where one needs descriptors, which no stream carries, they are opened here: the
 * file SPOOL/PREFIX-ID.out, .err or .in, by the frame's id. The host writes and reads those by the agent.
 * The spool belongs to the user we run as, whom no command may be; so no command can end or watch us. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent.h"
#include "frames.h"

enum { PASSED_MAX = 3, PIECE_BYTES = 64 << 10 };

static struct {
    int agent;
    const char *spool, *prefix;
    uint8_t held[HEADER_BYTES + PAYLOAD_MAX]; /* the frame on its way to the agent */
    size_t got, wanted, sent;
    int passed[PASSED_MAX];
    int passed_count;
} relay;

static int connect_to(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return -1;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* The agent may be about to listen: its container was started a moment ago. */
    for (int tries = 0; fd >= 0 && tries < 500; tries++) {
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
        usleep(20000);
    }
    return -1;
}

static bool pass(uint32_t id, const char *kind, int flags) {
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/%s-%u.%s", relay.spool, relay.prefix, id, kind);
    if (length < 0 || (size_t)length >= sizeof path) return false;
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return false;
    relay.passed[relay.passed_count++] = fd;
    return true;
}

/* Open what the frame in `held` needs. */
static bool equip(uint8_t type, uint8_t flags, uint32_t id) {
    const int output = O_RDWR | O_CREAT | O_TRUNC;
    switch (type) {
    case FRAME_EXEC:
        return pass(id, "out", output) && pass(id, "err", output) &&
               (!(flags & EXEC_STDIN_FD) || pass(id, "in", O_RDONLY));
    case FRAME_TAR_IN: return pass(id, "in", O_RDONLY);
    case FRAME_TAR_OUT: return pass(id, "out", output);
    default: return true;
    }
}

/* Take bytes of the host's next frame; false at the end, or when it is no frame. */
static bool take(void) {
    ssize_t got = read(0, relay.held + relay.got, relay.wanted - relay.got);
    if (got <= 0) return got < 0 && errno == EINTR;
    relay.got += (size_t)got;
    if (relay.got < relay.wanted) return true;
    struct reader r = {relay.held, HEADER_BYTES, false};
    uint32_t length = read_u32(&r);
    uint8_t type = read_u8(&r), flags = read_u8(&r);
    read_u16(&r);
    uint32_t id = read_u32(&r);
    if (length > PAYLOAD_MAX) return false;
    relay.wanted = HEADER_BYTES + length;
    return relay.got < relay.wanted || equip(type, flags, id);
}

static bool is_whole(void) { return relay.got >= HEADER_BYTES && relay.got == relay.wanted; }

/* Give the agent more of the frame; descriptors go with its first byte. */
static bool give(void) {
    struct iovec bytes = {relay.held + relay.sent, relay.got - relay.sent};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(PASSED_MAX * sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (relay.passed_count) {
        size_t size = (size_t)relay.passed_count * sizeof(int);
        control.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(size)};
        memcpy(CMSG_DATA(&control.header), relay.passed, size);
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(size);
    }
    ssize_t sent = sendmsg(relay.agent, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    while (relay.passed_count) close(relay.passed[--relay.passed_count]);
    relay.sent += (size_t)sent;
    if (relay.sent == relay.got) relay.got = relay.sent = 0, relay.wanted = HEADER_BYTES;
    return true;
}

static bool hand_on(void) {
    static uint8_t piece[PIECE_BYTES];
    ssize_t got = recv(relay.agent, piece, sizeof piece, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    for (ssize_t done = 0; done < got;) {
        ssize_t wrote = write(1, piece + done, (size_t)(got - done));
        if (wrote < 0 && errno != EINTR) return false;
        if (wrote > 0) done += wrote;
    }
    return got > 0;
}

int relay_main(int argc, char **argv) {
    if (argc != 3 || (relay.agent = connect_to(argv[0])) < 0) {
        fprintf(stderr, "faas-native relay: cannot connect: %s\n", strerror(argc == 3 ? errno : EINVAL));
        return 2;
    }
    relay.spool = argv[1], relay.prefix = argv[2];
    relay.wanted = HEADER_BYTES;
    signal(SIGPIPE, SIG_IGN);
    umask(0077);
    bool goes_on = true;
    while (goes_on) {
        struct pollfd ends[] = {{.fd = is_whole() ? -1 : 0, .events = POLLIN},
                                {.fd = relay.agent, .events = POLLIN | (is_whole() ? POLLOUT : 0)}};
        if (poll(ends, 2, -1) < 0) continue;
        if (ends[1].revents & POLLOUT) goes_on = give();
        if (goes_on && ends[1].revents & (POLLIN | POLLHUP | POLLERR)) goes_on = hand_on();
        if (goes_on && ends[0].revents) goes_on = take();
    }
    return 0;
}
