/* export.h - the headers' inline functions as plain symbols, for callers that are not C.
 *
 * Promise: every argument and result is an int64_t; pointers are passed as their integer value, so
 * that a Numba ExternalFunction or ctypes needs no other type. Each call is a thin wrapper: the contract
 * (who may call it, what it returns) is that of the function of the same name in ring.h, channel.h, fifo.h,
 * wait.h.
 * Nothing is checked that the header does not check: a wrong pointer is a crash, as in C.
 *
 * SHMQ_X_FUNCTIONS is the one list; `shmq._native.symbols` gives each name's address.
 */
#ifndef SHMQ_EXPORT_H
#define SHMQ_EXPORT_H

#include <stdint.h>

/* name, parameters */
#define SHMQ_X_FUNCTIONS(X)                                                                                            \
    X(shmq_x_now_ns, (void))                                                                                           \
    X(shmq_x_sched_yield, (void))                                                                                      \
    X(shmq_x_relax, (void))                                                                                            \
    X(shmq_x_memcmp, (int64_t a, int64_t b, int64_t n))                                                                \
    X(shmq_x_memcpy, (int64_t to, int64_t from, int64_t n))                                                            \
    X(shmq_x_self_token, (void))                                                                                       \
    X(shmq_x_token_alive, (int64_t token))                                                                             \
    X(shmq_x_sizeof_ring, (void))                                                                                      \
    X(shmq_x_sizeof_producer, (void))                                                                                  \
    X(shmq_x_sizeof_consumer, (void))                                                                                  \
    X(shmq_x_sizeof_cell, (void))                                                                                      \
    X(shmq_x_sizeof_channel, (void))                                                                                   \
    X(shmq_x_sizeof_message, (void))                                                                                   \
    X(shmq_x_sizeof_fifo, (void))                                                                                      \
    X(shmq_x_sizeof_fifo_end, (void))                                                                                  \
    X(shmq_x_sizeof_fifo_ahead, (void))                                                                                \
    X(shmq_x_sizeof_stream, (void))                                                                                    \
    X(shmq_x_sizeof_spinlock, (void))                                                                                  \
    X(shmq_x_sizeof_rwlock, (void))                                                                                    \
    X(shmq_x_sizeof_rwholder, (void))                                                                                  \
    X(shmq_x_sizeof_segment, (void))                                                                                   \
    /* ring: geometry and roles */                                                                                     \
    X(shmq_x_ring_bytes, (int64_t capacity, int64_t slot_size))                                                        \
    X(shmq_x_ring_init, (int64_t at, int64_t capacity, int64_t slot_size))                                             \
    X(shmq_x_ring_valid, (int64_t at, int64_t space))                                                                  \
    X(shmq_x_producer_bind, (int64_t p, int64_t at, int64_t space))                                                    \
    X(shmq_x_consumer_bind, (int64_t c, int64_t at, int64_t space))                                                    \
    X(shmq_x_producer_set_efd, (int64_t p, int64_t efd))                                                               \
    X(shmq_x_consumer_set_efd, (int64_t c, int64_t efd))                                                               \
    /* ring: producer */                                                                                               \
    X(shmq_x_room, (int64_t p, int64_t want))                                                                          \
    X(shmq_x_slot, (int64_t p, int64_t i))                                                                             \
    X(shmq_x_publish, (int64_t p, int64_t n))                                                                          \
    X(shmq_x_push, (int64_t p, int64_t record))                                                                        \
    X(shmq_x_push_n, (int64_t p, int64_t records, int64_t n))                                                          \
    X(shmq_x_wake_consumer, (int64_t p))                                                                               \
    X(shmq_x_tail, (int64_t p))                                                                                        \
    X(shmq_x_producer_announce, (int64_t p, int64_t how))                                                              \
    X(shmq_x_producer_sleep, (int64_t p, int64_t timeout_ns))                                                          \
    X(shmq_x_producer_clear, (int64_t p))                                                                              \
    /* ring: consumer */                                                                                               \
    X(shmq_x_ready, (int64_t c, int64_t want))                                                                         \
    X(shmq_x_peek, (int64_t c, int64_t pos))                                                                           \
    X(shmq_x_release, (int64_t c, int64_t n))                                                                          \
    X(shmq_x_pop, (int64_t c, int64_t record))                                                                         \
    X(shmq_x_pop_n, (int64_t c, int64_t records, int64_t n))                                                           \
    X(shmq_x_wake_producer, (int64_t c))                                                                               \
    X(shmq_x_head, (int64_t c))                                                                                        \
    X(shmq_x_read, (int64_t c))                                                                                        \
    X(shmq_x_set_read, (int64_t c, int64_t pos))                                                                       \
    X(shmq_x_consumer_announce, (int64_t c, int64_t how))                                                              \
    X(shmq_x_consumer_sleep, (int64_t c, int64_t timeout_ns))                                                          \
    X(shmq_x_consumer_clear, (int64_t c))                                                                              \
    /* channel */                                                                                                      \
    X(shmq_x_channel_bytes, (int64_t capacity))                                                                        \
    X(shmq_x_channel_init, (int64_t at, int64_t capacity))                                                             \
    X(shmq_x_channel_valid, (int64_t at, int64_t space))                                                               \
    X(shmq_x_channel_producer_bind, (int64_t p, int64_t at, int64_t space))                                            \
    X(shmq_x_channel_consumer_bind, (int64_t c, int64_t at, int64_t space))                                            \
    X(shmq_x_channel_push, (int64_t p, int64_t data, int64_t length))                                                  \
    X(shmq_x_channel_reserve, (int64_t p, int64_t ahead, int64_t length, int64_t m))                                   \
    X(shmq_x_channel_seal, (int64_t p, int64_t ahead, int64_t m, int64_t length))                                      \
    X(shmq_x_channel_publish, (int64_t p, int64_t span, int64_t messages))                                             \
    X(shmq_x_channel_look, (int64_t c, int64_t m))                                                                     \
    X(shmq_x_channel_take, (int64_t c, int64_t m))                                                                     \
    X(shmq_x_channel_release, (int64_t c, int64_t span, int64_t messages))                                             \
    X(shmq_x_channel_pop, (int64_t c, int64_t to, int64_t room))                                                       \
    X(shmq_x_message_payload, (int64_t m))                                                                             \
    X(shmq_x_message_length, (int64_t m))                                                                              \
    X(shmq_x_message_span, (int64_t m))                                                                                \
    /* byte fifo */                                                                                                    \
    X(shmq_x_fifo_reset, (int64_t fifo))                                                                               \
    X(shmq_x_fifo_bind, (int64_t e, int64_t fifo, int64_t data, int64_t size))                                         \
    X(shmq_x_fifo_resume, (int64_t e, int64_t writer))                                                                 \
    X(shmq_x_fifo_pos, (int64_t e))                                                                                    \
    X(shmq_x_fifo_room, (int64_t w, int64_t want))                                                                     \
    X(shmq_x_fifo_write, (int64_t w, int64_t from, int64_t n))                                                         \
    X(shmq_x_fifo_set_event, (int64_t w))                                                                              \
    X(shmq_x_fifo_want, (int64_t w, int64_t want))                                                                     \
    X(shmq_x_fifo_write_at, (int64_t w, int64_t ahead, int64_t offset, int64_t from, int64_t n))                       \
    X(shmq_x_fifo_held, (int64_t ahead))                                                                               \
    X(shmq_x_fifo_avail, (int64_t r, int64_t want))                                                                    \
    X(shmq_x_fifo_clear_event, (int64_t r))                                                                            \
    X(shmq_x_fifo_peek, (int64_t r, int64_t off, int64_t to, int64_t n))                                               \
    X(shmq_x_fifo_skip, (int64_t r, int64_t n))                                                                        \
    X(shmq_x_fifo_read, (int64_t r, int64_t to, int64_t n))                                                            \
    X(shmq_x_fifo_wanted, (int64_t r))                                                                                 \
    X(shmq_x_fifo_verify, (int64_t r, int64_t expect, int64_t n))

#define SHMQ_X_DECLARE(name, params) int64_t name params;
SHMQ_X_FUNCTIONS(SHMQ_X_DECLARE)
#undef SHMQ_X_DECLARE

#endif
