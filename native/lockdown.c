#define _GNU_SOURCE
#include "lockdown.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(capability) (1U << (capability))
/* SETPCAP is kept only so that commands can empty their bounding set. */
#define AGENT_CAPABILITIES                                                                      \
    (BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER) | BIT(CAP_KILL) | BIT(CAP_SETUID) | \
     BIT(CAP_SETGID) | BIT(CAP_SETPCAP))
/* Past the last one known; the kernel answers EINVAL from its own last one on. */
#define CAPABILITY_END 64
/* In the range every sandbox with more than one user has, and not one that images use. */
#define HIDDEN_USER 65533

static bool set_capabilities(uint32_t low) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{low, low, 0}, {0, 0, 0}};
    return syscall(SYS_capset, &header, data) == 0;
}

static uint32_t permitted(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    return syscall(SYS_capget, &header, data) == 0 ? data[0].permitted : 0;
}

void lockdown_agent(void) {
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (unsigned capability = 0; capability < CAPABILITY_END; capability++) {
        bool is_kept = capability < 32 && (AGENT_CAPABILITIES & BIT(capability));
        if (!is_kept && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) break;
    }
    /* User 0 is nobody special: loading a program gives it nothing, changing user takes nothing away. */
    prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                                 SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                                 SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED);
    set_capabilities(AGENT_CAPABILITIES & permitted());
}

bool lockdown_drop_everything(void) {
    for (unsigned capability = 0; capability < 32; capability++)
        if (AGENT_CAPABILITIES & BIT(capability)) prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    return set_capabilities(0);
}

void lockdown_hide_behind_user(void) {
    /* Where the secure bits could not be set (gVisor) the change would take the capabilities away. */
    prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    /* Fails where the sandbox has one user only: then it stays as it is. */
    syscall(SYS_setresuid, HIDDEN_USER, HIDDEN_USER, HIDDEN_USER);
    set_capabilities(AGENT_CAPABILITIES & permitted());
    prctl(PR_SET_DUMPABLE, 0);
}

bool lockdown_seccomp(const uint8_t *program, size_t bytes) {
    size_t count = bytes / sizeof(struct sock_filter);
    if (bytes % sizeof(struct sock_filter) || count == 0 || count > BPF_MAXINSNS) {
        errno = EINVAL;
        return false;
    }
    struct sock_filter *filter = malloc(bytes);
    if (!filter) return false;
    memcpy(filter, program, bytes);
    struct sock_fprog prog = {(unsigned short)count, filter};
    long done = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
    int error = errno;
    free(filter);
    errno = error;
    return done == 0;
}
