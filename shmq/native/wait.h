/* wait.h - the wait cell: how one end of a ring sleeps and the other end wakes it.
 *
 * Promise: no lost wake-up, one syscall per wake and none when nobody sleeps. A cell has ONE
 * waiter (the end that owns it) and any number of wakers.
 *
 * Proof sketch (Dekker). The waiter stores parked, fences, then re-checks the condition; the
 * waker publishes, fences, then loads parked. Both fences are sequentially consistent, so at
 * least one side sees the other's store: either the re-check finds the data, or the waker finds
 * parked != 0 and wakes. The futex word *is* `parked`: a wake that comes between the re-check and
 * FUTEX_WAIT has already changed it, and the kernel returns EAGAIN.
 *
 * Doubt: a waiter that dies parked leaves parked != 0; the next waker pays one vain syscall
 * and clears it.
 */
#ifndef SHMQ_WAIT_H
#define SHMQ_WAIT_H

#include "shmq/native/common.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>

enum { SHMQ_AWAKE = 0, SHMQ_PARKED_FUTEX = 1, SHMQ_PARKED_EVENTFD = 2 };

typedef struct {
    alignas(SHMQ_LINE) _Atomic uint32_t parked; /* written by waiter and waker */
    uint32_t reserved;
    _Atomic uint64_t parks; /* by the waiter: times it went to sleep */
    _Atomic uint64_t wakes; /* by wakers: wake-up syscalls made */
} shmq_cell;

static_assert(sizeof(shmq_cell) == SHMQ_LINE, "a cell owns its line");

typedef enum { SHMQ_WAIT_SPIN, SHMQ_WAIT_ADAPTIVE, SHMQ_WAIT_PARK, SHMQ_WAIT_EVENTFD } shmq_wait_kind;

/* How an end waits. spins: busy checks first; yields: sched_yield checks after that; ends that
 * share a CPU set spins to 0 (a spin there only burns the peer's time slice). */
typedef struct {
    shmq_wait_kind kind;
    uint32_t spins;
    uint32_t yields;
} shmq_wait_policy;

static inline shmq_wait_policy shmq_wait_default(shmq_wait_kind kind)
{
    shmq_wait_policy p = {kind, 2000, 20};
    if (kind == SHMQ_WAIT_PARK || kind == SHMQ_WAIT_EVENTFD)
        p.spins = 0, p.yields = 0;
    return p;
}

/* The policy for what is left of a wait after a sleep that nobody ended: what takes so long is not found by spinning. */
static inline shmq_wait_policy shmq_wait_long(shmq_wait_policy p)
{
    if (p.kind != SHMQ_WAIT_SPIN)
        p.spins = 0, p.yields = 0;
    return p;
}

static inline long shmq_futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *ts)
{
    return syscall(SYS_futex, word, op, value, ts, NULL, 0); /* not PRIVATE: across processes */
}

/* Announce the intent to sleep. The caller MUST re-check its condition after this and before
 * shmq_cell_sleep (or before it selects on the eventfd), and call shmq_cell_clear at the end. */
static inline void shmq_cell_announce(shmq_cell *c, uint32_t how)
{
    shmq_store_then_fence(&c->parked, how); /* pairs with the fence in shmq_cell_wake */
}

static inline void shmq_cell_clear(shmq_cell *c)
{
    atomic_store_explicit(&c->parked, SHMQ_AWAKE, memory_order_relaxed);
}

/* Sleep until woken or timeout_ns passed (<= 0: do not sleep). 0 or SHMQ_TIMEOUT or SHMQ_INTERRUPTED. */
static inline int shmq_cell_sleep(shmq_cell *c, int64_t timeout_ns)
{
    if (timeout_ns <= 0)
        return SHMQ_TIMEOUT;
    struct timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    atomic_fetch_add_explicit(&c->parks, 1, memory_order_relaxed);
    if (shmq_futex(&c->parked, FUTEX_WAIT, SHMQ_PARKED_FUTEX, &ts) == 0 || errno == EAGAIN)
        return SHMQ_OK;
    return errno == EINTR ? SHMQ_INTERRUPTED : SHMQ_TIMEOUT;
}

/* Called by the other end after it published. efd: the waiter's eventfd as this process knows it,
 * or -1. True when a sleeper was woken. */
static inline bool shmq_cell_wake(shmq_cell *c, int efd)
{
    uint32_t parked = shmq_fence_then_load(&c->parked); /* pairs with the fence in shmq_cell_announce */
    if (__builtin_expect(parked == SHMQ_AWAKE, 1))
        return false;
    if (parked == SHMQ_PARKED_EVENTFD && efd < 0)
        return false; /* out of reach from here: left to a waker that has the descriptor */
    uint32_t was = atomic_exchange_explicit(&c->parked, SHMQ_AWAKE, memory_order_relaxed);
    SHMQ_STEP(); /* a waker that dies here wakes nobody: that is why no sleep lasts longer than a slice */
    if (was == SHMQ_PARKED_FUTEX) {
        shmq_futex(&c->parked, FUTEX_WAKE, 1, NULL);
    } else if (was == SHMQ_PARKED_EVENTFD && efd >= 0) {
        uint64_t one = 1;
        if (write(efd, &one, sizeof one) < 0) {
            /* EAGAIN: the counter is at its maximum, so the fd is readable already */
        }
    }
    if (was != SHMQ_AWAKE)
        atomic_fetch_add_explicit(&c->wakes, 1, memory_order_relaxed);
    return was != SHMQ_AWAKE;
}

/* Wait until ready(arg), at most until deadline_ns (monotonic; INT64_MAX: for ever), in the
 * policy's way. One sleep lasts at most slice_ns, after which SHMQ_INTERRUPTED is returned so that
 * the caller can look for signals and dead peers. SHMQ_OK, SHMQ_TIMEOUT or SHMQ_INTERRUPTED. */
static inline int shmq_cell_wait(shmq_cell *c, shmq_wait_policy policy, int64_t deadline_ns,
                                 int64_t slice_ns, bool (*ready)(void *), void *arg)
{
    for (uint32_t i = 0; i <= policy.spins; i++) {
        if (ready(arg))
            return SHMQ_OK;
        shmq_relax();
    }
    int64_t now = shmq_now_ns();
    int64_t stop = deadline_ns - now > slice_ns ? now + slice_ns : deadline_ns;
    for (uint32_t i = 0; policy.kind == SHMQ_WAIT_SPIN || i < policy.yields; i++) {
        if (ready(arg))
            return SHMQ_OK;
        if (policy.kind != SHMQ_WAIT_SPIN || policy.spins == 0)
            sched_yield();
        else
            shmq_relax();
        if ((i & 63) == 63 && (now = shmq_now_ns()) >= stop)
            return now >= deadline_ns ? SHMQ_TIMEOUT : SHMQ_INTERRUPTED;
    }
    shmq_cell_announce(c, SHMQ_PARKED_FUTEX);
    SHMQ_STEP();
    int rc = ready(arg) ? SHMQ_OK : shmq_cell_sleep(c, stop - shmq_now_ns());
    SHMQ_STEP();
    shmq_cell_clear(c);
    if (ready(arg))
        return SHMQ_OK;
    if (rc == SHMQ_OK || rc == SHMQ_INTERRUPTED)
        return SHMQ_INTERRUPTED;
    return shmq_now_ns() >= deadline_ns ? SHMQ_TIMEOUT : SHMQ_INTERRUPTED;
}

#endif
