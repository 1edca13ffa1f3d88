/* Two threads over one byte fifo, who tell each other only what the event flag and `want` ask for: every byte once and
 * in order, and no hang, which would be a lost notification. usage: fifo_stress BYTES */
#include "shmq/native/fifo.h"

#include "check.h"

#include <semaphore.h>

static uint64_t total, size;
static shmq_fifo *fifo;
static uint8_t *data;
static sem_t to_reader, to_writer;
static uint64_t notices; /* by the writer */

static uint8_t byte_at(uint64_t i)
{
    return (uint8_t)(i * 7 + (i >> 8));
}

static void *write_all(void *unused)
{
    (void)unused;
    shmq_fifo_end w;
    uint64_t random = 1, at = 0;
    uint8_t block[64];
    shmq_fifo_bind(&w, fifo, data, size);
    while (at < total) {
        uint64_t n = 1 + next_random(&random) % sizeof block;
        if (n > total - at)
            n = total - at;
        for (uint64_t i = 0; i < n; i++)
            block[i] = byte_at(at + i);
        uint64_t done = shmq_fifo_write(&w, block, n);
        at += done;
        if (done && shmq_fifo_set_event(&w)) {
            notices++;
            sem_post(&to_reader);
        }
        if (done < n && shmq_fifo_want(&w, 1 + next_random(&random) % size))
            sem_wait(&to_writer);
    }
    return NULL;
}

static void *read_all(void *unused)
{
    (void)unused;
    shmq_fifo_end r;
    uint64_t random = 2, at = 0;
    uint8_t block[64];
    shmq_fifo_bind(&r, fifo, data, size);
    while (at < total) {
        sem_wait(&to_reader);
        shmq_fifo_clear_event(&r);
        uint64_t avail = shmq_fifo_avail(&r, UINT64_MAX);
        CHECK(avail <= size);
        while (avail) {
            uint64_t n = 1 + next_random(&random) % sizeof block, ahead = next_random(&random) % avail;
            CHECK(shmq_fifo_peek(&r, ahead, block, 1) == 1 && block[0] == byte_at(at + ahead));
            n = shmq_fifo_read(&r, block, n < avail ? n : avail);
            CHECK(n);
            for (uint64_t i = 0; i < n; i++)
                CHECK(block[i] == byte_at(at + i));
            at += n;
            avail -= n;
            if (shmq_fifo_wanted(&r))
                sem_post(&to_writer);
        }
    }
    CHECK(shmq_fifo_avail(&r, 1) == 0);
    return NULL;
}

static void run(uint64_t bytes)
{
    size = bytes;
    fifo = lines(sizeof *fifo);
    data = malloc(size);
    notices = 0;
    shmq_fifo_reset(fifo);
    CHECK(sem_init(&to_reader, 0, 0) == 0 && sem_init(&to_writer, 0, 0) == 0);
    pthread_t one = start(write_all, NULL), two = start(read_all, NULL);
    finish(one);
    finish(two);
    CHECK(notices <= total);
    free(data);
    free(fifo);
}

int main(int argc, char **argv)
{
    arm_watchdog(120);
    total = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    for (uint64_t bytes = 1; bytes <= 4096; bytes *= 8)
        run(bytes);
    puts("ok");
    return 0;
}
