/* Loaded into CRIU by its own loader, never into anything of a sandbox.
 *
 * Since Linux 6.16 SO_PASSCRED and its kin answer EOPNOTSUPP for sockets other than Unix ones; CRIU up to 4.1 asks
 * for them of every socket and gives up. They say nothing there: off.
 *
 * It also makes the sandbox's user CRIU's real one, see native/checkpoint.c; done here, after loading, because the
 * loader trusts a program less whose users differ. And it waits until CRIU has been moved into its control groups.
 *
 * CRIU gives the leader of a session its terminal when its children are there already, so that these have none: no job
 * of a shell could open /dev/tty. They get it by being born later, so it is given right after setsid(2) here.
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

extern int open(const char *path, int flags, ...);
extern int ioctl(int fd, unsigned long request, ...);
extern int snprintf(char *text, size_t size, const char *format, ...);

#if defined(__x86_64__)
#define NUMBER_GETSOCKOPT 55
#define NUMBER_SETSID 112
#else
#define NUMBER_GETSOCKOPT 209
#define NUMBER_SETSID 157
#endif

/* As in faas.criu.terminals: a line for each, its leader and the number of its terminal. */
#define SESSIONS "/proc/fs/images/sessions"
#define SESSIONS_BYTES_MAX 1024
#define READ_WRITE_NO_TERMINAL 02000402 /* O_RDWR, O_NOCTTY, O_CLOEXEC */
#define READ 02000000                   /* O_RDONLY, O_CLOEXEC */
#define GIVE_TERMINAL 0x540E            /* TIOCSCTTY */

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

/* The terminal stands: the host made it. /dev/pts is a file system of terminals, where nobody puts anything else. */
static void take_terminal(unsigned long number) {
    char path[40];
    snprintf(path, sizeof path, "/dev/pts/%lu", number);
    int terminal = open(path, READ_WRITE_NO_TERMINAL);
    if (terminal < 0) return;
    ioctl(terminal, GIVE_TERMINAL, 0); /* when it fails CRIU fails too, and says why */
    close(terminal);
}

int setsid(void) {
    char text[SESSIONS_BYTES_MAX], *at = text;
    long session = syscall(NUMBER_SETSID);
    int list = session > 0 ? open(SESSIONS, READ) : -1;
    if (list < 0) return (int)session;
    long got = read(list, text, sizeof text - 1);
    close(list);
    for (text[got > 0 ? got : 0] = 0; *at; at += *at == '\n') {
        unsigned long leader = strtoul(at, &at, 10), number = strtoul(at, &at, 10);
        if (leader == (unsigned long)session) take_terminal(number);
        if (*at != '\n') break;
    }
    return (int)session;
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
