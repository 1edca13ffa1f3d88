/* kill -9 of either end of a channel at every step (kill.h).
 *
 * Checked after each death: nothing hangs, everything that was published arrives once and in order, nothing that was
 * not published does, and the role can be taken over by a successor that goes on behind the last one.
 * usage: channel_kill ROUNDS */
#include "kill.h"

#include "shmq/native/channel.h"

enum { CAPACITY = 256 };

static shmq_channel *channel;
static uint64_t space;

static uint64_t length_of(uint64_t number)
{
    uint64_t random = number * 0x9e3779b97f4a7c15u + 1;
    return next_random(&random) % (CAPACITY / 2 + 1);
}

static void fill(uint8_t *to, uint64_t number)
{
    for (uint64_t i = 0; i < length_of(number); i++)
        to[i] = (uint8_t)(number * 31 + i * 7);
}

static void verify(const uint8_t *got, uint64_t number, uint64_t length)
{
    CHECK(length == length_of(number));
    for (uint64_t i = 0; i < length; i++)
        CHECK(got[i] == (uint8_t)(number * 31 + i * 7));
}

/* ---- one call of each end; how many messages it moved */

static uint64_t push_some(shmq_producer *p, uint64_t number)
{
    uint64_t want = 1 + number % 3, ahead = 0, n = 0;
    uint8_t block[CAPACITY];
    shmq_message m;
    if (want == 1) {
        fill(block, number);
        return shmq_channel_push(p, block, length_of(number)) == SHMQ_OK;
    }
    for (; n < want && shmq_channel_reserve(p, ahead, length_of(number + n), &m) == SHMQ_OK; n++) {
        fill(m.payload, number + n);
        ahead += shmq_channel_seal(p, ahead, &m, length_of(number + n));
    }
    if (n)
        shmq_channel_publish(p, ahead, n);
    return n;
}

static uint64_t pop_some(shmq_consumer *c, uint64_t number)
{
    uint64_t want = 1 + number % 3, span = 0, n = 0;
    uint8_t block[CAPACITY];
    shmq_message m;
    if (want == 1) {
        int64_t length = shmq_channel_pop(c, block, sizeof block);
        CHECK(length >= 0 || length == SHMQ_EMPTY);
        if (length >= 0)
            verify(block, number, (uint64_t)length);
        return length >= 0;
    }
    for (; n < want && shmq_channel_look(c, &m) == SHMQ_OK; n++) {
        verify(m.payload, number + n, m.length);
        shmq_channel_take(c, &m);
        span += m.span;
    }
    if (n)
        shmq_channel_release(c, span, n);
    return n;
}

/* ---- the two ends; both go on until the other one is dead (parent) or they die themselves (child) */

typedef struct {
    shmq_producer *p;
    uint64_t number;
} wish;

static bool has_room(void *arg)
{
    wish *w = arg;
    shmq_message m;
    uint64_t head = atomic_load(&channel->ring.head), room = CAPACITY - (w->p->tail - head);
    shmq_message_lay(&m, w->p->slots, w->p->mask, w->p->tail,
                     shmq_message_fits_straight(w->p->mask, w->p->tail, length_of(w->number)) ? SHMQ_MESSAGE_MSG
                                                                                               : SHMQ_MESSAGE_SKIP,
                     length_of(w->number));
    return room >= m.span;
}

static bool has_messages(void *arg)
{
    return atomic_load(&channel->ring.tail) != ((shmq_consumer *)arg)->read;
}

/* Returns the number of the first message that was not pushed. */
static uint64_t produce(uint64_t number, pid_t peer, uint64_t enough)
{
    shmq_producer p;
    CHECK(shmq_role_take(&channel->ring.producer) == SHMQ_OK);
    CHECK(shmq_channel_producer_bind(&p, channel, space) == SHMQ_OK);
    shmq_cell_clear(&channel->ring.producer_cell);
    for (bool alone = false; !alone && enough; ) {
        if (!peer)
            shared->tried = number + 3;
        uint64_t n = push_some(&p, number);
        number += n;
        enough -= n < enough ? n : enough;
        if (!peer)
            shared->done = number;
        if (n)
            shmq_ring_wake_consumer(&p);
        else if (!sleep_a_little(&channel->ring.producer_cell, has_room, &(wish){&p, number}))
            alone = ended(peer);
    }
    shmq_role_drop(&channel->ring.producer);
    return number;
}

static uint64_t consume(uint64_t number, pid_t peer, uint64_t enough)
{
    shmq_consumer c;
    CHECK(shmq_role_take(&channel->ring.consumer) == SHMQ_OK);
    CHECK(shmq_channel_consumer_bind(&c, channel, space) == SHMQ_OK);
    shmq_cell_clear(&channel->ring.consumer_cell);
    for (bool alone = false; enough; ) {
        if (!peer)
            shared->tried = number + 3;
        uint64_t n = pop_some(&c, number);
        number += n;
        enough -= n < enough ? n : enough;
        if (!peer)
            shared->done = number;
        if (n)
            shmq_ring_wake_producer(&c);
        else if (alone)
            break; /* dead, and what it left has been read */
        else if (!sleep_a_little(&channel->ring.consumer_cell, has_messages, &c))
            alone = ended(peer);
    }
    shmq_role_drop(&channel->ring.consumer);
    return number;
}

/* How many messages are inside, counted by a reader without a role. */
static uint64_t inside(void)
{
    shmq_consumer c;
    shmq_message m;
    uint64_t n = 0;
    CHECK(shmq_channel_consumer_bind(&c, channel, space) == SHMQ_OK);
    for (; shmq_channel_look(&c, &m) == SHMQ_OK; n++)
        shmq_channel_take(&c, &m);
    CHECK(c.read == atomic_load(&channel->ring.tail));
    return n;
}

/* The producer dies; a successor of it pushes on. Returns the number of the next message, all before being read. */
static uint64_t kill_producer(uint64_t number, int64_t steps)
{
    pid_t child = mortal(produce, number, steps);
    uint64_t got = consume(number, child, UINT64_MAX);
    CHECK(got >= shared->done && got <= shared->tried); /* nothing lost, nothing that was not sent */
    uint64_t next = produce(got, NOBODY, 1);
    CHECK(inside() == next - got);
    return consume(got, NOBODY, next - got);
}

/* The consumer dies; a successor of it reads on, what the dead one had not released again. */
static uint64_t kill_consumer(uint64_t number, int64_t steps)
{
    pid_t child = mortal(consume, number, steps);
    uint64_t next = produce(number, child, UINT64_MAX), first = next - inside();
    CHECK(first >= shared->done && first <= shared->tried); /* what it had released is gone, and nothing else */
    return consume(first, NOBODY, next - first);
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000, number = 0;
    arm_watchdog(120);
    space = shmq_channel_bytes(CAPACITY);
    channel = share(space);
    shared = share(sizeof *shared);
    CHECK(shmq_channel_init(channel, CAPACITY) == SHMQ_OK);
    for (uint64_t i = 0; i < rounds; i++) {
        number = (i % 2 ? kill_consumer : kill_producer)(number, (int64_t)(i / 2 % MAX_STEPS));
        CHECK(atomic_load(&channel->ring.head) == atomic_load(&channel->ring.tail));
    }
    CHECK(rounds < 1000 || places() >= 13); /* each SHMQ_STEP of channel.h and wait.h was somebody's last */
    puts("ok");
    return 0;
}
