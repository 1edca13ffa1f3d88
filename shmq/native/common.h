/* common.h - what every shmq header needs: line size, errors, clock, process tokens.
 *
 * Promise: header only, C11, Linux; no global state but one cached process token per
 * shared object. Nothing here allocates or blocks.
 *
 * A *token* names a process for as long as it lives: (pid << 32) | low 32 bits of its start
 * time in clock ticks (/proc/PID/stat field 22). A recycled pid has another start time, so a
 * token of a dead process stays dead. Doubt: two processes in different pid namespaces may
 * share a token; segments record the namespace and refuse to mix them (segment.h).
 */
#ifndef SHMQ_COMMON_H
#define SHMQ_COMMON_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Two adjacent 64-byte lines: x86 prefetches lines in pairs, so cursors 64 bytes apart still
 * share traffic; 128 is also the line of many AArch64 parts. */
#define SHMQ_LINE 128

/* Results of every call that can fail; values are negative errno where one fits. */
enum {
    SHMQ_OK = 0,
    SHMQ_FULL = -EAGAIN,
    SHMQ_EMPTY = -ENODATA,
    SHMQ_CORRUPT = -EBADMSG,      /* a shared cursor holds a value no correct peer writes */
    SHMQ_TIMEOUT = -ETIMEDOUT,
    SHMQ_OWNER_DIED = -EOWNERDEAD,
    SHMQ_PEER_DIED = -EPIPE,
    SHMQ_TAKEN = -EBUSY,
    SHMQ_INVALID = -EINVAL,
    SHMQ_INTERRUPTED = -EINTR,
};

static inline void shmq_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* CLOCK_MONOTONIC in nanoseconds; a vDSO call, about 20-40 ns. */
static inline int64_t shmq_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Start time in clock ticks since boot, state in *state ('Z' is dead); 0 when no such pid. */
static inline uint64_t shmq_proc_start(uint32_t pid, char *state)
{
    char path[40], buf[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, buf, sizeof buf - 1);
    close(fd);
    if (n <= 0)
        return 0;
    buf[n] = 0;
    char *p = strrchr(buf, ')'); /* the command name may hold spaces and brackets */
    if (!p || p[1] != ' ')
        return 0;
    *state = p[2];
    p += 2;
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p)
            return 0;
        p++;
    }
    return strtoull(p, NULL, 10);
}

static inline uint64_t shmq_token_of(uint32_t pid)
{
    char state = 0;
    uint64_t start = shmq_proc_start(pid, &state);
    if (!start || state == 'Z' || state == 'X')
        return 0;
    return (uint64_t)pid << 32 | (start & 0xffffffffu);
}

/* The caller's own token. Cached by pid, so a fork notices by itself; two threads that fill
 * the cache at once write the same values. getpid is a syscall of about 50 ns: callers on a
 * hot path keep the token in their handle. */
static inline uint64_t shmq_self_token(void)
{
    static _Atomic uint64_t cached;
    uint64_t pid = (uint64_t)getpid();
    uint64_t token = atomic_load_explicit(&cached, memory_order_relaxed);
    if (token >> 32 != pid) {
        token = shmq_token_of((uint32_t)pid);
        if (!token)
            token = pid << 32 | 1; /* no /proc: pid alone; recycling is not noticed then */
        atomic_store_explicit(&cached, token, memory_order_relaxed);
    }
    return token;
}

/* False only when the process is known to be gone (or a zombie). */
static inline bool shmq_token_alive(uint64_t token)
{
    if (!token)
        return false;
    uint64_t now = shmq_token_of((uint32_t)(token >> 32));
    if ((token & 0xffffffffu) == 1 && now) /* taken without /proc */
        return true;
    return now == token;
}

static inline bool shmq_is_pow2(uint64_t n)
{
    return n && !(n & (n - 1));
}

#endif
