/* Threads over one lock: a writer is alone, readers see no half-done work, and sleepers are woken: the futex waits of
 * lock.h end by themselves after 20 ms, so a lost wake-up shows as a slow run, which is checked at the end.
 * usage: lock_stress ROUNDS */
#include "shmq/native/lock.h"

#include "check.h"

enum { THREADS = 4 };

static uint64_t rounds;
static shmq_rwlock *rw;
static shmq_spinlock *spin;
static uint64_t first, second; /* equal whenever no writer is inside */

static void bump(void)
{
    CHECK(first == second);
    first++;
    for (volatile int i = 0; i < 20; i++)
        ;
    second++;
}

static void *use_rw(void *futex)
{
    shmq_rwholder h;
    uint64_t random = 99;
    CHECK(shmq_rw_join(&h, rw, *(bool *)futex) == SHMQ_OK);
    random += h.slot;
    for (uint64_t i = 0; i < rounds; i++) {
        if (next_random(&random) % 4 == 0) {
            CHECK(shmq_rw_write_acquire(&h, -1) == SHMQ_OK);
            bump();
            shmq_rw_write_release(&h);
        } else if (next_random(&random) % 8 == 0) {
            int rc = shmq_rw_read_acquire(&h, (int64_t)(next_random(&random) % 50000)); /* may time out */
            if (rc == SHMQ_OK) {
                CHECK(first == second);
                shmq_rw_read_release(&h);
            } else {
                CHECK(rc == SHMQ_TIMEOUT);
            }
        } else {
            CHECK(shmq_rw_read_acquire(&h, -1) == SHMQ_OK);
            CHECK(first == second);
            shmq_rw_read_release(&h);
        }
    }
    shmq_rw_leave(&h);
    return NULL;
}

static void *use_spin(void *unused)
{
    (void)unused;
    shmq_lock_stats stats = {0};
    uint64_t self = shmq_self_token();
    for (uint64_t i = 0; i < rounds; i++) {
        CHECK(shmq_spin_acquire(spin, self, -1, &stats) == SHMQ_OK);
        bump();
        shmq_spin_release(spin);
    }
    CHECK(stats.acquires == rounds);
    return NULL;
}

static void run(void *(*work)(void *), bool futex)
{
    pthread_t threads[THREADS];
    first = second = 0;
    for (int i = 0; i < THREADS; i++)
        threads[i] = start(work, &futex);
    for (int i = 0; i < THREADS; i++)
        finish(threads[i]);
    CHECK(first == second);
}

/* One holder sleeps on the other for good reason a thousand times; each wake-up that got lost costs 20 ms. */
static _Atomic int turn;

static void *ping(void *arg)
{
    shmq_rwholder h;
    int self = *(int *)arg;
    CHECK(shmq_rw_join(&h, rw, true) == SHMQ_OK);
    for (int i = 0; i < 500; i++) {
        CHECK(shmq_rw_write_acquire(&h, -1) == SHMQ_OK);
        atomic_store(&turn, self);
        while (!atomic_load(&rw->waiters) && atomic_load(&turn) == self && i < 499)
            sched_yield(); /* hold the lock until the other one sleeps */
        shmq_rw_write_release(&h);
        while (atomic_load(&turn) == self && i < 499)
            sched_yield();
    }
    atomic_store(&turn, 2 + self);
    return NULL;
}

int main(int argc, char **argv)
{
    arm_watchdog(120);
    rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000;
    rw = lines(sizeof *rw);
    spin = lines(sizeof *spin);
    run(use_rw, false);
    run(use_rw, true);
    run(use_spin, false);
    CHECK(atomic_load(&spin->owner) == 0 && atomic_load(&rw->word) == 0 && atomic_load(&rw->writer) == 0);

    int ids[2] = {0, 1};
    int64_t begin = shmq_now_ns();
    pthread_t one = start(ping, &ids[0]), two = start(ping, &ids[1]);
    finish(one);
    finish(two);
    int64_t each = (shmq_now_ns() - begin) / 1000;
    CHECK(each < 5000000); /* every wake-up lost: 20 ms each */
    puts("ok");
    return 0;
}
