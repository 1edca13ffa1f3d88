/* common.h - what every shmq header needs: line size, errors, clock, process tokens.
 *
 * Promise: header only, C11, Linux; no global state but one cached process token per
 * shared object. Nothing here allocates or blocks.
 *
 * A *token* names a process for as long as it lives: (pid << 32) | low 32 bits of its start
 * time in clock ticks (/proc/PID/task/PID/stat field 22). A recycled pid has another start time, so a
 * token of a dead process stays dead. Doubts: two processes in different pid namespaces may
 * share a token; segments record the namespace (segment.h). A process that calls exec keeps its token
 * though its handles are gone: what it held is free again only when it ends.
 */
#ifndef SHMQ_COMMON_H
#define SHMQ_COMMON_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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

/* A point at which a test can kill the process (tests/shmq/native); nothing otherwise. */
#ifndef SHMQ_STEP
#define SHMQ_STEP() ((void)0)
#endif

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

typedef enum { SHMQ_PROC_GONE, SHMQ_PROC_ALIVE, SHMQ_PROC_UNKNOWN } shmq_proc_state;

/* The n-th blank-separated field (1-based as in proc(5)) of a stat line; fields start behind the command
 * name, which may hold blanks and brackets, so at number 3. NULL when the line is too short. */
static inline const char *shmq_stat_field(const char *line, int n)
{
    const char *p = strrchr(line, ')');
    for (int field = 2; p && field < n; field++) {
        p = strchr(p, ' ');
        if (p)
            p++;
    }
    return p;
}

/* Look at a process; its start time in clock ticks since boot in *start. A zombie is gone, unless it is a
 * thread group whose leader ended early. UNKNOWN when it exists but /proc cannot be read (not mounted,
 * hidden, no descriptor left): nobody may be declared dead for that. */
static inline shmq_proc_state shmq_proc_look(uint32_t pid, uint64_t *start)
{
    char path[40], line[1024];
    if ((int32_t)pid <= 0 || (kill((pid_t)pid, 0) < 0 && errno == ESRCH))
        return SHMQ_PROC_GONE;
    /* the main thread's file: qemu's user emulation invents /proc/PID/stat for the process that asks, but not this */
    snprintf(path, sizeof path, "/proc/%u/task/%u/stat", pid, pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return SHMQ_PROC_UNKNOWN; /* if it ended just now, the next look will tell */
    ssize_t n = read(fd, line, sizeof line - 1);
    close(fd);
    line[n > 0 ? n : 0] = 0;
    const char *state = shmq_stat_field(line, 3), *threads = shmq_stat_field(line, 20), *at = shmq_stat_field(line, 22);
    if (!at)
        return SHMQ_PROC_UNKNOWN;
    if (*state == 'X' || (*state == 'Z' && strtoul(threads, NULL, 10) <= 1))
        return SHMQ_PROC_GONE;
    *start = strtoull(at, NULL, 10);
    return SHMQ_PROC_ALIVE;
}

#define SHMQ_NO_START 1u /* stands for a start time that could not be read */

/* The caller's own token. Cached by pid, so a fork notices by itself; two threads that fill
 * the cache at once write the same values. getpid is a syscall of about 50 ns: callers on a
 * hot path keep the token in their handle. */
static inline uint64_t shmq_self_token(void)
{
    static _Atomic uint64_t cached;
    uint64_t pid = (uint64_t)getpid();
    uint64_t token = atomic_load_explicit(&cached, memory_order_relaxed);
    if (token >> 32 != pid) {
        uint64_t start;
        if (shmq_proc_look((uint32_t)pid, &start) != SHMQ_PROC_ALIVE)
            start = SHMQ_NO_START; /* a recycled pid is not noticed then */
        token = pid << 32 | (start & 0xffffffffu);
        atomic_store_explicit(&cached, token, memory_order_relaxed);
    }
    return token;
}

/* False only when the process is known to be gone (or a zombie). About 10 us. */
static inline bool shmq_token_alive(uint64_t token)
{
    uint64_t start;
    shmq_proc_state state = shmq_proc_look((uint32_t)(token >> 32), &start);
    if (state != SHMQ_PROC_ALIVE)
        return state == SHMQ_PROC_UNKNOWN;
    return (token & 0xffffffffu) == (start & 0xffffffffu) || (token & 0xffffffffu) == SHMQ_NO_START;
}

/* The two halves of a Dekker pair: "store mine, then look at yours". ThreadSanitizer does not model
 * fences; in its builds each half is a read-modify-write of the word, which orders the two as well. */
static inline void shmq_store_then_fence(_Atomic uint32_t *word, uint32_t value)
{
#if defined(__SANITIZE_THREAD__)
    atomic_exchange_explicit(word, value, memory_order_seq_cst);
#else
    atomic_store_explicit(word, value, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

static inline uint32_t shmq_fence_then_load(_Atomic uint32_t *word)
{
#if defined(__SANITIZE_THREAD__)
    return atomic_fetch_add_explicit(word, 0, memory_order_seq_cst);
#else
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(word, memory_order_relaxed);
#endif
}

static inline bool shmq_is_pow2(uint64_t n)
{
    return n && !(n & (n - 1));
}

#endif
