/* prwlock.h - pthread_rwlock_t between processes, with a record of who may hold it.
 *
 * Promise: the read-write lock of the C library (PTHREAD_PROCESS_SHARED, writers first where the library can), as a
 * yardstick for the locks of lock.h. It has no robust form: when a process dies in it, nobody can free it. A handle
 * therefore marks its slot before it asks for the lock and unmarks it after it gave it back; who cannot get the lock
 * looks for marked slots of dead processes and gets SHMQ_GONE instead of waiting for ever. The lock is then lost.
 * Zeroed memory is a lock that the first user initialises.
 *
 * Doubt: a process that died while it waited, or between giving the lock back and unmarking its slot, is reported,
 * too. The first leaves the library's own counters wrong; neither can be told from a holder from outside.
 */
#ifndef SHMQ_PRWLOCK_H
#define SHMQ_PRWLOCK_H

#include "shmq/native/lock.h"

#include <pthread.h>

/* Waits by the monotonic clock exist since glibc 2.30, and ThreadSanitizer does not know them; elsewhere a step of the
 * clock moves one slice. */
#if defined(__GLIBC__) && defined(_GNU_SOURCE) && !defined(__SANITIZE_THREAD__)
#if __GLIBC_PREREQ(2, 30)
#define SHMQ_PRW_MONOTONIC 1
#endif
#endif

#define SHMQ_PRW_READY 1u       /* as a token: pid 0, never a process's */
#define SHMQ_GONE (-ENOTRECOVERABLE) /* a process died in the lock: not held, and never to be had again */

typedef struct {
    alignas(SHMQ_LINE) _Atomic uint64_t state; /* 0: zeroed memory, token: being initialised by it, READY */
    _Atomic uint32_t died;                     /* the last writer left without repair */
    uint32_t reserved;
    pthread_rwlock_t lock;
    alignas(SHMQ_LINE) _Atomic uint64_t slots[SHMQ_RW_SLOTS + 2]; /* tokens */
    alignas(SHMQ_LINE) _Atomic uint8_t marks[SHMQ_RW_SLOTS + 2];  /* 1: holds the lock, or asks for it */
} shmq_prwlock;

static_assert(sizeof(pthread_rwlock_t) <= SHMQ_LINE - 16, "the lock fits its line");
static_assert(sizeof(shmq_prwlock) == 6 * SHMQ_LINE, "lock is six lines");

typedef struct {
    shmq_prwlock *lock;
    uint32_t slot;
    shmq_lock_stats stats;
} shmq_prwholder;

static inline int shmq_prw_init_lock(shmq_prwlock *l)
{
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
#ifdef __GLIBC__
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
    int rc = pthread_rwlock_init(&l->lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    return rc ? SHMQ_INVALID : SHMQ_OK;
}

/* Initialise zeroed memory once, whoever comes first; who died at it is replaced. */
static inline int shmq_prw_prepare(shmq_prwlock *l)
{
    for (;;) {
        uint64_t state = atomic_load_explicit(&l->state, memory_order_acquire); /* pairs with the release below */
        if (state == SHMQ_PRW_READY)
            return SHMQ_OK;
        if (state && shmq_token_alive(state)) {
            sched_yield();
            continue;
        }
        if (!atomic_compare_exchange_strong_explicit(&l->state, &state, shmq_self_token(), memory_order_acq_rel, memory_order_relaxed))
            continue;
        SHMQ_STEP();
        int rc = shmq_prw_init_lock(l);
        SHMQ_STEP();
        atomic_store_explicit(&l->state, rc == SHMQ_OK ? SHMQ_PRW_READY : 0, memory_order_release);
        return rc;
    }
}

/* Free the slots of dead processes that were not in the lock. A marked one stays: it is the evidence. */
static inline int shmq_prw_reap(shmq_prwlock *l)
{
    int n = 0;
    for (uint32_t i = 0; i < SHMQ_RW_SLOTS; i++) {
        uint64_t token = atomic_load_explicit(&l->slots[i], memory_order_acquire);
        if (token && !atomic_load_explicit(&l->marks[i], memory_order_acquire) && !shmq_token_alive(token))
            n += atomic_compare_exchange_strong_explicit(&l->slots[i], &token, 0, memory_order_acq_rel, memory_order_relaxed);
    }
    return n;
}

/* Take a free slot (or a dead process's). SHMQ_TAKEN when all 62 are in use. */
static inline int shmq_prw_join(shmq_prwholder *h, shmq_prwlock *l)
{
    int rc = shmq_prw_prepare(l);
    if (rc != SHMQ_OK)
        return rc;
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < SHMQ_RW_SLOTS; i++) {
            uint64_t free = 0;
            if (atomic_compare_exchange_strong_explicit(&l->slots[i], &free, shmq_self_token(), memory_order_acq_rel, memory_order_relaxed)) {
                *h = (shmq_prwholder){.lock = l, .slot = i};
                return SHMQ_OK;
            }
        }
        if (!shmq_prw_reap(l))
            break;
    }
    return SHMQ_TAKEN;
}

/* Give the slot back; the caller holds nothing. */
static inline void shmq_prw_leave(shmq_prwholder *h)
{
    atomic_store_explicit(&h->lock->slots[h->slot], 0, memory_order_release);
}

static inline void shmq_prw_mark(shmq_prwholder *h, uint8_t mark)
{
    atomic_store_explicit(&h->lock->marks[h->slot], mark, memory_order_seq_cst);
}

/* True when a dead process holds the lock, or died while it waited for it. */
static inline bool shmq_prw_lost(const shmq_prwholder *h)
{
    shmq_prwlock *l = h->lock;
    for (uint32_t i = 0; i < SHMQ_RW_SLOTS; i++) {
        uint64_t token = atomic_load_explicit(&l->slots[i], memory_order_acquire);
        if (i != h->slot && token && atomic_load_explicit(&l->marks[i], memory_order_acquire) && !shmq_token_alive(token))
            return true;
    }
    return false;
}

static inline int shmq_prw_try(shmq_prwlock *l, bool write)
{
    return write ? pthread_rwlock_trywrlock(&l->lock) : pthread_rwlock_tryrdlock(&l->lock);
}

/* Wait in the C library for at most ns. */
static inline int shmq_prw_timed(shmq_prwlock *l, bool write, int64_t ns)
{
    struct timespec until;
#ifdef SHMQ_PRW_MONOTONIC
    clockid_t clock = CLOCK_MONOTONIC;
#else
    clockid_t clock = CLOCK_REALTIME;
#endif
    clock_gettime(clock, &until);
    until.tv_nsec += ns % 1000000000;
    until.tv_sec += ns / 1000000000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
#ifdef SHMQ_PRW_MONOTONIC
    int rc = write ? pthread_rwlock_clockwrlock(&l->lock, clock, &until) : pthread_rwlock_clockrdlock(&l->lock, clock, &until);
#else
    int rc = write ? pthread_rwlock_timedwrlock(&l->lock, &until) : pthread_rwlock_timedrdlock(&l->lock, &until);
#endif
    if (rc == EDEADLK) { /* another handle of this very thread writes: wait as for anybody else */
        struct timespec pause = {ns / 1000000000, ns % 1000000000};
        nanosleep(&pause, NULL);
    }
    return rc;
}

static int __attribute__((noinline, unused)) shmq_prw_wait(shmq_prwholder *h, bool write, int64_t timeout_ns)
{
    int64_t start = shmq_now_ns(), now = start, checked = start;
    int rc = SHMQ_TIMEOUT;
    while (rc == SHMQ_TIMEOUT) {
        int64_t left = timeout_ns < 0 ? INT64_MAX : timeout_ns - (now - start);
        if (left <= 0 ? shmq_lock_may_check(&h->stats, now) : now - checked >= SHMQ_DEATH_CHECK_NS) {
            checked = now;
            if (shmq_prw_lost(h))
                rc = SHMQ_GONE;
        }
        if (left <= 0 || rc != SHMQ_TIMEOUT)
            break;
        if (shmq_prw_timed(h->lock, write, left < SHMQ_DEATH_CHECK_NS ? left : SHMQ_DEATH_CHECK_NS) == 0)
            rc = SHMQ_OK;
        now = shmq_now_ns();
    }
    h->stats.contended++;
    h->stats.wait_ns += shmq_now_ns() - start;
    return rc;
}

/* timeout_ns < 0: for ever. SHMQ_OK, SHMQ_OWNER_DIED (held, a writer gave up unrepaired), SHMQ_TIMEOUT, or
 * SHMQ_GONE. Not recursive. */
static inline int shmq_prw_acquire(shmq_prwholder *h, bool write, int64_t timeout_ns)
{
    shmq_prwlock *l = h->lock;
    h->stats.acquires++;
    shmq_prw_mark(h, 1);
    SHMQ_STEP();
    int rc = shmq_prw_try(l, write) == 0 ? SHMQ_OK : shmq_prw_wait(h, write, timeout_ns);
    if (rc != SHMQ_OK) {
        shmq_prw_mark(h, 0);
        return rc;
    }
    if (__builtin_expect(!atomic_load_explicit(&l->died, memory_order_relaxed), 1))
        return SHMQ_OK;
    if (write)
        atomic_store_explicit(&l->died, 0, memory_order_relaxed); /* the caller is told, and alone */
    return SHMQ_OWNER_DIED;
}

static inline void shmq_prw_release(shmq_prwholder *h)
{
    pthread_rwlock_unlock(&h->lock->lock);
    SHMQ_STEP();
    shmq_prw_mark(h, 0);
}

/* Before a release: the next holder shall get SHMQ_OWNER_DIED (again). */
static inline void shmq_prw_mark_died(shmq_prwholder *h)
{
    atomic_store_explicit(&h->lock->died, 1, memory_order_relaxed);
}

#endif
