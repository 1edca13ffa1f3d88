/* Two threads over one ring: every record once and in order, in random batches, through plain copies and in place,
 * while both ends sleep without a time limit whenever they can. usage: ring_stress RECORDS */
#include "shmq/native/ring.h"

#include "check.h"

typedef struct {
    uint64_t number;
    uint64_t square;
} record;

static uint64_t total;
static shmq_ring *ring;
static uint64_t space;

static bool has_room(void *arg)
{
    return shmq_producer_room(arg, 1) != 0;
}

static bool has_records(void *arg)
{
    return shmq_consumer_ready(arg, 1) != 0;
}

static void sleep_until(shmq_cell *cell, shmq_wait_kind kind, bool (*ready)(void *), void *end)
{
    shmq_wait_policy policy = shmq_wait_default(kind);
    policy.spins = policy.spins ? 20 : 0; /* sleep soon: this is what is tested */
    while (shmq_cell_wait(cell, policy, INT64_MAX, INT64_MAX / 2, ready, end) != SHMQ_OK)
        ;
}

static uint64_t push_some(shmq_producer *p, uint64_t number, uint64_t want)
{
    int64_t room = shmq_producer_room(p, want);
    CHECK(room >= 0);
    uint64_t n = (uint64_t)room < want ? (uint64_t)room : want;
    for (uint64_t i = 0; i < n; i++)
        *(record *)shmq_producer_slot(p, i) = (record){number + i, (number + i) * (number + i)};
    if (n)
        shmq_producer_publish(p, n);
    return n;
}

static void *produce(void *kind)
{
    shmq_producer p;
    uint64_t random = 1, number = 0;
    CHECK(shmq_producer_bind(&p, ring, space) == SHMQ_OK);
    while (number < total) {
        uint64_t left = total - number, want = 1 + next_random(&random) % 9, n;
        if (want == 1) {
            record one = {number, number * number};
            n = shmq_ring_push(&p, &one) == SHMQ_OK;
        } else {
            n = push_some(&p, number, want < left ? want : left);
        }
        number += n;
        if (n)
            shmq_ring_wake_consumer(&p);
        else
            sleep_until(&ring->producer_cell, *(shmq_wait_kind *)kind, has_room, &p);
    }
    return NULL;
}

static void *consume(void *kind)
{
    shmq_consumer c;
    uint64_t random = 2, number = 0;
    record batch[9];
    CHECK(shmq_consumer_bind(&c, ring, space) == SHMQ_OK);
    while (number < total) {
        uint64_t want = 1 + next_random(&random) % 9;
        int64_t n = want == 1 ? shmq_ring_pop(&c, batch) == SHMQ_OK : shmq_ring_pop_n(&c, batch, want);
        CHECK(n >= 0);
        for (int64_t i = 0; i < n; i++, number++)
            CHECK(batch[i].number == number && batch[i].square == number * number);
        if (n)
            shmq_ring_wake_producer(&c);
        else
            sleep_until(&ring->consumer_cell, *(shmq_wait_kind *)kind, has_records, &c);
    }
    CHECK(shmq_consumer_ready(&c, 1) == 0);
    return NULL;
}

static void run(uint64_t capacity, shmq_wait_kind producer, shmq_wait_kind consumer)
{
    space = shmq_ring_bytes(capacity, sizeof(record));
    ring = lines(space);
    CHECK(shmq_ring_init(ring, capacity, sizeof(record)) == SHMQ_OK);
    pthread_t one = start(produce, &producer), two = start(consume, &consumer);
    finish(one);
    finish(two);
    free(ring);
}

int main(int argc, char **argv)
{
    arm_watchdog(120);
    total = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    for (uint64_t capacity = 1; capacity <= 64; capacity *= 4) {
        run(capacity, SHMQ_WAIT_PARK, SHMQ_WAIT_PARK);
        run(capacity, SHMQ_WAIT_ADAPTIVE, SHMQ_WAIT_PARK);
        run(capacity, SHMQ_WAIT_ADAPTIVE, SHMQ_WAIT_ADAPTIVE);
    }
    puts("ok");
    return 0;
}
