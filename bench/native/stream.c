/* stream.c - one way: the parent pushes numbered records as fast as it can, the child pops and checks the numbers. */
#include "bench/native/ref.h"

/* 32 bytes, the size of the stack's events, without a call into libc, which would cost more than the copy. */
static inline void copy_record(void *to, const void *from, uint32_t size)
{
    if (size == 32)
        memcpy(to, from, 32);
    else
        memcpy(to, from, size);
}

/* Records between two looks at the clock: a megabyte of them at most, so that a short run sees enough of them. */
static uint64_t look_every(const ref_options *o)
{
    uint64_t records = (1 << 20) / o->size;
    return records < 1 ? 1 : records > 4096 ? 4096 : records;
}

static uint64_t stream_bytes(const ref_options *o)
{
    return o->size >= sizeof(uint64_t) ? ref_ring_space(o, o->size) : 0;
}

static void stream_init(const ref_options *o, uint8_t *shared)
{
    shmq_ring_init(shared, o->capacity, o->size);
}

static void stream_child(const ref_options *o, ref_control *control, uint8_t *shared)
{
    shmq_consumer in;
    uint64_t expected = 0, wrong = 0, number;
    uint32_t spins = 0;
    uint8_t record[o->size];
    if (shmq_consumer_bind(&in, shared, ref_ring_space(o, o->size)) != SHMQ_OK)
        ref_die("the ring cannot be bound");
    atomic_store_explicit(&control->ready, 1, memory_order_release);
    for (;;) {
        int64_t ready = shmq_consumer_ready(&in, 1);
        if (ready <= 0) {
            if (atomic_load_explicit(&control->stop, memory_order_acquire) && shmq_consumer_ready(&in, 1) <= 0)
                break;
            ref_idle(o, &spins);
            continue;
        }
        uint64_t n = (uint64_t)ready < o->batch ? (uint64_t)ready : o->batch;
        for (uint64_t i = 0; i < n; i++) {
            copy_record(record, shmq_consumer_slot(&in, in.read + i), o->size);
            memcpy(&number, record, sizeof number);
            wrong += number != expected++;
        }
        in.read += n;
        shmq_consumer_release(&in, n);
    }
    atomic_store_explicit(&control->wrong, wrong, memory_order_release);
}

static ref_result stream_parent(const ref_options *o, ref_control *control, uint8_t *shared)
{
    (void)control;
    shmq_producer out;
    ref_result result = {0};
    uint64_t number = 0, before = 0;
    int64_t now, from = 0;
    uint32_t spins = 0;
    uint8_t record[o->size];
    memset(record, 0x5a, sizeof record);
    if (shmq_producer_bind(&out, shared, ref_ring_space(o, o->size)) != SHMQ_OK)
        ref_die("the ring cannot be bound");
    ref_clock clock = ref_clock_start(o);
    uint64_t look = 0, every = look_every(o);
    for (;;) {
        if (number >= look) {
            /* what the consumer has released counts, not what lies in the ring */
            uint64_t done = atomic_load_explicit(&out.ring->head, memory_order_acquire);
            look = number + every;
            now = shmq_now_ns();
            if (!from && now >= clock.from)
                from = now, before = done;
            if (now >= clock.until || (clock.limit && done - before >= clock.limit)) {
                result.operations = done - before;
                result.ns = now - from;
                break;
            }
            ref_check_child();
        }
        int64_t room = shmq_producer_room(&out, o->batch);
        if (room < (int64_t)o->batch) { /* whole batches only: small ones would make both ends fight for the cursors */
            ref_idle(o, &spins);
            continue;
        }
        for (uint64_t i = 0; i < o->batch; i++, number++) {
            memcpy(record, &number, sizeof number);
            copy_record(shmq_producer_slot(&out, i), record, o->size);
        }
        shmq_producer_publish(&out, o->batch);
    }
    result.checked = number;
    return result;
}

const ref_mode ref_stream = {"stream", stream_bytes, stream_init, stream_child, stream_parent};
