/* pingpong.c - there and back: one record at a time over two rings; the parent checks that its own number returns.
 *
 * A clock call costs a tenth of a round trip, so blocks of 64 are timed; p50_ns is the median block's mean.
 */
#include "bench/native/ref.h"

enum { BLOCK = 64, MOST_BLOCKS = 1 << 20 };

static uint64_t pingpong_bytes(const ref_options *o)
{
    return o->size >= sizeof(uint64_t) ? 2 * ref_ring_space(o, o->size) : 0;
}

static void pingpong_init(const ref_options *o, uint8_t *shared)
{
    shmq_ring_init(shared, o->capacity, o->size);
    shmq_ring_init(shared + ref_ring_space(o, o->size), o->capacity, o->size);
}

static void bind_ends(const ref_options *o, shmq_producer *out, uint8_t *to, shmq_consumer *in, uint8_t *from)
{
    uint64_t space = ref_ring_space(o, o->size);
    if (shmq_producer_bind(out, to, space) != SHMQ_OK || shmq_consumer_bind(in, from, space) != SHMQ_OK)
        ref_die("a ring cannot be bound");
}

static void pingpong_child(const ref_options *o, ref_control *control, uint8_t *shared)
{
    shmq_producer out;
    shmq_consumer in;
    uint32_t spins = 0;
    uint8_t record[o->size];
    bind_ends(o, &out, shared + ref_ring_space(o, o->size), &in, shared);
    atomic_store_explicit(&control->ready, 1, memory_order_release);
    for (;;) {
        if (shmq_ring_pop(&in, record) == SHMQ_OK)
            shmq_ring_push(&out, record); /* never full: one record is under way */
        else if (atomic_load_explicit(&control->stop, memory_order_acquire))
            break;
        else
            ref_idle(o, &spins);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One block; true when each number came back. */
static bool round_trips(const ref_options *o, shmq_producer *out, shmq_consumer *in, uint64_t *number)
{
    uint8_t record[o->size];
    uint32_t spins = 0;
    bool good = true;
    memset(record, 0x5a, sizeof record);
    for (int i = 0; i < BLOCK; i++) {
        uint64_t sent = (*number)++, back;
        uint32_t empty = 0;
        memcpy(record, &sent, sizeof sent);
        shmq_ring_push(out, record);
        while (shmq_ring_pop(in, record) != SHMQ_OK) {
            ref_idle(o, &spins);
            if (++empty % (1u << 20) == 0)
                ref_check_child();
        }
        memcpy(&back, record, sizeof back);
        good &= back == sent;
    }
    return good;
}

static ref_result pingpong_parent(const ref_options *o, ref_control *control, uint8_t *shared)
{
    (void)control;
    shmq_producer out;
    shmq_consumer in;
    ref_result result = {0};
    uint64_t number = 0, blocks = 0;
    double *block_ns = malloc(MOST_BLOCKS * sizeof *block_ns);
    if (!block_ns)
        ref_die("not enough memory");
    bind_ends(o, &out, shared, &in, shared + ref_ring_space(o, o->size));
    ref_clock clock = ref_clock_start(o);
    int64_t now = clock.start, from = 0;
    while (now < clock.until && blocks < MOST_BLOCKS && !(clock.limit && blocks * BLOCK >= clock.limit)) {
        if (!from && now >= clock.from)
            from = now;
        int64_t before = now;
        result.wrong += !round_trips(o, &out, &in, &number);
        now = shmq_now_ns();
        if (from)
            block_ns[blocks++] = (double)(now - before) / BLOCK;
    }
    qsort(block_ns, blocks, sizeof *block_ns, by_value);
    result.operations = blocks * BLOCK;
    result.ns = now - from;
    result.p50_ns = blocks ? block_ns[blocks / 2] : 0;
    result.checked = number;
    free(block_ns);
    return result;
}

const ref_mode ref_pingpong = {"pingpong", pingpong_bytes, pingpong_init, pingpong_child, pingpong_parent};
