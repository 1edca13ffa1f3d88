/* Two threads over one channel: every message once, whole and in order, copied and in place, alone and in batches, while
 * both ends sleep without a time limit whenever they can. usage: channel_stress MESSAGES */
#include "shmq/native/channel.h"

#include "check.h"

static uint64_t total;
static shmq_channel *channel;
static uint64_t space, limit;

/* The n-th message: its length and its bytes follow from n alone. */
static uint64_t length_of(uint64_t n)
{
    uint64_t random = n * 0x9e3779b97f4a7c15u + 1, length = next_random(&random);
    return n % 5 ? length % 40 % (limit + 1) : length % (limit + 1);
}

static void fill(uint8_t *to, uint64_t n, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        to[i] = (uint8_t)(n * 31 + i * 7);
}

static void verify(const uint8_t *got, uint64_t n, uint64_t length)
{
    CHECK(length == length_of(n));
    for (uint64_t i = 0; i < length; i++)
        CHECK(got[i] == (uint8_t)(n * 31 + i * 7));
}

typedef struct {
    shmq_producer *p;
    uint64_t length;
} wish;

static bool has_room(void *arg)
{
    shmq_message m;
    return shmq_channel_reserve(((wish *)arg)->p, 0, ((wish *)arg)->length, &m) != SHMQ_FULL;
}

static bool has_messages(void *arg)
{
    shmq_message m;
    return shmq_channel_look(arg, &m) != SHMQ_EMPTY;
}

static void sleep_until(shmq_cell *cell, shmq_wait_kind kind, bool (*ready)(void *), void *arg)
{
    shmq_wait_policy policy = shmq_wait_default(kind);
    policy.spins = policy.spins ? 20 : 0; /* sleep soon: this is what is tested */
    while (shmq_cell_wait(cell, policy, INT64_MAX, INT64_MAX / 2, ready, arg) != SHMQ_OK)
        ;
}

/* Push up to `want` messages from number n on, published together; how many. Half of them are made longer than needed. */
static uint64_t push_some(shmq_producer *p, uint64_t n, uint64_t want)
{
    uint64_t ahead = 0, done = 0;
    shmq_message m;
    for (; done < want && n + done < total; done++) {
        uint64_t length = length_of(n + done), reserved = length + (done % 2 && length + 9 <= limit ? 9 : 0);
        int rc = shmq_channel_reserve(p, ahead, reserved, &m);
        CHECK(rc == SHMQ_OK || rc == SHMQ_FULL);
        if (rc == SHMQ_FULL)
            break;
        fill(m.payload, n + done, length);
        ahead += shmq_channel_seal(p, ahead, &m, length);
    }
    if (done)
        shmq_channel_publish(p, ahead, done);
    return done;
}

static void *produce(void *kind)
{
    shmq_producer p;
    uint64_t random = 1, number = 0;
    uint8_t *copy = malloc(limit + 1);
    CHECK(shmq_channel_producer_bind(&p, channel, space) == SHMQ_OK);
    while (number < total) {
        uint64_t want = 1 + next_random(&random) % 9, n, length = length_of(number);
        if (want == 1) {
            fill(copy, number, length);
            n = shmq_channel_push(&p, copy, length) == SHMQ_OK;
        } else {
            n = push_some(&p, number, want);
        }
        number += n;
        if (n)
            shmq_ring_wake_consumer(&p);
        else
            sleep_until(&channel->ring.producer_cell, *(shmq_wait_kind *)kind, has_room, &(wish){&p, length});
    }
    free(copy);
    return NULL;
}

/* Take up to `want` messages in place, released together; how many. */
static uint64_t take_some(shmq_consumer *c, uint64_t n, uint64_t want)
{
    uint64_t span = 0, done = 0;
    shmq_message m;
    for (; done < want; done++) {
        int rc = shmq_channel_look(c, &m);
        CHECK(rc == SHMQ_OK || rc == SHMQ_EMPTY);
        if (rc == SHMQ_EMPTY)
            break;
        verify(m.payload, n + done, m.length);
        shmq_channel_take(c, &m);
        span += m.span;
    }
    if (done)
        shmq_channel_release(c, span, done);
    return done;
}

static void *consume(void *kind)
{
    shmq_consumer c;
    uint64_t random = 2, number = 0;
    uint8_t *copy = malloc(limit + 1);
    CHECK(shmq_channel_consumer_bind(&c, channel, space) == SHMQ_OK);
    while (number < total) {
        uint64_t want = 1 + next_random(&random) % 9, n;
        if (want == 1) {
            int64_t length = shmq_channel_pop(&c, copy, limit);
            CHECK(length >= 0 || length == SHMQ_EMPTY);
            n = length >= 0;
            if (n)
                verify(copy, number, (uint64_t)length);
        } else {
            n = take_some(&c, number, want);
        }
        number += n;
        if (n)
            shmq_ring_wake_producer(&c);
        else
            sleep_until(&channel->ring.consumer_cell, *(shmq_wait_kind *)kind, has_messages, &c);
    }
    CHECK(!has_messages(&c));
    free(copy);
    return NULL;
}

static void run(uint64_t capacity, shmq_wait_kind producer, shmq_wait_kind consumer)
{
    space = shmq_channel_bytes(capacity);
    limit = capacity / 2;
    channel = lines(space);
    CHECK(shmq_channel_init(channel, capacity) == SHMQ_OK);
    pthread_t one = start(produce, &producer), two = start(consume, &consumer);
    finish(one);
    finish(two);
    CHECK(atomic_load(&channel->pushed) == total && atomic_load(&channel->popped) == total);
    free(channel);
}

int main(int argc, char **argv)
{
    arm_watchdog(120);
    total = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    for (uint64_t capacity = 16; capacity <= 4096; capacity *= 16) {
        run(capacity, SHMQ_WAIT_PARK, SHMQ_WAIT_PARK);
        run(capacity, SHMQ_WAIT_ADAPTIVE, SHMQ_WAIT_PARK);
        run(capacity, SHMQ_WAIT_ADAPTIVE, SHMQ_WAIT_ADAPTIVE);
    }
    puts("ok");
    return 0;
}
