/* abi.h - the one definition of every record that two processes share.
 *
 * Promise: a record is written down once, as a list of fields; the C struct and the description
 * from which abi.py builds the numpy dtype are both generated from that list, so the two
 * languages cannot drift. Each field names its writer: `core`, `worker` (the app worker the record
 * belongs to) or `once` (whoever lays out the segment, before anybody else maps it). A test holds
 * the code to it.
 *
 * All integers are signed: in a kernel int32 widens to int64 and unsigned 64-bit values would turn
 * sums into floats. Cursors (unsigned, free-running) live in shmq's own headers.
 *
 * The stack's segment, in this order, each part on a line of its own:
 *
 *   shmq_segment | sc_stack | sc_telemetry | sc_worker[] | sc_listener[] | sc_session[] |
 *   rings: core->worker and worker->core for each worker, accept ring for each listener |
 *   fifos: rx header, tx header, rx bytes, tx bytes for each session | app area (shared vls table)
 */
#ifndef STACKCORE_ABI_H
#define STACKCORE_ABI_H

#include "shmq/native/fifo.h"
#include "shmq/native/lock.h"
#include "shmq/native/ring.h"
#include "shmq/native/segment.h"

#define SC_ABI_VERSION 1
#define SC_MAX_WORKERS 62 /* one reader bit each in a read-write lock's word */
#define SC_MAX_LISTENERS 16
#define SC_NODES 8
#define SC_TCP_COUNTERS 64
#define SC_TCP_REASONS 32
#define SC_LATENCY_BUCKETS 1920 /* 32 linear steps per power of two up to 2^63 ns, see telemetry.py */

/* Constants that Python needs too: name and value once. */
#define SC_CONSTANTS(C)                                                                                        \
    /* events, core -> worker */                                                                               \
    C(EV_ACCEPTED, 1)      /* a new session for this worker; arg: listener */                                  \
    C(EV_RX, 2)            /* bytes in the rx fifo */                                                          \
    C(EV_TX_ROOM, 3)       /* the tx fifo has the room that was wanted */                                      \
    C(EV_DISCONNECTED, 4)  /* the peer sends no more */                                                        \
    C(EV_RESET, 5)         /* the session is gone */                                                           \
    C(EV_ACCEPT_READY, 6)  /* look at the shared accept ring; arg: listener, session: -1 */                    \
    /* events, worker -> core */                                                                               \
    C(EV_LISTEN, 16)         /* arg: port; answered in the reply cell with the listener's index */             \
    C(EV_UNLISTEN, 17)       /* arg: listener; answered */                                                     \
    C(EV_POLL, 18)           /* this worker polls a shared listener; arg: listener */                          \
    C(EV_UNPOLL, 19)         /* ... and no longer does */                                                      \
    C(EV_ACCEPTED_REPLY, 20) /* the app accepted the session */                                                \
    C(EV_TX, 21)             /* bytes in the tx fifo */                                                        \
    C(EV_RX_ROOM, 22)        /* the rx fifo has the room that was wanted */                                    \
    C(EV_CLOSE, 23)          /* the app closed the session */                                                  \
    /* sc_worker.state */                                                                                      \
    C(WORKER_FREE, 0) C(WORKER_ATTACHED, 1) C(WORKER_DEAD, 2)                                                  \
    /* sc_session.state, core's view */                                                                        \
    C(SESSION_FREE, 0) C(SESSION_OPEN, 1) C(SESSION_PEER_CLOSED, 2) C(SESSION_RESET, 3) C(SESSION_APP_CLOSED, 4) \
    /* sc_session.seen_as: what became of the event seen_seq */                                                \
    C(SEEN_DELIVERED, 1) C(SEEN_STALE, 2)                                                                      \
    /* sc_listener.sharing */                                                                                  \
    C(LISTEN_PER_WORKER, 0) /* accepts go straight to a registered worker */                                   \
    C(LISTEN_SHARED, 1)     /* accepts go through the listener's ring, owner comes with ACCEPTED_REPLY */      \
    /* sc_telemetry.phase */                                                                                   \
    C(PHASE_STARTING, 0) C(PHASE_SERVING, 1) C(PHASE_WARMUP, 2) C(PHASE_MEASURE, 3) C(PHASE_DRAIN, 4)          \
    C(PHASE_DONE, 5) C(PHASE_STOPPED, 6)

enum {
#define SC_C(name, value) SC_##name = value,
    SC_CONSTANTS(SC_C)
#undef SC_C
};

/* F(type, name, writer, meaning), A(type, name, count, writer, meaning) */

#define SC_EVENT_FIELDS(F, A)                                                                                  \
    F(int64_t, pos, sender, "ring position of the slot: tells a reused slot from the referenced one")          \
    F(int32_t, session, sender, "session index, -1 where the event is about none")                             \
    F(int32_t, generation, sender, "generation of that session")                                               \
    F(int32_t, seq, sender, "1, 2, 3 ... per session and direction core->worker; 0 from workers")              \
    F(int32_t, check, sender, "hash over the other fields but pos")                                            \
    F(int16_t, type, sender, "EV_*")                                                                           \
    F(int16_t, worker, sender, "worker the event goes to or comes from")                                       \
    F(int32_t, arg, sender, "see EV_*")

#define SC_STACK_FIELDS(F, A)                                                                                  \
    F(int32_t, version, once, "SC_ABI_VERSION")                                                                \
    F(int32_t, workers, once, "worker records, rings and cells")                                               \
    F(int32_t, listeners, once, "listener records")                                                            \
    F(int32_t, sessions, once, "session records and fifo pairs")                                               \
    F(int32_t, ring_slots, once, "slots of a worker ring, a power of two")                                     \
    F(int32_t, fifo_size, once, "bytes of one fifo, a power of two")                                           \
    F(int64_t, size, once, "bytes of the whole segment")                                                       \
    F(int64_t, telemetry_at, once, "offsets from the start of the segment")                                    \
    F(int64_t, workers_at, once, "")                                                                           \
    F(int64_t, listeners_at, once, "")                                                                         \
    F(int64_t, sessions_at, once, "")                                                                          \
    F(int64_t, rings_at, once, "worker i: core->worker at rings_at + 2*i*ring_stride, worker->core after it")  \
    F(int64_t, ring_stride, once, "bytes of one worker ring")                                                  \
    F(int64_t, accept_at, once, "accept ring of listener i at accept_at + i*accept_stride")                    \
    F(int64_t, accept_stride, once, "")                                                                        \
    F(int64_t, fifos_at, once, "session i at fifos_at + i*fifo_stride")                                        \
    F(int64_t, fifo_stride, once, "")                                                                          \
    F(int64_t, app_at, once, "memory that the app side lays out itself (shared vls table)")                    \
    F(int64_t, app_size, once, "")

#define SC_TELEMETRY_FIELDS(F, A)                                                                              \
    F(int64_t, heartbeat_ns, core, "monotonic time of the last dispatch or park")                              \
    F(int32_t, phase, core, "PHASE_*")                                                                         \
    F(int32_t, core_pid, core, "")                                                                             \
    F(int64_t, dispatches, core, "dispatch cycles that did something")                                         \
    F(int64_t, idle_dispatches, core, "dispatch cycles that found nothing")                                    \
    F(int64_t, vectors, core, "items handled by all nodes in those")                                           \
    F(int64_t, parks, core, "times the core went to sleep")                                                    \
    F(int64_t, measure_start_ns, core, "")                                                                     \
    F(int64_t, measure_end_ns, core, "")                                                                       \
    F(int64_t, requests, core, "replies verified while measuring")                                             \
    F(int64_t, reply_bytes, core, "bytes of those")                                                            \
    F(int64_t, connects, core, "sessions opened")                                                              \
    F(int64_t, refused, core, "connects without a listener, a worker or a free session")                       \
    F(int64_t, closes, core, "sessions freed")                                                                 \
    F(int64_t, resets, core, "sessions reset: dead worker, timeout, wrong reply")                              \
    F(int64_t, timeouts, core, "requests unanswered for a second, connection replaced")                        \
    F(int64_t, corrupt, core, "replies that differ from what was expected")                                    \
    F(int64_t, unserved, core, "connections no worker had accepted at the end")                                \
    F(int64_t, lost, core, "events that were consumed or dropped without being delivered")                     \
    F(int64_t, dropped, core, "events not sent because the ring was full (--ring-full drop)")                  \
    F(int64_t, events, core, "events put into worker rings")                                                   \
    F(int64_t, invalid, core, "events from workers that failed a check")                                       \
    F(int64_t, worker_deaths, core, "")                                                                        \
    F(int64_t, open_sessions, core, "")                                                                        \
    F(int64_t, latency_max_ns, core, "")                                                                       \
    A(int64_t, node_calls, SC_NODES, core, "per node: cycles with work")                                       \
    A(int64_t, node_vectors, SC_NODES, core, "per node: items")                                                \
    A(int64_t, node_ns, SC_NODES, core, "per node: time in cycles with work")                                  \
    A(int64_t, latency, SC_LATENCY_BUCKETS, core, "requests per latency bucket")                               \
    A(int64_t, tcp, SC_TCP_COUNTERS, core, "STATISTICS of stackcore.tcp.state")                                \
    A(int64_t, tcp_dropped, SC_TCP_REASONS, core, "dropped segments by reason, REASONS of the same")           \
    A(int64_t, rxt_queue, SC_LATENCY_BUCKETS, core, "retransmit queue entries per bucket of waiting time")     \
    A(int64_t, close_to_free, SC_LATENCY_BUCKETS, core, "connections per bucket of time from app close to free")

#define SC_WORKER_FIELDS(F, A)                                                                                 \
    F(int32_t, state, core, "WORKER_*")                                                                        \
    F(int32_t, pid, core, "as the kernel told over the control socket")                                        \
    F(int32_t, generation, core, "counts attaches to this record")                                             \
    F(int32_t, congested, core, "its ring was full; accepts go elsewhere (--ring-full congest)")               \
    F(int64_t, sent, core, "events put into its ring")                                                         \
    F(int64_t, reply, core, "answer of the last request, see reply_seq")                                       \
    F(int32_t, reply_seq, core, "published with release after reply; counts answers")                          \
    F(int32_t, pad0, once, "")                                                                                 \
    A(int64_t, pad1, 11, once, "the worker's part starts on its own line")                                     \
    F(int64_t, accepted, worker, "sessions accepted by the app")                                               \
    F(int64_t, requests, worker, "requests answered, as the workload counts them")                             \
    F(int64_t, rx_bytes, worker, "")                                                                           \
    F(int64_t, tx_bytes, worker, "")                                                                           \
    F(int64_t, delivered, worker, "events delivered to the app as meant")                                      \
    F(int64_t, late, worker, "events of sessions that the app had closed already")                             \
    F(int64_t, stale, worker, "references whose slot held another event by then")                              \
    F(int64_t, misdelivered, worker, "events of no session of this worker")                                    \
    F(int64_t, duplicate, worker, "events with a sequence number seen before")                                 \
    F(int64_t, gaps, worker, "events skipped in a session's sequence")                                         \
    F(int64_t, spurious, worker, "accepts that found nothing")                                                 \
    F(int64_t, waits, worker, "calls of epoll_wait")                                                           \
    F(int64_t, parks, worker, "times it slept in one")                                                         \
    F(int64_t, harvests, worker, "epoll_waits that returned events")                                           \
    F(int64_t, harvest_ns, worker, "time spent turning ring slots into epoll events")                          \
    F(int64_t, growth_copies, worker, "references copied when an event vector grew")                           \
    F(int64_t, vector_bytes, worker, "memory of the event vectors")                                            \
    F(int64_t, vector_high_water, worker, "most references waiting at once")                                   \
    F(int64_t, ring_high_water, worker, "most slots of its ring in use at once")                               \
    F(int64_t, consumed, worker, "ring slots given back")                                                      \
    F(int64_t, lock_acquires, worker, "")                                                                      \
    F(int64_t, lock_contended, worker, "")                                                                     \
    F(int64_t, lock_wait_ns, worker, "")                                                                       \
    F(int64_t, owner_deaths, worker, "locks found in the hands of a dead process")

#define SC_LISTENER_FIELDS(F, A)                                                                               \
    F(int32_t, port, core, "0: unused")                                                                        \
    F(int32_t, sharing, core, "LISTEN_*")                                                                      \
    F(int64_t, listening, core, "bit i: worker i registered this listener")                                    \
    F(int64_t, polling, core, "bit i: worker i polls it (LISTEN_SHARED)")                                      \
    F(int32_t, rotor, core, "last worker chosen or rung")                                                      \
    F(int32_t, owed, core, "connections in the accept ring that nobody was rung for (LISTEN_SHARED)")

#define SC_SESSION_FIELDS(F, A)                                                                                \
    F(int32_t, state, core, "SESSION_*")                                                                       \
    F(int32_t, generation, core, "")                                                                           \
    F(int32_t, owner, core, "worker, -1: not accepted yet")                                                    \
    F(int32_t, listener, core, "")                                                                             \
    F(int32_t, seq, core, "sequence number of the last event sent")                                            \
    F(int32_t, peer_port, core, "")                                                                            \
    F(int64_t, peer_addr, core, "IPv4 in host order")                                                          \
    A(int64_t, pad0, 12, once, "the worker's part starts on its own line")                                     \
    F(int32_t, seen_generation, worker, "oracle: session generation of the event below")                       \
    F(int32_t, seen_seq, worker, "oracle: last event that was accounted for")                                  \
    F(int32_t, seen_as, worker, "oracle: SEEN_*")                                                              \
    F(int32_t, pad1, once, "")

/* What a listener's accept ring carries. */
#define SC_PENDING_FIELDS(F, A)                                                                                \
    F(int32_t, session, core, "")                                                                              \
    F(int32_t, generation, core, "")                                                                           \
    F(int32_t, seq, core, "events sent for it so far")                                                         \
    F(int32_t, listener, core, "")

/* What vls_epoll_wait fills; private to a process, described here because kernels read it. */
#define SC_EPOLL_EVENT_FIELDS(F, A)                                                                            \
    F(int32_t, events, worker, "EPOLLIN, EPOLLOUT ... as in sys/epoll.h")                                      \
    F(int32_t, fd, worker, "")                                                                                 \
    F(int64_t, data, worker, "what epoll_ctl was given")

#define SC_RECORDS(R)                                                                                          \
    R(sc_event, SC_EVENT_FIELDS)                                                                               \
    R(sc_stack, SC_STACK_FIELDS)                                                                               \
    R(sc_telemetry, SC_TELEMETRY_FIELDS)                                                                       \
    R(sc_worker, SC_WORKER_FIELDS)                                                                             \
    R(sc_listener, SC_LISTENER_FIELDS)                                                                         \
    R(sc_session, SC_SESSION_FIELDS)                                                                           \
    R(sc_pending, SC_PENDING_FIELDS)                                                                           \
    R(sc_epoll_event, SC_EPOLL_EVENT_FIELDS)

#define SC_F(type, name, writer, meaning) type name;
#define SC_A(type, name, count, writer, meaning) type name[count];
#define SC_R(record, fields) typedef struct record { fields(SC_F, SC_A) } record;
SC_RECORDS(SC_R)
#undef SC_R
#undef SC_A
#undef SC_F

static_assert(sizeof(sc_event) == 32, "an event is half a cache line");
static_assert(offsetof(sc_worker, accepted) % SHMQ_LINE == 0, "core's and worker's fields on different lines");
static_assert(offsetof(sc_session, seen_generation) % SHMQ_LINE == 0, "core's and worker's fields on different lines");
static_assert(sizeof(sc_pending) == 16 && sizeof(sc_epoll_event) == 16, "no padding");

/* Records of an array are this far apart, so that two owners never share a line. */
#define SC_STRIDE(record) ((sizeof(record) + SHMQ_LINE - 1) / SHMQ_LINE * SHMQ_LINE)

/* Single fields that cross processes outside rings and fifos go through these. */
#define SC_LOAD(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define SC_STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)
#define SC_LOAD_ACQUIRE(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define SC_STORE_RELEASE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

static inline int32_t sc_event_check(const sc_event *e)
{
    uint32_t h = (uint32_t)e->session * 0x9e3779b1u;
    h = (h ^ (uint32_t)e->generation) * 0x85ebca77u;
    h = (h ^ (uint32_t)e->seq) * 0xc2b2ae3du;
    h = (h ^ ((uint32_t)(uint16_t)e->type << 16 | (uint16_t)e->worker)) * 0x27d4eb2fu;
    return (int32_t)(h ^ (uint32_t)e->arg ^ h >> 15);
}

/* Write one event into the slot after `unpublished` others; shmq_producer_publish makes them visible together, so
 * that a polling consumer takes the line of the cursor once for all of them. SHMQ_OK, SHMQ_FULL or SHMQ_CORRUPT. */
static inline int sc_event_put(shmq_producer *p, uint64_t unpublished, int type, int worker, int32_t session, int32_t generation, int32_t seq, int32_t arg)
{
    int64_t room = shmq_producer_room(p, unpublished + 1);
    if (room < 0)
        return (int)room;
    if ((uint64_t)room <= unpublished)
        return SHMQ_FULL;
    sc_event *e = shmq_producer_slot(p, unpublished);
    e->pos = (int64_t)(p->tail + unpublished);
    e->session = session;
    e->generation = generation;
    e->seq = seq;
    e->type = (int16_t)type;
    e->worker = (int16_t)worker;
    e->arg = arg;
    e->check = sc_event_check(e);
    return SHMQ_OK;
}

/* The parts of a mapped segment. */
static inline sc_stack *sc_stack_at(void *base)
{
    return (sc_stack *)((uint8_t *)base + sizeof(shmq_segment));
}

/* Where the core sleeps: right behind the stack record, on its own line. */
static inline shmq_cell *sc_core_cell(void *base)
{
    return (shmq_cell *)((uint8_t *)base + sizeof(shmq_segment) + SC_STRIDE(sc_stack));
}

static inline sc_worker *sc_worker_at(void *base, const sc_stack *s, int i)
{
    return (sc_worker *)((uint8_t *)base + s->workers_at + (int64_t)i * (int64_t)SC_STRIDE(sc_worker));
}

static inline sc_listener *sc_listener_at(void *base, const sc_stack *s, int i)
{
    return (sc_listener *)((uint8_t *)base + s->listeners_at + (int64_t)i * (int64_t)SC_STRIDE(sc_listener));
}

static inline sc_session *sc_session_at(void *base, const sc_stack *s, int i)
{
    return (sc_session *)((uint8_t *)base + s->sessions_at + (int64_t)i * (int64_t)SC_STRIDE(sc_session));
}

#endif
