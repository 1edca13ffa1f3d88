/* What a hostile producer can write into a channel, under AddressSanitizer: the memory is exactly as large as the
 * channel, so one byte outside is an error. Every bit of every message header, every boundary of cursors and lengths,
 * random bytes, and a thread that writes while the consumer reads. usage: channel_hostile ROUNDS */
#include "shmq/native/channel.h"

#include "check.h"

enum { CAPACITY = 128, MESSAGES = 5 };

static uint64_t seed = 42, cases;
static uint8_t copy[CAPACITY];

typedef struct {
    shmq_channel *channel;
    uint64_t space;
    shmq_producer p;
    shmq_consumer c;
} target;

/* A channel that has wrapped, with MESSAGES messages of growing length inside, at a position of the caller's choice. */
static target make(uint64_t start_at)
{
    target t = {.space = shmq_channel_bytes(CAPACITY)};
    t.channel = lines(t.space);
    CHECK(shmq_channel_init(t.channel, CAPACITY) == SHMQ_OK);
    CHECK(shmq_channel_producer_bind(&t.p, t.channel, t.space) == SHMQ_OK);
    CHECK(shmq_channel_consumer_bind(&t.c, t.channel, t.space) == SHMQ_OK);
    for (uint64_t i = 0; i < start_at / 8; i++)
        CHECK(shmq_channel_push(&t.p, copy, 0) == SHMQ_OK && shmq_channel_pop(&t.c, copy, 0) == 0);
    for (uint64_t i = 0; i < MESSAGES; i++)
        CHECK(shmq_channel_push(&t.p, copy, i * 3) == SHMQ_OK);
    return t;
}

/* Read everything that passes for a message, in place and by copy. */
static void consume(shmq_consumer *c)
{
    shmq_message m;
    uint64_t sum = 0, span = 0, n = 0;
    for (; n < 100 && shmq_channel_look(c, &m) == SHMQ_OK; n++) {
        CHECK(m.length <= CAPACITY / 2 && m.span <= CAPACITY && m.span % 8 == 0);
        for (uint64_t i = 0; i < m.length; i++)
            sum += m.payload[i];
        shmq_channel_take(c, &m);
        span += m.span;
    }
    CHECK(span <= CAPACITY && sum < UINT64_MAX);
    c->read = c->head;
    while (n-- && shmq_channel_pop(c, copy, CAPACITY / 2) >= 0)
        ;
    shmq_ring_wake_producer(c);
}

static void produce(shmq_producer *p)
{
    shmq_message m;
    uint64_t ahead = 0, n = 0, length;
    do {
        length = next_random(&seed) % (CAPACITY / 2 + 1);
        int rc = shmq_channel_reserve(p, ahead, length, &m);
        if (rc != SHMQ_OK)
            break;
        memset(m.payload, 0xff, length);
        ahead += shmq_channel_seal(p, ahead, &m, length - length / 3);
    } while (++n < 50);
    if (n)
        shmq_channel_publish(p, ahead, n);
    CHECK(shmq_channel_push(p, copy, CAPACITY / 2 + 1) == SHMQ_INVALID);
    shmq_ring_wake_consumer(p);
}

static void use(target *t)
{
    consume(&t->c);
    produce(&t->p);
    consume(&t->c);
    shmq_consumer c; /* a successor believes even less */
    shmq_producer p;
    if (shmq_channel_consumer_bind(&c, t->channel, t->space) == SHMQ_OK)
        consume(&c);
    if (shmq_channel_producer_bind(&p, t->channel, t->space) == SHMQ_OK)
        produce(&p);
    cases++;
    free(t->channel);
}

static uint8_t *bytes(target *t)
{
    return (uint8_t *)(t->channel + 1);
}

/* Each bit of the first message's header, then of every message's. */
static void flip_header_bits(void)
{
    for (uint64_t start_at = 0; start_at < CAPACITY; start_at += 8)
        for (unsigned bit = 0; bit < 64; bit++) {
            target t = make(start_at);
            bytes(&t)[start_at % CAPACITY + bit / 8] ^= (uint8_t)(1u << bit % 8);
            use(&t);
        }
}

static const uint64_t bases[] = {0, 8, CAPACITY / 2, CAPACITY, 2 * CAPACITY, 1ull << 31, 1ull << 32, 1ull << 63};

static void boundary_lengths(void)
{
    static const uint32_t kinds[] = {0, SHMQ_MESSAGE_MSG, SHMQ_MESSAGE_SKIP, 1, UINT32_MAX};
    for (uint64_t start_at = 0; start_at < CAPACITY; start_at += 8)
        for (unsigned i = 0; i < sizeof bases / sizeof *bases * 17; i++)
            for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++) {
                uint64_t header = (uint64_t)kinds[k] << 32 | (uint32_t)(bases[i / 17] + i % 17 - 8);
                target t = make(start_at);
                memcpy(bytes(&t) + start_at, &header, sizeof header);
                use(&t);
            }
}

static void boundary_cursors(void)
{
    for (unsigned field = 0; field < 2; field++)
        for (unsigned i = 0; i < sizeof bases / sizeof *bases * 34; i++) {
            target t = make(i % 16 * 8);
            uint64_t now = i % 2 ? atomic_load(&t.channel->ring.tail) : 0;
            atomic_store(field ? &t.channel->ring.head : &t.channel->ring.tail, now + bases[i / 34] + i % 34 / 2 - 8);
            use(&t);
        }
}

static void random_bytes(uint64_t rounds)
{
    for (uint64_t i = 0; i < rounds; i++) {
        target t = make(next_random(&seed) % CAPACITY / 8 * 8);
        for (uint64_t n = next_random(&seed) % 12 + 1; n; n--) {
            uint64_t value = next_random(&seed) % 3 ? next_random(&seed) % (2 * CAPACITY) : next_random(&seed);
            value |= next_random(&seed) % 2 ? (uint64_t)SHMQ_MESSAGE_SKIP << 32 : (uint64_t)SHMQ_MESSAGE_MSG << 32;
            memcpy((uint8_t *)t.channel + next_random(&seed) % (t.space / 8) * 8, &value, sizeof value);
        }
        use(&t);
    }
}

/* ---- writing while the other reads */

static _Atomic bool stop;

static void *scribble(void *arg)
{
    target *t = arg;
    uint64_t random = 7;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        volatile uint64_t *at = (volatile uint64_t *)bytes(t) + next_random(&random) % (CAPACITY / 8);
        uint32_t kind = next_random(&random) % 2 ? SHMQ_MESSAGE_MSG : SHMQ_MESSAGE_SKIP;
        *at = (uint64_t)kind << 32 | (next_random(&random) % 4 ? next_random(&random) % 80 : (uint32_t)next_random(&random));
        atomic_store(&t->channel->ring.tail, atomic_load(&t->channel->ring.head) + next_random(&random) % 20 * 8);
    }
    return NULL;
}

static void written_while_read(uint64_t rounds)
{
    target t = make(0);
    pthread_t writer = start(scribble, &t);
    for (uint64_t i = 0; i < rounds; i++)
        consume(&t.c);
    atomic_store(&stop, true);
    finish(writer);
    free(t.channel);
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000;
    arm_watchdog(120);
    flip_header_bits();
    boundary_lengths();
    boundary_cursors();
    random_bytes(rounds);
    CHECK(cases >= 5000);
    written_while_read(10 * rounds);
    puts("ok");
    return 0;
}
