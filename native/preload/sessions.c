/* Loaded into CRIU as criu.c is.
 *
 * CRIU gives the leader of a session its terminal when its children are there already, so that these have none: no job
 * of a shell could open /dev/tty. They get it by being born later, so it is given right after setsid(2) here. */
#include <stddef.h>

extern long syscall(long number, ...);
extern unsigned long strtoul(const char *text, char **end, int base);
extern long read(int fd, void *bytes, size_t size);
extern int close(int fd);
extern int open(const char *path, int flags, ...);
extern int ioctl(int fd, unsigned long request, ...);
extern int snprintf(char *text, size_t size, const char *format, ...);

#if defined(__x86_64__)
#define NUMBER_SETSID 112
#else
#define NUMBER_SETSID 157
#endif

/* As in faas.criu.terminals: a line for each, its leader and the number of its terminal. */
#define SESSIONS "/proc/fs/images/sessions"
#define SESSIONS_BYTES_MAX 1024
#define READ_WRITE_NO_TERMINAL 02000402 /* O_RDWR, O_NOCTTY, O_CLOEXEC */
#define READ 02000000                   /* O_RDONLY, O_CLOEXEC */
#define GIVE_TERMINAL 0x540E            /* TIOCSCTTY */

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
