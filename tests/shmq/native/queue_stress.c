/* Threads over the mutex, the pthread lock and the queue: the holder is alone, every message arrives once, whole and in
 * its producer's order. Sleeps end by themselves after 20 ms, so a lost wake-up shows as a slow run; the mutex's hand-over
 * is timed for that at the end.
 * usage: queue_stress ROUNDS */
#define _GNU_SOURCE /* as Python.h does: the pthread lock waits by the monotonic clock */
#include "shmq/native/prwlock.h"
#include "shmq/native/queue.h"

#include "check.h"

enum { THREADS = 4, LINES = 64, PRODUCERS = 2, CONSUMERS = 2, LONGEST = 300 };

static uint64_t rounds;
static uint64_t first, second; /* equal whenever nobody is inside */
static shmq_mutex *mutex;
static shmq_prwlock *pthread_lock;
static shmq_queue_handle queue;
static _Atomic uint64_t taken;

static void bump(void)
{
    CHECK(first == second);
    first++;
    for (volatile int i = 0; i < 20; i++)
        ;
    second++;
}

static void *use_mutex(void *unused)
{
    (void)unused;
    shmq_lock_stats stats = {0};
    uint64_t self = shmq_self_token(), random = 7, missed = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        int64_t timeout = next_random(&random) % 8 ? -1 : (int64_t)(next_random(&random) % 50000);
        int rc = shmq_mutex_acquire(mutex, self, timeout, &stats);
        CHECK(rc == SHMQ_OK || (rc == SHMQ_TIMEOUT && timeout >= 0));
        if (rc == SHMQ_OK) {
            bump();
            shmq_mutex_release(mutex);
        } else {
            missed++;
        }
    }
    CHECK(stats.acquires == rounds && missed <= stats.contended);
    return NULL;
}

static void *use_pthread(void *unused)
{
    (void)unused;
    shmq_prwholder h;
    CHECK(shmq_prw_join(&h, pthread_lock) == SHMQ_OK);
    for (uint64_t i = 0; i < rounds; i++) {
        bool write = (i + h.slot) % 4 == 0;
        CHECK(shmq_prw_acquire(&h, write, -1) == SHMQ_OK);
        if (write)
            bump();
        else
            CHECK(first == second);
        shmq_prw_release(&h);
    }
    shmq_prw_leave(&h);
    return NULL;
}

/* ---- the queue */

static uint64_t length_of(uint64_t number)
{
    uint64_t random = number * 0x9e3779b97f4a7c15u + 1;
    return 16 + next_random(&random) % (LONGEST - 16);
}

static void *produce(void *arg)
{
    uint64_t self = shmq_self_token(), who = *(uint64_t *)arg;
    shmq_lock_stats stats = {0};
    uint8_t message[LONGEST];
    for (uint64_t number = 0; number < rounds;) {
        uint64_t length = length_of(number);
        bool spilled;
        memset(message, (int)(number & 255), length);
        memcpy(message, &who, 8);
        memcpy(message + 8, &number, 8);
        CHECK(shmq_mutex_acquire(&queue.queue->put.lock, self, -1, &stats) == SHMQ_OK);
        int64_t lines = shmq_queue_plan(&queue, length, &spilled);
        CHECK(lines >= 0 && !spilled);
        if (lines) {
            shmq_queue_record record = {.kind = SHMQ_QUEUE_PLAIN, .length = length};
            shmq_queue_copy_in(&queue, shmq_queue_load(&queue.queue->put.cursor) * SHMQ_QUEUE_LINE + SHMQ_QUEUE_HEAD, message, length);
            shmq_queue_put_done(&queue, &record, (uint64_t)lines);
            number++;
        }
        shmq_mutex_release(&queue.queue->put.lock);
        shmq_cell_wake(&queue.queue->consumer_cell, -1);
        if (!lines)
            sched_yield();
    }
    return NULL;
}

static bool has_message(void *arg)
{
    return shmq_queue_has_message(arg) || atomic_load(&taken) == PRODUCERS * rounds;
}

static void *consume(void *unused)
{
    (void)unused;
    uint64_t self = shmq_self_token(), next[PRODUCERS] = {0};
    shmq_lock_stats stats = {0};
    shmq_wait_policy park = shmq_wait_default(SHMQ_WAIT_PARK);
    uint8_t message[LONGEST];
    while (atomic_load(&taken) < PRODUCERS * rounds) {
        shmq_queue_record record;
        uint64_t lines, who, number;
        CHECK(shmq_mutex_acquire(&queue.queue->get.lock, self, -1, &stats) == SHMQ_OK);
        if (!shmq_queue_has_message(&queue))
            shmq_cell_wait(&queue.queue->consumer_cell, park, INT64_MAX, 20000000, has_message, &queue);
        int rc = shmq_queue_look(&queue, &record, &lines);
        CHECK(rc == SHMQ_OK || rc == SHMQ_EMPTY);
        if (rc == SHMQ_OK) {
            CHECK(record.length <= LONGEST && record.kind == SHMQ_QUEUE_PLAIN);
            shmq_queue_copy_out(&queue, shmq_queue_load(&queue.queue->get.cursor) * SHMQ_QUEUE_LINE + SHMQ_QUEUE_HEAD, message, record.length);
            shmq_queue_get_done(&queue, &record, lines);
            atomic_fetch_add(&taken, 1);
        }
        shmq_mutex_release(&queue.queue->get.lock);
        if (rc != SHMQ_OK)
            continue;
        memcpy(&who, message, 8);
        memcpy(&number, message + 8, 8);
        CHECK(who < PRODUCERS && number >= next[who] && record.length == length_of(number));
        next[who] = number + 1;
        for (uint64_t i = 16; i < record.length; i++)
            CHECK(message[i] == (number & 255));
    }
    return NULL;
}

static void run_queue(void)
{
    pthread_t threads[PRODUCERS + CONSUMERS];
    uint64_t ids[PRODUCERS] = {0, 1};
    uint64_t space = shmq_queue_bytes(LINES);
    void *at = lines(space);
    CHECK(shmq_queue_init(at, LINES, 0) == SHMQ_OK && shmq_queue_bind(&queue, at, space, space) == SHMQ_OK);
    for (int i = 0; i < PRODUCERS; i++)
        threads[i] = start(produce, &ids[i]);
    for (int i = 0; i < CONSUMERS; i++)
        threads[PRODUCERS + i] = start(consume, NULL);
    for (int i = 0; i < PRODUCERS + CONSUMERS; i++)
        finish(threads[i]);
    CHECK(shmq_queue_size(&queue) == 0 && shmq_queue_load(&queue.queue->put.items) == PRODUCERS * rounds);
    free(at);
}

static void run(void *(*work)(void *))
{
    pthread_t threads[THREADS];
    first = second = 0;
    for (int i = 0; i < THREADS; i++)
        threads[i] = start(work, NULL);
    for (int i = 0; i < THREADS; i++)
        finish(threads[i]);
    CHECK(first == second && first > 0);
}

/* One holder gives the mutex up only when the other sleeps for it; each lost wake-up costs 20 ms. */
static _Atomic int turn;

static void *ping(void *arg)
{
    int self = *(int *)arg;
    shmq_lock_stats stats = {0};
    for (int i = 0; i < 500; i++) {
        CHECK(shmq_mutex_acquire(mutex, shmq_self_token(), -1, &stats) == SHMQ_OK);
        atomic_store(&turn, self);
        while (!atomic_load(&mutex->waiters) && i < 499 && atomic_load(&turn) == self)
            sched_yield();
        shmq_mutex_release(mutex);
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
    mutex = lines(128);
    pthread_lock = lines(sizeof *pthread_lock);
    run(use_mutex);
    run(use_pthread);
    CHECK(atomic_load(&mutex->owner) == 0);
    run_queue();

    int ids[2] = {0, 1};
    int64_t begin = shmq_now_ns();
    pthread_t one = start(ping, &ids[0]), two = start(ping, &ids[1]);
    finish(one);
    finish(two);
    CHECK((shmq_now_ns() - begin) / 1000 < 5000000); /* every wake-up lost: 20 ms each */
    free(mutex);
    free(pthread_lock);
    puts("ok");
    return 0;
}
