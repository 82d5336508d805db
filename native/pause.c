/* Makes network namespaces for containers to be started in, one after the other: a container that joins
 * the namespace of a container costs its Engine half of what a namespace by the Engine itself does.
 *
 * Whoever started us connects once and sends a byte for each namespace; we move into a new one and answer
 * `y`, or `n` when that failed. The first byte is ours: we are there. We end with the connection, so no
 * container can be started in a namespace that nobody watches any more. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"
#include "launch.h"

/* Long enough for an Engine that is busy to say that it started us. */
enum { CALLER_SECONDS = 120 };

static void too_late(int signal) {
    (void)signal;
    _exit(0);
}

int pause_main(int argc, char **argv) {
    int listener = argc == 2 && !strcmp(argv[0], "--listen") ? listen_at(argv[1]) : -1;
    if (listener < 0) {
        fprintf(stderr, "faas-native pause: cannot listen: %s\n", strerror(argc == 2 ? errno : EINVAL));
        return 2;
    }
    /* The first process of a container ignores what it has no handler for. */
    signal(SIGALRM, too_late);
    alarm(CALLER_SECONDS);
    int caller = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    alarm(0);
    close(listener);
    char asked, answer = 'y';
    do {
        if (send(caller, &answer, 1, MSG_NOSIGNAL) != 1 || read(caller, &asked, 1) != 1) return 0;
        answer = unshare(CLONE_NEWNET) == 0 && netns_lo_up() ? 'y' : 'n';
    } while (true);
}
