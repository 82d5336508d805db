/* Loaded into CRIU by its own loader, never into anything of a sandbox.
 *
 * Since Linux 6.16 SO_PASSCRED and its kin answer EOPNOTSUPP for sockets other than Unix ones; CRIU up to 4.1 asks
 * for them of every socket and gives up. They say nothing there: off.
 *
 * It also makes the sandbox's user CRIU's real one, see native/checkpoint.c; done here, after loading, because the
 * loader trusts a program less whose users differ. And it waits until CRIU has been moved into its control groups.
 *
 * No C library of ours: the names below are those of the one that is there. */
#include <stddef.h>

#define LEVEL_SOCKET 1
#define NOT_SUPPORTED 95

extern int *__errno_location(void);
extern long syscall(long number, ...);
extern char *getenv(const char *name);
extern int setresuid(unsigned real, unsigned effective, unsigned saved);
extern int setresgid(unsigned real, unsigned effective, unsigned saved);
extern unsigned long strtoul(const char *text, char **end, int base);
extern void _exit(int code);
extern long read(int fd, void *bytes, size_t size);
extern int close(int fd);


#if defined(__x86_64__)
#define NUMBER_GETSOCKOPT 55
#else
#define NUMBER_GETSOCKOPT 209
#endif

#define GATE_FD 9
#define FAILED 100

/* SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD, SO_PASSRIGHTS */
static int says_nothing(int name) { return name == 16 || name == 34 || name == 76 || name == 83; }

int getsockopt(int fd, int level, int name, void *value, unsigned *length) {
    long done = syscall(NUMBER_GETSOCKOPT, fd, level, name, value, length);
    if (done == 0 || level != LEVEL_SOCKET || !says_nothing(name) || *__errno_location() != NOT_SUPPORTED) return (int)done;
    if (*length < sizeof(int)) return -1;
    *(int *)value = 0;
    *length = sizeof(int);
    return 0;
}

__attribute__((constructor)) static void become(void) {
    const char *user = getenv("FAAS_CRIU_USER");
    if (!user) return;
    unsigned number = (unsigned)strtoul(user, NULL, 10);
    if (!number || setresgid(number, 0, 0) < 0 || setresuid(number, 0, 0) < 0) _exit(FAILED);
    char go;
    if (getenv("FAAS_CRIU_GATE") && read(GATE_FD, &go, 1) != 1) _exit(FAILED);
    close(GATE_FD);
}
