/* export.c - see export.h. */
#include "shmq/native/export.h"

#include "shmq/native/channel.h"
#include "shmq/native/fifo.h"
#include "shmq/native/lock.h"
#include "shmq/native/ring.h"
#include "shmq/native/segment.h"
#include "shmq/native/stream.h"

#define AT(type, address) ((type *)(intptr_t)(address))
#define ADDRESS(pointer) ((int64_t)(intptr_t)(pointer))

int64_t shmq_x_now_ns(void)
{
    return shmq_now_ns();
}

int64_t shmq_x_sched_yield(void)
{
    return sched_yield();
}

int64_t shmq_x_relax(void)
{
    shmq_relax();
    return 0;
}

int64_t shmq_x_memcmp(int64_t a, int64_t b, int64_t n)
{
    return memcmp(AT(void, a), AT(void, b), (size_t)n);
}

int64_t shmq_x_memcpy(int64_t to, int64_t from, int64_t n)
{
    memcpy(AT(void, to), AT(void, from), (size_t)n);
    return n;
}

int64_t shmq_x_self_token(void)
{
    return (int64_t)shmq_self_token();
}

int64_t shmq_x_token_alive(int64_t token)
{
    return shmq_token_alive((uint64_t)token);
}

#define SIZEOF(what, type)                                                                                             \
    int64_t shmq_x_sizeof_##what(void)                                                                                 \
    {                                                                                                                  \
        return sizeof(type);                                                                                           \
    }
SIZEOF(ring, shmq_ring)
SIZEOF(producer, shmq_producer)
SIZEOF(consumer, shmq_consumer)
SIZEOF(cell, shmq_cell)
SIZEOF(channel, shmq_channel)
SIZEOF(message, shmq_message)
SIZEOF(fifo, shmq_fifo)
SIZEOF(fifo_end, shmq_fifo_end)
SIZEOF(fifo_ahead, shmq_fifo_ahead)
SIZEOF(stream, shmq_stream)
SIZEOF(spinlock, shmq_spinlock)
SIZEOF(rwlock, shmq_rwlock)
SIZEOF(rwholder, shmq_rwholder)
SIZEOF(segment, shmq_segment)

/* ---- ring: geometry ---- */

int64_t shmq_x_ring_bytes(int64_t capacity, int64_t slot_size)
{
    return capacity > 0 && slot_size > 0 ? (int64_t)shmq_ring_bytes((uint64_t)capacity, (uint64_t)slot_size) : 0;
}

int64_t shmq_x_ring_init(int64_t at, int64_t capacity, int64_t slot_size)
{
    if (capacity <= 0 || slot_size <= 0)
        return SHMQ_INVALID;
    return shmq_ring_init(AT(void, at), (uint64_t)capacity, (uint64_t)slot_size);
}

int64_t shmq_x_ring_valid(int64_t at, int64_t space)
{
    return space > 0 && shmq_ring_valid(AT(void, at), (uint64_t)space);
}

int64_t shmq_x_producer_bind(int64_t p, int64_t at, int64_t space)
{
    return shmq_producer_bind(AT(shmq_producer, p), AT(void, at), (uint64_t)space);
}

int64_t shmq_x_consumer_bind(int64_t c, int64_t at, int64_t space)
{
    return shmq_consumer_bind(AT(shmq_consumer, c), AT(void, at), (uint64_t)space);
}

int64_t shmq_x_producer_set_efd(int64_t p, int64_t efd)
{
    AT(shmq_producer, p)->efd = (int32_t)efd;
    return 0;
}

int64_t shmq_x_consumer_set_efd(int64_t c, int64_t efd)
{
    AT(shmq_consumer, c)->efd = (int32_t)efd;
    return 0;
}

/* ---- ring: producer ---- */

int64_t shmq_x_room(int64_t p, int64_t want)
{
    return shmq_producer_room(AT(shmq_producer, p), (uint64_t)want);
}

int64_t shmq_x_slot(int64_t p, int64_t i)
{
    return ADDRESS(shmq_producer_slot(AT(shmq_producer, p), (uint64_t)i));
}

int64_t shmq_x_publish(int64_t p, int64_t n)
{
    shmq_producer_publish(AT(shmq_producer, p), (uint64_t)n);
    return 0;
}

int64_t shmq_x_push(int64_t p, int64_t record)
{
    return shmq_ring_push(AT(shmq_producer, p), AT(void, record));
}

int64_t shmq_x_push_n(int64_t p, int64_t records, int64_t n)
{
    return shmq_ring_push_n(AT(shmq_producer, p), AT(void, records), (uint64_t)n);
}

int64_t shmq_x_wake_consumer(int64_t p)
{
    return shmq_ring_wake_consumer(AT(shmq_producer, p));
}

int64_t shmq_x_tail(int64_t p)
{
    return (int64_t)AT(shmq_producer, p)->tail;
}

int64_t shmq_x_producer_announce(int64_t p, int64_t how)
{
    shmq_cell_announce(&AT(shmq_producer, p)->ring->producer_cell, (uint32_t)how);
    return 0;
}

int64_t shmq_x_producer_sleep(int64_t p, int64_t timeout_ns)
{
    return shmq_cell_sleep(&AT(shmq_producer, p)->ring->producer_cell, timeout_ns);
}

int64_t shmq_x_producer_clear(int64_t p)
{
    shmq_cell_clear(&AT(shmq_producer, p)->ring->producer_cell);
    return 0;
}

/* ---- ring: consumer ---- */

int64_t shmq_x_ready(int64_t c, int64_t want)
{
    return shmq_consumer_ready(AT(shmq_consumer, c), (uint64_t)want);
}

int64_t shmq_x_peek(int64_t c, int64_t pos)
{
    return ADDRESS(shmq_consumer_slot(AT(shmq_consumer, c), (uint64_t)pos));
}

int64_t shmq_x_release(int64_t c, int64_t n)
{
    shmq_consumer_release(AT(shmq_consumer, c), (uint64_t)n);
    return 0;
}

int64_t shmq_x_pop(int64_t c, int64_t record)
{
    return shmq_ring_pop(AT(shmq_consumer, c), AT(void, record));
}

int64_t shmq_x_pop_n(int64_t c, int64_t records, int64_t n)
{
    return shmq_ring_pop_n(AT(shmq_consumer, c), AT(void, records), (uint64_t)n);
}

int64_t shmq_x_wake_producer(int64_t c)
{
    return shmq_ring_wake_producer(AT(shmq_consumer, c));
}

int64_t shmq_x_head(int64_t c)
{
    return (int64_t)AT(shmq_consumer, c)->head;
}

int64_t shmq_x_read(int64_t c)
{
    return (int64_t)AT(shmq_consumer, c)->read;
}

/* Hand slots out up to `pos`, or back again: head <= pos <= the tail last seen, else SHMQ_INVALID. */
int64_t shmq_x_set_read(int64_t c, int64_t pos)
{
    shmq_consumer *consumer = AT(shmq_consumer, c);
    if ((uint64_t)pos - consumer->head > consumer->tail_cache - consumer->head)
        return SHMQ_INVALID;
    consumer->read = (uint64_t)pos;
    return SHMQ_OK;
}

int64_t shmq_x_consumer_announce(int64_t c, int64_t how)
{
    shmq_cell_announce(&AT(shmq_consumer, c)->ring->consumer_cell, (uint32_t)how);
    return 0;
}

int64_t shmq_x_consumer_sleep(int64_t c, int64_t timeout_ns)
{
    return shmq_cell_sleep(&AT(shmq_consumer, c)->ring->consumer_cell, timeout_ns);
}

int64_t shmq_x_consumer_clear(int64_t c)
{
    shmq_cell_clear(&AT(shmq_consumer, c)->ring->consumer_cell);
    return 0;
}

/* ---- channel ---- */

int64_t shmq_x_channel_bytes(int64_t capacity)
{
    return capacity > 0 ? (int64_t)shmq_channel_bytes((uint64_t)capacity) : 0;
}

int64_t shmq_x_channel_init(int64_t at, int64_t capacity)
{
    return capacity > 0 ? shmq_channel_init(AT(void, at), (uint64_t)capacity) : SHMQ_INVALID;
}

int64_t shmq_x_channel_valid(int64_t at, int64_t space)
{
    return space > 0 && shmq_channel_valid(AT(void, at), (uint64_t)space);
}

int64_t shmq_x_channel_producer_bind(int64_t p, int64_t at, int64_t space)
{
    return shmq_channel_producer_bind(AT(shmq_producer, p), AT(void, at), (uint64_t)space);
}

int64_t shmq_x_channel_consumer_bind(int64_t c, int64_t at, int64_t space)
{
    return shmq_channel_consumer_bind(AT(shmq_consumer, c), AT(void, at), (uint64_t)space);
}

int64_t shmq_x_channel_push(int64_t p, int64_t data, int64_t length)
{
    return shmq_channel_push(AT(shmq_producer, p), AT(void, data), (uint64_t)length);
}

int64_t shmq_x_channel_reserve(int64_t p, int64_t ahead, int64_t length, int64_t m)
{
    return shmq_channel_reserve(AT(shmq_producer, p), (uint64_t)ahead, (uint64_t)length, AT(shmq_message, m));
}

int64_t shmq_x_channel_seal(int64_t p, int64_t ahead, int64_t m, int64_t length)
{
    return (int64_t)shmq_channel_seal(AT(shmq_producer, p), (uint64_t)ahead, AT(shmq_message, m), (uint64_t)length);
}

int64_t shmq_x_channel_publish(int64_t p, int64_t span, int64_t messages)
{
    shmq_channel_publish(AT(shmq_producer, p), (uint64_t)span, (uint64_t)messages);
    return 0;
}

int64_t shmq_x_channel_look(int64_t c, int64_t m)
{
    return shmq_channel_look(AT(shmq_consumer, c), AT(shmq_message, m));
}

int64_t shmq_x_channel_take(int64_t c, int64_t m)
{
    shmq_channel_take(AT(shmq_consumer, c), AT(shmq_message, m));
    return 0;
}

int64_t shmq_x_channel_release(int64_t c, int64_t span, int64_t messages)
{
    shmq_channel_release(AT(shmq_consumer, c), (uint64_t)span, (uint64_t)messages);
    return 0;
}

int64_t shmq_x_channel_pop(int64_t c, int64_t to, int64_t room)
{
    return shmq_channel_pop(AT(shmq_consumer, c), AT(void, to), (uint64_t)room);
}

int64_t shmq_x_message_payload(int64_t m)
{
    return ADDRESS(AT(shmq_message, m)->payload);
}

int64_t shmq_x_message_length(int64_t m)
{
    return (int64_t)AT(shmq_message, m)->length;
}

int64_t shmq_x_message_span(int64_t m)
{
    return (int64_t)AT(shmq_message, m)->span;
}

/* ---- byte fifo ---- */

int64_t shmq_x_fifo_reset(int64_t fifo)
{
    shmq_fifo_reset(AT(shmq_fifo, fifo));
    return 0;
}

int64_t shmq_x_fifo_bind(int64_t e, int64_t fifo, int64_t data, int64_t size)
{
    if (size <= 0 || !shmq_is_pow2((uint64_t)size))
        return SHMQ_INVALID;
    shmq_fifo_bind(AT(shmq_fifo_end, e), AT(shmq_fifo, fifo), AT(void, data), (uint64_t)size);
    return SHMQ_OK;
}

int64_t shmq_x_fifo_resume(int64_t e, int64_t writer)
{
    shmq_fifo_resume(AT(shmq_fifo_end, e), writer != 0);
    return 0;
}

int64_t shmq_x_fifo_pos(int64_t e)
{
    return (int64_t)AT(shmq_fifo_end, e)->pos;
}

int64_t shmq_x_fifo_room(int64_t w, int64_t want)
{
    return (int64_t)shmq_fifo_room(AT(shmq_fifo_end, w), (uint64_t)want);
}

int64_t shmq_x_fifo_write(int64_t w, int64_t from, int64_t n)
{
    return (int64_t)shmq_fifo_write(AT(shmq_fifo_end, w), AT(void, from), (uint64_t)n);
}

/* `ahead`: zeroed memory of shmq_x_sizeof_fifo_ahead bytes, private to the writer. */
int64_t shmq_x_fifo_write_at(int64_t w, int64_t ahead, int64_t offset, int64_t from, int64_t n)
{
    return shmq_fifo_write_at(AT(shmq_fifo_end, w), AT(shmq_fifo_ahead, ahead), (uint64_t)offset, AT(void, from),
                              (uint64_t)n);
}

int64_t shmq_x_fifo_held(int64_t ahead)
{
    return (int64_t)shmq_fifo_held(AT(shmq_fifo_ahead, ahead));
}

int64_t shmq_x_fifo_set_event(int64_t w)
{
    return shmq_fifo_set_event(AT(shmq_fifo_end, w));
}

int64_t shmq_x_fifo_want(int64_t w, int64_t want)
{
    return shmq_fifo_want(AT(shmq_fifo_end, w), (uint64_t)want);
}

int64_t shmq_x_fifo_avail(int64_t r, int64_t want)
{
    return (int64_t)shmq_fifo_avail(AT(shmq_fifo_end, r), (uint64_t)want);
}

int64_t shmq_x_fifo_clear_event(int64_t r)
{
    shmq_fifo_clear_event(AT(shmq_fifo_end, r));
    return 0;
}

int64_t shmq_x_fifo_peek(int64_t r, int64_t off, int64_t to, int64_t n)
{
    return (int64_t)shmq_fifo_peek(AT(shmq_fifo_end, r), (uint64_t)off, AT(void, to), (uint64_t)n);
}

int64_t shmq_x_fifo_skip(int64_t r, int64_t n)
{
    shmq_fifo_skip(AT(shmq_fifo_end, r), (uint64_t)n);
    return 0;
}

int64_t shmq_x_fifo_read(int64_t r, int64_t to, int64_t n)
{
    return (int64_t)shmq_fifo_read(AT(shmq_fifo_end, r), AT(void, to), (uint64_t)n);
}

int64_t shmq_x_fifo_wanted(int64_t r)
{
    return shmq_fifo_wanted(AT(shmq_fifo_end, r));
}

/* Length of the common start of two blocks of n bytes. */
static uint64_t equal_bytes(const uint8_t *a, const uint8_t *b, uint64_t n)
{
    if (memcmp(a, b, n) == 0)
        return n;
    uint64_t i = 0;
    while (a[i] == b[i] && i + 1 < n) /* the peer may have changed its bytes since: stay inside */
        i++;
    return i;
}

/* Compare the first n readable bytes with expect, without copying or consuming them: how many
 * leading ones are equal. Fewer readable bytes than n count as a difference behind the last. */
int64_t shmq_x_fifo_verify(int64_t r, int64_t expect, int64_t n)
{
    shmq_fifo_end *end = AT(shmq_fifo_end, r);
    const uint8_t *want = AT(const uint8_t, expect), *from = NULL;
    uint64_t total = (uint64_t)n, avail = shmq_fifo_avail(end, total), done = 0;
    while (done < total) {
        uint64_t span = shmq_fifo_span(end, done, avail, &from);
        if (span > total - done)
            span = total - done;
        uint64_t same = span ? equal_bytes(from, want + done, span) : 0;
        done += same;
        if (!span || same < span)
            break;
    }
    return (int64_t)done;
}
