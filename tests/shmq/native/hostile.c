/* Random and boundary values in every word of the shared headers, under AddressSanitizer: the memory is exactly as large
 * as the ring or fifo, so one byte outside is an error. usage: hostile ROUNDS */
#include "shmq/native/fifo.h"
#include "shmq/native/ring.h"

#include "check.h"

enum { CAPACITY = 8, SLOT = 24, MANY = 200 };

static uint64_t seed = 42;
static uint8_t block[MANY * SLOT];

static uint64_t evil(void)
{
    static const uint64_t bases[] = {0, CAPACITY, 1ull << 31, 1ull << 32, 1ull << 62, 1ull << 63, UINT64_MAX};
    uint64_t pick = next_random(&seed);
    return pick % 4 ? bases[pick / 4 % 7] + pick / 64 % 5 - 2 : next_random(&seed);
}

static void use_ring(shmq_producer *p, shmq_consumer *c)
{
    int64_t room = shmq_producer_room(p, 1 + next_random(&seed) % MANY);
    CHECK(room == SHMQ_CORRUPT || (room >= 0 && room <= CAPACITY));
    for (int64_t i = 0; i < room; i++)
        memset(shmq_producer_slot(p, (uint64_t)i), 1, SLOT);
    if (room > 0)
        shmq_producer_publish(p, (uint64_t)room / 2);
    shmq_ring_push(p, block);
    CHECK(shmq_ring_push_n(p, block, MANY) <= CAPACITY);
    shmq_ring_wake_consumer(p);
    int64_t ready = shmq_consumer_ready(c, 1 + next_random(&seed) % MANY);
    CHECK(ready == SHMQ_CORRUPT || (ready >= 0 && ready <= CAPACITY));
    for (int64_t i = 0; i < ready; i++)
        memcpy(block, shmq_consumer_slot(c, c->read + (uint64_t)i), SLOT);
    if (ready > 0)
        shmq_consumer_release(c, (uint64_t)ready / 2);
    shmq_ring_pop(c, block);
    CHECK(shmq_ring_pop_n(c, block, MANY) <= CAPACITY);
    shmq_ring_wake_producer(c);
}

static void attack_ring(void)
{
    uint64_t space = shmq_ring_bytes(CAPACITY, SLOT);
    uint8_t *at = lines(space);
    shmq_producer p;
    shmq_consumer c;
    CHECK(shmq_ring_init(at, CAPACITY, SLOT) == SHMQ_OK);
    CHECK(shmq_producer_bind(&p, at, space) == SHMQ_OK && shmq_consumer_bind(&c, at, space) == SHMQ_OK);
    for (int i = 0; i < 20; i++) {
        uint64_t value = evil();
        memcpy(at + next_random(&seed) % (sizeof(shmq_ring) / 8) * 8, &value, sizeof value);
        value = evil();
        memcpy(at + (next_random(&seed) % 2 ? offsetof(shmq_ring, head) : offsetof(shmq_ring, tail)), &value, sizeof value);
        use_ring(&p, &c);
        shmq_producer p2;
        shmq_consumer c2;
        if (shmq_producer_bind(&p2, at, space) == SHMQ_OK && shmq_consumer_bind(&c2, at, space) == SHMQ_OK &&
            p2.slot_size == SLOT && p2.mask == CAPACITY - 1)
            use_ring(&p2, &c2);
    }
    free(at);
}

static void attack_fifo(void)
{
    uint64_t size = 1ull << next_random(&seed) % 8;
    shmq_fifo *f = lines(sizeof *f);
    uint8_t *data = malloc(size);
    shmq_fifo_end w, r, out_of_order;
    shmq_fifo_ahead ahead = {0};
    shmq_fifo_bind(&out_of_order, f, data, size);
    shmq_fifo_bind(&w, f, data, size);
    shmq_fifo_bind(&r, f, data, size);
    for (int i = 0; i < 20; i++) {
        atomic_store(&f->head, evil());
        CHECK(shmq_fifo_room(&w, evil()) <= size);
        CHECK(shmq_fifo_write(&w, block, next_random(&seed) % sizeof block) <= size);
        for (int k = 0; k < 5; k++) {
            uint64_t offset = k % 2 ? evil() : next_random(&seed) % 8, n = next_random(&seed) % sizeof block;
            CHECK(shmq_fifo_write_at(&out_of_order, &ahead, offset, block, n) <= (int64_t)size);
            CHECK(ahead.count <= SHMQ_FIFO_PIECES);
            if (k == 2)
                atomic_store(&f->head, next_random(&seed) % 2 ? evil() : out_of_order.pos);
        }
        shmq_fifo_want(&w, evil());
        shmq_fifo_set_event(&w);
        if (next_random(&seed) % 2)
            atomic_store(&f->tail, evil());
        atomic_store(&f->want, (uint32_t)evil());
        shmq_fifo_clear_event(&r);
        CHECK(shmq_fifo_avail(&r, UINT64_MAX) <= size);
        CHECK(shmq_fifo_peek(&r, evil(), block, next_random(&seed) % sizeof block) <= size);
        CHECK(shmq_fifo_read(&r, block, next_random(&seed) % sizeof block) <= size);
        shmq_fifo_wanted(&r);
        shmq_fifo_end late = w;
        shmq_fifo_resume(&late, next_random(&seed) % 2);
        CHECK(shmq_fifo_room(&late, 1) <= size && shmq_fifo_avail(&late, 1) <= size);
    }
    free(data);
    free(f);
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000;
    for (uint64_t i = 0; i < rounds; i++) {
        attack_ring();
        attack_fifo();
    }
    puts("ok");
    return 0;
}
