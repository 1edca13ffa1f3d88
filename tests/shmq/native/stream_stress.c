/* Two threads over one stream: every byte once and in order, though most are written ahead of their turn, while both
 * ends sleep without a time limit whenever they can. usage: stream_stress BYTES */
#include "shmq/native/stream.h"

#include "check.h"

static uint64_t total, space;
static shmq_stream *stream;

static uint8_t byte_at(uint64_t i)
{
    return (uint8_t)(i * 7 + (i >> 8));
}

static bool has_room(void *end)
{
    return shmq_fifo_room(end, 1) != 0;
}

static bool has_bytes(void *end)
{
    return shmq_fifo_avail(end, 1) != 0;
}

static void sleep_until(shmq_cell *cell, shmq_wait_kind kind, bool (*ready)(void *), void *end)
{
    shmq_wait_policy policy = shmq_wait_default(kind);
    policy.spins = policy.spins ? 20 : 0; /* sleep soon: this is what is tested */
    while (shmq_cell_wait(cell, policy, INT64_MAX, INT64_MAX / 2, ready, end) != SHMQ_OK)
        ;
}

/* Write a block at a random offset, every third time at 0. True when something became visible. */
static bool write_some(shmq_fifo_end *w, shmq_fifo_ahead *ahead, uint64_t *random)
{
    uint8_t block[64];
    uint64_t before = w->pos, left = total - before, offset = next_random(random) % 3 ? next_random(random) % 100 : 0;
    uint64_t n = 1 + next_random(random) % sizeof block;
    if (offset >= left)
        offset = 0;
    if (n > left - offset)
        n = left - offset;
    for (uint64_t i = 0; i < n; i++)
        block[i] = byte_at(before + offset + i);
    int64_t kept = shmq_fifo_write_at(w, ahead, offset, block, n);
    CHECK(kept == SHMQ_FULL || (kept >= 0 && kept <= (int64_t)n));
    CHECK((w->pos != before) == (kept > 0 && offset == 0));
    CHECK(ahead->count <= SHMQ_FIFO_PIECES && shmq_fifo_held(ahead) <= w->mask + 1);
    return w->pos != before;
}

static void *write_all(void *kind)
{
    shmq_fifo_end w;
    shmq_fifo_ahead ahead = {0};
    uint64_t random = 1;
    CHECK(shmq_stream_bind(&w, stream, space, true) == SHMQ_OK);
    while (w.pos < total) {
        if (write_some(&w, &ahead, &random))
            shmq_cell_wake(&stream->reader_cell, -1);
        else if (!shmq_fifo_room(&w, 1))
            sleep_until(&stream->writer_cell, *(shmq_wait_kind *)kind, has_room, &w);
    }
    CHECK(ahead.count == 0);
    return NULL;
}

static void *read_all(void *kind)
{
    shmq_fifo_end r;
    uint64_t random = 2, at = 0;
    uint8_t block[64];
    CHECK(shmq_stream_bind(&r, stream, space, false) == SHMQ_OK);
    while (at < total) {
        uint64_t n = shmq_fifo_read(&r, block, 1 + next_random(&random) % sizeof block);
        for (uint64_t i = 0; i < n; i++)
            CHECK(block[i] == byte_at(at + i));
        at += n;
        if (n)
            shmq_cell_wake(&stream->writer_cell, -1);
        else
            sleep_until(&stream->reader_cell, *(shmq_wait_kind *)kind, has_bytes, &r);
    }
    CHECK(!has_bytes(&r));
    return NULL;
}

static void run(uint64_t capacity, shmq_wait_kind writer, shmq_wait_kind reader)
{
    space = shmq_stream_bytes(capacity);
    stream = lines(space);
    CHECK(shmq_stream_init(stream, capacity, 0) == SHMQ_OK);
    pthread_t one = start(write_all, &writer), two = start(read_all, &reader);
    finish(one);
    finish(two);
    free(stream);
}

int main(int argc, char **argv)
{
    arm_watchdog(120);
    total = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    for (uint64_t capacity = 1; capacity <= 4096; capacity *= 16) {
        uint64_t all = total;
        total = capacity == 1 ? all / 20 + 1 : all; /* a byte at a time */
        run(capacity, SHMQ_WAIT_PARK, SHMQ_WAIT_PARK);
        run(capacity, SHMQ_WAIT_ADAPTIVE, SHMQ_WAIT_ADAPTIVE);
        total = all;
    }
    puts("ok");
    return 0;
}
