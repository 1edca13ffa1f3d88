/* mutex.h - a process-shared mutex whose waiters sleep in the kernel and whose owner's death is reported.
 *
 * Promise: mutual exclusion; one compare-and-swap to take it and one exchange to give it back while nobody waits; a
 * waiter finds out within about 20 ms that the owner is dead and gets the mutex with SHMQ_OWNER_DIED. Zeroed memory
 * is a free mutex.
 *
 * Proof sketch.
 *   M1  `owner` goes from 0 (or a dead token) to the caller's token by a compare-and-swap only: one winner.
 *   M2  What was done under the mutex happens before the exchange that frees it, which the next winner's
 *       compare-and-swap reads from.
 *   M3  No lost wake-up: a waiter reads wake_seq, sets `waiters`, then looks at `owner`; a release clears `owner`, then
 *       looks at `waiters`; all sequentially consistent, so one of the two sees the other. Who clears `waiters` bumps
 *       wake_seq, so a waiter that had not slept yet does not sleep.
 *   M4  One waiter is woken per release, and it sets `waiters` again when it has the mutex, because it cannot know
 *       whether others sleep. If it is killed in between, the others look again within 20 ms.
 *
 * Source: the three-state mutex of Drepper, "Futexes Are Tricky" (2011), with the state's third value in a word of its
 * own, because the first holds the owner.
 */
#ifndef SHMQ_MUTEX_H
#define SHMQ_MUTEX_H

#include "shmq/native/lock.h"

#define SHMQ_MUTEX_SPINS 100 /* about two microseconds: a short critical section ends within it */

typedef struct {
    alignas(16) _Atomic uint64_t owner; /* token, 0: free */
    _Atomic uint32_t waiters;           /* 1: somebody is in a futex wait, or about to be */
    _Atomic uint32_t wake_seq;          /* the futex word */
} shmq_mutex;

static_assert(sizeof(shmq_mutex) == 16, "a mutex is 16 bytes");

static inline bool shmq_mutex_try(shmq_mutex *m, uint64_t self)
{
    uint64_t free = 0;
    /* M2: pairs with the exchange in shmq_mutex_give */
    return atomic_compare_exchange_strong_explicit(&m->owner, &free, self, memory_order_seq_cst, memory_order_relaxed);
}

/* Take the mutex over from a dead owner. */
static inline bool shmq_mutex_inherit(shmq_mutex *m, uint64_t self)
{
    uint64_t owner = atomic_load_explicit(&m->owner, memory_order_relaxed);
    return owner && !shmq_token_alive(owner) &&
           atomic_compare_exchange_strong_explicit(&m->owner, &owner, self, memory_order_seq_cst, memory_order_relaxed);
}

/* Sleep until a release, at most ns and never past the next look at the owner. */
static inline void shmq_mutex_sleep(shmq_mutex *m, int64_t ns)
{
    struct timespec slice = {0, ns < SHMQ_DEATH_CHECK_NS ? ns : SHMQ_DEATH_CHECK_NS};
    uint32_t seq = atomic_load_explicit(&m->wake_seq, memory_order_acquire);
    atomic_store_explicit(&m->waiters, 1, memory_order_seq_cst); /* M3 */
    SHMQ_STEP();
    if (atomic_load_explicit(&m->owner, memory_order_seq_cst))
        shmq_futex(&m->wake_seq, FUTEX_WAIT, seq, &slice);
}

static int __attribute__((noinline, unused)) shmq_mutex_wait(shmq_mutex *m, uint64_t self, int64_t timeout_ns, shmq_lock_stats *stats)
{
    int64_t start = shmq_now_ns(), now = start, checked = start;
    bool slept = false;
    int rc = SHMQ_TIMEOUT;
    for (uint32_t i = 0; rc == SHMQ_TIMEOUT; i++) {
        if (!atomic_load_explicit(&m->owner, memory_order_relaxed) && shmq_mutex_try(m, self)) {
            rc = SHMQ_OK;
            break;
        }
        if (timeout_ns && i < SHMQ_MUTEX_SPINS) {
            shmq_relax();
            continue;
        }
        now = shmq_now_ns();
        bool last = timeout_ns >= 0 && now - start >= timeout_ns;
        if (last ? shmq_lock_may_check(stats, now) : now - checked >= SHMQ_DEATH_CHECK_NS) {
            checked = now;
            if (shmq_mutex_inherit(m, self))
                rc = SHMQ_OWNER_DIED;
        }
        if (last || rc != SHMQ_TIMEOUT)
            break;
        shmq_mutex_sleep(m, timeout_ns < 0 ? INT64_MAX : timeout_ns - (now - start));
        slept = true;
    }
    SHMQ_STEP();
    if (slept && rc != SHMQ_TIMEOUT)
        atomic_store_explicit(&m->waiters, 1, memory_order_seq_cst); /* M4 */
    stats->contended++;
    stats->wait_ns += shmq_now_ns() - start;
    return rc;
}

/* timeout_ns < 0: for ever. SHMQ_OK, SHMQ_OWNER_DIED (held all the same) or SHMQ_TIMEOUT. Not recursive. */
static inline int shmq_mutex_acquire(shmq_mutex *m, uint64_t self, int64_t timeout_ns, shmq_lock_stats *stats)
{
    stats->acquires++;
    if (__builtin_expect(shmq_mutex_try(m, self), 1))
        return SHMQ_OK;
    return shmq_mutex_wait(m, self, timeout_ns, stats);
}

/* Set the owner to 0, or to one that never lives, and wake a waiter. */
static inline void shmq_mutex_give(shmq_mutex *m, uint64_t to)
{
    SHMQ_STEP();
    atomic_exchange_explicit(&m->owner, to, memory_order_seq_cst); /* M2, M3 */
    SHMQ_STEP();
    if (__builtin_expect(atomic_load_explicit(&m->waiters, memory_order_seq_cst) != 0, 0)) {
        atomic_exchange_explicit(&m->waiters, 0, memory_order_seq_cst);
        SHMQ_STEP();
        atomic_fetch_add_explicit(&m->wake_seq, 1, memory_order_release); /* after waiters: see shmq_mutex_sleep */
        SHMQ_STEP();
        shmq_futex(&m->wake_seq, FUTEX_WAKE, 1, NULL);
    }
}

static inline void shmq_mutex_release(shmq_mutex *m)
{
    shmq_mutex_give(m, 0);
}

/* Release so that the next holder gets SHMQ_OWNER_DIED: the mutex is left to an owner that never lives. */
static inline void shmq_mutex_abandon(shmq_mutex *m)
{
    shmq_mutex_give(m, SHMQ_NO_START); /* pid 0 */
}

#endif
