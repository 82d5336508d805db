/* A namespace in which a packet was sent, a connection refused or a socket left differs from a fresh one in one of
 * these: one counter more is enough. */
#define _GNU_SOURCE
#include "traces.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* `dev` counts packets, `snmp`, `snmp6` and `netstat` what protocols did, `sockstat` the sockets that are left,
 * those of ended connections too; the rest are addresses, routes and groups. */
static const char *const files[] = {"dev", "snmp", "snmp6", "netstat", "sockstat", "sockstat6", "unix",
                                    "route", "ipv6_route", "if_inet6", "igmp", "igmp6", "mcfilter", "packet", "ip6_flowlabel"};
/* In `sockstat`, of the whole machine. */
static const char *const of_the_machine[] = {" orphan ", " alloc ", " mem "};

static void blank_number(char *text, const char *name) {
    for (char *at = text; (at = strstr(at, name));) {
        at += strlen(name);
        for (char *digit = at; *digit >= '0' && *digit <= '9'; digit++) *digit = '-';
    }
}

static bool read_whole(const char *name, char *room, size_t size, size_t *length) {
    char path[64] = "/proc/self/net/";
    strcat(path, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT; /* a kernel without IPv6 */
    ssize_t got = 1;
    for (*length = 0; got > 0 && *length < size; *length += got > 0 ? (size_t)got : 0)
        got = read(fd, room + *length, size - *length);
    close(fd);
    return got == 0;
}

bool traces_read(struct traces *traces) {
    traces->length = 0;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        size_t got = 0;
        char *at = traces->text + traces->length;
        if (!read_whole(files[i], at, TRACES_MAX - 1 - traces->length, &got)) return traces->length = 0, false;
        at[got] = 0;
        if (strncmp(files[i], "sockstat", 8) == 0)
            for (size_t k = 0; k < sizeof of_the_machine / sizeof of_the_machine[0]; k++) blank_number(at, of_the_machine[k]);
        traces->length += got;
    }
    return traces->length > 0;
}

bool traces_equal(const struct traces *a, const struct traces *b) {
    return a->length && a->length == b->length && memcmp(a->text, b->text, a->length) == 0;
}
