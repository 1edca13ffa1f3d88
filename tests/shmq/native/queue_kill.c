/* kill -9 of a producer and of a consumer of the queue at every step between two stores. A forked child kills itself at
 * its n-th step; the parent then inherits the mutexes and checks that the queue holds exactly what was published.
 * usage: queue_kill ROUNDS */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#define SHMQ_DEATH_CHECK_NS INT64_C(300000)
static void step(void);
#define SHMQ_STEP() step()

#include "shmq/native/queue.h"

#include "check.h"

#include <sys/mman.h>
#include <sys/wait.h>

enum { LINES = 8, BATCH = 4, STEPS = 60 };

typedef struct {
    uint64_t tried, done; /* calls of the child that began, that ended */
} journal;

static journal *account;
static shmq_queue_handle queue;
static int64_t steps_to_live = -1;

static void step(void)
{
    if (steps_to_live >= 0 && steps_to_live-- == 0)
        kill(getpid(), SIGKILL);
}

static void take(shmq_queue_side *side)
{
    shmq_lock_stats stats = {0};
    int rc = shmq_mutex_acquire(&side->lock, shmq_self_token(), 5000000000, &stats);
    CHECK(rc == SHMQ_OK || rc == SHMQ_OWNER_DIED);
    if (rc == SHMQ_OWNER_DIED)
        shmq_queue_mend(side);
}

static bool put(uint64_t number)
{
    shmq_queue_side *side = &queue.queue->put;
    bool spilled;
    take(side);
    int64_t lines = shmq_queue_plan(&queue, sizeof number, &spilled);
    CHECK(lines >= 0);
    if (lines) {
        shmq_queue_record record = {.kind = SHMQ_QUEUE_PLAIN, .length = sizeof number};
        shmq_queue_copy_in(&queue, shmq_queue_load(&side->cursor) * SHMQ_QUEUE_LINE + SHMQ_QUEUE_HEAD, &number, sizeof number);
        SHMQ_STEP();
        shmq_queue_put_done(&queue, &record, (uint64_t)lines);
    }
    shmq_mutex_release(&side->lock);
    return lines > 0;
}

static bool get(uint64_t *number)
{
    shmq_queue_side *side = &queue.queue->get;
    shmq_queue_record record;
    uint64_t lines;
    take(side);
    int rc = shmq_queue_look(&queue, &record, &lines);
    CHECK(rc == SHMQ_OK || rc == SHMQ_EMPTY);
    if (rc == SHMQ_OK) {
        CHECK(record.length == sizeof *number);
        shmq_queue_copy_out(&queue, shmq_queue_load(&side->cursor) * SHMQ_QUEUE_LINE + SHMQ_QUEUE_HEAD, number, sizeof *number);
        SHMQ_STEP();
        shmq_queue_get_done(&queue, &record, lines);
    }
    shmq_mutex_release(&side->lock);
    return rc == SHMQ_OK;
}

/* Run calls in a child that dies at step n of them; false when it came to the end. */
static bool die_at(int n, bool producer, uint64_t number)
{
    account->tried = account->done = 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        steps_to_live = n;
        for (uint64_t i = 0; i < BATCH; i++) {
            uint64_t got;
            account->tried = i + 1;
            if (producer)
                CHECK(put(number + i));
            else
                CHECK(get(&got) && got == number + i);
            account->done = i + 1;
        }
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) ? WEXITSTATUS(status) == 0 : WTERMSIG(status) == SIGKILL);
    return WIFSIGNALED(status);
}

/* The first number that is still in the queue is between low and high; all from there to end follow. */
static void drain(uint64_t low, uint64_t high, uint64_t least, uint64_t most)
{
    uint64_t number, n = 0, next = 0;
    while (get(&number)) {
        CHECK(n ? number == next : number >= low && number <= high);
        next = number + 1;
        n++;
    }
    CHECK(n >= least && n <= most);
    CHECK(shmq_queue_size(&queue) == 0);
}

static bool one_death(int n, bool producer, uint64_t number)
{
    if (!producer)
        for (uint64_t i = 0; i < BATCH; i++)
            CHECK(put(number + i));
    bool died = die_at(n, producer, number);
    CHECK(account->tried - account->done <= 1);
    if (producer) {
        CHECK(put(number + 100)); /* a successor goes on behind what was published */
        uint64_t got, came = 0;
        while (get(&got) && got != number + 100) {
            CHECK(got == number + came);
            came++;
        }
        CHECK(came >= account->done && came <= account->tried);
        CHECK(shmq_queue_size(&queue) == 0);
    } else {
        drain(number + account->done, number + account->tried, BATCH - account->tried, BATCH - account->done);
    }
    return died;
}

int main(int argc, char **argv)
{
    arm_watchdog(120);
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 200, number = 0, deaths = 0;
    uint64_t space = shmq_queue_bytes(LINES);
    account = mmap(NULL, sizeof *account, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *at = mmap(NULL, space, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(account != MAP_FAILED && at != MAP_FAILED);
    CHECK(shmq_queue_init(at, LINES, 0) == SHMQ_OK && shmq_queue_bind(&queue, at, space, space) == SHMQ_OK);
    for (uint64_t i = 0; i < rounds; i++, number += 1000)
        deaths += one_death((int)(i / 2 % STEPS), i % 2, number);
    CHECK(deaths >= rounds / 3);
    puts("ok");
    return 0;
}
