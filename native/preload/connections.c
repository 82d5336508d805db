/* Loaded into CRIU as criu.c is.
 *
 * To look at a TCP connection CRIU sets it to repair, in which nobody can use it, and lets it be when what it has taken
 * is to run on or to be ended. Ours stand still meanwhile and run on later, so CRIU leaves them in repair: here they
 * are let out of it when CRIU ends. Turning it off forgets SO_REUSEADDR, which is remembered for that. */
#include <stddef.h>

extern int *__errno_location(void);
extern long syscall(long number, ...);
extern int getpid(void);

#if defined(__x86_64__)
#define NUMBER_SETSOCKOPT 54
#define NUMBER_GETSOCKOPT 55
#else
#define NUMBER_SETSOCKOPT 208
#define NUMBER_GETSOCKOPT 209
#endif

#define LEVEL_SOCKET 1
#define REUSE_ADDRESS 2
#define LEVEL_TCP 6
#define REPAIR 19
#define TOO_MANY 24 /* EMFILE */
#define SOCKETS_MAX 65536

/* By descriptor: 0, or one more than its SO_REUSEADDR was. */
static unsigned char repaired[SOCKETS_MAX];
static int owner; /* a child that CRIU forks must not do it when it ends */

static int set(int fd, int level, int name, int value) {
    return (int)syscall(NUMBER_SETSOCKOPT, fd, level, name, &value, sizeof value);
}

int setsockopt(int fd, int level, int name, const void *value, unsigned length) {
    int reuse = 0;
    unsigned size = sizeof reuse;
    int is_repair = level == LEVEL_TCP && name == REPAIR && length == sizeof(int);
    int is_on = is_repair && *(const int *)value == 1;
    if (is_on && (fd < 0 || fd >= SOCKETS_MAX)) {
        *__errno_location() = TOO_MANY;
        return -1;
    }
    if (is_on) syscall(NUMBER_GETSOCKOPT, fd, LEVEL_SOCKET, REUSE_ADDRESS, &reuse, &size);
    int done = (int)syscall(NUMBER_SETSOCKOPT, fd, level, name, value, length);
    if (is_repair && done == 0 && fd >= 0 && fd < SOCKETS_MAX) {
        repaired[fd] = is_on ? (unsigned char)(1 + (reuse != 0)) : 0;
        owner = getpid();
    }
    return done;
}

__attribute__((destructor)) static void let_out(void) {
    for (int fd = 0; owner == getpid() && fd < SOCKETS_MAX; fd++)
        if (repaired[fd] && set(fd, LEVEL_TCP, REPAIR, 0) == 0) set(fd, LEVEL_SOCKET, REUSE_ADDRESS, repaired[fd] - 1);
}
