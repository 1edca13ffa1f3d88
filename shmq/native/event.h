/* event.h - a flag that any number of threads and processes can wait for.
 *
 * Promise: a wait that began before a set returns after it, even when the flag is cleared at once (as threading.Event);
 * no wake-up is lost while the setter lives; a set makes a syscall only when somebody sleeps, and none when the flag is
 * set already and nobody does.
 *
 * Proof sketch. `word` is (number of sets << 1) | flag. A waiter counts itself in `waiters`, fences, re-checks the word and
 * sleeps on the value it saw; a setter changes the word, fences, then looks at `waiters` (the Dekker pair of wait.h). If
 * the setter saw no waiter, that waiter's re-check sees the new word; a change after the re-check makes FUTEX_WAIT return
 * EAGAIN. The number of sets tells a waiter of a set that was cleared before it woke.
 *
 * Doubts: a setter that dies between its store and its wake leaves sleepers to their time slice, so a caller must re-check
 * (shmq_event_sleep returns). A waiter that dies leaves `waiters` too high: each later set pays one vain syscall. 2^31
 * sets between two looks of one waiter pass for none.
 */
#ifndef SHMQ_EVENT_H
#define SHMQ_EVENT_H

#include "shmq/native/wait.h"

#include <limits.h>

typedef struct {
    alignas(SHMQ_LINE) _Atomic uint32_t word;
    _Atomic uint32_t waiters;
    _Atomic uint64_t sets;  /* calls that found the flag clear */
    _Atomic uint64_t parks; /* times somebody went to sleep */
    _Atomic uint64_t wakes; /* wake-up syscalls */
} shmq_event;

static_assert(sizeof(shmq_event) == SHMQ_LINE, "an event owns its line");

static inline bool shmq_event_is_set(const shmq_event *e)
{
    return atomic_load_explicit(&e->word, memory_order_acquire) & 1; /* pairs with shmq_event_set */
}

/* What was written before it is seen by those whose wait it ends. */
static inline void shmq_event_set(shmq_event *e)
{
    uint32_t was = atomic_load_explicit(&e->word, memory_order_relaxed);
    while (!(was & 1))
        if (atomic_compare_exchange_weak_explicit(&e->word, &was, (was + 2) | 1, memory_order_release,
                                                  memory_order_relaxed)) {
            SHMQ_STEP();
            atomic_fetch_add_explicit(&e->sets, 1, memory_order_relaxed);
            break;
        }
    SHMQ_STEP();
    if (shmq_fence_then_load(&e->waiters)) { /* pairs with the fence in shmq_event_sleep */
        atomic_fetch_add_explicit(&e->wakes, 1, memory_order_relaxed);
        shmq_futex(&e->word, FUTEX_WAKE, INT_MAX, NULL);
    }
}

static inline void shmq_event_clear(shmq_event *e)
{
    atomic_fetch_and_explicit(&e->word, ~1u, memory_order_relaxed);
}

/* The word with which a wait begins; hand it to the two below. */
static inline uint32_t shmq_event_look(const shmq_event *e)
{
    return atomic_load_explicit(&e->word, memory_order_acquire);
}

/* True when the flag is set, or was since the wait began. */
static inline bool shmq_event_happened(const shmq_event *e, uint32_t began)
{
    uint32_t now = atomic_load_explicit(&e->word, memory_order_acquire);
    return now & 1 || now >> 1 != began >> 1;
}

/* Sleep once, until something happened or timeout_ns (> 0) have passed; the caller looks again. */
static inline void shmq_event_sleep(shmq_event *e, uint32_t began, int64_t timeout_ns)
{
    struct timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    atomic_fetch_add_explicit(&e->waiters, 1, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the fence in shmq_event_set */
    SHMQ_STEP();
    if (!shmq_event_happened(e, began)) {
        atomic_fetch_add_explicit(&e->parks, 1, memory_order_relaxed);
        shmq_futex(&e->word, FUTEX_WAIT, began, &ts);
    }
    SHMQ_STEP();
    atomic_fetch_sub_explicit(&e->waiters, 1, memory_order_relaxed);
}

#endif
