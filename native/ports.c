/* CONNECT: a connection to a port of the sandbox, made in its own network and handed to the host.
 * Nothing of it stays here: what flows over it never passes through the agent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

enum { CONNECT_IPV6 = 1 };

/* Begun only: whoever gets it waits for the rest. -1 with errno. */
static int open_connection(uint16_t port, bool is_v6) {
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const struct sockaddr *address = is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4;
    if (connect(fd, address, is_v6 ? sizeof v6 : sizeof v4) == 0 || errno == EINPROGRESS) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

bool port_connect(uint32_t slot, const struct frame *frame) {
    struct reader r = {frame->payload, frame->length, false};
    uint16_t port = read_u16(&r);
    if (!read_done(&r) || frame->flags & ~CONNECT_IPV6) return false;
    int error = port ? connection_may_pass(slot) : EINVAL;
    int fd = error ? -1 : open_connection(port, frame->flags & CONNECT_IPV6);
    if (fd < 0) {
        char tried[32];
        if (!error) error = errno;
        snprintf(tried, sizeof tried, "connect to port %u", port);
        answer_error(slot, frame->id, error, tried);
        return true;
    }
    struct buffer *b = connection_answers(slot);
    connection_pass(slot, fd);
    frame_end(b, frame_begin(b, FRAME_CONNECTED, frame->id));
    return true;
}
