/* kill -9 of either end of a ring at every step (kill.h), roles that are given back and taken again included.
 *
 * Checked after each death: nothing hangs, every record that was published arrives once, whole and in order, none that
 * was not, and the role can be taken over by a successor that goes on behind the last one. A record's number is its
 * position in the ring. usage: ring_kill ROUNDS */
#include "kill.h"

#include "shmq/native/ring.h"

enum { CAPACITY = 8, WORDS = 5, MOST = 3 };

static shmq_ring *ring;
static uint64_t space;

typedef struct {
    uint64_t words[WORDS];
} record;

static record numbered(uint64_t number)
{
    record r;
    for (uint64_t i = 0; i < WORDS; i++)
        r.words[i] = number * 31 + i;
    return r;
}

static void verify(const record *got, uint64_t number)
{
    record expected = numbered(number);
    CHECK(memcmp(got, &expected, sizeof expected) == 0);
}

/* ---- one call of each end, in the ways there are; how many records it moved */

static uint64_t push_some(shmq_producer *p)
{
    uint64_t want = 1 + p->tail % MOST;
    record some[MOST];
    if (p->tail % 2) { /* in place */
        int64_t room = shmq_producer_room(p, want);
        CHECK(room >= 0);
        uint64_t n = (uint64_t)room < want ? (uint64_t)room : want;
        for (uint64_t i = 0; i < n; i++, SHMQ_STEP())
            *(record *)shmq_producer_slot(p, i) = numbered(p->tail + i);
        if (n)
            shmq_producer_publish(p, n);
        return n;
    }
    for (uint64_t i = 0; i < want; i++)
        some[i] = numbered(p->tail + i);
    if (want == 1)
        return shmq_ring_push(p, some) == SHMQ_OK;
    int64_t n = shmq_ring_push_n(p, some, want);
    CHECK(n >= 0);
    return (uint64_t)n;
}

static uint64_t pop_some(shmq_consumer *c)
{
    uint64_t want = 1 + c->head % MOST, first = c->head;
    record some[MOST];
    int64_t n;
    c->read = c->head; /* what was not given back is seen again */
    if (c->head % 2) { /* in place, and not all that was looked at is given back */
        n = shmq_consumer_ready(c, want);
        CHECK(n >= 0);
        if ((uint64_t)n > want)
            n = (int64_t)want;
        for (int64_t i = 0; i < n; i++)
            verify(shmq_consumer_slot(c, c->read++), first + (uint64_t)i);
        SHMQ_STEP();
        if (n > 1)
            n--;
        if (n)
            shmq_consumer_release(c, (uint64_t)n);
        return (uint64_t)n;
    }
    n = want == 1 ? shmq_ring_pop(c, some) == SHMQ_OK : shmq_ring_pop_n(c, some, want);
    CHECK(n >= 0);
    for (int64_t i = 0; i < n; i++)
        verify(&some[i], first + (uint64_t)i);
    return (uint64_t)n;
}

static bool has_room(void *p)
{
    return shmq_producer_room(p, 1) != 0;
}

static bool has_records(void *c)
{
    return shmq_consumer_ready(c, 1) != 0;
}

/* ---- the two ends; both go on until the other one is dead (parent) or they die themselves (child) */

static void take_producer(shmq_producer *p)
{
    CHECK(shmq_role_take(&ring->producer) == SHMQ_OK);
    CHECK(shmq_producer_bind(p, ring, space) == SHMQ_OK);
    shmq_cell_clear(&ring->producer_cell);
}

static void take_consumer(shmq_consumer *c)
{
    CHECK(shmq_role_take(&ring->consumer) == SHMQ_OK);
    CHECK(shmq_consumer_bind(c, ring, space) == SHMQ_OK);
    shmq_cell_clear(&ring->consumer_cell);
}

/* Returns the number of the first record that was not pushed. */
static uint64_t produce(uint64_t number, pid_t peer, uint64_t enough)
{
    shmq_producer p;
    take_producer(&p);
    CHECK(p.tail == number);
    for (bool alone = false; !alone && p.tail - number < enough;) {
        if (!peer)
            shared->tried = p.tail + MOST;
        uint64_t n = push_some(&p);
        if (!peer)
            shared->done = p.tail;
        if (n)
            shmq_ring_wake_consumer(&p);
        else if (!sleep_a_little(&ring->producer_cell, has_room, &p))
            alone = ended(peer);
        if (p.tail % 7 == 0) {
            shmq_role_drop(&ring->producer);
            take_producer(&p);
        }
    }
    shmq_role_drop(&ring->producer);
    return p.tail;
}

static uint64_t consume(uint64_t number, pid_t peer, uint64_t enough)
{
    shmq_consumer c;
    take_consumer(&c);
    CHECK(c.head == number);
    for (bool alone = false; c.head - number < enough;) {
        if (!peer)
            shared->tried = c.head + MOST;
        uint64_t n = pop_some(&c);
        if (!peer)
            shared->done = c.head;
        if (n)
            shmq_ring_wake_producer(&c);
        else if (alone)
            break; /* dead, and what it left has been read */
        else if (!sleep_a_little(&ring->consumer_cell, has_records, &c))
            alone = ended(peer);
        if (c.head % 7 == 0) {
            shmq_role_drop(&ring->consumer);
            take_consumer(&c);
        }
    }
    shmq_role_drop(&ring->consumer);
    return c.head;
}

/* The producer dies; a successor of it pushes on. Returns the number of the next record, all before being read. */
static uint64_t kill_producer(uint64_t number, int64_t steps)
{
    pid_t child = mortal(produce, number, steps);
    uint64_t got = consume(number, child, UINT64_MAX);
    CHECK(got >= shared->done && got <= shared->tried); /* nothing lost, nothing that was not pushed */
    uint64_t next = produce(got, NOBODY, 1);
    return consume(got, NOBODY, next - got);
}

/* The consumer dies; a successor of it reads on, what the dead one had not released again. */
static uint64_t kill_consumer(uint64_t number, int64_t steps)
{
    pid_t child = mortal(consume, number, steps);
    uint64_t next = produce(number, child, UINT64_MAX), first = atomic_load(&ring->head);
    CHECK(first >= shared->done && first <= shared->tried); /* what it had released is gone, and nothing else */
    return consume(first, NOBODY, next - first);
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000, number = 0;
    arm_watchdog(120);
    space = shmq_ring_bytes(CAPACITY, sizeof(record));
    ring = share(space);
    shared = share(sizeof *shared);
    CHECK(shmq_ring_init(ring, CAPACITY, sizeof(record)) == SHMQ_OK);
    for (uint64_t i = 0; i < rounds; i++) {
        number = (i % 2 ? kill_consumer : kill_producer)(number, (int64_t)(i / 2 % MAX_STEPS));
        CHECK(atomic_load(&ring->head) == number && atomic_load(&ring->tail) == number);
    }
    CHECK(rounds < 1000 || places() >= 13); /* each SHMQ_STEP of ring.h, wait.h and this file was somebody's last */
    puts("ok");
    return 0;
}
