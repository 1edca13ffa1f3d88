/* kill -9 of either end of a byte stream at every step (kill.h), with bytes that are written ahead.
 *
 * Checked after each death: nothing hangs, every byte that became visible arrives once and in order, none that did not,
 * and the role can be taken over by a successor that goes on behind the last one. usage: stream_kill ROUNDS */
#include "kill.h"

#include "shmq/native/ring.h" /* roles */
#include "shmq/native/stream.h"

enum { CAPACITY = 64, BLOCK = 20 };

static shmq_stream *stream;
static uint64_t space;

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

static void write_block(shmq_fifo_end *w, shmq_fifo_ahead *ahead, uint64_t offset)
{
    uint8_t block[BLOCK];
    for (uint64_t i = 0; i < BLOCK; i++)
        block[i] = byte_at(w->pos + offset + i);
    CHECK(shmq_fifo_write_at(w, ahead, offset, block, BLOCK) >= 0);
}

/* Returns the position of the first byte that is not visible. */
static uint64_t produce(uint64_t number, pid_t peer, uint64_t enough)
{
    shmq_fifo_end w;
    shmq_fifo_ahead ahead = {0};
    CHECK(shmq_role_take(&stream->writer) == SHMQ_OK);
    CHECK(shmq_stream_bind(&w, stream, space, true) == SHMQ_OK && w.pos == number);
    shmq_cell_clear(&stream->writer_cell);
    for (bool alone = false; !alone && w.pos - number < enough;) {
        if (!peer)
            shared->tried = w.pos + CAPACITY;
        uint64_t before = w.pos;
        if (before % 3)
            write_block(&w, &ahead, BLOCK + 1 + before % 9);
        write_block(&w, &ahead, 0);
        if (!peer)
            shared->done = w.pos;
        if (w.pos != before)
            shmq_cell_wake(&stream->reader_cell, -1);
        else if (!sleep_a_little(&stream->writer_cell, has_room, &w))
            alone = ended(peer);
    }
    shmq_role_drop(&stream->writer);
    return w.pos;
}

static uint64_t consume(uint64_t number, pid_t peer, uint64_t enough)
{
    shmq_fifo_end r;
    uint8_t block[BLOCK];
    CHECK(shmq_role_take(&stream->reader) == SHMQ_OK);
    CHECK(shmq_stream_bind(&r, stream, space, false) == SHMQ_OK && r.pos == number);
    shmq_cell_clear(&stream->reader_cell);
    for (bool alone = false; r.pos - number < enough;) {
        if (!peer)
            shared->tried = r.pos + BLOCK;
        uint64_t before = r.pos, n = shmq_fifo_read(&r, block, 1 + before % BLOCK);
        for (uint64_t i = 0; i < n; i++)
            CHECK(block[i] == byte_at(before + i));
        if (!peer)
            shared->done = r.pos;
        if (n)
            shmq_cell_wake(&stream->writer_cell, -1);
        else if (alone)
            break; /* dead, and what it left has been read */
        else if (!sleep_a_little(&stream->reader_cell, has_bytes, &r))
            alone = ended(peer);
    }
    shmq_role_drop(&stream->reader);
    return r.pos;
}

static uint64_t kill_writer(uint64_t number, int64_t steps)
{
    pid_t child = mortal(produce, number, steps);
    uint64_t got = consume(number, child, UINT64_MAX);
    CHECK(got >= shared->done && got <= shared->tried); /* nothing lost, nothing that was not written */
    uint64_t next = produce(got, NOBODY, 1);
    return consume(got, NOBODY, next - got);
}

static uint64_t kill_reader(uint64_t number, int64_t steps)
{
    pid_t child = mortal(consume, number, steps);
    uint64_t next = produce(number, child, UINT64_MAX), first = atomic_load(&stream->fifo.head);
    CHECK(first >= shared->done && first <= shared->tried); /* what it had read is gone, and nothing else */
    return consume(first, NOBODY, next - first);
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000, number = 0;
    arm_watchdog(120);
    space = shmq_stream_bytes(CAPACITY);
    stream = share(space);
    shared = share(sizeof *shared);
    CHECK(shmq_stream_init(stream, CAPACITY, 0) == SHMQ_OK);
    for (uint64_t i = 0; i < rounds; i++) {
        number = (i % 2 ? kill_reader : kill_writer)(number, (int64_t)(i / 2 % MAX_STEPS));
        CHECK(atomic_load(&stream->fifo.head) == number && atomic_load(&stream->fifo.tail) == number);
    }
    CHECK(rounds < 1000 || places() >= 8); /* each SHMQ_STEP of fifo.h and wait.h was somebody's last */
    puts("ok");
    return 0;
}
