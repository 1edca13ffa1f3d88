/* ref.h - the native reference: what this machine gives to plain C over the same rings and fifos.
 *
 * Promise: two pinned processes (fork), one anonymous shared mapping (nothing appears in /dev/shm, nothing is left behind),
 * every record and every reply byte checked by its receiver, times taken inside by CLOCK_MONOTONIC after a warm-up of a
 * tenth of the duration. The parent prints one JSON object; exit status 0 only if nothing was wrong.
 *
 * Doubt: it is a floor for this design, not a proof that no faster ring exists; and on a shared host it moves by a
 * factor of up to four between seconds. It is therefore timed again in every round of a benchmark.
 */
#ifndef BENCH_NATIVE_REF_H
#define BENCH_NATIVE_REF_H

#include "shmq/native/fifo.h"
#include "shmq/native/ring.h"

typedef struct {
    double seconds;    /* of measuring, after the warm-up */
    uint64_t count;    /* stop after so many operations instead, 0: by time */
    uint32_t size;     /* bytes of a record (stream, pingpong) or of a reply's body (http) */
    uint32_t batch;    /* records, or session events, published at once */
    uint32_t capacity; /* slots of each ring */
    uint32_t clients;  /* http: closed-loop clients */
    int cpu[2];        /* parent, child */
} ref_options;

/* Between the two processes, on lines of their own. */
typedef struct {
    alignas(SHMQ_LINE) _Atomic uint32_t stop;  /* by the parent: finish what is in the ring, then exit */
    alignas(SHMQ_LINE) _Atomic uint32_t ready; /* by the child: bound and running */
    _Atomic uint64_t wrong;                    /* by the child: records that were not what they had to be */
} ref_control;

typedef struct {
    uint64_t operations; /* messages, round trips or requests within the measured time */
    uint64_t checked;    /* records or bytes that were compared */
    uint64_t wrong;
    int64_t ns; /* the measured time */
    double p50_ns; /* pingpong: median over blocks of 64 round trips; else 0 */
} ref_result;

/* One process's view of the clock: warm-up, measured time, end. Looked at every few operations only. */
typedef struct {
    int64_t start, from, until; /* the measured time is from..until */
    uint64_t limit;
} ref_clock;

/* A mode: lay out the shared memory, then run one end in each process. */
typedef struct {
    const char *name;
    uint64_t (*bytes)(const ref_options *o); /* shared bytes needed behind the control block; 0: options do not fit */
    void (*init)(const ref_options *o, uint8_t *shared);
    void (*child)(const ref_options *o, ref_control *control, uint8_t *shared);
    ref_result (*parent)(const ref_options *o, ref_control *control, uint8_t *shared);
} ref_mode;

extern const ref_mode ref_stream, ref_pingpong, ref_http;

ref_clock ref_clock_start(const ref_options *o);
void ref_die(const char *sentence) __attribute__((noreturn));
void ref_check_child(void); /* parent: ends the program when the child is gone */

/* Waiting: ends that share a CPU give it up at once, others spin for a while first. */
static inline void ref_idle(const ref_options *o, uint32_t *spins)
{
    if (o->cpu[0] == o->cpu[1] || ++*spins > 20000) {
        *spins = 0;
        sched_yield();
    } else {
        shmq_relax();
    }
}

static inline uint64_t ref_ring_space(const ref_options *o, uint32_t slot)
{
    return (shmq_ring_bytes(o->capacity, slot) + SHMQ_LINE - 1) & ~(uint64_t)(SHMQ_LINE - 1);
}

#endif
